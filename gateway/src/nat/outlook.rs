//! When to look at the NATs in between, and what is known of them, sans-IO.
//!
//! 1. At start, and when the network underneath changes, a thorough [`Survey`] of either family.
//! 2. After it one question to each server now and then, and when peers are about to be told where we are: a mapping that has
//!    moved brings the next thorough survey.
//! 3. Where nobody answers, thorough surveys ever less often.
//!
//! Enters: servers, doubts, outcomes, the time. Leaves: surveys' questions (by [`Outlook::client`]), [`Findings`]. Never does:
//! forget what it knew before it knows better, unless the network changed.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landbridge_proto::candidate::Nat;

use super::kind::Observation;
use super::stun::{Client, Retry};
use super::survey::{FRESH, Findings, Scope, Survey, worst};

/// After a change of the network others follow: routes, a second address.
const SETTLE: Duration = Duration::from_millis(300);
/// How often the mapped address is asked for again behind a NAT. Peers tell of a change too, and sooner: this is for gateways
/// without any.
const REFRESH_NAT: Duration = Duration::from_secs(300);
/// How often without a NAT.
const REFRESH_OPEN: Duration = Duration::from_secs(900);
/// What is older than this is asked for again when somebody is about to be told: a NAT may have forgotten us since.
const STALE: Duration = Duration::from_secs(30);
/// First wait after nobody answered; doubles up to [`REFRESH_OPEN`].
const BLOCKED_WAIT: Duration = Duration::from_secs(30);
/// The shortest time from one thorough survey to the next, so that a network that flaps does not flood servers.
const PAUSE: Duration = Duration::from_secs(5);

/// What is known of the NATs in between.
#[derive(Debug)]
pub struct Outlook {
    /// Questions under way.
    pub client: Client,
    /// Of IPv4 and IPv6.
    surveys: [Survey; 2],
    known: [Findings; 2],
    servers: Vec<SocketAddr>,
    /// Our addresses on other uplinks than that of the default route.
    uplinks: Vec<IpAddr>,
    due: Option<Instant>,
    /// What is due, or running, tells the kind of NAT too.
    thorough: bool,
    running: bool,
    began: Option<Instant>,
    /// When servers were last asked.
    asked: Option<Instant>,
    wait: Duration,
}

impl Outlook {
    /// Nothing known yet. `port` is the tunnel's.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self {
            client: Client::default(),
            surveys: [Survey::new(false, port), Survey::new(true, port)],
            known: Default::default(),
            servers: Vec::new(),
            uplinks: Vec::new(),
            due: None,
            thorough: true,
            running: false,
            began: None,
            asked: None,
            wait: BLOCKED_WAIT,
        }
    }

    /// The tunnel has another port: nothing that is known is true of it.
    pub fn set_port(&mut self, port: u16, now: Instant) {
        self.surveys = [Survey::new(false, port), Survey::new(true, port)];
        self.client = Client::default();
        self.running = false;
        self.forget(now);
    }

    /// The servers' addresses are these.
    pub fn set_servers(&mut self, servers: Vec<SocketAddr>, now: Instant) {
        if self.servers != servers {
            self.servers = servers;
            self.look_soon(now);
        }
    }

    /// The network underneath changed: what is known may not be true any more. `uplinks` are our addresses on other ways to
    /// the internet than that of the default route.
    pub fn doubt(&mut self, uplinks: Vec<IpAddr>, now: Instant) {
        self.uplinks = uplinks;
        self.forget(now);
    }

    /// Peers are about to be told where we are: what is stale is asked for again at once.
    pub fn freshen(&mut self, now: Instant) {
        let is_stale = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= STALE);
        if is_stale && !self.running && self.due.is_some_and(|due| due > now) {
            self.due = Some(now);
        }
    }

    /// The router has begun anew, and its NAT with it: where we are seen is another place, most likely.
    pub fn look_again(&mut self, now: Instant) {
        self.look_soon(now);
    }

    fn forget(&mut self, now: Instant) {
        self.known = Default::default();
        self.wait = BLOCKED_WAIT;
        self.look_soon(now);
    }

    fn look_soon(&mut self, now: Instant) {
        let earliest = self.began.map_or(now, |began| began + PAUSE);
        self.due = (!self.servers.is_empty()).then(|| earliest.max(now + SETTLE));
        self.thorough = true;
    }

    /// Whether a survey is to begin.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Whether the survey that is due needs a fresh socket.
    #[must_use]
    pub fn wants_fresh(&self) -> bool {
        self.thorough
    }

    /// Whether the fresh socket is in use.
    #[must_use]
    pub fn uses_fresh(&self) -> bool {
        self.running && self.thorough || self.client.has(|query| query.socket == FRESH)
    }

    /// Begins the survey that is due.
    pub fn begin(&mut self, has_fresh: bool, now: Instant) {
        self.due = None;
        self.running = true;
        self.asked = Some(now);
        if self.thorough {
            self.began = Some(now);
        }
        let Self { servers, uplinks, .. } = self;
        let scope = Scope { servers, uplinks, thorough: self.thorough && has_fresh, retry: Retry::STANDARD };
        for survey in &mut self.surveys {
            survey.begin(scope, &mut self.client, now);
        }
    }

    /// When to call [`Outlook::handle_timeout`] or [`Outlook::begin`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.due, self.client.poll_timeout()].into_iter().flatten().min()
    }

    /// Runs what is due of the questions.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.client.handle_timeout(now);
    }

    /// Takes outcomes. True when what is known may have changed.
    pub fn hear(&mut self, now: Instant) -> bool {
        let mut heard = false;
        while let Some(outcome) = self.client.poll_outcome() {
            heard = true;
            let Self { surveys, client, .. } = self;
            if let Some(survey) = surveys.iter_mut().find(|survey| survey.is_asker_of(&outcome)) {
                survey.take(&outcome, client, now);
            }
        }
        if heard && !self.running {
            // Servers that are silent beside others are given up later.
            for (survey, known) in self.surveys.iter().zip(&mut self.known) {
                known.servers.clone_from(&survey.findings().servers);
            }
        }
        if self.running && !self.surveys.iter().any(Survey::is_under_way) {
            self.running = false;
            self.finish(now);
        }
        heard
    }

    fn finish(&mut self, now: Instant) {
        let moved = self.surveys.iter().zip(&self.known).any(|(survey, known)| {
            let found = survey.findings();
            (found.mapped(), found.own, &found.uplinks) != (known.mapped(), known.own, &known.uplinks)
        });
        if self.thorough {
            for (survey, known) in self.surveys.iter().zip(&mut self.known) {
                known.clone_from(survey.findings());
            }
        } else if moved {
            return self.look_soon(now);
        }
        let silent = self.known.iter().all(|known| known.observations.is_empty());
        let open = self.known.iter().all(|known| known.mapped().is_none_or(|mapped| Some(mapped) == known.own));
        let wait = match (silent, open) {
            (true, _) => self.wait,
            (false, true) => REFRESH_OPEN,
            (false, false) => REFRESH_NAT,
        };
        self.wait = if silent { (self.wait * 2).min(REFRESH_OPEN) } else { BLOCKED_WAIT };
        self.thorough = silent;
        self.due = Some(now + wait);
    }

    /// What is known of IPv4 or IPv6: of the survey that runs where it has found anything, else of the last one.
    #[must_use]
    pub fn findings(&self, ipv6: bool) -> &Findings {
        let at = usize::from(ipv6);
        let present = self.surveys[at].findings();
        if self.running && self.thorough && !present.observations.is_empty() { present } else { &self.known[at] }
    }

    /// The kind of NAT, with what peers saw of the tunnel's socket.
    #[must_use]
    pub fn nat(&self, observed: &[Observation]) -> Nat {
        let of = |ipv6| {
            let observed: Vec<_> = observed.iter().filter(|seen| seen.mapped.is_ipv6() == ipv6).copied().collect();
            self.findings(ipv6).nat(&observed)
        };
        worst(of(false), of(true))
    }

    /// Whether UDP gets out, as far as servers tell.
    #[must_use]
    pub fn blocked(&self) -> Option<bool> {
        let [v4, v6] = [self.findings(false).blocked(), self.findings(true).blocked()];
        match (v4, v6) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), _) | (_, Some(true)) => Some(true),
            (None, None) => None,
        }
    }
}
