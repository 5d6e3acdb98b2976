//! TCP throughput: N streams from one host to another, counted where they arrive.
//!
//! Enters: two namespaces, streams and a duration. Leaves: bits per second of the window after a warm-up, and what the
//! sender had to send again. Never does: count what was only sent.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::namespace::{Namespace, join};
use super::stop::Stop;
use super::{PATIENCE, Path, is_timeout};

const CHUNK: usize = 128 * 1024;
const WARM_UP: Duration = Duration::from_millis(700);

/// What TCP reached.
#[derive(Debug, Clone, Copy)]
pub struct TcpFigures {
    /// Payload bits per second at the receivers.
    pub bits_per_second: f64,
    /// How long was counted.
    pub window: Duration,
    /// Segments that the senders' kernel sent again in that time.
    pub retransmits: u64,
}

/// What all threads of a run share.
#[derive(Debug, Default)]
struct Shared {
    received: AtomicU64,
    end: AtomicBool,
}

/// Sends along a path. `around` is called when the window begins and when it ends, `progress` with the rate so far.
///
/// # Errors
/// A connection that fails, or [`super::stop::Interrupted`].
pub fn measure(
    path: Path<'_>,
    streams: usize,
    duration: Duration,
    stop: &Stop,
    mut around: impl FnMut(),
    mut progress: impl FnMut(f64),
) -> anyhow::Result<TcpFigures> {
    let Path { from, to, address } = path;
    let listener = to.run(move || TcpListener::bind((address, 0)).context("the receiver cannot listen"))?;
    listener.set_nonblocking(true)?;
    let target = listener.local_addr()?;
    let shared = Arc::new(Shared::default());
    let mut threads = Vec::new();
    let result = (|| {
        for number in 0..streams {
            threads.push(start_sender(from, target, number, &shared)?);
            let stream = accept(&listener, &threads, stop)?;
            threads.push(start_receiver(to, stream, number, &shared)?);
        }
        stop.sleep(WARM_UP)?;
        around();
        let again = retransmits(from)?;
        let (start, before) = (Instant::now(), shared.received.load(Ordering::Relaxed));
        let so_far = |start: Instant| {
            let bytes = shared.received.load(Ordering::Relaxed) - before;
            bytes as f64 * 8.0 / start.elapsed().as_secs_f64()
        };
        while start.elapsed() < duration {
            stop.sleep(Duration::from_millis(250).min(duration.saturating_sub(start.elapsed())))?;
            progress(so_far(start));
        }
        let (bits_per_second, window) = (so_far(start), start.elapsed());
        around();
        let retransmits = retransmits(from)?.saturating_sub(again);
        Ok(TcpFigures { bits_per_second, window, retransmits })
    })();
    shared.end.store(true, Ordering::Relaxed);
    for thread in threads {
        // The first error is the one that counts; a sender whose receiver has gone adds nothing to it.
        drop(join(thread));
    }
    result
}

/// Segments that the kernel has sent again in a namespace, since it was made.
fn retransmits(namespace: &Namespace) -> anyhow::Result<u64> {
    let text = namespace.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    retransmits_of(&text).context("/proc/net/snmp has no counter of TCP segments sent again")
}

/// `/proc/net/snmp` has two lines for each protocol: the names, then the values.
fn retransmits_of(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, value) =
        names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == "RetransSegs")?;
    value.parse().ok()
}

/// Takes the connection of a sender, unless that has failed already.
fn accept(
    listener: &TcpListener,
    threads: &[JoinHandle<anyhow::Result<()>>],
    stop: &Stop,
) -> anyhow::Result<TcpStream> {
    let end = Instant::now() + Duration::from_secs(8);
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).context("the receiver cannot accept"),
        }
        anyhow::ensure!(
            !threads.last().is_some_and(JoinHandle::is_finished),
            "a TCP connection through the tunnel failed"
        );
        anyhow::ensure!(Instant::now() < end, "no TCP connection came through the tunnel in 8 s");
        stop.sleep(Duration::from_millis(5))?;
    }
}

fn start_sender(
    from: &Namespace,
    target: SocketAddr,
    number: usize,
    shared: &Arc<Shared>,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let shared = Arc::clone(shared);
    from.spawn(&format!("tcp-send-{number}"), move || {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).context("no connection")?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let chunk = vec![0x5a; CHUNK];
        while !shared.end.load(Ordering::Relaxed) {
            match stream.write(&chunk) {
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("the sender's connection broke"),
            }
        }
        Ok(())
    })
}

fn start_receiver(
    to: &Namespace,
    mut stream: TcpStream,
    number: usize,
    shared: &Arc<Shared>,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let shared = Arc::clone(shared);
    to.spawn(&format!("tcp-recv-{number}"), move || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = vec![0; 2 * CHUNK];
        while !shared.end.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    shared.received.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("the receiver's connection broke"),
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::retransmits_of;

    #[test]
    fn the_counter_of_segments_sent_again_is_found_by_its_name() {
        let text = "Ip: A B\nIp: 1 2\nTcp: RtoMin OutSegs RetransSegs InErrs\nTcp: 200 10 7 0\nUdp: X\nUdp: 3\n";
        assert_eq!(retransmits_of(text), Some(7));
        assert_eq!(retransmits_of("Tcp: OutSegs\nTcp: 10\n"), None);
    }
}
