//! The maps: names, sizes, keys and values.
//!
//! | map | kind | key | value |
//! |---|---|---|---|
//! | [`map::CONFIG`] | array of one | 0 | [`Config`] |
//! | [`map::ADDRESSES`] | hash | [`AddressKey`] | unused byte |
//! | [`map::SESSIONS`] | array | slot of a receiver index | that index whole, or 0 for none |
//! | [`map::INTERFACES`] | hash | interface index | [`Interface`] |
//! | [`map::ROUTES_V4`] | longest prefix match | prefix length, address | [`ROUTE_TO_PEER`] or [`ROUTE_ELSEWHERE`] |
//! | [`map::ROUTES_V6`] | longest prefix match | prefix length, address | as above |
//! | [`map::SOCKETS`] | XSKMAP | number of the interface * [`QUEUES_PER_INTERFACE`] + queue | AF_XDP socket |
//! | [`map::VERDICTS`] | per-CPU array | [`crate::Verdict`] | packets |
//! | [`map::RELAY`] | hash | [`crate::RelayKey`] | [`crate::RelayTarget`] |
//! | [`map::RELAY_TALLIES`] | per-CPU array | number of an end | [`crate::RelayTally`] |
//! | [`map::RELAY_BUCKETS`] | array | number of an end | [`crate::RelayBucket`] |
//! | [`map::RELAY_EGRESS`] | DEVMAP_HASH | interface index | that interface |

use core::net::{IpAddr, Ipv6Addr};

/// The maps' names in the object, as the kernel shows them.
pub mod map {
    /// What the program listens to.
    pub const CONFIG: &str = "CONFIG";
    /// Local addresses.
    pub const ADDRESSES: &str = "ADDRESSES";
    /// Live sessions.
    pub const SESSIONS: &str = "SESSIONS";
    /// Interfaces that have sockets or a role.
    pub const INTERFACES: &str = "INTERFACES";
    /// IPv4 networks and whether a peer has them.
    pub const ROUTES_V4: &str = "ROUTES_V4";
    /// IPv6 networks and whether a peer has them.
    pub const ROUTES_V6: &str = "ROUTES_V6";
    /// AF_XDP sockets.
    pub const SOCKETS: &str = "SOCKETS";
    /// Packets per verdict.
    pub const VERDICTS: &str = "VERDICTS";
    /// Ends of relay allocations that are bound.
    pub const RELAY: &str = "RELAY";
    /// What they have sent.
    pub const RELAY_TALLIES: &str = "RELAY_TALLIES";
    /// How far ahead of their rate they are.
    pub const RELAY_BUCKETS: &str = "RELAY_BUCKETS";
    /// Interfaces that relayed datagrams may leave by.
    pub const RELAY_EGRESS: &str = "RELAY_EGRESS";
}

/// Slots for live sessions: one for each receiver index that can be live at a time.
pub const SESSION_SLOTS: u32 = 1 << 20;
/// The bits of a receiver index that are its slot.
pub const SESSION_SLOT_MASK: u32 = SESSION_SLOTS - 1;
/// Local addresses at most.
pub const ADDRESSES: u32 = 4096;
/// Interfaces at most.
pub const INTERFACES: u32 = 16;
/// Queues of one interface at most; packets of queues beyond go to the kernel.
pub const QUEUES_PER_INTERFACE: u32 = 256;
/// Routes of one address family at most, as the user side counts.
pub const ROUTES_PER_FAMILY: u32 = 131_072;
/// Entries of a map of routes: what is added before something else is removed has room.
pub const ROUTES: u32 = 2 * ROUTES_PER_FAMILY;
/// The value of a route to a peer.
pub const ROUTE_TO_PEER: u32 = 1;
/// The value of a route that is the kernel's, inside a wider one to a peer.
pub const ROUTE_ELSEWHERE: u32 = 2;
/// An interface that receives transport data.
pub const ROLE_WAN: u32 = 1;
/// An interface that receives packets for networks behind peers.
pub const ROLE_LAN: u32 = 2;
/// Bytes of the longest IP packet that is taken in one buffer, whatever [`Config::packet_len_max`] says: a frame of packet
/// memory is a page at most, less the 256 bytes that the kernel keeps in front. The constant is also what shows an older verifier
/// (Linux 6.1) that a length read in network order is bounded: it loses track where the bytes are swapped.
pub const PACKET_LEN_MAX: u16 = 4096 - 256;
/// Of the relay: frames leave as they are, so that a partial checksum, which nobody would finish, is replaced by "none".
pub const RELAY_NATIVE: u32 = 1;
/// Of the relay: what leaves by the interface that it came by is sent back (XDP_TX). A veth forgets such frames until others
/// come, unless its peer has an XDP program: there they are redirected to the interface itself.
pub const RELAY_BACK: u32 = 2;
/// Sockets at most.
pub const SOCKETS: u32 = INTERFACES * QUEUES_PER_INTERFACE;

/// What the program listens to. All zero, as a map begins, passes everything to the kernel.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Config {
    /// 0: every packet goes to the kernel.
    pub enabled: u32,
    /// Our UDP port, in network order.
    pub port: [u8; 2],
    /// Bytes of the longest IP packet that is taken: the kernel drops what does not fit a frame of packet memory. Beyond
    /// [`PACKET_LEN_MAX`] the sockets take frames in several buffers.
    pub packet_len_max: u16,
    /// Bytes of the longest IP packet that the tunnel carries: what is longer, the kernel answers.
    pub tunnel_mtu: u32,
    /// 0: no interface is one of a lan.
    pub lans: u32,
    /// The first port of the relay.
    pub relay_first: u16,
    /// How many ports it has from there on; 0: nothing is relayed.
    pub relay_count: u16,
    /// [`RELAY_NATIVE`] and [`RELAY_BACK`].
    pub relay_flags: u32,
}

/// What an interface is to us.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its number among our interfaces, by which its sockets are found.
    pub number: u32,
    /// [`ROLE_WAN`] and [`ROLE_LAN`].
    pub roles: u32,
    /// The lan's VLAN, 0 for frames without tags.
    pub vlan: u16,
    /// Its hardware address on the lan.
    pub mac: [u8; 6],
}

impl Config {
    /// Listens to `port`; of a lan nothing is taken yet.
    #[must_use]
    pub const fn listen(port: u16, packet_len_max: u16) -> Self {
        Self {
            enabled: 1,
            port: port.to_be_bytes(),
            packet_len_max,
            tunnel_mtu: 0,
            lans: 0,
            relay_first: 0,
            relay_count: 0,
            relay_flags: 0,
        }
    }
}

/// An address as the map of local addresses holds it: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`.
///
/// The words are aligned, which spares the XDP program from writing bytes one by one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey(pub [u32; 4]);

impl AddressKey {
    /// The key of an IPv4 address, from its bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(octets)])
    }

    /// The key of an IPv6 address, from its bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// The address back; IPv4 where the key is of an IPv4 address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(self.0) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(octets).to_canonical()
    }
}

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

// SAFETY: repr(C), integers only, no padding (4 + 2 + 2 + 4 + 4 + 2 + 2 + 4 bytes at alignment 4), every bit pattern is a value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Config {}

// SAFETY: repr(C), one array of integers, no padding, every bit pattern is a value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for AddressKey {}

// SAFETY: repr(C), integers only, no padding (4 + 4 + 2 + 6 bytes at alignment 4), every bit pattern is a value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Interface {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_keys_are_16_bytes_in_network_order_and_lead_back() {
        let cases = [
            ("192.0.2.1", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1]),
            ("2001:db8::a", [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]),
        ];
        for (text, expected) in cases {
            let address: IpAddr = text.parse().expect("an address");
            let key = AddressKey::from(address);
            let mut bytes = [0; 16];
            for (chunk, word) in bytes.chunks_exact_mut(4).zip(key.0) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            assert_eq!(bytes, expected, "{text}");
            assert_eq!(key.address(), address, "{text}");
        }
    }

    #[test]
    fn an_empty_configuration_is_disabled() {
        assert_eq!(Config::default().enabled, 0);
        assert_eq!(Config::listen(0x1234, 0).port, [0x12, 0x34]);
    }
}
