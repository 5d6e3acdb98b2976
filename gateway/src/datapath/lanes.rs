//! Starts, names and stops the lanes.
//!
//! Enters: what each lane shall own (rings, kernel socket, TUN queue) and the published tables. Leaves: one
//! thread per lane, and for each the handle by which the control task reaches it. Never does: touch a
//! packet; that is [`super::lane`].

use std::any::Any;
use std::net::UdpSocket;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, panic, thread};

use crossbeam::queue::ArrayQueue;
use landbridge_xsk::{Bound, Memory, MemoryConfig, TunQueue, Xsk, XskConfig};

use super::desk::Desk;
pub use super::join::Offloads;

use super::lan::LanSide;
use super::lan_tun::LanTun;
use super::lan_xdp::LanXdp;
use super::lane::Lane;
use super::report::{Command, Link, Report, Waker};
use super::side::{Lan, Wan};
use super::stats::LaneStats;
use super::tables::Published;
use super::wan::WanSide;
use super::wan_udp::WanUdp;
use super::wan_xdp::WanXdp;

/// Reports that wait for the control task, per lane.
const REPORTS: usize = 1024;
/// Commands that wait for a lane.
const COMMANDS: usize = 1024;
/// With fewer cores, a lane that spins takes the core from the one that would bring it work.
const CPUS_TO_SPIN: usize = 3;
/// How long a lane may take to end after it was told to.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What a lane shall own.
#[derive(Debug)]
pub struct LaneConfig {
    /// The core it is pinned to.
    pub cpu: Option<usize>,
    /// Small frames of its packet memory.
    pub frames: u32,
    /// Bytes of each: 2048 or 4096.
    pub frame_size: u32,
    /// Frames for packets that no small one holds.
    pub jumbo_frames: u32,
    /// Try 2 MiB pages.
    pub huge_pages: bool,
    /// Wan queues of this lane; empty for the `udp` backend.
    pub wan_rings: Vec<XskConfig>,
    /// Lan queues of this lane; empty for the `tun` backend.
    pub lan_rings: Vec<XskConfig>,
    /// The lane's kernel socket; `None`: a lane that only steals.
    pub socket: Option<UdpSocket>,
    /// Sockets of further source ports, shared by all lanes and the control task, which receives from them.
    pub ports: Vec<UdpSocket>,
    /// The lane's queue of the tunnel interface.
    pub lan: Option<TunQueue>,
    /// What that interface offers.
    pub offloads: Offloads,
    /// Measure the stages of one turn in so many.
    pub stages: Option<NonZeroU32>,
}

/// A queue that is bound, of either side.
#[derive(Debug)]
pub struct RingBound {
    /// The interface.
    pub if_index: u32,
    /// Its queue.
    pub queue: u32,
    /// The socket, for the XSKMAP.
    pub fd: OwnedFd,
    /// What the kernel granted.
    pub bound: Bound,
}

/// How the control task reaches a lane.
#[derive(Debug)]
pub struct LaneHandle {
    /// Queues and wakers.
    pub link: Link,
    /// The lane's counters.
    pub stats: Arc<LaneStats>,
    /// The queues it has bound.
    pub rings: Vec<RingBound>,
    /// Its packet memory, for rings that come later.
    pub memory: Memory,
    /// The core it is pinned to.
    pub cpu: Option<usize>,
}

/// Why the lanes did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// No packet memory.
    #[error("lane {lane}: cannot reserve packet memory ({frames} frames of {frame_size} bytes)")]
    Memory {
        /// The lane.
        lane: usize,
        /// How many frames.
        frames: u32,
        /// Bytes of each.
        frame_size: u32,
        /// Why.
        source: io::Error,
    },
    /// No AF_XDP socket.
    #[error("lane {lane}: cannot bind an AF_XDP socket to queue {queue} of interface {if_index}")]
    Ring {
        /// The lane.
        lane: usize,
        /// The interface.
        if_index: u32,
        /// Its queue.
        queue: u32,
        /// Why.
        source: io::Error,
    },
    /// The kernel socket cannot be used.
    #[error("lane {lane}: cannot prepare its UDP socket")]
    Socket {
        /// The lane.
        lane: usize,
        /// Why.
        source: io::Error,
    },
    /// No thread or no descriptor for it.
    #[error("lane {lane}: cannot start its thread")]
    Thread {
        /// The lane.
        lane: usize,
        /// Why.
        source: io::Error,
    },
}

/// All lanes of a gateway.
#[derive(Debug)]
pub struct Lanes {
    handles: Vec<LaneHandle>,
    threads: Vec<JoinHandle<bool>>,
}

/// Starts one lane per configuration. `control` wakes the control task.
///
/// # Errors
/// The step that failed; lanes already started are stopped again.
pub fn start(configs: Vec<LaneConfig>, published: Published, control: Waker) -> Result<Lanes, LaneError> {
    let waker = |lane| Waker::new().map_err(|source| LaneError::Thread { lane, source });
    let wakers = (0..configs.len()).map(waker).collect::<Result<Vec<_>, _>>()?;
    let desks = super::desk::desks(wakers.clone());
    // Measured before any thread is pinned, which would narrow what this one sees.
    let spins = thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= CPUS_TO_SPIN);
    let mut lanes = Lanes { handles: Vec::new(), threads: Vec::new() };
    for (id, (config, (desk, waker))) in configs.into_iter().zip(desks.into_iter().zip(wakers)).enumerate() {
        let link = Link {
            reports: Arc::new(ArrayQueue::new(REPORTS)),
            commands: Arc::new(ArrayQueue::new(COMMANDS)),
            control: control.clone(),
            lane: waker,
        };
        match start_one(id, config, desk, &published, link, spins) {
            Ok((handle, thread)) => {
                lanes.handles.push(handle);
                lanes.threads.push(thread);
            }
            Err(error) => {
                lanes.stop();
                return Err(error);
            }
        }
    }
    Ok(lanes)
}

impl Lanes {
    /// One handle per lane, in the order of the configurations.
    #[must_use]
    pub fn handles(&self) -> &[LaneHandle] {
        &self.handles
    }

    /// The queues that the lanes have bound. Who takes them decides how long the kernel keeps the queues, as each holds
    /// a descriptor.
    pub fn take_rings(&mut self) -> Vec<RingBound> {
        self.handles.iter_mut().flat_map(|handle| std::mem::take(&mut handle.rings)).collect()
    }

    /// Tells every lane to end and waits for it, but not for ever. True when all ended in time and every frame of their
    /// packet memory came home; what did not is in the log.
    pub fn stop(self) -> bool {
        for handle in &self.handles {
            // A full queue must not keep a lane alive: its oldest command makes room.
            let _ = handle.link.commands.force_push(Command::Stop);
            handle.link.lane.wake();
        }
        let limit = Instant::now() + STOP_LIMIT;
        let mut clean = true;
        for (lane, thread) in self.threads.into_iter().enumerate() {
            while !thread.is_finished() && Instant::now() < limit {
                thread::sleep(Duration::from_millis(1));
            }
            if !thread.is_finished() {
                tracing::error!(lane, "the lane did not end in time");
                clean = false;
                continue;
            }
            clean &= thread.join().unwrap_or(false);
        }
        clean
    }
}

fn start_one(
    lane: usize,
    config: LaneConfig,
    desk: Desk,
    published: &Published,
    link: Link,
    spins: bool,
) -> Result<(LaneHandle, JoinHandle<bool>), LaneError> {
    let LaneConfig { cpu, frames, frame_size, jumbo_frames, huge_pages, .. } = config;
    let (memory, pool) = Memory::new(MemoryConfig { frames, frame_size, jumbo_frames, huge_pages })
        .map_err(|source| LaneError::Memory { lane, frames, frame_size, source })?;
    let mut bound = Vec::new();
    let wan_rings = bind(lane, &config.wan_rings, &memory, &mut bound, WanXdp::new)?;
    let lan_rings = bind(lane, &config.lan_rings, &memory, &mut bound, LanXdp::new)?;
    let failed = |source| LaneError::Socket { lane, source };
    let socket = config.socket.map(WanUdp::new).transpose().map_err(failed)?;
    let ports = config.ports.into_iter().map(WanUdp::new).collect::<Result<_, _>>().map_err(failed)?;
    let lan = LanSide::new(lan_rings, config.lan.map(|queue| LanTun::new(queue, config.offloads)));
    let stats = Arc::new(LaneStats::default());
    let handle = LaneHandle { link: link.clone(), stats: Arc::clone(&stats), rings: bound, memory, cpu };
    let wan = WanSide::new(wan_rings, socket, ports);
    let mut engine = Lane::new(wan, lan, pool, desk, Arc::clone(published), link, stats);
    if let Some(every) = config.stages {
        engine.sample_stages(every);
    }
    let thread = thread::Builder::new()
        .name(format!("lane-{lane}"))
        .spawn(move || supervise(lane, cpu, engine, spins))
        .map_err(|source| LaneError::Thread { lane, source })?;
    Ok((handle, thread))
}

/// Opens a socket for each queue. `bound` gets what was granted and a descriptor of each.
fn bind<S>(
    lane: usize,
    rings: &[XskConfig],
    memory: &Memory,
    bound: &mut Vec<RingBound>,
    side: impl Fn(u32, Xsk) -> S,
) -> Result<Vec<S>, LaneError> {
    let bind = |ring: &XskConfig| {
        let failed = |source| LaneError::Ring { lane, if_index: ring.if_index, queue: ring.queue, source };
        let socket = Xsk::open(ring, memory).map_err(failed)?;
        let fd = socket.as_fd().try_clone_to_owned().map_err(failed)?;
        bound.push(RingBound { if_index: ring.if_index, queue: ring.queue, fd, bound: socket.bound() });
        Ok(side(ring.if_index, socket))
    };
    rings.iter().map(bind).collect()
}

/// Pins the thread, runs the lane and tells the control task when it ends for another reason than being asked to.
pub(super) fn supervise<W: Wan, L: Lan>(id: usize, cpu: Option<usize>, lane: Lane<W, L>, spins: bool) -> bool {
    if let Some(cpu) = cpu {
        pin(id, cpu);
    }
    let link = lane.link().clone();
    // What the lane owns is dropped by the unwinding; nobody else sees it in between.
    let ended = panic::catch_unwind(panic::AssertUnwindSafe(|| super::wait::run(lane, spins)));
    match ended {
        Ok(mut pool) => {
            let (free, total) = (pool.free(), pool.total());
            if free != total {
                tracing::error!(lane = id, ?free, ?total, "frames of packet memory did not come home");
            }
            free == total
        }
        Err(cause) => {
            let _ = link.reports.force_push(Report::LaneFailed(format!("lane {id}: {}", text_of(&*cause))));
            link.control.wake();
            false
        }
    }
}

fn pin(lane: usize, cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    if cpu < rustix::thread::CpuSet::MAX_CPU {
        set.set(cpu);
    }
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(lane, cpu, %error, "the lane runs unpinned");
    }
}

fn text_of(cause: &(dyn Any + Send)) -> &str {
    cause
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| cause.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panicked")
}
