//! The generator where a driver sends no frames of XDP programs: the same frames, made here and sent by an AF_XDP ring in
//! copy mode, which every driver takes.
//!
//! Enters: a [`Source`]. Leaves: frames of the trial, as the XDP program makes them, and what was sent. Never does: receive,
//! or take the interface's queue from the kernel: copy mode leaves it alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use landbridge_ebpf_common::bench::{CYCLE, Progress, STAMP, Size, Source, TRAILER, UDP_AT_V4};
use landbridge_xsk::{Burst, ChecksumOffload, Memory, MemoryConfig, Pool, Xsk, XskConfig};

use super::tester::now_ns;

/// Entries of the ring; what lags by more is never sent, as with the XDP program.
const RING: u32 = 512;
const FRAME_SIZE: u32 = 4096;
/// Before the first frame, and after the last, the thread sleeps in such steps.
const NAP: Duration = Duration::from_micros(500);

/// What a generator has sent, for those who watch it.
pub(super) type Shared = Arc<Mutex<Progress>>;

/// Sends the frames of a trial out of an interface of this thread's namespace until `end` is set.
///
/// # Errors
/// No right to do so, or what the kernel said.
pub(super) fn generate(source: &Source, if_index: u32, shared: &Shared, end: &AtomicBool) -> anyhow::Result<()> {
    let sizes = MemoryConfig { frames: RING * 4, frame_size: FRAME_SIZE, jumbo_frames: 0, huge_pages: false };
    let (memory, mut pool) = Memory::new(sizes)?;
    let config = XskConfig {
        if_index,
        queue: 0,
        rx_ring: 64,
        tx_ring: RING,
        fill_ring: RING,
        copy: true,
        multi_buffer: false,
        busy_poll: None,
        checksum_offload: ChecksumOffload::default(),
    };
    let mut socket = Xsk::open(&config, &memory).context("the generator has no ring")?;
    let (mut maker, mut burst) = (Maker::new(*source), Burst::new());
    while !end.load(Ordering::Relaxed) {
        maker.make(&mut pool, &mut burst)?;
        if burst.is_empty() {
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = maker.progress;
            rest(source, &maker)?;
            continue;
        }
        socket.transmit(&mut pool, &mut burst);
        socket.flush(&mut pool)?;
    }
    *shared.lock().unwrap_or_else(PoisonError::into_inner) = maker.progress;
    burst.drain(..).for_each(|frame| pool.put(frame));
    socket.close(&mut pool);
    Ok(())
}

/// Sleeps where nothing is due for long; between frames it does not, as a sleep is longer than a gap.
fn rest(source: &Source, maker: &Maker) -> anyhow::Result<()> {
    let begins_later = source.start_ns > now_ns()?.saturating_add(2 * NAP.as_nanos() as u64);
    if begins_later || maker.progress.done != 0 {
        std::thread::sleep(NAP);
    } else {
        std::hint::spin_loop();
    }
    Ok(())
}

/// The frames of a trial, one after the other.
pub(super) struct Maker {
    source: Source,
    pub(super) progress: Progress,
}

impl Maker {
    pub(super) fn new(source: Source) -> Self {
        Self { source, progress: Progress::default() }
    }

    /// Makes what is due until the burst is full.
    fn make(&mut self, pool: &mut Pool, burst: &mut Burst) -> anyhow::Result<()> {
        while !burst.is_full() {
            let now = now_ns()?;
            if !self.is_due(now) {
                break;
            }
            let size = self.size().context("the trial has a size that there is not")?;
            // None is free while the ring is full of those that were sent last.
            let Some(mut frame) = pool.take() else { break };
            let room = frame.append(size.frame_len as usize).context("the frame is too long for a ring")?;
            self.write(&size, now, room);
            self.advance(now);
            burst.push(frame);
        }
        Ok(())
    }

    /// As the XDP program: what is late by more than is permitted is given up.
    fn is_due(&mut self, now: u64) -> bool {
        let Self { source, progress } = self;
        if source.flows == 0 || now < source.start_ns {
            return false;
        }
        if now >= source.end_ns {
            progress.done = 1;
            return false;
        }
        let target = ((now - source.start_ns) * source.frames_per_2_32_ns) >> 32;
        let late = target.saturating_sub(progress.sent + progress.missed);
        progress.missed += late.saturating_sub(u64::from(source.lag_max));
        late > 0
    }

    /// That of the next frame: the cycle goes on with each round over the flows, and each flow stands elsewhere in it.
    pub(super) fn size(&self) -> Option<Size> {
        let turn = (self.progress.cycle as usize + self.progress.flow as usize) % CYCLE;
        self.source.sizes.get(usize::from(self.source.cycle[turn])).copied()
    }

    /// Counts the next frame as sent.
    pub(super) fn advance(&mut self, now: u64) {
        let progress = &mut self.progress;
        progress.flow += 1;
        if progress.flow >= self.source.flows {
            progress.flow = 0;
            progress.sequence += 1;
            progress.cycle = (progress.cycle + 1) % CYCLE as u32;
        }
        if progress.sent == 0 {
            progress.first_ns = now;
        }
        progress.last_ns = now;
        progress.sent += 1;
    }

    /// Writes the next frame over all of `out`.
    pub(super) fn write(&self, size: &Size, now: u64, out: &mut [u8]) {
        let Source { magic, udp_at, headers, port, .. } = self.source;
        let (udp_at, sequence) = (usize::from(udp_at), self.source.sequence + self.progress.sequence);
        let port = port.wrapping_add(self.progress.flow as u16).to_be_bytes();
        let mut header = [0; size_of::<[u64; 8]>()];
        for (to, word) in header.as_chunks_mut::<8>().0.iter_mut().zip(headers) {
            *to = word.to_ne_bytes();
        }
        let stamp_at = udp_at + 8;
        out.fill(0);
        out[..stamp_at].copy_from_slice(&header[..stamp_at]);
        if udp_at == UDP_AT_V4 {
            out[16..18].copy_from_slice(&size.ip_len);
            out[24..26].copy_from_slice(&size.ip_checksum);
        } else {
            out[18..20].copy_from_slice(&size.ip_len);
        }
        out[udp_at..udp_at + 2].copy_from_slice(&port);
        out[udp_at + 4..udp_at + 6].copy_from_slice(&size.udp_len);
        let stamp = &mut out[stamp_at..stamp_at + STAMP];
        stamp[..4].copy_from_slice(&magic.to_ne_bytes());
        stamp[4..8].copy_from_slice(&sequence.to_ne_bytes());
        stamp[8..].copy_from_slice(&now.to_ne_bytes());
        let moving = stamp[4..].as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_ne_bytes(*word)));
        let sum = size.udp_sum + u32::from(u16::from_ne_bytes(port)) + moving.sum::<u32>();
        out[udp_at + 6..stamp_at].copy_from_slice(&checksum(sum).to_ne_bytes());
        if out.len() >= stamp_at + STAMP + TRAILER {
            let (at, value) = (out.len() - TRAILER, sequence as u16);
            out[at..at + 2].copy_from_slice(&value.to_ne_bytes());
            out[at + 2..].copy_from_slice(&(!value).to_ne_bytes());
        }
    }
}

/// Of a sum in one's complement. UDP says "none" by zero; the same value has another name.
fn checksum(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    match !(sum as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}
