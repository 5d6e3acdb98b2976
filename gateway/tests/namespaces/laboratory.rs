//! The laboratory itself: what the other tests lean on.

use std::time::Duration;

use crate::lab::{Echo, Flow, Lab, Outside, Sites, tcp_exchange, udp_sizes};

#[test]
fn the_sites_reach_each_other_by_ipv4_and_ipv6_without_a_tunnel() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    for outside in [Outside::V4, Outside::V6] {
        tcp_exchange(&sites.a, &sites.b, outside.address(2), 1 << 20);
        let echo = Echo::start(&sites.b, outside.address(2));
        assert_eq!(udp_sizes(&sites.a, &echo, 1..=1400), 0);
    }
}

#[test]
fn a_flow_notices_that_the_way_is_cut() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let echo = Echo::start(&sites.b, Outside::V4.address(2));
    let flow = Flow::start(&sites.a, &echo, Duration::from_millis(2));
    flow.goes_on("an open way", Duration::from_secs(5));
    sites.net.ip("link set pb down");
    std::thread::sleep(Duration::from_millis(300));
    let (_, before) = flow.counts();
    std::thread::sleep(Duration::from_millis(300));
    let (_, after) = flow.counts();
    assert_eq!(before, after);
    sites.net.ip("link set pb up");
    flow.goes_on("a way that is open again", Duration::from_secs(5));
}

#[test]
fn nothing_of_a_laboratory_is_left_behind() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let process = sites.a.spawn("sleep", &["60"], &[]);
    let names = [sites.a.name().to_owned(), sites.b.name().to_owned(), sites.net.name().to_owned()];
    drop(lab);
    assert!(process.ended().is_some());
    for name in names {
        assert!(!std::path::Path::new("/run/netns").join(name).exists());
    }
}
