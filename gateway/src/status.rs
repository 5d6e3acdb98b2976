//! What a running gateway tells of itself, as JSON over a Unix socket: one connection, one object.
//!
//! Enters: a connection to `/run/landbridge/IFNAME.sock`. Leaves: one [`Status`]. Never does: change
//! anything; configuration goes through the UAPI socket.

pub mod network;
pub mod paths;
pub mod relay;

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where the status socket of an interface is.
#[must_use]
pub fn socket_path(interface: &str) -> PathBuf {
    PathBuf::from(format!("/run/landbridge/{interface}.sock"))
}

/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer: a gateway with all the peers it can have.
const ANSWER_MAX: u64 = 256 << 20;

/// Asks the gateway behind a status socket.
///
/// # Errors
/// What the socket said, or InvalidData for an answer that is no status.
pub fn fetch(path: &Path) -> io::Result<Status> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// One gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The tunnel interface.
    pub interface: String,
    /// Our public key, base64.
    pub public_key: Option<String>,
    /// UDP port.
    pub listen_port: u16,
    /// MTU of the tunnel interface.
    pub mtu: u32,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// What the wan side bound.
    pub wan: WanStatus,
    /// What the lan side bound.
    pub lan: LanStatus,
    /// What seals and opens packets.
    pub crypto: CryptoStatus,
    /// Every lane.
    pub lanes: Vec<LaneStatus>,
    /// How often somebody else took the XDP program from an interface.
    #[serde(default)]
    pub xdp_programs_lost: u64,
    /// Counters of the XDP program by verdict; empty without XDP.
    pub xdp_verdicts: BTreeMap<String, u64>,
    /// Packets dropped by the lanes and the control task, by reason; zeros are left out.
    pub drops: BTreeMap<String, u64>,
    /// The control channel.
    #[serde(default)]
    pub channel: ChannelStatus,
    /// The network around us.
    #[serde(default)]
    pub network: network::NetworkStatus,
    /// Our place in the network.
    #[serde(default)]
    pub place: paths::PlaceStatus,
    /// Relaying between peers; absent where it is off.
    #[serde(default)]
    pub relay: Option<relay::RelayStatus>,
    /// Every peer.
    pub peers: Vec<PeerStatus>,
}

/// The control channel, over all peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Source ports that the gateway can send from, its listen port included.
    pub source_ports: usize,
    /// Messages sent.
    pub messages_sent: u64,
    /// Messages received and understood.
    pub messages_received: u64,
    /// Fields skipped as a later version's.
    pub fields_ignored: u64,
    /// Source ports proven towards a peer.
    pub ports_proven: u64,
    /// Source ports given up, for want of an answer or for loss.
    pub ports_lost: u64,
}

/// The wan side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WanStatus {
    /// `xdp` or `udp`.
    pub backend: String,
    /// Why that one.
    pub reason: String,
    /// Interfaces with an XDP program.
    pub interfaces: Vec<InterfaceStatus>,
    /// How often the rings of an interface were lost.
    #[serde(default)]
    pub rings_lost: u64,
}

/// One interface with rings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its driver, as ethtool says.
    pub driver: Option<String>,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// `zero-copy` or `copy`.
    pub copy_mode: String,
    /// Its queues that are bound.
    pub queues: u32,
    /// Whether packets longer than a frame go through its rings, in several.
    #[serde(default)]
    pub multi_buffer: bool,
    /// Why, or why not.
    #[serde(default)]
    pub multi_buffer_reason: String,
    /// Who computes the UDP checksums of what leaves by them over IPv6, and why; absent for the lan.
    #[serde(default)]
    pub checksums: Option<String>,
}

/// The lan side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LanStatus {
    /// `tun`, or `xdp` with the TUN beside it.
    pub backend: String,
    /// Why that one.
    pub reason: String,
    /// Interfaces with an XDP program.
    #[serde(default)]
    pub interfaces: Vec<InterfaceStatus>,
    /// How often the rings of an interface were lost.
    #[serde(default)]
    pub rings_lost: u64,
    /// Routes that lanes look up.
    #[serde(default)]
    pub routes: usize,
    /// Resolved next hops that lanes send to.
    #[serde(default)]
    pub next_hops: usize,
    /// TCP segmentation offload.
    pub tso: bool,
    /// UDP segmentation offload.
    pub uso: bool,
    /// Queues.
    pub queues: usize,
}

/// What seals and opens packets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CryptoStatus {
    /// The engine: `ring`, `avx512`.
    pub engine: String,
    /// Why that one.
    pub reason: String,
}

/// One lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Its number.
    pub lane: usize,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Its counters ([`crate::datapath::stats::LaneStats`]).
    pub counters: BTreeMap<String, u64>,
    /// Where its time goes, if that is sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<StagesStatus>,
}

/// Where a lane's time goes, by a sample of its turns.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StagesStatus {
    /// One turn in so many is sampled.
    pub every: u64,
    /// Turns that were.
    pub turns: u64,
    /// Every stage, in the order of a turn.
    pub stages: Vec<StageStatus>,
}

/// One stage of the sampled turns.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageStatus {
    /// Its name ([`crate::datapath::stages::Stage`]).
    pub stage: String,
    /// Nanoseconds in all.
    pub ns: u64,
    /// Packets that went through it meanwhile.
    pub packets: u64,
}

/// One peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its key, base64.
    pub public_key: String,
    /// Its name in the configuration.
    pub name: Option<String>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// The address of ours that it uses.
    pub local: Option<IpAddr>,
    /// How packets leave: `xdp IFNAME`, `socket`, or why there is no path.
    pub path: String,
    /// What lies behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between persistent keepalives.
    pub persistent_keepalive_seconds: Option<u64>,
    /// Seconds since the last handshake.
    pub last_handshake_seconds_ago: Option<u64>,
    /// Seconds since the epoch of the last handshake.
    pub last_handshake_unix_seconds: Option<u64>,
    /// How long the last handshake took that we began.
    pub handshake_ms: Option<f64>,
    /// UDP payload bytes received.
    pub rx_bytes: u64,
    /// UDP payload bytes sent.
    pub tx_bytes: u64,
    /// Transport data packets received.
    pub rx_packets: u64,
    /// Transport data packets sent.
    pub tx_packets: u64,
    /// What it can do beyond WireGuard; `None` for a stock peer, one that has not answered yet, or with extensions off.
    #[serde(default)]
    pub extensions: Option<ExtensionsStatus>,
    /// The ways to it.
    #[serde(default)]
    pub paths: paths::PathsStatus,
}

/// What was agreed with a peer over the control channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionsStatus {
    /// Version of the control channel.
    pub version: u8,
    /// What the peer can do.
    pub features: Vec<String>,
    /// Source ports that packets for it leave from.
    pub ports_out: usize,
    /// Source ports that its packets come from.
    pub ports_in: usize,
    /// Several ports were tried and do not get through, as with some NATs.
    pub ports_refused: bool,
}
