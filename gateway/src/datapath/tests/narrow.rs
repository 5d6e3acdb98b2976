//! Peers whose path carries less than the tunnel's MTU.

use landbridge_proto::DropReason;

use super::*;
use crate::datapath::crafted::{ACK, Crafted, check_spec};
use crate::datapath::tables::MTU_UNKNOWN;

const NARROW: u32 = 1220;
const SYN: u8 = 0x02;

fn set_mtu(site: &Site, mtu: u32) {
    let mut tables = Tables::clone(&site.published.load());
    let mut entry = PeerEntry::clone(tables.peer(PEER).expect("the peer"));
    entry.mtu = mtu;
    tables.peers.set(PEER.slot as usize, Some(Arc::new(entry)));
    site.published.store(Arc::new(tables));
}

/// Both ends know that no more than [`NARROW`] bytes pass, and own the addresses of crafted packets.
fn pair() -> Pair {
    let pair = Pair::new();
    for site in [&pair.west, &pair.east] {
        let mut tables = Tables::clone(&site.published.load());
        let mut routes = AllowedIps::clone(&tables.routes);
        for prefix in ["10.0.0.0/15", "fc00::/7"] {
            routes.insert(prefix.parse().expect("a prefix"), PEER);
        }
        tables.routes = Arc::new(routes);
        site.published.store(Arc::new(tables));
        set_mtu(site, NARROW);
    }
    pair
}

fn syn(v6: bool, flags: u8, size: u16) -> Vec<u8> {
    let [high, low] = size.to_be_bytes();
    Crafted { v6, flags, options: vec![2, 4, high, low], ..Crafted::tcp(7, 1, 0) }.bytes()
}

/// What the hosts of a site were told.
fn told(site: &mut Site) -> Vec<Vec<u8>> {
    let sent: Vec<_> = site.lane.lan().sent.drain(..).collect();
    sent.into_iter().map(|frame| site.empty(frame)).collect()
}

#[test]
fn connections_in_both_directions_announce_segments_that_fit() {
    for (v6, headers) in [(false, 40), (true, 60)] {
        let expected = NARROW as u16 - headers;
        let mut pair = pair();
        // The initiator's gateway alone knows of the narrow path: what goes out and what comes in is both its work.
        set_mtu(&pair.east, MTU_UNKNOWN);
        let datagrams = pair.west_seals(&[syn(v6, SYN, 1380)]);
        assert_eq!(pair.east_opens(&datagrams), [syn(v6, SYN, expected)]);
        let answer = pair.east.send(&[syn(v6, SYN | ACK, 1360)], pair.now);
        let origin = pair.east.origin;
        assert_eq!(pair.west.receive(&answer, origin, pair.now), [syn(v6, SYN | ACK, expected)]);
        assert_eq!(pair.west.lane.stats().mss_clamped.value(), 2);
        pair.assert_all_frames_are_home();
    }
}

#[test]
fn a_path_as_wide_as_the_tunnel_changes_nothing() {
    let mut pair = pair();
    set_mtu(&pair.west, MTU);
    set_mtu(&pair.east, MTU_UNKNOWN);
    let packets = [syn(false, SYN, 1460), Crafted::tcp(7, 1, 1368).bytes()];
    let datagrams = pair.west_seals(&packets);
    assert_eq!(pair.east_opens(&datagrams), packets);
    assert!(told(&mut pair.west).is_empty());
    pair.assert_all_frames_are_home();
}

#[test]
fn tcp_segments_that_do_not_fit_are_cut_in_order_and_their_sender_is_told() {
    for v6 in [false, true] {
        let mut pair = pair();
        let segments: Vec<Crafted> = (0..200).map(|i| Crafted { v6, ..Crafted::tcp(7, i * 1348, 1348) }).collect();
        let packets: Vec<_> = segments.iter().map(Crafted::bytes).collect();
        let datagrams = pair.west_seals(&packets);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= NARROW as usize + 32));
        let segment_len = NARROW as usize - segments[0].header_len();
        let expected: Vec<_> =
            segments.iter().flat_map(|segment| segment.cut(segment_len)).map(|piece| piece.bytes()).collect();
        assert_eq!(expected.len(), 400);
        assert_eq!(pair.east_opens(&datagrams), expected, "v6 {v6}");
        let told = told(&mut pair.west);
        assert_eq!(told.len(), 32, "no more than a lane tells at once");
        let mtu = if v6 { u32::from_be_bytes(told[0][44..48].try_into().expect("four")) } else { NARROW };
        assert_eq!(mtu, if v6 { 1280 } else { NARROW });
        assert_eq!(pair.west.drops(), []);
        assert_eq!(pair.west.lane.stats().tcp_cut.value(), 200);
        pair.assert_all_frames_are_home();
    }
}

#[test]
fn what_is_not_to_be_fragmented_is_dropped_and_its_sender_told() {
    let mut pair = pair();
    let packet = Crafted::udp(7, 1, 1300).bytes();
    assert!(pair.west_seals(std::slice::from_ref(&packet)).is_empty());
    let told = told(&mut pair.west);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0][20..22], [3, 4]);
    assert_eq!(told[0][26..28], (NARROW as u16).to_be_bytes());
    assert_eq!(told[0][28..48], packet[..20]);
    assert_eq!(pair.west.drops(), [(DropReason::TooBig, 1)]);
    pair.assert_all_frames_are_home();
}

#[test]
fn what_may_be_fragmented_goes_as_it_is() {
    let mut pair = pair();
    let may = Crafted { dont_fragment: false, ..Crafted::udp(7, 1, 1300) }.bytes();
    // IPv6 carries 1280 bytes everywhere.
    let must = Crafted { v6: true, ..Crafted::udp(7, 1, 1280 - 48) }.bytes();
    let over = Crafted { v6: true, ..Crafted::udp(7, 1, 1281 - 48) }.bytes();
    let datagrams = pair.west_seals(&[may.clone(), must.clone(), over]);
    assert_eq!(pair.east_opens(&datagrams), [may, must]);
    let told = told(&mut pair.west);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0][40], 2, "packet too big");
    assert_eq!(pair.west.drops(), [(DropReason::TooBig, 1)]);
    pair.assert_all_frames_are_home();
}

#[test]
fn packets_of_other_flows_keep_their_order_between_cut_ones() {
    let mut pair = pair();
    let small = |number: u16| Crafted::udp(9, number, 100).bytes();
    let packets: Vec<_> = (0..150)
        .map(|number| match number % 3 {
            0 => Crafted::tcp(7, u32::from(number) * 10_000, 1348).bytes(),
            _ => small(number),
        })
        .collect();
    let datagrams = pair.west_seals(&packets);
    let arrived = pair.east_opens(&datagrams);
    assert_eq!(arrived.len(), 200);
    assert!(arrived.iter().all(|packet| check_spec(packet).is_ok()));
    let numbers = |of_udp: bool| {
        let of = arrived.iter().map(|bytes| Crafted::read(bytes)).filter(move |packet| packet.tcp != of_udp);
        of.map(|packet| if packet.tcp { packet.sequence } else { u32::from(packet.id) }).collect::<Vec<_>>()
    };
    assert!(numbers(true).is_sorted() && numbers(false).is_sorted());
    pair.assert_all_frames_are_home();
}

#[test]
fn packets_that_waited_for_a_session_are_made_to_fit_as_well() {
    let mut pair = pair();
    let entry = Arc::clone(pair.west.published.load().peer(PEER).expect("the peer"));
    let mut tables = Tables::clone(&pair.west.published.load());
    let without = PeerEntry { session: None, ..PeerEntry::clone(&entry) };
    tables.peers.set(PEER.slot as usize, Some(Arc::new(without)));
    pair.west.published.store(Arc::new(tables.clone()));
    let segments: Vec<Crafted> = (0..100).map(|i| Crafted::tcp(7, i * 1348, 1348)).collect();
    let packets: Vec<_> = segments.iter().map(Crafted::bytes).collect();
    assert!(pair.west_seals(&packets).is_empty());
    tables.peers.set(PEER.slot as usize, Some(entry));
    pair.west.published.store(Arc::new(tables));
    pair.west.run(pair.now);
    let datagrams = pair.west.take_datagrams();
    let arrived = pair.east_opens(&datagrams);
    assert_eq!(arrived.len(), 200);
    assert!(arrived.iter().all(|packet| packet.len() <= NARROW as usize && check_spec(packet).is_ok()));
    told(&mut pair.west);
    pair.assert_all_frames_are_home();
}
