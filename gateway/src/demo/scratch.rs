//! A private directory for configurations, keys and logs of the demo.
//!
//! Enters: nothing. Leaves: files of mode 0600, gone when it is dropped. Never does: use a directory that was there before.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// In memory, owned by root, and empty after a restart of the machine.
const PARENT: &str = "/run/landbridge";
const PREFIX: &str = "demo-";

/// The directory.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> anyhow::Result<Self> {
        let path = Path::new(PARENT).join(format!("{PREFIX}{}", std::process::id()));
        let made = || -> std::io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o755).create(PARENT)?;
            DirBuilder::new().mode(0o700).create(&path)
        };
        made().with_context(|| format!("the directory {} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    /// Writes a file that only its owner can read.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        let mut file = self.create(&path)?;
        file.write_all(text.as_bytes()).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// Makes an empty file and opens it.
    pub(super) fn open(&self, name: &str) -> anyhow::Result<(PathBuf, File)> {
        let path = self.0.join(name);
        let file = self.create(&path)?;
        Ok((path, file))
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

/// Removes the directories of demos whose process is dead.
pub(super) fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(PARENT) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| pid != std::process::id() && !Path::new("/proc").join(pid.to_string()).exists()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
