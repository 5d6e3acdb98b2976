//! The ways to the peers and our own place, as they are told.

use std::time::Instant;

use landbridge_proto::PeerId;
use landbridge_proto::candidate::Candidate;
use landbridge_proto::endpoint::PeerView;
use landbridge_proto::path::{CandidateState, CandidateView, PathView, PathsView};

use crate::control::driver::Driver;
use crate::control::paths::Network;
use crate::settings::PublicKey;
use crate::status::paths::{CandidateStatus, NatStatus, PathChanges, PathStatus, PathsStatus, PlaceStatus};

/// Where the gateway is.
pub(super) fn place<N: Network>(driver: &Driver<N>) -> PlaceStatus {
    let (candidates, nat) = driver.endpoint.local_candidates();
    let config = driver.endpoint.nat_config();
    let counters = driver.endpoint.channel_counters();
    let changes = driver
        .path_changes
        .iter()
        .map(|(reason, times)| PathChanges { reason: reason.label().to_owned(), times: *times });
    PlaceStatus {
        nat: NatStatus::from(nat),
        udp_blocked: driver.outlook.blocked(),
        candidates: candidates.iter().map(|own| candidate(own, CandidateState::Known.label(), None)).collect(),
        introduces: config.introduces,
        relays: config.relays,
        path_changes: changes.collect(),
        candidates_refused: counters.candidates_refused,
        introductions_made: counters.introductions_made,
        introductions_heard: counters.introductions_heard,
        punches: counters.punches,
        relay_allocations: driver.endpoint.relay_allocations() as u64,
        relays_granted: counters.relays_granted,
        relays_refused: counters.relays_refused,
    }
}

/// The ways to a peer. Of one that does not prove paths, its endpoint is the only one.
pub(super) fn of<N: Network>(driver: &Driver<N>, view: &PeerView<'_>, now: Instant) -> PathsStatus {
    let Some(paths) = &view.paths else {
        return PathsStatus { in_use: endpoint(view), ..PathsStatus::default() };
    };
    let PathsView { in_use, since, changes, paths, candidates, refused, nat, keepalive, introducers, relay } = paths;
    let tried = candidates.iter().map(|CandidateView { candidate: of, state }| candidate(of, state.label(), None));
    let refused = refused.iter().map(|(of, why)| candidate(of, "refused", Some(why.label())));
    PathsStatus {
        negotiated: true,
        in_use: in_use.as_ref().map(|used| path(used, now)).or_else(|| endpoint(view)),
        since_seconds: since.map(|(since, _)| now.saturating_duration_since(since).as_secs_f64()),
        reason: since.map(|(_, reason)| reason.label().to_owned()),
        changes: *changes,
        standby: paths.iter().filter(|other| !other.in_use).map(|other| path(other, now)).collect(),
        candidates: tried.chain(refused).collect(),
        nat: NatStatus::from(*nat),
        keepalive_seconds: keepalive.map(|interval| interval.as_secs_f64()),
        introducers: introducers.iter().filter_map(|id| name(driver, *id)).collect(),
        relay: relay.and_then(|id| name(driver, id)),
    }
}

/// What people call a peer.
fn name<N: Network>(driver: &Driver<N>, id: PeerId) -> Option<String> {
    let named = driver.peer(id).and_then(|state| state.name.clone());
    named.or_else(|| driver.endpoint.peer(id).map(|view| PublicKey(view.public_key).to_string()))
}

fn endpoint(view: &PeerView<'_>) -> Option<PathStatus> {
    Some(PathStatus {
        tier: None,
        kind: None,
        remote: view.endpoint?,
        local: view.local,
        proven: false,
        rtt_ms: None,
        loss_ratio: None,
        mtu: None,
        heard_seconds_ago: None,
    })
}

fn path(view: &PathView, now: Instant) -> PathStatus {
    PathStatus {
        tier: Some(view.tier.label().to_owned()),
        kind: Some(view.kind.label().to_owned()),
        remote: view.remote,
        local: view.local,
        proven: view.proven,
        rtt_ms: view.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        loss_ratio: view.rtt.map(|_| f64::from(view.loss_permille) / 1000.0),
        mtu: view.mtu,
        heard_seconds_ago: view.heard.map(|heard| now.saturating_duration_since(heard).as_secs_f64()),
    }
}

fn candidate(candidate: &Candidate, state: &str, why: Option<&str>) -> CandidateStatus {
    let (kind, address) = (candidate.kind.label().to_owned(), candidate.address);
    CandidateStatus { kind, address, state: state.to_owned(), why: why.map(str::to_owned) }
}
