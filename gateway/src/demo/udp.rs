//! UDP rate and loss: numbered datagrams from host A to host B, in trials of a fixed rate.
//!
//! 1. [`search()`] raises the rate until a trial loses packets, then closes in on the edge.
//! 2. [`trial`] at a rate below that edge is what the demo reports: packets received a second, and loss.
//!
//! Enters: two namespaces, a rate and a duration. Leaves: counts. Never does: send faster than asked; the sender catches up
//! in small steps, as segmentation offload gives them to the link.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

use super::search::{self, Edge, Search};
use crate::lab::namespace::join;
use crate::lab::stop::Stop;
use crate::lab::{PATIENCE, Path, is_timeout};

/// UDP payload of each datagram: fits the tunnel with room to spare, as media and QUIC do.
pub(super) const PAYLOAD: usize = 1300;
/// Datagrams in one send at most.
const STEP: usize = 16;
/// How long packets may be on their way when the last was sent.
const GRACE: Duration = Duration::from_millis(250);
/// Room for what arrives while the receiver waits for its turn.
const RECEIVE_BUFFER: usize = 32 << 20;
const TRIAL: Duration = Duration::from_millis(400);

/// What a trial showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct UdpFigures {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// How long was sent.
    pub(super) window: Duration,
}

impl UdpFigures {
    /// Packets sent a second.
    pub(super) fn offered(&self) -> f64 {
        self.sent as f64 / self.window.as_secs_f64()
    }

    /// Packets received a second.
    pub(super) fn rate(&self) -> f64 {
        self.received as f64 / self.window.as_secs_f64()
    }

    /// Share of the packets sent that did not arrive, of one.
    pub(super) fn loss(&self) -> f64 {
        self.sent.saturating_sub(self.received) as f64 / (self.sent.max(1)) as f64
    }
}

/// Finds the highest rate that arrives nearly whole.
pub(super) fn search(
    path: Path<'_>,
    budget: Duration,
    stop: &Stop,
    mut progress: impl FnMut(f64),
) -> anyhow::Result<Edge> {
    let end = Instant::now() + budget;
    let mut search = Search::default();
    loop {
        let rate = search.rate();
        progress(rate);
        let mut figures = trial(path, rate, TRIAL, stop)?;
        if search::is_hiccup(&figures) && Instant::now() < end {
            figures = trial(path, rate, TRIAL, stop)?;
        }
        if search.take(&figures) || Instant::now() > end {
            return Ok(search.edge());
        }
    }
}

/// Sends at a rate and counts what arrives.
pub(super) fn trial(path: Path<'_>, rate: f64, duration: Duration, stop: &Stop) -> anyhow::Result<UdpFigures> {
    let address = path.address;
    let receiver = path.to.run(move || UdpSocket::bind((address, 0)).context("the receiver cannot bind"))?;
    let target = receiver.local_addr()?;
    let end = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&end);
    let counting = path.to.spawn("udp-recv", move || receive(&receiver, &ended))?;
    let user = stop.clone();
    let sending = path.from.spawn("udp-send", move || send(target, rate, duration, &user))?;
    let sent = join(sending);
    std::thread::sleep(GRACE);
    end.store(true, Ordering::Relaxed);
    let received = join(counting)?;
    let (sent, window) = sent?;
    stop.check()?;
    Ok(UdpFigures { sent, received, window })
}

fn send(target: SocketAddr, rate: f64, duration: Duration, stop: &Stop) -> anyhow::Result<(u64, Duration)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("the sender cannot bind")?;
    let state = UdpSocketState::new((&socket).into())?;
    landbridge_xsk::udp::forget_timestamps(socket.as_fd())?;
    socket.set_nonblocking(false)?;
    drop(state.set_send_buffer_size((&socket).into(), 4 << 20));
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0_u8; STEP * PAYLOAD];
    let (start, mut sent) = (Instant::now(), 0_u64);
    while start.elapsed() < duration && !stop.is_set() {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        // What could not be sent in time is not made up for in one rush.
        let ready = due.saturating_sub(sent).min(STEP as u64) as usize;
        if ready == 0 {
            let gap = Duration::from_secs_f64((8.0 / rate).clamp(20e-6, 1e-3));
            std::thread::sleep(gap);
            continue;
        }
        for (number, datagram) in buffer.chunks_exact_mut(PAYLOAD).take(ready).enumerate() {
            datagram[..8].copy_from_slice(&(sent + number as u64).to_be_bytes());
        }
        let contents = &buffer[..ready * PAYLOAD];
        let segment_size = (ready > 1).then_some(PAYLOAD);
        match state.try_send(
            (&socket).into(),
            &Transmit { destination: target, ecn: None, contents, segment_size, src_ip: None },
        ) {
            Ok(()) => sent += ready as u64,
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).context("the sender cannot send"),
        }
    }
    Ok((sent, start.elapsed()))
}

/// Counts distinct datagrams until told to end.
fn receive(socket: &UdpSocket, end: &AtomicBool) -> anyhow::Result<u64> {
    let state = UdpSocketState::new(socket.into())?;
    landbridge_xsk::udp::forget_timestamps(socket.as_fd())?;
    socket.set_nonblocking(false)?;
    // What the tunnel delivered is not to be lost for want of a turn on a busy core; the demo has the right to exceed the
    // limit of ordinary programs.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER)
        .context("the receiver's buffer cannot be enlarged")?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut buffers = vec![vec![0_u8; 65_536]; BATCH_SIZE];
    let mut meta = vec![RecvMeta::default(); BATCH_SIZE];
    let mut seen = Seen::default();
    while !end.load(Ordering::Relaxed) {
        let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let count = match state.recv(socket.into(), &mut slices, &mut meta) {
            Ok(count) => count,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error).context("the receiver cannot receive"),
        };
        for (buffer, meta) in buffers.iter().zip(&meta).take(count) {
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                if let Some(number) = datagram.first_chunk::<8>().filter(|_| datagram.len() == PAYLOAD) {
                    seen.insert(u64::from_be_bytes(*number));
                }
            }
        }
    }
    Ok(seen.count)
}

/// Which numbers have arrived: a duplicate counts once, whatever order they come in.
#[derive(Debug, Default)]
struct Seen {
    bits: Vec<u64>,
    count: u64,
}

impl Seen {
    /// Numbers beyond this are not of a sender of ours.
    const LIMIT: u64 = 1 << 30;

    fn insert(&mut self, number: u64) {
        if number >= Self::LIMIT {
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1_u64 << (number % 64));
        if word >= self.bits.len() {
            self.bits.resize((word + 1).next_power_of_two(), 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_strangers_do_not_count() {
        let mut seen = Seen::default();
        for number in [0, 5, 5, 1_000_000, 3, 0, u64::MAX, Seen::LIMIT] {
            seen.insert(number);
        }
        assert_eq!(seen.count, 4);
    }

    #[test]
    fn loss_is_a_share_of_what_was_sent() {
        let figures = UdpFigures { sent: 1000, received: 990, window: Duration::from_millis(500) };
        assert!((figures.loss() - 0.01).abs() < 1e-9);
        assert!((figures.rate() - 1980.0).abs() < 1e-6);
        let none = UdpFigures { sent: 0, received: 0, window: Duration::from_secs(1) };
        assert!(none.loss().abs() < 1e-9);
    }
}
