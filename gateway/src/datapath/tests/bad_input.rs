//! Whatever is wrong with a packet has its own count, and disturbs nothing.

use landbridge_proto::DropReason;

use super::*;

/// Seals a plaintext with west's session as it is, padding or not.
fn sealed(pair: &Pair, plain: &[u8]) -> Vec<u8> {
    let session = &pair.west.session;
    let counter = session.take_counters(1).expect("a counter");
    let mut message = vec![0; 16];
    let receiver = session.remote_index;
    super::super::transport::TransportHeader { receiver, counter }.write(&mut message);
    message.extend_from_slice(plain);
    message.extend_from_slice(&[0; 16]);
    session.seal_key().seal(counter, &mut message[16..]);
    message
}

#[test]
fn every_bad_datagram_has_its_own_reason_and_the_good_one_behind_it_arrives() {
    let good = packet([10, 1, 0, 1], [10, 2, 0, 1], 1, 100);
    type Spoil = fn(&Pair, &[u8]) -> Vec<u8>;
    let cases: &[(&str, DropReason, Spoil)] = &[
        ("nothing", DropReason::Truncated, |_, _| vec![]),
        ("cut", DropReason::Truncated, |pair, good| sealed(pair, good)[..31].to_vec()),
        ("type 9", DropReason::UnknownType, |pair, good| {
            let mut message = sealed(pair, good);
            message[0] = 9;
            message
        }),
        ("reserved", DropReason::Malformed, |pair, good| {
            let mut message = sealed(pair, good);
            message[2] = 1;
            message
        }),
        ("index", DropReason::UnknownIndex, |pair, good| {
            let mut message = sealed(pair, good);
            message[7] ^= 0x80;
            message
        }),
        ("slot", DropReason::UnknownIndex, |pair, good| {
            let mut message = sealed(pair, good);
            message[4] ^= 0x80;
            message
        }),
        ("forged", DropReason::BadTag, |pair, good| {
            let mut message = sealed(pair, good);
            message[40] ^= 1;
            message
        }),
        ("counter beyond the limit", DropReason::SessionExpired, |pair, good| {
            let mut message = sealed(pair, good);
            message[8..16].fill(0xff);
            message
        }),
        ("another's source", DropReason::SourceNotAllowed, |pair, _| {
            sealed(pair, &packet([10, 9, 0, 1], [10, 2, 0, 1], 1, 100))
        }),
        ("our own source", DropReason::SourceNotAllowed, |pair, _| {
            sealed(pair, &packet([10, 2, 0, 1], [10, 2, 0, 1], 1, 100))
        }),
        ("neither IPv4 nor IPv6", DropReason::BadInnerPacket, |pair, good| {
            let mut inner = good.to_vec();
            inner[0] = 0x75;
            sealed(pair, &inner)
        }),
        ("lying length", DropReason::BadInnerPacket, |pair, good| {
            let mut inner = good.to_vec();
            inner[2..4].copy_from_slice(&2000_u16.to_be_bytes());
            sealed(pair, &inner)
        }),
    ];
    for (name, reason, spoil) in cases {
        let mut pair = Pair::new();
        let bad = spoil(&pair, &good);
        let fine = sealed(&pair, &good);
        assert_eq!(pair.east_opens(&[bad, fine]), std::slice::from_ref(&good), "{name}");
        assert_eq!(pair.east.drops(), vec![(*reason, 1)], "{name}");
        pair.assert_all_frames_are_home();
    }
}

#[test]
fn a_forged_counter_does_not_poison_the_window() {
    let mut pair = Pair::new();
    let datagrams = pair.west_seals(&eastward(0..2));
    let mut forged = datagrams[0].clone();
    forged[8..16].copy_from_slice(&1_000_000_u64.to_le_bytes());
    assert!(pair.east_opens(&[forged]).is_empty());
    assert_eq!(pair.east_opens(&datagrams).len(), 2);
    assert_eq!(pair.east.drops(), vec![(DropReason::BadTag, 1)]);
}

#[test]
fn an_expired_session_opens_nothing() {
    let mut pair = Pair::new();
    let datagrams = pair.west_seals(&eastward(0..3));
    pair.now += Duration::from_secs(180);
    assert!(pair.east_opens(&datagrams).is_empty());
    assert_eq!(pair.east.drops(), vec![(DropReason::SessionExpired, 3)]);
    pair.assert_all_frames_are_home();
}

#[test]
fn outbound_packets_without_a_way_are_counted() {
    let mut pair = Pair::new();
    let nowhere = packet([10, 1, 0, 1], [10, 77, 0, 1], 0, 100);
    let mut broken = packet([10, 1, 0, 1], [10, 2, 0, 1], 0, 100);
    broken[0] = 0x41;
    let good = packet([10, 1, 0, 1], [10, 2, 0, 1], 7, 100);
    assert_eq!(pair.west_seals(&[nowhere.clone(), broken, good, nowhere]).len(), 1);
    assert_eq!(pair.west.drops(), vec![(DropReason::BadInnerPacket, 1), (DropReason::NoRoute, 2)]);

    let without_path = tables(2, &pair.west.session, None);
    pair.west.published.store(Arc::new(without_path));
    assert!(pair.west_seals(&eastward(0..3)).is_empty());
    assert_eq!(pair.west.dropped(DropReason::NoEndpoint), 3);
    pair.assert_all_frames_are_home();
}

#[test]
fn random_bytes_of_every_length_are_dropped_and_all_frames_come_home() {
    use rand::{RngCore, SeedableRng, rngs::StdRng};
    let mut random = StdRng::seed_from_u64(7);
    let mut pair = Pair::new();
    let mut sent = 0;
    for round in 0..40 {
        let datagrams: Vec<Vec<u8>> = (0..50)
            .map(|i| {
                let mut bytes = vec![0; (round * 50 + i) % 1700];
                random.fill_bytes(&mut bytes);
                if i % 2 == 0 && bytes.len() >= 16 {
                    bytes[..4].copy_from_slice(&[4, 0, 0, 0]);
                    bytes[4..8].copy_from_slice(&pair.east.session.local_index.0.to_le_bytes());
                    bytes[15] = 0;
                }
                bytes
            })
            .collect();
        sent += datagrams.len() as u64;
        assert!(pair.east_opens(&datagrams).is_empty());
    }
    let dropped: u64 = pair.east.drops().iter().map(|(_, packets)| packets).sum();
    let passed_up = pair.east.reports().iter().filter(|report| matches!(report, Report::Datagram(_))).count();
    assert_eq!(dropped + passed_up as u64, sent);
    pair.assert_all_frames_are_home();
}

#[test]
fn handshake_messages_go_to_the_control_task_and_never_crowd_out_what_must_not_be_lost() {
    let mut pair = Pair::new();
    let initiation = vec![vec![1; 148]; 700];
    assert!(pair.east_opens(&initiation).is_empty());
    let too_long = vec![vec![2; 300]];
    assert!(pair.east_opens(&too_long).is_empty());
    let datagrams = pair.west_seals(&eastward(0..1));
    assert_eq!(pair.east_opens(&datagrams).len(), 1);
    let reports = pair.east.reports();
    let passed_up = reports.iter().filter(|report| matches!(report, Report::Datagram(d) if d.bytes.len() == 148));
    assert_eq!(passed_up.count(), 512);
    assert!(
        reports
            .iter()
            .any(|report| matches!(report, Report::Confirmed(index) if *index == pair.east.session.local_index))
    );
    assert_eq!(pair.east.drops(), vec![(DropReason::Malformed, 1), (DropReason::ControlQueueFull, 188)]);
    pair.assert_all_frames_are_home();
}
