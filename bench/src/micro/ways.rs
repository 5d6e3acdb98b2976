//! What a peer's way asks of every packet beside sealing: several source ports, a path narrower than the tunnel.
//!
//! Each sample alternates, turn by turn, between a lane whose peer is reached so and one whose peer is reached plainly,
//! with the same packets.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landbridge::datapath::tables::PeerEntry;
use landbridge_aead::Engine;
use landbridge_proto::Spread;

use super::aead::{TURN, turns};
use super::site::Site;
use crate::measure::{Case, Sample};

const LEN: usize = 64;
/// Source ports beside the main one.
const PORTS: [u8; 7] = [1, 2, 3, 4, 5, 6, 7];
/// The ports have been the same for so long: each flow has found its own.
const SETTLED: Duration = Duration::from_secs(60);
/// Bytes that a narrow path carries.
const NARROW: u32 = 1280;
/// Flows whose packets come in turn: one, and more than have their port remembered from the last packet.
const FLOWS: [u32; 2] = [1, 64];

/// All cases of this file.
pub(super) fn cases() -> Vec<Case> {
    let plain: Shared = Rc::default();
    let spread: Shared = Rc::default();
    let narrow: Shared = Rc::default();
    let mut cases = Vec::new();
    for (what, site, dress) in [
        ("8 source ports", spread, over_ports as fn(&mut PeerEntry)),
        ("narrow path that they fit", narrow, over_narrow as fn(&mut PeerEntry)),
    ] {
        for flows in FLOWS {
            let name = format!("seal path {LEN} B, {flows} flows in turn, {what}");
            let case = Case::new("what the way asks", name, beside_plain((&site, dress), &plain, flows));
            cases.push(case.bytes(LEN).against("the plain way").without_allocations());
        }
    }
    cases
}

/// Made when it is first needed.
type Shared = Rc<RefCell<Option<Site>>>;

fn over_ports(entry: &mut PeerEntry) {
    let now = Instant::now();
    entry.spread = Some(Arc::new(Spread::over(&PORTS, now.checked_sub(SETTLED).unwrap_or(now))));
}

fn over_narrow(entry: &mut PeerEntry) {
    entry.mtu = NARROW;
}

fn beside_plain(dressed: (&Shared, fn(&mut PeerEntry)), plain: &Shared, flows: u32) -> Box<dyn FnMut() -> Sample> {
    let (site, dress) = (Rc::clone(dressed.0), dressed.1);
    let plain = Rc::clone(plain);
    let now = Instant::now();
    Box::new(move || {
        assert!(landbridge_aead::select(Engine::best()).is_ok(), "an engine that was checked before works");
        let made = |dress: &dyn Fn(&mut PeerEntry)| Site::dressed(dress).expect("there is memory for a site");
        let (mut site, mut plain) = (site.borrow_mut(), plain.borrow_mut());
        let site = site.get_or_insert_with(|| made(&dress));
        let plain = plain.get_or_insert_with(|| made(&|_| ()));
        let mut sample = Sample::default();
        for _ in 0..turns(LEN) {
            turn(site, flows, |work| sample.time(TURN, work), now);
            turn(plain, flows, |work| sample.time_beside(TURN, work), now);
        }
        sample
    })
}

/// One turn; `time` is given the work that is to be timed.
fn turn(site: &mut Site, flows: u32, time: impl FnOnce(&mut dyn FnMut()), now: Instant) {
    site.offer_flows(LEN, (0..TURN as u32).map(|packet| packet % flows));
    time(&mut || {
        site.lane.poll_once(now);
    });
    assert_eq!(site.lane.wan().sent.len(), TURN, "a turn seals all that was offered");
    site.forget_sent();
}
