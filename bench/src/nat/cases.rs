//! What is no pair of NAT kinds.
//!
//! Enters: a run. Leaves: a row for each case, and a note of what else was seen. Never does: use a topology twice.

use std::time::{Duration, Instant};

use landbridge::lab::nat::change::{Event, go_through};
use landbridge::lab::nat::coming_up::{come_up, is_direct};
use landbridge::lab::nat::port_mapper::Protocols;
use landbridge::lab::nat::scene::{Member, Options, Scene};
use landbridge::lab::nat::{Access, Kind};
use landbridge::lab::stream::Stream;
use landbridge::lab::tcp;
use landbridge::status::PeerStatus;
use serde::Serialize;

use super::pairs::{Row, Sample, tell};
use super::{PATIENCE, Run};

/// A row, and what was seen after the link had come up, for each repetition.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CaseRow {
    #[serde(flatten)]
    pub(super) row: Row,
    pub(super) notes: Vec<String>,
}

/// What is done once the link is up.
type After = fn(&Run, &mut Scene) -> anyhow::Result<String>;

struct Case {
    name: &'static str,
    options: fn(Options) -> Options,
    after: After,
}

const CASES: [Case; 14] = [
    Case { name: "symmetric, symmetric whose router maps ports", options: mapped, after: nothing },
    Case { name: "dual stack, IPv4 alone behind port-restricted", options: dual_and_v4, after: nothing },
    Case { name: "IPv6 alone, IPv4 alone", options: v6_and_v4, after: nothing },
    Case { name: "IPv6 behind firewalls, IPv4 behind symmetric NATs", options: dual_symmetric, after: nothing },
    Case { name: "one NAT before both, no hairpin", options: neighbours, after: nothing },
    Case { name: "one carrier-like NAT before both, hairpin", options: hairpin, after: nothing },
    Case { name: "two introducers, the first dies", options: two_introducers, after: introducer_dies },
    Case { name: "1280-byte path, ICMP", options: narrow_with_icmp, after: through_it },
    Case { name: "1280-byte path, no ICMP", options: narrow_without_icmp, after: through_it },
    Case { name: "address change while running", options: as_it_is, after: address_changes },
    Case { name: "two uplinks, the first is cut", options: two_uplinks, after: uplink_is_cut },
    Case { name: "two uplinks, the first is unplugged", options: two_uplinks, after: uplink_is_unplugged },
    Case { name: "binding lifetime 20 s, 50 s idle", options: short_lived, after: idle },
    Case { name: "no relay, symmetric and port-restricted", options: no_relay, after: nothing },
];

/// Measures every case that is wanted.
pub(super) fn measure(run: &Run, rows: &mut Vec<CaseRow>) -> anyhow::Result<()> {
    for case in CASES.iter().filter(|case| run.wants(case.name)) {
        let mut row = CaseRow { row: Row { name: case.name.to_owned(), samples: Vec::new() }, notes: Vec::new() };
        for repetition in 0..run.repetitions {
            let mut note = String::new();
            let sample = Sample::of(once(run, case, &mut note))?;
            tell(case.name, repetition, &sample);
            if !note.is_empty() {
                eprintln!("  {note}");
            }
            row.row.samples.push(sample);
            row.notes.push(note);
        }
        rows.push(row);
    }
    Ok(())
}

fn once(run: &Run, case: &Case, note: &mut String) -> anyhow::Result<landbridge::lab::nat::coming_up::ComingUp> {
    let mut scene = Scene::new((case.options)(run.options([Kind::PortRestricted; 2])))?;
    let seen = come_up(&mut scene, PATIENCE, &run.stop, |_| {})?;
    *note = match (case.after)(run, &mut scene) {
        Err(error) if error.chain().any(|cause| cause.is::<landbridge::lab::stop::Interrupted>()) => {
            return Err(error);
        }
        result => result.unwrap_or_else(|error| format!("failed: {error:#}")),
    };
    if std::env::var_os("LANDBRIDGE_NAT_LOGS").is_some() {
        eprintln!("{}", scene.logs());
    }
    Ok(seen)
}

fn as_it_is(options: Options) -> Options {
    options
}

fn accesses(options: Options, accesses: [Vec<Access>; 2]) -> Options {
    Options { accesses, ..options }
}

fn mapped(options: Options) -> Options {
    let symmetric = Access::new(Kind::Symmetric);
    let options = accesses(options, [vec![symmetric.clone()], vec![symmetric.mappable()]]);
    Options { mappers: [None, Some(Protocols::All)], ..options }
}

fn dual_and_v4(options: Options) -> Options {
    accesses(options, [vec![Access::new(Kind::None).dual()], vec![Access::new(Kind::PortRestricted)]])
}

fn v6_and_v4(options: Options) -> Options {
    accesses(options, [vec![Access::new(Kind::None).ipv6_only()], vec![Access::new(Kind::None)]])
}

fn dual_symmetric(options: Options) -> Options {
    let one = || vec![Access::new(Kind::Symmetric).dual()];
    accesses(options, [one(), one()])
}

fn neighbours(options: Options) -> Options {
    Options { neighbours: true, ..options }
}

fn hairpin(options: Options) -> Options {
    let one = vec![Access::new(Kind::PortRestricted).hairpin()];
    Options { neighbours: true, ..accesses(options, [one.clone(), one]) }
}

fn two_introducers(options: Options) -> Options {
    Options { introducers: 2, ..options }
}

fn two_uplinks(options: Options) -> Options {
    let two = vec![Access::new(Kind::PortRestricted), Access::new(Kind::None)];
    accesses(options, [two, vec![Access::new(Kind::PortRestricted)]])
}

fn short_lived(options: Options) -> Options {
    let one = || vec![Access::new(Kind::PortRestricted).lifetime(Duration::from_secs(20))];
    accesses(options, [one(), one()])
}

fn no_relay(options: Options) -> Options {
    let options = accesses(options, [vec![Access::new(Kind::Symmetric)], vec![Access::new(Kind::PortRestricted)]]);
    Options { relay: false, ..options }
}

fn nothing(_: &Run, _: &mut Scene) -> anyhow::Result<String> {
    Ok(String::new())
}

fn introducer_dies(run: &Run, scene: &mut Scene) -> anyhow::Result<String> {
    // The site's link goes down with its gateway, and has only the second introducer to come up again by.
    let mut dies = |scene: &mut Scene| {
        scene.stop(Member::Introducer(0));
        scene.stop(Member::Site(1));
        scene.start(Member::Site(1))?;
        scene.gateway_mut(Member::Site(1))?.wait_until_ready(&run.stop)
    };
    one_event(run, scene, &mut dies, &is_direct)
}

fn address_changes(run: &Run, scene: &mut Scene) -> anyhow::Result<String> {
    let mut changes = |scene: &mut Scene| scene.sites[1].change_address(0).map(drop);
    one_event(run, scene, &mut changes, &is_direct)
}

fn uplink_is_cut(run: &Run, scene: &mut Scene) -> anyhow::Result<String> {
    let mut cut = |scene: &mut Scene| scene.internet.cut(&scene.sites[0].uplinks[0]);
    one_event(run, scene, &mut cut, &is_direct)
}

fn uplink_is_unplugged(run: &Run, scene: &mut Scene) -> anyhow::Result<String> {
    let mut unplug = |scene: &mut Scene| scene.internet.unplug(&scene.sites[0].uplinks[0]);
    one_event(run, scene, &mut unplug, &is_direct)
}

/// The stream over a fault, and eight seconds after it.
fn one_event(
    run: &Run,
    scene: &mut Scene,
    happens: &mut dyn FnMut(&mut Scene) -> anyhow::Result<()>,
    until: &dyn Fn(&PeerStatus) -> bool,
) -> anyhow::Result<String> {
    let began = Instant::now();
    let settled = move |peer: &PeerStatus| began.elapsed() > Duration::from_secs(8) && until(peer);
    let mut events = [Event { happens, until: &settled, patience: Duration::from_secs(20) }];
    let changes = go_through(scene, 1000, &mut events, &run.stop)?;
    let change = &changes.changes[0];
    Ok(format!(
        "longest gap {:.0} ms, {} of {} lost, then {}",
        change.longest_gap.as_secs_f64() * 1000.0,
        change.lost,
        change.sent,
        change.tier.as_deref().unwrap_or("no path")
    ))
}

fn narrow_with_icmp(options: Options) -> Options {
    Options { narrow: Some((1280, true)), ..options }
}

fn narrow_without_icmp(options: Options) -> Options {
    Options { narrow: Some((1280, false)), ..options }
}

/// TCP through the path, and what the gateways know of it then.
fn through_it(run: &Run, scene: &mut Scene) -> anyhow::Result<String> {
    let moved = tcp::measure(scene.path(), 1, Duration::from_secs(5), &run.stop, || {}, |_| {})?;
    let mtu = |of, to| Ok::<_, anyhow::Error>(scene.peer(of, to)?.paths.in_use.and_then(|path| path.mtu));
    let (a, b) = (mtu(Member::Site(0), Member::Site(1))?, mtu(Member::Site(1), Member::Site(0))?);
    let shown = |mtu: Option<u16>| mtu.map_or_else(|| "unknown".to_owned(), |mtu| mtu.to_string());
    let mbps = moved.bits_per_second / 1e6;
    Ok(format!("TCP {mbps:.0} Mb/s, path MTU found {} and {} bytes", shown(a), shown(b)))
}

/// Idle for more than twice the lifetime, then a stream.
fn idle(run: &Run, scene: &mut Scene) -> anyhow::Result<String> {
    run.stop.sleep(Duration::from_secs(50))?;
    let stream = Stream::start(scene.path(), 200)?;
    run.stop.sleep(Duration::from_secs(2))?;
    let first = stream.first();
    let record = stream.finish()?;
    let (sent, lost) = record.lost(record.began, record.end());
    let keepalive = scene.peer(Member::Site(0), Member::Site(1))?.paths.keepalive_seconds;
    let first = first.map_or_else(
        || "nothing arrived".to_owned(),
        |first| format!("first packet {:.0} ms", first.duration_since(record.began).as_secs_f64() * 1000.0),
    );
    let keepalive = keepalive.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds:.0} s"));
    Ok(format!("{first}, {lost} of {sent} lost, keepalive {keepalive}"))
}
