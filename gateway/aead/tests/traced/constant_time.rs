//! No jump and no address depends on a key, a text or a tag: engines run in lockstep with themselves under other
//! secrets.

use core::hint::black_box;

use landbridge_aead::{Engine, Key, Packet, TAG_LEN};

use crate::bench::{Bench, Input, counter};
use crate::leaky;
use crate::lockstep::Lockstep;
use crate::reference::Bytes;
use crate::tracer::trace;

/// Runs under different secrets.
const RUNS: usize = 5;

/// The lengths of a burst's packets: sixteen equal ones, one alone, and what makes engines handle tails and rests; and
/// which of them are refused.
const SHAPES: [(&[usize], &[usize]); 4] = [
    (&[64; 16], &[3, 9]),
    (&[512], &[0]),
    (&[0, 1, 15, 16, 17, 63, 64, 65, 100, 130, 200, 48, 16, 16], &[0, 5, 10]),
    (&[144, 144, 144, 144, 144, 80, 80], &[6]),
];

/// Whose packets a burst has: those of one session, or of another session each.
#[derive(Debug, Clone, Copy)]
enum Keys {
    One,
    OfEach,
}

/// `ring` works packet by packet: two of them show what it does.
const SHAPES_OF_RING: [(&[usize], &[usize]); 2] = [(&[64; 2], &[1]), (&[200], &[0])];

struct Case {
    engine: Engine,
    shape: &'static [usize],
    forged: &'static [usize],
    keys: Keys,
}

fn cases() -> impl Iterator<Item = Case> {
    Engine::available().flat_map(|engine| {
        let shapes = if engine == Engine::Ring { &SHAPES_OF_RING[..] } else { &SHAPES };
        shapes.iter().flat_map(move |&(shape, forged)| {
            // What differs between one key and several shows where all else is alike; the rest has several.
            let alike = shape.iter().all(|len| *len == shape[0]);
            let one = alike.then_some(Keys::One);
            let keys = one.into_iter().chain((shape.len() > 1).then_some(Keys::OfEach));
            keys.map(move |keys| Case { engine, shape, forged, keys })
        })
    })
}

/// A secret of run number `run`: the extremes, then random ones.
fn secret(run: usize, len: usize, random: &mut Bytes) -> Vec<u8> {
    match run {
        0 => vec![0; len],
        1 => vec![0xff; len],
        _ => random.take(len),
    }
}

fn to_seal(shape: &[usize], keys: Keys, random: &mut Bytes) -> Vec<Input> {
    let keys = match keys {
        Keys::One => 1,
        Keys::OfEach => shape.len(),
    };
    let input = |run| Input {
        keys: (0..keys).map(|_| secret(run, 32, random).try_into().expect("32 bytes")).collect(),
        packets: shape.iter().map(|len| secret(run, len + TAG_LEN, random)).collect(),
    };
    (0..RUNS).map(input).collect()
}

/// Sealed packets; those in `forged` are changed in another place in every run: in the tag's first byte, its last one,
/// in all of it, in the ciphertext.
fn to_open(shape: &[usize], forged: &[usize], keys: Keys, random: &mut Bytes) -> Vec<Input> {
    let mut inputs = to_seal(shape, keys, random);
    for (run, input) in inputs.iter_mut().enumerate() {
        let keys: Vec<Key> = (0..shape.len()).map(|i| Key::new(input.key(i))).collect();
        for (i, packet) in input.packets.iter_mut().enumerate() {
            keys[i].seal(counter(i), packet);
            if !forged.contains(&i) {
                continue;
            }
            let text = packet.len() - TAG_LEN;
            match (run + i) % 5 {
                0 => packet[text] ^= 1,
                1 => packet[text + TAG_LEN - 1] ^= 0x80,
                2 => packet[text + run] ^= 0xff,
                3 => packet[text..].copy_from_slice(&random.take(TAG_LEN)),
                _ if text > 0 => packet[run % text] ^= 0x10,
                _ => packet[7] ^= 0x10,
            }
        }
    }
    inputs
}

fn compare(inputs: Vec<Input>, work: impl Fn(&mut [Packet<'_>])) -> Lockstep {
    let mut lockstep = Lockstep::default();
    let mut bench = Bench::new(inputs);
    trace(RUNS, &mut bench, Bench::prepare, |bench| bench.work(&work), &mut lockstep);
    lockstep
}

fn assert_tight(what: &str, lockstep: &Lockstep) {
    assert!(lockstep.steps() > 1000, "{what}: only {} steps were seen", lockstep.steps());
    assert_eq!(lockstep.leak, None, "{what}");
}

#[test]
fn sealing_takes_the_same_way_whatever_the_secrets() {
    let mut random = Bytes(11);
    for Case { engine, shape, keys, .. } in cases() {
        let lockstep = compare(to_seal(shape, keys, &mut random), |burst| engine.seal_burst(burst));
        assert_tight(&format!("{engine} seals {shape:?}, keys: {keys:?}"), &lockstep);
    }
}

#[test]
fn opening_what_is_authentic_takes_the_same_way_whatever_the_secrets() {
    let mut random = Bytes(12);
    for Case { engine, shape, keys, .. } in cases() {
        let lockstep = compare(to_open(shape, &[], keys, &mut random), |burst| engine.open_burst(burst));
        assert_tight(&format!("{engine} opens {shape:?}, keys: {keys:?}"), &lockstep);
    }
}

/// Which packets are refused is public, and shows. Where and how much their tags are wrong must not.
#[test]
fn refusing_takes_the_same_way_wherever_a_tag_is_wrong() {
    let mut random = Bytes(13);
    for Case { engine, shape, forged, keys } in cases() {
        let lockstep = compare(to_open(shape, forged, keys, &mut random), |burst| engine.open_burst(burst));
        assert_tight(&format!("{engine} refuses {forged:?} of {shape:?}, keys: {keys:?}"), &lockstep);
    }
}

/// What the tracer says of a routine that reads 32 secret bytes.
fn verdict(routine: fn(&[u8; 32]) -> u64) -> Option<String> {
    let mut random = Bytes(14);
    let secrets: Vec<[u8; 32]> =
        (0..RUNS).map(|run| secret(run, 32, &mut random).try_into().expect("32 bytes")).collect();
    let mut lockstep = Lockstep::default();
    let mut state = (secrets, [0; 32]);
    let prepare = |(secrets, secret): &mut (Vec<[u8; 32]>, [u8; 32]), run: usize| *secret = secrets[run];
    trace(RUNS, &mut state, prepare, |(_, secret)| assert!(routine(black_box(secret)) < u64::MAX), &mut lockstep);
    lockstep.leak
}

#[test]
fn every_kind_of_leak_is_found_where_it_is() {
    for (what, name, routine) in [
        ("a branch to elsewhere", "leaky_branch", leaky::leaky_branch as fn(&[u8; 32]) -> u64),
        ("an address", "leaky_table", leaky::leaky_table),
        ("a branch to elsewhere", "leaky_comparison", leaky::leaky_comparison),
        ("a division", "leaky_division", leaky::leaky_division),
        ("an address", "leaky_masked_load", leaky::leaky_mask),
    ] {
        let found = verdict(routine).unwrap_or_else(|| panic!("{name} leaks unseen"));
        assert!(found.contains(what) && found.contains(name), "{name}: {found}");
    }
    assert_eq!(verdict(leaky::tight), None);
}
