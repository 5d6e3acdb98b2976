//! The relay as the control task keeps it.
//!
//! 1. [`table`]: allocations, each two ports of ours, each port for one peer, granted by the endpoint or configured as links.
//! 2. A peer binds its end by a message in its session with us; a stock peer is found by the thread where its session is.
//! 3. Both ends bound, the XDP program forwards on the interfaces of [`egress`]; the thread ([`crate::relay`]) forwards what
//!    the program leaves, or everything.
//!
//! Enters: the endpoint's events, the thread's reports, news of interfaces and addresses. Leaves: ports for the endpoint, places
//! for thread and program. Never does: touch a datagram that is for somebody else.

pub mod egress;
mod status;
pub mod table;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landbridge_proto::endpoint::RelayEnd;
use landbridge_proto::{DropReason, PeerId};

use super::Control;
use super::driver::Driver;
use super::paths::Network;
use crate::relay::{Place, Report};
use crate::settings::RelaySettings;
use table::Id;

/// A stock peer whose place has been silent so long may be found elsewhere by any message, before only by a handshake.
pub const LINK_SILENCE: Duration = Duration::from_secs(5);
/// Reports of the thread that are taken at once.
const REPORTS_AT_ONCE: usize = 256;

impl<N: Network> Driver<N> {
    /// Two peers are to be relayed.
    pub(super) fn relay_allocate(&mut self, allocation: u64, peers: [PeerId; 2]) {
        let now = Instant::now();
        let names = peers.map(|peer| self.endpoint.peer(peer).map(|view| view.public_key));
        let ports = match (&mut self.relays, names) {
            (Some(relays), [Some(a), Some(b)]) => {
                relays.open(self.steer.as_mut(), Id::Granted(allocation), [a, b], None)
            }
            _ => None,
        };
        match ports {
            Some([a, b]) => self.endpoint.relay_granted(now, allocation, a, b),
            None => self.endpoint.relay_refused(now, allocation),
        }
    }

    /// An end of an allocation is here.
    pub(super) fn relay_bound(&mut self, allocation: u64, end: RelayEnd, remote: SocketAddr, local: Option<IpAddr>) {
        let end = usize::from(end == RelayEnd::B);
        self.bind_relay(Id::Granted(allocation), end, remote, local);
    }

    fn bind_relay(&mut self, id: Id, end: usize, remote: SocketAddr, local: Option<IpAddr>) {
        let (Some(relays), Some(local)) = (&mut self.relays, local) else { return };
        if let Err(reason) = relays.bind(self.steer.as_mut(), id, end, Some(Place { remote, local })) {
            self.drops[reason as usize] += 1;
        }
    }

    /// An allocation is over.
    pub(super) fn relay_freed(&mut self, allocation: u64) {
        if let Some(relays) = &mut self.relays {
            relays.close(self.steer.as_mut(), Id::Granted(allocation));
        }
    }

    /// Takes reports of the relay's thread.
    pub(super) fn hear_relay(&mut self, now: Instant) {
        for _ in 0..REPORTS_AT_ONCE {
            let Some(relays) = &mut self.relays else { return };
            let Some(report) = relays.thread.reports.pop() else { return };
            match report {
                Report::Found { end, place } => {
                    let Some((id, end)) = relays.of_number(end) else { continue };
                    self.bind_relay(id, end, place.remote, Some(place.local));
                }
                Report::Own { end, remote, local, bytes } => {
                    let Some(port) = relays.port_of(end) else { continue };
                    if let Err(reason) = self.endpoint.handle_relay_datagram(now, port, remote, local, &bytes) {
                        self.drops[reason as usize] += 1;
                        tracing::trace!(%remote, reason = reason.label(), "dropped at a port of the relay");
                    }
                }
            }
        }
        // More may wait.
        if let Some(relays) = &self.relays {
            relays.thread.waker.wake();
        }
    }

    /// Stock peers are where their sessions with us are.
    pub(super) fn expect_links(&mut self) {
        let Self { endpoint, relays, steer, .. } = self;
        let Some(relays) = relays else { return };
        relays.expect(steer.as_mut(), |key| {
            let view = endpoint.peer(endpoint.peer_by_key(key)?)?;
            // An endpoint that was only configured is no proof of anything.
            view.last_handshake.and(view.endpoint).map(|endpoint| (endpoint, view.local))
        });
    }

    /// Datagrams that were dropped for a reason at ports of the relay.
    #[must_use]
    pub fn relay_dropped(&self, reason: DropReason) -> u64 {
        self.relays.as_ref().map_or(0, |relays| relays.thread.stats.dropped(reason))
    }
}

impl Control {
    /// Opens the ports of configured links.
    ///
    /// # Errors
    /// A port that somebody else has.
    pub(super) fn open_links(&mut self, settings: &RelaySettings) -> anyhow::Result<()> {
        let Some(relays) = &mut self.driver.relays else { return Ok(()) };
        for (number, link) in settings.links.iter().enumerate() {
            let keys = link.peers.map(|key| key.0);
            if relays.open(self.driver.steer.as_mut(), Id::Link(number), keys, Some(link.ports)).is_none() {
                let [one, other] = link.ports;
                anyhow::bail!(
                    "relay link: UDP port {one} or {other} is in use by another program: choose other ports \
                     (relay.link.ports) or end that program"
                );
            }
        }
        Ok(())
    }

    /// Once a second: interfaces, and stock peers that have fallen silent.
    pub(super) fn tick_relay(&mut self, now: Instant) {
        self.look_at_egress(now);
        let driver = &mut self.driver;
        if let Some(relays) = &mut driver.relays {
            relays.forget_silent(driver.steer.as_mut(), now);
        }
    }
}
