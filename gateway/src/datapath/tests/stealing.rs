//! Crypto by many lanes: nothing is lost, reordered or left behind.

use std::thread;

use super::super::desk;
use super::super::stats::LaneStats;
use super::super::wait;
use super::*;

/// Lanes that only steal, in threads of their own.
struct Helpers {
    links: Vec<Link>,
    stats: Vec<Arc<LaneStats>>,
    threads: Vec<thread::JoinHandle<Pool>>,
}

/// A lane with memory sides, and `count` helpers.
fn with_helpers(count: usize, published: &Published) -> (Lane<MemoryWan, MemoryLan>, Link, Helpers) {
    let links: Vec<Link> = (0..=count).map(|_| link()).collect();
    let mut desks = desk::desks(links.iter().map(|link| link.lane.clone()).collect()).into_iter();
    let mut lanes = links.iter().map(|link| {
        let desk = desks.next().expect("a desk per link");
        let (wan, lan) = (MemoryWan::default(), MemoryLan::default());
        let stats = Arc::new(LaneStats::default());
        Lane::new(wan, lan, memory(), desk, Arc::clone(published), link.clone(), stats)
    });
    let owner = lanes.next().expect("the owner");
    let (stats, threads) =
        lanes.map(|lane| (Arc::clone(lane.stats()), thread::spawn(move || wait::run(lane, false)))).unzip();
    (owner, links[0].clone(), Helpers { links: links[1..].to_vec(), stats, threads })
}

impl Helpers {
    fn stolen(&self) -> u64 {
        self.stats.iter().map(|stats| stats.jobs_stolen.value()).sum()
    }

    fn sleeps(&self) -> u64 {
        self.stats.iter().map(|stats| stats.sleeps.value()).sum()
    }

    fn stop(self) {
        for link in &self.links {
            link.commands.push(Command::Stop).expect("room for a command");
            link.lane.wake();
        }
        for thread in self.threads {
            let mut pool = thread.join().expect("a helper does not panic");
            assert_eq!(pool.free(), pool.total());
        }
    }
}

/// Sends so many bursts eastward through a lane with helpers and through a lone one; what leaves must be the same bytes.
#[test]
fn helpers_change_neither_the_bytes_nor_their_order() {
    let mut pair = Pair::new();
    let published = Arc::clone(&pair.west.published);
    let (owner, link, helpers) = with_helpers(3, &published);
    let lone = std::mem::replace(&mut pair.west.lane, owner);
    pair.west.link = link;
    pair.west.frames = pair.west.lane.pool().free();
    drop(lone);
    let mut expected = 0..;
    // Helpers take part as the scheduler lets them; go on until they certainly have, but not for ever.
    let limit = Instant::now() + Duration::from_secs(20);
    let mut rounds = 0;
    while rounds < 100 || (helpers.stolen() < 20 && Instant::now() < limit) {
        rounds += 1;
        let first = expected.next().expect("endless");
        let packets = eastward(first..first + 250);
        expected.nth(248);
        let mut datagrams = pair.west.send(&packets, pair.now);
        while datagrams.len() < packets.len() {
            assert!(Instant::now() < limit, "a job did not come back");
            thread::yield_now();
            pair.west.run(pair.now);
            datagrams.extend(pair.west.take_datagrams());
        }
        let counters: Vec<u64> = datagrams
            .iter()
            .map(|datagram| u64::from_le_bytes(*datagram[8..].first_chunk().expect("a header")))
            .collect();
        assert!(counters.windows(2).all(|two| two[1] == two[0] + 1), "in the order of their counters");
        assert_eq!(pair.east_opens(&datagrams), packets);
    }
    assert!(helpers.stolen() >= 20, "{} jobs stolen in {rounds} rounds", helpers.stolen());
    helpers.stop();
    pair.assert_all_frames_are_home();
}

#[test]
fn a_sleeping_owner_is_woken_by_its_last_job() {
    let mut pair = Pair::new();
    let published = Arc::clone(&pair.east.published);
    let (owner, owner_link, helpers) = with_helpers(2, &published);
    let packets = eastward(0..256);
    let datagrams = pair.west_seals(&packets);
    let origin = pair.west.origin;
    let stats = Arc::clone(owner.stats());
    let mut owner = owner;
    for datagram in &datagrams {
        let mut frame = owner.pool().take_for(datagram.len()).expect("a free frame");
        frame.append(datagram.len()).expect("room").copy_from_slice(datagram);
        owner.wan().arrived.push_back((frame, origin));
    }
    // Helpers must be asleep, or nothing is shared.
    while helpers.sleeps() < 2 {
        thread::yield_now();
    }
    let owner = thread::spawn(move || wait::run(owner, false));
    let limit = Instant::now() + Duration::from_secs(10);
    while stats.lan_tx_packets.value() < 256 {
        assert!(Instant::now() < limit, "only {} packets came out", stats.lan_tx_packets.value());
        thread::yield_now();
    }
    owner_link.commands.push(Command::Stop).expect("room for a command");
    owner_link.lane.wake();
    let mut pool = owner.join().expect("the owner does not panic");
    assert_eq!(pool.free(), pool.total());
    helpers.stop();
}

#[test]
fn a_lane_without_work_sleeps() {
    let pair = Pair::new();
    let (owner, link, helpers) = with_helpers(1, &pair.west.published);
    let stats = Arc::clone(owner.stats());
    let owner = thread::spawn(move || wait::run(owner, false));
    thread::sleep(Duration::from_millis(300));
    let loops = stats.loops.value() + helpers.stats[0].loops.value();
    assert!(loops < 20, "{loops} loops in 0.3 s without work");
    link.commands.push(Command::Stop).expect("room for a command");
    link.lane.wake();
    owner.join().expect("the owner does not panic");
    helpers.stop();
}
