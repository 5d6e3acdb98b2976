//! Other implementations at the other end, in both roles.

use std::time::Duration;

use crate::lab::{
    Echo, Lab, Outside, Program, Sites, available, connected, tcp_exchange, tunnel_v4, tunnel_v6, udp_sizes,
};

fn first_contact(a: Program, b: Program, outside: Outside) {
    let Some(lab) = Lab::open() else { return };
    if !available(a) || !available(b) {
        return;
    }
    let sites = Sites::build(&lab);
    let (mut left, mut right) = sites.gateways(&lab, a, b, outside);
    right.peers[0].endpoint = None;
    left.start();
    right.start();
    let echo = Echo::start(&sites.b, tunnel_v4(2));
    udp_sizes(&sites.a, &echo, 1..=1392);
    connected(&[&left, &right], Duration::from_secs(5));
    tcp_exchange(&sites.a, &sites.b, tunnel_v4(2), 8 << 20);
    tcp_exchange(&sites.a, &sites.b, tunnel_v6(2), 8 << 20);
}

#[test]
fn go_and_boringtun() {
    first_contact(Program::WireguardGo, Program::Boringtun, Outside::V4);
}
#[test]
fn gotatun_and_go() {
    first_contact(Program::Gotatun, Program::WireguardGo, Outside::V6);
}
#[test]
fn boringtun_and_gotatun() {
    first_contact(Program::Boringtun, Program::Gotatun, Outside::V4);
}
