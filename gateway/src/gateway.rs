//! A gateway from start to stop: what is opened in which order, and given back in the reverse one.
//!
//! 1. Names and port are checked, and claimed: status and UAPI sockets, UDP sockets.
//! 2. The tunnel interface is made; the lanes start, with their rings.
//! 3. The control task gets keys and peers; whoever asks is answered.
//! 4. The XDP program is attached: until then nothing is taken from the kernel.
//! 5. Addresses and routes; then the gateway is ready.
//!
//! The way down is the reverse, so packets go back to the kernel first.
//!
//! Enters: [`Settings`] and [`RunOptions`]. Leaves: a running gateway, until a signal, the end of its
//! interface or of its UAPI socket. Never does: touch a packet or decide about the protocol.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use landbridge_proto::Endpoint;
use landbridge_xsk::{Tun, TunConfig, TunQueue, XskConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::control::driver::{Driver, End};
use crate::control::hooks::{self, Dns};
use crate::control::kernel::Kernel;
use crate::control::listeners::{Listener, uapi_path};
use crate::control::netlink::Netlink;
use crate::control::paths::Ground;
use crate::control::report::{Facts, Ring};
use crate::control::routing::{self, Plan, Routing};
use crate::control::sockets::Sockets;
use crate::control::tunnel::Tunnel;
use crate::control::wan::{self, Choice};
use crate::control::{self, Control, Parts, privileges};
use crate::datapath::lanes::{self, LaneConfig, Lanes, Offloads};
use crate::datapath::report::Waker;
use crate::datapath::tables::{Published, Tables};
use crate::settings::{Origin, Settings};
use crate::status::{self, LanStatus, WanInterfaceStatus, WanStatus};
use crate::steer::Steer;

/// Lanes unless configured: more than this many seldom pay.
const LANES_MAX: usize = 8;
/// Small frames of each lane unless configured.
const FRAMES: u32 = 8192;
/// Frames of each lane for packets that no small one holds.
const JUMBO_FRAMES: u32 = 128;
/// Tunnel MTUs beyond this do not fit frames of 2048 bytes behind their headroom.
const SMALL_MTU_MAX: u32 = 1800;

/// Who configures the gateway, and what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// `landbridge up`: addresses, routes and hooks come from the settings and are taken away at the end.
    Up,
    /// `landbridge wg`: the cross-platform userspace interface. Addresses and routes are somebody else's, keys and peers
    /// come by the UAPI socket, and the gateway ends when its interface or that socket goes away.
    Wg,
}

/// How a gateway is run.
pub struct RunOptions {
    /// Who configures it.
    pub mode: RunMode,
    /// Called once, when the gateway is ready (daemonised parents, `sd_notify`).
    pub ready: Option<Box<dyn FnOnce() + Send>>,
    /// Called once, when the gateway was asked to end and begins to give everything back.
    pub ending: Option<Box<dyn FnOnce() + Send>>,
    /// Where the settings came from, for messages.
    pub origin: Option<Origin>,
    /// A TUN descriptor that somebody else opened (`WG_TUN_FD`).
    pub tun_fd: Option<OwnedFd>,
    /// A listening UAPI socket that somebody else opened (`WG_UAPI_FD`).
    pub uapi_fd: Option<OwnedFd>,
}

impl RunOptions {
    /// Nothing inherited, nobody to tell.
    #[must_use]
    pub fn new(mode: RunMode) -> Self {
        Self { mode, ready: None, ending: None, origin: None, tun_fd: None, uapi_fd: None }
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("mode", &self.mode)
            .field("origin", &self.origin)
            .field("tun_fd", &self.tun_fd)
            .field("uapi_fd", &self.uapi_fd)
            .finish_non_exhaustive()
    }
}

/// Runs a gateway until it is told to end. Blocks the calling thread.
///
/// # Errors
/// What could not be opened, bound or set up, with the way out.
pub fn run(settings: Settings, options: RunOptions) -> anyhow::Result<()> {
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .context("io_uring cannot be used: see sysctl kernel.io_uring_disabled, or the container's seccomp profile")?;
    runtime.block_on(live(settings, options))
}

async fn live(settings: Settings, mut options: RunOptions) -> anyhow::Result<()> {
    // From here on a signal is remembered, also during the start.
    let asked = signals()?;
    if options.mode == RunMode::Up {
        hooks::run("PreUp", &settings.hooks.pre_up, &settings.interface)?;
    }
    let mut gateway = Gateway::start(&settings, &mut options)?;
    let result = match gateway.finish_start(&settings, &mut options) {
        Ok(()) => match gateway.control.serve(asked).await {
            End::Asked(reason) => {
                tracing::info!(reason, "ending");
                if let Some(ending) = options.ending.take() {
                    ending();
                }
                Ok(())
            }
            End::Failed(what) => Err(anyhow::anyhow!(what)),
        },
        Err(error) => Err(error),
    };
    gateway.stop(&settings, options.mode);
    result
}

/// Resolves when a signal asks the gateway to end.
fn signals() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// A gateway that runs: what has to be given back, and in which order.
struct Gateway {
    control: Control,
    lanes: Lanes,
    routing: Routing,
    plan: Plan,
    choice: Choice,
    dns: Option<Dns>,
    /// Claims the interface's name among gateways; its file goes with it.
    status: Listener,
    uapi: UapiListener,
}

/// The UAPI listener as the runtime serves it; the control task keeps the file.
type UapiListener = Option<tokio::net::UnixListener>;

impl Gateway {
    /// Everything up to the control task; nothing is taken from the kernel yet.
    fn start(settings: &Settings, options: &mut RunOptions) -> anyhow::Result<Self> {
        let name = settings.interface.as_str();
        let mut netlink = Netlink::new().context("cannot speak rtnetlink")?;
        if options.tun_fd.is_none() && netlink.link_by_name(name).is_ok() {
            bail!(
                "interface {name} exists already: another gateway or program has it, choose another name or end that program"
            );
        }
        let status = Listener::bind(&status::socket_path(name))?;
        let uapi = match options.uapi_fd.take() {
            Some(fd) => Listener::inherit(fd, &uapi_path(name)).context("the UAPI socket handed over (WG_UAPI_FD)")?,
            None => Listener::bind(&uapi_path(name))?,
        };
        let plan = match options.mode {
            RunMode::Up => routing::plan(settings, &mut netlink).context("cannot read the routes of this host")?,
            RunMode::Wg => Plan { table: None, own: None },
        };
        let fwmark = settings.fwmark.filter(|mark| *mark != 0).or(plan.own.map(|own| own.mark));
        let choice = wan::choose(settings, &mut netlink)?;
        let rings = choice.rings(settings);
        let lane_count = settings.lanes.unwrap_or_else(|| cpus().len().min(LANES_MAX)).max(1);
        // Lanes beyond the queues of the wan have no I/O: they steal.
        let mut busy = if rings.is_empty() { lane_count } else { lane_count.min(rings.len()) };
        if options.tun_fd.is_some() {
            // A descriptor handed over is one queue of the tunnel interface, and every lane with I/O needs one.
            busy = 1;
        }
        let made_here = options.tun_fd.is_none();
        let sockets = Sockets::open(settings.listen_port, busy, fwmark)?;
        let lane_sockets =
            sockets.lanes.iter().map(std::net::UdpSocket::try_clone).collect::<std::io::Result<Vec<_>>>()?;
        let tun = open_tun(settings, options, busy)?;
        let tunnel = Tunnel::new(tun.queues[0].try_clone()?).context("cannot follow the tunnel interface")?;
        let mtu = settings.mtu.unwrap_or_else(|| routing::tunnel_mtu(way_mtu(settings, &mut netlink, fwmark)));
        if made_here {
            // Packets of another MTU than the lanes know must not come in the meantime; others may change it later.
            let if_index = tunnel.if_index;
            netlink.set_mtu(if_index, mtu).with_context(|| format!("cannot set the MTU of {name} to {mtu}"))?;
        }
        let published: Published = Arc::new(ArcSwap::from_pointee(Tables::new(mtu)));
        let steer =
            if rings.is_empty() { None } else { Some(Steer::load().context("the XDP program cannot be loaded")?) };
        let lan = lan_status(&tun, busy);
        let offloads = Offloads { tso: tun.tso, uso: tun.uso };
        let configs = lane_configs(settings, lane_count, mtu, rings, sockets.lanes, tun.queues, offloads);
        let waker = Waker::new().context("cannot make an eventfd")?;
        let lanes = lanes::start(configs, Arc::clone(&published), waker.clone())?;
        let ground = Ground {
            ringed: choice.interfaces.iter().map(|interface| interface.index).collect(),
            tunnel: tunnel.index_at_home(),
            mark: fwmark,
        };
        let endpoint = Endpoint::new(Instant::now(), rand::random());
        let kernel = Kernel::new(netlink).context("cannot read the interfaces of this host")?;
        let mut driver = Driver::new(endpoint, kernel, ground, sockets.control, published);
        driver.set_lanes(lanes.handles().iter().map(|handle| handle.link.clone()).collect());
        driver.steer = steer;
        let facts = Facts {
            started: Instant::now(),
            wan: WanStatus {
                backend: choice.backend().to_owned(),
                reason: choice.reason.clone(),
                interfaces: Vec::new(),
            },
            lan,
            lanes: lanes.handles().iter().map(|handle| (handle.cpu, Arc::clone(&handle.stats))).collect(),
            rings: rings_of(&lanes, &choice)?,
        };
        let listener = uapi.for_runtime().context("cannot serve the UAPI socket")?;
        let parts = Parts {
            driver,
            facts,
            tunnel,
            waker,
            lane_sockets,
            fwmark,
            uapi: Some(uapi),
            mtu_follows: settings.mtu.is_none() && options.mode == RunMode::Up,
        };
        let control = Control::new(parts).context("cannot start the control task")?;
        let routing = Routing::default();
        Ok(Self { control, lanes, routing, plan, choice, dns: None, status, uapi: Some(listener) })
    }

    /// Keys and peers, servers, XDP, routes, and the word that it is ready.
    fn finish_start(&mut self, settings: &Settings, options: &mut RunOptions) -> anyhow::Result<()> {
        self.control.configure_from(settings)?;
        self.serve_clients(settings)?;
        self.attach(settings)?;
        if options.mode == RunMode::Up {
            let tunnel = self.control.tunnel();
            let if_index = tunnel.if_index;
            Routing::bring_up(&mut tunnel.netlink, settings, if_index)?;
            self.routing.add(&mut tunnel.netlink, settings, if_index, self.plan)?;
            self.dns = Dns::set(&settings.dns, &settings.interface);
            // An endpoint may lie within our own routes from here on.
            self.control.driver().doubt_paths();
            hooks::run("PostUp", &settings.hooks.post_up, &settings.interface)?;
        }
        if let Some(user) = &settings.user {
            privileges::become_user(user)?;
        }
        let driver = self.control.driver();
        tracing::info!(
            interface = settings.interface,
            port = driver.socket.port(),
            wan = self.choice.backend(),
            why = self.choice.reason,
            lanes = driver.lanes().len(),
            origin = options.origin.as_ref().map(|origin| origin.0.display().to_string()),
            "ready"
        );
        if let Some(ready) = options.ready.take() {
            ready();
        }
        Ok(())
    }

    fn serve_clients(&mut self, settings: &Settings) -> anyhow::Result<()> {
        let asker = self.control.asker();
        if let Some(listener) = self.uapi.take() {
            tokio_uring::spawn(control::uapi::serve(listener, asker.clone()));
        }
        let listener = self.status.for_runtime().context("cannot serve the status socket")?;
        tokio_uring::spawn(control::status_server(listener, asker.clone()));
        if let Some(address) = settings.metrics {
            let listener = tokio_uring::net::TcpListener::bind(address)
                .with_context(|| format!("metrics: cannot listen on {address}"))?;
            tokio_uring::spawn(control::metrics::serve(listener, asker));
        }
        Ok(())
    }

    /// Gives the rings to the XDP program and attaches it.
    fn attach(&mut self, settings: &Settings) -> anyhow::Result<()> {
        self.control.steer_addresses();
        let driver = self.control.driver();
        let port = driver.socket.port();
        let Some(steer) = &mut driver.steer else { return Ok(()) };
        steer.set_port(port)?;
        for ring in self.lanes.handles().iter().flat_map(|handle| &handle.rings) {
            steer.bind_socket(ring.if_index, ring.queue, ring.fd.as_fd())?;
        }
        let mut interfaces = Vec::new();
        for interface in &self.choice.interfaces {
            let attached = steer.attach(interface.index, &interface.name, settings.wan.xdp_mode)?;
            if let Some(reason) = &attached.fallback_reason {
                tracing::warn!(interface = interface.name, reason, "XDP runs in generic mode");
            }
            let rings: Vec<_> = self
                .lanes
                .handles()
                .iter()
                .flat_map(|handle| &handle.rings)
                .filter(|ring| ring.if_index == interface.index)
                .collect();
            let zero_copy = !rings.is_empty() && rings.iter().all(|ring| ring.bound.zero_copy);
            interfaces.push(WanInterfaceStatus {
                name: interface.name.clone(),
                driver: interface.driver.clone(),
                xdp_mode: attached.mode.label().to_owned(),
                copy_mode: if zero_copy { "zero-copy" } else { "copy" }.to_owned(),
                queues: u32::try_from(rings.len()).unwrap_or(u32::MAX),
            });
        }
        self.control.facts().wan.interfaces = interfaces;
        Ok(())
    }

    /// Gives everything back, in the reverse order.
    fn stop(self, settings: &Settings, mode: RunMode) {
        let Self { control, lanes, mut routing, dns, status, .. } = self;
        if mode == RunMode::Up {
            hooks::run_all("PreDown", &settings.hooks.pre_down, &settings.interface);
        }
        // Detaches XDP and closes the UAPI socket.
        let mut tunnel = control.into_tunnel();
        routing.remove(&mut tunnel.netlink);
        drop(dns);
        lanes.stop();
        drop(tunnel);
        drop(status);
        if mode == RunMode::Up {
            hooks::run_all("PostDown", &settings.hooks.post_down, &settings.interface);
        }
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

fn lan_status(tun: &Tun, queues: usize) -> LanStatus {
    LanStatus {
        backend: "tun".to_owned(),
        reason: "a TUN interface serves this host and what it forwards".to_owned(),
        tso: tun.tso,
        uso: tun.uso,
        queues: tun.queues.len().min(queues),
    }
}

/// What each lane owns: queues of the wan in turn, a socket and a queue of the tunnel interface as long as there are any.
fn lane_configs(
    settings: &Settings,
    count: usize,
    mtu: u32,
    rings: Vec<XskConfig>,
    sockets: Vec<std::net::UdpSocket>,
    queues: Vec<TunQueue>,
    offloads: Offloads,
) -> Vec<LaneConfig> {
    let cpus = cpus();
    let busy = sockets.len();
    let (mut sockets, mut queues) = (sockets.into_iter(), queues.into_iter());
    let mut configs: Vec<_> = (0..count)
        .map(|lane| LaneConfig {
            cpu: (!cpus.is_empty()).then(|| cpus[lane % cpus.len()]),
            frames: if settings.frames_per_lane == 0 { FRAMES } else { settings.frames_per_lane },
            frame_size: if mtu > SMALL_MTU_MAX { 4096 } else { 2048 },
            jumbo_frames: JUMBO_FRAMES,
            huge_pages: true,
            rings: Vec::new(),
            socket: sockets.next(),
            lan: queues.next(),
            offloads,
        })
        .collect();
    for (place, ring) in rings.into_iter().enumerate() {
        configs[place % busy.max(1)].rings.push(ring);
    }
    configs
}

/// Every wan queue with rings, by a second descriptor of its socket.
fn rings_of(lanes: &Lanes, choice: &Choice) -> std::io::Result<Vec<Ring>> {
    let rings = lanes.handles().iter().flat_map(|handle| &handle.rings);
    rings
        .map(|ring| {
            let interface = choice.interfaces.iter().find(|interface| interface.index == ring.if_index);
            let interface = interface.map(|interface| interface.name.clone()).unwrap_or_default();
            Ok(Ring { interface, queue: ring.queue, socket: ring.fd.try_clone()? })
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
            let query = control::netlink::routes::RouteQuery { destination, source: None, mark, if_index: None };
            let route = netlink.route(&query).ok()?;
            let link = netlink.link(route.if_index).ok()?;
            Some(route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)))
        })
        .min()
}
