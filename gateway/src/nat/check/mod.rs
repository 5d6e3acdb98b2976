//! `landbridge netcheck`: what the network lets through, found out without a running gateway.
//!
//! 1. Our addresses, and the router of the default route.
//! 2. Beside all that follows: by which protocols the router maps a port ([`mapping`]); a test lease is given back.
//! 3. A survey of either family: UDP out, the kind of NAT, hairpinning.
//! 4. A few round trips to each server that answers.
//! 5. The largest datagram that gets to a server in one piece ([`mtu`]).
//!
//! Enters: servers, a port. Leaves: a [`Report`]. Never does: take longer than [`LIMIT`], or leave anything behind.

mod asker;
mod mapping;
mod mtu;
pub mod report;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use self::asker::Asker;
use self::report::{Family, Report, ServerReport};
use super::hosts;
use super::stun::{Query, Retry};
use super::survey::{Findings, Scope, Survey, TUNNEL};
use crate::control::netlink::Netlink;
use crate::control::netlink::links::Link;
use crate::control::netlink::routes::{Route, RouteQuery};
use crate::control::sockets;
use crate::settings::{EndpointName, MappingProtocol};

/// The longest check.
pub const LIMIT: Duration = Duration::from_secs(10);
/// How long names may take.
const RESOLVE: Duration = Duration::from_secs(3);
/// How long servers may take to answer.
const SURVEY: Duration = Duration::from_secs(5);
/// Where silence of the servers is what is to be found out: given up after 3.5 s.
const RETRY: Retry = Retry { rto: Duration::from_millis(500), sends: 3, last: 4 };
/// Round trips measured for each server.
const ROUNDS: usize = 5;
/// How long one of them may take.
const ROUND: Duration = Duration::from_secs(1);
/// Servers whose round trips are measured.
const MEASURED_MAX: usize = 4;

/// What to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// The servers to ask.
    pub servers: Vec<EndpointName>,
    /// From which port; another one where a gateway has it.
    pub port: Option<u16>,
    /// The mark of outer packets.
    pub mark: Option<u32>,
    /// Protocols to ask the router by.
    pub mapping: Vec<MappingProtocol>,
}

/// Checks.
///
/// # Errors
/// A host without netlink or UDP.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut netlink = Netlink::new().context("cannot speak rtnetlink")?;
    let place = Place::read(&mut netlink, options.mark).context("cannot read the addresses of this host")?;
    let mapping = place.router.zip(Some(&options.mapping)).filter(|(_, protocols)| !protocols.is_empty());
    let mapping = mapping.map(|(router, protocols)| mapping::begin(router, protocols.clone())).transpose()?;
    let (servers, unresolved) = resolve(&options.servers);
    let port = options.port.filter(|port| sockets::is_free(*port));
    let mut asker = Asker::open(port, options.mark)?;
    let mut surveys = [Survey::new(false, asker.port()), Survey::new(true, asker.port())];
    let scope = Scope { servers: &servers, uplinks: &[], thorough: true, retry: RETRY };
    for survey in &mut surveys {
        survey.begin(scope, &mut asker.client, Instant::now());
    }
    asker.until(Instant::now() + SURVEY, |client, outcome, now| {
        if let Some(survey) = surveys.iter_mut().find(|survey| survey.is_asker_of(outcome)) {
            survey.take(outcome, client, now);
        }
    });
    asker.client.forget(|_| true);
    let [v4, v6] = surveys.each_ref().map(Survey::findings);
    let end = begun + LIMIT - Duration::from_secs(1);
    let rounds = round_trips(&mut asker, &[v4, v6], end);
    let families =
        [(v4, false), (v6, true)].map(|(findings, ipv6)| family(findings, ipv6, &place, &rounds, &mut asker, end));
    let [ipv4, ipv6] = families;
    Ok(Report {
        port: asker.port(),
        unresolved,
        ipv4,
        ipv6,
        router: place.router.and_then(|router| match router.address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        }),
        mapping: mapping.map(|pending| pending.finish(begun + LIMIT)).unwrap_or_default(),
    })
}

/// Where this host is.
struct Place {
    hosts: Vec<IpAddr>,
    links: Vec<Link>,
    routes: [Option<Route>; 2],
    router: Option<super::mapping::Router>,
}

impl Place {
    fn read(netlink: &mut Netlink, mark: Option<u32>) -> std::io::Result<Self> {
        let links = netlink.links()?;
        let routes = hosts::ANYWHERE
            .map(|destination| netlink.route(&RouteQuery { destination, source: None, mark, if_index: None }).ok());
        let uplinks: Vec<_> = routes.iter().flatten().map(|route| route.if_index).collect();
        let addresses = netlink.addresses()?;
        let find = |index| links.iter().find(|link: &&Link| link.index == index);
        let hosts = hosts::choose(&addresses, find, None, &uplinks);
        let router = routes[0].and_then(|route| super::mapping::Router::of(&route));
        Ok(Self { hosts, links, routes, router })
    }

    /// The MTU that the way to the internet begins with.
    fn mtu(&self, ipv6: bool) -> Option<u32> {
        let route = self.routes[usize::from(ipv6)].as_ref()?;
        let link = self.links.iter().find(|link| link.index == route.if_index)?;
        Some(route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)))
    }
}

/// Addresses of the servers, and the names that have none. The system's resolver may take much longer than we wait.
fn resolve(servers: &[EndpointName]) -> (Vec<SocketAddr>, Vec<String>) {
    let (sender, answers) = mpsc::channel();
    for (at, server) in servers.iter().cloned().enumerate() {
        let sender = sender.clone();
        let work = move || {
            let found = (server.host.as_str(), server.port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            let _ = sender.send((at, found.unwrap_or_default()));
        };
        // A thread that cannot be started is a name that cannot be resolved.
        let _ = std::thread::Builder::new().name("resolver".to_owned()).spawn(work);
    }
    drop(sender);
    let end = Instant::now() + RESOLVE;
    let mut found = vec![Vec::new(); servers.len()];
    while let Ok((at, addresses)) = answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
        found[at] = addresses;
    }
    let without = found.iter().zip(servers).filter(|(addresses, _)| addresses.is_empty());
    let unresolved = without.map(|(_, server)| server.to_string()).collect();
    let mut seen = std::collections::BTreeSet::new();
    (found.concat().into_iter().filter(|address| seen.insert(*address)).collect(), unresolved)
}

/// Round trips of the servers that answered, each one after the other, so that they do not wait for one another.
fn round_trips(asker: &mut Asker, findings: &[&Findings], end: Instant) -> Vec<(SocketAddr, Vec<Duration>)> {
    let answering = |findings: &&Findings| {
        let servers = findings.servers.iter().filter(|server| server.answered == Some(true));
        servers.take(MEASURED_MAX).map(|server| (server.address, Vec::new())).collect::<Vec<_>>()
    };
    let mut rounds: Vec<_> = findings.iter().flat_map(answering).collect();
    for _ in 0..ROUNDS {
        for (address, trips) in &mut rounds {
            let now = Instant::now();
            asker.client.ask(Query { retry: Retry::ONCE, ..Query::new(0, *address, TUNNEL) }, now);
            asker.until((now + ROUND).min(end), |_, outcome, _| trips.extend(outcome.answer.and(outcome.rtt)));
            asker.client.forget(|_| true);
        }
    }
    rounds
}

fn family(
    findings: &Findings,
    ipv6: bool,
    place: &Place,
    rounds: &[(SocketAddr, Vec<Duration>)],
    asker: &mut Asker,
    end: Instant,
) -> Family {
    let nat = findings.nat(&[]);
    let servers = findings.servers.iter().map(|server| {
        let mut trips =
            rounds.iter().find(|(address, _)| *address == server.address).map_or(vec![], |(_, t)| t.clone());
        trips.sort_unstable();
        ServerReport {
            address: server.address,
            answered: server.answered == Some(true),
            refused: server.refused,
            rtt_ms_min: trips.first().map(|trip| trip.as_secs_f64() * 1e3),
            rtt_ms_median: trips.get(trips.len() / 2).map(|trip| trip.as_secs_f64() * 1e3),
            mtu: None,
        }
    });
    let mut servers: Vec<_> = servers.collect();
    for server in servers.iter_mut().filter(|server| server.answered && server.refused.is_none()).take(2) {
        server.mtu = mtu::search(asker, server.address, place.mtu(ipv6).unwrap_or(1500), end);
    }
    Family {
        hosts: place.hosts.iter().copied().filter(|host| host.is_ipv6() == ipv6).collect(),
        route: place.routes[usize::from(ipv6)].is_some(),
        udp_blocked: findings.blocked(),
        mapped: findings.mapped(),
        mapping: nat.mapping.label().to_owned(),
        filtering: nat.filtering.label().to_owned(),
        hairpin: findings.hairpin,
        servers,
    }
}
