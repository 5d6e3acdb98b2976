//! The lan role: whether a packet is for a network behind a peer.
//!
//! Enters: a frame's header and its packet's IP header. Leaves: that it is ours to seal, or the verdict that
//! ends the matter. Never does: look behind the IP header (crypto-key routing knows addresses only, so a
//! fragment goes like any packet), or keep from the kernel what asks for an answer or for more than
//! forwarding: expired hop limits, options, packets that the tunnel's MTU forbids, local and link-local traffic.
//!
//! Whatever lies in a route to a peer is taken, a peer's own endpoint included: a lan host's packet to it is
//! transit, and the routes say where transit goes. Our own encrypted packets never come this way, as XDP sees
//! only what arrives. A partial checksum (a veth peer's kernel leaves the rest to hardware that is not there)
//! is not to be seen from here: who seals the packet has to finish it.

use landbridge_ebpf_common::{Config, Interface, Verdict};

use crate::maps;
use crate::parse::{Frame, V4, V6};

/// IANA protocol number. Routers may have to look into this header.
const HOP_BY_HOP: u8 = 0;

/// Whether an IPv4 packet is for a network behind a peer.
#[inline(always)]
pub(crate) fn v4(packet: &V4, frame: &Frame, interface: &Interface, config: &Config) -> Result<(), Verdict> {
    for_us(frame, interface)?;
    if stays_v4(packet.destination) || stays_v4(packet.source) {
        return Err(Verdict::Scope);
    }
    if packet.has_options() {
        return Err(Verdict::Options);
    }
    forwardable(packet.ttl, packet.len, config)?;
    if maps::is_local(&packet.destination_key()) {
        return Err(Verdict::LocalAddress);
    }
    if maps::route_v4(*packet.destination) { Ok(()) } else { Err(Verdict::NoRoute) }
}

/// Whether an IPv6 packet is for a network behind a peer.
#[inline(always)]
pub(crate) fn v6(packet: &V6, frame: &Frame, interface: &Interface, config: &Config) -> Result<(), Verdict> {
    for_us(frame, interface)?;
    if stays_v6(packet.destination) || stays_v6(packet.source) {
        return Err(Verdict::Scope);
    }
    if packet.next == HOP_BY_HOP {
        return Err(Verdict::Options);
    }
    forwardable(packet.hop_limit, packet.len, config)?;
    let destination = packet.destination_key();
    if maps::is_local(&destination) {
        return Err(Verdict::LocalAddress);
    }
    if maps::route_v6(destination) { Ok(()) } else { Err(Verdict::NoRoute) }
}

/// Whether the frame is for our interface, in its VLAN.
#[inline(always)]
fn for_us(frame: &Frame, interface: &Interface) -> Result<(), Verdict> {
    if *frame.destination != interface.mac {
        return Err(Verdict::OtherMac);
    }
    if frame.vlan != interface.vlan {
        return Err(Verdict::OtherVlan);
    }
    Ok(())
}

#[inline(always)]
fn forwardable(hops: u8, len: u32, config: &Config) -> Result<(), Verdict> {
    if hops <= 1 {
        return Err(Verdict::HopLimit);
    }
    if len > config.tunnel_mtu {
        return Err(Verdict::TunnelMtu);
    }
    if len > u32::from(config.packet_len_max) {
        return Err(Verdict::TooLong);
    }
    Ok(())
}

/// This host or network (RFC 1122, section 3.2.1.3), loopback, link-local (RFC 3927), multicast, reserved, broadcast.
#[inline(always)]
fn stays_v4(address: &[u8; 4]) -> bool {
    let [a, b, ..] = *address;
    a == 0 || a == 127 || a >= 224 || (a == 169 && b == 254)
}

/// Unspecified, loopback, IPv4 in IPv6 (which no wire carries), link-local, multicast.
#[inline(always)]
fn stays_v6(address: &[u8; 16]) -> bool {
    let [a, b, low @ ..] = *address;
    let [rest @ .., _, _, _, _] = low;
    let head_is_zero = a == 0 && b == 0 && rest[..8] == [0; 8];
    a == 0xff || (a == 0xfe && b & 0xc0 == 0x80) || (head_is_zero && (rest[8..] == [0; 2] || rest[8..] == [0xff; 2]))
}
