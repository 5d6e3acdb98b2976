//! Rings whose wire is down, and lanes that get neither turns nor frames: what that costs is counted, nothing is
//! overtaken, and it ends.

use landbridge_proto::DropReason;
use landbridge_xsk::socket::statistics_of;

use super::*;

#[test]
fn a_ring_whose_wire_is_down_fills_refuses_the_rest_and_goes_on_in_order_when_it_is_up() {
    in_namespace(|| {
        let far = wire(1500);
        let mut side = Side::new(false);
        let [ring, _] = paths(1500);
        sh("ip link set wan down");
        for number in 0..600 {
            side.send(&message(LIVE, number, 100), &ring);
        }
        assert!(side.wan.flush(&mut side.pool, &side.stats).is_err(), "a ring that cannot send says so");
        // The ring has 256 places.
        assert_eq!(side.stats.wan_xdp_tx_packets.value(), 256);
        assert_eq!(side.stats.dropped(DropReason::WanFull), 344);
        sh("ip link set wan up");
        let limit = Instant::now() + Duration::from_secs(5);
        while side.wan.flush(&mut side.pool, &side.stats).is_err() {
            assert!(Instant::now() < limit, "the ring sends again");
            thread::sleep(Duration::from_millis(10));
        }
        let arrived = |count: usize| -> Vec<u32> {
            let mut buffer = vec![0; 4096];
            (0..count).map_while(|_| far.recv(&mut buffer).ok().map(|len| number(&buffer[..len]))).collect()
        };
        assert_eq!(arrived(256), (0..256).collect::<Vec<_>>());
        for number in 600..700 {
            side.send(&message(LIVE, number, 100), &ring);
        }
        side.wan.flush(&mut side.pool, &side.stats).unwrap();
        assert_eq!(arrived(100), (600..700).collect::<Vec<_>>());
        assert_eq!(side.stats.dropped(DropReason::WanFull), 344);
        side.close();
    });
}

#[test]
fn what_a_ring_could_not_send_leaves_before_what_follows_by_the_socket() {
    in_namespace(|| {
        let far = wire(1500);
        let mut side = Side::new(false);
        let [ring, socket] = paths(1500);
        sh("ip link set wan down");
        side.send(&message(LIVE, 0, 100), &ring);
        assert!(side.wan.flush(&mut side.pool, &side.stats).is_err(), "a ring that cannot send says so");
        sh(&format!("ip link set wan up; ip neigh replace {THEIRS} lladdr 02:00:00:00:00:02 dev wan nud permanent"));
        let limit = Instant::now() + Duration::from_secs(5);
        // The link is up once something gets through; what the first try cannot send, the kernel forgets.
        while std::fs::read_to_string("/proc/thread-self/net/route").unwrap().lines().count() < 2 {
            assert!(Instant::now() < limit, "the route is back");
            thread::sleep(Duration::from_millis(10));
        }
        side.send(&message(LIVE, 1, 100), &socket);
        side.wan.flush(&mut side.pool, &side.stats).unwrap();
        let mut buffer = vec![0; 4096];
        let arrived = [0, 1].map(|_| far.recv(&mut buffer).map(|len| number(&buffer[..len])).unwrap());
        assert_eq!(arrived, [0, 1]);
        side.close();
    });
}

#[test]
fn a_lane_that_neither_runs_nor_has_frames_loses_what_its_ring_cannot_hold_and_no_more() {
    in_namespace(|| {
        let far = wire(1500);
        let mut side = Side::new(true);
        let held: Vec<Frame> = std::iter::from_fn(|| side.pool.take()).collect();
        assert!(held.len() > 1000, "what the ring does not hold");
        let far_sends = |numbers: std::ops::Range<u32>| {
            for number in numbers {
                far.send_to(&message(LIVE, number, 64), (OURS, PORT)).unwrap();
                if number % 50 == 0 {
                    // The queue of the wire itself has 256 places.
                    thread::sleep(Duration::from_millis(1));
                }
            }
        };
        far_sends(0..1500);
        let limit = Instant::now() + Duration::from_secs(5);
        let lost = |side: &Side| {
            let counted = statistics_of(side.ring.as_fd()).unwrap();
            counted.rx_dropped + counted.rx_ring_full
        };
        while lost(&side) < 1500 - 512 {
            assert!(Instant::now() < limit, "{} lost", lost(&side));
            thread::sleep(Duration::from_millis(10));
        }
        let drain = |side: &mut Side| -> Vec<u32> {
            let mut numbers = Vec::new();
            loop {
                let more = side.receive();
                if more.is_empty() {
                    return numbers;
                }
                numbers.extend(more.iter().map(|message| number(message)));
            }
        };
        assert_eq!(drain(&mut side), (0..512).collect::<Vec<_>>(), "the first ones, in order");
        assert_eq!(lost(&side), 1500 - 512);
        held.into_iter().for_each(|frame| side.pool.put(frame));
        side.receive();
        far_sends(2000..2300);
        let mut came = Vec::new();
        while came.len() < 300 {
            assert!(Instant::now() < limit, "{} came", came.len());
            came.extend(drain(&mut side));
        }
        assert_eq!(came, (2000..2300).collect::<Vec<_>>());
        assert_eq!(lost(&side), 1500 - 512);
        side.close();
    });
}

#[test]
fn a_lane_without_frames_leaves_datagrams_with_the_socket_or_counts_them_and_goes_on() {
    in_namespace(|| {
        let far = wire(1500);
        let mut side = Side::new(false);
        let held: Vec<Frame> = std::iter::from_fn(|| side.pool.take()).collect();
        for number in 0..40 {
            far.send_to(&message(ReceiverIndex(7), number, 64), (OURS, PORT)).unwrap();
        }
        thread::sleep(Duration::from_millis(100));
        let mut came: Vec<u32> = side.receive().iter().map(|message| number(message)).collect();
        let starved = side.stats.dropped(DropReason::NoFrame);
        held.into_iter().for_each(|frame| side.pool.put(frame));
        let limit = Instant::now() + Duration::from_secs(5);
        far.send_to(&message(ReceiverIndex(7), 100, 64), (OURS, PORT)).unwrap();
        while came.last() != Some(&100) {
            assert!(Instant::now() < limit, "{came:?}");
            came.extend(side.receive().iter().map(|message| number(message)));
        }
        assert!(came.is_sorted(), "{came:?}");
        assert_eq!(came.len() as u64 + starved, 41, "each arrived or is counted");
        side.close();
    });
}
