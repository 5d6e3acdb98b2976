//! The generator: paces, stamps and sends live frames.
//!
//! 1. [`due`]: whether a frame is to be sent at this moment. Waiting is impossible here, so a frame that comes too early is
//!    dropped, and the kernel offers the next one.
//! 2. [`fill`]: headers, stamp, trailer and checksums, all written anew: the memory was another frame's before, and whoever had
//!    that may have changed it.
//!
//! Enters: live frames of the longest size. Leaves: frames of the trial, back out of their interface. Never does: send a frame
//! that is not of the trial, or more than are due.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_tail};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use landbridge_ebpf_common::bench::{
    CYCLE, FRAME_MAX, FRAME_MIN, HEADER_WORDS, Progress, SIZES, STAMP, Size, Source, TRAILER, UDP_AT_V4, UDP_AT_V6,
};

#[map]
static SOURCE: Array<Source> = Array::with_max_entries(1, 0);

#[map]
static PROGRESS: Array<Progress> = Array::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    let (Some(source), Some(progress)) = (SOURCE.get(0), PROGRESS.get_ptr_mut(0)) else { return XDP_DROP };
    // SAFETY: the map's value lives as long as the program; one run at a time has it, as the bench sees to.
    let progress = unsafe { &mut *progress };
    // SAFETY: the helper has no conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if !due(source, progress, now) {
        return XDP_DROP;
    }
    let (flow, sequence) = (progress.flow, progress.sequence);
    // The cycle goes on with each round over the flows, and each flow stands elsewhere in it.
    let mut turn = progress.cycle + flow % CYCLE as u32;
    if turn >= CYCLE as u32 {
        turn -= CYCLE as u32;
    }
    let (Some(choice), last) = (source.cycle.get(turn as usize), flow + 1 >= source.flows) else { return XDP_DROP };
    let Some(size) = source.sizes.get(*choice as usize % SIZES) else { return XDP_DROP };
    if !fill(ctx, source, size, flow, source.sequence + sequence, now) {
        return XDP_DROP;
    }
    if last {
        progress.flow = 0;
        progress.sequence = sequence + 1;
        progress.cycle = if progress.cycle + 1 >= CYCLE as u32 { 0 } else { progress.cycle + 1 };
    } else {
        progress.flow = flow + 1;
    }
    if progress.sent == 0 {
        progress.first_ns = now;
    }
    progress.last_ns = now;
    progress.sent += 1;
    XDP_TX
}

/// Whether a frame is due. What is more than the permitted lag late is given up: a rush would measure queues.
#[inline(always)]
fn due(source: &Source, progress: &mut Progress, now: u64) -> bool {
    if source.flows == 0 || now < source.start_ns {
        return false;
    }
    if now >= source.end_ns {
        progress.done = 1;
        return false;
    }
    // Below 2^36 ns (a minute) times 2^26 frames in 2^32 ns (15 million a second): no overflow.
    let target = ((now - source.start_ns) * source.frames_per_2_32_ns) >> 32;
    let past = progress.sent + progress.missed;
    if past >= target {
        return false;
    }
    let late = target - past;
    if late > u64::from(source.lag_max) {
        progress.missed += late - u64::from(source.lag_max);
    }
    true
}

/// Writes the whole frame; false where the frame at hand does not have the room.
#[inline(always)]
fn fill(ctx: &XdpContext, source: &Source, size: &Size, flow: u32, sequence: u32, now: u64) -> bool {
    let wanted = size.frame_len as usize;
    let present = ctx.data_end() - ctx.data();
    if wanted < FRAME_MIN || wanted > FRAME_MAX {
        return false;
    }
    if wanted != present {
        // SAFETY: the context is the one that the kernel gave; the pointers into the frame are read afterwards.
        if unsafe { bpf_xdp_adjust_tail(ctx.ctx, (wanted as i64 - present as i64) as i32) } != 0 {
            return false;
        }
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + FRAME_MIN > end {
        return false;
    }
    let port = (source.port.wrapping_add(flow as u16)).to_be();
    let beyond = if source.spread == 0 { 0 } else { flow as u16 };
    let destination = source.destination_port.wrapping_add(beyond).to_be();
    // Sums of words do not mind in which order their bytes lie: the sum of flow 0 and what the port is above its own.
    let mut sum = u64::from(size.udp_sum) + u64::from(port) + u64::from(beyond.to_be());
    sum += u64::from(sequence & 0xffff) + u64::from(sequence >> 16);
    sum += (now & 0xffff) + (now >> 16 & 0xffff) + (now >> 32 & 0xffff) + (now >> 48);
    let frame = Frame(data);
    let checksum = fold(sum);
    let udp_at = match source.udp_at as usize {
        UDP_AT_V4 => {
            frame.headers::<{ UDP_AT_V4 / 8 + 1 }>(source);
            frame.u16(16, u16::from_ne_bytes(size.ip_len));
            frame.u16(24, u16::from_ne_bytes(size.ip_checksum));
            frame.u16(UDP_AT_V4, port);
            frame.u16(UDP_AT_V4 + 2, destination);
            frame.u16(UDP_AT_V4 + 4, u16::from_ne_bytes(size.udp_len));
            // 40: checksum, magic, low half of the sequence number; 48: its high half, time; 56: the rest, then nothing.
            frame.u64(40, u64::from(checksum) | u64::from(source.magic) << 16 | u64::from(sequence) << 48);
            frame.u64(48, u64::from(sequence >> 16) | now << 16);
            frame.u64(56, now >> 48);
            frame.u64(64, 0);
            frame.u32(72, 0);
            frame.u16(76, 0);
            UDP_AT_V4
        }
        UDP_AT_V6 => {
            frame.headers::<HEADER_WORDS>(source);
            frame.u16(18, u16::from_ne_bytes(size.ip_len));
            frame.u16(UDP_AT_V6, port);
            frame.u16(UDP_AT_V6 + 2, destination);
            // 58: length, checksum, low half of the magic; 64: its high half, sequence number, time.
            frame.u16(58, u16::from_ne_bytes(size.udp_len));
            frame.u16(60, checksum);
            frame.u16(62, source.magic as u16);
            frame.u64(64, u64::from(source.magic >> 16) | u64::from(sequence) << 16 | now << 48);
            frame.u32(72, (now >> 16) as u32);
            frame.u16(76, (now >> 48) as u16);
            UDP_AT_V6
        }
        _ => return false,
    };
    trailer(data, end, wanted, udp_at, sequence as u16)
}

/// Two bytes and their complement at the end, where there is room behind the stamp.
#[inline(always)]
fn trailer(data: usize, end: usize, len: usize, udp_at: usize, value: u16) -> bool {
    if len < udp_at + 8 + STAMP + TRAILER {
        return true;
    }
    // Kept whole: what is compared with the end has to be what is written to, as the verifier sees it.
    let at = data + black_box(len - TRAILER);
    if at + TRAILER > end {
        return false;
    }
    let frame = Frame(at);
    frame.u16(0, value);
    frame.u16(2, !value);
    true
}

/// The Internet checksum of a sum.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let checksum = !(sum as u16);
    // UDP says "none" by zero; the same value has another name.
    if checksum == 0 { 0xffff } else { checksum }
}

/// A frame's memory. Only its user knows that what it writes lies within.
#[derive(Clone, Copy)]
struct Frame(usize);

impl Frame {
    /// The first `N` words of the headers.
    #[inline(always)]
    fn headers<const N: usize>(self, source: &Source) {
        for (index, word) in source.headers.iter().take(N).enumerate() {
            self.u64(index * 8, *word);
        }
    }

    #[inline(always)]
    fn u64(self, at: usize, value: u64) {
        // SAFETY: the caller compared with the frame's end; a live frame begins at a multiple of eight bytes.
        unsafe { *((self.0 + at) as *mut u64) = value }
    }

    #[inline(always)]
    fn u32(self, at: usize, value: u32) {
        // SAFETY: as above.
        unsafe { *((self.0 + at) as *mut u32) = value }
    }

    #[inline(always)]
    fn u16(self, at: usize, value: u16) {
        // SAFETY: as above; lengths are even.
        unsafe { *((self.0 + at) as *mut u16) = value }
    }
}
