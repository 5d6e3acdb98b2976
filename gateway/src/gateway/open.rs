//! What a gateway opens before its lanes run: claims, sockets, the tunnel interface, and what each lane gets of them.
//!
//! Enters: settings, inherited descriptors, the choice of the wan side. Leaves: open descriptors that give themselves back
//! when they are dropped. Never does: take packets from the kernel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use landbridge_proto::ChannelConfig;
use landbridge_proto::channel::SOURCE_PORTS_MAX;
use landbridge_xsk::{Memory, Tun, TunConfig, TunQueue, XskConfig};

use super::RunOptions;
use crate::control::lan::{self, LanChoice};
use crate::control::listeners::{Listener, left_by_killed, uapi_path};
use crate::control::netlink::Netlink;
use crate::control::netlink::routes::RouteQuery;
use crate::control::relay::LINK_SILENCE;
use crate::control::relay::egress::Egress;
use crate::control::relay::table::Relays;
use crate::control::report::{Facts, Ring};
use crate::control::rings::{self, Rings};
use crate::control::routing;
use crate::control::sockets::{self, ControlSocket, Sockets};
use crate::control::source_ports;
use crate::control::tunnel::Tunnel;
use crate::control::wan::{self, Choice};
use crate::datapath::lanes::{LaneConfig, Lanes, Offloads, RingBound};
use crate::datapath::tables::Published;
use crate::datapath::wan_xdp::packet_len_max;
use crate::relay::Relay;
use crate::settings::{LanBackend, Settings, Wan, WanBackend};
use crate::sizes;
use crate::status::network::NetworkStatus;
use crate::status::{self, CryptoStatus, LanStatus, WanStatus};
use crate::steer::{Interface, Steer, SteerError};

/// How long the kernel may take to clean up after a killed process.
const KILLED_LIMIT: Duration = Duration::from_secs(3);
/// Lanes unless configured: more than this many seldom pay.
const LANES_MAX: usize = 8;
/// Frames of each lane for packets that no small one holds.
const JUMBO_FRAMES: u32 = 128;
/// The same where whole bursts may be of such packets. Memory that no packet ever reaches is not resident.
const JUMBO_FRAMES_OF_LONG: u32 = 512;
/// Sealed packets of tunnel MTUs beyond this do not fit frames of 2048 bytes as rings receive them.
const SMALL_MTU_MAX: u32 = 1690;
/// What IPv6, UDP and sealing add to an inner packet.
const SEALED_MORE: usize = 40 + 8 + 16 + 16;
/// Bytes of a frame, for all tunnels but those.
const SMALL_FRAME: u32 = 2048;
const _: () = assert!(SMALL_MTU_MAX as usize + SEALED_MORE <= packet_len_max(SMALL_FRAME));

/// The sockets by which a gateway claims its interface's name among gateways.
pub(super) struct Claims {
    /// For `landbridge status`.
    pub(super) status: Listener,
    /// For `wg`.
    pub(super) uapi: Listener,
}

impl Claims {
    /// Claims the name, unless something has it.
    pub(super) fn stake(settings: &Settings, options: &mut RunOptions, netlink: &mut Netlink) -> anyhow::Result<Self> {
        let name = settings.interface.as_str();
        let makes_interface = options.tun_fd.is_none();
        if left_by_killed(&status::socket_path(name)) {
            outlast(settings, makes_interface, netlink);
        }
        if makes_interface && netlink.link_by_name(name).is_ok() {
            bail!(
                "interface {name} exists already: another gateway or program has it, choose another name or end that program"
            );
        }
        let status = Listener::bind(&status::socket_path(name))?;
        let uapi = match options.uapi_fd.take() {
            Some(fd) => Listener::inherit(fd, &uapi_path(name)).context("the UAPI socket handed over (WG_UAPI_FD)")?,
            None => Listener::bind(&uapi_path(name))?,
        };
        Ok(Self { status, uapi })
    }
}

/// Waits until the kernel has taken away interface and port of a killed gateway, but not for ever: they may be another's.
fn outlast(settings: &Settings, makes_interface: bool, netlink: &mut Netlink) {
    let limit = Instant::now() + KILLED_LIMIT;
    let is_there = |netlink: &mut Netlink| {
        (makes_interface && netlink.link_by_name(&settings.interface).is_ok())
            || settings.listen_port.is_some_and(|port| !sockets::is_free(port))
    };
    while is_there(netlink) && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What carries the two sides.
#[derive(Debug)]
pub(super) struct Choices {
    pub(super) wan: Choice,
    pub(super) lan: LanChoice,
    pub(super) relay: Egress,
    /// Why packets do not take several frames of a ring; none where they may.
    pub(super) one_buffer: Option<String>,
}

impl Choices {
    /// Chooses, and loads the XDP program if a side has rings.
    pub(super) fn make(settings: &Settings, netlink: &mut Netlink) -> anyhow::Result<(Self, Option<Steer>)> {
        let wan = wan::choose(settings, netlink)?;
        let lan = lan::choose(settings, &wan, netlink)?;
        let relay = Egress::choose(settings, &wan, netlink)?;
        let mut choices = Self { wan, lan, relay, one_buffer: None };
        if !choices.have_rings() && !choices.relay.wants_program() {
            return Ok((choices, None));
        }
        let error = match choices.load(settings) {
            Ok(steer) => return Ok((choices, Some(steer))),
            Err(error) => error,
        };
        let by_name = settings.wan.backend == WanBackend::Xdp
            || settings.lan.backend == LanBackend::Xdp
            || choices.relay.is_required();
        if by_name {
            return Err(error.into());
        }
        if !choices.wan.interfaces.is_empty() {
            choices.wan = Choice::socket(error.to_string());
        }
        if !choices.lan.ports.is_empty() {
            choices.lan = LanChoice::tun(error.to_string());
        }
        if choices.relay.wants_program() {
            choices.relay = Egress::none(error.to_string());
        }
        Ok((choices, None))
    }

    /// Loads the XDP program: in its form for frames in several buffers where an interface's MTU asks for it and the kernel
    /// has that (Linux 5.18), else in its plain one.
    fn load(&mut self, settings: &Settings) -> Result<Steer, SteerError> {
        if settings.wan.one_buffer || !self.long_packets() {
            self.one_buffer = Some("configured".to_owned()).filter(|_| settings.wan.one_buffer);
            return Steer::load();
        }
        Steer::load_long().or_else(|error| {
            let error = error.to_string();
            tracing::warn!(
                error,
                "the XDP program takes no frames in several buffers: long packets stay with the kernel"
            );
            self.one_buffer = Some(error);
            Steer::load()
        })
    }

    /// Whether a side has rings.
    pub(super) fn have_rings(&self) -> bool {
        !self.wan.interfaces.is_empty() || !self.lan.ports.is_empty()
    }

    /// The rings of both sides, sized to share one budget.
    fn rings(&self, settings: &Settings, frame_size: u32) -> (Vec<XskConfig>, Vec<XskConfig>) {
        let (mut wan, mut lan) = (self.wan.rings(&settings.wan), self.lan.rings(settings));
        let entries = sizes::ring_entries(settings.wan.ring, wan.len(), lan.len(), frame_size);
        for ring in wan.iter_mut().chain(&mut lan) {
            (ring.rx_ring, ring.tx_ring, ring.fill_ring) = (entries, entries, entries);
            ring.multi_buffer &= self.one_buffer.is_none();
        }
        (wan, lan)
    }

    /// How many lanes can have rings. With lan rings, a lane that has some has them on all interfaces of both sides, as what
    /// it receives on one it sends on another: the interface with the fewest queues counts.
    fn queues(&self, settings: &Settings) -> Option<usize> {
        let queues = |interface| wan::rings_of(&settings.wan, interface).count();
        if self.lan.ports.is_empty() {
            return Some(self.wan.interfaces.iter().map(queues).sum()).filter(|queues| *queues > 0);
        }
        let of_lan = self.lan.ports.iter().map(|port| &port.ringed);
        self.wan.interfaces.iter().chain(of_lan).map(queues).min()
    }

    /// The lane of a queue, which is the `place`th of its side.
    fn lane_of(&self, place: usize, ring: &XskConfig, busy: usize) -> usize {
        let place = if self.lan.ports.is_empty() { place } else { ring.queue as usize };
        place % busy
    }

    /// The interfaces with rings.
    fn ringed(&self) -> impl Iterator<Item = &Interface> {
        self.wan.interfaces.iter().chain(self.lan.ports.iter().map(|port| &port.ringed))
    }

    /// Whether rings are bound so that a packet may take several frames. The tunnel's MTU may then be raised later on.
    fn long_packets(&self) -> bool {
        self.one_buffer.is_none() && self.ringed().any(|interface| interface.mtu > sizes::ONE_BUFFER_MTU)
    }

    /// The name of an interface with rings.
    fn name_of(&self, if_index: u32) -> String {
        self.ringed().find(|interface| interface.index == if_index).map(|found| found.name.clone()).unwrap_or_default()
    }
}

/// How many lanes there are, and where.
pub(super) struct Crew {
    /// All lanes.
    pub(super) count: usize,
    /// Those with queues; the others steal.
    pub(super) busy: usize,
    cpus: Vec<usize>,
    /// Each lane keeps to one core.
    pinned: bool,
}

impl Crew {
    fn new(settings: &Settings, choices: &Choices, inherits_tun: bool) -> Self {
        let cpus = cpus();
        let count = settings.lanes.unwrap_or_else(|| cpus.len().min(LANES_MAX)).max(1);
        let busy = match (inherits_tun, choices.queues(settings)) {
            // A descriptor handed over is one queue of the tunnel interface, and every lane with I/O needs one.
            (true, _) => 1,
            (false, None) => count,
            (false, Some(queues)) => count.min(queues),
        };
        // A pinned lane cannot leave its core to what else has to run there: the card's interrupts, another gateway, the
        // programs whose packets these are. Where every core has a lane, that would leave other cores idle meanwhile.
        // Behind rings on the lan are hosts that wait for nobody: there it counts more that a lane stays where its
        // queue's packets come in, and is not moved behind another one while its rings run over.
        let pinned = settings.pin.unwrap_or(count < cpus.len() || !choices.lan.ports.is_empty());
        Self { count, busy, cpus, pinned }
    }
}

/// Sockets and tunnel interface.
pub(super) struct Opened {
    pub(super) sockets: Sockets,
    /// Second handles of the lanes' sockets.
    pub(super) lane_sockets: Vec<std::net::UdpSocket>,
    /// Further source ports.
    pub(super) source_ports: Vec<ControlSocket>,
    pub(super) tun: Tun,
    pub(super) tunnel: Tunnel,
    /// The tunnel's MTU.
    pub(super) mtu: u32,
    pub(super) crew: Crew,
}

impl Opened {
    /// Opens all of it.
    pub(super) fn open(
        settings: &Settings,
        options: &mut RunOptions,
        choices: &Choices,
        fwmark: Option<u32>,
        netlink: &mut Netlink,
    ) -> anyhow::Result<Self> {
        let name = settings.interface.as_str();
        let made_here = options.tun_fd.is_none();
        let crew = Crew::new(settings, choices, !made_here);
        let sockets = Sockets::open(settings.listen_port, crew.busy, fwmark)?;
        let lane_sockets =
            sockets.lanes.iter().map(std::net::UdpSocket::try_clone).collect::<std::io::Result<Vec<_>>>()?;
        let source_ports = source_ports::open(settings.wan.source_ports, fwmark);
        let tun = open_tun(settings, options, crew.busy)?;
        let queue = tun.queues.first().context("the tunnel interface has no queue")?;
        let tunnel = Tunnel::new(queue.try_clone()?).context("cannot follow the tunnel interface")?;
        let mtu = settings.mtu.unwrap_or_else(|| routing::tunnel_mtu(way_mtu(settings, netlink, fwmark)));
        if made_here {
            // Packets of another MTU than the lanes know must not come in the meantime; others may change it later.
            let if_index = tunnel.if_index;
            netlink.set_mtu(if_index, mtu).with_context(|| format!("cannot set the MTU of {name} to {mtu}"))?;
        }
        Ok(Self { sockets, lane_sockets, source_ports, tun, tunnel, mtu, crew })
    }
}

fn open_tun(settings: &Settings, options: &mut RunOptions, queues: usize) -> anyhow::Result<Tun> {
    if let Some(fd) = options.tun_fd.take() {
        return Tun::from_fd(fd).context("the TUN descriptor handed over (WG_TUN_FD)");
    }
    let config = TunConfig { name: settings.interface.clone(), queues, offloads: settings.lan.offloads };
    Tun::create(&config).with_context(|| {
        format!("cannot make the tunnel interface {}: CAP_NET_ADMIN and /dev/net/tun are needed", settings.interface)
    })
}

pub(super) fn lan_status(choice: &LanChoice, tun: &Tun, queues: usize) -> LanStatus {
    LanStatus {
        backend: choice.backend().to_owned(),
        reason: choice.reason.clone(),
        interfaces: Vec::new(),
        rings_lost: 0,
        routes: 0,
        next_hops: 0,
        tso: tun.tso,
        uso: tun.uso,
        queues: tun.queues.len().min(queues),
    }
}

/// What does not change while the gateway runs.
pub(super) fn facts(choices: &Choices, lan: LanStatus, crypto: CryptoStatus, lanes: &mut Lanes) -> Facts {
    let wan = WanStatus {
        backend: choices.wan.backend().to_owned(),
        reason: choices.wan.reason.clone(),
        interfaces: Vec::new(),
        rings_lost: 0,
    };
    let rings = rings_of(lanes, choices);
    let handles = lanes.handles().iter();
    let lanes = handles.map(|handle| (handle.cpu, Arc::clone(&handle.stats))).collect();
    Facts {
        started: Instant::now(),
        wan,
        lan,
        crypto,
        lanes,
        rings,
        xdp_programs_lost: 0,
        network: NetworkStatus::default(),
    }
}

/// What each lane owns: queues of the wan in turn, a socket and a queue of the tunnel interface as long as there are any.
pub(super) fn lane_configs(
    settings: &Settings,
    crew: &Crew,
    mtu: u32,
    choices: &Choices,
    sockets: Vec<std::net::UdpSocket>,
    queues: Vec<TunQueue>,
    offloads: Offloads,
) -> Vec<LaneConfig> {
    let frame_size = if mtu > SMALL_MTU_MAX || choices.long_packets() { 4096 } else { SMALL_FRAME };
    let (wan_rings, lan_rings) = choices.rings(settings, frame_size);
    let entries = sizes::ring_entries(settings.wan.ring, wan_rings.len(), lan_rings.len(), frame_size);
    let (mut sockets, mut queues) = (sockets.into_iter(), queues.into_iter());
    let mut configs: Vec<_> = (0..crew.count)
        .map(|lane| LaneConfig {
            cpu: crew.cpus.get(lane % crew.cpus.len().max(1)).copied().filter(|_| crew.pinned),
            frames: 0,
            frame_size,
            jumbo_frames: JUMBO_FRAMES,
            huge_pages: true,
            wan_rings: Vec::new(),
            lan_rings: Vec::new(),
            socket: sockets.next(),
            ports: Vec::new(),
            lan: queues.next(),
            offloads,
            stages: settings.stages,
        })
        .collect();
    for (place, ring) in wan_rings.into_iter().enumerate() {
        configs[choices.lane_of(place, &ring, crew.busy)].wan_rings.push(ring);
    }
    for (place, ring) in lan_rings.into_iter().enumerate() {
        configs[choices.lane_of(place, &ring, crew.busy)].lan_rings.push(ring);
    }
    for config in &mut configs {
        let rings = config.wan_rings.len() + config.lan_rings.len();
        config.frames = sizes::frames(settings.frames_per_lane, rings, entries);
        if frame_size != SMALL_FRAME {
            config.jumbo_frames = JUMBO_FRAMES_OF_LONG;
        }
    }
    configs
}

/// What forwards between peers; `None` where that is off.
pub(super) fn relays(
    settings: &Settings,
    choices: &mut Choices,
    published: &Published,
    fwmark: Option<u32>,
) -> anyhow::Result<Option<Relays>> {
    if !settings.relay.enabled {
        return Ok(None);
    }
    let thread = Relay::start(Arc::clone(published), LINK_SILENCE).context("cannot start the relay's thread")?;
    Ok(Some(Relays::new(&settings.relay, thread, fwmark, std::mem::take(&mut choices.relay))))
}

/// What peers that speak the control channel are offered.
pub(super) fn channel(source_ports: &[ControlSocket], crew: &Crew) -> ChannelConfig {
    ChannelConfig {
        source_ports: u8::try_from(source_ports.len()).unwrap_or(u8::MAX),
        // Flows that are spread for one lane only make its batches smaller.
        accepts_ports: if crew.busy > 1 { SOURCE_PORTS_MAX as u8 } else { 0 },
    }
}

/// The interfaces with rings, and the memory of the lanes that serve them.
pub(super) fn places(settings: &Settings, choices: &Choices, lanes: &Lanes, busy: usize) -> Rings {
    let memories: Vec<_> = lanes.handles().iter().take(busy).map(|handle| handle.memory.clone()).collect();
    // Rings that are bound again are as large as those that the memory was cut for.
    let frame_size = memories.first().map_or(SMALL_FRAME, Memory::frame_size);
    let (wan_rings, lan_rings) = choices.rings(settings, frame_size);
    let ring = sizes::ring_entries(settings.wan.ring, wan_rings.len(), lan_rings.len(), frame_size);
    let wan = rings::Options {
        rings: Wan { ring, one_buffer: choices.one_buffer.is_some(), ..settings.wan.clone() },
        optional: settings.wan.backend == WanBackend::Auto,
        reason: choices.wan.reason.clone(),
    };
    let lan = rings::Options {
        rings: Wan { ring, one_buffer: choices.one_buffer.is_some(), ..lan::ring_options(settings) },
        optional: settings.lan.backend == LanBackend::Auto,
        reason: choices.lan.reason.clone(),
    };
    Rings::new(wan, &choices.wan, lan, &choices.lan, memories, choices.one_buffer.clone())
}

/// Every queue with rings, by a second descriptor of its socket.
fn rings_of(lanes: &mut Lanes, choices: &Choices) -> Vec<Ring> {
    lanes
        .take_rings()
        .into_iter()
        .map(|RingBound { if_index, queue, fd, bound }| Ring {
            interface: choices.name_of(if_index),
            if_index,
            queue,
            bound,
            socket: fd,
        })
        .collect()
}

/// The cores that this process may use.
fn cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// The smallest MTU on the ways to the endpoints whose addresses are known.
fn way_mtu(settings: &Settings, netlink: &mut Netlink, mark: Option<u32>) -> Option<u32> {
    let addresses = settings.peers.iter().filter_map(|peer| peer.endpoint.as_ref()?.host.parse().ok());
    addresses
        .filter_map(|destination| {
            let query = RouteQuery { destination, source: None, mark, if_index: None };
            let route = netlink.route(&query).ok()?;
            let link = netlink.link(route.if_index).ok()?;
            Some(route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)))
        })
        .min()
}
