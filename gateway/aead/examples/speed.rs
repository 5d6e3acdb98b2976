//! Nanoseconds per packet of every engine beside ring's, by length and burst size, in one run.

use std::time::Instant;

use landbridge_aead::{Engine, Key, Packet, TAG_LEN};

fn main() {
    println!(
        "{:>6} {:>6} {:>8} {:>10} {:>10} {:>7} {:>7}",
        "bytes", "burst", "engine", "seal ns", "open ns", "seal/r", "open/r"
    );
    for len in [64, 128, 256, 512, 1024, 1420] {
        for count in [1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64] {
            let mut ring = [0.0; 2];
            for engine in Engine::available() {
                let times = [best(engine, len, count, false), best(engine, len, count, true)];
                if engine == Engine::Ring {
                    ring = times;
                } else {
                    println!(
                        "{len:>6} {count:>6} {:>8} {:>10.1} {:>10.1} {:>7.2} {:>7.2}",
                        engine.name(),
                        times[0],
                        times[1],
                        times[0] / ring[0],
                        times[1] / ring[1]
                    );
                }
            }
        }
    }
}

fn best(engine: Engine, len: usize, count: usize, open: bool) -> f64 {
    let key = Key::new(&[3; 32]);
    let mut packets = vec![vec![5_u8; len + TAG_LEN]; count];
    let rounds = (400_000 / (len + 100) / count).max(20);
    let mut best = f64::MAX;
    for _ in 0..9 {
        let mut spent = 0.0;
        for round in 0..rounds {
            let mut burst: Vec<Packet<'_>> = packets
                .iter_mut()
                .enumerate()
                .map(|(i, bytes)| Packet { key: &key, counter: (round * count + i) as u64, bytes, authentic: false })
                .collect();
            if open {
                for packet in &mut burst {
                    packet.key.seal(packet.counter, packet.bytes);
                }
            }
            let start = Instant::now();
            if open {
                engine.open_burst(&mut burst)
            } else {
                engine.seal_burst(&mut burst)
            }
            spent += start.elapsed().as_nanos() as f64;
        }
        best = f64::min(best, spent / (rounds * count) as f64);
    }
    best
}
