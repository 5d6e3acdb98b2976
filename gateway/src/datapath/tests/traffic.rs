//! Good packets over good and bad wires.

use landbridge_proto::DropReason;

use super::*;

#[test]
fn packets_cross_in_both_directions_in_order_and_unchanged() {
    let mut pair = Pair::new();
    let eastward = eastward(0..1000);
    for part in eastward.chunks(300) {
        let datagrams = pair.west_seals(part);
        assert_eq!(datagrams.len(), part.len());
        assert!(datagrams.iter().all(|datagram| datagram.len() % 16 == 0 || datagram.len() == MTU as usize + 32));
        assert_eq!(pair.east_opens(&datagrams), part);
    }
    let source = "fd00:2::1".parse().expect("an address");
    let back = vec![packet_v6(source, "fd00:1::1".parse().expect("an address"), 700); 3];
    let datagrams = pair.east.send(&back, pair.now);
    let origin = pair.east.origin;
    assert_eq!(pair.west.receive(&datagrams, origin, pair.now), back);

    let bytes: usize = eastward.iter().map(Vec::len).sum();
    assert_eq!(pair.west.lane.stats().lan_rx_bytes.value(), bytes as u64);
    assert_eq!(pair.east.lane.stats().lan_tx_bytes.value(), bytes as u64);
    assert_eq!((pair.west.shared.tx_packets(), pair.east.shared.rx_packets()), (1000, 1000));
    assert_eq!(pair.west.shared.tx_bytes(), pair.east.shared.rx_bytes());
    assert_eq!((pair.west.drops(), pair.east.drops()), (vec![], vec![]));
    pair.assert_all_frames_are_home();
}

#[test]
fn loss_and_reordering_cost_no_more_than_what_was_lost() {
    let mut pair = Pair::new();
    let packets = eastward(0..600);
    let mut datagrams = pair.west_seals(&packets);
    // Every seventh is lost; the others arrive back to front in groups of fifty.
    let mut place = 0;
    datagrams.retain(|_| {
        place += 1;
        place % 7 != 0
    });
    for group in datagrams.chunks_mut(50) {
        group.reverse();
    }
    let arrived = pair.east_opens(&datagrams);
    assert_eq!(arrived.len(), datagrams.len());
    assert!(arrived.iter().all(|packet| packets.contains(packet)));
    assert_eq!(pair.east.drops(), vec![]);
    pair.assert_all_frames_are_home();
}

#[test]
fn duplicates_are_delivered_once_within_a_burst_and_across_bursts() {
    let mut pair = Pair::new();
    let packets = eastward(0..10);
    let datagrams = pair.west_seals(&packets);
    let twice: Vec<_> = datagrams.iter().flat_map(|datagram| [datagram.clone(), datagram.clone()]).collect();
    assert_eq!(pair.east_opens(&twice), packets);
    assert_eq!(pair.east.dropped(DropReason::Replayed), 10);
    assert!(pair.east_opens(&datagrams).is_empty());
    assert_eq!(pair.east.dropped(DropReason::Replayed), 20);
    pair.assert_all_frames_are_home();
}

#[test]
fn a_packet_behind_the_window_is_dropped() {
    let mut pair = Pair::new();
    let old = pair.west_seals(&eastward(0..1));
    pair.west.session.set_sent_messages(9000);
    let young = pair.west_seals(&eastward(1..2));
    assert_eq!(pair.east_opens(&young).len(), 1);
    assert!(pair.east_opens(&old).is_empty());
    assert_eq!(pair.east.drops(), vec![(DropReason::Replayed, 1)]);
}

#[test]
fn jumbo_packets_cross() {
    let mut pair = Pair::new();
    for site in [&mut pair.west, &mut pair.east] {
        let mut tables = Tables::clone(&site.published.load());
        tables.mtu = 36_000;
        site.published.store(Arc::new(tables));
    }
    let packets: Vec<_> = [5000, 36_000, 100].iter().map(|len| packet([10, 1, 0, 1], [10, 2, 0, 1], 1, *len)).collect();
    let datagrams = pair.west_seals(&packets);
    assert_eq!(pair.east_opens(&datagrams), packets);
    pair.assert_all_frames_are_home();
}

#[test]
fn a_congestion_mark_of_the_outer_packet_reaches_the_inner_one_and_inner_ecn_is_shown_outside() {
    let mut pair = Pair::new();
    let mut packet = packet([10, 1, 0, 1], [10, 2, 0, 1], 1, 100);
    packet[1] = 2;
    let frame = pair.west.frame(&packet);
    pair.west.lane.lan().arrived.push_back(frame);
    pair.west.run(pair.now);
    let ecn: Vec<u8> = pair.west.lane.wan().sent.iter().map(|sent| sent.ecn).collect();
    assert_eq!(ecn, [2]);
}

#[test]
fn a_lan_side_that_is_full_drops_and_counts() {
    let mut pair = Pair::new();
    pair.east.lane.lan().limit = Some(4);
    let datagrams = pair.west_seals(&eastward(0..10));
    assert_eq!(pair.east_opens(&datagrams).len(), 4);
    assert_eq!(pair.east.drops(), vec![(DropReason::LanFull, 6)]);
    pair.assert_all_frames_are_home();
}

#[test]
fn keepalives_are_accounted_and_go_no_further() {
    let mut pair = Pair::new();
    let mut message = vec![0; 32];
    let counter = pair.west.session.take_counters(1).expect("a counter");
    let receiver = pair.west.session.remote_index;
    super::super::transport::TransportHeader { receiver, counter }.write(&mut message);
    pair.west.session.seal_key().seal(counter, &mut message[16..]);
    assert!(pair.east_opens(&[message]).is_empty());
    assert_eq!(pair.east.lane.stats().keepalives_received.value(), 1);
    assert!(pair.east.shared.any_received().is_some());
    assert_eq!(pair.east.shared.data_received(), None);
    assert_eq!(pair.east.drops(), vec![]);
    pair.assert_all_frames_are_home();
}
