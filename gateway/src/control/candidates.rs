//! Where this gateway may be reached: gathered, followed as it changes, and given to the endpoint.
//!
//! 1. STUN servers' names are resolved; surveys ask from the tunnel's own socket, and from a fresh one for their time.
//! 2. Addresses of interfaces and default routes are read again with news of the kernel; where they changed, what is known
//!    of NATs is in doubt.
//! 3. All of it becomes one list for the endpoint, which tells the peers when it changed.
//!
//! Enters: settings, news, answers of servers. Leaves: candidates and the kind of NAT. Never does: wait, or send to anybody
//! but the servers and routers that it is given.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::time::Instant;

use landbridge_proto::candidate::{Behaviour, Candidate, Nat};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::driver::Driver;
use super::names::{Names, Resolved};
use super::netlink::routes::{Route, RouteQuery};
use super::paths::Network as _;
use super::paths::uplinks::{self, Uplink};
use super::report;
use super::sockets::{ControlSocket, Received};
use super::{Control, watch as watched};
use crate::nat::gather::{Sources, gather};
use crate::nat::hosts::{self, HOSTS_MAX};
use crate::nat::kind::Observation;
use crate::nat::mapping::{Keeper, Router, State};
use crate::nat::stun::message::REQUEST_MAX;
use crate::nat::survey::{FRESH, is_public};
use crate::settings::{MappingProtocol, NatSettings};

/// Reads of the fresh socket in one round.
const READS: usize = 16;
/// Places that peers saw us at, told to others: a peer that lies takes one at most.
const OBSERVED_MAX: usize = 2;
/// Addresses of one server's name that are asked: two tell as much as all.
const ADDRESSES_MAX: usize = 4;
/// Where this gateway may be reached.
#[derive(Debug)]
pub(super) struct Candidates {
    settings: NatSettings,
    names: Names<usize>,
    /// The addresses of each configured server.
    servers: Vec<Vec<SocketAddr>>,
    fresh: Option<Fresh>,
    /// Of IPv4, where a port is mapped, and of IPv6, where a firewall is opened.
    keepers: [Option<Keeper>; 2],
    /// What the keepers have.
    mapping: [State; 2],
    footing: Footing,
    /// How often a peer had begun to be sought.
    sought: u64,
    given: (Vec<Candidate>, Nat),
}

/// The socket of a survey, and its readiness.
#[derive(Debug)]
struct Fresh {
    /// Out of the reactor before the socket is closed.
    ready: AsyncFd<OwnedFd>,
    socket: ControlSocket,
}

/// What the host's place in the network rests on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Footing {
    hosts: Vec<IpAddr>,
    /// The routes to the internet, of IPv4 and IPv6.
    routes: [Option<Route>; 2],
    /// Addresses on other ways to the internet.
    uplinks: Vec<IpAddr>,
}

impl Footing {
    /// The routers between us and the internet, of IPv4 when our address is not one of the internet's, of IPv6 when it is one.
    fn routers(&self) -> [Option<Router>; 2] {
        self.routes.map(|route| Router::of(&route?))
    }

    /// Whether there is any address of IPv4, of IPv6. Beyond those that are kept there may be more.
    fn families(&self) -> [bool; 2] {
        let is_full = self.hosts.len() >= HOSTS_MAX;
        [false, true].map(|ipv6| {
            let routed = self.routes[usize::from(ipv6)].is_some();
            is_full || routed || self.hosts.iter().any(|host| host.is_ipv6() == ipv6)
        })
    }
}

impl Candidates {
    /// Nothing gathered yet; the receiver gets servers' addresses.
    pub(super) fn new(settings: NatSettings) -> (Self, mpsc::Receiver<Resolved<usize>>) {
        let (names, resolved) = Names::new();
        let servers = vec![Vec::new(); settings.stun.len()];
        let given = (Vec::new(), Nat::default());
        let candidates = Self {
            settings,
            names,
            servers,
            fresh: None,
            keepers: [None, None],
            mapping: Default::default(),
            footing: Footing::default(),
            sought: 0,
            given,
        };
        (candidates, resolved)
    }

    /// Resolves when the fresh socket has something to read.
    pub(super) fn fresh(&self) -> Option<&AsyncFd<OwnedFd>> {
        self.fresh.as_ref().map(|fresh| &fresh.ready)
    }

    /// Starts resolving what is due. Returns when to call again.
    pub(super) fn run_names(&mut self, now: Instant) -> Option<Instant> {
        self.names.run(now)
    }
}

impl Control {
    /// Begins to gather: called when the gateway has its addresses and routes.
    pub fn begin_candidates(&mut self) {
        let now = Instant::now();
        let Candidates { settings, names, servers, .. } = &mut self.candidates;
        for (at, server) in settings.stun.iter().enumerate() {
            match server.host.parse::<IpAddr>() {
                Ok(address) => servers[at] = vec![SocketAddr::new(address, server.port)],
                Err(_) => names.want(at, server.clone(), now),
            }
        }
        self.tick_due = now;
        if let Err(error) = self.driver.network.read_addresses() {
            tracing::warn!(%error, "cannot read the addresses of this host");
        }
        self.stand_on();
        let uplinks = self.candidates.footing.uplinks.clone();
        self.driver.outlook.doubt(uplinks, now);
        self.want_mapping();
        self.ask_servers(now);
        self.give_candidates(now);
    }

    /// A server's name was resolved.
    pub(super) fn take_server(&mut self, resolved: &Resolved<usize>) {
        let now = Instant::now();
        self.candidates.names.note(resolved, now);
        self.tick_due = now;
        if let Some(addresses) = self.candidates.servers.get_mut(resolved.who)
            && !resolved.addresses.is_empty()
        {
            *addresses = resolved.addresses.iter().copied().take(ADDRESSES_MAX).collect();
            self.ask_servers(now);
        }
    }

    fn ask_servers(&mut self, now: Instant) {
        let servers = self.candidates.servers.concat();
        self.driver.outlook.set_servers(servers, now);
    }

    /// The listen port is another one.
    pub(super) fn move_candidates(&mut self) {
        let now = Instant::now();
        self.driver.outlook.set_port(self.driver.socket.port(), now);
        self.want_mapping();
        self.give_candidates(now);
    }

    /// Links, addresses or routes may have changed.
    pub(super) fn doubt_candidates(&mut self, now: Instant) {
        if self.stand_on() {
            let uplinks = self.candidates.footing.uplinks.clone();
            self.driver.outlook.doubt(uplinks, now);
            self.driver.observations.clear();
            self.want_mapping();
            self.renew_mapping();
            self.give_candidates(now);
        }
    }

    /// Reads what our place rests on. True when it is another one.
    fn stand_on(&mut self) -> bool {
        let ground = &self.driver.ground;
        let (mark, tunnel) = (ground.mark, ground.tunnel);
        let network = &mut self.driver.network;
        let routes = hosts::ANYWHERE.map(|destination| {
            let query = RouteQuery { destination, source: None, mark, if_index: None };
            network.route(&query).ok().filter(|route| Some(route.if_index) != tunnel)
        });
        let uplinks: Vec<_> = routes.iter().flatten().map(|route| route.if_index).collect();
        let hosts = network.hosts(tunnel, &uplinks);
        let besides = |local: &IpAddr| {
            let anywhere = SocketAddr::new(hosts::ANYWHERE[usize::from(local.is_ipv6())], 1);
            let (route, by) = uplinks::route(network, ground, anywhere, Some(*local)).ok()?;
            let is_way_out = by.local.is_some() && route.gateway.is_some() && !uplinks.contains(&route.if_index);
            is_way_out.then_some(*local)
        };
        let others = hosts.iter().filter_map(besides).collect();
        let footing = Footing { hosts, routes, uplinks: others };
        let changed = footing != self.candidates.footing;
        self.candidates.footing = footing;
        // All of them, also those that nobody is told of: what leads there leads to ourselves.
        let own: Vec<_> = self.addresses.iter().copied().collect();
        self.driver.endpoint.set_own_addresses(&own);
        self.driver.endpoint.set_families(Instant::now(), self.candidates.footing.families());
        if changed {
            tracing::debug!(hosts = self.candidates.footing.hosts.len(), "our place in the network");
        }
        changed
    }

    /// Has the routers asked for a port, where we are behind them.
    fn want_mapping(&mut self) {
        let Self { candidates, driver, mapping, .. } = self;
        let Candidates { settings, keepers, footing, .. } = candidates;
        if settings.port_mapping.is_empty() || !settings.direct {
            return;
        }
        let port = NonZeroU16::new(driver.socket.port());
        // Of IPv6 there is nothing to map, and one protocol that opens firewalls.
        let pinholes = settings.port_mapping.iter().copied().filter(|protocol| *protocol == MappingProtocol::Pcp);
        let protocols = [settings.port_mapping.clone(), pinholes.collect()];
        for (family, (router, protocols)) in footing.routers().into_iter().zip(protocols).enumerate() {
            let wanted = router.zip(port);
            if wanted.is_some() && keepers[family].is_none() && !protocols.is_empty() {
                match Keeper::start(protocols) {
                    Ok((keeper, states)) => (keepers[family], mapping[family]) = (Some(keeper), Some(states)),
                    Err(error) => tracing::warn!(%error, "no port is mapped: a thread cannot be started"),
                }
            }
            if let Some(keeper) = &keepers[family] {
                keeper.want(wanted);
            }
        }
    }

    /// The router may be another one with the same address, or may have forgotten us.
    fn renew_mapping(&self) {
        self.candidates.keepers.iter().flatten().for_each(Keeper::doubt);
    }

    /// A router granted a port, or took it away.
    pub(super) fn take_mapping(&mut self) {
        let now = Instant::now();
        let before = self.candidates.mapping[0].lost;
        for (states, state) in self.mapping.iter_mut().zip(&mut self.candidates.mapping) {
            if let Some(states) = states {
                *state = states.borrow_and_update().clone();
            }
        }
        // What has forgotten our port has forgotten its other bindings too.
        if self.candidates.mapping[0].lost != before {
            self.driver.outlook.look_again(now);
        }
        self.give_candidates(now);
    }

    /// Reads what came to the fresh socket. True when more may wait.
    pub(super) fn receive_fresh(&mut self, now: Instant) -> bool {
        let Some(fresh) = &mut self.candidates.fresh else { return false };
        let (client, drops) = (&mut self.driver.outlook.client, &mut self.driver.drops);
        for _ in 0..READS {
            let result = fresh.socket.receive(|Received { remote, local, bytes }| {
                if let Err(reason) = crate::nat::stun::take(client, now, FRESH, remote, local, bytes) {
                    drops[reason as usize] += 1;
                }
            });
            if !matches!(result, Ok(true)) {
                return false;
            }
        }
        true
    }

    /// Runs what is due: surveys, their questions, and what follows from the answers.
    pub(super) fn run_candidates(&mut self, now: Instant) {
        let sought = self.driver.endpoint.searches_begun();
        if std::mem::replace(&mut self.candidates.sought, sought) != sought {
            self.driver.outlook.freshen(now);
        }
        let outlook = &mut self.driver.outlook;
        if outlook.is_due(now) {
            if outlook.wants_fresh() && self.candidates.fresh.is_none() {
                self.candidates.fresh = fresh(self.fwmark).inspect_err(log_fresh).ok();
            }
            outlook.begin(self.candidates.fresh.is_some(), now);
        }
        if outlook.poll_timeout().is_some_and(|due| due <= now) {
            outlook.handle_timeout(now);
        }
        let news = outlook.hear(now);
        self.send_questions(now);
        if self.candidates.fresh.is_some() && !self.driver.outlook.uses_fresh() {
            self.candidates.fresh = None;
        }
        if news | std::mem::take(&mut self.driver.observed_more) {
            self.give_candidates(now);
        }
    }

    fn send_questions(&mut self, now: Instant) {
        let mut buffer = [0; REQUEST_MAX];
        while let Some((length, query)) = self.driver.outlook.client.poll_transmit(now, &mut buffer) {
            let Driver { network, ground, socket: tunnel, .. } = &mut self.driver;
            let socket = match query.socket {
                FRESH => self.candidates.fresh.as_ref().map(|fresh| &fresh.socket),
                _ => Some(&*tunnel),
            };
            let by = match query.local {
                Some(_) => uplinks::route(network, ground, query.server, query.local).map(|(_, by)| by),
                None => Ok(Uplink::ANY),
            };
            // By another uplink the answer would be about that one.
            let by = by.ok().filter(|by| by.local == query.local);
            let sent = socket.zip(by).map(|(socket, by)| socket.send_by(query.server, by, &buffer[..length], false));
            if let Some(Err(error)) = sent {
                tracing::debug!(server = %query.server, %error, "asking a STUN server");
            }
        }
    }

    /// Where peers saw us, those alone that are on the internet: to a neighbour we come from another address than to all others.
    fn observed(&self) -> impl Iterator<Item = Observation> {
        let hosts = &self.candidates.footing.hosts;
        let seen = self.driver.observations.values().copied();
        seen.filter(|seen| is_public(seen.observer.ip()) && !hosts.contains(&seen.mapped.ip()))
    }

    /// The kind of NAT. What peers say counts where servers say nothing: they may be wrong, and those are chosen by us.
    fn nat(&self) -> Nat {
        let nat = self.driver.outlook.nat(&[]);
        if nat.mapping == Behaviour::Unknown {
            let observed: Vec<_> = self.observed().collect();
            self.driver.outlook.nat(&observed)
        } else {
            nat
        }
    }

    /// Gives the endpoint what is known, when that changed.
    pub(super) fn give_candidates(&mut self, now: Instant) {
        let outlook = &self.driver.outlook;
        let found = [outlook.findings(false), outlook.findings(true)];
        let of_uplinks = found.iter().flat_map(|found| found.uplinks.iter().map(|(_, mapped)| *mapped));
        let stun: Vec<_> = found.iter().filter_map(|found| found.mapped()).chain(of_uplinks).collect();
        let observed: Vec<_> = self.observed().map(|seen| seen.mapped).take(OBSERVED_MAX).collect();
        let [mapping, pinhole] = &self.candidates.mapping;
        let mapped: Vec<_> = mapping.mapped.iter().map(|mapped| mapped.external).collect();
        let sources = Sources {
            hosts: &self.candidates.footing.hosts,
            port: self.driver.socket.port(),
            mapped: &mapped,
            stun: &stun,
            observed: &observed,
        };
        let given = (gather(sources), self.nat());
        self.facts.network = report::network::network(outlook, mapping, pinhole);
        if given != self.candidates.given {
            let (candidates, nat) = &given;
            tracing::debug!(
                candidates = candidates.len(),
                mapping = nat.mapping.label(),
                filtering = nat.filtering.label(),
                "where we may be reached"
            );
            self.driver.endpoint.set_local_candidates(now, candidates, *nat);
            // Which of several uplinks the routes prefer is found with the paths.
            self.driver.doubt_paths();
            self.candidates.given = given;
        }
    }
}

fn fresh(mark: Option<u32>) -> anyhow::Result<Fresh> {
    let socket = ControlSocket::on_free_port(mark)?;
    Ok(Fresh { ready: watched(socket.second_handle()?)?, socket })
}

fn log_fresh(error: &anyhow::Error) {
    tracing::debug!("the kind of NAT is not looked at: {error:#}");
}

/// Resolves when a router granted or took a port.
pub(super) async fn mapping_changed(states: &mut [Option<watch::Receiver<State>>; 2]) {
    let [v4, v6] = states;
    tokio::select! {
        () = changed(v4.as_mut()) => {}
        () = changed(v6.as_mut()) => {}
    }
}

async fn changed(states: Option<&mut watch::Receiver<State>>) {
    let changed = match states {
        Some(states) => states.changed().await.is_ok(),
        None => false,
    };
    // A thread that ended before its owner has nothing more to say: what it said last holds.
    if !changed {
        std::future::pending::<()>().await;
    }
}
