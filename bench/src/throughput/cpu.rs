//! CPU time: of each gateway's process, and of the machine by kind.
//!
//! Enters: process ids. Leaves: what was used between two readings. Never does: claim the kernel's work on behalf of
//! others for a process: time in soft interrupts is known for the whole machine only, because the kernel keeps no
//! account of it by namespace or process. It is told beside the gateways' own time, never added to it.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Ticks of /proc/stat and /proc/PID/stat: USER_HZ, which Linux fixes at 100 for programs.
const TICK: Duration = Duration::from_millis(10);

/// A reading.
#[derive(Debug, Clone)]
pub(crate) struct CpuReading {
    at: Instant,
    gateways: Vec<ProcessTime>,
    machine: MachineTime,
}

#[derive(Debug, Clone, Copy, Default)]
struct ProcessTime {
    user: Duration,
    system: Duration,
    /// User and system together, by the scheduler's clock of nanoseconds.
    exact: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct MachineTime {
    user: Duration,
    system: Duration,
    interrupts: Duration,
    idle: Duration,
    stolen: Duration,
}

/// CPU used between two readings.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CpuUse {
    /// How long the time between them was.
    pub(crate) seconds: f64,
    /// Each gateway's own process, A first; empty where the kernel routes.
    pub(crate) gateways: Vec<GatewayUse>,
    /// User code of the whole machine, in seconds of one core.
    pub(crate) machine_user: f64,
    /// Kernel code but interrupts.
    pub(crate) machine_system: f64,
    /// Interrupts, soft and hard: most of the network's work between namespaces is here.
    pub(crate) machine_interrupts: f64,
    /// Nothing to do.
    pub(crate) machine_idle: f64,
    /// Given to other virtual machines by the hypervisor.
    pub(crate) machine_stolen: f64,
}

/// CPU used by a gateway's process, in seconds of one core.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct GatewayUse {
    /// Its own code.
    pub(crate) user: f64,
    /// The kernel's, in its system calls.
    pub(crate) system: f64,
}

impl GatewayUse {
    /// Both.
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

impl CpuReading {
    /// Reads.
    pub(crate) fn take(gateways: impl IntoIterator<Item = u32>) -> Self {
        Self {
            at: Instant::now(),
            gateways: gateways.into_iter().map(process_time).collect(),
            machine: read_to_string("/proc/stat").ok().and_then(|text| machine_time(&text)).unwrap_or_default(),
        }
    }

    /// What was used since then.
    pub(crate) fn until(&self, later: &Self) -> CpuUse {
        let used = |(before, after): (&ProcessTime, &ProcessTime)| {
            let user = after.user.saturating_sub(before.user).as_secs_f64();
            let system = after.system.saturating_sub(before.system).as_secs_f64();
            let exact = after.exact.saturating_sub(before.exact).as_secs_f64();
            // Ticks tell the shares, the scheduler's clock how much it was.
            let share = if user + system > 0.0 { user / (user + system) } else { 0.5 };
            let total = if exact > 0.0 { exact } else { user + system };
            GatewayUse { user: total * share, system: total * (1.0 - share) }
        };
        let between =
            |time: fn(&MachineTime) -> Duration| time(&later.machine).saturating_sub(time(&self.machine)).as_secs_f64();
        CpuUse {
            seconds: later.at.saturating_duration_since(self.at).as_secs_f64(),
            gateways: self.gateways.iter().zip(&later.gateways).map(used).collect(),
            machine_user: between(|time| time.user),
            machine_system: between(|time| time.system),
            machine_interrupts: between(|time| time.interrupts),
            machine_idle: between(|time| time.idle),
            machine_stolen: between(|time| time.stolen),
        }
    }
}

fn process_time(pid: u32) -> ProcessTime {
    let stat = read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (user, system) = ticks_of_process(&stat).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let on_cpu = |task: std::fs::DirEntry| {
        let text = read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    ProcessTime { user, system, exact: Duration::from_nanos(tasks.filter_map(on_cpu).sum()) }
}

fn ticks_of_process(stat: &str) -> Option<(Duration, Duration)> {
    // The name in the second field may hold anything, but no parenthesis follows it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || Some(TICK * fields.next()?.parse::<u32>().ok()?);
    Some((ticks()?, ticks()?))
}

/// The line of all CPUs: user nice system idle iowait irq softirq steal.
fn machine_time(stat: &str) -> Option<MachineTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let time = |at: usize| Some(Duration::from_millis(ticks.get(at)? * 10));
    Some(MachineTime {
        user: time(0)? + time(1)?,
        system: time(2)?,
        idle: time(3)? + time(4)?,
        interrupts: time(5)? + time(6)?,
        stolen: time(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0";
        assert_eq!(ticks_of_process(stat), Some((Duration::from_millis(2500), Duration::from_millis(500))));
        assert_eq!(ticks_of_process(""), None);
    }

    #[test]
    fn the_machine_is_read_from_the_line_of_all_cpus() {
        let time = machine_time("cpu  100 1 50 1000 5 2 30 4 0 0\ncpu0 1 1 1 1 1 1 1 1\n").expect("a line");
        assert_eq!(time.user, Duration::from_millis(1010));
        assert_eq!(time.interrupts, Duration::from_millis(320));
        assert_eq!(time.stolen, Duration::from_millis(40));
        assert!(machine_time("cpu 1 2").is_none());
    }

    #[test]
    fn what_this_process_uses_is_seen() {
        let own = std::process::id();
        let before = CpuReading::take([own]);
        let mut sum = 0_u64;
        while before.at.elapsed() < Duration::from_millis(60) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = before.until(&CpuReading::take([own]));
        assert!(used.gateways[0].total() > 0.001, "{used:?}");
        assert!(used.seconds >= 0.06);
    }
}
