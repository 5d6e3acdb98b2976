//! `landbridge_steer`: the XDP program that takes packets off the wire which the lanes handle; `landbridge_steer_long`: the
//! same for interfaces whose frames may lie in several buffers, which takes Linux 5.18.
//!
//! Enters: every frame that an interface of ours receives. Leaves: on a wan interface transport data of live
//! sessions, on a lan interface packets for networks behind peers, to the AF_XDP socket of their queue;
//! at a relay's ports datagrams of bound peers, to the other peer's place; everything else, untouched, to the kernel. Never
//! does: answer a packet, or drop or change one that is not a bound peer's at a port of the relay.
//!
//! 1. [`parse`]: headers; lengths are believed only where they agree with each other.
//! 2. [`wan`]: our port, one of our addresses, transport data, a live receiver index.
//! 3. [`lan`]: our MAC and VLAN, to be forwarded by the rules for routers, a route to a peer.
//! 4. [`relay`]: a port of the relay, from a bound place: rewritten and sent from here.
//! 5. [`redirect`]: the socket bound to this interface and queue.
//! 6. [`action`]: the one place where an outcome becomes an XDP action.
//!
//! Of a frame in several buffers the program sees the first, in which all headers lie that it reads; those behind it are the
//! kernel's to read. How long the whole is, the kernel says.
//!
//! An interface may have both roles: what is for one of our addresses is asked of the wan role, all else of the lan's.

#![no_std]
#![no_main]

mod lan;
mod maps;
mod parse;
mod relay;
mod wan;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use landbridge_ebpf_common::{Config, Interface, PACKET_LEN_MAX, QUEUES_PER_INTERFACE, ROLE_LAN, ROLE_WAN, Verdict};

use crate::parse::{Cursor, V4, V6, udp};

/// Helpers that only GPL-compatible programs may call stay within reach.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The program.
#[xdp]
pub fn landbridge_steer(ctx: XdpContext) -> u32 {
    run::<false>(&ctx)
}

/// The program, of frames in several buffers, too.
#[xdp(frags)]
pub fn landbridge_steer_long(ctx: XdpContext) -> u32 {
    run::<true>(&ctx)
}

#[inline(always)]
fn run<const LONG: bool>(ctx: &XdpContext) -> u32 {
    let verdict = steer::<LONG>(ctx);
    maps::count(verdict);
    action(verdict)
}

/// The XDP action of every outcome. What is not ours is the kernel's.
#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Redirected | Verdict::LanRedirected | Verdict::RelayRedirected => xdp_action::XDP_REDIRECT,
        Verdict::RelayTransmitted => xdp_action::XDP_TX,
        Verdict::RelayNotWireguard | Verdict::RelayLimited => xdp_action::XDP_DROP,
        Verdict::Disabled
        | Verdict::OtherEtherType
        | Verdict::TooManyTags
        | Verdict::Truncated
        | Verdict::Malformed
        | Verdict::Fragment
        | Verdict::OtherProtocol
        | Verdict::TooManyExtensions
        | Verdict::OtherPort
        | Verdict::OtherAddress
        | Verdict::Control
        | Verdict::UnknownSession
        | Verdict::NoSocket
        | Verdict::TooLong
        | Verdict::OtherMac
        | Verdict::OtherVlan
        | Verdict::Scope
        | Verdict::Options
        | Verdict::HopLimit
        | Verdict::TunnelMtu
        | Verdict::LocalAddress
        | Verdict::NoRoute
        | Verdict::RelayUnbound
        | Verdict::RelayOwn
        | Verdict::RelayHopLimit
        | Verdict::RelayTooLong
        | Verdict::RelayNoNeighbour
        | Verdict::RelayNoRoute
        | Verdict::RelayHeaders
        | Verdict::RelayChecksum => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn steer<const LONG: bool>(ctx: &XdpContext) -> Verdict {
    let Some(config) = maps::config() else { return Verdict::Disabled };
    if config.enabled == 0 {
        return Verdict::Disabled;
    }
    // Where there is no lan, what an interface is to us matters only once a packet is taken, which few are.
    let interface = if config.lans != 0 { interface(ctx) } else { None };
    match select::<LONG>(ctx, interface, config) {
        Ok(taken) => redirect(ctx, interface, taken),
        Err(verdict) => verdict,
    }
}

/// Bytes of a frame in all its buffers.
#[inline(always)]
fn frame_len(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is the kernel's.
    unsafe { generated::bpf_xdp_get_buff_len(ctx.ctx) as u32 }
}

/// What the interface is to us that the packet came in by.
#[inline(always)]
fn interface(ctx: &XdpContext) -> Option<&'static Interface> {
    maps::interface(ctx.ingress_ifindex() as u32)
}

/// Which role takes the packet for a socket; else the verdict that ends the matter.
#[inline(always)]
fn select<const LONG: bool>(
    ctx: &XdpContext,
    interface: Option<&Interface>,
    config: &Config,
) -> Result<Verdict, Verdict> {
    let frame = parse::frame(Cursor::new(ctx.data(), ctx.data_end()))?;
    // Sockets that take no more than a buffer holds may not take several either: before Linux 6.6 such frames are lost there.
    let several = LONG && config.packet_len_max > PACKET_LEN_MAX;
    let whole = if several { Some(frame_len(ctx).saturating_sub(frame.header_len)) } else { None };
    match frame.kind {
        parse::IPV4 => {
            let packet = V4::parse(frame.body, whole)?;
            match of_lan(interface, || maps::is_local(&packet.destination_key())) {
                Some(interface) => lan::v4(&packet, &frame, interface, config).map(|()| Verdict::LanRedirected),
                None => {
                    let datagram = udp::v4(&packet)?;
                    if relay::has_port(datagram.port, config) {
                        if LONG && !datagram.is_in_one_buffer() {
                            return Err(Verdict::RelayTooLong);
                        }
                        return Err(relay::v4(ctx, &frame, &packet, &datagram, config));
                    }
                    wan::select(&datagram, config).map(|()| Verdict::Redirected)
                }
            }
        }
        parse::IPV6 => {
            let packet = V6::parse(frame.body, whole)?;
            match of_lan(interface, || maps::is_local(&packet.destination_key())) {
                Some(interface) => lan::v6(&packet, &frame, interface, config).map(|()| Verdict::LanRedirected),
                None => {
                    let datagram = udp::v6(&packet)?;
                    if relay::has_port(datagram.port, config) {
                        if LONG && !datagram.is_in_one_buffer() {
                            return Err(Verdict::RelayTooLong);
                        }
                        return Err(relay::v6(ctx, &frame, &packet, &datagram, config));
                    }
                    wan::select(&datagram, config).map(|()| Verdict::Redirected)
                }
            }
        }
        _ => Err(Verdict::OtherEtherType),
    }
}

/// The interface where its lan role is to be asked; none where the wan role is.
#[inline(always)]
fn of_lan(interface: Option<&Interface>, is_local: impl Fn() -> bool) -> Option<&Interface> {
    interface.filter(|interface| interface.roles & ROLE_LAN != 0 && (interface.roles & ROLE_WAN == 0 || !is_local()))
}

/// To the socket of this interface and queue, where one is bound.
#[inline(always)]
fn redirect(ctx: &XdpContext, known: Option<&'static Interface>, taken: Verdict) -> Verdict {
    let queue = ctx.rx_queue_index();
    if queue >= QUEUES_PER_INTERFACE {
        return Verdict::NoSocket;
    }
    let Some(interface) = known.or_else(|| interface(ctx)) else { return Verdict::NoSocket };
    if maps::redirect(interface.number * QUEUES_PER_INTERFACE + queue) { taken } else { Verdict::NoSocket }
}

/// The verifier proves that no path leads here; the language wants it.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
