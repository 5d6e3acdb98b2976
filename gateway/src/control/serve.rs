//! The status socket: one connection, one object.

use std::net::Shutdown;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Query;
use super::uapi::to_uring;

/// How long a client may take to read its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves status to one client after the other.
pub async fn status_server(listener: tokio::net::UnixListener, queries: mpsc::Sender<Query>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(stream) = to_uring(stream) else { continue };
        let (reply, answer) = oneshot::channel();
        if queries.send(Query::Status(reply)).await.is_err() {
            return;
        }
        if let Ok(text) = answer.await {
            // The answer fits the socket's buffer or the client reads; one that does neither is left.
            let _ = tokio::time::timeout(PATIENCE, stream.write_all(text)).await;
        }
        let _ = stream.shutdown(Shutdown::Both);
    }
}
