//! The HTTP that serves metrics.
//!
//! Enters: clients. Leaves: the metrics at `GET /metrics`, and nothing else. Never does: wait for a client longer than it
//! is patient, or serve more of them at a time than a few.

use std::net::Shutdown;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_uring::net::{TcpListener, TcpStream};

use crate::control::Query;

/// The longest request.
const REQUEST_MAX: usize = 8192;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients served at the same time.
const CLIENTS_MAX: usize = 8;

/// Serves metrics over HTTP.
pub async fn serve(listener: TcpListener, queries: mpsc::Sender<Query>) {
    let clients = std::rc::Rc::new(());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Each client holds a reference.
        if std::rc::Rc::strong_count(&clients) > CLIENTS_MAX {
            continue;
        }
        let (queries, client) = (queries.clone(), std::rc::Rc::clone(&clients));
        tokio_uring::spawn(async move {
            let _ = tokio::time::timeout(PATIENCE, converse(&stream, &queries)).await;
            let _ = stream.shutdown(Shutdown::Both);
            drop(client);
        });
    }
}

async fn converse(stream: &TcpStream, queries: &mpsc::Sender<Query>) {
    let mut request = Vec::new();
    let (status, body) = loop {
        let (result, buffer) = stream.read(vec![0; 2048]).await;
        let Ok(length @ 1..) = result else { return };
        request.extend_from_slice(&buffer[..length]);
        match parse(&request) {
            Asked::More if request.len() < REQUEST_MAX => {}
            Asked::More => break ("431 Request Header Fields Too Large", Vec::new()),
            Asked::Metrics => {
                let (reply, answer) = oneshot::channel();
                if queries.send(Query::Metrics(reply)).await.is_err() {
                    return;
                }
                let Ok(body) = answer.await else { return };
                break ("200 OK", body);
            }
            Asked::Other => break ("404 Not Found", b"metrics are at /metrics\n".to_vec()),
            Asked::OtherMethod => break ("405 Method Not Allowed", Vec::new()),
            Asked::Nonsense => break ("400 Bad Request", Vec::new()),
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let answer = [head.into_bytes(), body].concat();
    // Who leaves before the answer is over misses it.
    let _ = stream.write_all(answer).await;
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    More,
    Metrics,
    Other,
    OtherMethod,
    Nonsense,
}

fn parse(request: &[u8]) -> Asked {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) => Asked::More,
        Ok(httparse::Status::Complete(_)) => match (parsed.method, parsed.path) {
            (Some("GET"), Some(path)) if path.split('?').next() == Some("/metrics") => Asked::Metrics,
            (Some("GET"), _) => Asked::Other,
            _ => Asked::OtherMethod,
        },
        Err(_) => Asked::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_get_metrics_is_metrics() {
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), Asked::Metrics);
        assert_eq!(parse(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n"), Asked::Metrics);
        assert_eq!(parse(b"GET / HTTP/1.1\r\n\r\n"), Asked::Other);
        assert_eq!(parse(b"POST /metrics HTTP/1.1\r\n\r\n"), Asked::OtherMethod);
        assert_eq!(parse(b"GET /met"), Asked::More);
        assert_eq!(parse(b"\0\0\0\r\n\r\n"), Asked::Nonsense);
    }
}
