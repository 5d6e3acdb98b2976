//! What a gateway tells of itself: gathered once, for the status socket and for Prometheus alike.

pub(super) mod network;
mod paths;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use landbridge_proto::endpoint::ChannelView;
use landbridge_proto::{DropReason, channel};
use landbridge_xsk::Bound;

use super::driver::Driver;
use super::paths::Network;
use crate::datapath::stages::{StageStats, StageSum};
use crate::datapath::stats::LaneStats;
use crate::settings::PublicKey;
use crate::status::network::NetworkStatus;
use crate::status::{
    ChannelStatus, CryptoStatus, ExtensionsStatus, LanStatus, LaneStatus, PeerStatus, StageStatus, StagesStatus,
    Status, WanStatus,
};

/// What does not change while a gateway runs.
#[derive(Debug)]
pub struct Facts {
    /// When it started.
    pub started: Instant,
    /// What the wan side bound.
    pub wan: WanStatus,
    /// What the lan side bound.
    pub lan: LanStatus,
    /// What seals and opens packets.
    pub crypto: CryptoStatus,
    /// Every lane's core and counters.
    pub lanes: Vec<(Option<usize>, Arc<LaneStats>)>,
    /// Every wan queue with rings, for the kernel's statistics of it.
    pub rings: Vec<Ring>,
    /// How often somebody else took the XDP program from an interface.
    pub xdp_programs_lost: u64,
    /// The network around us, as last found.
    pub network: NetworkStatus,
}

/// A wan queue with rings.
#[derive(Debug)]
pub struct Ring {
    /// Name of its interface.
    pub interface: String,
    /// Index of its interface.
    pub if_index: u32,
    /// The queue.
    pub queue: u32,
    /// What the kernel granted.
    pub bound: Bound,
    /// A second descriptor of its socket.
    pub socket: OwnedFd,
}

/// Gathers the status of a gateway.
pub fn gather<N: Network>(facts: &Facts, driver: &Driver<N>, interface: &str, now: Instant) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        interface: interface.to_owned(),
        public_key: driver.endpoint.public_key().map(|key| PublicKey(key).to_string()),
        listen_port: driver.socket.port(),
        mtu: driver.mtu(),
        uptime_seconds: now.saturating_duration_since(facts.started).as_secs(),
        wan: facts.wan.clone(),
        lan: facts.lan.clone(),
        crypto: facts.crypto.clone(),
        lanes: facts
            .lanes
            .iter()
            .enumerate()
            .map(|(lane, (cpu, stats))| LaneStatus {
                lane,
                cpu: *cpu,
                counters: stats.fields().map(|(name, value)| (name.to_owned(), value)).collect(),
                stages: stages(&stats.stages),
            })
            .collect(),
        xdp_programs_lost: facts.xdp_programs_lost,
        xdp_verdicts: driver
            .steer
            .as_ref()
            .and_then(|steer| steer.counters().ok())
            .map_or_else(Default::default, |counters| {
                counters.iter().map(|(verdict, packets)| (verdict.label().to_owned(), packets)).collect()
            }),
        drops: DropReason::ALL
            .iter()
            .map(|reason| (reason.label().to_owned(), dropped(facts, driver, *reason)))
            .filter(|(_, packets)| *packets > 0)
            .collect(),
        channel: channel(driver),
        network: facts.network.clone(),
        place: paths::place(driver),
        relay: driver.relay_status(now),
        peers: peers(driver, now),
    }
}

fn stages(stats: &StageStats) -> Option<StagesStatus> {
    let every = stats.every()?;
    let status =
        |sum: StageSum| StageStatus { stage: sum.stage.label().to_owned(), ns: sum.ns as u64, packets: sum.packets };
    Some(StagesStatus { every, turns: stats.turns(), stages: stats.sums().map(status).collect() })
}

/// Packets dropped for a reason by the lanes and the control task.
pub fn dropped<N: Network>(facts: &Facts, driver: &Driver<N>, reason: DropReason) -> u64 {
    facts.lanes.iter().map(|(_, stats)| stats.dropped(reason)).sum::<u64>()
        + driver.drops[reason as usize]
        + driver.relay_dropped(reason)
}

fn channel<N: Network>(driver: &Driver<N>) -> ChannelStatus {
    let counters = driver.endpoint.channel_counters();
    ChannelStatus {
        source_ports: 1 + driver.ports.len(),
        messages_sent: counters.sent,
        messages_received: counters.received,
        fields_ignored: counters.fields_ignored,
        ports_proven: counters.ports_proven,
        ports_lost: counters.ports_lost,
    }
}

fn extensions(view: ChannelView) -> Option<ExtensionsStatus> {
    let features = view.features?;
    Some(ExtensionsStatus {
        version: channel::VERSION,
        features: features.names().map(str::to_owned).collect(),
        ports_out: 1 + view.ports_in_use,
        ports_in: 1 + view.ports_heard,
        ports_refused: view.ports_refused,
    })
}

fn peers<N: Network>(driver: &Driver<N>, now: Instant) -> Vec<PeerStatus> {
    let ids: Vec<_> = driver.endpoint.peers().collect();
    ids.into_iter()
        .filter_map(|id| {
            let view = driver.endpoint.peer(id)?;
            let state = driver.peer(id);
            let way = state.and_then(|state| state.way.as_ref());
            let path = match (way, view.endpoint) {
                (Some(way), _) => way.text.clone(),
                (None, Some(_)) => "not looked for yet".to_owned(),
                (None, None) => "no endpoint is known".to_owned(),
            };
            Some(PeerStatus {
                public_key: PublicKey(view.public_key).to_string(),
                name: state.and_then(|state| state.name.clone()),
                endpoint: view.endpoint,
                local: view.local,
                path,
                allowed_ips: driver.endpoint.allowed_ips().of_owner(id).collect(),
                persistent_keepalive_seconds: view.persistent_keepalive.map(|interval| interval.as_secs()),
                last_handshake_seconds_ago: view
                    .last_handshake
                    .map(|time| time.elapsed().unwrap_or_default().as_secs()),
                last_handshake_unix_seconds: view
                    .last_handshake
                    .map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
                handshake_ms: view.handshake_duration.map(|duration| duration.as_secs_f64() * 1000.0),
                rx_bytes: view.shared.rx_bytes(),
                tx_bytes: view.shared.tx_bytes(),
                rx_packets: view.shared.rx_packets(),
                tx_packets: view.shared.tx_packets(),
                extensions: view.channel.and_then(extensions),
                paths: paths::of(driver, &view, now),
            })
        })
        .collect()
}
