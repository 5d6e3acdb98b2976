//! Series of the relay.

use prometheus::proto::MetricType;

use super::families::Families;
use crate::status::Status;

/// What the gateway relays; nothing where it does not.
pub(super) fn relay(families: &mut Families, status: &Status) {
    let Some(relay) = &status.relay else { return };
    let device = status.interface.as_str();
    for kind in ["granted", "link"] {
        let count = relay.allocations.iter().filter(|allocation| allocation.kind == kind).count();
        families.add(
            "landbridge_relay_allocations",
            "Pairs of peers that the gateway relays between: granted on request, or configured as links.",
            MetricType::GAUGE,
            &[("device", device), ("kind", kind)],
            count as f64,
        );
    }
    let is_program = f64::from(u8::from(relay.backend == "xdp"));
    for (name, help, value) in [
        ("allocations_max", "Pairs of peers that there are ports and numbers for.", f64::from(relay.allocations_max)),
        ("xdp", "1 while the XDP program relays, with the thread beside it; 0 for the thread alone.", is_program),
        (
            "rate_bits_per_second",
            "Bits a second that each end may send; 0 for no limit.",
            f64::from(relay.rate_mbps) * 1e6,
        ),
    ] {
        families.add(&format!("landbridge_relay_{name}"), help, MetricType::GAUGE, &[("device", device)], value);
    }
    let ends = relay.allocations.iter().flat_map(|allocation| &allocation.ends);
    families.add(
        "landbridge_relay_bound_ends",
        "Peers at a port of the relay whose place is known.",
        MetricType::GAUGE,
        &[("device", device)],
        ends.filter(|end| end.place.is_some()).count() as f64,
    );
    for (backend, counters) in [("xdp", relay.xdp), ("user", relay.user)] {
        for (name, help, value) in [
            ("packets", "Datagrams relayed, by what forwarded them.", counters.packets),
            ("bytes", "Bytes of relayed datagrams behind the UDP header, by what forwarded them.", counters.bytes),
            ("limited_packets", "Datagrams dropped as a peer sent faster than the relay permits.", counters.limited),
        ] {
            families.add(
                &format!("landbridge_relay_{name}_total"),
                help,
                MetricType::COUNTER,
                &[("device", device), ("backend", backend)],
                value as f64,
            );
        }
    }
}
