//! Body of the fuzz target `relay`: whatever comes to the ports of a relay, in whatever order its ends are bound, and in
//! whatever company it leaves.
//!
//! Enters: any bytes, as a row of steps. Leaves: nothing; panics where an end forwards what it should not, more than its rate,
//! or in messages that the kernel would cut elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use landbridge_ebpf_common::RelayRate;
use landbridge_proto::{DropReason, Endpoint, Event, KEY_LEN, PeerConfig, Session, WallClock, is_made_for};

use super::Place;
use super::admit::{Door, Link, Verdict};
use super::message::{self, Sealed};
use super::rate::Bucket;
use super::staged::{SEGMENTS, SEND_MAX, Staged};
use crate::datapath::tables::Tables;

const SILENCE: Duration = Duration::from_secs(5);
/// What a datagram of a step is padded to at most.
const LONGEST: usize = 2048;
/// Datagrams of one input at most.
const DATAGRAMS: usize = 256;
/// Headers that count.
const HEADERS: usize = 28;

/// A live session of ours, and an initiation that its peer made for a third one.
struct Fixture {
    session: Arc<Session>,
    third: [u8; KEY_LEN],
    initiation: Vec<u8>,
}

/// Made once: handshakes take longer than everything else here.
fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let (now, wall) = (Instant::now(), WallClock(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30)));
        let make = |byte: u8| {
            let mut endpoint = Endpoint::new(now, [byte; 32]);
            endpoint.set_private_key(Some([byte; KEY_LEN]), now);
            let key = endpoint.public_key().expect("it has a key");
            (endpoint, key)
        };
        let [(mut ours, our_key), (mut theirs, their_key), (_, third)] = [1, 2, 3].map(make);
        let config = |port| PeerConfig { endpoint: Some(([192, 0, 2, 1], port).into()), ..PeerConfig::default() };
        let first_of = |endpoint: &mut Endpoint, key, port| {
            let peer = endpoint.add_peer(key, config(port), now).expect("room for a peer");
            endpoint.handle_session_wanted(now, peer);
            said(endpoint, now, wall).into_iter().find(|bytes| bytes.len() == 148).expect("an initiation")
        };
        let initiation = first_of(&mut theirs, third, 3);
        ours.add_peer(their_key, config(2), now);
        let question = first_of(&mut theirs, our_key, 1);
        let from = ([192, 0, 2, 1], 2).into();
        assert!(ours.handle_datagram(now, wall, from, None, &question).is_ok(), "the handshake is right");
        let started = |event| match event {
            Event::SessionStarted { session, .. } => Some(session),
            _ => None,
        };
        // A responder's session begins with its answer.
        let session = std::iter::from_fn(|| ours.poll_event()).find_map(started);
        let session = session.or_else(|| {
            said(&mut ours, now, wall);
            std::iter::from_fn(|| ours.poll_event()).find_map(started)
        });
        Fixture { session: session.expect("a session"), third, initiation }
    })
}

fn said(endpoint: &mut Endpoint, now: Instant, wall: WallClock) -> Vec<Vec<u8>> {
    let mut buffer = [0; Endpoint::MAX_TRANSMIT];
    let mut all = Vec::new();
    while let Some(transmit) = endpoint.poll_transmit(now, wall, &mut buffer) {
        all.push(buffer[..transmit.len].to_vec());
    }
    all
}

/// One of a few places; `None` where the kernel does not tell our address.
fn place(byte: u8) -> Option<Place> {
    let remote: SocketAddr = match byte & 4 {
        0 => ([198, 51, 100, byte & 1], 7 + u16::from(byte >> 1 & 1)).into(),
        _ => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(byte & 1)], 7).into(),
    };
    let local: IpAddr = if remote.is_ipv4() { [192, 0, 2, 1].into() } else { [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1].into() };
    (byte & 0x80 == 0).then_some(Place { remote, local })
}

/// Steps of four bytes, a datagram's head behind those that are one: what to do, how, and two of length.
pub fn relay(data: &[u8]) {
    let Fixture { session, third, initiation } = fixture();
    let mut tables = Tables::new(1420);
    tables.sessions.set(session.local_index.slot(), Some(Arc::clone(session)));
    let start = Instant::now();
    let Some((&first, mut rest)) = data.split_first() else { return };
    let rate = RelayRate::of_mbps([0, 1, 100, 1000][usize::from(first & 3)]);
    let link = (first & 4 != 0).then_some(Link { other: *third, expected: None });
    let mut door = Door { place: None, heard: None, bucket: Bucket::new(rate, None, start), link };
    let (mut now, mut forwarded) = (start, Vec::new());
    let (mut count, mut bytes_counted) = (0, 0);
    while let Some(([what, how, low, high], behind)) = rest.split_first_chunk() {
        rest = behind;
        match what & 7 {
            0 => now += Duration::from_millis(u64::from(*how) * u64::from(*low)),
            1 => (door.place, door.heard) = (place(*how), None),
            2 => {
                if let Some(link) = &mut door.link {
                    link.expected = place(*how).map(|place| place.remote.ip());
                }
            }
            _ if count >= DATAGRAMS => {}
            kind => {
                count += 1;
                let len = usize::from(u16::from_le_bytes([*low, *high])) % LONGEST;
                let mut bytes = match kind {
                    3 => initiation.clone(),
                    _ => {
                        let (head, behind) = rest.split_at(rest.len().min(8));
                        rest = behind;
                        head.to_vec()
                    }
                };
                match kind {
                    3 => {
                        let at = usize::from(*low) % bytes.len();
                        bytes[at] ^= high & 0x11;
                    }
                    4 => {
                        bytes.resize(len.max(32), 0);
                        bytes[..4].copy_from_slice(&[4, 0, 0, 0]);
                        bytes[4..8].copy_from_slice(&session.local_index.0.to_le_bytes());
                        bytes[4] ^= high & 0x40;
                    }
                    _ => bytes.resize(len, 0),
                }
                let hops = (what & 8 == 0).then_some(what >> 4);
                let from = place(*how);
                let verdict = door.admit(from, hops, &bytes, &tables, (now, SILENCE));
                judge(&door, verdict, (from, hops, &bytes), &tables);
                if verdict == Verdict::Found {
                    door.place = from;
                }
                if matches!(verdict, Verdict::Forward | Verdict::Found) {
                    bytes_counted += bytes.len() + HEADERS;
                    forwarded.push((bytes, how >> 4 & 3, hops));
                }
            }
        }
    }
    if rate.ns_per_64kib != 0 {
        // One datagram may go beyond the burst; each that counts is rounded down by a nanosecond at most.
        let counted = RelayRate::ns(rate.ns_per_64kib, bytes_counted as u32);
        let longest = RelayRate::ns(rate.ns_per_64kib, (LONGEST + HEADERS) as u32);
        let permitted = (now - start).as_nanos() as u64 + u64::from(rate.burst_ns) + longest + DATAGRAMS as u64;
        assert!(counted <= permitted, "{counted} ns of {permitted} ns");
    }
    leave(&forwarded, usize::from(first >> 3) + 1);
}

/// What must hold of a verdict, whatever led to it.
fn judge(door: &Door, verdict: Verdict, seen: (Option<Place>, Option<u8>, &[u8]), tables: &Tables) {
    let (from, hops, bytes) = seen;
    let sealed = message::parse(bytes);
    let own = matches!(sealed, Some(Sealed::Data(index)) if tables.session(index).is_some());
    assert_eq!(verdict == Verdict::Own, own, "what is sealed for us, and nothing else, is ours");
    match verdict {
        Verdict::Forward => assert!(from.is_some() && door.place == from, "from a bound place"),
        Verdict::Found => {
            let link = door.link.as_ref().expect("only a stock peer is found");
            let from = from.expect("at a place");
            assert_eq!(link.expected, Some(from.remote.ip()), "at the address of its session");
            assert!(sealed != Some(Sealed::Handshake) || is_made_for(&link.other, bytes), "for the other end");
        }
        Verdict::Own => return,
        Verdict::Drop(DropReason::RelayHopLimit) => assert!(hops.is_some_and(|hops| hops <= 1)),
        Verdict::Drop(_) => {}
    }
    if !matches!(verdict, Verdict::Drop(_)) {
        assert!(sealed.is_some() && hops.is_none_or(|hops| hops > 1), "a message of WireGuard with a way to go");
    }
}

/// Puts together what leaves, and holds that to what the kernel will cut it into.
fn leave(forwarded: &[(Vec<u8>, u8, Option<u8>)], segments_max: usize) {
    let mut staged = Staged::default();
    let mut left: Vec<&[u8]> = Vec::new();
    for (bytes, ecn, hops) in forwarded {
        if !staged.joins(segments_max, bytes, *ecn, *hops) {
            check(&mut staged, &mut left, segments_max);
        }
        staged.push(bytes, *ecn, *hops);
        assert_eq!((staged.ecn, staged.hops), (*ecn, *hops), "marks of one are the marks of all");
    }
    check(&mut staged, &mut left, segments_max);
    assert!(left.iter().zip(forwarded).all(|(left, (bytes, ..))| left == bytes), "in their order");
    assert_eq!(left.len(), forwarded.len(), "none is left behind");
}

fn check<'b>(staged: &mut Staged<'b>, left: &mut Vec<&'b [u8]>, segments_max: usize) {
    let slices = &staged.slices;
    assert!(slices.len() <= segments_max.min(SEGMENTS) && staged.bytes <= SEND_MAX);
    assert_eq!(staged.bytes, slices.iter().map(|bytes| bytes.len()).sum::<usize>());
    if let (Some(first), Some((last, before))) = (slices.first(), slices.split_last()) {
        let whole = before.iter().all(|bytes| bytes.len() == first.len());
        assert!(whole && last.len() <= first.len(), "only the last is shorter");
    }
    left.extend(slices.iter().copied());
    staged.clear();
}
