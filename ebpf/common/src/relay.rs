//! What relaying shares between the program and its loader.
//!
//! A relay forwards sealed datagrams between two of its peers. Each of them has a port of the relay to itself, and is bound
//! to one place: a datagram to that port from there leaves from the other peer's port to the other peer's place. All that
//! depends on the places alone is computed once, by the loader: how the checksums change above all.
//!
//! Enters: addresses and ports. Leaves: keys and values of the map of ends. Never does: look at a packet.

use core::net::{IpAddr, SocketAddr};

use crate::AddressKey;

/// Ends at most: two for each allocation.
pub const RELAY_ENDS: u32 = 2048;
/// Interfaces that relayed datagrams may leave by, at most.
pub const RELAY_EGRESS: u32 = 64;
/// IANA protocol number of UDP.
const UDP: u8 = 17;

/// Where a datagram comes from and to: the key of the map of ends.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayKey {
    /// The bound peer's address.
    pub remote: AddressKey,
    /// The address of ours that it sends to.
    pub local: AddressKey,
    /// The bound peer's port, in network order.
    pub remote_port: [u8; 2],
    /// Our port, in network order.
    pub port: [u8; 2],
}

/// What becomes of it: the value of the map of ends.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayTarget {
    /// The other peer's address.
    pub remote: AddressKey,
    /// The address of ours that it is used to.
    pub local: AddressKey,
    /// The other peer's port, in network order.
    pub remote_port: [u8; 2],
    /// Our port, in network order.
    pub port: [u8; 2],
    /// The number of the end that the datagram came to: that of its tally and of its bucket.
    pub end: u32,
    /// Nanoseconds that 65,536 bytes take at the permitted rate; 0 for no limit.
    pub ns_per_64kib: u32,
    /// How far ahead of its rate an end may be, in nanoseconds.
    pub burst_ns: u32,
    /// What is added to the complement of an IPv4 header's checksum, as 16-bit words in the machine's order.
    pub ip_delta: u32,
    /// The same of a UDP checksum.
    pub udp_delta: u32,
    /// The sum over the pseudo-header of what comes in, the length left out.
    pub pseudo: u32,
}

/// What an end has received and the program has forwarded. One for each CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayTally {
    /// Datagrams forwarded.
    pub packets: u64,
    /// Their bytes behind the UDP header.
    pub bytes: u64,
    /// Datagrams dropped because they came faster than permitted.
    pub limited: u64,
    /// When the last was forwarded, on the coarse monotonic clock in nanoseconds; 0 for never.
    pub last_ns: u64,
}

/// How far ahead of its rate an end is. On cache lines of its own, as both ends of an allocation may be busy at once.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayBucket {
    /// When what was forwarded would have ended at the permitted rate, on the coarse monotonic clock in nanoseconds.
    pub until_ns: u64,
    /// Nothing.
    pub padding: [u64; 7],
}

/// How fast an end may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayRate {
    /// Nanoseconds that 65,536 bytes take; 0 for no limit.
    pub ns_per_64kib: u32,
    /// How far ahead of that it may be, in nanoseconds.
    pub burst_ns: u32,
}

impl RelayRate {
    /// What may come at once, whatever the rate.
    const BURST_NS_MIN: u32 = 25_000_000;

    /// So many million bits a second; 0 for no limit. A burst is what the rate brings in 25 ms, and 64 KiB at least.
    #[must_use]
    pub const fn of_mbps(mbps: u32) -> Self {
        if mbps == 0 {
            return Self { ns_per_64kib: 0, burst_ns: 0 };
        }
        // At one million bits a second this is 524,288,000, the greatest there is.
        let ns_per_64kib = 65_536 * 8 * 1000 / mbps;
        let burst_ns = if ns_per_64kib > Self::BURST_NS_MIN { ns_per_64kib } else { Self::BURST_NS_MIN };
        Self { ns_per_64kib: if ns_per_64kib == 0 { 1 } else { ns_per_64kib }, burst_ns }
    }

    /// Nanoseconds that so many bytes take.
    #[inline(always)]
    #[must_use]
    pub const fn ns(ns_per_64kib: u32, bytes: u32) -> u64 {
        (bytes as u64 * ns_per_64kib as u64) >> 16
    }
}

impl RelayKey {
    /// Datagrams of a bound peer to an address and port of ours.
    #[must_use]
    pub fn new(remote: SocketAddr, local: IpAddr, port: u16) -> Self {
        Self {
            remote: remote.ip().into(),
            local: local.into(),
            remote_port: remote.port().to_be_bytes(),
            port: port.to_be_bytes(),
        }
    }
}

impl RelayTarget {
    /// Datagrams of `from` go on to `remote`, from an address and a port of ours. `None` where the families differ: then
    /// another header would be needed.
    #[must_use]
    pub fn new(
        from: &RelayKey,
        remote: SocketAddr,
        local: IpAddr,
        port: u16,
        end: u32,
        rate: RelayRate,
    ) -> Option<Self> {
        let (old_remote, old_local) = (from.remote.address(), from.local.address());
        let families = [old_local, remote.ip(), local].map(|address| address.is_ipv4());
        if families != [old_remote.is_ipv4(); 3] {
            return None;
        }
        let addresses_out = address_sum(old_remote) + address_sum(old_local);
        let addresses_in = address_sum(remote.ip()) + address_sum(local);
        let word = u16::from_ne_bytes;
        let ports_out = u32::from(word(from.remote_port)) + u32::from(word(from.port));
        let ports_in = u32::from(word(remote.port().to_be_bytes())) + u32::from(word(port.to_be_bytes()));
        Some(Self {
            remote: remote.ip().into(),
            local: local.into(),
            remote_port: remote.port().to_be_bytes(),
            port: port.to_be_bytes(),
            end,
            ns_per_64kib: rate.ns_per_64kib,
            burst_ns: rate.burst_ns,
            ip_delta: without(addresses_in, addresses_out),
            udp_delta: without(addresses_in + ports_in, addresses_out + ports_out),
            pseudo: addresses_out + u32::from(word([0, UDP])),
        })
    }
}

/// The sum over an address's 16-bit words in the machine's order.
fn address_sum(address: IpAddr) -> u32 {
    let sum =
        |octets: &[u8]| octets.chunks_exact(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]]))).sum();
    match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    }
}

/// One sum less another, in one's complement.
fn without(sum: u32, less: u32) -> u32 {
    u32::from(fold(sum)) + u32::from(!fold(less))
}

/// A sum of 16-bit words, as one.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// A checksum after what it covers has changed (RFC 1624).
#[inline(always)]
#[must_use]
pub const fn changed(checksum: u16, delta: u32) -> u16 {
    !fold(!checksum as u32 + delta)
}

// No padding that a compiler put in: the sum of the fields is the whole.
const _: () = assert!(size_of::<RelayKey>() == 36);
const _: () = assert!(size_of::<RelayTarget>() == 2 * 16 + 4 + 6 * 4);
const _: () = assert!(size_of::<RelayTally>() == 32);
const _: () = assert!(size_of::<RelayBucket>() == 64);

// SAFETY: repr(C), integers only, no padding as asserted above, every bit pattern is a value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for RelayKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for RelayTarget {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for RelayTally {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for RelayBucket {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_times_and_small_ones_keep_a_burst_of_64_kib() {
        assert_eq!(RelayRate::of_mbps(0), RelayRate { ns_per_64kib: 0, burst_ns: 0 });
        let gigabit = RelayRate::of_mbps(1000);
        assert_eq!(gigabit, RelayRate { ns_per_64kib: 524_288, burst_ns: 25_000_000 });
        assert_eq!(RelayRate::ns(gigabit.ns_per_64kib, 1250), 10_000);
        let slow = RelayRate::of_mbps(1);
        assert_eq!((slow.ns_per_64kib, slow.burst_ns), (524_288_000, 524_288_000));
        assert_eq!(RelayRate::of_mbps(u32::MAX).ns_per_64kib, 1);
    }

    #[test]
    fn ends_of_two_families_have_no_target() {
        let v4: SocketAddr = "192.0.2.7:1".parse().expect("an address");
        let v6: SocketAddr = "[2001:db8::7]:1".parse().expect("an address");
        let key = RelayKey::new(v4, "192.0.2.1".parse().expect("an address"), 51_900);
        let rate = RelayRate::of_mbps(0);
        assert!(RelayTarget::new(&key, v6, "2001:db8::1".parse().expect("an address"), 1, 0, rate).is_none());
        assert!(RelayTarget::new(&key, v4, "2001:db8::1".parse().expect("an address"), 1, 0, rate).is_none());
        assert!(RelayTarget::new(&key, v4, "192.0.2.1".parse().expect("an address"), 1, 0, rate).is_some());
    }
}
