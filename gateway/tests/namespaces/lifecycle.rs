//! Starting, ending, crashing, and starting again.

use std::time::Duration;

use crate::lab::{
    Echo, Flow, Gateway, Lab, Outside, PORT, Program, Sites, Wan, eventually, landbridge, tunnel_v4, uapi_socket,
};

/// How soon a tunnel has to work again: who talks to a peer that has lost its session learns of it by fifteen seconds of
/// silence.
const SOON: Duration = Duration::from_secs(25);
const PACE: Duration = Duration::from_millis(5);

fn pair(lab: &Lab, sites: &Sites, wan: Wan) -> (Gateway, Gateway) {
    let (mut left, mut right) = sites.gateways(lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    left.start();
    right.start();
    (left, right)
}

fn restarts(wan: Wan, crash: bool) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = pair(&lab, &sites, wan);
    for restart_left in [true, false] {
        let echo = Echo::start(&sites.b, [10, 88, 0, 2].into());
        let flow = Flow::start(&sites.a, &echo, PACE);
        flow.goes_on("traffic before the restart", SOON);
        let gateway = if restart_left { &mut left } else { &mut right };
        if crash {
            gateway.crash();
        } else {
            assert!(gateway.stop().success());
        }
        gateway.start();
        drop(flow);
        drop(echo);
        // Sockets bound to the vanished address do not come back with it: ask anew.
        let echo = Echo::start(&sites.b, tunnel_v4(2));
        Flow::start(&sites.a, &echo, PACE).goes_on("traffic after the restart", SOON);
    }
}

#[test]
fn either_side_may_restart_over_sockets() {
    restarts(Wan::Udp, false);
}

#[test]
fn either_side_may_restart_over_rings() {
    restarts(Wan::Xdp, false);
}

#[test]
fn either_side_may_be_killed_and_started_again_over_sockets() {
    restarts(Wan::Udp, true);
}

#[test]
fn either_side_may_be_killed_and_started_again_over_rings() {
    restarts(Wan::Xdp, true);
}

fn leaves_nothing(wan: Wan, user: Option<&str>) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    left.peers[0].allowed_ips.push("192.168.50.0/24".to_owned());
    left.user = user.map(str::to_owned);
    let links = sites.a.ip("-o link show");
    let state = || ["-o addr show", "-4 route show table all", "-6 route show table all", "rule show", "-6 rule show"];
    let before = state().map(|what| sites.a.ip(what));
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic", SOON);
    assert_eq!(left.process().user() == 0, user.is_none());
    let xdp = sites.a.ip("-d link show wan0").contains("prog/xdp");
    assert_eq!(xdp, wan == Wan::Xdp, "an XDP program is on the wan exactly with the rings");
    assert!(sites.a.ip("route show").contains("192.168.50.0/24"));
    assert!(left.stop().success());
    assert!(!sites.a.ip("-d link show wan0").contains("prog/xdp"));
    eventually("the interface goes", SOON, || (sites.a.ip("-o link show") == links).then_some(()));
    for (what, before) in state().iter().zip(before) {
        let mut lines = [before, sites.a.ip(what)].map(|text| text.lines().map(untimed).collect::<Vec<_>>());
        for lines in &mut lines {
            lines.sort();
        }
        assert_eq!(lines[0], lines[1], "`ip {what}` before and after");
    }
    assert!(!uapi_socket(&left.interface).exists());
    assert!(!landbridge::status::socket_path(&left.interface).exists());
    let free = sites.a.inside(|| std::net::UdpSocket::bind(("0.0.0.0", PORT)).is_ok());
    assert!(free, "the port is free again");
}

/// A line of `ip` without what time changes by itself.
fn untimed(line: &str) -> String {
    line.split_whitespace().filter(|word| !word.ends_with("sec")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_gateway_with_sockets_leaves_nothing_behind() {
    leaves_nothing(Wan::Udp, None);
}

#[test]
fn a_gateway_with_rings_leaves_nothing_behind() {
    leaves_nothing(Wan::Xdp, None);
}

#[test]
fn a_gateway_that_has_left_root_takes_everything_away_with_sockets() {
    leaves_nothing(Wan::Udp, Some("nobody"));
}

#[test]
fn a_gateway_that_has_left_root_takes_everything_away_with_rings() {
    leaves_nothing(Wan::Xdp, Some("nobody"));
}

#[test]
fn a_crash_leaves_no_xdp_program() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, _right) = pair(&lab, &sites, Wan::Xdp);
    assert!(sites.a.ip("-d link show wan0").contains("prog/xdp"));
    left.crash();
    eventually("the program goes with its process", SOON, || {
        (!sites.a.ip("-d link show wan0").contains("prog/xdp")).then_some(())
    });
}

#[test]
fn a_second_gateway_on_the_same_port_or_interface_is_refused() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, right) = pair(&lab, &sites, Wan::Udp);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, PACE);
    flow.goes_on("traffic", SOON);
    let program = landbridge();
    let program = program.to_str().expect("a path that is text");
    let configuration = |name: &str, port: u16| {
        let text =
            format!("[interface]\nname = \"{name}\"\nprivate_key = \"{}\"\nlisten_port = {port}\n", right.keys.private);
        lab.file(&format!("second-{name}.toml"), &text).to_str().expect("a path that is text").to_owned()
    };
    let other = lab.interface('c');
    for (file, said) in
        [(configuration(&other, PORT), "51820"), (configuration(&left.interface, 4000), &left.interface)]
    {
        let output = sites.a.try_run(&[program, "up", &file]);
        assert!(output.code > 0 && output.code < 100, "{output:?}");
        assert!(output.stderr.contains(said), "{}", output.stderr);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
    flow.goes_on("traffic of the first gateway", SOON);
    assert_eq!(left.status().interface, left.interface);
}

fn rests(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (left, right) = pair(&lab, &sites, wan);
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    Flow::start(&sites.a, &echo, PACE).goes_on("traffic", SOON);
    // Passive keepalives and the spinning after traffic are over by then.
    std::thread::sleep(Duration::from_secs(2));
    let before = [&left, &right].map(|gateway| gateway.process().usage());
    let time = Duration::from_secs(6);
    std::thread::sleep(time);
    for (gateway, before) in [&left, &right].into_iter().zip(before) {
        let after = gateway.process().usage();
        let used = after.cpu - before.cpu;
        assert!(used < time / 100, "{used:?} of the CPU in {time:?}");
        // Of the 100 MB that it may take, 10 are for the program itself.
        assert!(after.resident < 90_000_000, "{} bytes are resident", after.resident);
    }
}

#[test]
fn an_idle_gateway_with_sockets_rests() {
    rests(Wan::Udp);
}

#[test]
fn an_idle_gateway_with_rings_rests() {
    rests(Wan::Xdp);
}
