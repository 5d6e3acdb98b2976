//! `landbridge_steer`: the XDP program that takes transport data of live sessions off the wire.
//!
//! Enters: every frame that a wan interface receives. Leaves: transport data of live sessions, to the
//! AF_XDP socket of its queue; everything else, untouched, to the kernel. Never does: drop, change or
//! answer a packet.
//!
//! 1. [`parse`]: Ethernet, VLAN tags, IP, UDP; lengths are believed only where they agree with each other.
//! 2. [`select`]: our port, one of our addresses, transport data, a live receiver index.
//! 3. [`redirect`]: the socket bound to this interface and queue.
//! 4. [`action`]: the one place where an outcome becomes an XDP action.

#![no_std]
#![no_main]

mod maps;
mod parse;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use landbridge_ebpf_common::{Config, QUEUES_PER_INTERFACE, SESSION_SLOT_MASK, Verdict};

use crate::parse::{Datagram, TRANSPORT_DATA, TRANSPORT_DATA_LEN_MIN};

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
        Verdict::Redirected => xdp_action::XDP_REDIRECT,
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
        | Verdict::TooLong => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn steer(ctx: &XdpContext) -> Verdict {
    let Some(config) = maps::config() else { return Verdict::Disabled };
    if config.enabled == 0 {
        return Verdict::Disabled;
    }
    match parse::datagram(ctx.data(), ctx.data_end()).and_then(|datagram| select(&datagram, config)) {
        Ok(()) => redirect(ctx),
        Err(verdict) => verdict,
    }
}

/// Whether the datagram is transport data of a live session: the cheap questions first.
#[inline(always)]
fn select(datagram: &Datagram, config: &Config) -> Result<(), Verdict> {
    if datagram.port != config.port {
        return Err(Verdict::OtherPort);
    }
    if datagram.packet_len > u32::from(config.packet_len_max) {
        return Err(Verdict::TooLong);
    }
    if !maps::is_local(&datagram.destination) {
        return Err(Verdict::OtherAddress);
    }
    let head = datagram.payload()?;
    if datagram.payload_len < TRANSPORT_DATA_LEN_MIN || head.message_type != TRANSPORT_DATA {
        return Err(Verdict::Control);
    }
    // An index of 0 is never live: a slot without session reads 0.
    if head.receiver_index == 0 || maps::session(head.receiver_index & SESSION_SLOT_MASK) != head.receiver_index {
        return Err(Verdict::UnknownSession);
    }
    Ok(())
}

/// To the socket of this interface and queue, where one is bound.
#[inline(always)]
fn redirect(ctx: &XdpContext) -> Verdict {
    let queue = ctx.rx_queue_index();
    if queue >= QUEUES_PER_INTERFACE {
        return Verdict::NoSocket;
    }
    let Some(interface) = maps::interface(ctx.ingress_ifindex() as u32) else { return Verdict::NoSocket };
    if maps::redirect(interface * QUEUES_PER_INTERFACE + queue) { Verdict::Redirected } else { Verdict::NoSocket }
}

/// The verifier proves that no path leads here; the language wants it.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
