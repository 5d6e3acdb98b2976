//! The cross-platform configuration protocol: what `wg` speaks to a userspace interface.
//!
//! Enters: clients of `/var/run/wireguard/IFNAME.sock`. Leaves: their requests, one at a time, to the control task,
//! and its answers. Never does: hold up the control task for a client that is slow to read or write.

pub mod get;
pub mod parse;
pub mod set;

use std::cell::Cell;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_uring::net::UnixStream;
use zeroize::Zeroizing;

use super::Query;
use parse::{Errno, Parser, Request};

/// Clients served at the same time.
const CLIENTS_MAX: usize = 16;
/// Bytes read at once.
const READ: usize = 1 << 16;
/// A client that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(60);

/// Serves clients until the listener fails.
pub async fn serve(listener: tokio::net::UnixListener, queries: mpsc::Sender<Query>) {
    let clients = Rc::new(Cell::new(0));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accepting a UAPI client");
                // Too many open files ends by itself.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if clients.get() >= CLIENTS_MAX {
            continue;
        }
        let Ok(stream) = to_uring(stream) else { continue };
        clients.set(clients.get() + 1);
        let (queries, clients) = (queries.clone(), Rc::clone(&clients));
        tokio_uring::spawn(async move {
            client(&stream, &queries).await;
            // A read that was given up ends here, and the descriptor with it.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            clients.set(clients.get() - 1);
        });
    }
}

/// io_uring waits by itself, but only on descriptors that may block.
pub(super) fn to_uring(stream: tokio::net::UnixStream) -> std::io::Result<UnixStream> {
    let stream: StdUnixStream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(UnixStream::from_std(stream))
}

async fn client(stream: &UnixStream, queries: &mpsc::Sender<Query>) {
    let mut parser = Parser::default();
    let mut buffer = vec![0; READ];
    loop {
        let Ok((result, filled)) = tokio::time::timeout(SILENCE, stream.read(buffer)).await else { return };
        let filled = Zeroizing::new(filled);
        let Ok(length @ 1..) = result else { return };
        let mut rest = &filled[..length];
        while !rest.is_empty() {
            match parser.feed(rest) {
                Ok((taken, request)) => {
                    rest = &rest[taken..];
                    let Some(request) = request else { continue };
                    let Some(answer) = ask(request, queries).await else { return };
                    if !write(stream, answer).await {
                        return;
                    }
                }
                Err(errno) => {
                    // What follows cannot be told from another request: the client is left.
                    write(stream, errno_line(errno)).await;
                    return;
                }
            }
        }
        buffer = vec![0; READ];
    }
}

async fn write(stream: &UnixStream, answer: Zeroizing<Vec<u8>>) -> bool {
    // A client that does not read holds its own task only, and not for ever.
    for piece in answer.chunks(READ) {
        match tokio::time::timeout(SILENCE, stream.write_all(piece.to_vec())).await {
            Ok((Ok(()), piece)) => drop(Zeroizing::new(piece)),
            _ => return false,
        }
    }
    true
}

fn errno_line(errno: Errno) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(format!("errno={}\n\n", errno.0).into_bytes())
}

async fn ask(request: Request, queries: &mpsc::Sender<Query>) -> Option<Zeroizing<Vec<u8>>> {
    match request {
        Request::Get => {
            let (reply, answer) = oneshot::channel();
            queries.send(Query::Get(reply)).await.ok()?;
            answer.await.ok()
        }
        Request::Set(set) => {
            let (reply, answer) = oneshot::channel();
            queries.send(Query::Set(Box::new(set), reply)).await.ok()?;
            answer.await.ok().map(errno_line)
        }
    }
}
