//! What the bench's XDP programs and the bench have in common: frames' stamps, and the maps.
//!
//! | map | kind | key | value |
//! |---|---|---|---|
//! | [`map::SOURCE`] | array of one | 0 | [`Source`]: what the generator sends |
//! | [`map::PROGRESS`] | array of one | 0 | [`Progress`]: what it has sent |
//! | [`map::SINK`] | array of one | 0 | [`Sink`]: which frames are the bench's |
//! | [`map::FLOWS`] | array | flow | [`Flow`]: what arrived last |
//! | [`map::SEEN`] | array | flow * [`WINDOW`] + sequence number % [`WINDOW`] | the number that arrived there last |
//! | [`map::TALLY`] | per-CPU array of one | 0 | [`Tally`]: what arrived |
//! | [`map::LATENCY`] | per-CPU array of one | 0 | [`LATENCY_BUCKETS`] counters, see [`bucket`] |

/// The maps' names in the object.
pub mod map {
    /// What the generator sends.
    pub const SOURCE: &str = "SOURCE";
    /// What it has sent.
    pub const PROGRESS: &str = "PROGRESS";
    /// Which frames are the bench's.
    pub const SINK: &str = "SINK";
    /// What arrived last, by flow.
    pub const FLOWS: &str = "FLOWS";
    /// Sequence numbers that arrived.
    pub const SEEN: &str = "SEEN";
    /// What arrived.
    pub const TALLY: &str = "TALLY";
    /// Latencies.
    pub const LATENCY: &str = "LATENCY";
}

/// Flows at most.
pub const FLOWS: u32 = 256;
/// Sequence numbers of one flow that are told apart: a frame later than this many counts as reordered, never as duplicated.
pub const WINDOW: u32 = 8192;
/// Words of 8 bytes that hold Ethernet, IPv6 and UDP headers, the longest there are.
pub const HEADER_WORDS: usize = 8;
/// Bytes of the shortest frame: the headers of IPv6 and a stamp, or the same packet length of IPv4.
pub const FRAME_MIN: usize = 78;
/// Bytes of the longest frame: a page less the kernel's room in it.
pub const FRAME_MAX: usize = 3214;
/// Where the UDP header begins in a frame of IPv4.
pub const UDP_AT_V4: usize = 34;
/// Where it begins in a frame of IPv6.
pub const UDP_AT_V6: usize = 54;
/// Bytes of the stamp behind the UDP header: magic, sequence number, time of sending in nanoseconds, each in the machine's
/// order.
pub const STAMP: usize = 16;
/// Bytes at the end of every packet that has room for them: two bytes and their complement, which no checksum sees.
pub const TRAILER: usize = 4;
/// Entries of the cycle of sizes.
pub const CYCLE: usize = 12;
/// Different sizes at most.
pub const SIZES: usize = 4;
/// Counters of latency: 64 to each doubling of nanoseconds, so a bucket is at most 1.6 % wide.
pub const LATENCY_BUCKETS: usize = 2048;
const SUB_BUCKETS_LOG2: u32 = 6;

/// One size of packet, with everything about it that can be known before it is sent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of the frame, Ethernet header included.
    pub frame_len: u32,
    /// Sum in one's complement, in the machine's order, of what the UDP checksum covers but the port of the flow, what its
    /// destination port is above that of flow 0, the sequence number and the time.
    pub udp_sum: u32,
    /// Total length (IPv4) or payload length (IPv6), in network order.
    pub ip_len: [u8; 2],
    /// UDP length, in network order.
    pub udp_len: [u8; 2],
    /// Header checksum of IPv4, in network order.
    pub ip_checksum: [u8; 2],
    /// Nothing.
    pub padding: [u8; 2],
}

/// What the generator sends. All zero, as a map begins, sends nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Nanoseconds on the monotonic clock at which the first frame is due.
    pub start_ns: u64,
    /// When sending ends.
    pub end_ns: u64,
    /// Frames in 2^32 nanoseconds.
    pub frames_per_2_32_ns: u64,
    /// Frames that may be sent late in one rush; what is due beyond them is never sent.
    pub lag_max: u32,
    /// How many flows there are; 0 sends nothing.
    pub flows: u32,
    /// The first sequence number of each flow.
    pub sequence: u32,
    /// What begins each stamp.
    pub magic: u32,
    /// UDP source port of flow 0, in the machine's order; flow n has this plus n.
    pub port: u16,
    /// Where the UDP header begins in a frame: 34 for IPv4, 54 for IPv6.
    pub udp_at: u16,
    /// UDP destination port of flow 0, in the machine's order.
    pub destination_port: u16,
    /// 1: flow n has the destination port plus n; 0: all have the same.
    pub spread: u16,
    /// Nothing.
    pub padding: [u8; 4],
    /// The sizes.
    pub sizes: [Size; SIZES],
    /// Which size the frames of a flow have in turn. A flow begins at its own number.
    pub cycle: [u8; CYCLE],
    /// Ethernet, IP and UDP headers as they lie in memory; lengths, source port and checksums are filled in.
    pub headers: [u64; HEADER_WORDS],
}

/// What the generator has sent since its start. One program at a time writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames sent.
    pub sent: u64,
    /// Frames that were due but never sent, because the generator had no turn in time.
    pub missed: u64,
    /// When the first was sent.
    pub first_ns: u64,
    /// When the last was sent.
    pub last_ns: u64,
    /// Flow of the next frame.
    pub flow: u32,
    /// Its sequence number, less [`Source::sequence`].
    pub sequence: u32,
    /// Where the flows are in the cycle of sizes.
    pub cycle: u32,
    /// 1 once sending has ended.
    pub done: u32,
}

/// Which frames are the bench's. All zero, as a map begins, passes everything to the kernel.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sink {
    /// What begins each stamp; 0 counts nothing.
    pub magic: u32,
    /// The first sequence number of the trial; lower ones are of earlier trials.
    pub sequence: u32,
    /// How many flows there are.
    pub flows: u32,
    /// UDP source port of flow 0, in the machine's order.
    pub port: u16,
    /// UDP destination port, in network order.
    pub destination_port: [u8; 2],
    /// IP packet lengths in turn, as the generator's; 0 accepts any.
    pub packet_len: [u16; CYCLE],
    /// 1: frames go back where they came from, with addresses and ports changed about, instead of being taken.
    pub reflect: u32,
    /// Nothing.
    pub padding: u32,
}

/// What arrived last of a flow.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// The sequence number that comes next, if nothing is lost or overtaken.
    pub next: u32,
    /// 1 once a latency of this trial is known.
    pub has_transit: u32,
    /// The latest latency.
    pub transit_ns: u64,
}

/// What arrived, since the program was loaded.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Distinct frames.
    pub received: u64,
    /// Frames that had arrived before.
    pub duplicated: u64,
    /// Distinct frames behind a later one of their flow.
    pub reordered: u64,
    /// Frames with the magic whose length, flow or trailer is not what was sent.
    pub corrupted: u64,
    /// Frames of earlier trials.
    pub stale: u64,
    /// Sum of the differences between the latencies of frames of a flow that arrived one after the other.
    pub jitter_sum_ns: u64,
    /// How many differences there are.
    pub jitter_count: u64,
    /// Everything else that came: passed to the kernel.
    pub passed: u64,
}

/// The counter of a latency.
#[inline(always)]
#[must_use]
pub const fn bucket(ns: u64) -> u32 {
    let width = 64 - ns.leading_zeros();
    if width <= SUB_BUCKETS_LOG2 {
        return ns as u32;
    }
    let shift = width - SUB_BUCKETS_LOG2 - 1;
    // The highest bit says which doubling, the six below it which of its parts.
    let index = ((shift + 1) << SUB_BUCKETS_LOG2) + ((ns >> shift) as u32 & ((1 << SUB_BUCKETS_LOG2) - 1));
    if index < LATENCY_BUCKETS as u32 { index } else { LATENCY_BUCKETS as u32 - 1 }
}

/// The lowest latency of a counter, and the lowest of the next one.
#[must_use]
pub const fn bucket_ns(index: u32) -> (u64, u64) {
    let (row, column) = (index >> SUB_BUCKETS_LOG2, index & ((1 << SUB_BUCKETS_LOG2) - 1));
    if row == 0 {
        return (index as u64, index as u64 + 1);
    }
    let shift = row - 1;
    let low = ((1_u64 << SUB_BUCKETS_LOG2) + column as u64) << shift;
    (low, low + (1 << shift))
}

impl Default for Source {
    fn default() -> Self {
        Self {
            start_ns: 0,
            end_ns: 0,
            frames_per_2_32_ns: 0,
            lag_max: 0,
            flows: 0,
            sequence: 0,
            magic: 0,
            port: 0,
            udp_at: 0,
            destination_port: 0,
            spread: 0,
            padding: [0; 4],
            sizes: [Size::default(); SIZES],
            cycle: [0; CYCLE],
            headers: [0; HEADER_WORDS],
        }
    }
}

// No padding that a compiler put in: the sum of the fields is the whole.
const _: () = assert!(size_of::<Size>() == 16);
const _: () = assert!(size_of::<Source>() == 3 * 8 + 4 * 4 + 4 * 2 + 4 + SIZES * 16 + CYCLE + HEADER_WORDS * 8);
const _: () = assert!(size_of::<Progress>() == 4 * 8 + 4 * 4);
const _: () = assert!(size_of::<Sink>() == 3 * 4 + 4 + CYCLE * 2 + 8);
const _: () = assert!(size_of::<Flow>() == 16);
const _: () = assert!(size_of::<Tally>() == 64);

// SAFETY: repr(C), integers only, no padding as asserted above, every bit pattern is a value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Source {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Progress {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Sink {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Flow {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Tally {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_its_bucket_and_buckets_are_narrow() {
        for exponent in 0..36_u32 {
            for step in [0_u64, 1, 3, 1000] {
                let ns = (1_u64 << exponent) + step;
                let index = bucket(ns);
                let (low, next) = bucket_ns(index);
                assert!(low <= ns && ns < next, "{ns} in {low}..{next}");
                assert!((next - low) as f64 <= (ns as f64 / 64.0).max(1.0), "{ns}: {low}..{next}");
            }
        }
    }

    #[test]
    fn buckets_follow_one_another_and_the_last_takes_the_rest() {
        for index in 0..LATENCY_BUCKETS as u32 - 1 {
            assert_eq!(bucket_ns(index).1, bucket_ns(index + 1).0);
            assert_eq!(bucket(bucket_ns(index).0), index);
        }
        assert_eq!(bucket(u64::MAX), LATENCY_BUCKETS as u32 - 1);
    }
}
