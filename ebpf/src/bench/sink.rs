//! The sink: knows the bench's frames, counts them and takes them.
//!
//! 1. [`parse`]: UDP to the bench's port with the magic of this run; everything else is the kernel's, ARP above all.
//! 2. [`account`]: duplicated, reordered, corrupted, of an earlier trial; latency.
//! 3. Taken, or sent back where it came from.
//!
//! Enters: every frame that the interface receives. Leaves: everything that is not the bench's. Never does: take a frame without
//! the magic.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use landbridge_ebpf_common::bench::{
    self, CYCLE, FRAME_MAX, Flow, LATENCY_BUCKETS, STAMP, Sink, TRAILER, Tally, UDP_AT_V4, UDP_AT_V6, WINDOW,
};

#[map]
static SINK: Array<Sink> = Array::with_max_entries(1, 0);

#[map]
static FLOWS: Array<Flow> = Array::with_max_entries(bench::FLOWS, 0);

#[map]
static SEEN: Array<u32> = Array::with_max_entries(bench::FLOWS * WINDOW, 0);

#[map]
static TALLY: PerCpuArray<Tally> = PerCpuArray::with_max_entries(1, 0);

#[map]
static LATENCY: PerCpuArray<[u64; LATENCY_BUCKETS]> = PerCpuArray::with_max_entries(1, 0);

/// A frame of the bench.
#[derive(Clone, Copy)]
struct Stamped {
    port: u16,
    packet_len: u32,
    udp_at: usize,
    sequence: u32,
    time_ns: u64,
}

#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    let (Some(sink), Some(tally)) = (SINK.get(0), TALLY.get_ptr_mut(0)) else { return XDP_PASS };
    // SAFETY: the value of this CPU lives as long as the program, and no other program on this CPU interrupts this one.
    let tally = unsafe { &mut *tally };
    let (data, end) = (ctx.data(), ctx.data_end());
    let Some(stamped) = parse(data, end, sink) else {
        tally.passed += 1;
        return XDP_PASS;
    };
    account(data, end, sink, tally, &stamped);
    if sink.reflect == 0 { XDP_DROP } else { reflect(data, end, stamped.udp_at) }
}

#[inline(always)]
fn parse(data: usize, end: usize, sink: &Sink) -> Option<Stamped> {
    if sink.magic == 0 {
        return None;
    }
    let head = words::<27>(data, end)?;
    match u16::from_be(head[6]) {
        // Version 4 without options, not a fragment, UDP.
        0x0800
            if head[7].to_ne_bytes()[0] == 0x45
                && u16::from_be(head[10]) & 0x3fff == 0
                && head[11].to_ne_bytes()[1] == 17 =>
        {
            stamp::<UDP_AT_V4>(data, end, sink, u32::from(u16::from_be(head[8])))
        }
        0x86dd if head[10].to_ne_bytes()[0] == 17 => {
            stamp::<UDP_AT_V6>(data, end, sink, u32::from(u16::from_be(head[9])) + 40)
        }
        _ => None,
    }
}

/// Port, magic and stamp behind the headers.
#[inline(always)]
fn stamp<const UDP_AT: usize>(data: usize, end: usize, sink: &Sink, packet_len: u32) -> Option<Stamped> {
    let udp = words::<12>(data + UDP_AT, end)?;
    let magic = u32::from(udp[4]) | u32::from(udp[5]) << 16;
    if udp[1] != u16::from_ne_bytes(sink.destination_port) || magic != sink.magic {
        return None;
    }
    let sequence = u32::from(udp[6]) | u32::from(udp[7]) << 16;
    let low = u64::from(udp[8]) | u64::from(udp[9]) << 16;
    let time_ns = low | u64::from(udp[10]) << 32 | u64::from(udp[11]) << 48;
    Some(Stamped { port: u16::from_be(udp[0]), packet_len, udp_at: UDP_AT, sequence, time_ns })
}

#[inline(always)]
fn account(data: usize, end: usize, sink: &Sink, tally: &mut Tally, stamped: &Stamped) {
    let flow = u32::from(stamped.port.wrapping_sub(sink.port));
    if flow >= sink.flows || flow >= bench::FLOWS {
        tally.corrupted += 1;
        return;
    }
    if stamped.sequence < sink.sequence {
        tally.stale += 1;
        return;
    }
    if !is_whole(data, end, sink, stamped, flow) {
        tally.corrupted += 1;
        return;
    }
    let (Some(last), Some(seen)) =
        (FLOWS.get_ptr_mut(flow), SEEN.get_ptr_mut(flow * WINDOW + stamped.sequence % WINDOW))
    else {
        return;
    };
    // SAFETY: both values live as long as the program and are aligned. Frames of one flow come through one queue, so mostly on
    // one CPU at a time; where two meet, a reordered frame more or less is counted.
    let (last, seen) = unsafe { (&mut *last, &mut *seen) };
    if *seen == stamped.sequence {
        tally.duplicated += 1;
        return;
    }
    if *seen < stamped.sequence {
        *seen = stamped.sequence;
    }
    if last.next < sink.sequence {
        // The flow's first frame in this trial.
        last.next = sink.sequence;
        last.has_transit = 0;
    }
    tally.received += 1;
    if stamped.sequence >= last.next {
        last.next = stamped.sequence + 1;
    } else {
        tally.reordered += 1;
    }
    measure(tally, last, stamped.time_ns);
}

/// Latency and jitter.
#[inline(always)]
fn measure(tally: &mut Tally, last: &mut Flow, time_ns: u64) {
    // SAFETY: the helper has no conditions.
    let transit = unsafe { bpf_ktime_get_ns() }.saturating_sub(time_ns);
    if last.has_transit != 0 {
        tally.jitter_sum_ns += transit.abs_diff(last.transit_ns);
        tally.jitter_count += 1;
    }
    last.has_transit = 1;
    last.transit_ns = transit;
    if let Some(buckets) = LATENCY.get_ptr_mut(0) {
        // Compared where the verifier sees it, as above.
        let index = black_box(bench::bucket(transit) as usize);
        if index < LATENCY_BUCKETS {
            // SAFETY: the index was compared; the counters are this CPU's.
            unsafe { (*buckets)[index] += 1 };
        }
    }
}

/// Whether the length is the one that was sent and the end of the packet is where it should be.
#[inline(always)]
fn is_whole(data: usize, end: usize, sink: &Sink, stamped: &Stamped, flow: u32) -> bool {
    let turn = (stamped.sequence - sink.sequence) % CYCLE as u32 + flow % CYCLE as u32;
    let turn = if turn >= CYCLE as u32 { turn - CYCLE as u32 } else { turn };
    // Compared once more where the verifier sees it: it does not follow the arithmetic.
    let Some(expected) = sink.packet_len.get(black_box(turn as usize)) else { return false };
    if *expected != 0 && u32::from(*expected) != stamped.packet_len {
        return false;
    }
    let len = 14 + stamped.packet_len as usize;
    if len > FRAME_MAX {
        return false;
    }
    if len < stamped.udp_at + 8 + STAMP + TRAILER {
        return true;
    }
    // Kept whole: what is compared with the end has to be what is read, as the verifier sees it.
    let Some(trailer) = words::<2>(data + black_box(len - TRAILER), end) else { return false };
    trailer[0] == stamped.sequence as u16 && trailer[1] == !trailer[0]
}

/// Back to where it came from: the addresses change places, which no checksum sees; the ports stay, as the source port is
/// the flow.
#[inline(always)]
fn reflect(data: usize, end: usize, udp_at: usize) -> u32 {
    if !swap::<3>(data, data + 6, end) {
        return XDP_DROP;
    }
    let swapped = match udp_at {
        UDP_AT_V4 => swap::<2>(data + 26, data + 30, end),
        _ => swap::<8>(data + 22, data + 38, end),
    };
    if swapped { XDP_TX } else { XDP_DROP }
}

/// Swaps `N` words of two bytes.
#[inline(always)]
fn swap<const N: usize>(one: usize, other: usize, end: usize) -> bool {
    if one + N * 2 > end || other + N * 2 > end {
        return false;
    }
    // SAFETY: both were compared with the frame's end; they do not overlap; frames begin at even addresses.
    unsafe {
        let (one, other) = (one as *mut [u16; N], other as *mut [u16; N]);
        for index in 0..N {
            let kept = (*one)[index];
            (*one)[index] = (*other)[index];
            (*other)[index] = kept;
        }
    }
    true
}

/// `N` words of two bytes, as they lie in memory.
#[inline(always)]
fn words<const N: usize>(at: usize, end: usize) -> Option<&'static [u16; N]> {
    if at + N * 2 > end {
        return None;
    }
    // SAFETY: the bytes lie within the frame, as was compared; a frame lives until the program returns; it begins at an even
    // address, and so does everything in it.
    Some(unsafe { &*(at as *const [u16; N]) })
}
