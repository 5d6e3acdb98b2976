//! What a gateway tells of relaying between its peers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The relay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayStatus {
    /// `xdp`, with the thread beside it, or `user`: the thread alone.
    pub backend: String,
    /// Why.
    pub reason: String,
    /// Its ports, first and last.
    pub ports: [u16; 2],
    /// Million bits a second that each end may send; 0 for no limit.
    pub rate_mbps: u32,
    /// Pairs of peers that there are ports and numbers for.
    #[serde(default)]
    pub allocations_max: u32,
    /// Where the XDP program relays.
    pub interfaces: Vec<RelayInterfaceStatus>,
    /// What the XDP program has forwarded since the start.
    pub xdp: RelayCounters,
    /// What the thread has.
    pub user: RelayCounters,
    /// Every pair of peers.
    pub allocations: Vec<RelayAllocationStatus>,
}

/// An interface on which the XDP program relays.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayInterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`; absent where the program is not attached.
    pub xdp_mode: Option<String>,
    /// Whether relayed datagrams leave by it without the kernel.
    pub sends: bool,
}

/// What was forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCounters {
    /// Datagrams.
    pub packets: u64,
    /// Their bytes behind the UDP header.
    pub bytes: u64,
    /// Datagrams dropped as they came faster than permitted.
    pub limited: u64,
}

/// Two ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayAllocationStatus {
    /// `link` for a configured one, `granted` for one that the peers asked for.
    pub kind: String,
    /// Whose ends they are.
    pub ends: Vec<RelayEndStatus>,
}

/// One end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayEndStatus {
    /// The peer's key, base64.
    pub public_key: String,
    /// Its name in the configuration.
    pub name: Option<String>,
    /// The port that it sends to.
    pub port: u16,
    /// Where it is; absent while it is not bound.
    pub place: Option<SocketAddr>,
    /// What forwards its datagrams: `xdp` or `user`; absent until both ends are bound.
    pub forwarded_by: Option<String>,
    /// Seconds since anything came from it.
    pub silent_seconds: Option<u64>,
    /// What the XDP program has forwarded of it.
    pub xdp: RelayCounters,
    /// What the thread has.
    pub user: RelayCounters,
}
