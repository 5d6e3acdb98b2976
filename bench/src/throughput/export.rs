//! A way for Prometheus to the gateways, whose endpoints are in namespaces that it cannot reach: a small HTTP server on
//! the machine's loopback that hands on what was scraped last.
//!
//! Enters: [`Latest`]. Leaves: Prometheus' text at `/a`, `/b` (the gateways) and `/bench` (what is being measured, what
//! was found). Never does: listen on anything but loopback, or ask a gateway itself.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::scrape::Latest;
use super::topology::Side;

/// How often the server looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
/// How long a client may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Export {
    address: SocketAddr,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Export {
    /// Begins to serve on a free port.
    pub(crate) fn start(latest: &Latest) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on loopback")?;
        listener.set_nonblocking(true)?;
        let (address, end) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let (ended, latest) = (Arc::clone(&end), latest.clone());
        let serve = move || {
            while !ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    // Who leaves before the answer is over misses it.
                    Ok((stream, _)) => drop(answer(stream, &latest)),
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
        };
        let thread = std::thread::Builder::new().name("export".to_owned()).spawn(serve)?;
        Ok(Self { address, end, thread: Some(thread) })
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn answer(mut stream: TcpStream, latest: &Latest) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut request, mut buffer) = (Vec::new(), [0; 2048]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 8192 {
        match stream.read(&mut buffer)? {
            0 => break,
            length => request.extend_from_slice(&buffer[..length]),
        }
    }
    let (status, body) = match String::from_utf8_lossy(&request).split(' ').nth(1) {
        Some("/a") => ("200 OK", latest.text(Side::A)),
        Some("/b") => ("200 OK", latest.text(Side::B)),
        Some("/bench") => ("200 OK", latest.bench()),
        _ => ("404 Not Found", String::new()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::super::scrape::http_get;
    use super::*;

    #[test]
    fn what_was_scraped_last_is_handed_on() {
        let latest = Latest::default();
        latest.say("landbridge_bench_samples_total 3\n".to_owned());
        let export = Export::start(&latest).expect("a server");
        assert_eq!(http_get(export.address(), "/bench").expect("an answer"), "landbridge_bench_samples_total 3\n");
        assert_eq!(http_get(export.address(), "/a").expect("an answer"), "");
        assert!(http_get(export.address(), "/etc/passwd").is_err());
        let address = export.address();
        drop(export);
        assert!(http_get(address, "/bench").is_err(), "it has ended");
    }
}
