//! Bodies of the fuzz targets in `gateway/fuzz`, here so that tests replay the same corpus through them.
//!
//! Enters: any bytes. Leaves: nothing. Each body says what must hold of whatever the parser makes of them, and panics
//! when it does not.

mod offload;

use std::net::SocketAddr;
use std::time::Instant;

use landbridge_proto::DropReason;

use crate::control::uapi::parse::{Errno, Parser, Request};
use crate::datapath::checksum::Sum;
use crate::datapath::inner;
use crate::datapath::tables::Wire;
use crate::datapath::transport::TransportHeader;
use crate::datapath::wire::{self, ETHERNET_LEN, HeaderTemplate};
use crate::nat::stun::message::REQUEST_MAX;
use crate::nat::stun::{Answer, Client, Query, is_stun};

pub use crate::relay::fuzzing::relay;
pub use offload::{join_burst, lan_read};

/// Any bytes as a frame of a wan ring. What is found lies within the frame, and a frame with the same content made by
/// our own transmit code is read alike.
pub fn outer_frame(frame: &[u8]) {
    let Ok(found) = wire::parse(frame) else { return };
    assert!(found.payload.end <= frame.len(), "the payload lies within the frame");
    assert!(found.ip_len + ETHERNET_LEN <= frame.len() && found.payload.len() < found.ip_len, "and so does the packet");
    let mut ethernet = arrayvec::ArrayVec::new();
    ethernet.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    if found.local.is_ipv6() {
        ethernet[12..].copy_from_slice(&[0x86, 0xdd]);
    }
    let wire = Wire { source: found.local, ethernet, mtu: 65_535, if_index: 1 };
    // Addresses mapped from IPv4 never stand on a wire of ours.
    let Some(template) = HeaderTemplate::new(&wire, found.remote) else { return };
    offload::with_pool(|pool| {
        let payload = &frame[found.payload.clone()];
        let mut out = offload::frame(pool, payload);
        template.write_with_ecn(&mut out, found.local_port, found.ecn).expect("there is headroom");
        let again = wire::parse(out.data()).expect("our own frame is sound");
        assert_eq!(&out.data()[again.payload.clone()], payload);
        assert_eq!((again.local, again.local_port), (found.remote.ip(), found.remote.port()));
        assert_eq!((again.remote.ip(), again.remote.port()), (found.local, found.local_port));
        assert_eq!(again.ecn, found.ecn);
        pool.put(out);
    });
}

/// Any bytes as the answer of a STUN server, to the question that was asked. It is taken whole or changes nothing.
pub fn stun(data: &[u8]) {
    let mut answer = data.to_vec();
    let (mut client, now) = (Client::default(), Instant::now());
    let server = SocketAddr::from(([203, 0, 113, 1], 3478));
    client.ask(Query::new(1, server, 0), now);
    let mut request = [0; REQUEST_MAX];
    client.poll_transmit(now, &mut request).expect("the question");
    if let Some(head) = answer.get_mut(4..20) {
        head.copy_from_slice(&request[4..20]);
    }
    if !is_stun(&answer) {
        return;
    }
    match client.handle_datagram(now, 0, server, None, &answer) {
        Ok(()) => match client.poll_outcome().and_then(|outcome| outcome.answer) {
            Some(Answer::Mapped { mapped, other }) => {
                for place in other.into_iter().chain([mapped]) {
                    assert!(place.port() != 0 && !place.ip().is_unspecified() && !place.ip().is_multicast());
                }
            }
            Some(Answer::Refused(code)) => assert!((300..700).contains(&code), "{code}"),
            None => panic!("an answer without an outcome"),
        },
        Err(_) => assert!(client.poll_outcome().is_none() && !client.is_idle(), "a bad answer changes nothing"),
    }
}

/// Any bytes as an inner packet; the first one is the outer packet's ECN.
pub fn inner_packet(data: &[u8]) {
    let Some((outer_ecn, bytes)) = data.split_first() else { return };
    let Ok(found) = inner::parse(bytes) else { return };
    let is_v4 = bytes[0] >> 4 == 4;
    assert!(found.len <= bytes.len() && found.len >= if is_v4 { inner::IPV4_LEN } else { inner::IPV6_LEN });
    assert_eq!(is_v4, found.source.is_ipv4());
    assert_eq!(inner::parse(&bytes[..found.len]), Ok(found), "without its padding it is the same packet");
    let mut marked = bytes.to_vec();
    match inner::take_outer_ecn(&mut marked, *outer_ecn) {
        Err(reason) => assert_eq!((reason, inner::ecn(bytes)), (DropReason::CongestionMarked, 0)),
        Ok(()) => {
            assert_eq!(inner::parse(&marked), Ok(found), "a mark changes neither addresses nor length");
            assert_eq!(inner::ecn(&marked), if outer_ecn & 3 == 3 { 3 } else { inner::ecn(bytes) });
            let header = if is_v4 { usize::from(bytes[0] & 15) * 4 } else { 0 };
            let intact = Sum::of(&bytes[..header]).is_intact();
            assert_eq!(
                Sum::of(&marked[..header]).is_intact(),
                intact,
                "a right checksum stays right, a wrong one wrong"
            );
        }
    }
}

/// Any bytes as a message of transport data.
pub fn transport_header(payload: &[u8]) {
    let expected = match payload {
        _ if payload.len() < TransportHeader::LEN => Err(DropReason::Truncated),
        [4, 0, 0, 0, ..] if payload.len() < TransportHeader::MESSAGE_MIN => Err(DropReason::Truncated),
        [4, 0, 0, 0, ..] => Ok(payload[..TransportHeader::LEN].to_vec()),
        [4, ..] => Err(DropReason::Malformed),
        _ => Err(DropReason::UnknownType),
    };
    assert_eq!(TransportHeader::parse(payload).map(|header| header.bytes().to_vec()), expected);
}

/// Any bytes as what a client of the UAPI sends: where it is cut makes no difference, and memory stays bounded. The
/// first byte says where to cut.
pub fn uapi(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let whole = requests([stream]);
    let parts = requests(stream.chunks(usize::from(*cut).max(1)));
    assert_eq!(whole, parts);
    for request in &whole.0 {
        let Request::Set(set) = request else { continue };
        let lines = stream.iter().filter(|byte| **byte == b'\n').count();
        let settings = set.peers.len() + set.peers.iter().map(|peer| peer.allowed_ips.len()).sum::<usize>();
        assert!(settings <= lines, "each came in a line of its own");
    }
}

/// The requests of a stream up to the first error.
fn requests<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Request>, Option<Errno>) {
    let (mut parser, mut requests) = (Parser::default(), Vec::new());
    for mut chunk in chunks {
        while !chunk.is_empty() {
            match parser.feed(chunk) {
                Ok((taken, request)) => {
                    assert!(taken > 0 && taken <= chunk.len(), "it goes on");
                    requests.extend(request);
                    chunk = &chunk[taken..];
                }
                Err(errno) => return (requests, Some(errno)),
            }
        }
    }
    (requests, None)
}
