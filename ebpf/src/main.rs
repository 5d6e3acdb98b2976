//! `landbridge_steer`: the XDP program that takes packets off the wire which the lanes handle.
//!
//! Enters: every frame that an interface of ours receives. Leaves: on a wan interface transport data of live
//! sessions, on a lan interface packets for networks behind peers, to the AF_XDP socket of their queue;
//! everything else, untouched, to the kernel. Never does: drop, change or answer a packet.
//!
//! 1. [`parse`]: headers; lengths are believed only where they agree with each other.
//! 2. [`wan`]: our port, one of our addresses, transport data, a live receiver index.
//! 3. [`lan`]: our MAC and VLAN, to be forwarded by the rules for routers, a route to a peer.
//! 4. [`redirect`]: the socket bound to this interface and queue.
//! 5. [`action`]: the one place where an outcome becomes an XDP action.
//!
//! An interface may have both roles: what is for one of our addresses is asked of the wan role, all else of the lan's.

#![no_std]
#![no_main]

mod lan;
mod maps;
mod parse;
mod wan;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use landbridge_ebpf_common::{Config, Interface, QUEUES_PER_INTERFACE, ROLE_LAN, ROLE_WAN, Verdict};

use crate::parse::{Cursor, V4, V6, udp};

/// Helpers that only GPL-compatible programs may call stay within reach.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The program.
#[xdp]
pub fn landbridge_steer(ctx: XdpContext) -> u32 {
    let verdict = steer(&ctx);
    maps::count(verdict);
    action(verdict)
}

/// The XDP action of every outcome. What is not ours is the kernel's.
#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Redirected | Verdict::LanRedirected => xdp_action::XDP_REDIRECT,
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
        | Verdict::NoRoute => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn steer(ctx: &XdpContext) -> Verdict {
    let Some(config) = maps::config() else { return Verdict::Disabled };
    if config.enabled == 0 {
        return Verdict::Disabled;
    }
    // Where there is no lan, what an interface is to us matters only once a packet is taken, which few are.
    let interface = if config.lans != 0 { interface(ctx) } else { None };
    match select(Cursor::new(ctx.data(), ctx.data_end()), interface, config) {
        Ok(taken) => redirect(ctx, interface, taken),
        Err(verdict) => verdict,
    }
}

/// What the interface is to us that the packet came in by.
#[inline(always)]
fn interface(ctx: &XdpContext) -> Option<&'static Interface> {
    maps::interface(ctx.ingress_ifindex() as u32)
}

/// Which role takes the packet, if any.
#[inline(always)]
fn select(cursor: Cursor, interface: Option<&Interface>, config: &Config) -> Result<Verdict, Verdict> {
    let frame = parse::frame(cursor)?;
    match frame.kind {
        parse::IPV4 => {
            let packet = V4::parse(frame.body)?;
            match of_lan(interface, || maps::is_local(&packet.destination_key())) {
                Some(interface) => lan::v4(&packet, &frame, interface, config).map(|()| Verdict::LanRedirected),
                None => wan::select(&udp::v4(&packet)?, config).map(|()| Verdict::Redirected),
            }
        }
        parse::IPV6 => {
            let packet = V6::parse(frame.body)?;
            match of_lan(interface, || maps::is_local(&packet.destination_key())) {
                Some(interface) => lan::v6(&packet, &frame, interface, config).map(|()| Verdict::LanRedirected),
                None => wan::select(&udp::v6(&packet)?, config).map(|()| Verdict::Redirected),
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
