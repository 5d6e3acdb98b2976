//! A private directory for configurations, keys and logs of a run.
//!
//! Enters: nothing. Leaves: files of mode 0600, gone when it is dropped. Never does: use a directory that was there
//! before.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

/// In memory, owned by root, and empty after a restart of the machine.
const PARENT: &str = "/run/landbridge";
/// What the names of the demo's directories begin with.
pub const DEMO: &str = "demo-";

/// The directory.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A directory of this process, whose name is the prefix, the process id, and a number.
    ///
    /// # Errors
    /// One that cannot be made, or is there.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(PARENT).join(format!("{prefix}{}.{number}", std::process::id()));
        let made = || -> std::io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o755).create(PARENT)?;
            DirBuilder::new().mode(0o700).create(&path)
        };
        made().with_context(|| format!("the directory {} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    /// Writes a file that only its owner can read.
    ///
    /// # Errors
    /// One that is there already, or cannot be written.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        let mut file = self.create(&path)?;
        file.write_all(text.as_bytes()).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// Makes an empty file and opens it.
    ///
    /// # Errors
    /// One that is there already, or cannot be made.
    pub fn open(&self, name: &str) -> anyhow::Result<(PathBuf, File)> {
        let path = self.0.join(name);
        let file = self.create(&path)?;
        Ok((path, file))
    }

    /// Removes files of a gateway that is started again.
    pub fn remove(&self, names: &[&str]) {
        for name in names {
            drop(fs::remove_file(self.0.join(name)));
        }
    }

    fn create(&self, path: &Path) -> anyhow::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(path).with_context(|| format!("{} cannot be made", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Removes the directories with a prefix whose process is dead.
pub fn remove_leftovers(prefix: &str) {
    let Ok(entries) = fs::read_dir(PARENT) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(prefix)?.split('.').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| pid != std::process::id() && !Path::new("/proc").join(pid.to_string()).exists()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
