//! Generator and sink on a real topology: namespaces, plain routes, nothing lost that is not meant to be.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use landbridge::lab::stop::Stop;

use super::end::Turns;
use super::frame::{FrameSize, IpVersion};
use super::tester::Tester;
use super::topology::{Side, Topology, TopologySpec};
use super::trial::{Directions, Trial};

/// A process has one topology of a name at a time.
static ONE: Mutex<()> = Mutex::new(());
const PREFIX: &str = "landbridge-bench-test";

/// Whether the tests can run; in CI they have to.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root, and CI skips nothing");
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

/// Four namespaces that route plainly.
fn plain_routes(spec: &TopologySpec) -> Topology {
    let topology = Topology::build(PREFIX, spec).expect("four namespaces");
    topology.route_plainly().expect("routes");
    topology
}

/// Generator and sink at their ends.
fn attached(topology: &Topology) -> Tester<'_> {
    Tester::attach_with(topology, Turns::Fair).expect("generator and sink")
}

fn trial(size: FrameSize, version: IpVersion, directions: Directions) -> Trial {
    Trial { size, version, rate_pps: 2000.0, directions, duration: Duration::from_millis(200), flows: 3 }
}

#[test]
fn at_a_low_rate_every_frame_arrives_both_ways_in_both_versions_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stop = Stop::default();
    let topology = plain_routes(&TopologySpec::default());
    let mut tester = attached(&topology);
    for version in [IpVersion::V4, IpVersion::V6] {
        tester.join(version, Duration::from_secs(10), &stop).expect("frames go through");
        for size in [FrameSize::Bytes(64), FrameSize::Imix] {
            let results = tester.trial(&trial(size, version, Directions::Both), &stop).expect("a trial");
            assert_eq!(results.len(), 2);
            for result in results {
                assert!(result.sent > 0 && result.sent <= 400, "{result:?}");
                // Whatever a busy machine does to the generator: each frame that was due was sent or is known as
                // missed.
                assert!(result.sent + result.missed <= 400, "{result:?}");
                let bad = (result.lost, result.duplicated, result.reordered, result.corrupted, result.stale);
                assert_eq!((result.received, bad), (result.sent, (0, 0, 0, 0, 0)), "{version:?} {size}");
                assert_eq!(result.latency.count(), result.received);
            }
        }
    }
    drop(tester);
    let names: Vec<String> = [Side::A, Side::B]
        .iter()
        .flat_map(|side| [topology.host(*side).name().to_owned(), topology.gateway(*side).name().to_owned()])
        .collect();
    drop(topology);
    for name in names {
        assert!(!std::path::Path::new("/run/netns").join(&name).exists(), "{name} is left");
    }
}

#[test]
fn what_the_way_drops_on_purpose_is_counted_to_the_frame() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stop = Stop::default();
    // The longest packets of the mix do not fit the wan and must not be fragmented: gateway A drops each of them.
    let spec = TopologySpec { wan_mtu: 1300, ..TopologySpec::default() };
    let topology = plain_routes(&spec);
    let mut tester = attached(&topology);
    tester.join(IpVersion::V4, Duration::from_secs(10), &stop).expect("frames go through");
    let one_flow = Trial { flows: 1, ..trial(FrameSize::Imix, IpVersion::V4, Directions::AToB) };
    let results = tester.trial(&one_flow, &stop).expect("a trial");
    let [result] = &results[..] else { panic!("one direction") };
    let order = super::frame::imix_order();
    let too_long = (0..result.sent).filter(|number| order[(number % 12) as usize] == 1420).count() as u64;
    assert!(result.sent > 24, "{result:?}");
    assert_eq!((result.lost, result.received), (too_long, result.sent - too_long), "{result:?}");
    assert_eq!((result.reordered, result.corrupted), (0, 0), "{result:?}");
}

#[test]
fn a_trial_that_is_interrupted_leaves_no_generator_behind() {
    if !is_root() {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stop = Stop::default();
    let topology = plain_routes(&TopologySpec::default());
    let mut tester = attached(&topology);
    let flag = stop.flag();
    let user = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let long =
        Trial { duration: Duration::from_secs(60), ..trial(FrameSize::Bytes(64), IpVersion::V4, Directions::Both) };
    assert!(tester.trial(&long, &stop).is_err());
    user.join().expect("no panic");
    let running = std::fs::read_dir("/proc/self/task").expect("threads").filter_map(Result::ok).filter(|thread| {
        std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.trim() == "generator")
    });
    assert_eq!(running.count(), 0);
}
