//! What the generator's program is told: headers, sizes and pace of a trial's frames.
//!
//! Enters: addresses and a [`Trial`]. Leaves: the [`Source`] of the generator and the [`Sink`] that knows its frames.
//! Never does: make a frame; the program writes each one from this.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use landbridge_ebpf_common::bench::{CYCLE, FLOWS, HEADER_WORDS, SIZES, Sink, Size, Source, UDP_AT_V4, UDP_AT_V6};

use super::frame::{FrameSize, IMIX_CYCLE, PACKET_BYTES_MAX, PACKET_BYTES_MIN, imix_order};
use super::trial::Trial;

/// UDP source port of flow 0.
pub(crate) const PORT: u16 = 20_000;
/// UDP destination port: discard.
pub(crate) const DESTINATION_PORT: u16 = 9;
/// What is due and late by more than this is not sent.
const LAG: Duration = Duration::from_millis(2);
/// Frames that may be late in any case.
const LAG_FRAMES_MIN: f64 = 64.0;
/// Frames that may be late at most: the room of an ordinary ring.
const LAG_FRAMES_MAX: f64 = 512.0;
const TTL: u8 = 64;
const UDP: u8 = 17;
const ETHERNET: usize = 14;

// The cycle of the mix is that of the programs.
const _: () = assert!(IMIX_CYCLE as usize == CYCLE);

/// Between whom frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The sender's MAC address.
    pub(crate) source_mac: [u8; 6],
    /// The MAC address of the next hop.
    pub(crate) destination_mac: [u8; 6],
    /// The sender's IP address.
    pub(crate) source: IpAddr,
    /// The receiver's.
    pub(crate) destination: IpAddr,
}

/// One run of the generator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run {
    /// What begins each stamp: not zero.
    pub(crate) magic: u32,
    /// The first sequence number of each flow: higher than any before it, and not zero.
    pub(crate) sequence: u32,
    /// Nanoseconds on the monotonic clock at which it begins.
    pub(crate) start_ns: u64,
}

/// What the generator is told.
///
/// # Errors
/// A trial that no generator can run: addresses of two versions, no flow or too many, a rate or duration out of bounds.
pub(crate) fn source(addresses: &Addresses, trial: &Trial, run: &Run) -> anyhow::Result<Source> {
    source_to(addresses, trial, run, DESTINATION_PORT)
}

/// [`source`] of frames to another port than that of the bench.
///
/// # Errors
/// As there.
pub(crate) fn source_to(addresses: &Addresses, trial: &Trial, run: &Run, port: u16) -> anyhow::Result<Source> {
    let (rate, flows) = (trial.rate_pps, u32::from(trial.flows));
    anyhow::ensure!((1..=FLOWS).contains(&flows), "a trial has 1 to {FLOWS} flows, not {flows}");
    anyhow::ensure!(rate > 0.0 && rate <= 15e6, "a rate of {rate} packets/s is beyond what can be paced");
    anyhow::ensure!(trial.duration <= Duration::from_secs(60), "a trial lasts a minute at most");
    let frames = rate * trial.duration.as_secs_f64() / f64::from(flows);
    anyhow::ensure!(f64::from(run.sequence) + frames < f64::from(u32::MAX - 1), "all sequence numbers are used up");
    let template = Template::new(addresses, port)?;
    let (lengths, cycle) = sizes(trial.size)?;
    let duration_ns = u64::try_from(trial.duration.as_nanos()).context("a trial lasts a minute at most")?;
    Ok(Source {
        start_ns: run.start_ns,
        end_ns: run.start_ns + duration_ns,
        frames_per_2_32_ns: (rate * 4.294_967_296).round() as u64,
        lag_max: (rate * LAG.as_secs_f64()).clamp(LAG_FRAMES_MIN, LAG_FRAMES_MAX) as u32,
        flows,
        sequence: run.sequence,
        magic: run.magic,
        port: PORT,
        udp_at: template.udp_at as u16,
        destination_port: port,
        spread: 0,
        padding: [0; 4],
        sizes: lengths.map(|packet_len| template.size(packet_len, run.magic)),
        cycle,
        headers: template.words(),
    })
}

/// What a sink of those frames is told.
///
/// # Errors
/// As [`source`].
pub(crate) fn sink(trial: &Trial, run: &Run) -> anyhow::Result<Sink> {
    let (lengths, cycle) = sizes(trial.size)?;
    Ok(Sink {
        magic: run.magic,
        sequence: run.sequence,
        flows: trial.flows.into(),
        port: PORT,
        destination_port: DESTINATION_PORT.to_be_bytes(),
        packet_len: cycle.map(|size| lengths[usize::from(size)]),
        ..Sink::default()
    })
}

/// The packet lengths, and which of them a flow has in turn.
fn sizes(size: FrameSize) -> anyhow::Result<([u16; SIZES], [u8; CYCLE])> {
    let mut lengths = [PACKET_BYTES_MIN; SIZES];
    let mut cycle = [0; CYCLE];
    match size {
        FrameSize::Bytes(bytes) => {
            let fits = (PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&bytes) && bytes % 2 == 0;
            anyhow::ensure!(fits, "a packet of {bytes} bytes is none of the generator's");
            lengths[0] = bytes;
        }
        FrameSize::Imix => {
            for (turn, bytes) in imix_order().into_iter().enumerate() {
                let known = lengths.iter().position(|length| *length == bytes);
                let place = known.or_else(|| (1..SIZES).find(|place| lengths[*place] == PACKET_BYTES_MIN));
                let place = place.context("the mix has too many sizes")?;
                (lengths[place], cycle[turn]) = (bytes, place as u8);
            }
        }
    }
    Ok((lengths, cycle))
}

/// Headers, and what is known of their checksums.
struct Template {
    bytes: [u8; HEADER_WORDS * 8],
    udp_at: usize,
    /// The destination's.
    port: u16,
    /// Sum over both addresses.
    addresses_sum: u32,
}

impl Template {
    fn new(addresses: &Addresses, port: u16) -> anyhow::Result<Self> {
        let mut bytes = [0; HEADER_WORDS * 8];
        bytes[..6].copy_from_slice(&addresses.destination_mac);
        bytes[6..12].copy_from_slice(&addresses.source_mac);
        let (udp_at, addresses_at) = match (addresses.source, addresses.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0x00]);
                // Never to be fragmented.
                bytes[20] = 0x40;
                bytes[22..24].copy_from_slice(&[TTL, UDP]);
                bytes[26..30].copy_from_slice(&source.octets());
                bytes[30..34].copy_from_slice(&destination.octets());
                (UDP_AT_V4, 26)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
                bytes[20..22].copy_from_slice(&[UDP, TTL]);
                bytes[22..38].copy_from_slice(&source.octets());
                bytes[38..54].copy_from_slice(&destination.octets());
                (UDP_AT_V6, 22)
            }
            _ => anyhow::bail!("{} and {} are of two versions", addresses.source, addresses.destination),
        };
        bytes[udp_at + 2..udp_at + 4].copy_from_slice(&port.to_be_bytes());
        Ok(Self { bytes, udp_at, port, addresses_sum: sum(&bytes[addresses_at..udp_at]) })
    }

    fn words(&self) -> [u64; HEADER_WORDS] {
        let mut words = [0; HEADER_WORDS];
        for (word, bytes) in words.iter_mut().zip(self.bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        words
    }

    fn size(&self, packet_len: u16, magic: u32) -> Size {
        let udp_len = packet_len - (self.udp_at - ETHERNET) as u16;
        let udp_len_bytes = udp_len.to_be_bytes();
        let covered = [[0, UDP], udp_len_bytes, self.port.to_be_bytes(), udp_len_bytes];
        let udp_sum = self.addresses_sum + sum(covered.as_flattened()) + sum(&magic.to_ne_bytes());
        let ip_len = if self.udp_at == UDP_AT_V4 { packet_len } else { udp_len };
        let mut header = self.bytes;
        header[16..18].copy_from_slice(&ip_len.to_be_bytes());
        Size {
            frame_len: u32::from(packet_len) + ETHERNET as u32,
            udp_sum,
            ip_len: ip_len.to_be_bytes(),
            udp_len: udp_len_bytes,
            ip_checksum: (!fold(sum(&header[ETHERNET..UDP_AT_V4]))).to_ne_bytes(),
            padding: [0; 2],
        }
    }
}

/// Sum of the words of two bytes, as they lie in memory.
fn sum(bytes: &[u8]) -> u32 {
    bytes.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::super::frame::IpVersion;
    use super::super::trial::Directions;
    use super::*;

    fn trial(size: FrameSize) -> Trial {
        Trial {
            size,
            version: IpVersion::V4,
            rate_pps: 1e6,
            directions: Directions::AToB,
            duration: Duration::from_secs(1),
            flows: 4,
        }
    }

    fn addresses() -> Addresses {
        Addresses {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: "10.0.0.1".parse().expect("an address"),
            destination: "10.0.0.2".parse().expect("an address"),
        }
    }

    const RUN: Run = Run { magic: 7, sequence: 1, start_ns: 1000 };

    #[test]
    fn the_pace_gives_the_frames_of_a_second_in_a_second() {
        for rate in [1.0, 999.0, 123_456.7, 3e6] {
            let source = source(&addresses(), &Trial { rate_pps: rate, ..trial(FrameSize::Bytes(64)) }, &RUN);
            let source = source.expect("a good trial");
            let frames = (1_000_000_000 * source.frames_per_2_32_ns) >> 32;
            assert!((frames as f64 - rate).abs() <= 1.0 + rate * 1e-3, "{frames} for {rate}");
            assert_eq!(source.end_ns - source.start_ns, 1_000_000_000);
        }
    }

    #[test]
    fn the_sink_expects_the_sizes_that_the_generator_sends() {
        for size in [FrameSize::Bytes(512), FrameSize::Imix] {
            let source = source(&addresses(), &trial(size), &RUN).expect("a good trial");
            let sink = sink(&trial(size), &RUN).expect("a good trial");
            let mut total = 0;
            for (choice, expected) in source.cycle.iter().zip(sink.packet_len) {
                assert_eq!(source.sizes[usize::from(*choice)].frame_len, u32::from(expected) + 14);
                total += u32::from(expected);
            }
            assert!((f64::from(total) / 12.0 - size.bytes_mean()).abs() < 1e-9);
        }
    }

    #[test]
    fn trials_that_cannot_be_run_are_refused() {
        let good = trial(FrameSize::Bytes(64));
        let v6 = Addresses { destination: "fd00::1".parse().expect("an address"), ..addresses() };
        assert!(source(&v6, &good, &RUN).is_err());
        for bad in [
            Trial { flows: 0, ..good },
            Trial { flows: 257, ..good },
            Trial { rate_pps: 0.0, ..good },
            Trial { rate_pps: f64::NAN, ..good },
            Trial { rate_pps: 1e9, ..good },
            Trial { duration: Duration::from_secs(61), ..good },
            Trial { size: FrameSize::Bytes(60), ..good },
        ] {
            assert!(source(&addresses(), &bad, &RUN).is_err(), "{bad:?}");
        }
        assert!(source(&addresses(), &good, &Run { sequence: u32::MAX - 10, ..RUN }).is_err());
    }
}
