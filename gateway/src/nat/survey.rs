//! One look at the NATs in between, in one address family, sans-IO.
//!
//! 1. Every server is asked from the tunnel's own socket: the mapping that counts, and whether UDP gets out at all.
//! 2. A server with a second address (RFC 5780) is asked at that, and at its port, from the same socket: do mappings differ?
//! 3. A fresh socket asks one server, and then to be answered from its other port and its other address: what is let in?
//!    The socket has to be fresh, as a filter lets in whoever was sent to before.
//!    Another uplink than that of the default route is asked about from its own address: its NAT has another address.
//! 4. Both sockets send to the other's mapped address: are datagrams turned back at the NAT (hairpinning)? Both, because a
//!    filter in the way of the first is opened by the second.
//!
//! Enters: servers, outcomes of questions. Leaves: questions, [`Findings`]. Never does: take more than one server for steps 2
//! to 4, or repeat itself.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landbridge_proto::candidate::{Behaviour, Nat};

use super::kind::{self, Observation, Passed};
use super::stun::{Answer, Change, Client, Outcome, Query, Retry};

/// The tunnel's own socket.
pub const TUNNEL: u8 = 0;
/// The socket of a survey.
pub const FRESH: u8 = u8::MAX;
/// Servers asked at most.
pub const SERVERS_MAX: usize = 16;

/// Other uplinks asked about.
pub const UPLINKS_MAX: usize = 4;

/// Tags: the family, the step, the server.
const FAMILY: u32 = 1 << 16;
const STEP: u32 = 1 << 8;

/// What a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Mapped = 0,
    OtherAddress,
    OtherPort,
    Fresh,
    FilterAddress,
    FilterPort,
    HairpinOut,
    HairpinBack,
    Uplink,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Mapped,
        Self::OtherAddress,
        Self::OtherPort,
        Self::Fresh,
        Self::FilterAddress,
        Self::FilterPort,
        Self::HairpinOut,
        Self::HairpinBack,
        Self::Uplink,
    ];
}

/// A server and what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it has answered, with an address or an error; `None` while it is waited for.
    pub answered: Option<bool>,
    /// The code of its error.
    pub refused: Option<u16>,
    /// The round trip.
    pub rtt: Option<Duration>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// The servers.
    pub servers: Vec<Server>,
    /// The tunnel socket's own address and port, as servers' answers came to it.
    pub own: Option<SocketAddr>,
    /// Where servers saw the tunnel's socket.
    pub observations: Vec<Observation>,
    /// Other uplinks' addresses of ours, and where a server saw the tunnel's socket through them.
    pub uplinks: Vec<(IpAddr, SocketAddr)>,
    /// What was let in.
    pub passed: Passed,
    /// Whether datagrams to our mapped address come back; `None` where there is no NAT, or it was not looked at.
    pub hairpin: Option<bool>,
}

impl Findings {
    /// The address and port that a server saw first.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.observations.first().map(|seen| seen.mapped)
    }

    /// The kind of NAT; observations of others, such as peers, may help.
    #[must_use]
    pub fn nat(&self, others: &[Observation]) -> Nat {
        let all: Vec<_> = self.observations.iter().chain(others).copied().collect();
        let mapping = kind::mapping(self.own, &all);
        Nat { mapping, filtering: kind::filtering(mapping, self.passed) }
    }

    /// Whether UDP does not get through: every server is silent. `None` without servers, or while they are waited for.
    #[must_use]
    pub fn blocked(&self) -> Option<bool> {
        if self.servers.iter().any(|server| server.answered == Some(true)) {
            return Some(false);
        }
        (!self.servers.is_empty() && self.servers.iter().all(|server| server.answered == Some(false))).then_some(true)
    }
}

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'s> {
    /// The servers; those of the other family are passed over.
    pub servers: &'s [SocketAddr],
    /// Our addresses on other uplinks than that of the default route.
    pub uplinks: &'s [IpAddr],
    /// Beyond mapped addresses: the kind of NAT and hairpinning, which takes a fresh socket.
    pub thorough: bool,
    /// How long servers are waited for.
    pub retry: Retry,
}

/// A look at the NATs in between.
#[derive(Debug, Default)]
pub struct Survey {
    family: u32,
    port: u16,
    thorough: bool,
    under_way: bool,
    /// The server of steps 2 to 4, and its second address.
    chosen: Option<(SocketAddr, Option<SocketAddr>)>,
    findings: Findings,
}

impl Survey {
    /// Nothing found yet, in the family of IPv6 or IPv4. `port` is the tunnel's socket's.
    #[must_use]
    pub fn new(ipv6: bool, port: u16) -> Self {
        Self { family: u32::from(ipv6), port, ..Self::default() }
    }

    /// Begins, forgetting what was found and is under way.
    pub fn begin(&mut self, scope: Scope<'_>, client: &mut Client, now: Instant) {
        let family = self.family;
        let ours = |ipv6: bool| ipv6 == (family == 1);
        client.forget(|query| query.tag / FAMILY == family);
        self.chosen = None;
        self.thorough = scope.thorough;
        self.findings = Findings::default();
        for address in scope.servers.iter().filter(|server| ours(server.is_ipv6())).take(SERVERS_MAX) {
            let at = self.findings.servers.len() as u32;
            let query = Query { retry: scope.retry, ..Query::new(self.tag(Step::Mapped, at), *address, TUNNEL) };
            if client.ask(query, now) {
                self.findings.servers.push(Server { address: *address, answered: None, refused: None, rtt: None });
            }
        }
        self.under_way = !self.findings.servers.is_empty();
        let Some(server) = self.findings.servers.first().map(|server| server.address) else { return };
        for (at, local) in scope.uplinks.iter().filter(|local| ours(local.is_ipv6())).take(UPLINKS_MAX).enumerate() {
            let query = Query::new(self.tag(Step::Uplink, at as u32), server, TUNNEL);
            client.ask(Query { local: Some(*local), retry: Retry::SHORT, ..query }, now);
        }
    }

    /// What was found up to here.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Whether answers are waited for; servers that are silent beside others that answer are not.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Whether an outcome is of this survey's family.
    #[must_use]
    pub fn is_asker_of(&self, outcome: &Outcome) -> bool {
        outcome.query.tag / FAMILY == self.family
    }

    /// Takes an outcome, and asks what follows from it.
    pub fn take(&mut self, outcome: &Outcome, client: &mut Client, now: Instant) {
        let tag = outcome.query.tag % FAMILY;
        let Some(step) = Step::ALL.get((tag / STEP) as usize).copied() else { return };
        let mapped = match outcome.answer {
            Some(Answer::Mapped { mapped, .. }) => Some(mapped),
            _ => None,
        };
        match step {
            Step::Mapped => self.take_mapped((tag % STEP) as usize, outcome, client, now),
            Step::OtherAddress | Step::OtherPort => {
                if let Some(mapped) = mapped {
                    self.observe(outcome.query.server, mapped);
                }
            }
            Step::Fresh => {
                if let Some(fresh) = mapped {
                    self.go_on_from_fresh(fresh, client, now);
                }
            }
            // An error says that the server cannot, not that its answer does not get through.
            Step::FilterAddress => self.findings.passed.other_address = passed(outcome),
            Step::FilterPort => self.findings.passed.other_port = passed(outcome),
            Step::Uplink => self.findings.uplinks.extend(outcome.query.local.zip(mapped)),
            Step::HairpinOut | Step::HairpinBack => {
                let before = self.findings.hairpin.unwrap_or(false);
                self.findings.hairpin = Some(before || mapped.is_some());
            }
        }
        let family = self.family;
        self.under_way = client.has(|query| {
            let tag = query.tag;
            tag / FAMILY == family && (tag % FAMILY >= STEP || self.findings.observations.is_empty())
        });
    }

    fn take_mapped(&mut self, at: usize, outcome: &Outcome, client: &mut Client, now: Instant) {
        let Some(server) = self.findings.servers.get_mut(at) else { return };
        server.answered = Some(outcome.answer.is_some());
        server.rtt = outcome.rtt;
        let address = server.address;
        match outcome.answer {
            Some(Answer::Mapped { mapped, other }) => {
                self.findings.own = self.findings.own.or(outcome.local.map(|ip| SocketAddr::new(ip, self.port)));
                self.observe(address, mapped);
                let other = other.filter(|other| is_second(address, *other));
                // The first server that answers, unless a later one has a second address.
                match self.chosen {
                    None if self.thorough => {
                        self.chosen = Some((address, other));
                        self.ask(Step::Fresh, Query::new(0, address, FRESH), client, now);
                        self.ask_other(client, now);
                    }
                    Some((_, None)) if other.is_some() => {
                        self.chosen = Some((address, other));
                        self.ask(Step::Fresh, Query::new(0, address, FRESH), client, now);
                        self.ask_other(client, now);
                    }
                    _ => {}
                }
            }
            Some(Answer::Refused(code)) => server.refused = Some(code),
            None => {}
        }
    }

    /// Step 2.
    fn ask_other(&self, client: &mut Client, now: Instant) {
        let Some((server, Some(other))) = self.chosen else { return };
        let other_address = SocketAddr::new(other.ip(), server.port());
        self.ask(Step::OtherAddress, Query::new(0, other_address, TUNNEL), client, now);
        self.ask(Step::OtherPort, Query::new(0, other, TUNNEL), client, now);
    }

    /// Steps 3 and 4.
    fn go_on_from_fresh(&mut self, fresh: SocketAddr, client: &mut Client, now: Instant) {
        let Some((server, other)) = self.chosen else { return };
        if let Some(other) = other {
            let from_port = SocketAddr::new(server.ip(), other.port());
            for (step, change, answered_from) in
                [(Step::FilterAddress, Change::AddressAndPort, other), (Step::FilterPort, Change::Port, from_port)]
            {
                let query = Query { change, answered_from, ..Query::new(0, server, FRESH) };
                self.ask(step, query, client, now);
            }
        }
        let Some(mapped) = self.findings.mapped().filter(|mapped| Some(*mapped) != self.findings.own) else { return };
        if self.findings.hairpin.is_none() {
            for (step, to, from) in [(Step::HairpinOut, mapped, FRESH), (Step::HairpinBack, fresh, TUNNEL)] {
                self.ask(step, Query { hairpin: true, ..Query::new(0, to, from) }, client, now);
            }
        }
    }

    fn ask(&self, step: Step, query: Query, client: &mut Client, now: Instant) {
        client.ask(Query { tag: self.tag(step, 0), retry: Retry::SHORT, ..query }, now);
    }

    fn tag(&self, step: Step, at: u32) -> u32 {
        self.family * FAMILY + step as u32 * STEP + at
    }

    fn observe(&mut self, observer: SocketAddr, mapped: SocketAddr) {
        let seen = Observation { observer, mapped };
        if !self.findings.observations.contains(&seen) {
            self.findings.observations.push(seen);
        }
    }
}

/// Whether the answer came through; `None` where the server would not send one.
fn passed(outcome: &Outcome) -> Option<bool> {
    match outcome.answer {
        Some(Answer::Mapped { .. }) => Some(true),
        Some(Answer::Refused(_)) => None,
        None => Some(false),
    }
}

/// Whether a server can have this as its other address: both it and the port differ (RFC 5780 section 7.4), and it is no
/// place that a stranger has us send to, such as an address of our own network.
fn is_second(server: SocketAddr, other: SocketAddr) -> bool {
    other.is_ipv4() == server.is_ipv4()
        && other.ip() != server.ip()
        && other.port() != server.port()
        && (is_public(other.ip()) || !is_public(server.ip()))
}

/// Whether an address is one of the internet's, as far as anybody can tell.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        IpAddr::V6(v6) => {
            !(v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified())
        }
    }
}

/// Where a NAT's kind matters most: IPv4's, and IPv6's where there is no other.
#[must_use]
pub fn worst(v4: Nat, v6: Nat) -> Nat {
    if v4.mapping == Behaviour::Unknown { v6 } else { v4 }
}

impl Default for Retry {
    fn default() -> Self {
        Self::STANDARD
    }
}
