//! Time per packet of every engine beside ring's, by length and burst size, seal and open.
//!
//! `speed [LENGTH,...|imix [BURST,... [KEYS]]]`: neighbours have different keys where there are several. Each round measures every engine once, so what disturbs the machine
//! disturbs all; a figure is the median of the rounds. Packets lie in slots of their own, as in a lane.

use std::time::Instant;

use landbridge_aead::{Engine, Key, Packet, TAG_LEN};

const SLOT: usize = 2048;
/// Packets of one sample: as many as a lane takes in one turn.
const PACKETS: usize = 256;
const ROUNDS: usize = 31;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let lengths = arguments.next().unwrap_or_else(|| "64,128,512,1024,1420,imix".to_owned());
    let bursts = arguments.next().unwrap_or_else(|| "1,2,4,8,16,32,64".to_owned());
    let keys = arguments.next().map_or(1, |keys| keys.parse().expect("how many keys"));
    println!(
        "{:>6} {:>6} {:>8} {:>9} {:>9} {:>7} {:>7}",
        "bytes", "burst", "engine", "seal ns", "open ns", "seal/r", "open/r"
    );
    for length in lengths.split(',') {
        for burst in bursts.split(',') {
            report(length, burst.parse().expect("a burst size"), keys);
        }
    }
}

fn report(length: &str, burst: usize, keys: u8) {
    let lengths: Vec<usize> = match length {
        "imix" => (0..PACKETS).map(|i| [64, 570, 64, 64, 570, 64, 1518, 64, 64, 570, 64, 64][i * 7 % 12]).collect(),
        length => vec![length.parse().expect("a length"); PACKETS],
    };
    let engines: Vec<Engine> = Engine::available().collect();
    let mut samples = vec![[Vec::new(), Vec::new()]; engines.len()];
    let mut bench = Bench::new(&lengths, keys);
    for round in 0..=ROUNDS {
        for (engine, samples) in engines.iter().zip(&mut samples) {
            for (open, samples) in samples.iter_mut().enumerate() {
                let sample = bench.sample(*engine, burst, open == 1);
                // The first round warms up.
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
    }
    let medians: Vec<[f64; 2]> = samples.into_iter().map(|samples| samples.map(median)).collect();
    for (engine, time) in engines.iter().zip(&medians) {
        println!(
            "{length:>6} {burst:>6} {:>8} {:>9.1} {:>9.1} {:>7.2} {:>7.2}",
            engine.name(),
            time[0],
            time[1],
            time[0] / medians[0][0],
            time[1] / medians[0][1]
        );
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

struct Bench {
    keys: Vec<Key>,
    lengths: Vec<usize>,
    sealed: Vec<u8>,
    slots: Vec<u8>,
}

impl Bench {
    fn new(lengths: &[usize], keys: u8) -> Self {
        let keys: Vec<Key> = (0..keys.max(1)).map(|i| Key::new(&[i; 32])).collect();
        let mut sealed = vec![5; SLOT * PACKETS];
        for (i, (slot, len)) in sealed.chunks_exact_mut(SLOT).zip(lengths).enumerate() {
            keys[i % keys.len()].seal(i as u64, &mut slot[..len + TAG_LEN]);
        }
        Self { keys, lengths: lengths.to_vec(), slots: sealed.clone(), sealed }
    }

    /// Nanoseconds per packet.
    fn sample(&mut self, engine: Engine, burst: usize, open: bool) -> f64 {
        let repetitions = (40_000 / (self.lengths[0] + 200)).clamp(4, 60);
        let mut spent = 0.0;
        for _ in 0..repetitions {
            self.slots.copy_from_slice(&self.sealed);
            let mut packets: Vec<Packet<'_>> = self
                .slots
                .chunks_exact_mut(SLOT)
                .zip(&self.lengths)
                .enumerate()
                .map(|(i, (slot, len))| Packet {
                    key: &self.keys[i % self.keys.len()],
                    counter: i as u64,
                    bytes: &mut slot[..len + TAG_LEN],
                    authentic: false,
                })
                .collect();
            let start = Instant::now();
            for burst in packets.chunks_mut(burst) {
                if open { engine.open_burst(burst) } else { engine.seal_burst(burst) }
            }
            spent += start.elapsed().as_nanos() as f64;
            assert!(!open || packets.iter().all(|packet| packet.authentic), "what was sealed opens");
        }
        spent / (repetitions * PACKETS) as f64
    }
}
