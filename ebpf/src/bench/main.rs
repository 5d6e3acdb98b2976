//! `landbridge_source` and `landbridge_sink`: the two ends of the bench's traffic. The gateway never loads them.
//!
//! [`source`] is run on live frames (BPF_PROG_TEST_RUN), as often as the kernel can: it sends a frame when one is due and drops
//! it when none is. [`sink`] is attached to the interface where the frames arrive and counts them.

#![no_std]
#![no_main]

mod sink;
mod source;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// Helpers that only GPL-compatible programs may call stay within reach.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Sends the frames of a trial.
#[xdp]
pub fn landbridge_source(ctx: XdpContext) -> u32 {
    source::run(&ctx)
}

/// Counts the frames of a trial.
#[xdp]
pub fn landbridge_sink(ctx: XdpContext) -> u32 {
    sink::run(&ctx)
}

/// The verifier proves that no path leads here; the language wants it.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
