//! Messages of the channel, from bytes to typed values and back.
//!
//! Enters: the bytes of a datagram. Leaves: a [`Message`]. Never does: decide what follows from it.
//!
//! A message is a version (1 byte), a type (1 byte; the highest bit marks an answer), two bytes that are zero and ignored,
//! a request number (4 bytes, network order; an answer repeats the request's), and fields. A version is raised only when
//! this very layout changes; what a peer can do is said by its hello's feature bits, and new types and fields are
//! skipped by those who do not know them.

use std::net::{IpAddr, SocketAddr};

use super::fields::{Field, Fields, Writer};
use crate::DropReason;

/// The layout's version.
pub const VERSION: u8 = 1;
/// The longest message: its packet fits every link that IPv6 does.
pub const MESSAGE_MAX: usize = 1280 - super::packet::HEADERS_LEN;
/// The longest message that this version writes.
pub(crate) const WRITTEN_MAX: usize = 64;

const HEADER_LEN: usize = 8;
const ANSWER: u8 = 0x80;
const HELLO: u8 = 1;
const PROBE: u8 = 2;
const ASK: u8 = 3;
const HELLO_ANSWER: u8 = HELLO | ANSWER;
const PROBE_ANSWER: u8 = PROBE | ANSWER;

/// What does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Malformed> for DropReason {
    fn from(_: Malformed) -> Self {
        Self::ChannelMalformed
    }
}

/// What a gateway can do, one bit each. Unknown bits are kept: they are later versions'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u32);

impl Features {
    /// Sends from, and takes, several source ports.
    pub const SOURCE_PORTS: Self = Self(1);
    /// What this version can do.
    pub const OURS: Self = Self::SOURCE_PORTS;

    /// Whether all of these are among them.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names of the bits that are set; those of later versions have none.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [(Self::SOURCE_PORTS, "source_ports")].into_iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, n)| n)
    }
}

/// A gateway introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Drawn when it started: another one says that it forgot everything.
    pub(crate) instance: u64,
    pub(crate) features: Features,
    /// Source ports beside the main one that it makes use of as a receiver.
    pub(crate) accepts_ports: u8,
}

/// What a probe's receiver saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) slot: u8,
    /// Where the probe came from.
    pub(crate) observed: SocketAddr,
    /// Data packets of any session that have come from there.
    pub(crate) packets: u64,
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Hello(Hello),
    HelloAnswer(Hello),
    /// Sent from the source port of this place, to be answered with what was seen.
    Probe {
        slot: u8,
    },
    ProbeAnswer(Seen),
    /// Packets come from an unknown port: every port in use is to be probed at once.
    Ask,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) request: u32,
    pub(crate) body: Body,
}

impl Message {
    /// The message, and how many of its fields were skipped.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, u32), DropReason> {
        let (header, fields) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(DropReason::ChannelMalformed)?;
        let [version, kind, _, _, request @ ..] = *header;
        if version != VERSION {
            return Err(DropReason::ChannelUnknown);
        }
        if !matches!(kind, HELLO | HELLO_ANSWER | PROBE | PROBE_ANSWER | ASK) {
            return Err(DropReason::ChannelUnknown);
        }
        let fields = Fields::parse(fields)?;
        let body = match kind {
            HELLO => Body::Hello(hello(&fields)?),
            HELLO_ANSWER => Body::HelloAnswer(hello(&fields)?),
            PROBE => Body::Probe { slot: slot(&fields)? },
            PROBE_ANSWER => Body::ProbeAnswer(Seen {
                slot: slot(&fields)?,
                observed: observed(fields.value(Field::Observed)?)?,
                packets: u64::from_be_bytes(fields.exactly(Field::Packets)?),
            }),
            _ => Body::Ask,
        };
        Ok((Self { request: u32::from_be_bytes(request), body }, fields.ignored))
    }

    /// Writes it over the front of `out` (at least [`WRITTEN_MAX`] bytes) and returns its length.
    pub(crate) fn write(&self, out: &mut [u8]) -> usize {
        let kind = match self.body {
            Body::Hello(_) => HELLO,
            Body::HelloAnswer(_) => HELLO_ANSWER,
            Body::Probe { .. } => PROBE,
            Body::ProbeAnswer(_) => PROBE_ANSWER,
            Body::Ask => ASK,
        };
        out[..4].copy_from_slice(&[VERSION, kind, 0, 0]);
        out[4..HEADER_LEN].copy_from_slice(&self.request.to_be_bytes());
        let mut fields = Writer { out, len: HEADER_LEN };
        match self.body {
            Body::Hello(hello) | Body::HelloAnswer(hello) => {
                fields.put(Field::Instance, &hello.instance.to_be_bytes());
                fields.put(Field::Features, &hello.features.0.to_be_bytes());
                fields.put(Field::AcceptsPorts, &[hello.accepts_ports]);
            }
            Body::Probe { slot } => fields.put(Field::Slot, &[slot]),
            Body::ProbeAnswer(seen) => {
                fields.put(Field::Slot, &[seen.slot]);
                let port = seen.observed.port().to_be_bytes();
                match seen.observed.ip() {
                    IpAddr::V4(ip) => fields.put(Field::Observed, [&ip.octets()[..], &port].concat().as_slice()),
                    IpAddr::V6(ip) => fields.put(Field::Observed, [&ip.octets()[..], &port].concat().as_slice()),
                }
                fields.put(Field::Packets, &seen.packets.to_be_bytes());
            }
            Body::Ask => {}
        }
        fields.len
    }
}

fn hello(fields: &Fields<'_>) -> Result<Hello, Malformed> {
    let [accepts_ports] = fields.exactly(Field::AcceptsPorts)?;
    Ok(Hello {
        instance: u64::from_be_bytes(fields.exactly(Field::Instance)?),
        features: Features(u32::from_be_bytes(fields.exactly(Field::Features)?)),
        accepts_ports,
    })
}

fn slot(fields: &Fields<'_>) -> Result<u8, Malformed> {
    let [slot] = fields.exactly(Field::Slot)?;
    if usize::from(slot) <= super::SOURCE_PORTS_MAX { Ok(slot) } else { Err(Malformed) }
}

fn observed(value: &[u8]) -> Result<SocketAddr, Malformed> {
    let (ip, port) = value.split_last_chunk::<2>().ok_or(Malformed)?;
    let ip = match *ip {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(<[u8; 16]>::try_from(ip).map_err(|_| Malformed)?),
    };
    match u16::from_be_bytes(*port) {
        0 => Err(Malformed),
        port => Ok(SocketAddr::new(ip, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Hello = Hello { instance: 0x0102_0304_0506_0708, features: Features(1), accepts_ports: 16 };

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// The wire format, which must not change under a version.
    fn golden() -> [(Message, &'static str); 6] {
        let seen = |observed: &str| Seen { slot: 3, observed: observed.parse().expect("an address"), packets: 258 };
        let of = |request, body| Message { request, body };
        [
            (of(0x0a0b_0c0d, Body::Hello(SAID)), "01010000 0a0b0c0d 010008 0102030405060708 020004 00000001 030001 10"),
            (of(1, Body::HelloAnswer(SAID)), "01810000 00000001 010008 0102030405060708 020004 00000001 030001 10"),
            (of(2, Body::Probe { slot: 3 }), "01020000 00000002 040001 03"),
            (
                of(2, Body::ProbeAnswer(seen("192.0.2.1:51820"))),
                "01820000 00000002 040001 03 050006 c0000201 ca6c 060008 0000000000000102",
            ),
            (
                of(2, Body::ProbeAnswer(seen("[2001:db8::1]:51820"))),
                "01820000 00000002 040001 03 050012 20010db8000000000000000000000001 ca6c 060008 0000000000000102",
            ),
            (of(7, Body::Ask), "01030000 00000007"),
        ]
    }

    #[test]
    fn every_message_has_its_golden_bytes_and_comes_back_from_them() {
        for (message, hex) in golden() {
            let mut out = [0; WRITTEN_MAX];
            let len = message.write(&mut out);
            assert_eq!(out[..len], bytes(hex), "{message:?}");
            assert_eq!(Message::parse(&out[..len]), Ok((message, 0)));
        }
    }

    #[test]
    fn what_later_versions_add_is_skipped_and_counted() {
        for (message, hex) in golden() {
            let mut longer = bytes(hex);
            longer.extend(bytes("63 0003 aabbcc  ff 0000  00 0002 0000  00 0000"));
            assert_eq!(Message::parse(&longer), Ok((message, 2)), "{message:?}");
            // Reserved bytes say nothing.
            longer[2] = 9;
            assert_eq!(Message::parse(&longer), Ok((message, 2)));
        }
        assert_eq!(Message::parse(&bytes("02010000 00000001")), Err(DropReason::ChannelUnknown));
        assert_eq!(Message::parse(&bytes("01190000 00000001 ffff")), Err(DropReason::ChannelUnknown));
    }

    #[test]
    fn what_is_known_is_parsed_strictly() {
        for (message, hex) in golden() {
            let whole = bytes(hex);
            for len in 0..whole.len() {
                assert_eq!(Message::parse(&whole[..len]), Err(DropReason::ChannelMalformed), "{message:?} {len}");
            }
        }
        for hex in [
            "01020000 00000002",
            "01020000 00000002 040002 0303",
            "01020000 00000002 040001 11",
            "01020000 00000002 040001 03 040001 03",
            "01020000 00000002 040001 03 00",
            "01020000 00000002 040001 03 63ffff 00",
            "01820000 00000002 040001 03 050006 c0000201 0000 060008 0000000000000102",
            "01820000 00000002 040001 03 050007 c0000201 00 ca6c 060008 0000000000000102",
            "01820000 00000002 040001 03 050002 ca6c 060008 0000000000000102",
            "01820000 00000002 040001 03 050006 c0000201 ca6c 060007 00000000000102",
        ] {
            assert_eq!(Message::parse(&bytes(hex)), Err(DropReason::ChannelMalformed), "{hex}");
        }
    }
}
