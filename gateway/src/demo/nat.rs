//! `landbridge demo --nat KIND,KIND`: two sites behind NATs find each other.
//!
//! 1. An internet with an introducer that relays too, a STUN server where coturn is installed, and two sites of which
//!    each knows the other's key and no address ([`crate::lab::nat::scene`]).
//! 2. The link comes up, step by step ([`crate::lab::nat::coming_up`]).
//! 3. The demo's traffic between the hosts, over the path that was found.
//!
//! Enters: options and two kinds of NAT. Leaves: a [`NatReport`]. Never does: leave anything behind.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::progress::Progress;
use super::report::{Report, round};
use super::{Options, measure, topology};
use crate::lab::nat::Kind;
use crate::lab::nat::coming_up::{ComingUp, Patience, Step, come_up};
use crate::lab::nat::scene::{self, Member, Scene};
use crate::lab::nat::stun_server::StunServer;
use crate::lab::stop::Stop;
use crate::lab::{namespace, scratch};
use crate::settings::WanBackend;
use crate::status::PeerStatus;
use crate::status::paths::NatStatus;

/// A link that has not gone direct by then is a relayed one: the search for a port has ended by then, too.
const PATIENCE: Patience = Patience { direct: Duration::from_secs(6), per_second: 200 };

/// How the link came up, and the traffic over it. Field names are the keys of the JSON object.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NatReport {
    nat_a: &'static str,
    nat_b: &'static str,
    /// What the gateways found out about their NATs themselves.
    nat_a_found: NatStatus,
    nat_b_found: NatStatus,
    /// `local`, `direct`, `mapped` or `relayed`.
    tier: Option<String>,
    why: Option<String>,
    /// From the moment that both sites were linked to the introducer.
    first_packet_ms: Option<f64>,
    relayed_ms: Option<f64>,
    direct_ms: Option<f64>,
    datagrams_while_coming_up: u64,
    datagrams_lost_while_coming_up: u64,
    longest_gap_ms: f64,
    path_a: Option<String>,
    path_b: Option<String>,
    #[serde(flatten)]
    traffic: Report,
}

/// Runs it.
///
/// # Errors
/// What failed, or [`crate::lab::stop::Interrupted`]; all that was made has been removed by then.
pub(crate) fn run(options: &Options, kinds: [Kind; 2]) -> anyhow::Result<NatReport> {
    let stop = Stop::on_signals()?;
    let mut progress = Progress::new();
    let leftovers =
        namespace::remove_leftovers(topology::PREFIX).context("leftovers of an earlier demo cannot be removed")?;
    scratch::remove_leftovers(scene::SCRATCH);
    if leftovers > 0 {
        progress.done(&format!("removed {leftovers} namespaces of a demo that was killed"));
    }
    progress.step("making an internet, an introducer, and two sites behind their NATs");
    let program = std::env::current_exe().context("the program's own file")?;
    let wan = match options.wan {
        WanBackend::Auto => "auto",
        WanBackend::Xdp => "xdp",
        WanBackend::Udp => "udp",
    };
    let stun = StunServer::is_installed();
    let wanted = scene::Options { wan, stun, ..scene::Options::new(program, topology::PREFIX, kinds) };
    let mut scene = Scene::new(wanted)?;
    let [a, b] = kinds;
    if !stun {
        progress.done("no STUN server (turnserver of the package coturn): a symmetric NAT is not found out to be one");
    }
    progress.done(&format!("site a behind {a}, site b behind {b}; neither knows an address of the other"));
    progress.step("starting gateways");
    let link = come_up(&mut scene, PATIENCE, &stop, |step| progress.done(&said(step)))?;
    if link.first_packet.is_none() {
        let seconds = PATIENCE.direct.as_secs();
        anyhow::bail!("no packet came through in {seconds} s\n{}", scene.logs());
    }
    if link.direct.is_none() {
        progress.done(&format!("it stays relayed: {}", why(&link, kinds).unwrap_or_default()));
    }
    let gateways = [scene.gateway(Member::Site(0))?, scene.gateway(Member::Site(1))?];
    let figures = measure(options, scene.path(), gateways, &stop, &mut progress)?;
    let statuses = [gateways[0].status()?, gateways[1].status()?];
    let traffic = Report::new(options, &figures, &statuses);
    let found = statuses.map(|status| status.place.nat);
    progress.step("removing everything");
    drop(scene);
    progress.done("everything is removed again");
    progress.finish();
    Ok(NatReport::new(kinds, found, &link, traffic))
}

fn said(step: Step) -> String {
    match step {
        Step::Linked(site) => format!("{} is linked to the introducer", site.name()),
        Step::FirstPacket(after) => format!("first packet after {}", millis(after)),
        Step::Relayed(after) => format!("by the relay after {}", millis(after)),
        Step::Direct(after) => format!("direct after {}", millis(after)),
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

/// Why the link is as it is.
fn why(link: &ComingUp, kinds: [Kind; 2]) -> Option<String> {
    match link.tier()? {
        "relayed" if kinds.contains(&Kind::Blocked) => Some("a site can send UDP to the relay alone".to_owned()),
        "relayed" if kinds == [Kind::Symmetric; 2] => Some(
            "both NATs choose another port for each destination, so neither site can be told the other's".to_owned(),
        ),
        "relayed" => Some("no candidate of either site answered".to_owned()),
        _ => link.peers[0].paths.reason.clone(),
    }
}

/// `direct 198.51.100.10:40123`.
fn path(peer: &PeerStatus) -> Option<String> {
    let path = peer.paths.in_use.as_ref()?;
    Some(format!("{} {}", path.tier.as_deref().unwrap_or("unproven"), path.remote))
}

impl NatReport {
    fn new(kinds: [Kind; 2], found: [NatStatus; 2], link: &ComingUp, traffic: Report) -> Self {
        let ms = |duration: Option<Duration>| duration.map(|duration| round(duration.as_secs_f64() * 1000.0, 1));
        let [nat_a_found, nat_b_found] = found;
        Self {
            nat_a: kinds[0].name(),
            nat_b: kinds[1].name(),
            nat_a_found,
            nat_b_found,
            tier: link.tier().map(str::to_owned),
            why: why(link, kinds),
            first_packet_ms: ms(link.first_packet),
            relayed_ms: ms(link.relayed),
            direct_ms: ms(link.direct),
            datagrams_while_coming_up: link.sent,
            datagrams_lost_while_coming_up: link.lost,
            longest_gap_ms: round(link.longest_gap.as_secs_f64() * 1000.0, 1),
            path_a: path(&link.peers[0]),
            path_b: path(&link.peers[1]),
            traffic,
        }
    }

    /// The page for people.
    pub(crate) fn page(&self) -> String {
        let mut text = format!("\nsite a ({}) == (internet, introducer) == ({}) site b\n\n", self.nat_a, self.nat_b);
        let mut line = |name: &str, value: &str| {
            let _infallible = writeln!(text, "  {name:<14} {value}");
        };
        let after = |ms: Option<f64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("after {ms:.0} ms"));
        let tier = self.tier.as_deref().unwrap_or("none");
        line("link", &format!("{tier}: {}", self.why.as_deref().unwrap_or("no reason is known").replace('_', " ")));
        line("first packet", &after(self.first_packet_ms));
        line("direct", &after(self.direct_ms));
        let (sent, lost) = (self.datagrams_while_coming_up, self.datagrams_lost_while_coming_up);
        line("coming up", &format!("{lost} of {sent} datagrams lost, longest gap {:.0} ms", self.longest_gap_ms));
        for (name, path) in [("path at a", &self.path_a), ("path at b", &self.path_b)] {
            line(name, path.as_deref().unwrap_or("none"));
        }
        for (name, found) in [("nat of a", &self.nat_a_found), ("nat of b", &self.nat_b_found)] {
            line(name, &format!("{} (found by the gateway)", found.kind.replace('_', "-")));
        }
        text + &self.traffic.page()
    }
}
