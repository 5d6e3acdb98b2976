//! Real TCP and UDP between namespaces, every byte checked.
//!
//! Enters: two namespaces and an address. Leaves: how it went. Never does: wait without a limit. A socket belongs to the
//! namespace it was made in, so only its making happens on a thread inside.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Namespace, eventually};

/// How long a TCP connection may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of the unit that TCP streams are made of.
const BLOCK: usize = 64 * 1024;

/// Sends `bytes` over one TCP connection each way, and checks every one of them.
#[track_caller]
pub(crate) fn tcp_exchange(client: &Namespace, server: &Namespace, address: IpAddr, bytes: usize) {
    let blocks = bytes.div_ceil(BLOCK) as u64;
    let listener = server.inside(move || TcpListener::bind((address, 0))).expect("a port of the server");
    let target = listener.local_addr().expect("a bound socket");
    let answering = server.thread(move || -> std::io::Result<()> {
        let (mut stream, _) = accept(&listener)?;
        limit(&stream)?;
        check_blocks(&mut stream, blocks, 1)?;
        send_blocks(&mut stream, blocks, 2)
    });
    let asking = client.thread(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&target, STALL_LIMIT)?;
        limit(&stream)?;
        send_blocks(&mut stream, blocks, 1)?;
        check_blocks(&mut stream, blocks, 2)
    });
    asking.join(Duration::from_secs(90)).unwrap_or_else(|error| panic!("TCP from the client's side: {error}"));
    answering.join(Duration::from_secs(90)).unwrap_or_else(|error| panic!("TCP from the server's side: {error}"));
}

fn accept(listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + STALL_LIMIT;
    loop {
        match listener.accept() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok((stream, from)) => {
                stream.set_nonblocking(false)?;
                return Ok((stream, from));
            }
            Err(error) => return Err(error),
        }
    }
}

fn limit(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(STALL_LIMIT))?;
    stream.set_write_timeout(Some(STALL_LIMIT))
}

fn send_blocks(stream: &mut TcpStream, blocks: u64, seed: u64) -> std::io::Result<()> {
    let mut block = pattern(BLOCK, seed);
    for number in 0..blocks {
        block[..8].copy_from_slice(&number.to_le_bytes());
        stream.write_all(&block)?;
    }
    Ok(())
}

fn check_blocks(stream: &mut TcpStream, blocks: u64, seed: u64) -> std::io::Result<()> {
    let mut expected = pattern(BLOCK, seed);
    let mut block = vec![0; BLOCK];
    for number in 0..blocks {
        expected[..8].copy_from_slice(&number.to_le_bytes());
        stream.read_exact(&mut block)?;
        assert!(block == expected, "block {number} of {blocks} differs from what was sent");
    }
    Ok(())
}

/// Bytes without a pattern that a mistake could preserve.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

/// A UDP server that sends back what it gets.
pub(crate) struct Echo {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it.
    #[track_caller]
    pub(crate) fn start(namespace: &Namespace, address: IpAddr) -> Self {
        let socket = namespace.inside(move || UdpSocket::bind((address, 0))).expect("a port of the server");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        let address = socket.local_addr().expect("a bound socket");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // What the tunnel cannot take back is lost, as UDP is.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends one datagram of each size to an [`Echo`] and checks what comes back; returns how many had to be sent again.
#[track_caller]
pub(crate) fn udp_sizes(client: &Namespace, echo: &Echo, sizes: impl IntoIterator<Item = usize>) -> u32 {
    let socket = client_socket(client, echo.address);
    socket.set_read_timeout(Some(Duration::from_millis(400))).expect("a time limit");
    let mut repeated = 0;
    let mut buffer = vec![0; 65536];
    for size in sizes {
        let datagram = pattern(size, size as u64);
        let mut attempts = 0;
        socket.send(&datagram).unwrap_or_else(|error| panic!("a datagram of {size} bytes: {error}"));
        loop {
            match socket.recv(&mut buffer) {
                // The answer to a datagram that was repeated too early has another size.
                Ok(length) if length != size => {}
                Ok(_) => break assert!(buffer[..size] == datagram, "a datagram of {size} bytes changed on its way"),
                Err(_) => {
                    attempts += 1;
                    assert!(attempts < 20, "no answer to a datagram of {size} bytes");
                    repeated += 1;
                    let _ = socket.send(&datagram);
                }
            }
        }
    }
    repeated
}

/// Sends datagrams that nobody will answer.
#[track_caller]
pub(crate) fn shout(client: &Namespace, from: IpAddr, to: IpAddr, count: usize) {
    let sent = client.inside(move || -> std::io::Result<()> {
        let socket = UdpSocket::bind((from, 0))?;
        (0..count).try_for_each(|_| socket.send_to(b"is anybody there?", (to, 9)).map(drop))
    });
    sent.unwrap_or_else(|error| panic!("datagrams from {from} to {to}: {error}"));
}

fn client_socket(client: &Namespace, target: SocketAddr) -> UdpSocket {
    client
        .inside(move || {
            let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(target)?;
            Ok::<_, std::io::Error>(socket)
        })
        .expect("a socket of the client")
}

/// Numbered datagrams to an [`Echo`], one every few milliseconds, for as long as the test changes things.
pub(crate) struct Flow {
    state: Arc<FlowState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct FlowState {
    stop: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
    /// The highest number that came back, plus one.
    newest: AtomicU64,
}

impl Flow {
    /// Starts it.
    #[track_caller]
    pub(crate) fn start(client: &Namespace, echo: &Echo, interval: Duration) -> Self {
        let socket = client_socket(client, echo.address);
        socket.set_read_timeout(Some(interval)).expect("a time limit");
        let state = Arc::new(FlowState::default());
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !shared.stop.load(Ordering::Relaxed) {
                let number = shared.sent.fetch_add(1, Ordering::Relaxed);
                let mut datagram = pattern(400, 7);
                datagram[..8].copy_from_slice(&number.to_le_bytes());
                // A route or a peer may be missing for a moment: that is what the test looks at.
                let _ = socket.send(&datagram);
                let next = Instant::now() + interval;
                while let Some(wait) = next.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) {
                    let _ = socket.set_read_timeout(Some(wait));
                    let Ok(length) = socket.recv(&mut buffer) else { continue };
                    assert!(length == 400 && buffer[8..400] == datagram[8..], "a datagram changed on its way");
                    let number = u64::from_le_bytes(buffer[..8].try_into().expect("eight bytes"));
                    shared.answered.fetch_add(1, Ordering::Relaxed);
                    shared.newest.fetch_max(number + 1, Ordering::Relaxed);
                }
            }
        });
        Self { state, thread: Some(thread) }
    }

    /// How many datagrams were sent and how many came back.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.state.sent.load(Ordering::Relaxed), self.state.answered.load(Ordering::Relaxed))
    }

    /// Waits until twenty datagrams that are sent from this moment on have come back; returns how long that took.
    #[track_caller]
    pub(crate) fn goes_on(&self, what: &str, limit: Duration) -> Duration {
        let begin = Instant::now();
        let from = self.state.sent.load(Ordering::Relaxed);
        let answered = eventually(what, limit, || {
            (self.state.newest.load(Ordering::Relaxed) > from).then(|| self.state.answered.load(Ordering::Relaxed))
        });
        eventually(what, limit.saturating_sub(begin.elapsed()), || {
            (self.state.answered.load(Ordering::Relaxed) >= answered + 20).then_some(())
        });
        begin.elapsed()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        let failed = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!failed || std::thread::panicking(), "the sender of a flow failed");
    }
}
