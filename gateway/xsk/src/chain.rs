//! Packets in several descriptors: chains (XDP_USE_SG and XDP_PKT_CONTD, Linux 6.6).
//!
//! Enters: received frames one after the other, each with whether more of its packet follow; packets in jumbo frames, to
//! send. Leaves: each received chain in one jumbo frame, as the AEAD wants a packet's bytes in a row; the parts of a packet
//! in frames that a ring takes. Never does: hand out a part of a packet, or keep a frame that it gave up on.
//!
//! A received chain may be cut by the end of what a ring shows at a time: what has come of it waits here for the rest. One
//! that is too long, has a part that makes no sense or finds no jumbo frame free is taken from the ring to its end, dropped
//! and counted.

use arrayvec::ArrayVec;

use crate::{Frame, Pool};

/// Descriptors of one packet at most: what drivers with zero-copy send as one (i40e and ice: 8). The kernel's own limit in
/// copy mode is 17 (MAX_SKB_FRAGS).
pub const CHAIN_MAX: usize = 8;

/// Bytes that the kernel keeps free in front of what it receives into a frame (XDP_PACKET_HEADROOM).
pub const KERNEL_HEADROOM: u32 = 256;

/// Bytes of the longest packet, from its Ethernet header on, that a chain of frames of this size receives; it can be sent
/// by one, too.
#[must_use]
pub const fn chain_len_max(frame_size: u32) -> usize {
    CHAIN_MAX * (frame_size - KERNEL_HEADROOM) as usize
}

/// Received chains that were dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainsDropped {
    /// Of more than [`CHAIN_MAX`] descriptors, or with one that made no sense.
    pub oversized: u64,
    /// No jumbo frame was free.
    pub no_frame: u64,
}

/// What a socket has of the chain that it is receiving.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    state: State,
    dropped: ChainsDropped,
}

#[derive(Debug, Default)]
enum State {
    /// The next descriptor begins a packet.
    #[default]
    Between,
    /// So many parts have come; more follow.
    Within(Frame, usize),
    /// The packet is dropped; more of it follow.
    Skipping,
}

impl Gather {
    /// Whether the next descriptor belongs to a packet of which some has come.
    #[inline]
    pub(crate) fn is_within(&self) -> bool {
        !matches!(self.state, State::Between)
    }

    /// Takes the next part, `None` where its descriptor made no sense. Returns the packet when this was its last part.
    pub(crate) fn add(&mut self, part: Option<Frame>, more: bool, pool: &mut Pool) -> Option<Frame> {
        let state = match (std::mem::take(&mut self.state), &part) {
            (State::Between, Some(_)) => pool.take_jumbo().map(|whole| (whole, 0)).ok_or(false),
            (State::Within(whole, parts), Some(_)) => Ok((whole, parts)),
            (State::Within(whole, _), None) => {
                pool.put(whole);
                Err(true)
            }
            (State::Between, None) => Err(true),
            (State::Skipping, _) => {
                part.into_iter().for_each(|part| pool.put(part));
                self.state = if more { State::Skipping } else { State::Between };
                return None;
            }
        };
        let outcome = state.and_then(|(mut whole, parts)| {
            let bytes = part.as_ref().map_or(&[][..], Frame::data);
            match whole.append(bytes.len()).filter(|_| parts < CHAIN_MAX) {
                Some(room) => {
                    room.copy_from_slice(bytes);
                    Ok((whole, parts + 1))
                }
                None => {
                    pool.put(whole);
                    Err(true)
                }
            }
        });
        part.into_iter().for_each(|part| pool.put(part));
        match outcome {
            Ok((whole, _)) if !more => return Some(whole),
            Ok((whole, parts)) => self.state = State::Within(whole, parts),
            Err(oversized) => {
                self.dropped.oversized += u64::from(oversized);
                self.dropped.no_frame += u64::from(!oversized);
                self.state = if more { State::Skipping } else { State::Between };
            }
        }
        None
    }

    /// What was dropped since the last call.
    #[inline]
    pub(crate) fn take_dropped(&mut self) -> ChainsDropped {
        std::mem::take(&mut self.dropped)
    }
}

/// The parts of a packet that is to be sent, in small frames.
pub(crate) type Parts = ArrayVec<Frame, CHAIN_MAX>;

/// Descriptors that a packet of `len` bytes takes; `None` when no chain can have so many.
#[inline]
pub(crate) fn parts_of(len: usize, pool: &Pool) -> Option<usize> {
    let parts = len.div_ceil(pool.frame_capacity());
    (1..=CHAIN_MAX).contains(&parts).then_some(parts)
}

/// Copies a packet that lies in a jumbo frame into so many small ones; gives it back when there are not as many. One in a
/// small frame is its own only part.
pub(crate) fn cut(whole: Frame, parts: usize, pool: &mut Pool) -> Result<Parts, Frame> {
    let mut cut = Parts::new();
    if !whole.is_jumbo() {
        cut.push(whole);
        return Ok(cut);
    }
    for bytes in whole.data().chunks(pool.frame_capacity()).take(parts) {
        let Some(mut part) = pool.take() else {
            cut.drain(..).for_each(|part| pool.put(part));
            return Err(whole);
        };
        if let Some(room) = part.append(bytes.len()) {
            room.copy_from_slice(bytes);
        }
        cut.push(part);
    }
    pool.put(whole);
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, MemoryConfig};

    fn pool(jumbo_frames: u32) -> Pool {
        let config = MemoryConfig { frames: 32, frame_size: 4096, jumbo_frames, huge_pages: false };
        Memory::new(config).expect("a few pages").1
    }

    fn part(pool: &mut Pool, fill: u8, len: usize) -> Option<Frame> {
        let mut frame = pool.take().expect("a free frame");
        frame.append(len).expect("room").fill(fill);
        Some(frame)
    }

    #[test]
    fn parts_become_one_packet_in_order_and_their_frames_go_home() {
        let mut pool = pool(1);
        let mut gather = Gather::default();
        for (fill, more) in [(1, true), (2, true), (3, false)] {
            assert_eq!(gather.is_within(), fill != 1);
            let frame = part(&mut pool, fill, 3840 - usize::from(fill));
            match gather.add(frame, more, &mut pool) {
                None => assert!(more),
                Some(whole) => {
                    assert!(!more);
                    let expected: Vec<u8> = (1..=3).flat_map(|n| vec![n; 3840 - usize::from(n)]).collect();
                    assert_eq!(whole.data(), expected);
                    assert!(whole.headroom() == Frame::HEADROOM && whole.tailroom() >= Frame::TAILROOM);
                    pool.put(whole);
                }
            }
        }
        assert!(!gather.is_within());
        assert_eq!((pool.free(), gather.take_dropped()), (pool.total(), ChainsDropped::default()));
    }

    #[test]
    fn a_chain_that_cannot_be_kept_is_skipped_to_its_end_and_counted_once() {
        let oversized = ChainsDropped { oversized: 1, no_frame: 0 };
        let no_frame = ChainsDropped { oversized: 0, no_frame: 1 };
        for (jumbo, parts, senseless, expected) in [
            (1, CHAIN_MAX + 1, None, oversized),
            (1, CHAIN_MAX + 9, None, oversized),
            (1, 3, Some(0), oversized),
            (1, 3, Some(1), oversized),
            (1, 3, Some(2), oversized),
            (0, 2, None, no_frame),
            (0, CHAIN_MAX + 4, None, no_frame),
        ] {
            let mut pool = pool(jumbo);
            let mut gather = Gather::default();
            for at in 0..parts {
                let frame = part(&mut pool, 7, 100).filter(|_| senseless != Some(at));
                assert!(gather.add(frame, at + 1 < parts, &mut pool).is_none(), "{parts} parts, {at}");
                assert_eq!(gather.is_within(), at + 1 < parts);
            }
            assert_eq!(gather.take_dropped(), expected, "{parts} parts, {senseless:?}");
            assert_eq!(pool.free(), pool.total());
            // The next one is none the worse for it.
            if jumbo == 1 {
                let first = part(&mut pool, 1, 10);
                assert!(gather.add(first, true, &mut pool).is_none());
                let last = part(&mut pool, 2, 10);
                let whole = gather.add(last, false, &mut pool).expect("a packet");
                assert_eq!(whole.len(), 20);
            }
        }
    }

    #[test]
    fn a_packet_that_is_cut_is_the_same_when_it_is_gathered() {
        let mut pool = pool(2);
        for len in [1, 3968, 3969, 9014, 3968 * CHAIN_MAX] {
            let mut whole = pool.take_jumbo().expect("a jumbo frame");
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
            whole.append(len).expect("room").copy_from_slice(&bytes);
            let parts = parts_of(len, &pool).expect("a chain's length");
            let cut = cut(whole, parts, &mut pool).expect("free frames");
            assert_eq!(cut.len(), parts);
            let mut gather = Gather::default();
            let gathered = cut
                .into_iter()
                .enumerate()
                .filter_map(|(at, frame)| gather.add(Some(frame), at + 1 < parts, &mut pool));
            let gathered: Vec<Frame> = gathered.collect();
            assert!(gathered.len() == 1 && gathered[0].data() == bytes, "{len} bytes");
        }
        assert_eq!((parts_of(3968 * CHAIN_MAX + 1, &pool), parts_of(0, &pool)), (None, None));
        assert_eq!(pool.free(), pool.total());
    }

    #[test]
    fn a_packet_that_finds_too_few_frames_takes_none() {
        let mut pool = pool(1);
        let mut whole = pool.take_jumbo().expect("a jumbo frame");
        whole.append(9014).expect("room").fill(1);
        let mut kept: Vec<Frame> = std::iter::from_fn(|| pool.take()).collect();
        kept.truncate(30);
        let whole = cut(whole, 3, &mut pool).expect_err("two frames for three parts");
        assert_eq!((whole.len(), pool.free()), (9014, (2, 0)));
    }
}
