//! Every pair of NAT kinds: how the link comes up.
//!
//! Enters: a run. Leaves: for each pair what each repetition saw. Never does: use a topology twice.

use landbridge::lab::nat::Kind;
use landbridge::lab::nat::coming_up::{ComingUp, come_up};
use landbridge::lab::nat::scene::{Options, Scene};
use serde::Serialize;

use super::{PATIENCE, Run};
use crate::throughput::statistics::Spread;

/// One repetition of one row.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    pub(super) tier: Option<String>,
    pub(super) first_packet_ms: Option<f64>,
    pub(super) direct_ms: Option<f64>,
    /// Datagrams lost between the first that arrived and the end, and how many there were.
    pub(super) lost: u64,
    pub(super) sent: u64,
    pub(super) longest_gap_ms: f64,
    /// What went wrong, where something did.
    pub(super) error: Option<String>,
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) samples: Vec<Sample>,
}

impl Sample {
    pub(super) fn of(seen: anyhow::Result<ComingUp>) -> anyhow::Result<Self> {
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        let none = Self {
            tier: None,
            first_packet_ms: None,
            direct_ms: None,
            lost: 0,
            sent: 0,
            longest_gap_ms: 0.0,
            error: None,
        };
        Ok(match seen {
            Ok(seen) => Self {
                tier: seen.tier().map(str::to_owned),
                first_packet_ms: seen.first_packet.map(ms),
                direct_ms: seen.direct.map(ms),
                lost: seen.lost,
                sent: seen.sent,
                longest_gap_ms: ms(seen.longest_gap),
                ..none
            },
            Err(error) if error.chain().any(|cause| cause.is::<landbridge::lab::stop::Interrupted>()) => {
                return Err(error);
            }
            Err(error) => Self { error: Some(format!("{error:#}")), ..none },
        })
    }
}

impl Row {
    /// A figure over the repetitions that have it.
    pub(super) fn spread(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(figure))
    }

    /// `direct`, `relayed`, or each with how often.
    pub(super) fn outcome(&self) -> String {
        let of = |sample: &Sample| match (&sample.tier, sample.first_packet_ms) {
            (_, None) => "none",
            (Some(tier), _) => match tier.as_str() {
                "relayed" => "relayed",
                "mapped" => "mapped",
                "local" => "local",
                _ => "direct",
            },
            (None, _) => "not proven",
        };
        let mut found: Vec<(&str, usize)> = Vec::new();
        for sample in &self.samples {
            match found.iter_mut().find(|(name, _)| *name == of(sample)) {
                Some((_, count)) => *count += 1,
                None => found.push((of(sample), 1)),
            }
        }
        match found.as_slice() {
            [(only, _)] => (*only).to_owned(),
            several => several.iter().map(|(name, n)| format!("{name} {n}x")).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Measures every pair that is wanted, all once before any twice.
pub(super) fn measure(run: &Run, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let pairs = Kind::ALL
        .into_iter()
        .enumerate()
        .flat_map(|(place, one)| Kind::ALL[place..].iter().map(move |other| [one, *other]));
    let wanted: Vec<(String, [Kind; 2])> =
        pairs.map(|kinds| (name(kinds), kinds)).filter(|(name, _)| run.wants(name)).collect();
    rows.extend(wanted.iter().map(|(name, _)| Row { name: name.clone(), samples: Vec::new() }));
    for repetition in 0..run.repetitions {
        for (place, (name, kinds)) in wanted.iter().enumerate() {
            let sample = once(run, run.options(*kinds))?;
            tell(name, repetition, &sample);
            rows[place].samples.push(sample);
        }
    }
    Ok(())
}

fn name([one, other]: [Kind; 2]) -> String {
    format!("{one}, {other}")
}

/// One link in a fresh world.
pub(super) fn once(run: &Run, options: Options) -> anyhow::Result<Sample> {
    let seen = Scene::new(options).and_then(|mut scene| {
        let seen = come_up(&mut scene, PATIENCE, &run.stop, |_| {});
        if std::env::var_os("LANDBRIDGE_NAT_LOGS").is_some() {
            eprintln!("{}", scene.logs());
        }
        seen
    });
    Sample::of(seen)
}

pub(super) fn tell(name: &str, repetition: u16, sample: &Sample) {
    let after = |ms: Option<f64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0} ms"));
    let error = sample.error.as_ref().and_then(|error| error.lines().next()).unwrap_or_default();
    eprintln!(
        "{name} ({}): {}, first packet {}, direct {} {error}",
        repetition + 1,
        sample.tier.as_deref().unwrap_or("-"),
        after(sample.first_packet_ms),
        after(sample.direct_ms)
    );
}
