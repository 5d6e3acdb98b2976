//! Unix sockets by which others reach a running gateway.
//!
//! Enters: a path. Leaves: a listener, mode 0600. Never does: take a socket away from a process that serves it; one that a
//! killed process left behind is replaced.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// How often a socket is looked at whose process may be ending.
const DYING_LOOKS: usize = 5;
/// How long between two looks.
const DYING_PAUSE: Duration = Duration::from_millis(50);

/// Where the UAPI socket of an interface is.
#[must_use]
pub fn uapi_path(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}

/// A listener and its file, which goes with it.
#[derive(Debug)]
pub struct Listener {
    /// The listening socket.
    pub socket: UnixListener,
    path: PathBuf,
    /// Device and inode: a file of the same name that another process made is not ours.
    identity: (u64, u64),
}

impl Listener {
    /// Listens at a path.
    ///
    /// # Errors
    /// Another process serves it, or what the kernel said.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        }
        refuse_live(path)?;
        let socket = bind_private(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { socket, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    /// Takes over a listening socket that somebody else made for this path (`WG_UAPI_FD`).
    ///
    /// # Errors
    /// What the kernel said.
    pub fn inherit(fd: OwnedFd, path: &Path) -> io::Result<Self> {
        let identity = fs::symlink_metadata(path).map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()));
        Ok(Self { socket: UnixListener::from(fd), path: path.to_owned(), identity })
    }

    /// Whether our file is still there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.identity == (0, 0)
            || fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    /// A second descriptor of the socket, for a runtime to own.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn for_runtime(&self) -> io::Result<tokio::net::UnixListener> {
        let socket = self.socket.try_clone()?;
        socket.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(socket)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.identity != (0, 0) && self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a killed process has left this socket behind. One that is about to end still holds it for a moment.
#[must_use]
pub fn left_by_killed(path: &Path) -> bool {
    for _ in 0..DYING_LOOKS {
        match UnixStream::connect(path) {
            Ok(_) => std::thread::sleep(DYING_PAUSE),
            Err(error) => return error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path),
        }
    }
    false
}

/// Connecting to a file of another kind is refused as well.
fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn refuse_live(path: &Path) -> anyhow::Result<()> {
    match UnixStream::connect(path) {
        Ok(_) => {
            bail!("{} is served by a running process: the interface is in use, end that process first", path.display())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
            // A socket without a listener: its process was killed.
            fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("{} is in the way: remove it", path.display())),
    }
}

/// Binds beside the path and moves the socket there when nobody but root can connect to it.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wg").join("wg0.sock");
        let first = Listener::bind(&path).unwrap();
        assert!(Listener::bind(&path).unwrap_err().to_string().contains("in use"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o755));
        // A killed process leaves the file and no listener.
        let stale = directory.path().join("wg").join("wg1.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(left_by_killed(&stale) && !left_by_killed(&path) && !left_by_killed(directory.path()));
        drop(Listener::bind(&stale).unwrap());
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(Listener::bind(&directory.path().join("file")).unwrap_err().to_string().contains("in the way"));
        assert!(!stale.exists());
        fs::remove_file(&path).unwrap();
        assert!(!first.is_there());
        let second = Listener::bind(&path).unwrap();
        drop(first);
        assert!(second.is_there(), "the first must not remove the second's file");
    }
}
