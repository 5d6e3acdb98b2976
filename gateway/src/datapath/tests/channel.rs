//! The control channel and source ports as lanes see them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use landbridge_proto::{Alternates, DropReason, Spread};

use super::*;

const WEST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4);
const EAST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 5, 6, 7, 8);
const PORTS: [u16; 3] = [40_001, 40_002, 40_003];

/// Changes a site's tables and what they say of its peer.
fn change(site: &Site, change: impl FnOnce(&mut Tables, &mut PeerEntry)) {
    let mut tables = Tables::clone(&site.published.load());
    let mut entry = PeerEntry::clone(tables.peer(PEER).expect("the peer"));
    change(&mut tables, &mut entry);
    tables.peers.set(PEER.slot as usize, Some(Arc::new(entry)));
    site.published.store(Arc::new(tables));
}

/// Both ends have channel addresses, and allowed IPs that cover everything.
fn pair() -> Pair {
    let pair = Pair::new();
    for (site, ours, theirs) in [(&pair.west, WEST, EAST), (&pair.east, EAST, WEST)] {
        change(site, |tables, entry| {
            let mut routes = AllowedIps::clone(&tables.routes);
            routes.insert("::/0".parse().expect("a prefix"), PEER);
            tables.routes = Arc::new(routes);
            tables.channel_address = Some(ours);
            entry.channel_address = Some(theirs);
        });
    }
    pair
}

/// Seals a packet with west's session, whatever west's lane would say to it.
fn sealed(pair: &Pair, packet: &[u8]) -> Vec<u8> {
    let session = &pair.west.session;
    let counter = session.take_counters(1).expect("a counter");
    let mut message = vec![0; 16];
    let header = crate::datapath::transport::TransportHeader { receiver: session.remote_index, counter };
    header.write(&mut message);
    message.extend_from_slice(packet);
    message.extend_from_slice(&[0; 16]);
    session.seal_key().seal(counter, &mut message[16..]);
    message
}

fn told(reports: &[Report]) -> usize {
    reports.iter().filter(|report| matches!(report, Report::Channel { .. })).count()
}

#[test]
fn only_the_exact_addresses_of_a_session_are_the_channel() {
    let near = |address: Ipv6Addr, bit: u32| Ipv6Addr::from(address.to_bits() ^ 1 << bit);
    let mut pair = pair();
    let whole = packet_v6(WEST.into(), EAST.into(), 40);
    let datagram = sealed(&pair, &whole);
    assert!(pair.east_opens(&[datagram]).is_empty(), "it never reaches the lan side");
    let reports = pair.east.reports();
    let found = reports.iter().find_map(|report| match report {
        Report::Channel { peer, remote, packet, .. } => Some((*peer, *remote, packet.to_vec())),
        _ => None,
    });
    assert_eq!(found, Some((PEER, pair.west.origin.remote, whole)));
    for bit in [0, 17, 63] {
        for (source, destination) in [(near(WEST, bit), EAST), (WEST, near(EAST, bit)), (EAST, WEST)] {
            let datagram = sealed(&pair, &packet_v6(source.into(), destination.into(), 40));
            assert_eq!(pair.east_opens(&[datagram]).len(), 1, "{source} to {destination} is traffic");
        }
    }
    change(&pair.east, |_, entry| entry.channel_address = None);
    let datagram = sealed(&pair, &packet_v6(WEST.into(), EAST.into(), 40));
    assert_eq!(pair.east_opens(&[datagram]).len(), 1, "with extensions off nothing is special");
    assert_eq!(told(&pair.east.reports()), 0);
    pair.assert_all_frames_are_home();
}

#[test]
fn the_channel_is_no_data_that_would_have_to_be_answered() {
    let mut pair = pair();
    let datagram = sealed(&pair, &packet_v6(WEST.into(), EAST.into(), 40));
    pair.east_opens(&[datagram]);
    assert_eq!(pair.east.shared.data_received(), None);
    assert!(pair.east.shared.any_received().is_some());
    assert!(pair.east.session.is_confirmed());
}

#[test]
fn a_flood_on_the_channel_is_cut_to_the_peers_share_and_keeps_no_traffic_waiting() {
    let mut pair = pair();
    let mut datagrams: Vec<_> = (0..500).map(|_| sealed(&pair, &packet_v6(WEST.into(), EAST.into(), 40))).collect();
    datagrams.push(sealed(&pair, &packet([10, 1, 0, 1], [10, 2, 0, 1], 1, 100)));
    assert_eq!(pair.east_opens(&datagrams).len(), 1);
    let told = told(&pair.east.reports());
    assert!((1..=64).contains(&told), "{told} messages of a flood");
    assert_eq!(pair.east.drops(), [(DropReason::ChannelRate, 500 - told as u64)]);
    pair.assert_all_frames_are_home();
}

#[test]
fn hosts_of_the_site_cannot_speak_on_the_channel() {
    let mut pair = pair();
    assert!(pair.west_seals(&[packet_v6(WEST.into(), EAST.into(), 40)]).is_empty());
    assert_eq!(pair.west.drops(), [(DropReason::ChannelSpoofed, 1)]);
    assert_eq!(pair.west_seals(&[packet_v6(EAST.into(), WEST.into(), 40)]).len(), 1, "another destination is traffic");
}

/// A packet of a flow, by its source port.
fn of_flow(flow: u16, number: u32) -> Vec<u8> {
    let mut bytes = packet([10, 1, 0, 1], [10, 2, 0, 1], number, 100);
    bytes[20..22].copy_from_slice(&flow.to_be_bytes());
    bytes
}

#[test]
fn flows_are_spread_over_the_source_ports_and_each_keeps_its_own() {
    let mut pair = pair();
    let spread = Arc::new(Spread::over(&[1, 2, 3], pair.now));
    pair.now += Duration::from_secs(1);
    change(&pair.west, |tables, entry| {
        tables.source_ports = Arc::new(PORTS);
        entry.spread = Some(Arc::clone(&spread));
    });
    let packets: Vec<_> = (0..10).flat_map(|number| (0..32).map(move |flow| of_flow(flow, number))).collect();
    for packet in &packets {
        let frame = pair.west.frame(packet);
        pair.west.lane.lan().arrived.push_back(frame);
    }
    pair.west.run(pair.now);
    let sent: Vec<_> = pair.west.lane.wan().sent.drain(..).collect();
    assert_eq!(sent.len(), packets.len());
    let mut ports: BTreeMap<Vec<u8>, BTreeSet<u16>> = BTreeMap::new();
    let mut by_port: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    for datagram in sent {
        by_port.entry(datagram.source_port).or_default().push(datagram.frame.data().to_vec());
        pair.west.lane.pool().put(datagram.frame);
    }
    assert_eq!(by_port.keys().copied().collect::<Vec<_>>(), [PORTS[0], PORTS[1], PORTS[2], 51820]);
    let counts: Vec<u64> = (0..4).map(|slot| spread.sent(slot)).collect();
    assert_eq!(counts.iter().sum::<u64>(), packets.len() as u64);
    for (port, datagrams) in by_port {
        let arrived = pair.east_opens(&datagrams);
        assert_eq!(arrived.len(), datagrams.len());
        let mut newest: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for packet in arrived {
            let flow = packet[20..22].to_vec();
            let number = u32::from_be_bytes(*packet[28..].first_chunk().expect("a number"));
            ports.entry(flow.clone()).or_default().insert(port);
            assert!(newest.insert(flow, number).is_none_or(|before| before < number), "a flow keeps its order");
        }
    }
    assert!(ports.len() == 32 && ports.values().all(|ports| ports.len() == 1), "{ports:?}");
    pair.assert_all_frames_are_home();
}

/// Packets of flow 7 and others, and by which source port flow 7's leave.
struct Traffic {
    pair: Pair,
    sent: u32,
}

impl Traffic {
    const FLOW: u16 = 7;

    fn new() -> Self {
        let pair = Pair::new();
        change(&pair.west, |tables, _| tables.source_ports = Arc::new(PORTS));
        Self { pair, sent: 0 }
    }

    /// The main port and those at these places are in use from here on.
    fn publish(&self, beside: &[u8]) {
        let spread = (!beside.is_empty()).then(|| Arc::new(Spread::over(beside, self.pair.now)));
        change(&self.pair.west, |_, entry| entry.spread = spread);
    }

    /// A packet of a flow after so many milliseconds, and the port that it left by.
    fn packet(&mut self, flow: u16, after_ms: u64) -> u16 {
        self.pair.now += Duration::from_millis(after_ms);
        self.sent += 1;
        let frame = self.pair.west.frame(&of_flow(flow, self.sent));
        let west = &mut self.pair.west;
        west.lane.lan().arrived.push_back(frame);
        west.run(self.pair.now);
        let sent = west.lane.wan().sent.pop_front().expect("one datagram");
        west.lane.pool().put(sent.frame);
        sent.source_port
    }

    /// The port of a flow that begins where nothing is known of any.
    fn port_of(flow: u16, beside: &[u8]) -> u16 {
        let mut fresh = Self::new();
        fresh.publish(beside);
        fresh.packet(flow, 1000)
    }

    /// All ports that this flow leaves by, with a packet each millisecond for so long.
    fn swing(&mut self, ms: u64) -> BTreeSet<u16> {
        (0..ms).map(|_| self.packet(Self::FLOW, 1)).collect()
    }
}

#[test]
fn a_flow_in_full_swing_keeps_its_source_port_until_it_pauses() {
    let ports = [PORTS[0], PORTS[1], PORTS[2], 51820];
    let others: Vec<u16> = (100..164).filter(|flow| Traffic::port_of(*flow, &[1, 2, 3]) != 51820).collect();
    let its_own = Traffic::port_of(Traffic::FLOW, &[1, 2, 3]);
    assert!(its_own != 51820 && others.len() > 32, "the tests' flows are to be moved");
    let mut traffic = Traffic::new();
    assert_eq!(traffic.swing(100), [51820].into());
    traffic.publish(&[1]);
    assert_eq!(traffic.swing(20), [51820].into());
    traffic.publish(&[1, 2, 3]);
    assert_eq!(traffic.swing(12_000), [51820].into(), "it never rests");
    let seen: BTreeSet<u16> = others.iter().map(|flow| traffic.packet(*flow, 0)).collect();
    assert_eq!(seen, ports[..3].iter().copied().collect(), "flows that begin are spread");
    assert_eq!(traffic.packet(Traffic::FLOW, 1), 51820);
    assert_eq!(traffic.packet(Traffic::FLOW, 5), its_own, "a short pause will do after so long");
    traffic.pair.assert_all_frames_are_home();
}

#[test]
fn the_pause_that_lets_a_flow_move_is_longest_when_the_ports_have_just_changed() {
    let its_own = Traffic::port_of(Traffic::FLOW, &[1, 2, 3]);
    let moves_after = |settled_ms: u64, pause_ms: u64| {
        let mut traffic = Traffic::new();
        traffic.swing(10);
        traffic.publish(&[1, 2, 3]);
        assert_eq!(traffic.swing(settled_ms), [51820].into());
        traffic.packet(Traffic::FLOW, pause_ms) == its_own
    };
    for (settled_ms, pause_ms) in [(500, 50), (1900, 50), (4500, 13), (12_000, 2)] {
        assert!(moves_after(settled_ms, pause_ms), "{pause_ms} ms, {settled_ms} ms after the change");
    }
    for (settled_ms, pause_ms) in [(10, 100), (500, 45), (1900, 45), (4500, 11)] {
        assert!(!moves_after(settled_ms, pause_ms), "{pause_ms} ms, {settled_ms} ms after the change");
    }
}

#[test]
fn flows_at_their_own_ports_stay_there_however_many_there_are_and_however_they_pause() {
    let mut traffic = Traffic::new();
    traffic.publish(&[1, 2, 3]);
    traffic.pair.now += Duration::from_secs(12);
    let mut ports: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
    for round in 0..10 {
        traffic.pair.now += Duration::from_millis(3);
        for turn in 0..400 {
            // Each of two that share an entry comes first in every second round.
            let flow = if round % 2 == 0 { turn } else { 399 - turn };
            ports.entry(flow).or_default().insert(traffic.packet(flow, 0));
        }
    }
    assert!(ports.len() == 400 && ports.values().all(|ports| ports.len() == 1), "{ports:?}");
}

#[test]
fn a_flow_leaves_a_port_that_is_given_up_at_once() {
    let all = [1, 2, 3];
    let its_own = Traffic::port_of(Traffic::FLOW, &all);
    let place = PORTS.iter().position(|port| *port == its_own).expect("a port beside the main one") as u8 + 1;
    let rest: Vec<u8> = all.into_iter().filter(|slot| *slot != place).collect();
    let next = Traffic::port_of(Traffic::FLOW, &rest);
    let mut traffic = Traffic::new();
    traffic.publish(&all);
    traffic.pair.now += Duration::from_secs(1);
    assert_eq!(traffic.swing(100), [its_own].into());
    traffic.publish(&rest);
    assert_eq!(traffic.swing(100), [next].into());
    traffic.publish(&all);
    assert_eq!(traffic.swing(100), [next].into(), "it was given up once, but this flow is elsewhere");
    traffic.publish(&[]);
    assert_eq!(traffic.swing(100), [51820].into(), "the main port alone");
}

#[test]
fn packets_from_a_peers_other_ports_are_counted_and_are_no_roaming() {
    let mut pair = pair();
    let at = |port: u16| SocketAddr::new(pair.west.origin.remote.ip(), port);
    let alternates = Arc::new(Alternates::at(vec![(at(PORTS[0]), 1), (at(PORTS[1]), 2)]));
    let places = [pair.west.origin.remote, at(PORTS[1]), at(PORTS[0]), at(PORTS[1])];
    let unknown = at(PORTS[2]);
    change(&pair.east, |_, entry| entry.alternates = Some(Arc::clone(&alternates)));
    for remote in places {
        let datagrams = pair.west_seals(&eastward(0..5));
        assert_eq!(pair.east.receive(&datagrams, Origin { remote, local: None, slot: 0 }, pair.now).len(), 5);
    }
    let roamed = |reports: Vec<Report>| reports.iter().any(|report| matches!(report, Report::Roamed { .. }));
    assert!(!roamed(pair.east.reports()));
    assert_eq!([0, 1, 2, 3].map(|slot| alternates.received(slot)), [5, 5, 10, 0]);
    let datagrams = pair.west_seals(&eastward(0..5));
    pair.east.receive(&datagrams, Origin { remote: unknown, local: None, slot: 0 }, pair.now);
    assert!(roamed(pair.east.reports()), "another port is");
}
