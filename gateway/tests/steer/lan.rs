//! The lan role of the object on crafted packets, without a wire.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use ipnet::IpNet;
use landbridge::steer::{LanInterface, SteerError, Verdict};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::may_run;
use crate::model::{Lan, Model};
use crate::packet::{
    IPV4, IPV6, MAC, PROVIDER_VLAN, UDP, VLAN, ethernet, extension, ipv4, ipv6, tagged, transport_data, udp,
};
use crate::rig::{LIVE, LONGEST, LOOPBACK, OURS_4, OURS_6, PORT, Rig, model};

const TUNNEL_MTU: usize = 1420;
const LAN: LanInterface = LanInterface { if_index: LOOPBACK, mac: MAC, vlan: None, wan: false };
const FAR_4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 9);
const FAR_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 9);

fn net(text: &str) -> IpNet {
    text.parse().unwrap_or_else(|_| panic!("a network: {text}"))
}

/// The rig as a lan interface, with a route of each family to a peer.
fn rig(lan: LanInterface) -> Rig {
    let mut rig = Rig::new();
    rig.steer.set_tunnel_mtu(TUNNEL_MTU as u32).expect("an MTU");
    rig.steer.set_lan_interface(lan).expect("a lan");
    rig.steer.set_routes(&[net("10.2.0.0/16"), net("fd00:2::/32")].into()).expect("routes");
    rig
}

fn four(destination: Ipv4Addr, body: usize) -> Vec<u8> {
    ipv4(destination, 6, &[], 0x4000, &vec![0x5a; body])
}

fn plain(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }, packet)
}

fn six(destination: Ipv6Addr, body: usize) -> Vec<u8> {
    ipv6(destination, 6, &vec![0x5a; body])
}

/// A packet with some bytes overwritten, in a frame without tags.
fn with(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    plain(&packet)
}

fn check(lan: LanInterface, cases: Vec<(&str, Vec<u8>, Verdict)>) {
    if !may_run() {
        return;
    }
    let mut rig = rig(lan);
    for (name, frame, expected) in cases {
        assert_eq!(rig.verdict(&frame), expected, "{name}");
    }
}

#[test]
fn what_a_router_forwards_to_a_peer_is_taken_and_nothing_else() {
    use Verdict::{
        HopLimit, LanRedirected, LocalAddress, Malformed, NoRoute, Options, OtherEtherType, OtherMac, Scope, Truncated,
        TunnelMtu,
    };
    let to_mac = |mac: [u8; 6]| [&mac[..], &plain(&four(FAR_4, 20))[6..]].concat();
    check(
        LAN,
        vec![
            ("IPv4", plain(&four(FAR_4, 100)), LanRedirected),
            ("IPv6", plain(&six(FAR_6, 100)), LanRedirected),
            ("an empty packet", plain(&four(FAR_4, 0)), LanRedirected),
            ("padding behind the packet", [plain(&four(FAR_4, 0)), vec![0; 26]].concat(), LanRedirected),
            ("a first fragment", plain(&ipv4(FAR_4, UDP, &[], 0x2000, &[1; 64])), LanRedirected),
            ("a last fragment", plain(&ipv4(FAR_4, UDP, &[], 0x00b9, &[1; 64])), LanRedirected),
            ("an IPv6 fragment", plain(&ipv6(FAR_6, 44, &extension(UDP, 0, 0, &[1; 64]))), LanRedirected),
            ("transport data of somebody else", plain(&ipv4(FAR_4, UDP, &[], 0, &transport(PORT))), LanRedirected),
            ("destination options", plain(&ipv6(FAR_6, 60, &extension(6, 0, 0, &[1; 64]))), LanRedirected),
            ("hop-by-hop options", plain(&ipv6(FAR_6, 0, &extension(6, 0, 0, &[1; 64]))), Options),
            ("IPv4 options", plain(&ipv4(FAR_4, 6, &[1; 4], 0, &[1; 64])), Options),
            ("TTL 2", with(four(FAR_4, 20), 8, &[2]), LanRedirected),
            ("TTL 1", with(four(FAR_4, 20), 8, &[1]), HopLimit),
            ("TTL 0", with(four(FAR_4, 20), 8, &[0]), HopLimit),
            ("hop limit 2", with(six(FAR_6, 20), 7, &[2]), LanRedirected),
            ("hop limit 1", with(six(FAR_6, 20), 7, &[1]), HopLimit),
            ("the tunnel's MTU", plain(&four(FAR_4, TUNNEL_MTU - 20)), LanRedirected),
            ("one byte more", plain(&four(FAR_4, TUNNEL_MTU - 19)), TunnelMtu),
            ("the tunnel's MTU, IPv6", plain(&six(FAR_6, TUNNEL_MTU - 40)), LanRedirected),
            ("one byte more, IPv6", plain(&six(FAR_6, TUNNEL_MTU - 39)), TunnelMtu),
            ("to a host of another network", plain(&four(Ipv4Addr::new(10, 3, 0, 9), 20)), NoRoute),
            ("to us", plain(&four(OURS_4, 20)), LocalAddress),
            ("to us, IPv6", plain(&six(OURS_6, 20)), LocalAddress),
            ("transport data of a live session", plain(&ipv4(OURS_4, UDP, &[], 0, &transport(PORT))), LocalAddress),
            ("broadcast frame", to_mac([0xff; 6]), OtherMac),
            ("multicast frame", to_mac([1, 0, 0x5e, 0, 0, 1]), OtherMac),
            ("somebody else's frame", to_mac([2, 0, 0, 0, 1, 1]), OtherMac),
            ("ARP", ethernet(&[], 0x0806, &[0; 46]), OtherEtherType),
            ("cut off", plain(&four(FAR_4, 20))[..50].to_vec(), Truncated),
            ("a header of 16 bytes", with(four(FAR_4, 20), 0, &[0x44]), Malformed),
            ("limited broadcast", plain(&four(Ipv4Addr::BROADCAST, 20)), Scope),
            ("multicast", plain(&four(Ipv4Addr::new(239, 1, 2, 3), 20)), Scope),
            ("loopback", plain(&four(Ipv4Addr::new(127, 0, 0, 1), 20)), Scope),
            ("this network", plain(&four(Ipv4Addr::new(0, 1, 0, 1), 20)), Scope),
            ("link-local", plain(&four(Ipv4Addr::new(169, 254, 0, 1), 20)), Scope),
            ("from a link-local address", with(four(FAR_4, 20), 12, &[169, 254, 9, 9]), Scope),
            ("from a multicast address", with(four(FAR_4, 20), 12, &[224, 0, 0, 1]), Scope),
            ("from the unspecified address", with(four(FAR_4, 20), 12, &[0; 4]), Scope),
            ("IPv6 link-local", plain(&six("fe80::1".parse().expect("an address"), 20)), Scope),
            ("IPv6 multicast", plain(&six("ff0e::1".parse().expect("an address"), 20)), Scope),
            ("IPv6 loopback", plain(&six(Ipv6Addr::LOCALHOST, 20)), Scope),
            ("IPv4 mapped into IPv6", plain(&six(FAR_4.to_ipv6_mapped(), 20)), Scope),
            ("our IPv4 address mapped into IPv6", plain(&six(OURS_4.to_ipv6_mapped(), 20)), Scope),
            ("from an IPv6 link-local address", with(six(FAR_6, 20), 8, &[0xfe, 0x80, 0]), Scope),
            ("a tag", ethernet(&[VLAN], IPV4, &four(FAR_4, 20)), Verdict::OtherVlan),
        ],
    );
}

/// Transport data of the live session as a datagram to a port.
fn transport(port: u16) -> Vec<u8> {
    udp(port, &transport_data(LIVE, 96))
}

#[test]
fn of_a_vlan_exactly_its_frames_are_taken() {
    use Verdict::{LanRedirected, OtherVlan, TooManyTags};
    let frame = |tags: &[(u16, u16)]| tagged(tags, IPV4, &four(FAR_4, 60));
    let six = tagged(&[(VLAN, 100)], IPV6, &six(FAR_6, 60));
    check(
        LanInterface { vlan: Some(100), ..LAN },
        vec![
            ("its own", frame(&[(VLAN, 100)]), LanRedirected),
            ("its own, IPv6", six, LanRedirected),
            ("with a priority", frame(&[(VLAN, 0xe064)]), LanRedirected),
            ("another", frame(&[(VLAN, 101)]), OtherVlan),
            ("another with the same low byte", frame(&[(VLAN, 0x164)]), OtherVlan),
            ("no tag", frame(&[]), OtherVlan),
            ("a priority alone", frame(&[(VLAN, 0xe000)]), OtherVlan),
            ("a provider's", frame(&[(PROVIDER_VLAN, 100)]), OtherVlan),
            ("in a provider's", frame(&[(PROVIDER_VLAN, 7), (VLAN, 100)]), OtherVlan),
            ("twice", frame(&[(VLAN, 100), (VLAN, 100)]), OtherVlan),
            ("three tags", frame(&[(VLAN, 100), (VLAN, 100), (VLAN, 100)]), TooManyTags),
        ],
    );
    check(LAN, vec![("a priority alone, where there is no VLAN", frame(&[(VLAN, 0)]), OtherVlan)]);
}

#[test]
fn an_interface_of_both_sides_serves_both() {
    use Verdict::{Control, LanRedirected, NoRoute, OtherMac, OtherPort, OtherProtocol, Redirected, UnknownSession};
    let data =
        |destination, port, index| plain(&ipv4(destination, UDP, &[], 0, &udp(port, &transport_data(index, 96))));
    let to_another_mac = [&[2, 9, 9, 9, 9, 9], &data(OURS_4, PORT, LIVE)[6..]].concat();
    let lan_to_another_mac = [&[2, 9, 9, 9, 9, 9], &data(FAR_4, PORT, LIVE)[6..]].concat();
    check(
        LanInterface { wan: true, ..LAN },
        vec![
            ("transport data", data(OURS_4, PORT, LIVE), Redirected),
            ("transport data, IPv6", plain(&ipv6(OURS_6, UDP, &transport(PORT))), Redirected),
            ("transport data for nobody", data(OURS_4, PORT, LIVE + 1), UnknownSession),
            ("a handshake", plain(&ipv4(OURS_4, UDP, &[], 0, &udp(PORT, &[1; 148]))), Control),
            ("another port of ours", data(OURS_4, 53, LIVE), OtherPort),
            ("another protocol for us", plain(&four(OURS_4, 20)), OtherProtocol),
            (
                "transport data in a tag",
                ethernet(&[VLAN], IPV4, &ipv4(OURS_4, UDP, &[], 0, &transport(PORT))),
                Redirected,
            ),
            ("the wan role does not look at the MAC", to_another_mac, Redirected),
            ("a packet for a peer's network", plain(&four(FAR_4, 60)), LanRedirected),
            ("a packet for a peer's network, IPv6", plain(&six(FAR_6, 60)), LanRedirected),
            ("somebody's transport data through us", data(FAR_4, PORT, LIVE), LanRedirected),
            ("the lan role looks at the MAC", lan_to_another_mac, OtherMac),
            ("a packet for another network", plain(&four(Ipv4Addr::new(10, 3, 0, 9), 60)), NoRoute),
        ],
    );
}

#[test]
fn the_longest_route_decides_and_changes_hold_from_the_next_packet_on() {
    if !may_run() {
        return;
    }
    use Verdict::{LanRedirected, NoRoute};
    let mut rig = rig(LAN);
    let goes = |rig: &mut Rig, address: [u8; 4]| rig.verdict(&plain(&four(address.into(), 60)));
    rig.steer.set_routes(&[net("0.0.0.0/0"), net("10.2.3.4/32")].into()).expect("routes");
    assert_eq!(goes(&mut rig, [203, 0, 113, 1]), LanRedirected);
    rig.steer.set_kernel_routes(&[net("10.2.0.0/16"), net("203.0.113.1/32")].into()).expect("routes");
    assert_eq!(goes(&mut rig, [203, 0, 113, 1]), NoRoute, "a peer's endpoint has a route of its own");
    assert_eq!(goes(&mut rig, [203, 0, 113, 2]), LanRedirected);
    assert_eq!(goes(&mut rig, [10, 2, 3, 5]), NoRoute, "a connected network inside a peer's");
    assert_eq!(goes(&mut rig, [10, 2, 3, 4]), LanRedirected, "a peer's host inside a connected network");

    rig.steer.insert_route(net("10.2.0.0/16")).expect("a route");
    assert_eq!(goes(&mut rig, [10, 2, 3, 5]), NoRoute, "where both have a network, the kernel has it");
    rig.steer.set_kernel_routes(&[net("203.0.113.1/32")].into()).expect("routes");
    assert_eq!(goes(&mut rig, [10, 2, 3, 5]), LanRedirected);
    rig.steer.remove_route(net("10.2.0.0/16")).expect("removed");
    rig.steer.remove_route(net("10.2.0.0/16")).expect("removed before");
    rig.steer.set_routes(&[net("10.2.3.99/24")].into()).expect("a route, by an address in it");
    assert_eq!(goes(&mut rig, [10, 2, 3, 5]), LanRedirected);
    assert_eq!(goes(&mut rig, [10, 2, 4, 5]), NoRoute);
    rig.steer.remove_route(net("10.2.3.7/24")).expect("removed by another address in it");
    assert_eq!(goes(&mut rig, [10, 2, 3, 5]), NoRoute);
    rig.steer.set_routes(&[].into()).expect("no routes");
    assert_eq!(rig.verdict(&plain(&six(FAR_6, 60))), NoRoute);
}

#[test]
fn without_a_role_a_port_an_mtu_or_a_socket_nothing_of_a_lan_is_taken() {
    if !may_run() {
        return;
    }
    let mut rig = rig(LAN);
    let frame = plain(&four(FAR_4, 60));
    assert_eq!(rig.verdict(&frame), Verdict::LanRedirected);
    rig.steer.unbind_socket(LOOPBACK, 0).expect("unbound");
    assert_eq!(rig.verdict(&frame), Verdict::NoSocket);
    rig.steer.bind_socket(LOOPBACK, 0, rig.socket.as_fd()).expect("bound");
    assert_eq!(rig.verdict(&frame), Verdict::LanRedirected);
    rig.steer.set_tunnel_mtu(0).expect("no MTU");
    assert_eq!(rig.verdict(&frame), Verdict::TunnelMtu);
    rig.steer.set_tunnel_mtu(9000).expect("an MTU beyond what a frame holds");
    assert_eq!(rig.verdict(&frame), Verdict::LanRedirected);
    assert_eq!(rig.verdict(&plain(&four(FAR_4, LONGEST - 20))), Verdict::LanRedirected);
    assert_eq!(rig.verdict(&plain(&four(FAR_4, LONGEST - 19))), Verdict::TooLong);
    rig.steer.set_lan_interface(LanInterface { mac: [2; 6], ..LAN }).expect("another address");
    assert_eq!(rig.verdict(&frame), Verdict::OtherMac);
    rig.steer.set_lan_interface(LAN).expect("the address");
    rig.steer.disable().expect("disabled");
    rig.steer.set_tunnel_mtu(1420).expect("an MTU");
    assert_eq!(rig.verdict(&frame), Verdict::Disabled, "an MTU switches nothing on");
    rig.steer.set_port(PORT).expect("a port");
    assert_eq!(rig.verdict(&frame), Verdict::LanRedirected);
    rig.steer.remove_lan_interface(LOOPBACK).expect("no lan");
    rig.steer.remove_lan_interface(LOOPBACK).expect("no lan still");
    assert_eq!(rig.verdict(&frame), Verdict::OtherProtocol, "the wan role looks at it");
    for vlan in [0, 4095] {
        let error = rig.steer.set_lan_interface(LanInterface { vlan: Some(vlan), ..LAN }).expect_err("no VLAN");
        assert!(matches!(error, SteerError::NoVlan { .. }), "{error}");
    }
}

#[test]
fn routes_beyond_what_the_maps_hold_are_left_to_the_kernel_with_a_clear_error() {
    if !may_run() {
        return;
    }
    let mut rig = rig(LAN);
    let nth = |n: u32| IpNet::from(IpAddr::from(Ipv4Addr::from(0x0b00_0000 + n)));
    let all = (0..131_072).map(nth).collect();
    rig.steer.set_routes(&all).expect("as many as fit");
    let error = rig.steer.insert_route(nth(131_072)).expect_err("one more").to_string();
    assert!(error.contains("131072 routes of an address family, 1 less"), "{error}");
    rig.steer.insert_route(net("fd00:9::/32")).expect("the other family has room");
    // Every one of them is another: what is added finds room while what goes is still there.
    let others = (131_072..262_146).map(nth).collect();
    let error = rig.steer.set_routes(&others).expect_err("two too many").to_string();
    assert!(error.contains("2 less"), "{error}");
    assert_eq!(rig.verdict(&plain(&four(Ipv4Addr::from(0x0b00_0000), 20))), Verdict::NoRoute);
    assert_eq!(rig.verdict(&plain(&four(Ipv4Addr::from(0x0b02_0000), 20))), Verdict::LanRedirected);
    assert_eq!(rig.verdict(&plain(&four(Ipv4Addr::from(0x0b04_0001), 20))), Verdict::NoRoute);
    // Without all of the kernel's networks, nothing is taken.
    rig.steer.set_routes(&[net("0.0.0.0/0")].into()).expect("a route");
    rig.steer.set_kernel_routes(&all).expect_err("one too many");
    assert_eq!(rig.verdict(&plain(&four(FAR_4, 20))), Verdict::TunnelMtu);
    rig.steer.set_kernel_routes(&[].into()).expect("none");
    assert_eq!(rig.verdict(&plain(&four(FAR_4, 20))), Verdict::LanRedirected);
}

/// Networks in a corner of the address space so small that they overlap, are equal, and hold the frames' destinations.
fn nets() -> impl Strategy<Value = IpNet> {
    let four = (any::<[u8; 2]>(), prop_oneof![1 => 0u8..=32, 3 => 12u8..=32]).prop_map(|([c, d], len)| {
        let address = Ipv4Addr::new(10, 2, c & 0x83, d & 0xc1);
        IpNet::new(address.into(), len).expect("a network").trunc()
    });
    let six = (any::<[u8; 2]>(), prop_oneof![1 => 0u8..=128, 3 => 100u8..=128]).prop_map(|([c, d], len)| {
        let address = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, u16::from(c & 0x83), u16::from(d & 0xc1));
        IpNet::new(address.into(), len).expect("a network").trunc()
    });
    prop_oneof![four, six]
}

/// Frames for the addresses that the networks are about, and some for others, damaged in places.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let tag =
        (prop_oneof![4 => Just(VLAN), 1 => Just(PROVIDER_VLAN)], prop_oneof![3 => Just(100u16), 1 => any::<u16>()]);
    let tags = prop_oneof![4 => Just(Vec::new()), 3 => vec(tag, 1..=3)];
    let body = prop_oneof![3 => 0usize..200, 1 => 1300usize..1900];
    let ours = prop_oneof![8 => Just(false), 1 => Just(true)];
    let options = prop_oneof![8 => Just(0usize), 1 => 1usize..=10];
    let four = (any::<[u8; 2]>(), body.clone(), ours.clone(), options).prop_map(|([c, d], len, ours, words)| {
        let to = if ours { OURS_4 } else { Ipv4Addr::new(10, 2, c & 0x83, d & 0xc3) };
        let body = if ours { transport(PORT) } else { vec![0x5a; len] };
        (IPV4, ipv4(to, if ours { UDP } else { 6 }, &vec![1; words * 4], 0, &body))
    });
    let next = prop_oneof![6 => Just(6u8), 1 => Just(0), 1 => Just(44)];
    let six = (any::<[u8; 2]>(), body, ours, next).prop_map(|([c, d], len, ours, next)| {
        let to = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, u16::from(c & 0x83), u16::from(d & 0xc3));
        match (ours, next) {
            (true, _) => (IPV6, ipv6(OURS_6, UDP, &transport(PORT))),
            (false, 6) => (IPV6, ipv6(to, next, &vec![0x5a; len])),
            (false, _) => (IPV6, ipv6(to, next, &extension(6, 0, 0, &vec![0x5a; len]))),
        }
    });
    let whole = (tags, prop_oneof![four, six]).prop_map(|(tags, (kind, packet))| tagged(&tags, kind, &packet));
    let anything = (0usize..62, any::<u8>());
    // From and to networks that no router forwards; hop limits that end here or nearly.
    let start = prop_oneof![Just(26usize), Just(30), Just(38)];
    let special = (start, prop_oneof![Just(0u8), Just(127), Just(224), Just(0xfe), Just(0xff)]);
    let hops = (prop_oneof![Just(21usize), Just(22), Just(25), Just(26)], 0u8..3);
    let change = prop_oneof![1 => anything, 1 => special, 2 => hops];
    let changes = prop_oneof![3 => Just(Vec::new()), 1 => vec(change, 1..3)];
    let resize = prop_oneof![8 => Just(0i32), 1 => -60..0i32, 1 => 1..40i32];
    (whole, changes, resize).prop_map(|(mut frame, changes, resize)| {
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        let len = i32::try_from(frame.len()).expect("a frame's length") + resize;
        frame.resize(usize::try_from(len.max(14)).expect("positive"), 0);
        frame
    })
}

#[test]
fn random_frames_among_random_routes_agree_with_the_model_and_a_naive_router() {
    if !may_run() {
        return;
    }
    let rig = RefCell::new(rig(LAN));
    let roles = (prop_oneof![1 => Just(None), 1 => Just(Some(100u16))], any::<bool>());
    let cases = (roles, btree_set(nets(), 0..24), btree_set(nets(), 0..8), vec(frames(), 60));
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    runner
        .run(&cases, |((vlan, wan), peers, kernel, frames)| {
            let mut rig = rig.borrow_mut();
            rig.steer.set_lan_interface(LanInterface { vlan, wan, ..LAN }).expect("a lan");
            rig.steer.set_routes(&peers).expect("routes");
            rig.steer.set_kernel_routes(&kernel).expect("routes");
            let lan = Lan { mac: MAC, vlan, wan, tunnel_mtu: TUNNEL_MTU, peers, kernel };
            let model = Model { lan: Some(lan), ..model() };
            for frame in frames {
                prop_assert_eq!(rig.verdict(&frame), model.verdict(&frame), "{:02x?}", frame);
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let reached = rig.into_inner().before;
    let of_lan = Verdict::LanRedirected..=Verdict::NoRoute;
    for (verdict, packets) in reached.iter().filter(|(verdict, _)| of_lan.contains(verdict)) {
        assert!(packets > 0, "no frames led to {verdict:?}: {reached:?}");
    }
    assert!(reached.packets(Verdict::Redirected) > 0, "{reached:?}");
}
