//! The hot path: all that a lane does per burst but I/O, beside the crypto engine alone on the same packets.
//!
//! Seal: inner packet in a frame, look-up, session, counters, padding, AEAD, account, outer Ethernet, IPv4 and
//! UDP headers. Open: a whole frame from the wire, its parsing, session, replay window, AEAD, commit, account,
//! allowed IPs of the inner source. Both are turns of a real lane between sides that only move frames.
//!
//! Every sample alternates, turn by turn, between the path and what it is compared with: ratios are of neighbours in
//! time, with the clock that the same instructions have left behind.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Instant;

use landbridge_aead::{Engine, Key, TAG_LEN};

use super::aead::{TURN, engines, in_bursts, packets, sealed_by, slots, turns};
use super::site::Site;
use crate::measure::{Case, Sample};

const GROUP: &str = "hot path in memory, one core";
/// What the path may take at most, as a multiple of the engine alone.
const SIZES: [(usize, f64); 4] = [(64, 1.6), (128, 1.6), (512, 1.6), (1420, 1.15)];
const PEERS: [u32; 4] = [10, 100, 1000, 10_000];
/// What so many peers may take at most, as a multiple of one.
const PEERS_RATIO: f64 = 1.2;
/// Packets in a row to one peer: a burst, what a TCP flow brings at a time, roughly, and the worst.
const TRAINS: [usize; 3] = [64, 16, 1];

/// All cases of this file.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let one = Sites::new(1);
    for (len, target) in SIZES {
        for engine in engines() {
            for way in [Way::Seal, Way::Open] {
                let name = format!("{} path {len} B, engine {engine}", way.name());
                let case = Case::new(GROUP, name, beside_engine(way, engine, len, &one));
                cases.push(case.bytes(len).against("the engine alone").target(target).without_allocations());
            }
        }
    }
    cases.extend(staged());
    for peers in PEERS {
        let many = Sites::new(peers);
        for engine in engines() {
            for train in TRAINS {
                for way in [Way::Seal, Way::Open] {
                    let name = format!("{} path 64 B, {engine}, {peers} peers, {train} in a row", way.name());
                    let case = Case::new("hot path by peers", name, beside_one_peer(way, engine, &many, &one, train));
                    cases.push(case.bytes(64).against("one peer").target(PEERS_RATIO).without_allocations());
                }
            }
        }
    }
    cases
}

type SampleFn = Box<dyn FnMut() -> Sample>;

#[derive(Debug, Clone, Copy)]
enum Way {
    Seal,
    Open,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
        }
    }
}

/// What measuring the stages costs the seal path, off and on; off is to be nothing.
fn staged() -> Vec<Case> {
    let engine = Engine::best();
    let name = |what: &str| format!("seal path 64 B, engine {engine}, stages {what}");
    let case = |what: &str, every: Option<NonZeroU32>| {
        let sites = Sites::new(1);
        let mut path = Turns::new(Way::Seal, 64, &sites, TURN);
        let mut every = every;
        let sample = move || {
            use_engine(engine);
            if let Some(every) = every.take() {
                sites.borrow_mut().both().0.lane.sample_stages(every);
            }
            let mut sample = Sample::default();
            (0..turns(64)).for_each(|_| path.turn(|work| sample.time(TURN, work)));
            sample
        };
        Case::new(GROUP, name(what), sample).without_allocations()
    };
    vec![
        case("off", None),
        case("in one turn of 61", NonZeroU32::new(61)).against(name("off")),
        case("in every turn", NonZeroU32::new(1)).against(name("off")),
    ]
}

/// Two sites of as many peers, made when they are first needed.
struct Sites {
    peers: u32,
    made: Option<(Site, Site)>,
}

/// Several cases work on the same sites, one after the other.
type Shared = Rc<RefCell<Sites>>;

impl Sites {
    fn new(peers: u32) -> Shared {
        Rc::new(RefCell::new(Self { peers, made: None }))
    }

    fn both(&mut self) -> &mut (Site, Site) {
        let peers = self.peers;
        let site = |number| Site::new(number, peers).expect("there is memory for a site");
        self.made.get_or_insert_with(|| (site(1), site(2)))
    }
}

/// Turns of one way; what is not of that way is done outside of what is timed.
struct Turns {
    way: Way,
    sites: Shared,
    len: usize,
    /// The peers of packets to come.
    order: Vec<u32>,
    at: usize,
    now: Instant,
}

impl Turns {
    fn new(way: Way, len: usize, sites: &Shared, train: usize) -> Self {
        let peers = u64::from(sites.borrow().peers);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut scattered = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % peers) as u32
        };
        let order = (0..64 * TURN / train).flat_map(|_| std::iter::repeat_n(scattered(), train)).collect();
        Self { way, sites: Rc::clone(sites), len, order, at: 0, now: Instant::now() }
    }

    /// One turn; `time` is given the work that is to be timed.
    fn turn(&mut self, time: impl FnOnce(&mut dyn FnMut())) {
        let now = self.now;
        let mut sites = self.sites.borrow_mut();
        let (from, to) = sites.both();
        let peers = self.order[self.at..self.at + TURN].iter().copied();
        from.offer(self.len, peers);
        self.at = (self.at + TURN) % self.order.len();
        match self.way {
            Way::Seal => {
                time(&mut || {
                    from.lane.poll_once(now);
                });
                assert_eq!(from.lane.wan().sent.len(), TURN, "a turn seals all that was offered");
                from.forget_sent();
            }
            Way::Open => {
                from.lane.poll_once(now);
                from.deliver_to(to);
                time(&mut || {
                    to.lane.poll_once(now);
                });
                assert_eq!(to.lane.lan().sent.len(), TURN, "a turn opens all that came");
                to.forget_sent();
            }
        }
    }
}

/// The path and the engine alone in turn.
fn beside_engine(way: Way, engine: Engine, len: usize, sites: &Shared) -> SampleFn {
    let mut path = Turns::new(way, len, sites, TURN);
    let (key, mut slots) = (Key::new(&[7; 32]), slots(len));
    let (plain, sealed) = (vec![0x5a; len], sealed_by(&key, len));
    Box::new(move || {
        use_engine(engine);
        let mut sample = Sample::default();
        for _ in 0..turns(len) {
            path.turn(|work| sample.time(TURN, work));
            match way {
                Way::Seal => {
                    packets(&mut slots, len).for_each(|packet| packet.copy_from_slice(&plain));
                    sample.time_beside(TURN, || in_bursts(&key, &mut slots, len, |burst| engine.seal_burst(burst)));
                }
                Way::Open => {
                    let to = packets(&mut slots, len + TAG_LEN);
                    to.zip(&sealed).for_each(|(packet, sealed)| packet.copy_from_slice(sealed));
                    sample.time_beside(TURN, || in_bursts(&key, &mut slots, len, |burst| engine.open_burst(burst)));
                }
            }
        }
        sample
    })
}

/// The path with packets of many peers and with those of one in turn.
fn beside_one_peer(way: Way, engine: Engine, many: &Shared, one: &Shared, train: usize) -> SampleFn {
    let mut many = Turns::new(way, 64, many, train);
    let mut one = Turns::new(way, 64, one, TURN);
    Box::new(move || {
        use_engine(engine);
        let mut sample = Sample::default();
        for _ in 0..turns(64) {
            many.turn(|work| sample.time(TURN, work));
            one.turn(|work| sample.time_beside(TURN, work));
        }
        sample
    })
}

fn use_engine(engine: Engine) {
    assert!(landbridge_aead::select(engine).is_ok(), "an engine that was checked before works");
}
