//! What may happen to a running gateway's rings: the XDP program taken away or its place taken, more queues, a link
//! that goes down, an MTU that changes.

use std::time::Duration;

use landbridge::settings::XdpMode;
use landbridge::steer::Steer;
use serde_json::Value;

use crate::lab::{Echo, Flow, Gateway, Lab, Namespace, Outside, Program, Sites, Wan, eventually, run, tunnel_v4};

/// How soon a gateway has to have noticed and mended what was done.
const SOON: Duration = Duration::from_secs(10);
/// A datagram every few milliseconds.
const PACE: Duration = Duration::from_millis(5);

/// Two gateways, the left one with rings, and traffic through them.
struct Pair {
    left: Gateway,
    _right: Gateway,
    _echo: Echo,
    flow: Flow,
}

fn pair(lab: &Lab, sites: &Sites) -> Pair {
    let (mut left, mut right) = sites.gateways(lab, Program::Up(Wan::Xdp), Program::Up(Wan::Udp), Outside::V4);
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic by the rings", SOON);
    let pair = Pair { left, _right: right, _echo: echo, flow };
    pair.by_rings();
    pair
}

impl Pair {
    fn redirected(&self) -> u64 {
        self.left.status().xdp_verdicts.get("redirected").copied().unwrap_or(0)
    }

    fn path(&self) -> String {
        self.left.status().peers[0].path.clone()
    }

    /// Waits until packets go and come by rings.
    #[track_caller]
    fn by_rings(&self) {
        eventually("the path uses the rings", SOON, || self.path().starts_with("xdp ").then_some(()));
        let before = self.redirected();
        eventually("packets come by the rings", SOON, || (self.redirected() >= before + 20).then_some(()));
        self.flow.goes_on("traffic by the rings", SOON);
    }

    fn ends_with_every_frame(mut self) {
        let process = self.left.process().clone();
        assert!(self.left.stop().success());
        assert!(!process.output().contains("did not come home"), "no frame is missing: {}", process.output());
    }
}

/// The kernel's number of the XDP program on an interface.
fn program_on(namespace: &Namespace, name: &str) -> Option<u64> {
    let text = namespace.run(&["ip", "-json", "link", "show", name]);
    let links: Value = serde_json::from_str(&text).expect("JSON");
    links[0]["xdp"]["prog"]["id"].as_u64()
}

/// Detaches a gateway's XDP program as an administrator can who does not stop the gateway.
#[track_caller]
fn detach(namespace: &Namespace) {
    let program = program_on(namespace, "wan0").expect("a program");
    let links: Value = serde_json::from_str(&run(&["bpftool", "-j", "link", "show"])).expect("JSON");
    let links = links.as_array().expect("a list of links");
    let link = links.iter().find(|link| link["prog_id"] == program).expect("the link of the program");
    run(&["bpftool", "link", "detach", "id", &link["id"].to_string()]);
    assert_ne!(program_on(namespace, "wan0"), Some(program), "detached");
}

#[test]
fn a_program_that_somebody_detaches_is_attached_again_but_not_for_ever() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let pair = pair(&lab, &sites);
    detach(&sites.a);
    pair.flow.goes_on("traffic while nothing is steered", SOON);
    eventually("the program is there again", SOON, || program_on(&sites.a, "wan0"));
    pair.by_rings();
    let status = pair.left.status();
    assert_eq!((status.xdp_programs_lost, status.wan.rings_lost), (1, 0), "the rings were kept");

    // Whoever does it again means it: the rings are given up, and come back later.
    detach(&sites.a);
    eventually("the rings are given up", SOON, || (pair.left.status().wan.rings_lost == 1).then_some(()));
    pair.flow.goes_on("traffic without rings", SOON);
    pair.by_rings();
    assert_eq!(pair.left.status().xdp_programs_lost, 2);
    let log = pair.left.process().output();
    assert!(log.contains("the XDP program was detached: attached it again"), "{log}");
    assert!(log.contains("the XDP program was detached twice within a minute"), "{log}");
    pair.ends_with_every_frame();
}

/// Detaches the gateway's program and attaches another one in its place, as soon as the gateway leaves it.
fn take_the_place(namespace: &Namespace) -> Steer {
    let mut steer = namespace.inside(|| Steer::load().expect("loaded"));
    for _ in 0..10 {
        detach(namespace);
        let attached;
        (steer, attached) = namespace.inside(move || {
            let index = landbridge::steer::interface_by_name("wan0").expect("the interface").index;
            let attached = steer.attach(index, "wan0", XdpMode::Native).is_ok();
            (steer, attached)
        });
        if attached {
            return steer;
        }
    }
    panic!("the gateway was always there before");
}

#[test]
fn another_program_in_its_place_is_left_alone_until_it_goes() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let pair = pair(&lab, &sites);
    let theirs = take_the_place(&sites.a);
    let id = program_on(&sites.a, "wan0");
    eventually("the rings are given up", SOON, || (pair.left.status().wan.rings_lost >= 1).then_some(()));
    pair.flow.goes_on("traffic without rings", SOON);
    let status = pair.left.status();
    assert!(status.wan.interfaces.is_empty(), "{:?}", status.wan);
    assert!(status.wan.reason.contains(" XDP program "), "{}", status.wan.reason);
    assert!(status.xdp_programs_lost >= 1);
    assert_eq!(program_on(&sites.a, "wan0"), id, "it is still there");
    drop(theirs);
    pair.by_rings();
    pair.ends_with_every_frame();
}

#[test]
fn an_interface_that_uses_more_queues_gets_rings_for_these() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    sites.net.run(&["ethtool", "-L", "pa", "tx", "1", "rx", "2"]);
    sites.a.run(&["ethtool", "-L", "wan0", "rx", "1", "tx", "1"]);
    let pair = pair(&lab, &sites);
    let queues = || pair.left.status().wan.interfaces.first().map_or(0, |interface| interface.queues);
    assert_eq!(queues(), 1);
    sites.a.run(&["ethtool", "-L", "wan0", "rx", "2", "tx", "2"]);
    eventually("rings for both queues", SOON, || (queues() == 2).then_some(()));
    pair.by_rings();
    let status = pair.left.status();
    assert_eq!((status.wan.rings_lost, status.xdp_programs_lost), (1, 0));
    let log = pair.left.process().output();
    assert!(log.contains("it has 2 receive queues in place of 1"), "{log}");
    // As many as have rings stay: the kernel takes none away that a socket is bound to.
    let fewer = sites.a.try_run(&["ethtool", "-L", "wan0", "rx", "1", "tx", "1"]);
    pair.flow.goes_on("traffic, whatever the kernel said", SOON);
    if fewer.code == 0 {
        eventually("rings for one queue", SOON, || (queues() == 1).then_some(()));
    }
    pair.by_rings();
    pair.ends_with_every_frame();
}

#[test]
fn a_link_that_goes_down_and_an_mtu_that_changes_leave_the_rings_where_they_are() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let pair = pair(&lab, &sites);
    for _ in 0..3 {
        sites.a.ip("link set wan0 down");
        std::thread::sleep(Duration::from_millis(300));
        sites.a.ip("link set wan0 up");
        pair.by_rings();
    }
    // Packets of this length fit no frame of a page in native mode: the kernel refuses, and nothing changes.
    assert_ne!(sites.net.try_run(&["ip", "link", "set", "pa", "mtu", "9000"]).code, 0);
    pair.by_rings();
    sites.a.ip("link set wan0 mtu 1400");
    pair.by_rings();
    sites.a.ip("link set wan0 mtu 1500");
    pair.by_rings();
    let status = pair.left.status();
    assert_eq!((status.wan.rings_lost, status.xdp_programs_lost), (0, 0));
    pair.ends_with_every_frame();
}
