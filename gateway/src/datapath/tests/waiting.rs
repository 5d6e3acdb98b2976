//! What lanes and the control task tell each other, and packets that wait for it.

use std::thread;

use landbridge_proto::DropReason;
use landbridge_xsk::BURST;

use super::super::jobs::Job;
use super::super::wait;
use super::*;

/// West's tables without a session to seal with.
fn lose_session(pair: &Pair) {
    let path = path_to(pair.east.origin.remote);
    let mut tables = tables(2, &pair.west.session, Some(path.clone()));
    let entry = PeerEntry { path: Some(Arc::new(path)), ..PeerEntry::new(PEER, Arc::clone(&pair.west.shared)) };
    tables.peers.set(PEER.slot as usize, Some(Arc::new(entry)));
    pair.west.published.store(Arc::new(tables));
}

fn find_session(pair: &Pair) {
    let path = path_to(pair.east.origin.remote);
    pair.west.published.store(Arc::new(tables(2, &pair.west.session, Some(path))));
}

#[test]
fn packets_wait_for_a_session_and_leave_in_order_before_those_that_come_later() {
    let mut pair = Pair::new();
    lose_session(&pair);
    let packets = eastward(0..130);
    assert!(pair.west_seals(&packets[..100]).is_empty());
    let wanted = |reports: Vec<Report>| {
        reports.iter().filter(|report| matches!(report, Report::SessionWanted(peer) if *peer == PEER)).count()
    };
    assert_eq!(wanted(pair.west.reports()), 1, "the control task is told once");
    assert!(pair.west_seals(&packets[100..120]).is_empty());
    assert_eq!(wanted(pair.west.reports()), 0);
    find_session(&pair);
    let datagrams = pair.west_seals(&packets[120..]);
    assert_eq!(pair.east_opens(&datagrams), packets);
    assert_eq!(pair.west.drops(), vec![]);
    pair.assert_all_frames_are_home();
}

#[test]
fn the_oldest_waiting_packet_goes_when_there_are_too_many() {
    let mut pair = Pair::new();
    lose_session(&pair);
    let packets = eastward(0..200);
    assert!(pair.west_seals(&packets).is_empty());
    assert_eq!(pair.west.drops(), vec![(DropReason::PendingFull, 72)]);
    find_session(&pair);
    let datagrams = pair.west_seals(&[]);
    assert_eq!(pair.east_opens(&datagrams), packets[72..]);
    pair.assert_all_frames_are_home();
}

#[test]
fn packets_whose_handshake_was_given_up_are_dropped() {
    let mut pair = Pair::new();
    lose_session(&pair);
    assert!(pair.west_seals(&eastward(0..5)).is_empty());
    pair.west.command(Command::Abandon(PEER));
    pair.west.run(pair.now);
    assert_eq!(pair.west.drops(), vec![(DropReason::HandshakeFailed, 5)]);
    pair.assert_all_frames_are_home();
}

#[test]
fn a_session_out_of_counters_makes_its_packets_wait_unharmed() {
    let mut pair = Pair::new();
    pair.west.session.set_sent_messages(LIMITS.reject_after_messages - 2);
    let packets = eastward(0..5);
    assert!(pair.west_seals(&packets).is_empty());
    assert!(pair.west.reports().iter().any(|report| matches!(report, Report::SessionWanted(_))));
    pair.west.session.set_sent_messages(0);
    find_session(&pair);
    let datagrams = pair.west_seals(&[]);
    assert_eq!(pair.east_opens(&datagrams), packets);
    pair.assert_all_frames_are_home();
}

#[test]
fn an_expired_session_seals_nothing() {
    let mut pair = Pair::new();
    pair.now += Duration::from_secs(180);
    assert!(pair.west_seals(&eastward(0..5)).is_empty());
    assert_eq!(pair.west.session.sent_messages(), 0);
    pair.assert_all_frames_are_home();
}

#[test]
fn the_first_authentic_packet_confirms_and_marks_active_once() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        let datagrams = pair.west_seals(&eastward(0..4));
        assert_eq!(pair.east_opens(&datagrams).len(), 4);
    }
    let reports = pair.east.reports();
    let confirmed = reports.iter().filter(|report| matches!(report, Report::Confirmed(_))).count();
    let active = reports.iter().filter(|report| matches!(report, Report::Active(peer) if *peer == PEER)).count();
    assert_eq!((confirmed, active, reports.len()), (1, 1, 2));
}

#[test]
fn roaming_is_reported_once_and_only_for_what_is_new_and_authentic() {
    let mut pair = Pair::new();
    let elsewhere = Origin { remote: "203.0.113.9:4000".parse().expect("an address"), local: None, slot: 0 };
    let datagrams = pair.west_seals(&eastward(0..20));
    let roamed =
        |reports: Vec<Report>| reports.into_iter().filter(|report| matches!(report, Report::Roamed { .. })).count();
    let now = pair.now;
    assert_eq!(pair.east_opens(&datagrams[5..10]).len(), 5);
    assert_eq!(roamed(pair.east.reports()), 0, "the path in use");
    pair.east.receive(&datagrams[5..6], elsewhere, now);
    let mut forged = datagrams[11].clone();
    forged[30] ^= 1;
    pair.east.receive(&[forged], elsewhere, now);
    assert_eq!(pair.east.receive(&datagrams[..5], elsewhere, now).len(), 5);
    assert_eq!(roamed(pair.east.reports()), 0, "replayed, forged, or late");
    assert_eq!(pair.east.receive(&datagrams[10..15], elsewhere, now).len(), 5);
    assert_eq!(pair.east.receive(&datagrams[15..], elsewhere, now).len(), 5);
    assert_eq!(roamed(pair.east.reports()), 1);
}

#[test]
fn data_that_came_by_the_control_tasks_socket_is_opened_like_any_other() {
    let mut pair = Pair::new();
    let packets = eastward(0..3);
    for datagram in pair.west_seals(&packets) {
        let Origin { remote, local, .. } = pair.west.origin;
        pair.east.command(Command::Data { remote, local, slot: 0, bytes: datagram.into() });
    }
    assert_eq!(pair.east_opens(&[]), packets);
    pair.assert_all_frames_are_home();
}

/// Takes every job, as if slow helpers had them all.
fn all_jobs(site: &mut Site) -> Vec<Box<Job>> {
    std::iter::from_fn(|| site.lane.desk.job()).collect()
}

fn give_back(site: &mut Site, jobs: Vec<Box<Job>>) {
    jobs.into_iter().for_each(|job| site.lane.desk.put(job));
}

#[test]
fn waiting_packets_that_find_no_job_still_leave_before_those_that_come_later() {
    let mut pair = Pair::new();
    lose_session(&pair);
    let packets = eastward(0..230);
    assert!(pair.west_seals(&packets[..100]).is_empty());
    find_session(&pair);
    let jobs = all_jobs(&mut pair.west);
    assert!(pair.west_seals(&packets[100..]).is_empty());
    give_back(&mut pair.west, jobs);
    let datagrams = pair.west_seals(&[]);
    assert_eq!(pair.east_opens(&datagrams), packets);
    assert_eq!(pair.west.drops(), vec![]);
    pair.assert_all_frames_are_home();
}

#[test]
fn forwarded_data_beyond_a_burst_is_dropped_while_no_job_is_free() {
    let mut pair = Pair::new();
    let packets = eastward(0..200);
    let datagrams = pair.west_seals(&packets);
    let jobs = all_jobs(&mut pair.east);
    for datagram in datagrams {
        let Origin { remote, local, .. } = pair.west.origin;
        pair.east.command(Command::Data { remote, local, slot: 0, bytes: datagram.into() });
    }
    assert!(pair.east_opens(&[]).is_empty());
    assert_eq!(pair.east.drops(), vec![(DropReason::ControlQueueFull, 200 - BURST as u64)]);
    give_back(&mut pair.east, jobs);
    assert_eq!(pair.east_opens(&[]), packets[..BURST]);
    pair.assert_all_frames_are_home();
}

#[test]
fn many_forwarded_datagrams_take_one_job() {
    let mut pair = Pair::new();
    for datagram in pair.west_seals(&eastward(0..40)) {
        let Origin { remote, local, .. } = pair.west.origin;
        pair.east.command(Command::Data { remote, local, slot: 0, bytes: datagram.into() });
    }
    assert_eq!(pair.east_opens(&[]).len(), 40);
    assert_eq!(pair.east.lane.stats().jobs_own.value(), 1);
}

#[test]
fn calls_that_bring_nothing_do_not_make_a_lane_slow_to_hear() {
    let pair = Pair::new();
    let (stats, link) = (Arc::clone(pair.west.lane.stats()), pair.west.link.clone());
    let lane = pair.west.lane;
    let thread = thread::spawn(move || wait::run(lane, false));
    let started = Instant::now();
    let limit = started + Duration::from_secs(20);
    for _ in 0..400 {
        let loops = stats.loops.value();
        link.lane.wake();
        while stats.loops.value() == loops {
            assert!(Instant::now() < limit, "the lane does not hear");
            thread::yield_now();
        }
    }
    let elapsed = started.elapsed();
    link.commands.push(Command::Stop).expect("room for a command");
    link.lane.wake();
    thread.join().expect("the lane does not panic");
    assert!(elapsed < Duration::from_millis(1200), "400 calls were heard in {elapsed:?}");
}

#[test]
fn a_stopped_lane_brings_waiting_packets_home() {
    let mut pair = Pair::new();
    lose_session(&pair);
    assert!(pair.west_seals(&eastward(0..5)).is_empty());
    pair.west.command(Command::Stop);
    assert_eq!(pair.west.lane.poll_once(pair.now), Turn::Stopped);
    pair.assert_all_frames_are_home();
}
