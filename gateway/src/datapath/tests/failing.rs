//! Sides that fail, and lanes that do: the control task hears of it, once, and nothing spins.

use std::io;

use landbridge_xsk::Burst;
use rustix::io::Errno;

use super::super::lan_table::LanTable;
use super::super::lanes;
use super::super::side::{Datagrams, Lan, Outgoing, PollSet, Wan};
use super::super::stats::LaneStats;
use super::*;

/// What a side does when it is asked to receive.
enum Ill {
    Gone,
    Panics,
    CannotSend,
}

impl Wan for Ill {
    fn receive(&mut self, _: &mut Pool, _: &mut Datagrams, _: &LaneStats) -> io::Result<()> {
        match self {
            Self::Panics => panic!("a lane came to grief"),
            _ => Ok(()),
        }
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Burst, _: Outgoing<'_>, _: &LaneStats) {
        frames.drain(..).for_each(|frame| pool.put(frame));
    }

    fn flush(&mut self, _: &mut Pool, _: &LaneStats) -> io::Result<()> {
        match self {
            Self::CannotSend => Err(Errno::NXIO.into()),
            _ => Ok(()),
        }
    }

    fn poll_set<'a>(&'a self, _: &mut PollSet<'a>) {}

    fn replace_socket(&mut self, _: std::net::UdpSocket) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _: &mut Pool) {}
}

impl Lan for Ill {
    fn receive(&mut self, _: &mut Pool, _: &mut Burst, _: &LaneStats) -> io::Result<()> {
        match self {
            Self::Gone => Err(Errno::BADFD.into()),
            _ => Err(Errno::IO.into()),
        }
    }

    fn transmit(&mut self, _: &mut Pool, _: &mut Burst, _: &LanTable, _: &LaneStats) -> io::Result<()> {
        Err(Errno::IO.into())
    }

    fn flush(&mut self, _: &mut Pool, _: &LaneStats) -> io::Result<()> {
        Ok(())
    }

    fn poll_set<'a>(&'a self, _: &mut PollSet<'a>) {}

    fn close(&mut self, _: &mut Pool) {}
}

fn reports(link: &Link) -> Vec<Report> {
    std::iter::from_fn(|| link.reports.pop()).collect()
}

#[test]
fn a_tunnel_interface_that_is_gone_is_told_once_and_left_alone() {
    let pair = Pair::new();
    let link = link();
    let published = Arc::clone(&pair.west.published);
    let mut lane = Lane::alone(MemoryWan::default(), Ill::Gone, memory(), published, link.clone());
    for _ in 0..3 {
        assert_eq!(lane.poll_once(pair.now), Turn::Idle);
    }
    assert!(matches!(reports(&link)[..], [Report::LanGone]));
}

#[test]
fn a_tunnel_interface_that_is_down_costs_its_packets_and_nothing_else() {
    let mut pair = Pair::new();
    let datagrams = pair.west_seals(&eastward(0..100));
    let link = link();
    let mut lane =
        Lane::alone(MemoryWan::default(), Ill::CannotSend, memory(), Arc::clone(&pair.east.published), link.clone());
    for datagram in &datagrams {
        let mut frame = lane.pool().take_for(datagram.len()).expect("a free frame");
        frame.append(datagram.len()).expect("room").copy_from_slice(datagram);
        lane.wan().arrived.push_back((frame, pair.west.origin));
    }
    while lane.poll_once(pair.now) == Turn::Busy {}
    assert_eq!(lane.stats().dropped(DropReason::LanError), 100);
    assert!(reports(&link).iter().all(|report| matches!(report, Report::Confirmed(_) | Report::Active(_))));
    let mut pool = lane.close(pair.now);
    assert_eq!(pool.free(), pool.total());
}

#[test]
fn rings_that_cannot_send_are_told_once_a_second() {
    let pair = Pair::new();
    let link = link();
    let published = Arc::clone(&pair.west.published);
    let mut lane = Lane::alone(Ill::CannotSend, MemoryLan::default(), memory(), published, link.clone());
    let failed = |link: &Link| reports(link).iter().filter(|report| matches!(report, Report::WanFailed(_))).count();
    for (after_ms, told) in [(0, 1), (10, 0), (999, 0), (1001, 1), (1500, 0)] {
        let packet = &eastward(0..1)[0];
        let mut frame = lane.pool().take_for(packet.len()).expect("a free frame");
        frame.append(packet.len()).expect("room").copy_from_slice(packet);
        lane.lan().arrived.push_back(frame);
        while lane.poll_once(pair.now + Duration::from_millis(after_ms)) == Turn::Busy {}
        assert_eq!(failed(&link), told, "after {after_ms} ms");
    }
}

#[test]
fn a_lane_that_fails_says_so_instead_of_vanishing() {
    let pair = Pair::new();
    let link = link();
    let published = Arc::clone(&pair.west.published);
    let lane = Lane::alone(Ill::Panics, MemoryLan::default(), memory(), published, link.clone());
    assert!(!lanes::supervise(7, None, lane, false));
    let [Report::LaneFailed(what)] = &reports(&link)[..] else { panic!("one report") };
    assert_eq!(what, "lane 7: a lane came to grief");
}
