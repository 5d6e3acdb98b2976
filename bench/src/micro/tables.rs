//! What lanes look up: allowed IPs, replay window, sessions.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use landbridge::datapath::tables::Table;
use landbridge_proto::{AllowedIps, PeerId, ReplayWindow};

use crate::measure::{Case, Sample};

const GROUP: &str = "tables";
const PEERS: [u32; 5] = [10, 100, 1000, 10_000, 130_000];
/// Single addresses, one beside the other, as a list of hosts has them.
const HOSTS: u32 = 130_000;
const LOOKUPS: usize = 16_384;
const COUNTERS: u64 = 65_536;
const SESSIONS: usize = 65_536;

/// All cases of this file.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for peers in PEERS {
        cases.push(look_up_v4(peers));
        cases.push(look_up_v6(peers));
    }
    cases.extend([look_up_hosts_v4(), look_up_hosts_v6(), insert_hosts()]);
    cases.extend([replay_in_order(), replay_shuffled(), sessions()]);
    cases
}

/// Numbers that follow no pattern a predictor could learn, the same in every run.
fn scattered(count: usize) -> impl Iterator<Item = u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    })
    .take(count)
}

/// The second to fourth byte of the address space 10.0.0.0/8, a /24 each.
fn host(peer: u32, last: u32) -> u32 {
    0x0a00_0000 | (peer << 8) | (last & 0xff)
}

fn routes(peers: u32) -> AllowedIps {
    let mut routes = AllowedIps::new();
    for slot in 0..peers {
        let peer = PeerId { slot, generation: 0 };
        let v4 = Ipv4Net::new(Ipv4Addr::from(host(slot, 0)), 24).expect("a prefix length");
        let v6 = Ipv6Net::new(v6_of(host(slot, 0)), 64).expect("a prefix length");
        routes.insert(IpNet::V4(v4), peer);
        routes.insert(IpNet::V6(v6), peer);
    }
    routes
}

fn v6_of(host: u32) -> Ipv6Addr {
    Ipv6Addr::from((0xfd00_u128 << 112) | (u128::from(host >> 8) << 64) | u128::from(host & 0xff))
}

fn look_up_v4(peers: u32) -> Case {
    let routes = routes(peers);
    let hosts: Vec<_> = scattered(LOOKUPS).map(|n| Ipv4Addr::from(host(n % peers, n >> 24))).collect();
    let sample = move || {
        let mut sample = Sample::default();
        let found = sample.time(LOOKUPS, || hosts.iter().filter(|host| routes.lookup_v4(**host).is_some()).count());
        assert_eq!(found, LOOKUPS);
        sample
    };
    Case::new(GROUP, format!("allowed IPs, {peers} peers, IPv4"), sample).without_allocations()
}

fn look_up_v6(peers: u32) -> Case {
    let routes = routes(peers);
    let hosts: Vec<_> = scattered(LOOKUPS).map(|n| v6_of(host(n % peers, n >> 24))).collect();
    let sample = move || {
        let mut sample = Sample::default();
        let found = sample.time(LOOKUPS, || hosts.iter().filter(|host| routes.lookup_v6(**host).is_some()).count());
        assert_eq!(found, LOOKUPS);
        sample
    };
    Case::new(GROUP, format!("allowed IPs, {peers} peers, IPv6"), sample).without_allocations()
}

fn hosts() -> AllowedIps {
    let mut routes = AllowedIps::new();
    for i in 0..HOSTS {
        let peer = PeerId { slot: i % 7, generation: 0 };
        routes.insert(IpNet::V4(Ipv4Addr::from(0x0a00_0000 + i).into()), peer);
        routes.insert(IpNet::V6(Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(i)).into()), peer);
    }
    routes
}

fn look_up_hosts_v4() -> Case {
    let routes = hosts();
    let hosts: Vec<_> = scattered(LOOKUPS).map(|n| Ipv4Addr::from(0x0a00_0000 + n % HOSTS)).collect();
    let sample = move || {
        let mut sample = Sample::default();
        let found = sample.time(LOOKUPS, || hosts.iter().filter(|host| routes.lookup_v4(**host).is_some()).count());
        assert_eq!(found, LOOKUPS);
        sample
    };
    Case::new(GROUP, format!("allowed IPs, {HOSTS} hosts, IPv4"), sample).without_allocations()
}

fn look_up_hosts_v6() -> Case {
    let routes = hosts();
    let address = |n: u32| Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(n % HOSTS));
    let hosts: Vec<_> = scattered(LOOKUPS).map(address).collect();
    let sample = move || {
        let mut sample = Sample::default();
        let found = sample.time(LOOKUPS, || hosts.iter().filter(|host| routes.lookup_v6(**host).is_some()).count());
        assert_eq!(found, LOOKUPS);
        sample
    };
    Case::new(GROUP, format!("allowed IPs, {HOSTS} hosts, IPv6"), sample).without_allocations()
}

fn insert_hosts() -> Case {
    let sample = || {
        let mut sample = Sample::default();
        let routes = sample.time(2 * HOSTS as usize, hosts);
        assert_eq!(routes.len(), 2 * HOSTS as usize);
        sample
    };
    Case::new(GROUP, format!("allowed IPs, inserting 2 x {HOSTS} hosts"), sample)
}

fn replay(name: &str, counters: Vec<u64>) -> Case {
    let sample = move || {
        let mut window = ReplayWindow::new();
        let mut sample = Sample::default();
        let fresh = sample.time(counters.len(), || {
            counters.iter().filter(|counter| !window.would_reject(**counter) && window.commit(**counter)).count()
        });
        assert_eq!(fresh, counters.len());
        sample
    };
    Case::new(GROUP, name, sample).without_allocations()
}

fn replay_in_order() -> Case {
    replay("replay window, check and commit, in order", (0..COUNTERS).collect())
}

/// As reordered as several queues make it: blocks of 64 come backwards.
fn replay_shuffled() -> Case {
    let counters = (0..COUNTERS).map(|counter| counter ^ 63).collect();
    replay("replay window, check and commit, reordered", counters)
}

fn sessions() -> Case {
    let mut table = Table::new();
    for slot in 0..SESSIONS {
        table.set(slot, Some(Arc::new(slot)));
    }
    let slots: Vec<usize> = scattered(LOOKUPS).map(|n| n as usize % SESSIONS).collect();
    let sample = move || {
        let mut sample = Sample::default();
        let sum =
            sample.time(LOOKUPS, || slots.iter().filter_map(|slot| table.at(*slot)).map(|slot| **slot).sum::<usize>());
        assert_eq!(sum, slots.iter().sum::<usize>());
        sample
    };
    Case::new(GROUP, format!("session by index, {SESSIONS} sessions"), sample).without_allocations()
}
