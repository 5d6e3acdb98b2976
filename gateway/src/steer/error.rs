//! What can go wrong between us and the kernel, each as one sentence with the way out.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use rustix::io::Errno;

/// The kernel's own "not supported", which has no name outside it.
const ENOTSUPP: i32 = 524;

/// How the verifier's log calls a program whose loader lacks CAP_PERFMON.
const NOT_PRIVILEGED: &str = "prohibited for !root";

/// Why the XDP program could not be loaded, attached or told something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// Not permitted.
    #[error(
        "XDP needs the capabilities CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_PERFMON ({step}: {source}): start as \
         root, or grant them (systemd: AmbientCapabilities=), or choose the wan backend `udp`"
    )]
    Permission {
        /// What was refused.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel was built without something.
    #[error(
        "this kernel has no {what} ({option} is not set; {source}): use a kernel that has it (5.15 or later), or \
         choose the wan backend `udp`"
    )]
    Kernel {
        /// What is missing.
        what: &'static str,
        /// The kernel option.
        option: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The verifier refused the program.
    #[error(
        "the kernel's verifier refuses the XDP program ({source}): choose the wan backend `udp` and report this with \
         the kernel's version; the verifier ends with: {log}"
    )]
    Verifier {
        /// What the kernel said.
        source: io::Error,
        /// The last lines of its log.
        log: String,
    },
    /// The object is not the one this gateway was built for.
    #[error("the XDP object holds no `{missing}`: rebuild it with ebpf/build.sh")]
    Object {
        /// The program or map that was expected.
        missing: &'static str,
    },
    /// Something else about loading.
    #[error("the XDP program cannot be loaded: {0}")]
    Load(String),
    /// The interface has an XDP program that is not this one.
    #[error(
        "{interface} already has an XDP program attached (id {program_id}, {mode}): end the process that holds it, \
         perhaps a second gateway (`bpftool net`, `bpftool link`), or detach it with `ip link set dev {interface} \
         {off} off`, or choose another interface or the wan backend `udp`"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The kernel's number of the program that is there.
        program_id: u32,
        /// How that one is attached.
        mode: &'static str,
        /// The word that `ip link` has for that mode.
        off: &'static str,
    },
    /// No such interface.
    #[error("there is no interface {interface}: see `ip link`")]
    NoInterface {
        /// The interface.
        interface: String,
    },
    /// The program could not be attached in the mode that was asked for.
    #[error("the XDP program cannot be attached to {interface} in {mode} mode: {reason}{way_out}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode.
        mode: super::Mode,
        /// Why not.
        reason: String,
        /// What to do about it.
        way_out: &'static str,
    },
    /// More local addresses than the map holds.
    #[error("{count} local addresses, but the XDP program takes {limit}: remove some, or choose the wan backend `udp`")]
    TooManyAddresses {
        /// How many there are.
        count: usize,
        /// How many fit.
        limit: u32,
    },
    /// A queue beyond what the maps hold.
    #[error("queue {queue} is beyond the {limit} that the XDP program serves: fewer queues (`ethtool -L`) will do")]
    TooManyQueues {
        /// The queue.
        queue: u32,
        /// How many fit.
        limit: u32,
    },
    /// More interfaces than the maps hold.
    #[error("the XDP program serves {limit} interfaces at most: name fewer interfaces")]
    TooManyInterfaces {
        /// How many fit.
        limit: u32,
    },
    /// More networks than the maps hold.
    #[error(
        "the XDP program takes {limit} routes of an address family, {refused} less than there are: packets for these \
         go by the kernel; fewer allowed IPs will do"
    )]
    TooManyRoutes {
        /// How many were left out.
        refused: usize,
        /// How many fit.
        limit: u32,
    },
    /// No VLAN has this number.
    #[error("no VLAN has the number {vlan}: the numbers are 1 to 4094")]
    NoVlan {
        /// The number.
        vlan: u16,
    },
    /// A map refused a value.
    #[error("the kernel refuses {what} for the XDP program: {source}")]
    Map {
        /// What it was.
        what: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// Netlink did not answer about an interface.
    #[error("the kernel does not tell about interface {interface}: {source}")]
    Netlink {
        /// The interface.
        interface: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// A load that failed before the program reached the verifier.
pub(super) fn load(error: EbpfError) -> SteerError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => create(&name, io_error),
        EbpfError::ProgramError(error) => program(error),
        other => SteerError::Load(chain(&other)),
    }
}

/// A map that could not be made.
fn create(name: &str, source: io::Error) -> SteerError {
    match Errno::from_io_error(&source) {
        Some(Errno::PERM | Errno::ACCESS) => SteerError::Permission { step: "creating a BPF map", source },
        Some(Errno::NOSYS) => SteerError::Kernel { what: "BPF", option: "CONFIG_BPF_SYSCALL", source },
        Some(Errno::INVAL) if name == landbridge_ebpf_common::map::SOCKETS => {
            SteerError::Kernel { what: "AF_XDP sockets", option: "CONFIG_XDP_SOCKETS", source }
        }
        _ => SteerError::Load(format!("map {name}: {source}")),
    }
}

/// The program itself was refused.
pub(super) fn program(error: ProgramError) -> SteerError {
    match error {
        ProgramError::LoadError { io_error: source, verifier_log } => match source.raw_os_error() {
            Some(code) if code == Errno::PERM.raw_os_error() => {
                SteerError::Permission { step: "loading the XDP program", source }
            }
            Some(ENOTSUPP) => {
                SteerError::Kernel { what: "just-in-time compiler for BPF", option: "CONFIG_BPF_JIT", source }
            }
            // Offsets that depend on the packet are speculation to the verifier, which CAP_PERFMON allows.
            _ if format!("{verifier_log}").contains(NOT_PRIVILEGED) => {
                SteerError::Permission { step: "verifying the XDP program", source }
            }
            _ => SteerError::Verifier { source, log: last_lines(&format!("{verifier_log}"), 4) },
        },
        other => SteerError::Load(chain(&other)),
    }
}

/// A map of another kind than expected: not our object.
pub(super) fn object(error: MapError) -> SteerError {
    SteerError::Load(chain(&error))
}

/// A map refused `what`.
pub(super) fn map(what: &'static str) -> impl Fn(MapError) -> SteerError {
    move |source| SteerError::Map { what, source }
}

/// Without the compiler the program is interpreted: it works, slowly, and nobody would guess why.
pub(super) fn warn_without_jit() {
    let setting = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    if setting.is_ok_and(|value| value.trim() == "0") {
        tracing::warn!("the kernel interprets BPF, which is slow: `sysctl net.core.bpf_jit_enable=1` compiles it");
    }
}

/// An error with all its causes, as one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let own = error.to_string();
        // Transparent errors repeat their cause.
        if !text.ends_with(&own) {
            text = format!("{text}: {own}");
        }
        cause = error.source();
    }
    text
}

fn last_lines(log: &str, count: usize) -> String {
    // The statistics at the end say nothing about the reason.
    let statistics = ["verification time", "stack depth", "processed", "mark_read"];
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start)))
        .collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}
