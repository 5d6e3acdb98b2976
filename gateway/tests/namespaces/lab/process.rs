//! A program that runs beside the test.
//!
//! Enters: a command line and the namespace to run it in. Leaves: its output, its signals, its end. Never does: outlive
//! the laboratory.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

static COUNTER: AtomicU32 = AtomicU32::new(1);

/// A running or ended program; clones are the same one.
#[derive(Clone)]
pub(crate) struct Process {
    title: String,
    pid: u32,
    child: Arc<Mutex<Child>>,
    log: PathBuf,
}

/// CPU time and memory of a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Time on the CPU, user and system.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes, without the pages of the program's own file: those of a build for tests are several times
    /// those of the real one.
    pub(crate) resident: u64,
}

impl Process {
    pub(super) fn start(
        namespace: &str,
        program: &OsStr,
        arguments: &[&str],
        environment: &[(&str, &str)],
        directory: &Path,
    ) -> Self {
        // Programs end as they do by default, even when these tests run under nohup.
        static DEFAULTS: std::sync::Once = std::sync::Once::new();
        DEFAULTS.call_once(|| {
            landbridge::hangup::keep_from_children().expect("a handler for SIGHUP");
        });
        let log = directory.join(format!("output-{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
        let output = File::create(&log).expect("a file in the test's own directory");
        let errors = output.try_clone().expect("a second handle of the same file");
        let title = format!("{} {} in {namespace}", program.to_string_lossy(), arguments.join(" "));
        // `ip netns exec` becomes the program: the process id is the program's own.
        let child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{title}: {error}"));
        Self { title, pid: child.id(), child: Arc::new(Mutex::new(child)), log }
    }

    /// What it printed, standard output and standard error.
    pub(crate) fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The user it runs as.
    #[track_caller]
    pub(crate) fn user(&self) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("a running program");
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a line of users");
        users.split_whitespace().nth(1).and_then(|user| user.parse().ok()).expect("the effective user")
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().expect("no test thread panics inside").try_wait().expect("our own child")
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&self, limit: Duration) -> ExitStatus {
        eventually(&format!("the end of {}", self.title), limit, || self.ended())
    }

    /// Asks it to end, and waits for that.
    #[track_caller]
    pub(crate) fn terminate(&self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(limit)
    }

    /// Ends it without asking.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().expect("no test thread panics inside");
        // Both fail only for a program that has ended.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            let pid = Pid::from_raw(self.pid.try_into().expect("process ids are positive"));
            kill(pid, signal).expect("our own child");
        }
    }

    /// What it has used.
    #[track_caller]
    pub(crate) fn usage(&self) -> Usage {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("a running program");
        // The name in parentheses may hold blanks; the fields after it do not.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a closing parenthesis").split_whitespace().collect();
        let number = |index: usize| fields[index].parse::<u64>().expect("a number in /proc/PID/stat");
        let ticks = number(11) + number(12);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("a running program");
        let kilobytes = |key: &str| -> u64 {
            let value = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line of /proc/PID/status");
            value.trim().trim_end_matches(" kB").parse().expect("a number of kilobytes")
        };
        let resident = (kilobytes("RssAnon:") + kilobytes("RssShmem:")) * 1024;
        // The kernel counts for user space in hundredths of a second.
        Usage { cpu: Duration::from_millis(ticks * 10), resident }
    }

    /// Prints the end of its output.
    pub(super) fn describe(&self) {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let from = lines.len().saturating_sub(60);
        eprintln!("--- {} (pid {}, {:?})\n{}", self.title, self.pid, self.ended(), lines[from..].join("\n"));
    }
}
