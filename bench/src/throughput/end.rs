//! The two XDP programs on one host's interface: a source of frames and a sink for them.
//!
//! Enters: an interface, and what the programs are told. Leaves: what they counted. Never does: leave a program
//! attached; the kernel detaches it with the last descriptor, however this process ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context as _;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, Pod, TestRun as _, TestRunAttrs, TestRunOptions};
use landbridge::lab::links::Link;
use landbridge::lab::namespace::Namespace;
use landbridge_ebpf_common::bench::{LATENCY_BUCKETS, Progress, Sink, Source, Tally, bucket_ns, map};
use nix::errno::Errno;

use super::latency::Latency;
use super::ring_source::{self, Shared};

/// The committed object; `ebpf/build.sh` makes it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/prebuilt/landbridge_bench.o"));
const SOURCE: &str = "landbridge_source";
const SINK: &str = "landbridge_sink";
/// Frames that the kernel makes and sends in one go.
const BATCH: u32 = 64;

/// One host's interface with both programs loaded, and the sink attached.
pub(crate) struct End {
    ebpf: Arc<Ebpf>,
    if_index: u32,
    way: Way,
    /// What was sent by a ring, where that is the way.
    by_ring: Option<Shared>,
    source: Array<MapData, Source>,
    progress: Array<MapData, Progress>,
    sink: Array<MapData, Sink>,
    tally: PerCpuArray<MapData, Tally>,
    latency: PerCpuArray<MapData, [u64; LATENCY_BUCKETS]>,
}

/// What a sink has counted since it was loaded.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    /// Frames.
    pub(crate) tally: Tally,
    /// Latencies, by bucket.
    latency: Vec<u64>,
}

/// How frames leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Way {
    /// As live frames, and by a ring where the driver says that it sends none, or the kernel knows none
    #[default]
    Auto,
    /// As frames of an XDP program, by the driver's XDP transmit (Linux 5.18)
    Live,
    /// By an AF_XDP ring in copy mode: any driver, half the rate
    Ring,
}

impl Way {
    /// The one for an interface.
    pub(super) fn on(self, if_index: u32) -> Self {
        match self {
            // Frames that a driver does not send vanish without a word.
            Self::Auto if landbridge::steer::sends_frames(if_index) == Some(false) => Self::Ring,
            chosen => chosen,
        }
    }
}

impl End {
    /// Lets its frames leave another way.
    pub(crate) fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    /// Loads the programs and attaches the sink to an interface of a namespace, in the driver where it can.
    ///
    /// # Errors
    /// No right to do so, an interface that has an XDP program already, or what the kernel said.
    pub(crate) fn attach(namespace: &Namespace, link: &Link) -> anyhow::Result<Self> {
        let index = link.index;
        namespace.run(move || Self::attach_here(index)).with_context(|| format!("interface {}", link.name))
    }

    /// [`End::attach`] in the namespace of the calling thread.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn attach_here(if_index: u32) -> anyhow::Result<Self> {
        let mut ebpf = load()?;
        let sink = program_mut(&mut ebpf, SINK)?;
        if sink.attach_to_if_index(if_index, XdpMode::Driver).is_err() {
            sink.attach_to_if_index(if_index, XdpMode::Skb).context("the sink cannot be attached")?;
        }
        Self::of(ebpf, if_index)
    }

    fn of(mut ebpf: Ebpf, if_index: u32) -> anyhow::Result<Self> {
        Ok(Self {
            if_index,
            way: Way::Live,
            by_ring: None,
            source: array(&mut ebpf, map::SOURCE)?,
            progress: array(&mut ebpf, map::PROGRESS)?,
            sink: array(&mut ebpf, map::SINK)?,
            tally: per_cpu(&mut ebpf, map::TALLY)?,
            latency: per_cpu(&mut ebpf, map::LATENCY)?,
            ebpf: Arc::new(ebpf),
        })
    }

    /// Tells the sink which frames are its own.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn expect(&mut self, sink: Sink) -> anyhow::Result<()> {
        self.sink.set(0, sink, 0).context("the sink cannot be told what to expect")
    }

    /// What the sink has counted.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn counted(&self) -> anyhow::Result<Counted> {
        let mut tally = Tally::default();
        for of_cpu in self.tally.get(&0, 0).context("the sink's counters cannot be read")?.iter() {
            add(&mut tally, of_cpu);
        }
        let mut latency = vec![0; LATENCY_BUCKETS];
        for of_cpu in self.latency.get(&0, 0).context("the sink's latencies cannot be read")?.iter() {
            latency.iter_mut().zip(of_cpu).for_each(|(sum, count)| *sum += count);
        }
        Ok(Counted { tally, latency })
    }

    /// How far the generator is.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn progress(&self) -> anyhow::Result<Progress> {
        if let Some(shared) = &self.by_ring {
            let progress = *shared.lock().unwrap_or_else(PoisonError::into_inner);
            if progress != Progress::default() {
                return Ok(progress);
            }
        }
        self.progress.get(&0, 0).context("the generator's progress cannot be read")
    }

    /// Starts the generator in a thread that [`spawn`] starts in the interface's namespace. It runs until `end` is set
    /// and the thread gets a signal.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn start(
        &mut self,
        source: Source,
        turns: Turns,
        end: &Arc<AtomicBool>,
        spawn: impl Spawn,
    ) -> anyhow::Result<Running> {
        self.progress.set(0, Progress::default(), 0).context("the generator cannot be reset")?;
        let frame_len = source.sizes.iter().map(|size| size.frame_len).max().unwrap_or_default() as usize;
        self.source.set(0, source, 0).context("the generator cannot be told what to send")?;
        let (ebpf, end, if_index) = (Arc::clone(&self.ebpf), Arc::clone(end), self.if_index);
        let (way, shared) = (self.way, Shared::default());
        self.by_ring = (way != Way::Live).then(|| Arc::clone(&shared));
        spawn(Box::new(move || {
            if turns == Turns::OnlyIdle {
                landbridge_xsk::scheduling::only_idle_turns().context("the generator cannot give way to others")?;
            }
            let way = way.on(if_index);
            let by_ring = |why: Option<anyhow::Error>| {
                let why = why.map_or_else(String::new, |error| format!(" ({error:#})"));
                eprintln!("frames leave by an AF_XDP ring in copy mode{why}");
                ring_source::generate(&source, if_index, &shared, &end)
            };
            match way {
                Way::Ring => by_ring(None),
                Way::Live => generate(&ebpf, if_index, frame_len, &end),
                // A kernel that refuses live frames does so before the first.
                Way::Auto => generate(&ebpf, if_index, frame_len, &end).or_else(|error| by_ring(Some(error))),
            }
        }))
    }
}

/// Which turns a generator gets. It is never idle itself: between two frames it drops what the kernel offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turns {
    /// Those that nobody else wants: on the machine whose gateways are measured, the time between two frames is theirs,
    /// and where they need all of it, less is offered.
    OnlyIdle,
    /// Its share, as any thread: on a machine of its own.
    Fair,
}

/// A generator on its way.
pub(crate) type Running = JoinHandle<anyhow::Result<()>>;

/// Starts a thread in the interface's namespace.
pub(crate) trait Spawn:
    FnOnce(Box<dyn FnOnce() -> anyhow::Result<()> + Send>) -> anyhow::Result<Running>
{
}

impl<F> Spawn for F where F: FnOnce(Box<dyn FnOnce() -> anyhow::Result<()> + Send>) -> anyhow::Result<Running> {}

impl Counted {
    /// What was counted since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> (Tally, Latency) {
        let (now, before) = (&self.tally, &earlier.tally);
        let tally = Tally {
            received: now.received - before.received,
            duplicated: now.duplicated - before.duplicated,
            reordered: now.reordered - before.reordered,
            corrupted: now.corrupted - before.corrupted,
            stale: now.stale - before.stale,
            jitter_sum_ns: now.jitter_sum_ns - before.jitter_sum_ns,
            jitter_count: now.jitter_count - before.jitter_count,
            passed: now.passed - before.passed,
        };
        let mut latency = Latency::default();
        for (index, (now, before)) in (0..).zip(self.latency.iter().zip(&earlier.latency)) {
            let (low, next) = bucket_ns(index);
            latency.record(low + (next - low) / 2, now - before);
        }
        (tally, latency)
    }
}

/// Both programs, attached nowhere.
fn load() -> anyhow::Result<Ebpf> {
    // Another build of the object can be tried, as with the gateway's.
    let other = std::env::var_os("LANDBRIDGE_BENCH_OBJECT").map(std::fs::read).transpose();
    let other = other.context("LANDBRIDGE_BENCH_OBJECT cannot be read")?;
    let object = other.as_deref().unwrap_or(OBJECT);
    let mut ebpf = EbpfLoader::new().btf(None).load(object).context("the XDP object of the bench cannot be loaded")?;
    program_mut(&mut ebpf, SOURCE)?.load().context("the generator's program is refused")?;
    program_mut(&mut ebpf, SINK)?.load().context("the sink's program is refused")?;
    Ok(ebpf)
}

fn add(sum: &mut Tally, other: &Tally) {
    sum.received += other.received;
    sum.duplicated += other.duplicated;
    sum.reordered += other.reordered;
    sum.corrupted += other.corrupted;
    sum.stale += other.stale;
    sum.jitter_sum_ns += other.jitter_sum_ns;
    sum.jitter_count += other.jitter_count;
    sum.passed += other.passed;
}

/// Runs the program on live frames until a signal comes and `end` is set.
fn generate(ebpf: &Ebpf, if_index: u32, frame_len: usize, end: &AtomicBool) -> anyhow::Result<()> {
    let xdp: &Xdp = ebpf.program(SOURCE).context("the object has no generator")?.try_into()?;
    let frame = vec![0_u8; frame_len];
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: Vec<u8> = [0, frame_len as u32, 0, if_index, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    while !end.load(Ordering::Relaxed) {
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat: i32::MAX.cast_unsigned(),
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        match xdp.test_run(options) {
            Ok(_) => {}
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            Err(error) => return Err(error).context("the kernel refuses live frames (Linux 5.18 has them)"),
        }
    }
    Ok(())
}

fn program_mut<'e>(ebpf: &'e mut Ebpf, name: &str) -> anyhow::Result<&'e mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn array<T: Pod>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Array<MapData, T>> {
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    Ok(map.try_into()?)
}

fn per_cpu<T: Pod>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<PerCpuArray<MapData, T>> {
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    Ok(map.try_into()?)
}

#[cfg(test)]
mod tests;
