//! What is told of the relay.

use std::time::Instant;

use landbridge_ebpf_common::RELAY_ENDS;

use super::table::{End, Id, Relays, add};
use crate::control::driver::Driver;
use crate::control::paths::Network;
use crate::settings::PublicKey;
use crate::status::relay::{RelayAllocationStatus, RelayCounters, RelayEndStatus, RelayInterfaceStatus, RelayStatus};
use crate::steer::relay::RelayTally;

impl<N: Network> Driver<N> {
    /// What is told of the relay; `None` without one.
    #[must_use]
    pub fn relay_status(&self, now: Instant) -> Option<RelayStatus> {
        let relays = self.relays.as_ref()?;
        let mut totals = relays.past;
        let ends = |(id, ends): (&Id, &[End; 2])| {
            let bound = ends.iter().all(|end| end.place.is_some());
            let ends = ends.iter().map(|end| {
                let sent = end.sent(self.steer.as_ref());
                add(&mut totals[0], sent[0]);
                add(&mut totals[1], sent[1]);
                self.relay_end(end, bound, sent, now)
            });
            let kind = if matches!(id, Id::Link(_)) { "link" } else { "granted" };
            RelayAllocationStatus { kind: kind.to_owned(), ends: ends.collect() }
        };
        let allocations = relays.allocations.iter().map(|(id, allocation)| (id, &allocation.ends)).map(ends).collect();
        let Relays { settings, egress, .. } = relays;
        let interfaces = egress.interfaces.iter().map(|leaving| RelayInterfaceStatus {
            name: leaving.interface.name.clone(),
            xdp_mode: leaving.mode.map(|mode| mode.label().to_owned()),
            sends: leaving.sends,
        });
        let by_program = egress.interfaces.iter().any(|leaving| leaving.sends);
        Some(RelayStatus {
            backend: if by_program { "xdp" } else { "user" }.to_owned(),
            reason: egress.describe(),
            ports: [settings.ports.first, settings.ports.last],
            rate_mbps: settings.rate_mbps,
            allocations_max: u32::from(settings.ports.count() / 2).min(RELAY_ENDS / 2),
            interfaces: interfaces.collect(),
            allocations,
            xdp: counters(totals[0]),
            user: counters(totals[1]),
        })
    }

    fn relay_end(&self, end: &End, bound: bool, sent: [RelayTally; 2], now: Instant) -> RelayEndStatus {
        let peer = self.endpoint.peer_by_key(&end.key).and_then(|peer| self.peer(peer));
        let by = if end.in_program.is_some() { "xdp" } else { "user" };
        RelayEndStatus {
            public_key: PublicKey(end.key).to_string(),
            name: peer.and_then(|peer| peer.name.clone()),
            port: end.port,
            place: end.place.map(|place| place.remote),
            forwarded_by: bound.then(|| by.to_owned()),
            silent_seconds: end.silent(self.steer.as_ref(), now).map(|silent| silent.as_secs()),
            xdp: counters(sent[0]),
            user: counters(sent[1]),
        }
    }
}

const fn counters(tally: RelayTally) -> RelayCounters {
    let RelayTally { packets, bytes, limited, .. } = tally;
    RelayCounters { packets, bytes, limited }
}
