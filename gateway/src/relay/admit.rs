//! What becomes of a datagram at a port of the relay.
//!
//! Enters: where a message of datagrams came from, one datagram of it, the end whose port it came to. Leaves: whether it goes
//! to the other end, to the control task, or nowhere and why; and whether it binds a stock peer's end.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use landbridge_proto::{DropReason, is_made_for};

use super::Place;
use super::message::{self, Sealed};
use super::rate::Bucket;
use crate::datapath::tables::Tables;

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To the other end.
    Forward,
    /// To the other end; this one is bound to where it came from.
    Found,
    /// It is sealed for this gateway.
    Own,
    /// Nowhere.
    Drop(DropReason),
}

/// How a stock peer is bound to its end.
#[derive(Debug)]
pub(super) struct Link {
    /// The public key of the other one, for whom handshakes have to be made.
    pub(super) other: [u8; 32],
    /// The address that the peer's session with us comes from.
    pub(super) expected: Option<IpAddr>,
}

/// What is asked of an end.
#[derive(Debug)]
pub(super) struct Door {
    /// Where the end is.
    pub(super) place: Option<Place>,
    /// When it was last heard there.
    pub(super) heard: Option<Instant>,
    pub(super) bucket: Bucket,
    pub(super) link: Option<Link>,
}

impl Door {
    /// Looks at one datagram. `from` is complete where the kernel told our address.
    pub(super) fn admit(
        &mut self,
        from: Option<Place>,
        hops: Option<u8>,
        bytes: &[u8],
        tables: &Tables,
        (now, link_silence): (Instant, Duration),
    ) -> Verdict {
        let sealed = message::parse(bytes);
        if let Some(Sealed::Data(index)) = sealed
            && tables.session(index).is_some()
        {
            return Verdict::Own;
        }
        let known = from.is_some() && self.place == from;
        let Some(sealed) = sealed else {
            let reason = if known { DropReason::RelayNotWireguard } else { DropReason::RelayUnbound };
            return Verdict::Drop(reason);
        };
        if !known && !self.binds(from, sealed, bytes, now, link_silence) {
            return Verdict::Drop(DropReason::RelayUnbound);
        }
        if hops.is_some_and(|hops| hops <= 1) {
            return Verdict::Drop(DropReason::RelayHopLimit);
        }
        if !self.bucket.admits(now, bytes.len()) {
            return Verdict::Drop(DropReason::RelayLimited);
        }
        self.heard = Some(now);
        if known { Verdict::Forward } else { Verdict::Found }
    }

    /// Whether a message from elsewhere is a stock peer's: from the address of its session with us, and for the other end
    /// where it can tell. A place that is in use is given up only for a handshake.
    fn binds(&self, from: Option<Place>, sealed: Sealed, bytes: &[u8], now: Instant, silence: Duration) -> bool {
        let (Some(link), Some(from)) = (&self.link, from) else { return false };
        if link.expected != Some(from.remote.ip()) {
            return false;
        }
        let in_use =
            self.place.is_some() && self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < silence);
        match sealed {
            Sealed::Handshake => is_made_for(&link.other, bytes),
            Sealed::Cookie | Sealed::Data(_) => !in_use,
        }
    }
}

#[cfg(test)]
mod tests {
    use landbridge_ebpf_common::RelayRate;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(5);

    fn place(text: &str) -> Place {
        Place { remote: text.parse().expect("an address"), local: [192, 0, 2, 1].into() }
    }

    fn door(now: Instant) -> Door {
        Door { place: None, heard: None, bucket: Bucket::new(RelayRate::of_mbps(1), None, now), link: None }
    }

    fn data() -> Vec<u8> {
        [4, 0, 0, 0, 7, 7, 7, 7].repeat(8)
    }

    #[test]
    fn only_a_bound_place_is_forwarded_and_only_messages_of_wireguard() {
        let (now, tables) = (Instant::now(), Tables::new(1420));
        let (here, elsewhere) = (Some(place("198.51.100.7:7")), Some(place("198.51.100.7:8")));
        let mut door = door(now);
        let admit = |door: &mut Door, from, hops, bytes: &[u8]| door.admit(from, hops, bytes, &tables, (now, SILENCE));
        assert_eq!(admit(&mut door, here, Some(64), &data()), Verdict::Drop(DropReason::RelayUnbound));
        door.place = here;
        assert_eq!(admit(&mut door, here, Some(64), &data()), Verdict::Forward);
        assert_eq!(admit(&mut door, here, None, &data()), Verdict::Forward);
        assert_eq!(admit(&mut door, elsewhere, Some(64), &data()), Verdict::Drop(DropReason::RelayUnbound));
        assert_eq!(admit(&mut door, None, Some(64), &data()), Verdict::Drop(DropReason::RelayUnbound));
        assert_eq!(admit(&mut door, here, Some(64), b"hello"), Verdict::Drop(DropReason::RelayNotWireguard));
        assert_eq!(admit(&mut door, here, Some(1), &data()), Verdict::Drop(DropReason::RelayHopLimit));
        let sent = (0..5000).filter(|_| admit(&mut door, here, Some(64), &data()) == Verdict::Forward).count();
        assert!((600..800).contains(&sent), "64 KiB of 92 bytes each: {sent}");
        assert_eq!(admit(&mut door, here, Some(64), &data()), Verdict::Drop(DropReason::RelayLimited));
    }

    #[test]
    fn a_stock_peer_is_found_where_its_session_is_and_kept_while_it_is_heard() {
        let (now, tables) = (Instant::now(), Tables::new(1420));
        let mut door = door(now);
        door.link = Some(Link { other: [9; 32], expected: None });
        let (here, moved) = (Some(place("198.51.100.7:7")), Some(place("198.51.100.7:8")));
        let stranger = Some(place("203.0.113.7:7"));
        let unbound = Verdict::Drop(DropReason::RelayUnbound);
        let admit = |door: &mut Door, from, at, bytes: &[u8]| door.admit(from, Some(9), bytes, &tables, (at, SILENCE));
        assert_eq!(admit(&mut door, here, now, &data()), unbound, "it has no session with us");
        door.link = Some(Link { other: [9; 32], expected: Some([198, 51, 100, 7].into()) });
        assert_eq!(admit(&mut door, stranger, now, &data()), unbound);
        let mut initiation = [0; 148];
        initiation[0] = 1;
        assert_eq!(admit(&mut door, here, now, &initiation), unbound, "a handshake for somebody else");
        assert_eq!(admit(&mut door, here, now, &data()), Verdict::Found);
        door.place = here;
        assert_eq!(admit(&mut door, moved, now + SILENCE / 2, &data()), unbound, "its place is in use");
        assert_eq!(admit(&mut door, here, now + SILENCE / 2, &data()), Verdict::Forward);
        assert_eq!(admit(&mut door, moved, now + SILENCE, &data()), unbound, "it was heard in the meantime");
        assert_eq!(admit(&mut door, moved, now + SILENCE * 2, &data()), Verdict::Found);
    }
}
