//! A program of others that runs inside a namespace.
//!
//! Enters: a command line. Leaves: a process that ends with the value, its output for messages, and a directory of
//! its own for what it writes. Never does: run for ever; the program `timeout` ends it even where this process was
//! killed.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::namespace::Namespace;

/// Longer than any run of the laboratory.
const LIFE: &str = "3600";
const END_PATIENCE: Duration = Duration::from_secs(3);

/// A running program.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    child: Child,
    output: PathBuf,
    _directory: Directory,
}

impl Program {
    pub(super) fn start(
        namespace: &Namespace,
        name: &str,
        arguments: &[String],
        directory: Directory,
    ) -> anyhow::Result<Self> {
        let output = PathBuf::from(directory.path("output"));
        let one = fs::File::create(&output).context("a file for what a program says")?;
        let other = one.try_clone()?;
        let mut command = Command::new("timeout");
        command.args(["--kill-after", "2", LIFE, name]).args(arguments);
        command.stdin(Stdio::null()).stdout(one).stderr(other);
        // Ctrl-C is for the laboratory, which ends its programs in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child =
            namespace.run(move || command.spawn().context("the program timeout (coreutils) cannot be started"))?;
        Ok(Self { name: name.to_owned(), child, output, _directory: directory })
    }

    /// Waits until something is so.
    pub(super) fn wait_until(
        &mut self,
        patience: Duration,
        mut is_so: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        while !is_so()? {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("{} ended: {status}\n{}", self.name, self.text());
            }
            anyhow::ensure!(Instant::now() < end, "{} is not ready in {patience:?}\n{}", self.name, self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it said.
    fn text(&self) -> String {
        // A log that cannot be read is an empty one.
        fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = Pid::from_raw(-(self.child.id() as i32));
        if matches!(self.child.try_wait(), Ok(None)) {
            // A child that is waited for below still has its number.
            let _gone = kill(group, Signal::SIGTERM);
            let end = Instant::now() + END_PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            if matches!(self.child.try_wait(), Ok(None)) {
                let _gone = kill(group, Signal::SIGKILL);
                drop(self.child.wait());
            }
        }
    }
}

/// A private directory, gone with the value. A program's pid file belongs there: some unlink it at their end,
/// whatever it is.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("landbridge-lab-{name}-{}-{number}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("the directory {} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    /// The path of a file inside.
    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
