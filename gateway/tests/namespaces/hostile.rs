//! Packets that nobody should send: each is dropped with its own counted reason, and the session goes on.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::{
    Datagram, Echo, Flow, Gateway, Lab, Outside, Program, Sites, Wan, available, capture_data, eventually, inject,
    shout, tunnel_v4,
};

const SOON: Duration = Duration::from_secs(8);
/// How often each bad packet is sent.
const TIMES: usize = 5;

const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Sends a bad datagram several times and waits until it is counted.
#[track_caller]
fn counted(sites: &Sites, victim: &Gateway, name: &str, datagram: &Datagram, reason: &str) {
    let before = victim.drops(reason);
    inject(&sites.net, vec![datagram.clone(); TIMES]);
    eventually(&format!("{name} is counted as {reason}: {:?}", victim.status().drops), SOON, || {
        (victim.drops(reason) >= before + TIMES as u64).then_some(())
    });
}

fn bad_packets_are_counted(wan: Wan) {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, Program::Up(wan), Program::Up(wan), Outside::V4);
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, Duration::from_millis(10));
    flow.goes_on("traffic before", SOON);
    let handshake = right.last_handshake();
    let good = capture_data(&sites.net, A, B);

    let changed = |change: fn(&mut Vec<u8>)| {
        let mut payload = good.payload.clone();
        change(&mut payload);
        good.with(payload)
    };
    let message = |kind: u8, length: usize| {
        let mut payload: Vec<u8> = (0..length).map(|at| (at * 37 % 251) as u8).collect();
        payload[..4].copy_from_slice(&[kind, 0, 0, 0]);
        good.with(payload)
    };
    let cases = [
        ("a repeated packet", good.clone(), "replayed"),
        ("a repeated packet with IP options", Datagram { options: vec![1; 8], ..good.clone() }, "replayed"),
        ("a packet with a false counter", changed(|payload| payload[13] ^= 0x40), "bad_tag"),
        (
            "a packet with a false tag",
            changed(|payload| {
                payload[14] ^= 1;
                if let Some(last) = payload.last_mut() {
                    *last ^= 1
                }
            }),
            "bad_tag",
        ),
        ("a packet for no session", changed(|payload| payload[4] ^= 1), "unknown_index"),
        ("a packet of an older session", changed(|payload| payload[7] ^= 0x80), "unknown_index"),
        ("half a header", changed(|payload| payload.truncate(10)), "truncated"),
        ("a header without a tag", changed(|payload| payload.truncate(31)), "truncated"),
        ("an unknown message", message(9, 64), "unknown_type"),
        ("an initiation not meant for us", message(1, 148), "bad_mac1"),
        ("a response that nobody asked for", message(2, 92), "unknown_index"),
        ("an initiation that is cut", message(1, 100), "truncated"),
    ];
    for (name, datagram, reason) in cases {
        counted(&sites, &right, name, &datagram, reason);
    }

    // What the kernel or the XDP program throws away before it is ours needs only to do no harm.
    let lies = [-3_i16, 5, 2000].map(|lie| Datagram { lie: lie.cast_unsigned(), ..good.clone() });
    inject(&sites.net, lies.into_iter().chain([good.with(Vec::new()), message(4, 1400)]).collect());
    inject(&sites.net, vec![message(1, 148); 5000]);

    let (sent, answered) = flow.counts();
    flow.goes_on("traffic after", SOON);
    assert!(sent - answered < 10, "{answered} of {sent} datagrams came back");
    assert_eq!(right.last_handshake(), handshake, "the session is the same");
    let endpoint = right.show("endpoints");
    assert!(endpoint.ends_with("10.77.0.1:51820"), "nobody moved the peer: {endpoint}");
}

#[test]
fn bad_packets_are_counted_by_reason_and_disturb_no_session_over_sockets() {
    bad_packets_are_counted(Wan::Udp);
}

#[test]
fn bad_packets_are_counted_by_reason_and_disturb_no_session_over_rings() {
    bad_packets_are_counted(Wan::Xdp);
}

#[test]
fn a_peer_cannot_send_from_addresses_that_are_not_its_own() {
    let Some(lab) = Lab::open() else { return };
    if !available(Program::WireguardGo) {
        return;
    }
    let sites = Sites::build(&lab);
    let (mut liar, mut victim) = sites.gateways(&lab, Program::WireguardGo, Program::Up(Wan::Xdp), Outside::V4);
    liar.start();
    victim.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    let flow = Flow::start(&sites.a, &echo, Duration::from_millis(10));
    flow.goes_on("honest traffic", SOON);
    sites.a.ip(&format!("addr add 10.88.0.66/32 dev {}", liar.interface));
    shout(&sites.a, [10, 88, 0, 66].into(), tunnel_v4(2), TIMES);
    eventually("source_not_allowed is counted", SOON, || {
        (victim.drops("source_not_allowed") >= TIMES as u64).then_some(())
    });
    flow.goes_on("honest traffic", SOON);
}

#[test]
fn packets_that_have_nowhere_to_go_are_counted() {
    let Some(lab) = Lab::open() else { return };
    let sites = Sites::build(&lab);
    let (mut left, _right) = sites.gateways(&lab, Program::Up(Wan::Udp), Program::Up(Wan::Udp), Outside::V4);
    left.peers[0].endpoint = None;
    left.start();
    for (target, reason) in [(99, "no_route"), (2, "no_endpoint")] {
        shout(&sites.a, tunnel_v4(1), tunnel_v4(target), TIMES);
        eventually(&format!("{reason} is counted"), SOON, || (left.drops(reason) >= TIMES as u64).then_some(()));
    }
}
