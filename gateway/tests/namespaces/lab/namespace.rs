//! A network namespace: commands, programs and threads inside it.
//!
//! Enters: command lines and closures. Leaves: their results. Never does: change the namespace of the calling thread;
//! whatever needs to be inside runs on a thread of its own, as a namespace belongs to a thread.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::{Inner, Output, Process, run, try_run};

/// A named network namespace.
#[derive(Clone)]
pub(crate) struct Namespace {
    name: String,
    lab: Weak<Inner>,
}

/// A thread inside a namespace.
pub(crate) struct Job<T> {
    result: Receiver<T>,
}

impl Namespace {
    pub(super) fn create(name: String, lab: Weak<Inner>) -> Self {
        run(&["ip", "netns", "add", &name]);
        let namespace = Self { name, lab };
        namespace.ip("link set lo up");
        // An address is usable at once: nobody else is there to own it.
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0");
        namespace.sysctl("net.ipv6.conf.default.accept_ra", "0");
        namespace
    }

    /// One that somebody else has made and takes away.
    pub(super) const fn adopted(name: String, lab: Weak<Inner>) -> Self {
        Self { name, lab }
    }

    /// Its name, as `ip netns` has it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` inside; its arguments are separated by blanks.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut line = vec!["ip", "-n", &self.name];
        line.extend(arguments.split_whitespace());
        run(&line)
    }

    /// Runs a program inside to its end; it must succeed.
    #[track_caller]
    pub(crate) fn run(&self, line: &[&str]) -> String {
        run(&[&["ip", "netns", "exec", &self.name], line].concat())
    }

    /// Runs a program inside to its end, whatever it does.
    #[track_caller]
    pub(crate) fn try_run(&self, line: &[&str]) -> Output {
        try_run(&[&["ip", "netns", "exec", &self.name], line].concat())
    }

    /// Sets a kernel setting of this namespace.
    #[track_caller]
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let value = value.to_owned();
        self.inside(move || std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    /// Starts a program inside that goes on beside the test.
    #[track_caller]
    pub(crate) fn spawn(
        &self,
        program: impl AsRef<OsStr>,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Process {
        let lab = self.lab.upgrade().expect("the laboratory outlives its namespaces");
        let process = Process::start(&self.name, program.as_ref(), arguments, environment, lab.directory.path());
        lab.processes.lock().expect("no test thread panics inside").push(process.clone());
        process
    }

    /// Runs a closure inside and waits for it.
    #[track_caller]
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.thread(work).join(Duration::from_secs(30))
    }

    /// Starts a thread inside.
    #[track_caller]
    pub(crate) fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        let handle = File::open(Path::new("/run/netns").join(&self.name)).expect("the namespace exists");
        let (sender, result) = channel();
        std::thread::Builder::new()
            .name(std::thread::current().name().unwrap_or("laboratory").to_owned())
            .spawn(move || {
                setns(handle, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                // The test may have failed meanwhile, and then nobody waits for the result.
                let _ = sender.send(work());
            })
            .expect("a thread");
        Job { result }
    }

    /// Prints what its network looks like.
    pub(super) fn describe(&self) {
        for arguments in ["addr", "route", "neigh"] {
            let output = try_run(&["ip", "-n", &self.name, arguments]);
            eprintln!("--- {} ip {arguments}\n{}{}", self.name, output.stdout, output.stderr);
        }
    }

    pub(super) fn delete(&self) {
        remove(&self.name);
    }
}

impl<T> Job<T> {
    /// Waits for the thread's result; fails where it panicked or took longer than `limit`.
    #[track_caller]
    pub(crate) fn join(self, limit: Duration) -> T {
        match self.result.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => panic!("a thread inside a namespace took longer than {limit:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("a thread inside a namespace panicked"),
        }
    }
}

/// Ends what runs in a namespace and removes it.
pub(super) fn remove(name: &str) {
    for pid in try_run(&["ip", "netns", "pids", name]).stdout.split_whitespace() {
        // Threads of this process visit namespaces too.
        if pid.parse() != Ok(std::process::id()) {
            try_run(&["kill", "-9", pid]);
        }
    }
    let output = try_run(&["ip", "netns", "del", name]);
    if output.code != 0 {
        eprintln!("could not remove the namespace {name}: {}", output.stderr);
    }
}
