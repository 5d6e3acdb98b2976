//! The other side of the prober: four sockets on two addresses and two ports of a server.
//!
//! A request names the socket that answers; a request to send names a place instead, and the socket that sends there.
//!
//! Enters: datagrams. Leaves: answers with the place that the request came from. Never does: anything after it was
//! dropped.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::internet::Server;

/// Both ports.
const PORTS: [u16; 2] = [7001, 7002];
const PATIENCE: Duration = Duration::from_millis(50);

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    /// Answer from the socket with this number, or from the one that was asked.
    Answer(Option<u8>),
    /// Send from the socket with this number to this place.
    Send(u8, SocketAddr),
}

/// The running responder.
#[derive(Debug)]
pub struct Responder {
    sockets: [SocketAddr; 4],
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Responder {
    /// Starts it.
    ///
    /// # Errors
    /// Sockets that cannot be bound.
    pub fn start(server: &Server) -> anyhow::Result<Self> {
        let [one, other] = [server.address(), server.second()];
        let places = [(one, PORTS[0]), (one, PORTS[1]), (other, PORTS[0]), (other, PORTS[1])].map(SocketAddr::from);
        let sockets = server.namespace.run(move || {
            let sockets = places.iter().map(UdpSocket::bind).collect::<Result<Vec<_>, _>>();
            sockets.context("the responder's sockets")
        })?;
        let (sockets, end) = (Arc::new(sockets), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for number in 0..places.len() {
            let (sockets, end) = (Arc::clone(&sockets), Arc::clone(&end));
            threads.push(server.namespace.spawn("responder", move || serve(&sockets, number, &end))?);
        }
        Ok(Self { sockets: places, end, threads })
    }

    /// Its sockets: two ports of the first address, two of the second.
    #[must_use]
    pub fn places(&self) -> [SocketAddr; 4] {
        self.sockets
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn serve(sockets: &[UdpSocket], number: usize, end: &AtomicBool) -> anyhow::Result<()> {
    let socket = &sockets[number];
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut datagram = [0; 256];
    while !end.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
        let Some((request, id)) = Request::read(&datagram[..length]) else { continue };
        let (by, to) = match request {
            Request::Answer(by) => (by.map_or(number, usize::from), from),
            Request::Send(by, to) => (usize::from(by), to),
        };
        let Some(by) = sockets.get(by) else { continue };
        // An answer that cannot be sent is one that does not arrive.
        drop(by.send_to(format!("{id} {from}").as_bytes(), to));
    }
    Ok(())
}

impl Request {
    /// As text, with the number that tells answers apart.
    pub(super) fn write(self, id: u64) -> String {
        match self {
            Self::Answer(None) => format!("answer {id}"),
            Self::Answer(Some(by)) => format!("answer {id} {by}"),
            Self::Send(by, to) => format!("send {id} {by} {to}"),
        }
    }

    fn read(bytes: &[u8]) -> Option<(Self, u64)> {
        let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
        let (verb, id) = (words.next()?, words.next()?.parse().ok()?);
        let by = words.next().map(str::parse::<u8>).transpose().ok()?;
        match verb {
            "answer" => Some((Self::Answer(by), id)),
            "send" => Some((Self::Send(by?, words.next()?.parse().ok()?), id)),
            _ => None,
        }
    }
}
