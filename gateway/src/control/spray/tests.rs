//! Searches with real sockets, over loopback.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use landbridge_proto::Endpoint;

use super::*;
use crate::control::netlink::links::Link as Interface;
use crate::control::netlink::routes::{Route, RouteQuery};
use crate::control::paths::Ground;
use crate::datapath::report::{Link, Report, Waker};
use crate::datapath::tables::Tables;

const PEER: PeerId = PeerId { slot: 1, generation: 1 };
const OTHER: PeerId = PeerId { slot: 2, generation: 1 };

/// A kernel that is not asked.
struct Nowhere;

impl Network for Nowhere {
    fn route(&mut self, _query: &RouteQuery) -> io::Result<Route> {
        Err(io::ErrorKind::NetworkUnreachable.into())
    }
    fn link(&mut self, _index: u32) -> Option<Interface> {
        None
    }
    fn neighbour(&mut self, _if_index: u32, _address: IpAddr) -> Option<[u8; 6]> {
        None
    }
    fn home(&mut self, _address: IpAddr) -> Option<u32> {
        None
    }
    fn has_rule(&mut self, _source: IpAddr) -> bool {
        false
    }
    fn use_neighbour(&mut self, _if_index: u32, _address: IpAddr) {}
}

/// A driver with one lane that nobody runs, and the peer's socket.
fn lab() -> (Driver<Nowhere>, Link, UdpSocket) {
    let endpoint = Endpoint::new(Instant::now(), [7; 32]);
    let socket = ControlSocket::on_free_port(None).expect("a free port");
    let published = Arc::new(ArcSwap::from_pointee(Tables::new(1420)));
    let mut driver = Driver::new(endpoint, Nowhere, Ground::default(), socket, published);
    let link = Link {
        reports: Arc::new(ArrayQueue::new(64)),
        commands: Arc::new(ArrayQueue::new(64)),
        control: Waker::new().expect("an eventfd"),
        lane: Waker::new().expect("an eventfd"),
    };
    driver.set_lanes(vec![link.clone()]);
    let far = UdpSocket::bind("127.0.0.1:0").expect("loopback has room");
    far.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    (driver, link, far)
}

/// Sends as the endpoint asks it, and returns the port that the peer saw.
fn send(driver: &Driver<Nowhere>, far: &UdpSocket, slot: u16) -> Option<u16> {
    let remote = far.local_addr().expect("it is bound");
    let socket = driver.sprays.socket(Some(PEER), remote, slot)?;
    socket.send(remote, None, b"probe", false).expect("loopback takes it");
    let (_, from) = far.recv_from(&mut [0; 64]).expect("it arrives");
    Some(from.port())
}

/// The peer answers to a port; what the lane is given is returned.
fn answer(driver: &mut Driver<Nowhere>, link: &Link, far: &UdpSocket, port: u16) -> Command {
    let mut message = [0_u8; 32];
    message[0] = crate::datapath::transport::TRANSPORT_DATA;
    far.send_to(&message, ("127.0.0.1", port)).expect("loopback takes it");
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        driver.receive_spray(Instant::now());
        if let Some(command) = link.commands.pop() {
            return command;
        }
        assert!(Instant::now() < end, "it arrives");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn report(driver: &mut Driver<Nowhere>, link: &Link, peer: PeerId, remote: SocketAddr, slot: u16) {
    let packet = Box::from([0_u8; 40]);
    link.reports.push(Report::Channel { peer, remote, local: None, slot, packet }).expect("room for a report");
    driver.hear_lanes(Instant::now());
}

#[test]
fn the_socket_that_a_session_vouches_for_is_kept_as_a_source_port() {
    let (mut driver, link, far) = lab();
    let remote = far.local_addr().expect("it is bound");
    let now = Instant::now();
    driver.begin_spray(PEER, remote, 8, now);
    assert!(driver.sprays.due().is_some_and(|due| due > now));
    let ports: Vec<_> = (0..8).filter_map(|i| send(&driver, &far, SPRAY_SLOT + i)).collect();
    let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
    assert_eq!(distinct.len(), 8, "each socket has a port of its own");
    assert_eq!(send(&driver, &far, SPRAY_SLOT + 8), None);
    assert_eq!(send(&driver, &far, 0), None, "nobody was heard yet");
    let Command::Data { remote: from, slot, .. } = answer(&mut driver, &link, &far, ports[5]) else {
        panic!("data for the lane")
    };
    assert_eq!((from, slot), (remote, SPRAY_SLOT + 5));
    report(&mut driver, &link, OTHER, remote, slot);
    assert_eq!(send(&driver, &far, 0), None, "another peer's session says nothing of this one");
    report(&mut driver, &link, PEER, remote, slot);
    assert_eq!(send(&driver, &far, 0), Some(ports[5]), "what goes there leaves from the socket that was heard");
    driver.end_spray(PEER, None);
    assert_eq!((driver.sprays.due(), driver.sprays.slot_of(PEER, remote)), (None, 1));
    assert_eq!(driver.sprays.slot_of(OTHER, remote), 0);
    assert_eq!(driver.ports.iter().map(ControlSocket::port).collect::<Vec<_>>(), [ports[5]]);
    let Some(Command::Port { slot: 1, socket }) = link.commands.pop() else { panic!("a port for the lane") };
    assert_eq!(socket.local_addr().expect("it is bound").port(), ports[5]);
}

#[test]
fn a_search_that_heard_nobody_leaves_nothing() {
    let (mut driver, link, far) = lab();
    let remote = far.local_addr().expect("it is bound");
    let now = Instant::now();
    driver.begin_spray(PEER, remote, 4, now);
    driver.begin_spray(OTHER, remote, 4, now);
    assert!(driver.sprays.socket(Some(PEER), remote, SPRAY_SLOT + 3).is_some());
    driver.end_spray(OTHER, None);
    assert!(driver.sprays.due().is_some(), "the other one's search goes on");
    driver.end_spray(OTHER, Some(SPRAY_SLOT));
    assert!(driver.ports.is_empty(), "who has no search ends none");
    driver.run_sprays(now + LASTS);
    assert_eq!((driver.sprays.due(), driver.sprays.slot_of(PEER, remote)), (None, 0));
    assert!(driver.ports.is_empty() && link.commands.is_empty());
}

#[test]
fn searches_at_the_same_time_share_the_sockets_and_each_keeps_its_own() {
    let (mut driver, link, far) = lab();
    let other = UdpSocket::bind("127.0.0.1:0").expect("loopback has room");
    let places = [far.local_addr().expect("it is bound"), other.local_addr().expect("it is bound")];
    let now = Instant::now();
    driver.begin_spray(PEER, places[0], 4, now);
    driver.begin_spray(OTHER, places[1], 4, now);
    let ports: Vec<_> = (0..4).filter_map(|i| send(&driver, &far, SPRAY_SLOT + i)).collect();
    assert_eq!(ports.len(), 4);
    // A response names no peer: its place does.
    driver.sprays.note_answered(places[1], SPRAY_SLOT + 2);
    report(&mut driver, &link, PEER, places[0], SPRAY_SLOT + 1);
    driver.end_spray(OTHER, None);
    assert!(driver.sprays.due().is_some());
    driver.end_spray(PEER, None);
    assert_eq!((driver.sprays.slot_of(OTHER, places[1]), driver.sprays.slot_of(PEER, places[0])), (1, 2));
    assert_eq!(driver.ports.iter().map(ControlSocket::port).collect::<Vec<_>>(), [ports[2], ports[1]]);
    for n in 0..20 {
        driver.begin_spray(PeerId { slot: 10 + n, generation: 1 }, places[0], 1, now);
    }
    assert_eq!(driver.sprays.running.as_ref().map(|search| search.parties.len()), Some(PARTIES_MAX));
}

#[test]
fn the_place_of_a_peer_that_is_gone_is_used_again() {
    let (mut driver, _link, far) = lab();
    let remote = far.local_addr().expect("it is bound");
    for (peer, slot) in [(PEER, 1), (OTHER, 2), (PEER, 1)] {
        driver.begin_spray(peer, remote, 2, Instant::now());
        driver.end_spray(peer, Some(SPRAY_SLOT + 1));
        assert_eq!(driver.sprays.slot_of(peer, remote), slot);
    }
    driver.forget_sprays_of(OTHER);
    assert_eq!(driver.sprays.slot_of(OTHER, remote), 0);
    driver.begin_spray(OTHER, remote, 2, Instant::now());
    driver.end_spray(OTHER, Some(SPRAY_SLOT));
    assert_eq!((driver.sprays.slot_of(OTHER, remote), driver.ports.len()), (2, 2));
}

#[test]
fn places_of_peers_that_are_reached_elsewhere_are_used_again_once_there_is_no_other() {
    let (mut driver, _link, far) = lab();
    let remote = far.local_addr().expect("it is bound");
    let peer = |n: usize| PeerId { slot: 100 + n as u32, generation: 1 };
    for n in 0..=KEPT_MAX {
        driver.begin_spray(peer(n), remote, 1, Instant::now());
        driver.end_spray(peer(n), Some(SPRAY_SLOT));
    }
    assert_ne!(driver.sprays.slot_of(peer(KEPT_MAX), remote), 0);
    assert_eq!((driver.sprays.slot_of(peer(0), remote), driver.ports.len()), (0, KEPT_MAX));
}

#[test]
fn no_more_sockets_are_opened_than_one_search_may_have() {
    assert!(affordable(u16::MAX) <= SOCKETS_MAX);
    assert_eq!(affordable(3), 3);
}
