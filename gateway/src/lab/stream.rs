//! Numbered datagrams from one host to another at a steady pace, each with the time it was sent and the time it
//! arrived.
//!
//! Enters: a path and a rate. Leaves: while it runs, whether anything arrives; at its end, a [`Record`] of every
//! datagram. Never does: send what it is late with; a pace that the machine could not keep shows as fewer datagrams
//! sent.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::namespace::join;
use super::{Path, is_timeout};

/// Bytes of a datagram: those of a voice or control stream.
const PAYLOAD: usize = 200;
const PATIENCE: Duration = Duration::from_millis(50);
/// How long datagrams may be on their way when the last was sent.
const GRACE: Duration = Duration::from_millis(300);
/// An atomic that has no time in it yet.
const NEVER: u64 = u64::MAX;

/// A running stream.
#[derive(Debug)]
pub struct Stream {
    began: Instant,
    shared: Arc<Shared>,
    sender: JoinHandle<anyhow::Result<Vec<u64>>>,
    receiver: JoinHandle<anyhow::Result<Vec<(u64, u64)>>>,
}

#[derive(Debug)]
struct Shared {
    end_sending: AtomicBool,
    end: AtomicBool,
    /// Microseconds from the beginning to the first arrival.
    first: AtomicU64,
    arrived: AtomicU64,
}

/// What became of every datagram. Times are those since [`Record::began`].
#[derive(Debug, Clone)]
pub struct Record {
    /// When it began.
    pub began: Instant,
    /// When each was sent, by number.
    sent: Vec<Duration>,
    /// When each arrived first, by number.
    arrived: Vec<Option<Duration>>,
    /// Those that arrived more than once.
    pub repeated: u64,
    /// Those that arrived behind one that was sent later.
    pub overtaken: u64,
}

impl Stream {
    /// Starts one.
    ///
    /// # Errors
    /// Sockets or threads that cannot be made.
    pub fn start(path: Path<'_>, per_second: u32) -> anyhow::Result<Self> {
        let address = path.address;
        let socket = path.to.run(move || UdpSocket::bind((address, 0)).context("the receiver cannot bind"))?;
        let target = socket.local_addr()?;
        let shared = Arc::new(Shared {
            end_sending: AtomicBool::new(false),
            end: AtomicBool::new(false),
            first: AtomicU64::new(NEVER),
            arrived: AtomicU64::new(0),
        });
        let began = Instant::now();
        let (one, other) = (Arc::clone(&shared), Arc::clone(&shared));
        let receiver = path.to.spawn("stream-recv", move || receive(&socket, began, &one))?;
        let sender = path.from.spawn("stream-send", move || send(target, per_second, began, &other))?;
        Ok(Self { began, shared, sender, receiver })
    }

    /// When the first datagram arrived.
    #[must_use]
    pub fn first(&self) -> Option<Instant> {
        let micros = self.shared.first.load(Ordering::Relaxed);
        (micros != NEVER).then(|| self.began + Duration::from_micros(micros))
    }

    /// How many have arrived so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.shared.arrived.load(Ordering::Relaxed)
    }

    /// Ends it, waits for what is on its way, and says what became of each datagram.
    ///
    /// # Errors
    /// Sockets that failed.
    pub fn finish(self) -> anyhow::Result<Record> {
        self.shared.end_sending.store(true, Ordering::Relaxed);
        let sent = join(self.sender);
        std::thread::sleep(GRACE);
        self.shared.end.store(true, Ordering::Relaxed);
        Ok(Record::new(self.began, &sent?, &join(self.receiver)?))
    }
}

fn send(target: SocketAddr, per_second: u32, began: Instant, shared: &Shared) -> anyhow::Result<Vec<u64>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("the sender cannot bind")?;
    let gap = Duration::from_secs(1) / per_second.max(1);
    let (mut sent, mut due, mut datagram) = (Vec::new(), Instant::now(), [0_u8; PAYLOAD]);
    while !shared.end_sending.load(Ordering::Relaxed) {
        datagram[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
        let now = began.elapsed().as_micros() as u64;
        // A host that has no way yet counts as one whose datagram was lost.
        drop(socket.send_to(&datagram, target));
        sent.push(now);
        due = (due + gap).max(Instant::now() - gap);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, began: Instant, shared: &Shared) -> anyhow::Result<Vec<(u64, u64)>> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut arrived, mut datagram) = (Vec::new(), [0_u8; 2 * PAYLOAD]);
    while !shared.end.load(Ordering::Relaxed) {
        match socket.recv_from(&mut datagram) {
            Ok((PAYLOAD, _)) => {
                let micros = began.elapsed().as_micros() as u64;
                let number = datagram.first_chunk().map_or(0, |number| u64::from_be_bytes(*number));
                shared.first.fetch_min(micros, Ordering::Relaxed);
                shared.arrived.fetch_add(1, Ordering::Relaxed);
                arrived.push((number, micros));
            }
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).context("the receiver cannot receive"),
        }
    }
    Ok(arrived)
}

impl Record {
    fn new(began: Instant, sent: &[u64], arrivals: &[(u64, u64)]) -> Self {
        let mut arrived = vec![None; sent.len()];
        let (mut repeated, mut overtaken, mut newest) = (0, 0, 0);
        for (number, micros) in arrivals {
            let Some(place) = arrived.get_mut(*number as usize) else { continue };
            if place.is_some() {
                repeated += 1;
                continue;
            }
            *place = Some(Duration::from_micros(*micros));
            overtaken += u64::from(*number < newest);
            newest = newest.max(*number);
        }
        let sent = sent.iter().map(|micros| Duration::from_micros(*micros)).collect();
        Self { began, sent, arrived, repeated, overtaken }
    }

    /// When the last one was sent.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.began + self.sent.last().copied().unwrap_or_default()
    }

    /// Datagrams sent and lost between two moments.
    #[must_use]
    pub fn lost(&self, from: Instant, to: Instant) -> (u64, u64) {
        let window = from.saturating_duration_since(self.began)..to.saturating_duration_since(self.began);
        let those = self.sent.iter().zip(&self.arrived).filter(|(sent, _)| window.contains(sent));
        those.fold((0, 0), |(sent, lost), (_, arrived)| (sent + 1, lost + u64::from(arrived.is_none())))
    }

    /// The longest time without an arrival between two moments, those included.
    #[must_use]
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let (from, to) = (from.saturating_duration_since(self.began), to.saturating_duration_since(self.began));
        let mut times: Vec<Duration> =
            self.arrived.iter().flatten().copied().filter(|at| (from..to).contains(at)).collect();
        times.sort_unstable();
        let ends = std::iter::once(from).chain(times.iter().copied()).zip(times.iter().copied().chain([to]));
        ends.map(|(one, next)| next.saturating_sub(one)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_gaps_repetitions_and_order_are_counted_in_their_window() {
        let began = Instant::now();
        let at = |millis: u64| began + Duration::from_millis(millis);
        // Sent every 10 ms; 2 and 3 are lost, 4 comes twice, 6 overtakes 5.
        let sent: Vec<u64> = (0..8).map(|number| number * 10_000).collect();
        let arrivals =
            [(0, 1_000), (1, 11_000), (4, 41_000), (4, 42_000), (6, 61_000), (5, 62_000), (7, 71_000), (99, 1)];
        let record = Record::new(began, &sent, &arrivals);
        assert_eq!((record.repeated, record.overtaken), (1, 1));
        assert_eq!(record.lost(at(0), at(80)), (8, 2));
        assert_eq!(record.lost(at(25), at(80)), (5, 1));
        assert_eq!(record.longest_gap(at(0), at(80)), Duration::from_millis(30));
        assert_eq!(record.longest_gap(at(50), at(100)), Duration::from_millis(29));
    }
}
