//! Hosts behind gateways whose lan side has rings: what is simply forwarded passes by the kernel, and everything else is the
//! kernel's as without rings.

use std::time::Duration;

use crate::lab::{Echo, Homes, Lab, Wan, connected, counted, host_v4, host_v6, tcp_exchange, udp_sizes};

/// Bytes of each TCP stream, each way.
const STREAM: usize = 8 << 20;

fn carries_everything(a: Wan, b: Wan) {
    let Some(lab) = Lab::open() else { return };
    let homes = Homes::build(&lab, 2);
    let (mut left, mut right) = homes.gateways(&lab, a, b);
    left.start();
    right.start();
    for (there, back) in [(host_v4(2), host_v4(1)), (host_v6(2), host_v6(1))] {
        let echo = Echo::start(&homes.host_b, there);
        let repeated = udp_sizes(&homes.host_a, &echo, 1..=1372);
        assert!(repeated <= 2, "{repeated} datagrams got lost between idle gateways");
        tcp_exchange(&homes.host_a, &homes.host_b, there, STREAM);
        tcp_exchange(&homes.host_b, &homes.host_a, back, STREAM / 4);
    }
    connected(&[&left, &right], Duration::from_secs(1));
    for gateway in [&left, &right] {
        let status = gateway.status();
        let lan = &status.lan;
        assert_eq!((lan.backend.as_str(), lan.reason.as_str()), ("xdp", "configured"));
        assert_eq!((lan.interfaces[0].name.as_str(), lan.interfaces[0].queues), ("lan0", 2));
        for direction in ["rx", "tx"] {
            let all = counted(gateway, &format!("lan_{direction}_packets"));
            let by_rings = counted(gateway, &format!("lan_xdp_{direction}_packets"));
            assert!(by_rings * 100 >= all * 95, "{direction}: {by_rings} of {all} by rings: {:?}", status.lanes);
        }
    }
}

#[test]
fn lan_rings_beside_sockets_carry_everything() {
    carries_everything(Wan::Udp, Wan::Udp);
}

#[test]
fn lan_rings_beside_wan_rings_carry_everything() {
    carries_everything(Wan::Xdp, Wan::Xdp);
}
