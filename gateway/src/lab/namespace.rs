//! Network namespaces with names, gone when they are dropped.
//!
//! Enters: a name. Leaves: a [`Namespace`] in which threads can be run; `ip netns exec NAME` finds it too. Never does:
//! move the calling thread; a namespace belongs to a thread, so each piece of work gets one of its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where `ip netns` looks.
const DIRECTORY: &str = "/run/netns";
/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    file: File,
}

impl Namespace {
    /// Makes the namespace of one role: its name is `PREFIX-PID-ROLE` with the id of this process.
    ///
    /// # Errors
    /// No right to do so, or such a namespace of this process.
    pub fn new(prefix: &str, role: &str) -> anyhow::Result<Self> {
        let name = format!("{prefix}-{}-{role}", std::process::id());
        let path = Path::new(DIRECTORY).join(&name);
        fs::create_dir_all(DIRECTORY).with_context(|| format!("{DIRECTORY} cannot be made"))?;
        File::create_new(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let file = make(&path).inspect_err(|_| drop(fs::remove_file(&path)));
        let file = file.with_context(|| format!("the network namespace {name} cannot be made"))?;
        Ok(Self { name, path, file })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor of the namespace.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs work in a thread of its own inside.
    ///
    /// # Errors
    /// No thread can be started. What the work returns is the thread's result.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
        let file = self.file.try_clone().context("the namespace's descriptor cannot be duplicated")?;
        let inside = move || {
            setns(&file, CloneFlags::CLONE_NEWNET).context("the namespace cannot be entered")?;
            work()
        };
        thread::Builder::new().name(name.to_owned()).spawn(inside).context("a thread cannot be started")
    }

    /// Runs work inside and waits for it.
    ///
    /// # Errors
    /// What the work returns, and a namespace that cannot be entered.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        join(self.spawn("lab", work)?).with_context(|| format!("in the namespace {}", self.name))
    }
}

/// The result of a thread; a panic becomes an error.
///
/// # Errors
/// That of the thread.
pub fn join<T>(handle: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    handle.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the laboratory panicked")))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// A namespace begins in a thread that ends again; the bind mount keeps it.
fn make(path: &Path) -> anyhow::Result<File> {
    let target = path.to_owned();
    let thread = thread::spawn(move || -> anyhow::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
        let source = Path::new("/proc/thread-self/ns/net");
        mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("bind mount")?;
        Ok(())
    });
    join(thread)?;
    File::open(path).context("its file cannot be opened")
}

fn remove(path: &Path) {
    // Several mounts can lie on one another after a start that failed half way.
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    drop(fs::remove_file(path));
}

/// Removes the namespaces with a prefix whose process is dead, and says how many there were.
///
/// # Errors
/// A directory that cannot be read.
pub fn remove_leftovers(prefix: &str) -> io::Result<usize> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| owner(prefix, name)) else { continue };
        if pid != std::process::id() && !Path::new("/proc").join(pid.to_string()).exists() {
            remove(&entry.path());
            removed += 1;
        }
    }
    Ok(removed)
}

/// The process that a name belongs to.
fn owner(prefix: &str, name: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_a_namespace_is_read_from_its_name() {
        for (name, pid) in [
            ("landbridge-demo-17-host-a", Some(17)),
            ("landbridge-demo--host-a", None),
            ("landbridge-demo-x", None),
            ("demo-17", None),
            ("landbridge-demos-17-host-a", None),
        ] {
            assert_eq!(owner("landbridge-demo", name), pid, "{name}");
        }
    }
}
