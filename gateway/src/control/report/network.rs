//! The network around a gateway, as it is told.

use crate::nat::mapping::State;
use crate::nat::outlook::Outlook;
use crate::status::network::{MappingFailure, NetworkStatus, PortMappingStatus, StunStatus, UplinkStatus};

/// What is known of it.
pub(in crate::control) fn network(outlook: &Outlook, mapping: &State, pinhole: &State) -> NetworkStatus {
    let findings = [outlook.findings(false), outlook.findings(true)];
    let stun = findings.iter().flat_map(|found| {
        found.servers.iter().map(|server| StunStatus {
            server: server.address,
            answered: server.answered,
            mapped: found.observations.iter().find(|seen| seen.observer == server.address).map(|seen| seen.mapped),
            refused: server.refused,
            rtt_ms: server.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        })
    });
    let uplinks = findings
        .iter()
        .flat_map(|found| found.uplinks.iter().map(|(local, mapped)| UplinkStatus { local: *local, mapped: *mapped }));
    NetworkStatus {
        hairpin: findings[0].hairpin.or(findings[1].hairpin),
        stun: stun.collect(),
        uplinks: uplinks.collect(),
        port_mapping: port_mapping(mapping),
        pinhole: port_mapping(pinhole),
    }
}

fn port_mapping(state: &State) -> PortMappingStatus {
    let failure = |(protocol, reason): &(crate::settings::MappingProtocol, String)| MappingFailure {
        protocol: protocol.name().to_owned(),
        reason: reason.clone(),
    };
    PortMappingStatus {
        router: state.router.map(|router| router.address),
        protocol: state.mapped.map(|mapped| mapped.protocol.name().to_owned()),
        external: state.mapped.map(|mapped| mapped.external),
        lifetime_seconds: state.mapped.and_then(|mapped| mapped.lifetime).map(|lifetime| lifetime.as_secs()),
        failures: state.failures.iter().map(failure).collect(),
        lost: state.lost,
    }
}
