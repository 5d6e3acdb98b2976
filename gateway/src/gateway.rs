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

mod open;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use landbridge_proto::Endpoint;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::driver::{Driver, End};
use crate::control::hooks::{self, Dns};
use crate::control::kernel::Kernel;
use crate::control::listeners::Listener;
use crate::control::netlink::Netlink;
use crate::control::paths::Ground;
use crate::control::routing::{self, Plan, Routing};
use crate::control::{self, Control, Parts, crypto, lan, privileges, source_ports};
use crate::datapath::lanes::{self, Lanes, Offloads};
use crate::datapath::report::Waker;
use crate::datapath::tables::{Published, Tables};
use crate::hangup;
use crate::settings::{Origin, Settings};
use open::{Choices, Claims, Opened};

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
    // A terminal that closes would end us with rules left behind; under nohup it is to change nothing.
    let mut hangup = match hangup::is_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup()).context("cannot catch SIGHUP")?),
    };
    Ok(async move {
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hung_up => "SIGHUP",
        }
    })
}

/// A gateway that runs: what has to be given back, and in which order.
struct Gateway {
    control: Control,
    lanes: Lanes,
    routing: Routing,
    plan: Plan,
    choices: Choices,
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
        let mut netlink = Netlink::new().context("cannot speak rtnetlink")?;
        let Claims { status, uapi } = Claims::stake(settings, options, &mut netlink)?;
        let crypto = crypto::choose(settings.crypto)?;
        let plan = match options.mode {
            RunMode::Up => routing::plan(settings, &mut netlink).context("cannot read the routes of this host")?,
            RunMode::Wg => Plan { table: None, own: None },
        };
        let fwmark = settings.fwmark.filter(|mark| *mark != 0).or(plan.own.map(|own| own.mark));
        let (mut choices, steer) = Choices::make(settings, &mut netlink)?;
        let Opened { sockets, lane_sockets, source_ports, tun, tunnel, mtu, crew } =
            Opened::open(settings, options, &choices, fwmark, &mut netlink)?;
        let lan = open::lan_status(&choices.lan, &tun, crew.busy);
        let offloads = Offloads { tso: tun.tso, uso: tun.uso };
        let mut configs = open::lane_configs(settings, &crew, mtu, &choices, sockets.lanes, tun.queues, offloads);
        source_ports::share(&source_ports, &mut configs).context("cannot share the source ports among lanes")?;
        let published: Published = Arc::new(ArcSwap::from_pointee(Tables::new(mtu)));
        let waker = Waker::new().context("cannot make an eventfd")?;
        let mut lanes = lanes::start(configs, Arc::clone(&published), waker.clone())?;
        let ground = Ground {
            ringed: choices.wan.interfaces.iter().map(|interface| interface.index).collect(),
            tunnel: tunnel.index_at_home(),
            mark: fwmark,
        };
        let mut endpoint = Endpoint::new(Instant::now(), rand::random());
        endpoint.set_channel(open::channel(&source_ports, &crew));
        let kernel = Kernel::new(netlink).context("cannot read the interfaces of this host")?;
        let mut driver = Driver::new(endpoint, kernel, ground, sockets.control, Arc::clone(&published));
        driver.set_lanes(lanes.handles().iter().map(|handle| handle.link.clone()).collect());
        driver.set_source_ports(source_ports);
        driver.steer = steer;
        driver.relays = open::relays(settings, &mut choices, &published, fwmark)?;
        let listener = uapi.for_runtime().context("cannot serve the UAPI socket")?;
        let parts = Parts {
            driver,
            facts: open::facts(&choices, lan, crypto, &mut lanes),
            tunnel,
            waker,
            lane_sockets,
            fwmark,
            uapi: Some(uapi),
            rings: open::places(settings, &choices, &lanes, crew.busy),
            mtu_follows: settings.mtu.is_none() && options.mode == RunMode::Up,
            nat: settings.nat.clone(),
        };
        let control = Control::new(parts).context("cannot start the control task")?;
        let routing = Routing::default();
        Ok(Self { control, lanes, routing, plan, choices, dns: None, status, uapi: Some(listener) })
    }

    /// Keys and peers, servers, XDP, routes, and the word that it is ready.
    fn finish_start(&mut self, settings: &Settings, options: &mut RunOptions) -> anyhow::Result<()> {
        self.control.configure_from(settings)?;
        self.serve_clients(settings)?;
        self.control.begin_steering()?;
        self.control.begin_relaying()?;
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
        self.control.begin_candidates();
        if let Some(user) = &settings.user {
            privileges::become_user(user, self.choices.have_rings())?;
        }
        let crypto = self.control.facts().crypto.clone();
        let driver = self.control.driver();
        tracing::info!(
            interface = settings.interface,
            port = driver.socket.port(),
            wan = self.choices.wan.backend(),
            why = self.choices.wan.reason,
            lan = self.choices.lan.backend(),
            lan_why = self.choices.lan.reason,
            crypto = crypto.engine,
            crypto_why = crypto.reason,
            lanes = driver.lanes().len(),
            origin = options.origin.as_ref().map(|origin| origin.0.display().to_string()),
            "ready"
        );
        if !self.choices.lan.ports.is_empty() {
            for sysctl in lan::forwarding_off() {
                tracing::warn!(sysctl, "is 0: what lan rings leave to the kernel is not forwarded");
            }
        }
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
            let listener = tokio_uring::net::TcpListener::bind(address).with_context(|| {
                format!("metrics: cannot listen on {address}: choose another address, or end the program that has it")
            })?;
            tokio_uring::spawn(control::metrics::http::serve(listener, asker));
        }
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
