//! Routes: 64-byte packets to one peer by as many routes as there are, at random.
//!
//! Enters: nothing. Leaves: curves of the seal path and of the look-up alone, and the heap that the routes occupy.
//! Never does: make two routes that one could stand for.

use std::net::Ipv4Addr;
use std::time::Instant;

use ipnet::Ipv4Net;
use landbridge_proto::{AllowedIps, PeerId};

use super::{Curve, Growth, SampleFn, occupied, scattered};
use crate::measure::Sample;
use crate::micro::site::Site;
use crate::micro::{TURN, best_engine};

const ROUTES: [u32; 6] = [1, 10, 100, 1000, 10_000, 100_000];
const PEER: PeerId = PeerId { slot: 0, generation: 0 };
const LEN: usize = 64;
const TURNS: usize = 32;
const CYCLE: usize = 64;

/// Everything about routes.
pub(super) fn growth() -> anyhow::Result<Growth> {
    let seal = ROUTES.map(|routes| Ok((routes, sealing(routes)?))).into_iter().collect::<anyhow::Result<_>>()?;
    let look_up = ROUTES.map(|routes| (routes, looking_up(routes))).into();
    let curves = vec![
        Curve { name: "seal, 64 B".to_owned(), sizes: seal },
        Curve { name: "the look-up alone".to_owned(), sizes: look_up },
    ];
    let memory = ROUTES.map(|routes| (routes, occupied(|| table(routes)).1)).to_vec();
    Ok(Growth { with: "routes", curves, memory })
}

/// The network of a route: scattered over 10.128.0.0/9, of 32 to 26 bits so that they do not join to larger ones.
fn net(route: u32) -> Ipv4Net {
    // An odd factor maps the 23 bits of this space onto themselves: no two routes are one.
    let place = route.wrapping_mul(0x009e_3779) & ((1 << 17) - 1);
    let prefix = 26 + (route % 7) as u8;
    Ipv4Net::new(Ipv4Addr::from(0x0a80_0000 | place << 6), prefix).expect("a prefix length")
}

fn table(routes: u32) -> AllowedIps {
    let mut table = AllowedIps::default();
    for route in 0..routes {
        table.insert(net(route).into(), PEER);
    }
    table
}

fn sealing(routes: u32) -> anyhow::Result<SampleFn> {
    let (mut site, now) = (Site::with_routes(table(routes))?, Instant::now());
    let order: Vec<Ipv4Addr> = scattered(CYCLE * TURN, routes).into_iter().map(|route| net(route).addr()).collect();
    let mut at = 0;
    Ok(Box::new(move || {
        best_engine();
        let mut sample = Sample::default();
        for _ in 0..TURNS {
            site.offer_to(LEN, order[at..at + TURN].iter().copied());
            at = (at + TURN) % order.len();
            sample.time(TURN, || site.lane.poll_once(now));
            assert_eq!(site.lane.wan().sent.len(), TURN, "a turn seals all that was offered");
            site.forget_sent();
        }
        sample
    }))
}

fn looking_up(routes: u32) -> SampleFn {
    let table = table(routes);
    let order: Vec<Ipv4Addr> = scattered(CYCLE * TURN, routes).into_iter().map(|route| net(route).addr()).collect();
    Box::new(move || {
        let mut sample = Sample::default();
        let found = sample.time(order.len(), || order.iter().filter(|to| table.lookup_v4(**to).is_some()).count());
        assert_eq!(found, order.len(), "every destination has a route");
        sample
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_routes_are_one() {
        let nets: std::collections::BTreeSet<Ipv4Net> = (0..100_000).map(net).collect();
        assert_eq!(nets.len(), 100_000);
        let addresses: std::collections::BTreeSet<Ipv4Addr> = (0..100_000).map(|route| net(route).addr()).collect();
        assert_eq!(addresses.len(), 100_000);
    }
}
