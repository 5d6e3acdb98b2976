//! Round-trip time: a UDP echo between the hosts on an otherwise idle tunnel.
//!
//! Enters: two namespaces and a duration. Leaves: percentiles in microseconds. Never does: have two packets on the way.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;

use crate::lab::namespace::join;
use crate::lab::stop::Stop;
use crate::lab::{PATIENCE, Path, is_timeout};

const PAYLOAD: usize = 64;
/// Pause between two packets: the tunnel is idle each time.
const GAP: Duration = Duration::from_millis(1);

/// What the echo showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RttFigures {
    pub(super) samples: u64,
    pub(super) lost: u64,
    pub(super) us_p50: f64,
    pub(super) us_p99: f64,
}

/// Sends echoes along a path.
pub(super) fn measure(path: Path<'_>, duration: Duration, stop: &Stop) -> anyhow::Result<RttFigures> {
    let Path { from, to, address } = path;
    let server = to.run(move || UdpSocket::bind((address, 0)).context("the echo cannot bind"))?;
    let target = server.local_addr()?;
    let end = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&end);
    let echo = to.spawn("echo", move || serve(&server, &ended))?;
    let user = stop.clone();
    let client = from.spawn("ping", move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("the sender cannot bind")?;
        socket.connect(target)?;
        ping(&socket, duration, &user)
    })?;
    let figures = join(client);
    end.store(true, Ordering::Relaxed);
    join(echo)?;
    stop.check()?;
    figures
}

/// Sends one packet that nobody answers.
pub(super) fn knock(path: Path<'_>) -> anyhow::Result<()> {
    let address = path.address;
    path.from.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("the sender cannot bind")?;
        // An answer of ICMP to an earlier one is no failure of this one.
        drop(socket.send_to(&[0], (address, 9)));
        Ok(())
    })
}

fn serve(socket: &UdpSocket, end: &AtomicBool) -> anyhow::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0_u8; PAYLOAD];
    while !end.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                socket.send_to(&buffer[..length], from).context("the echo cannot send")?;
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).context("the echo cannot receive"),
        }
    }
    Ok(())
}

fn ping(socket: &UdpSocket, duration: Duration, stop: &Stop) -> anyhow::Result<RttFigures> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let (start, mut number, mut lost) = (Instant::now(), 0_u64, 0_u64);
    let (mut request, mut reply) = ([0_u8; PAYLOAD], [0_u8; PAYLOAD]);
    while start.elapsed() < duration && !stop.is_set() {
        number += 1;
        request[..8].copy_from_slice(&number.to_be_bytes());
        let sent = Instant::now();
        socket.send(&request).context("the sender cannot send")?;
        loop {
            match socket.recv(&mut reply) {
                // An answer that came after its time was up belongs to no sample.
                Ok(PAYLOAD) if reply == request => {
                    histogram.saturating_record(sent.elapsed().as_nanos() as u64);
                    break;
                }
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {
                    lost += 1;
                    break;
                }
                Err(error) => return Err(error).context("the sender cannot receive"),
            }
        }
        std::thread::sleep(GAP);
    }
    anyhow::ensure!(stop.is_set() || !histogram.is_empty(), "no echo came back through the tunnel");
    let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(RttFigures { samples: histogram.len(), lost, us_p50: us(0.5), us_p99: us(0.99) })
}
