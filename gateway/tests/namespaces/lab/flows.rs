//! Many flows at once between two sites, as hosts behind gateways make them.
//!
//! Enters: a sender's and a receiver's namespace. Leaves: numbered datagrams of many flows, and what became of them. Never
//! does: fill the machine: it sends each flow's next datagram a thousand times a second.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::Namespace;
use super::namespace::Job;

const PACE: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(5);

/// Flows under way; they end with this.
pub(crate) struct Flows {
    state: Arc<State>,
    threads: Vec<Job<()>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    sent: AtomicU64,
    arrived: AtomicU64,
    overtaken: AtomicU64,
}

impl Flows {
    /// Starts so many from `client` to an address of `server`.
    #[track_caller]
    pub(crate) fn start(client: &Namespace, server: &Namespace, address: IpAddr, count: usize) -> Self {
        let state = Arc::new(State::default());
        let sink = server.inside(move || {
            let socket = UdpSocket::bind((address, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok::<_, std::io::Error>(socket)
        });
        let sink = sink.expect("a socket of the server");
        let target = sink.local_addr().expect("a bound socket's address");
        let (receiver, sender) = (Arc::clone(&state), Arc::clone(&state));
        let threads = vec![
            server.thread(move || receive(&sink, &receiver)),
            client.thread(move || send(target, count, &sender).expect("sockets of the client")),
        ];
        Self { state, threads }
    }

    /// Datagrams sent, arrived, and arrived behind a later one of their flow.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let State { sent, arrived, overtaken, .. } = &*self.state;
        (sent.load(Ordering::Relaxed), arrived.load(Ordering::Relaxed), overtaken.load(Ordering::Relaxed))
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if !std::thread::panicking() {
            self.threads.drain(..).for_each(|thread| thread.join(LIMIT));
        }
    }
}

fn send(target: SocketAddr, count: usize, state: &State) -> std::io::Result<()> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let sockets: Vec<UdpSocket> = (0..count).map(|_| UdpSocket::bind((any, 0))).collect::<Result<_, _>>()?;
    let mut number = 0_u64;
    while !state.stop.load(Ordering::Relaxed) {
        let mut datagram = [0; 600];
        datagram[..8].copy_from_slice(&number.to_le_bytes());
        for socket in &sockets {
            // Nobody can be sent to before there is a route.
            let sent = socket.send_to(&datagram, target).is_ok();
            state.sent.fetch_add(u64::from(sent), Ordering::Relaxed);
        }
        number += 1;
        std::thread::sleep(PACE);
    }
    Ok(())
}

fn receive(sink: &UdpSocket, state: &State) {
    let mut newest: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    let mut datagram = [0; 2048];
    while !state.stop.load(Ordering::Relaxed) {
        let Ok((_, from)) = sink.recv_from(&mut datagram) else { continue };
        let number = u64::from_le_bytes(datagram[..8].try_into().expect("eight bytes"));
        let newest = newest.entry(from).or_default();
        state.arrived.fetch_add(1, Ordering::Relaxed);
        state.overtaken.fetch_add(u64::from(number < *newest), Ordering::Relaxed);
        *newest = (*newest).max(number);
    }
}
