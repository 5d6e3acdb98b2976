//! What a gateway tells of the ways to its peers, and of its own place behind NATs.
//!
//! Words for kinds, tiers, states and reasons are the labels of `landbridge-proto`; metrics use the same.

use std::net::{IpAddr, SocketAddr};

use landbridge_proto::candidate::{Behaviour, Nat};
use serde::{Deserialize, Serialize};

use super::network::NetworkStatus;

use super::Status;

/// What `landbridge paths` shows of one gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Paths {
    /// The tunnel interface.
    pub interface: String,
    /// Our place in the network.
    #[serde(flatten)]
    pub place: PlaceStatus,
    /// The network around us.
    #[serde(default)]
    pub network: NetworkStatus,
    /// Every peer.
    pub peers: Vec<PeerPaths>,
}

/// The ways to one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerPaths {
    /// Its key, base64.
    pub public_key: String,
    /// Its name in the configuration.
    pub name: Option<String>,
    /// Seconds since the last handshake.
    pub last_handshake_seconds_ago: Option<u64>,
    /// The ways.
    #[serde(flatten)]
    pub paths: PathsStatus,
}

impl From<Status> for Paths {
    fn from(status: Status) -> Self {
        let peers = status.peers.into_iter().map(|peer| PeerPaths {
            public_key: peer.public_key,
            name: peer.name,
            last_handshake_seconds_ago: peer.last_handshake_seconds_ago,
            paths: peer.paths,
        });
        Self { interface: status.interface, place: status.place, network: status.network, peers: peers.collect() }
    }
}

/// Where the gateway is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceStatus {
    /// The NAT that it is behind.
    pub nat: NatStatus,
    /// Whether UDP gets out, as far as STUN servers tell.
    #[serde(default)]
    pub udp_blocked: Option<bool>,
    /// Where it may be reached, as it tells its peers.
    pub candidates: Vec<CandidateStatus>,
    /// Whether it introduces its peers to each other.
    pub introduces: bool,
    /// Whether it relays between its peers.
    pub relays: bool,
    /// How often another path came into use, of all peers, by reason.
    #[serde(default)]
    pub path_changes: Vec<PathChanges>,
    /// Candidates of peers that were refused, as they lead nowhere or back.
    #[serde(default)]
    pub candidates_refused: u64,
    /// Pairs of peers that we introduced to each other.
    #[serde(default)]
    pub introductions_made: u64,
    /// Introductions to peers that we sought.
    #[serde(default)]
    pub introductions_heard: u64,
    /// Times that handshakes went to every place that is known of a peer.
    #[serde(default)]
    pub punches: u64,
    /// Allocations of ours as a relay at present.
    #[serde(default)]
    pub relay_allocations: u64,
    /// Allocations that we granted as a relay.
    #[serde(default)]
    pub relays_granted: u64,
    /// Allocations that we refused as a relay, for want of ports.
    #[serde(default)]
    pub relays_refused: u64,
}

/// Changes of path for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathChanges {
    /// As [`PathsStatus::reason`].
    pub reason: String,
    /// How many.
    pub times: u64,
}

/// A NAT, in the words of RFC 4787 and in the one that people use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatStatus {
    /// `unknown`, `none`, `endpoint_independent`, `address_dependent` or `address_and_port_dependent`.
    pub mapping: String,
    /// The same.
    pub filtering: String,
    /// `unknown`, `none`, `full_cone`, `address_restricted`, `port_restricted`, `cone` (filter not known) or `symmetric`.
    pub kind: String,
}

impl Default for NatStatus {
    fn default() -> Self {
        let unknown = || "unknown".to_owned();
        Self { mapping: unknown(), filtering: unknown(), kind: unknown() }
    }
}

impl From<Nat> for NatStatus {
    fn from(Nat { mapping, filtering }: Nat) -> Self {
        let kind = match (mapping, filtering) {
            (Behaviour::Unknown, _) => "unknown",
            (Behaviour::None, _) => "none",
            (Behaviour::EndpointIndependent, Behaviour::EndpointIndependent) => "full_cone",
            (Behaviour::EndpointIndependent, Behaviour::AddressDependent) => "address_restricted",
            (Behaviour::EndpointIndependent, Behaviour::AddressAndPortDependent) => "port_restricted",
            (Behaviour::EndpointIndependent, Behaviour::Unknown | Behaviour::None) => "cone",
            (Behaviour::AddressDependent | Behaviour::AddressAndPortDependent, _) => "symmetric",
        };
        let words = |behaviour: Behaviour| behaviour.label().to_owned();
        Self { mapping: words(mapping), filtering: words(filtering), kind: kind.to_owned() }
    }
}

/// The ways to a peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PathsStatus {
    /// Whether the peer takes part in proving paths; else its endpoint is the one path.
    #[serde(default)]
    pub negotiated: bool,
    /// The path in use.
    pub in_use: Option<PathStatus>,
    /// For how long it has been that.
    pub since_seconds: Option<f64>,
    /// Why it is that: `configured`, `handshake`, `roamed`, `proven`, `better_tier`, `faster`, `preferred`,
    /// `other_silent`, `other_dead`, `other_gone`.
    pub reason: Option<String>,
    /// How often another path came into use.
    pub changes: u64,
    /// Other paths that were proven.
    pub standby: Vec<PathStatus>,
    /// The peer's candidates.
    pub candidates: Vec<CandidateStatus>,
    /// The NAT that it is behind, as it says itself.
    pub nat: NatStatus,
    /// How often a keepalive keeps a NAT's binding.
    pub keepalive_seconds: Option<f64>,
    /// Names or keys of the gateways that introduce us to it.
    pub introducers: Vec<String>,
    /// Name or key of the gateway that relays between us.
    pub relay: Option<String>,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// `local`, `direct`, `mapped` or `relayed`; `None` where that is not known, as for peers that do not prove paths.
    pub tier: Option<String>,
    /// How the peer's end is known: `host`, `observed`, `stun`, `mapped`, `configured`, `peer_reflexive` or `relayed`.
    pub kind: Option<String>,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Our end; `None` where the kernel chooses it.
    pub local: Option<IpAddr>,
    /// Whether a probe has proven it, and none has refuted it since.
    pub proven: bool,
    /// Smoothed round trip.
    pub rtt_ms: Option<f64>,
    /// Probes that were not answered, of the last ones, from 0 to 1; `None` without probes.
    pub loss_ratio: Option<f64>,
    /// The largest outer IP packet that was seen to get through.
    pub mtu: Option<u16>,
    /// Since it was last seen to deliver.
    pub heard_seconds_ago: Option<f64>,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateStatus {
    /// As [`PathStatus::kind`].
    pub kind: String,
    /// Where.
    pub address: SocketAddr,
    /// `known`, `checking`, `proven`, `failed` or `refused`.
    pub state: String,
    /// Why it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
