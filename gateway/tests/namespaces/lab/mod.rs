//! The laboratory: network namespaces, links, programs and traffic that belong to one test.
//!
//! Enters: what a test asks for. Leaves: nothing; whatever a test made is gone when its [`Lab`] is dropped, also after
//! a panic, and what a killed run left behind is removed by the next one. Never does: touch an interface, an address
//! or a route outside the namespaces that it made.

mod command;
mod flows;
mod gateway;
mod homes;
mod link;
mod namespace;
mod process;
mod topology;
mod traffic;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use landbridge::lab::nat::{Internet, Kind, scene};

pub(crate) use command::{Output, run, try_run};
pub(crate) use flows::Flows;
pub(crate) use gateway::{Gateway, Keys, Outside, Peer, Program, Wan, available, connected, landbridge};
pub(crate) use homes::{Homes, counted, host_v4, host_v6};
pub(crate) use link::Veth;
pub(crate) use namespace::Namespace;
pub(crate) use process::Process;
pub(crate) use topology::{PORT, Sites, tunnel_v4, tunnel_v6};
pub(crate) use traffic::{Echo, Flow, shout, tcp_exchange, udp_sizes};
pub(crate) use wire::{Datagram, capture_data, inject, source_ports, transmit};

/// What the names of all namespaces begin with; the number of the process that made them follows.
const PREFIX: &str = "lbtest";

static COUNTER: AtomicU32 = AtomicU32::new(1);
static SWEEP: Once = Once::new();

/// One test's world.
pub(crate) struct Lab {
    inner: Arc<Inner>,
}

/// What the parts of a laboratory share.
struct Inner {
    number: u32,
    directory: tempfile::TempDir,
    namespaces: Mutex<Vec<Namespace>>,
    processes: Mutex<Vec<Process>>,
    interfaces: Mutex<Vec<String>>,
}

impl Lab {
    /// An empty world; `None`, having said so, where the test cannot run.
    pub(crate) fn open() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            let reason = "network namespaces need root: run the tests with sudo";
            assert!(!in_ci(), "{reason}");
            eprintln!("skipped: {reason}");
            return None;
        }
        SWEEP.call_once(sweep);
        let directory = tempfile::Builder::new().prefix("landbridge-test-").tempdir().expect("a temporary directory");
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            inner: Arc::new(Inner {
                number,
                directory,
                namespaces: Mutex::default(),
                processes: Mutex::default(),
                interfaces: Mutex::default(),
            }),
        })
    }

    /// A new namespace with its loopback up. `role` tells it from the test's others.
    pub(crate) fn namespace(&self, role: &str) -> Namespace {
        let name = format!("{PREFIX}{}-{}{role}", std::process::id(), self.inner.number);
        let namespace = Namespace::create(name, Arc::downgrade(&self.inner));
        self.inner.namespaces.lock().expect("no test thread panics inside").push(namespace.clone());
        namespace
    }

    /// An internet of the library's laboratory. What is made on it goes with it, and it has to be dropped before the test ends.
    #[track_caller]
    pub(crate) fn internet(&self) -> Internet {
        // The sweep of later runs finds the process by the first number.
        let prefix = format!("{PREFIX}{}-{}", std::process::id(), self.inner.number);
        Internet::new(&prefix).expect("an internet")
    }

    /// Two sites and an introducer that relays, of the library's laboratory; to be dropped before the test ends.
    pub(crate) fn scene(&self, kinds: [Kind; 2]) -> scene::Options {
        let (pid, number) = (std::process::id(), self.inner.number);
        let options = scene::Options::new(landbridge(), &format!("{PREFIX}{pid}-{number}"), kinds);
        scene::Options { interfaces: format!("lb{pid}x{number}"), ..options }
    }

    /// A namespace of the library's laboratory, for gateways and programs of the test.
    pub(crate) fn adopt(&self, namespace: &landbridge::lab::namespace::Namespace) -> Namespace {
        Namespace::adopted(namespace.name().to_owned(), Arc::downgrade(&self.inner))
    }

    /// A name for a tunnel interface that no other test uses, as control sockets are found by it.
    pub(crate) fn interface(&self, role: char) -> String {
        let name = format!("lb{}x{}{role}", std::process::id(), self.inner.number);
        assert!(name.len() <= 15, "{name} is longer than an interface name can be");
        self.inner.interfaces.lock().expect("no test thread panics inside").push(name.clone());
        name
    }

    /// A directory that vanishes with the test.
    pub(crate) fn directory(&self) -> &Path {
        self.inner.directory.path()
    }

    /// Writes a file that only root may read, and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory().join(name);
        gateway::write_private(&path, text);
        path
    }

    fn describe(&self) {
        for namespace in self.inner.namespaces.lock().expect("no test thread panics inside").iter() {
            namespace.describe();
        }
        for process in self.inner.processes.lock().expect("no test thread panics inside").iter() {
            process.describe();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.describe();
        }
        for process in self.inner.processes.lock().expect("no test thread panics inside").drain(..) {
            process.kill();
        }
        for namespace in self.inner.namespaces.lock().expect("no test thread panics inside").drain(..) {
            namespace.delete();
        }
        for interface in self.inner.interfaces.lock().expect("no test thread panics inside").drain(..) {
            remove_sockets(&interface);
        }
    }
}

/// Whether a test that cannot run must fail.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Asks until `probe` has an answer; fails with `what` at the limit.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The UAPI socket of an interface.
pub(crate) fn uapi_socket(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}

fn remove_sockets(interface: &str) {
    for path in [uapi_socket(interface), landbridge::status::socket_path(interface)] {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes the namespaces of runs whose process is gone, and ends what still runs in them.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let Some(pid) = rest.split('-').next().and_then(|digits| digits.parse::<u32>().ok()) else { continue };
        if pid != std::process::id() && !Path::new(&format!("/proc/{pid}")).exists() {
            namespace::remove(&name);
        }
    }
}
