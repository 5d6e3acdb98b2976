//! The form of the program for frames in several buffers: what does not fit a page, the kernel hands it in several here, too.

use std::net::Ipv4Addr;

use landbridge::steer::relay::RelayPlan;
use landbridge::steer::{LanInterface, Verdict};

use crate::packet::{IPV4, IPV6, MAC, UDP, VLAN, ethernet, ipv4, ipv6, transport_data, udp};
use crate::rig::{LIVE, LOOPBACK, OURS_4, OURS_6, PORT, Rig};
use crate::{load_long, may_run};

/// The longest IP packet that the rig's sockets take.
const LONG: usize = 9216;
const RELAY: u16 = 52_000;
const FAR: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 9);

fn rig() -> Rig {
    let mut rig = Rig::with(load_long(), LONG);
    assert!(rig.steer.is_long());
    rig.steer.set_relay(RelayPlan { first: RELAY, count: 2, native: true, back: true }).expect("ports");
    rig
}

/// A frame with transport data of a live session in an IP packet of so many bytes, of either family.
fn data(len: usize, tags: &[u16]) -> [Vec<u8>; 2] {
    [
        ethernet(tags, IPV4, &ipv4(OURS_4, UDP, &[], 0x4000, &udp(PORT, &transport_data(LIVE, len - 28)))),
        ethernet(tags, IPV6, &ipv6(OURS_6, UDP, &udp(PORT, &transport_data(LIVE, len - 48)))),
    ]
}

#[test]
fn transport_data_is_taken_up_to_what_the_sockets_take() {
    if !may_run() {
        return;
    }
    let mut rig = rig();
    for tags in [&[][..], &[VLAN], &[VLAN, VLAN]] {
        for len in [128, 1500, 3400, 3840, 3841, 4000, 4096, 4097, 8000, 9000, LONG - 1, LONG] {
            for frame in data(len, tags) {
                assert_eq!(rig.verdict(&frame), Verdict::Redirected, "{len} bytes");
            }
        }
        for len in [LONG + 1, 16_000, 60_000] {
            for frame in data(len, tags) {
                assert_eq!(rig.verdict(&frame), Verdict::TooLong, "{len} bytes");
            }
        }
    }
}

#[test]
fn a_length_is_believed_as_far_as_the_frame_goes_in_all_its_buffers() {
    if !may_run() {
        return;
    }
    let mut rig = rig();
    for tags in [&[][..], &[VLAN], &[VLAN, VLAN]] {
        for len in [128, 1500, 4000, 9000] {
            for frame in data(len, tags) {
                assert_eq!(rig.verdict(&[&frame[..], &[0; 20]].concat()), Verdict::Redirected, "padding, {len} bytes");
                assert_eq!(rig.verdict(&frame[..frame.len() - 1]), Verdict::Truncated, "{len} bytes less one");
            }
        }
    }
    // A UDP length beyond the IP packet's, and beyond what is there.
    for [mut frame, _] in [data(9000, &[]), data(200, &[])] {
        frame[38..40].copy_from_slice(&9001_u16.to_be_bytes());
        assert_eq!(rig.verdict(&frame), Verdict::Malformed);
    }
}

#[test]
fn what_else_comes_in_several_buffers_is_the_kernels() {
    if !may_run() {
        return;
    }
    let mut rig = rig();
    let body = transport_data(LIVE ^ 1, 8000);
    let of = |port, payload: &[u8]| ethernet(&[], IPV4, &ipv4(OURS_4, UDP, &[], 0x4000, &udp(port, payload)));
    for (name, frame, expected) in [
        ("another session", of(PORT, &body), Verdict::UnknownSession),
        ("another port", of(PORT + 1, &body), Verdict::OtherPort),
        ("no transport data", of(PORT, &[1; 8000]), Verdict::Control),
        ("TCP", ethernet(&[], IPV4, &ipv4(OURS_4, 6, &[], 0x4000, &body)), Verdict::OtherProtocol),
        ("ARP", ethernet(&[], 0x0806, &[0; 9000]), Verdict::OtherEtherType),
        ("to the relay", of(RELAY, &body), Verdict::RelayTooLong),
        ("to the relay, in one buffer", of(RELAY, &body[..200]), Verdict::RelayUnbound),
    ] {
        assert_eq!(rig.verdict(&frame), expected, "{name}");
    }
}

#[test]
fn packets_of_a_lan_are_taken_up_to_the_tunnels_mtu() {
    if !may_run() {
        return;
    }
    let mut rig = rig();
    rig.steer.set_tunnel_mtu(8920).expect("an MTU");
    let lan = LanInterface { if_index: LOOPBACK, mac: MAC, vlan: None, wan: false };
    rig.steer.set_lan_interface(lan).expect("a lan");
    rig.steer.set_routes(&["10.2.0.0/16".parse().expect("a network")].into()).expect("routes");
    let of = |len: usize| ethernet(&[], IPV4, &ipv4(FAR, 6, &[], 0x4000, &vec![7; len - 20]));
    for len in [40, 1420, 3840, 3841, 8919, 8920] {
        assert_eq!(rig.verdict(&of(len)), Verdict::LanRedirected, "{len} bytes");
    }
    for len in [8921, 9000, 30_000] {
        assert_eq!(rig.verdict(&of(len)), Verdict::TunnelMtu, "{len} bytes");
    }
    rig.steer.set_tunnel_mtu(30_000).expect("an MTU");
    assert_eq!(rig.verdict(&of(LONG + 1)), Verdict::TooLong);
    assert_eq!(rig.verdict(&of(LONG)), Verdict::LanRedirected);
}

/// Before Linux 6.6 a socket loses frames in several buffers, however short they are.
#[test]
fn without_sockets_for_several_buffers_only_frames_in_one_are_taken() {
    if !may_run() {
        return;
    }
    let mut rig = Rig::with(load_long(), 3818);
    for len in [128, 1500, 3400] {
        for frame in data(len, &[]) {
            assert_eq!(rig.verdict(&frame), Verdict::Redirected, "{len} bytes");
        }
    }
    // The first buffer of a run without a wire holds about 3,500 bytes.
    for (len, expected) in [(3700, Verdict::Truncated), (3818, Verdict::Truncated), (3841, Verdict::TooLong)] {
        for frame in data(len, &[]) {
            assert_eq!(rig.verdict(&frame), expected, "{len} bytes");
        }
    }
}
