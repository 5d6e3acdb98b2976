//! Keeps what lanes and steering program know of the lan in step with the kernel.
//!
//! 1. News of routes, rules, addresses, links or neighbours make parts of it doubtful ([`Following::doubt`]).
//! 2. A moment later those are read again, whole, and made into tables ([`super::forwarding`]); large tables, which take long
//!    to read, are read less often, so that the control task has its time for handshakes.
//! 3. On every tick the neighbours that lanes have used are kept fresh.
//!
//! Enters: news, and what the kernel answers. Leaves: a table for the lanes, networks for the program. Never does: anything
//! without lan rings.

use std::time::{Duration, Instant};

use super::Control;
use super::forwarding::{Exit, Forwarding, Routed, Taken};
use super::netlink::News;
use super::paths::Network as _;

/// Reading may take one part in so many of the control task's time.
const SHARE: u32 = 10;
/// But news are never kept waiting for longer: what was slow may only have been a busy machine.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// After a failure to read.
const RETRY: Duration = Duration::from_secs(1);

/// What is known, and what is doubtful of it.
#[derive(Debug, Default)]
pub struct Following {
    pub(super) forwarding: Forwarding,
    routes: bool,
    neighbours: bool,
    due: Option<Instant>,
    not_before: Option<Instant>,
    taken: Taken,
    /// Policy rules are there that nobody but the kernel can follow.
    pub(super) foreign_rules: bool,
}

impl Following {
    /// Something has changed.
    pub fn doubt(&mut self, news: News, now: Instant) {
        self.routes |= news.routes || news.links || news.addresses;
        self.neighbours |= news.neighbours;
        if self.routes || self.neighbours {
            let due = self.not_before.map_or(now, |earliest| earliest.max(now));
            self.due.get_or_insert(due);
        }
    }

    /// When something is to be read again.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Control {
    /// Reads what is doubtful, and tells lanes and program.
    pub(super) fn follow_lan(&mut self, now: Instant) {
        if self.rings.ports().next().is_none() {
            self.following.due = None;
            return;
        }
        if self.following.due.is_none_or(|due| due > now) {
            return;
        }
        self.following.due = None;
        let started = Instant::now();
        match self.read_lan() {
            Ok(()) => {
                let spent = started.elapsed();
                tracing::debug!(?spent, "routes and neighbours of the lan are read");
                self.following.not_before = Some(Instant::now() + (spent * SHARE).min(PAUSE_MAX));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read routes and neighbours of the lan");
                self.following.due = Some(now + RETRY);
            }
        }
    }

    fn read_lan(&mut self) -> std::io::Result<()> {
        let exits = self.exits();
        let Self { driver, following, addresses, tunnel, .. } = self;
        let netlink = &mut driver.network.netlink;
        following.routes |= following.forwarding.set_exits(exits);
        if following.routes {
            let routed = Routed {
                rules_v4: netlink.lookup(true)?,
                rules_v6: netlink.lookup(false)?,
                routes: netlink.routes()?,
                tunnel: tunnel.index_at_home(),
            };
            following.foreign_rules = routed.rules_v4.is_none() || routed.rules_v6.is_none();
            following.forwarding.set_routes(&routed);
            following.forwarding.set_addresses(addresses.clone());
            let taken = routed.taken();
            if let Some(steer) = &mut driver.steer
                && taken != following.taken
            {
                // The exceptions first, or what they are for would be taken in the meantime.
                for outcome in [steer.set_kernel_routes(&taken.elsewhere), steer.set_routes(&taken.tunnel)] {
                    if let Err(error) = outcome {
                        tracing::warn!("some routes are not followed by the XDP program: {error:#}");
                    }
                }
                following.taken = taken;
            }
        }
        following.forwarding.set_neighbours(netlink.neighbours()?);
        driver.set_lan(following.forwarding.table());
        (following.routes, following.neighbours) = (false, false);
        self.tell_of_lan();
        Ok(())
    }

    /// For status and log.
    fn tell_of_lan(&mut self) {
        let Self { following, facts, rings, .. } = self;
        let counts = following.forwarding.counts();
        let mut reason = rings.describe(true);
        if following.foreign_rules {
            reason += "; policy rules that only the kernel can follow leave all forwarding to it";
        }
        if counts.routes_left_out > 0 {
            reason += "; too many routes: packets to the lan go by the kernel";
        }
        if counts.neighbours_left_out > 0 {
            reason += "; too many neighbours: packets to some go by the kernel";
        }
        if reason != facts.lan.reason {
            tracing::info!(reason, "lan rings");
            facts.lan.reason = reason;
        }
        (facts.lan.routes, facts.lan.next_hops) = (counts.routes, counts.hops);
    }

    /// The lan interfaces with rings, as they are at present.
    fn exits(&self) -> Vec<Exit> {
        let link = |index| self.driver.network.links().find(|link| link.index == index);
        self.rings
            .ports()
            .filter_map(|port| {
                let (own, below) = (link(port.link)?, link(port.ringed.index)?);
                let exit = Exit::new(port, own.mac?, own.mtu.min(below.mtu));
                (own.up && below.up).then_some(exit)
            })
            .collect()
    }

    /// Tells the kernel which neighbours packets go to that it does not see.
    pub(super) fn refresh_lan(&mut self) {
        for (if_index, address) in self.following.forwarding.to_refresh() {
            self.driver.network.use_neighbour(if_index, address);
        }
    }
}
