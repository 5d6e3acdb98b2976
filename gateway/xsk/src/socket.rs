//! AF_XDP sockets: four rings and a bind.
//!
//! A frame goes to the kernel as an address and comes back as a token, exactly once: the memory knows which slots each
//! socket holds, so an address that the kernel should not have given back makes no second token. Steps:
//! 1. free frames go into the fill ring, 2. come back through the receive ring with a packet;
//! 3. frames to send go into the transmit ring, 4. come back through the completion ring.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use libc::xdp_desc;

use crate::bind::{self, Rings};
use crate::chain::{self, ChainsDropped, Gather};
use crate::control::{Handle, KernelTag, LiveSocket};
use crate::{Burst, ChecksumOffload, Frame, Memory, Pool, error, sys, tx_metadata};

/// How long a closing socket waits for what is being sent.
const DRAIN_MAX: Duration = Duration::from_millis(100);

/// How long the frames of a closed zero-copy socket rest: the kernel takes them from the driver a little after close.
const ZERO_COPY_REST: Duration = Duration::from_millis(200);

/// Most calls of one flush. In copy mode each sends at least 32 packets or none.
const KICKS_MAX: u32 = 64;

/// What to bind and how large the rings are.
#[derive(Debug, Clone)]
pub struct XskConfig {
    /// The interface.
    pub if_index: u32,
    /// The queue of that interface.
    pub queue: u32,
    /// Entries of the receive ring (power of two).
    pub rx_ring: u32,
    /// Entries of the transmit ring (power of two).
    pub tx_ring: u32,
    /// Entries of the fill and of the completion ring (power of two).
    pub fill_ring: u32,
    /// Force copy mode (else zero-copy is tried first).
    pub copy: bool,
    /// Ask for packets in several frames (XDP_USE_SG), of which those that are longer than one come and go.
    pub multi_buffer: bool,
    /// Have the device finish checksums that frames ask for, where the kernel knows of that.
    pub checksum_offload: ChecksumOffload,
    /// Ask for busy polling with this budget (SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET); `None` for off.
    pub busy_poll: Option<u32>,
}

/// What the kernel granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Zero-copy, else copy mode.
    pub zero_copy: bool,
    /// Packets longer than a frame come and go, in jumbo frames.
    pub multi_buffer: bool,
    /// The memory is registered with room for what is asked of the device, so that each frame to send needs it.
    pub tx_metadata: bool,
    /// Frames may ask for checksums.
    pub checksum_offload: bool,
    /// The kernel tells when it must be woken.
    pub need_wakeup: bool,
    /// Busy polling is on.
    pub busy_poll: bool,
}

/// Counters of the kernel (XDP_STATISTICS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own names: struct xdp_statistics in if_xdp.h")]
pub struct XskStatistics {
    pub rx_dropped: u64,
    pub rx_invalid_descs: u64,
    pub tx_invalid_descs: u64,
    pub rx_ring_full: u64,
    pub rx_fill_ring_empty_descs: u64,
    pub tx_ring_empty_descs: u64,
}

/// One AF_XDP socket, bound to one queue of one interface.
#[derive(Debug)]
pub struct Xsk {
    /// Holds frames of the memory: goes before what keeps that alive.
    gather: Gather,
    control: Handle,
    rings: ManuallyDrop<Rings>,
    bound: Bound,
    number: u8,
    /// Frames in the fill and receive rings, and in the transmit and completion rings.
    receiving: usize,
    transmitting: usize,
    invalid_descriptors: u64,
    unsendable: u64,
}

impl Xsk {
    /// Opens and binds. Several sockets may be opened on one memory, each with rings of its own, and share its
    /// registration with the kernel (XDP_SHARED_UMEM) where they can; a queue of an interface takes one socket.
    ///
    /// # Errors
    /// What the kernel said, with the step that failed and the way out; [`error::os_code`] tells its number.
    pub fn open(config: &XskConfig, memory: &Memory) -> io::Result<Self> {
        let control = memory.control.clone();
        // Held until the socket is listed, so that none whose registration is about to be shared is closed meanwhile.
        let mut live = control.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (0..KernelTag::SOCKETS).find(|n| live.iter().all(|socket| socket.number != *n));
        let Some(number) = number else {
            let what = format!("open AF_XDP socket: this packet memory has {} already", live.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        if live.iter().any(|socket| (socket.if_index, socket.queue) == (config.if_index, config.queue)) {
            let step = format_args!("bind AF_XDP socket to interface {} queue {}", config.if_index, config.queue);
            let busy = io::Error::from_raw_os_error(libc::EBUSY);
            return Err(error::with_way_out(step, busy, Some("this gateway has a socket on that queue already")));
        }
        let (rings, bound) = bind::open(config, &control, &live)?;
        live.push(LiveSocket {
            number,
            fd: rings.fd.as_raw_fd(),
            zero_copy: bound.zero_copy,
            multi_buffer: bound.multi_buffer,
            tx_metadata: bound.tx_metadata,
            if_index: config.if_index,
            queue: config.queue,
        });
        control.share_among(live.len());
        drop(live);
        Ok(Self {
            control,
            rings: ManuallyDrop::new(rings),
            bound,
            number,
            receiving: 0,
            transmitting: 0,
            gather: Gather::default(),
            invalid_descriptors: 0,
            unsendable: 0,
        })
    }

    /// What the kernel granted.
    #[must_use]
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Moves received frames (their data is the packet from its Ethernet header on) into `burst` until it is full or
    /// none is left; refills the fill ring from `pool`. Returns how many came. Nothing is received before the first
    /// call. Packets longer than a frame come in jumbo frames, where [`Bound::multi_buffer`] was granted; those for which
    /// there is none are dropped and counted by [`Xsk::take_chains_dropped`].
    pub fn receive(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        let before = burst.len();
        while !burst.is_full() {
            let Some(descriptor) = self.rings.receive.pop() else { break };
            let mut frame = self.received(descriptor, pool);
            let more = descriptor.options & libc::XDP_PKT_CONTD != 0;
            if more || self.gather.is_within() {
                frame = self.gather.add(frame, more, pool);
            }
            if let Some(frame) = frame {
                burst.push(frame);
            }
        }
        self.rings.receive.release();
        let refilled = self.refill(pool);
        let came = burst.len() - before;
        if (refilled > 0 && self.rings.fill.needs_wakeup()) || (self.bound.busy_poll && came == 0) {
            sys::kick_receive(self.rings.fd.as_fd());
        }
        came
    }

    /// Moves frames from the front of `burst` into the transmit ring until it is empty or the ring is full, and
    /// reclaims what was sent into `pool`. The rest stays in `burst`. Does not wake the kernel: see [`Xsk::flush`].
    /// Returns how many went into the ring. A packet in a jumbo frame goes in several frames of `pool`, where
    /// [`Bound::multi_buffer`] was granted. Frames that no ring can take (empty, longer than [`Xsk::len_max`], of another
    /// memory, asking for what was not granted) are dropped and counted by [`Xsk::unsendable`].
    pub fn transmit(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        self.reclaim(Some(pool));
        if self.bound.multi_buffer && burst.iter().any(Frame::is_jumbo) {
            return self.transmit_long(pool, burst);
        }
        let room = self.rings.transmit.room(burst.len() as u32) as usize;
        let mut sent = 0;
        for frame in burst.drain(..room) {
            if frame.is_jumbo() || !self.is_sendable(&frame) {
                self.unsendable += 1;
                continue;
            }
            self.push(frame, 0);
            sent += 1;
        }
        self.rings.transmit.publish();
        sent
    }

    /// [`Xsk::transmit`] where packets may take several descriptors each: a packet goes into the ring whole or not at all.
    fn transmit_long(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        let mut sent = 0;
        let mut frames = std::mem::take(burst).into_iter();
        for frame in frames.by_ref() {
            let parts = if frame.is_jumbo() { chain::parts_of(frame.len(), pool) } else { Some(1) };
            // What is cut is copied, and a request would stay behind.
            let asks_in_vain = frame.is_jumbo() && frame.asks_checksum();
            let sendable = self.is_sendable(&frame) && !asks_in_vain && pool.is_of(&self.control);
            let Some(parts) = parts.filter(|_| sendable) else {
                self.unsendable += 1;
                continue;
            };
            if self.rings.transmit.room(parts as u32) as usize == parts {
                match chain::cut(frame, parts, pool) {
                    Ok(cut) => {
                        let last = cut.len() - 1;
                        for (at, part) in cut.into_iter().enumerate() {
                            self.push(part, if at < last { libc::XDP_PKT_CONTD } else { 0 });
                        }
                        sent += 1;
                        continue;
                    }
                    Err(frame) => burst.push(frame),
                }
            } else {
                burst.push(frame);
            }
            break;
        }
        burst.extend(frames);
        self.rings.transmit.publish();
        sent
    }

    /// Gives a frame to the transmit ring, which has room for it.
    #[inline]
    fn push(&mut self, mut frame: Frame, options: u32) {
        let len = frame.len() as u32;
        let options = if frame.asks_checksum() { options | libc::XDP_TX_METADATA } else { options };
        if self.bound.tx_metadata && !frame.asks_checksum() {
            frame.ask_nothing();
        }
        let (slot, start) = frame.lend(KernelTag::transmit(self.number));
        let addr = u64::from(slot) * u64::from(self.control.frame_size()) + u64::from(start);
        let pushed = self.rings.transmit.push(xdp_desc { addr, len, options });
        debug_assert!(pushed, "the ring had room for it");
        self.transmitting += 1;
    }

    /// Bytes of the longest packet that can be sent, from its Ethernet header on, in a jumbo frame where it is longer than
    /// a small one holds.
    #[must_use]
    pub fn len_max(&self) -> usize {
        match self.bound.multi_buffer {
            true => chain::chain_len_max(self.control.frame_size()),
            false => self.control.frame_size() as usize,
        }
    }

    /// Received packets that were dropped as their chains could not be gathered, since the last call.
    #[inline]
    pub fn take_chains_dropped(&mut self) -> ChainsDropped {
        self.gather.take_dropped()
    }

    /// Whether the kernel would take this frame: one of ours, with data, with the room in front that the registration wants,
    /// and asking for nothing that was not granted.
    #[inline]
    fn is_sendable(&self, frame: &Frame) -> bool {
        let has_room = !self.bound.tx_metadata || frame.headroom() >= tx_metadata::LEN;
        let is_granted = self.bound.checksum_offload || !frame.asks_checksum();
        !frame.is_empty() && has_room && is_granted && self.control.is(frame.control())
    }

    /// Makes the kernel send what is in the transmit ring, where it has to be told (in copy mode: as often as it
    /// takes).
    ///
    /// # Errors
    /// What sendto said, EAGAIN, EBUSY and ENOBUFS excepted: those leave frames in the ring for the next call.
    pub fn flush(&mut self, pool: &mut Pool) -> io::Result<()> {
        self.flush_into(Some(pool))
    }

    /// Whether the transmit ring has frames that the kernel has not taken.
    #[must_use]
    pub fn is_unsent(&mut self) -> bool {
        self.rings.transmit.pending() > 0
    }

    /// Frames that the rings hold (fill, receive, transmit, completion).
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.receiving + self.transmitting
    }

    /// Frames that the transmit and completion rings hold: 0 when all was sent and reclaimed.
    #[must_use]
    pub fn transmitting(&self) -> usize {
        self.transmitting
    }

    /// Descriptors from the kernel that made no sense and were left alone.
    #[must_use]
    pub fn invalid_descriptors(&self) -> u64 {
        self.invalid_descriptors
    }

    /// Frames dropped by [`Xsk::transmit`].
    #[must_use]
    pub fn unsendable(&self) -> u64 {
        self.unsendable
    }

    /// The kernel's counters.
    ///
    /// # Errors
    /// What getsockopt said.
    pub fn statistics(&self) -> io::Result<XskStatistics> {
        statistics_of(self.rings.fd.as_fd())
    }

    /// Closes the socket and brings every frame it held home. Waits a little for what is being sent (at most 100 ms),
    /// and 200 ms for the driver to let go of the frames of a zero-copy socket.
    pub fn close(self, pool: &mut Pool) {
        drop(self);
        pool.gather();
    }

    /// Makes a frame of a received descriptor.
    #[inline]
    fn received(&mut self, descriptor: xdp_desc, pool: &mut Pool) -> Option<Frame> {
        let frame_size = u64::from(self.control.frame_size());
        let slot = u32::try_from(descriptor.addr / frame_size).unwrap_or(u32::MAX);
        let Some(mut frame) = self.control.recover(slot, KernelTag::receive(self.number)) else {
            self.invalid_descriptors += 1;
            return None;
        };
        self.receiving -= 1;
        if !frame.set_data((descriptor.addr % frame_size) as u32, descriptor.len) {
            self.invalid_descriptors += 1;
            pool.put(frame);
            return None;
        }
        Some(frame)
    }

    /// Fills the fill ring, but leaves a quarter of all frames to the lane, and their share of the rest to the other
    /// sockets of the memory.
    fn refill(&mut self, pool: &mut Pool) -> usize {
        if !pool.is_of(&self.control) {
            return 0;
        }
        let reserve = self.control.small() as usize / 4;
        if pool.at_hand() <= reserve {
            pool.gather();
        }
        let share = (self.control.small() as usize - reserve) / self.control.sharing();
        let spare = pool.at_hand().saturating_sub(reserve).min(share.saturating_sub(self.receiving)) as u32;
        let count = self.rings.fill.room(spare);
        let tag = KernelTag::receive(self.number);
        let mut filled = 0;
        for _ in 0..count {
            let Some(frame) = pool.take() else { break };
            let (slot, _) = frame.lend(tag);
            let pushed = self.rings.fill.push(u64::from(slot) * u64::from(self.control.frame_size()));
            debug_assert!(pushed, "the ring had room for {count} frames");
            filled += 1;
        }
        self.rings.fill.publish();
        self.receiving += filled;
        filled
    }

    /// Brings sent frames home, by the pool if there is one. Returns how many.
    fn reclaim(&mut self, mut pool: Option<&mut Pool>) -> usize {
        let frame_size = u64::from(self.control.frame_size());
        let tag = KernelTag::transmit(self.number);
        let mut reclaimed = 0;
        while let Some(address) = self.rings.completion.pop() {
            let slot = u32::try_from(address / frame_size).unwrap_or(u32::MAX);
            match (self.control.recover(slot, tag), &mut pool) {
                (Some(frame), Some(pool)) => pool.put(frame),
                (Some(frame), None) => drop(frame),
                (None, _) => {
                    self.invalid_descriptors += 1;
                    continue;
                }
            }
            reclaimed += 1;
        }
        self.rings.completion.release();
        self.transmitting -= reclaimed;
        reclaimed
    }

    fn flush_into(&mut self, mut pool: Option<&mut Pool>) -> io::Result<()> {
        let mut result = Ok(());
        let mut pending = self.rings.transmit.pending();
        for _ in 0..KICKS_MAX {
            if pending == 0 || !self.rings.transmit.needs_wakeup() {
                break;
            }
            let kicked = sys::kick_transmit(self.rings.fd.as_fd());
            // Completed frames make room in the completion ring, without which the kernel sends nothing more.
            let reclaimed = self.reclaim(pool.as_deref_mut());
            let left = self.rings.transmit.pending();
            match kicked {
                Ok(()) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS)) => {}
                Err(error) => {
                    result = Err(error::at("send through an AF_XDP socket", error));
                    break;
                }
            }
            // A zero-copy driver goes on by itself once it was told.
            if self.bound.zero_copy || (left == pending && reclaimed == 0) {
                break;
            }
            pending = left;
        }
        self.reclaim(pool);
        result
    }

    /// Waits, not for long, until what is being sent has been sent: the kernel may read those frames until then.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN_MAX;
        while self.transmitting > 0 && self.flush_into(None).is_ok() {
            if self.transmitting == 0 || Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Xsk {
    fn drop(&mut self) {
        self.drain();
        let mut live = self.control.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nothing below uses the rings. They are unmapped and the socket is closed here, in this order, and
        // close returns when no packet can be received into its frames (zero-copy drivers excepted, see below).
        unsafe { ManuallyDrop::drop(&mut self.rings) };
        if self.bound.zero_copy {
            thread::sleep(ZERO_COPY_REST);
        }
        self.control.recover_all(KernelTag::receive(self.number));
        self.control.recover_all(KernelTag::transmit(self.number));
        // The number is free again only after its frames were recovered.
        live.retain(|socket| socket.number != self.number);
        self.control.share_among(live.len());
    }
}

/// [`Xsk::statistics`] by a second descriptor of the socket, for those who do not own its rings.
///
/// # Errors
/// What getsockopt said.
pub fn statistics_of(socket: BorrowedFd<'_>) -> io::Result<XskStatistics> {
    let kernel: libc::xdp_statistics = sys::xdp_option(socket, libc::XDP_STATISTICS)
        .map_err(|e| error::at("read the statistics of an AF_XDP socket", e))?;
    Ok(XskStatistics {
        rx_dropped: kernel.rx_dropped,
        rx_invalid_descs: kernel.rx_invalid_descs,
        tx_invalid_descs: kernel.tx_invalid_descs,
        rx_ring_full: kernel.rx_ring_full,
        rx_fill_ring_empty_descs: kernel.rx_fill_ring_empty_descs,
        tx_ring_empty_descs: kernel.tx_ring_empty_descs,
    })
}

impl AsFd for Xsk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.fd.as_fd()
    }
}
