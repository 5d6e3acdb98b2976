//! How soon a path that leads nowhere any more is left, and what the watch costs.

use std::net::SocketAddr;
use std::time::Duration;

use landbridge_proto::{DropReason, PeerConfig, PeerId, Tier};

use crate::meet::{millis, secs};
use crate::net::nat::PORT_RESTRICTED;
use crate::net::{INTERNET, Net};
use crate::paths::{A, B, C, RELAY, changes, longest_gap, paths, public, stream, tier, with_relay};

/// Two sites behind NATs that let in whom they have sent to, and a relay that introduces them.
fn behind_nats(seed: u8) -> Net {
    let mut net = Net::new(seed);
    for at in [1, 2] {
        let realm = net.add_box(INTERNET, public(at), PORT_RESTRICTED);
        net.add_gateway(realm, [10, at, 0, 2]);
    }
    net.add_gateway(INTERNET, public(3));
    let now = net.now;
    net.gateways[C].endpoint.set_nat_config(now, RELAY);
    for at in [A, B] {
        net.link(at, C);
        net.acquaint(at, 1 - at, PeerConfig::default());
        net.find_candidates(at);
    }
    let linked = |net: &Net| [A, B].iter().all(|at| net.is_linked(*at, C) && net.is_linked(C, *at));
    net.run_until(secs(2), linked).expect("they are linked to the relay");
    net
}

#[test]
fn a_nat_that_gets_another_address_before_who_only_receives_costs_a_third_of_a_second() {
    for seed in 1..=5 {
        let mut net = behind_nats(seed);
        stream(&mut net, secs(10), false);
        assert_eq!(tier(&net, A), Some(Tier::Direct));
        net.boxes[B].nat.forget_all();
        net.boxes[B].nat.address = public(12).into();
        let changed = net.now;
        stream(&mut net, secs(5), false);
        let gap = longest_gap(&net, B, changed);
        assert!(gap < millis(350), "{gap:?} without a packet, {:?}", changes(&net, A, changed));
    }
}

#[test]
fn a_nat_that_gets_another_address_before_who_sends_costs_less() {
    for seed in 1..=5 {
        let mut net = behind_nats(seed);
        stream(&mut net, secs(10), false);
        net.boxes[A].nat.forget_all();
        net.boxes[A].nat.address = public(11).into();
        let changed = net.now;
        stream(&mut net, secs(5), false);
        let gap = longest_gap(&net, B, changed);
        assert!(gap < millis(250), "{gap:?} without a packet, {:?}", changes(&net, A, changed));
    }
}

/// Messages of the control channel that a gateway sends in a time.
fn says(net: &mut Net, at: usize, time: Duration, both: bool) -> usize {
    let before = net.gateways[at].sent_of(6);
    stream(net, time, both);
    net.gateways[at].sent_of(6) - before
}

#[test]
fn a_stream_one_way_is_probed_some_tens_of_times_a_second_and_none_both_ways_or_idle() {
    let mut net = with_relay(30);
    stream(&mut net, secs(25), true);
    let both_ways = says(&mut net, A, secs(9), true);
    assert!(both_ways <= 12, "{both_ways} messages in nine seconds");
    let one_way = says(&mut net, A, secs(10), false);
    assert!((100..=420).contains(&one_way), "{one_way} messages in ten seconds");
    net.run_for(secs(1));
    let before = net.gateways[A].sent_of(6) + net.gateways[B].sent_of(6);
    net.run_for(secs(60));
    assert!(net.gateways[A].sent_of(6) + net.gateways[B].sent_of(6) <= before + 20, "binds alone");
}

#[test]
fn datagrams_that_somebody_makes_up_or_repeats_put_no_path_in_doubt_and_cost_no_probe() {
    let mut net = with_relay(31);
    stream(&mut net, secs(25), false);
    let quiet = says(&mut net, A, secs(5), false);
    let then = net.now;
    net.copied = Some(Vec::new());
    let begun = net.gateways[A].sent_of(6);
    let elsewhere = SocketAddr::from(([203, 0, 113, 66], 9));
    for _ in 0..500 {
        stream(&mut net, millis(10), false);
        let (now, wall) = (net.now, net.wall());
        let copied = net.copied.replace(Vec::new()).expect("copies");
        for (from, to, bytes) in copied {
            let Some(at) = net.sites[..2].iter().position(|site| site.address == to) else { continue };
            let mut forged = bytes.clone();
            let last = forged.len() - 1;
            forged[last] ^= 1;
            for (from, bytes) in [(from, &bytes), (elsewhere, &bytes), (from, &forged), (elsewhere, &forged)] {
                net.gateways[at].receive(now, wall, from, to, bytes);
            }
        }
    }
    assert!([A, B].iter().all(|at| changes(&net, *at, then).is_empty()), "{:?}", changes(&net, A, then));
    assert!(paths(&net, A).candidates.iter().all(|candidate| candidate.candidate.address != elsewhere));
    let sent = net.gateways[A].sent_of(6) - begun;
    assert!(sent <= quiet + quiet / 4 + 5, "{sent} messages, {quiet} without");
}

#[test]
fn probes_of_many_streams_share_a_budget() {
    const SITES: usize = 120;
    let mut net = Net::new(32);
    net.add_gateway(INTERNET, public(1));
    for at in 0..SITES {
        net.add_gateway(INTERNET, [203, 0, 113, at as u8 + 1]);
        net.link(0, at + 1);
    }
    let mut say = |time: Duration| {
        let (end, before) = (net.now + time, net.gateways[0].sent_of(6));
        while net.now < end {
            for at in 1..=SITES {
                let (now, id) = (net.now, peer_of(&net, at));
                net.gateways[0].send(now, id, 7);
            }
            net.run_for(millis(20));
        }
        net.gateways[0].sent_of(6) - before
    };
    say(secs(5));
    let a_second = say(secs(4)) / 4;
    assert!((100..=400).contains(&a_second), "{a_second} messages a second of {SITES} streams");
}

fn peer_of(net: &Net, at: usize) -> PeerId {
    net.gateways[0].peer(&net.gateways[at])
}

#[test]
fn a_path_that_is_cut_again_and_again_does_not_flap() {
    let mut net = with_relay(33);
    stream(&mut net, secs(15), false);
    let (then, ends) = (net.now, [A, B].map(|at| net.sites[at].address.ip()));
    for _ in 0..60 {
        net.blocked.push((ends[0], ends[1]));
        stream(&mut net, millis(350), false);
        net.blocked.clear();
        stream(&mut net, millis(650), false);
    }
    let changes = changes(&net, A, then);
    assert!(changes.len() <= 16, "{} changes in a minute: {changes:?}", changes.len());
    let replayed = |gateway: &crate::net::gateway::Gateway| gateway.drops.contains(&DropReason::Replayed);
    assert!(!net.gateways.iter().any(replayed), "nothing outside the window");
}
