//! Lanes that get no turn, and sides that take nothing: what it costs is counted, others go on, and it ends.

use super::*;

/// Packets from east's site to west's, numbered.
fn westward(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers.map(|number| packet([10, 2, 0, 1], [10, 1, 0, 1], number, 100)).collect()
}

#[test]
fn a_lane_that_gets_no_turn_keeps_its_neighbour_waiting_for_nothing() {
    let mut pair = Pair::new();
    let links = [link(), link()];
    let member = |link: &Link| (MemoryWan::default(), MemoryLan::default(), memory(), link.clone());
    let mut crew = Lane::crew(links.iter().map(member).collect(), &pair.west.published);
    let mut starved = crew.pop().expect("two lanes");
    let mut lane = crew.pop().expect("two lanes");
    // It said that it would help before it lost its core, and packets of its own wait for it.
    starved.set_idle(true);
    let own = packet([10, 1, 0, 1], [10, 2, 0, 1], 9999, 100);
    let mut frame = starved.pool().take_for(own.len()).expect("a free frame");
    frame.append(own.len()).expect("room").copy_from_slice(&own);
    starved.lan().arrived.push_back(frame);
    let packets = eastward(0..1000);
    for packet in &packets {
        let mut frame = lane.pool().take_for(packet.len()).expect("a free frame");
        frame.append(packet.len()).expect("room").copy_from_slice(packet);
        lane.lan().arrived.push_back(frame);
    }
    let mut turns = 0;
    while lane.poll_once(pair.now) == Turn::Busy {
        turns += 1;
        assert!(turns < 100, "it comes to rest");
    }
    let sent: Vec<_> = lane.wan().sent.drain(..).map(|sent| sent.frame).collect();
    let datagrams: Vec<Vec<u8>> = sent.iter().map(|frame| frame.data().to_vec()).collect();
    sent.into_iter().for_each(|frame| lane.pool().put(frame));
    assert_eq!(pair.east_opens(&datagrams), packets, "all of them, in order, without the other lane");
    // With its core back it goes on.
    while starved.poll_once(pair.now) == Turn::Busy {}
    let late: Vec<Vec<u8>> = starved.wan().sent.iter().map(|sent| sent.frame.data().to_vec()).collect();
    assert_eq!(pair.east_opens(&late), [own]);
    for lane in [lane, starved] {
        let mut pool = lane.close(pair.now);
        assert_eq!(pool.free(), pool.total());
    }
    pair.assert_all_frames_are_home();
}

#[test]
fn a_lan_that_stops_costs_its_own_packets_while_the_other_direction_goes_on_and_recovers_in_order() {
    let mut pair = Pair::new();
    let mut sent = 0..;
    for (limit, arriving) in [(Some(0), 0), (None, 300), (Some(0), 0), (None, 300)] {
        pair.east.lane.lan().limit = limit;
        let first = sent.next().expect("endless");
        sent.nth(298);
        let packets = eastward(first..first + 300);
        let datagrams = pair.west_seals(&packets);
        // Both directions in the same turns.
        let back = westward(first..first + 300);
        for packet in &back {
            let frame = pair.east.frame(packet);
            pair.east.lane.lan().arrived.push_back(frame);
        }
        let arrived = pair.east_opens(&datagrams);
        assert_eq!(arrived, packets[..arriving]);
        let returned = pair.east.take_datagrams();
        let origin = pair.east.origin;
        assert_eq!(pair.west.receive(&returned, origin, pair.now), back);
    }
    assert_eq!(pair.east.drops(), vec![(DropReason::LanFull, 600)]);
    assert_eq!(pair.west.drops(), vec![]);
    pair.assert_all_frames_are_home();
}
