//! The page and the JSON of a run.
//!
//! Enters: results. Leaves: text. Never does: leave out a row that failed.

use std::fmt::Write as _;

use serde::Serialize;

use super::cases::CaseRow;
use super::crowd::Crowd;
use super::figures::Figures;
use super::pairs::{Row, Sample};
use crate::machine::Machine;
use crate::throughput::environment;
use crate::throughput::statistics::Spread;

/// Raised when a key of the JSON changes its meaning.
const SCHEMA: u32 = 1;

/// All of a run.
#[derive(Serialize)]
pub(super) struct Results {
    schema: u32,
    made: String,
    machine: Machine,
    repetitions: u16,
    wan: &'static str,
    pub(super) pairs: Vec<Row>,
    pub(super) cases: Vec<CaseRow>,
    pub(super) changes: Vec<Figures>,
    pub(super) crowd: Option<Crowd>,
}

impl Results {
    pub(super) fn new(repetitions: u16, wan: &'static str) -> Self {
        Self {
            schema: SCHEMA,
            made: environment::today(),
            machine: Machine::of_this(),
            repetitions,
            wan,
            pairs: Vec::new(),
            cases: Vec::new(),
            changes: Vec::new(),
            crowd: None,
        }
    }
}

/// The JSON.
pub(super) fn json(results: &Results) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(results)? + "\n")
}

/// The page.
pub(super) fn page(results: &Results) -> String {
    let mut text = format!("# Sites behind NATs, as the laboratory measured them\n\n{}\n", made(results));
    text += "\n## Every pair of NAT kinds\n\n";
    text += &table(&results.pairs);
    text += "\n## Other networks\n\n";
    text += &cases(&results.cases);
    text += "\n## Figures\n\n";
    text += &figures(results);
    text
}

/// The block of the README.
pub(super) fn block(results: &Results) -> String {
    format!("{}\n\n{}\n{}", made(results), table(&results.pairs), figures(results))
}

fn made(results: &Results) -> String {
    let Results { made, machine, repetitions, wan, .. } = results;
    format!(
        "Made on {made} on {}, all gateways on one kernel and its cores, wan {wan}, without any delay of a wire;\n\
         median of {repetitions} (least to greatest), each in a fresh internet. The clock starts when both sites are\n\
         linked to the introducer, which relays too.",
        machine.short()
    )
}

fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("| NAT of a, NAT of b | link | first packet, ms | direct, ms | lost while coming up |\n");
    text += "| --- | --- | ---: | ---: | ---: |\n";
    for row in rows {
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.name,
            outcome(row),
            spread(row.spread(|sample| sample.first_packet_ms)),
            spread(row.spread(|sample| sample.direct_ms)),
            loss(row)
        );
    }
    text
}

fn cases(rows: &[CaseRow]) -> String {
    let mut text = String::from("| network | link | first packet, ms | direct, ms | then |\n");
    text += "| --- | --- | ---: | ---: | --- |\n";
    for CaseRow { row, notes } in rows {
        let mut notes: Vec<&str> = notes.iter().map(String::as_str).filter(|note| !note.is_empty()).collect();
        notes.dedup();
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.name,
            outcome(row),
            spread(row.spread(|sample| sample.first_packet_ms)),
            spread(row.spread(|sample| sample.direct_ms)),
            notes.join("; ").replace('\n', " ")
        );
    }
    text
}

fn outcome(row: &Row) -> String {
    let failed: Vec<&str> = row.samples.iter().filter_map(|sample| sample.error.as_ref()?.lines().next()).collect();
    match failed.first() {
        Some(first) => format!("failed {} of {}: {first}", failed.len(), row.samples.len()),
        None => row.outcome(),
    }
}

fn loss(row: &Row) -> String {
    let sum = |figure: fn(&Sample) -> u64| row.samples.iter().map(figure).sum::<u64>();
    let (sent, lost) = (sum(|sample| sample.sent), sum(|sample| sample.lost));
    if sent == 0 { "-".to_owned() } else { format!("{lost} of {sent}") }
}

fn figures(results: &Results) -> String {
    let mut text = String::from("| figure | goal | measured |\n| --- | --- | --- |\n");
    let mut line = |name: &str, goal: &str, value: String| {
        let _infallible = writeln!(text, "| {name} | {goal} | {value} |");
    };
    let rows: Vec<&Row> = results.pairs.iter().filter(|row| !row.samples.is_empty()).collect();
    let medians = |figure: fn(&Sample) -> Option<f64>| -> Vec<f64> {
        rows.iter().filter_map(|row| Some(row.spread(figure)?.median)).collect()
    };
    let worst = |values: Vec<f64>| values.into_iter().reduce(f64::max);
    if let Some(first) = worst(medians(|sample| sample.first_packet_ms)) {
        line("first packet, worst median of all pairs", "100 ms + a round trip", format!("{first:.0} ms"));
    }
    if let Some(direct) = worst(medians(|sample| sample.direct_ms)) {
        line("direct, worst median of the pairs that go direct", "1 s", format!("{direct:.0} ms"));
    }
    let good: Vec<&Figures> = results.changes.iter().filter(|figures| figures.error.is_none()).collect();
    let of = |figure: fn(&Figures) -> f64| {
        let unit = Spread::of(good.iter().map(|figures| figure(figures)));
        spread(unit)
    };
    if !results.changes.is_empty() {
        line(
            "dead direct path left for the relay, at 1,000 packets/s",
            "3 s",
            format!("{} ms", of(|f| f.left_after_ms)),
        );
        let back = Spread::of(good.iter().filter_map(|figures| figures.returned_after_ms));
        line("direct again, once it is possible", "-", format!("{} ms", spread(back)));
        let lost = |f: &Figures| 100.0 * f.lost_returning as f64 / f.sent_returning.max(1) as f64;
        line("lost by the change from the relay to direct", "1 %", format!("{} %", of(lost)));
        let all = |f: &Figures| 100.0 * f.lost as f64 / f.sent.max(1) as f64;
        let seconds = spread(Spread::of(good.iter().map(|figures| figures.seconds)));
        line(
            "lost of the whole stream, with the time until the dead path was noticed",
            "1 %",
            format!("{} % of {seconds} s", of(all)),
        );
        let outside: u64 = good.iter().map(|figures| figures.outside_window).sum();
        line("packets outside the replay window", "none", outside.to_string());
        let failed = results.changes.len() - good.len();
        if failed > 0 {
            line("runs of the change that failed", "none", failed.to_string());
        }
    }
    if let Some(Crowd { peers, linked, cpu_percent, seconds, messages_per_second, resident_mib }) = &results.crowd {
        line(
            &format!("{peers} idle peers behind one introducer ({linked} linked, each seeking one that is not there)"),
            "2 % of a core",
            format!(
                "{cpu_percent:.2} % over {seconds:.0} s, {messages_per_second:.0} control messages/s, \
                 {resident_mib:.0} MiB"
            ),
        );
    }
    text
}

/// `12 (10 to 15)`.
fn spread(spread: Option<Spread>) -> String {
    let digits = |value: f64| if value < 10.0 { 2 } else { 0 };
    match spread {
        None => "-".to_owned(),
        Some(Spread { median, count: 1, .. }) => format!("{median:.*}", digits(median)),
        Some(Spread { median, min, max, .. }) => {
            format!("{median:.*} ({min:.*} to {max:.*})", digits(median), digits(min), digits(max))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tier: &str, first: f64, direct: Option<f64>) -> Sample {
        Sample {
            tier: Some(tier.to_owned()),
            first_packet_ms: Some(first),
            direct_ms: direct,
            lost: 1,
            sent: 100,
            longest_gap_ms: 4.0,
            error: None,
        }
    }

    #[test]
    fn a_row_has_its_outcome_and_its_medians() {
        let samples = vec![sample("direct", 12.0, Some(90.0)), sample("relayed", 30.0, None)];
        let rows = [Row { name: "none, cgnat".to_owned(), samples }];
        let text = table(&rows);
        assert!(text.contains("| none, cgnat | direct 1x, relayed 1x | 21 (12 to 30) | 90 | 2 of 200 |"), "{text}");
    }

    #[test]
    fn a_row_that_failed_says_so() {
        let mut failed = sample("direct", 1.0, None);
        failed.error = Some("no nft\nand more".to_owned());
        let text = table(&[Row { name: "x".to_owned(), samples: vec![failed] }]);
        assert!(text.contains("failed 1 of 1: no nft |"), "{text}");
    }
}
