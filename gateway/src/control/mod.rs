//! The control task: everything of a gateway that is not a packet's way.
//!
//! One thread, beside the lanes. One round of its loop:
//! 1. Wait for a datagram, a report of a lane, a question, news of the kernel, a resolved name, a signal, or a time.
//! 2. Take a bounded number of them, so that no flood of one keeps the others waiting.
//! 3. Run what is due, and settle: publish the next snapshot, send what is to be sent ([`driver`]).
//!
//! Enters: all of the above. Leaves: snapshots, commands, datagrams, answers. Never does: wait for a peer, a name server
//! or a client, or touch transport data.

mod candidates;
pub mod crypto;
pub mod driver;
pub mod follow;
pub mod forwarding;
pub mod hooks;
pub mod kernel;
pub mod lan;
pub mod listeners;
pub mod metrics;
pub mod names;
pub mod netlink;
mod news;
pub mod paths;
pub mod privileges;
pub mod relay;
pub mod report;
pub mod rings;
pub mod routing;
pub mod sockets;
pub mod source_ports;
pub mod spray;
pub mod tunnel;
pub mod uapi;
pub mod wan;
mod watch;

mod checksum_offload;
mod configure;
mod serve;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant, SystemTime};

use landbridge_proto::{PeerId, WallClock};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::datapath::report::Waker;
use crate::nat::mapping;
use crate::settings::NatSettings;
use candidates::Candidates;
use driver::{Driver, End};
use follow::Following;
use kernel::Kernel;
use listeners::Listener;
use names::{Names, Resolved};
use netlink::{Monitor, News};
use news::note_news;
use report::Facts;
use rings::Rings;
use tunnel::Tunnel;

pub use serve::status_server;

/// Reads of the control socket in one round.
const READS: usize = 64;
/// How often lanes' activity is looked at while there is any.
const TICK_ACTIVE: Duration = Duration::from_millis(250);
/// How often when there is none.
const TICK_IDLE: Duration = Duration::from_secs(1);
/// How often next hops of paths in use are kept fresh.
const REFRESH: Duration = Duration::from_secs(10);
/// Questions that wait.
const QUERIES: usize = 32;

/// What others ask of the control task.
#[derive(Debug)]
pub enum Query {
    /// UAPI `get`.
    Get(oneshot::Sender<Zeroizing<Vec<u8>>>),
    /// UAPI `set`.
    Set(Box<uapi::parse::Set>, oneshot::Sender<uapi::parse::Errno>),
    /// The status object, as JSON.
    Status(oneshot::Sender<Vec<u8>>),
    /// The metrics, as Prometheus' text.
    Metrics(oneshot::Sender<Vec<u8>>),
}

/// What the control task is given at start.
#[derive(Debug)]
pub struct Parts {
    /// Between protocol and world.
    pub driver: Driver<Kernel>,
    /// What does not change.
    pub facts: Facts,
    /// The tunnel interface.
    pub tunnel: Tunnel,
    /// Pulled by the lanes.
    pub waker: Waker,
    /// Second handles of the lanes' sockets, for their mark.
    pub lane_sockets: Vec<UdpSocket>,
    /// The mark of outer packets.
    pub fwmark: Option<u32>,
    /// Ends the gateway when its file vanishes.
    pub uapi: Option<Listener>,
    /// The interfaces with rings.
    pub rings: Rings,
    /// Whether the tunnel's MTU follows the ways to the peers.
    pub mtu_follows: bool,
    /// How peers behind NATs are found.
    pub nat: NatSettings,
}

/// The control task.
#[derive(Debug)]
pub struct Control {
    driver: Driver<Kernel>,
    facts: Facts,
    tunnel: Tunnel,
    waker: AsyncFd<Waker>,
    lane_sockets: Vec<UdpSocket>,
    fwmark: Option<u32>,
    uapi: Option<Listener>,
    rings: Rings,
    following: Following,
    mtu_follows: bool,
    candidates: Candidates,
    /// Addresses of STUN servers.
    servers: mpsc::Receiver<Resolved<usize>>,
    /// What the router grants.
    mapping: [Option<tokio::sync::watch::Receiver<mapping::State>>; 2],
    names: Names<PeerId>,
    resolved: mpsc::Receiver<Resolved<PeerId>>,
    queries: mpsc::Receiver<Query>,
    ask: mpsc::Sender<Query>,
    /// The control socket's readiness; the socket itself is the driver's.
    datagrams: AsyncFd<OwnedFd>,
    /// That of the further source ports.
    source_ports: Option<AsyncFd<OwnedFd>>,
    /// Which source ports that is.
    ports_watched: u64,
    /// The readiness of a search's sockets, and which search that is.
    spray: (u64, Option<AsyncFd<OwnedFd>>),
    /// Pulled by the relay's thread.
    relay_waker: Option<AsyncFd<Waker>>,
    monitor: AsyncFd<Monitor>,
    /// News of the namespace that the tunnel interface was moved to.
    tunnel_monitor: Option<AsyncFd<Monitor>>,
    news: News,
    news_due: Option<Instant>,
    tick_due: Instant,
    tunnel_due: Instant,
    refresh_due: Instant,
    /// Our addresses as last read.
    addresses: BTreeSet<IpAddr>,
    /// When the peers are told of a change of them.
    announce_due: Option<Instant>,
    active: bool,
    /// More of something waits than one round takes.
    more: bool,
}

impl Control {
    /// Makes the control task of its parts. Called inside the runtime.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let now = Instant::now();
        let (names, resolved) = Names::new();
        let (candidates, servers) = Candidates::new(parts.nat);
        let (ask, queries) = mpsc::channel(QUERIES);
        let datagrams = watch(parts.driver.socket.second_handle()?)?;
        let source_ports = source_ports::watch(&parts.driver.ports)?.map(watch).transpose()?;
        let relay_waker = parts.driver.relays.as_ref().map(|relays| watch(relays.thread.waker.clone())).transpose()?;
        Ok(Self {
            driver: parts.driver,
            facts: parts.facts,
            tunnel: parts.tunnel,
            waker: watch(parts.waker)?,
            lane_sockets: parts.lane_sockets,
            fwmark: parts.fwmark,
            uapi: parts.uapi,
            rings: parts.rings,
            following: Following::default(),
            mtu_follows: parts.mtu_follows,
            candidates,
            servers,
            mapping: [None, None],
            names,
            resolved,
            queries,
            ask,
            datagrams,
            source_ports,
            ports_watched: 0,
            spray: (0, None),
            relay_waker,
            monitor: watch(Monitor::new()?)?,
            tunnel_monitor: None,
            news: News::default(),
            news_due: None,
            tick_due: now,
            tunnel_due: now,
            refresh_due: now + REFRESH,
            addresses: BTreeSet::new(),
            announce_due: None,
            active: false,
            more: false,
        })
    }

    /// Where questions go.
    #[must_use]
    pub fn asker(&self) -> mpsc::Sender<Query> {
        self.ask.clone()
    }

    /// The driver.
    pub fn driver(&mut self) -> &mut Driver<Kernel> {
        &mut self.driver
    }

    /// The tunnel interface.
    pub fn tunnel(&mut self) -> &mut Tunnel {
        &mut self.tunnel
    }

    /// The facts, while they are still gathered.
    pub fn facts(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// Serves until something ends the gateway; `asked` resolves when it is asked to.
    pub async fn serve(&mut self, asked: impl Future<Output = &'static str>) -> End {
        tokio::pin!(asked);
        loop {
            let due = self.next_due();
            tokio::select! {
                reason = &mut asked => return End::Asked(reason),
                ready = self.datagrams.readable() => {
                    if let Ok(mut guard) = ready
                        && !self.driver.receive(Instant::now(), READS)
                    {
                        guard.clear_ready();
                    }
                }
                ready = readable(self.source_ports.as_ref()) => {
                    if let Ok(mut guard) = ready
                        && !self.driver.receive_ports(Instant::now())
                    {
                        guard.clear_ready();
                    }
                }
                ready = readable(self.spray.1.as_ref()) => {
                    if let Ok(mut guard) = ready {
                        guard.clear_ready();
                    }
                    self.driver.receive_spray(Instant::now());
                }
                ready = readable(self.candidates.fresh()) => {
                    if let Ok(mut guard) = ready {
                        // Another round comes when more waits: readiness is asked of the kernel again.
                        guard.clear_ready();
                    }
                    self.receive_fresh(Instant::now());
                }
                ready = self.waker.readable() => {
                    if let Ok(mut guard) = ready {
                        guard.get_inner().clear();
                        guard.clear_ready();
                    }
                    if let Some(end) = self.hear_lanes() {
                        return end;
                    }
                }
                ready = readable(self.relay_waker.as_ref()) => {
                    if let Ok(mut guard) = ready {
                        guard.get_inner().clear();
                        guard.clear_ready();
                    }
                    self.driver.hear_relay(Instant::now());
                }
                ready = self.monitor.readable() => note_news(ready, &mut self.news, &mut self.news_due),
                ready = readable(self.tunnel_monitor.as_ref()) => {
                    note_news(ready, &mut self.news, &mut self.news_due);
                    self.tunnel_due = Instant::now();
                }
                Some(query) = self.queries.recv() => self.answer(query),
                Some(resolved) = self.resolved.recv() => self.take_name(&resolved),
                Some(resolved) = self.servers.recv() => self.take_server(&resolved),
                () = candidates::mapping_changed(&mut self.mapping) => self.take_mapping(),
                () = tokio::time::sleep_until(due.into()) => {}
            }
            if let Some(end) = self.run_due() {
                return end;
            }
        }
    }

    fn next_due(&self) -> Instant {
        if self.more || self.driver.has_doubts() {
            return Instant::now();
        }
        let due = self.tick_due.min(self.tunnel_due).min(self.refresh_due);
        let outlook = self.driver.outlook.poll_timeout();
        let spray = self.driver.sprays.due();
        [self.news_due, self.announce_due, self.following.due(), outlook, spray, self.driver.endpoint.poll_timeout()]
            .into_iter()
            .flatten()
            .fold(due, Instant::min)
    }

    fn hear_lanes(&mut self) -> Option<End> {
        let (more, active, end) = self.driver.hear_lanes(Instant::now());
        self.more = more;
        self.active |= active;
        end
    }

    /// Runs what is due and settles.
    fn run_due(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.more
            && let Some(end) = self.hear_lanes()
        {
            return Some(end);
        }
        if self.tick_due <= now
            && let Some(end) = self.tick(now)
        {
            return Some(end);
        }
        if self.driver.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.driver.endpoint.handle_timeout(now, WallClock(SystemTime::now()));
        }
        if self.news_due.is_some_and(|due| due <= now) {
            self.take_news(now);
        }
        if let Some(error) = self.driver.wan_failed.take() {
            self.doubt_rings(false, &error, now);
        }
        if let Some(error) = self.driver.lan_failed.take() {
            self.doubt_rings(true, &error, now);
        }
        self.run_candidates(now);
        self.follow_lan(now);
        if self.tunnel_due <= now
            && let Some(end) = self.look_at_tunnel(now)
        {
            return Some(end);
        }
        if self.announce_due.is_some_and(|due| due <= now) {
            self.announce_due = None;
            self.driver.endpoint.announce(now);
        }
        if self.refresh_due <= now {
            self.refresh_due = now + REFRESH;
            self.driver.refresh_neighbours();
        }
        self.driver.run_sprays(now);
        self.driver.find_paths();
        self.driver.settle(now);
        self.watch_sprays();
        self.driver.expect_links();
        None
    }

    fn tick(&mut self, now: Instant) -> Option<End> {
        self.active = false;
        let end = self.hear_lanes();
        self.tick_due = now + if self.active { TICK_ACTIVE } else { TICK_IDLE };
        let Self { driver, names, .. } = self;
        names.retain(|peer| driver.peer(peer).is_some_and(|state| state.host.is_some()));
        for peer in std::mem::take(&mut driver.unresolved) {
            if let Some(host) = driver.peer(peer).and_then(|state| state.host.clone()) {
                names.want(peer, host, now);
            }
        }
        for due in [names.run(now), self.candidates.run_names(now)].into_iter().flatten() {
            self.tick_due = self.tick_due.min(due);
        }
        self.look_at_rings(now);
        self.refresh_lan();
        self.tick_relay(now);
        if self.uapi.as_ref().is_some_and(|uapi| !uapi.is_there()) {
            return Some(End::Asked("its UAPI socket was removed"));
        }
        end
    }

    fn answer(&mut self, query: Query) {
        // Who asked may have left in the meantime; that is no concern of ours.
        match query {
            Query::Get(reply) => {
                let device = uapi::get::Device { listen_port: self.driver.socket.port(), fwmark: self.fwmark };
                let mut text = uapi::get::answer(&self.driver.endpoint, device);
                let _ = reply.send(Zeroizing::new(std::mem::take(&mut *text).into_bytes()));
            }
            Query::Set(set, reply) => {
                let _ = reply.send(self.configure(*set));
            }
            Query::Status(reply) => {
                let status = report::gather(&self.facts, &self.driver, &self.tunnel.name, Instant::now());
                let mut text = serde_json::to_vec(&status).unwrap_or_default();
                text.push(b'\n');
                let _ = reply.send(text);
            }
            Query::Metrics(reply) => {
                let status = report::gather(&self.facts, &self.driver, &self.tunnel.name, Instant::now());
                let extra = metrics::Extra::gather(&self.facts, &self.driver);
                let _ = reply.send(metrics::text(&status, &extra));
            }
        }
    }

    /// Ends: everything that is not dropped by itself is given back by the caller.
    #[must_use]
    pub fn into_tunnel(mut self) -> Tunnel {
        // First of all, packets stay with the kernel.
        drop(self.driver.steer.take());
        self.tunnel
    }
}

/// Watches a descriptor that its owner keeps open, which `AsFd` says of it.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe for types that are AsRawFd alone, and no unsafe is allowed here"
)]
fn watch<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, Interest::READABLE)
}

async fn readable<T: AsRawFd>(watched: Option<&AsyncFd<T>>) -> io::Result<tokio::io::unix::AsyncFdReadyGuard<'_, T>> {
    match watched {
        Some(watched) => watched.readable().await,
        None => std::future::pending().await,
    }
}

/// A lane's waker, polled here.
impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
