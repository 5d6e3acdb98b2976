//! Relaying in user space: what the XDP program cannot forward, or everything where there is none.
//!
//! ```text
//! A -----> port_a  relay  port_b -----> B        each port belongs to one end, which is bound to one place
//! ```
//!
//! One thread beside lanes and control task, so that neither a flood at a port of the relay nor a busy relay costs them
//! anything.
//!
//! 1. [`socket`]: each end has a port, each port a socket.
//! 2. [`forward`]: datagrams of a readable port, as many as the kernel joined; [`admit`] says what becomes of each.
//! 3. Those for the other end leave from that end's port, as many in one message as the kernel cuts ([`staged`]).
//!
//! Enters: commands of the control task, datagrams. Leaves: the same datagrams from the other port; to the control task what
//! is sealed for this gateway, and places that stock peers were found at. Never does: open a message, keep one, or send
//! anywhere but to a bound place.

mod admit;
mod forward;
pub mod fuzzing;
pub mod message;
mod rate;
pub mod socket;
mod staged;
mod stats;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

pub use landbridge_ebpf_common::RelayRate;
pub use stats::{EndStats, RelayStats};

use crate::datapath::report::Waker;
use crate::datapath::tables::Published;
use crate::steer::relay::SharedBucket;

/// The longest datagram for this gateway that is handed to the control task: binds are shorter.
pub const OWN_MAX: usize = 256;
/// Reports that wait for the control task.
const REPORTS: usize = 256;

/// Where an end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Its address, as our socket sees it.
    pub remote: SocketAddr,
    /// The address of ours that it sends to.
    pub local: IpAddr,
}

/// A port for one end of an allocation.
#[derive(Debug)]
pub struct NewEnd {
    /// The number of the end. The other end of its allocation has the number with the last bit changed.
    pub end: u32,
    /// Its socket.
    pub socket: UdpSocket,
    /// How fast it may send.
    pub rate: RelayRate,
    /// Where the XDP program counts what it has sent, and the thread too; `None` where there is no program.
    pub bucket: Option<SharedBucket>,
    /// What it has sent.
    pub stats: Arc<EndStats>,
    /// For an end that a stock peer is to be bound to: the public key of the other one.
    pub link: Option<[u8; 32]>,
}

/// What the control task tells the thread.
#[derive(Debug)]
pub enum Command {
    /// Serve this port.
    Open(NewEnd),
    /// An end is at this place from here on, or nowhere.
    Bind(u32, Option<Place>),
    /// A stock peer may be bound by what comes from this address; from nowhere with `None`.
    Expect(u32, Option<IpAddr>),
    /// Close this port.
    Close(u32),
}

/// What the thread tells the control task. Each wakes it.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the queue's places are allocated once, a box would be allocated each time"
)]
pub enum Report {
    /// A stock peer was found, and is bound to where it is.
    Found {
        /// Its end.
        end: u32,
        /// Where.
        place: Place,
    },
    /// A datagram that is sealed for this gateway.
    Own {
        /// The end whose port it came to.
        end: u32,
        /// From where.
        remote: SocketAddr,
        /// To which address of ours.
        local: Option<IpAddr>,
        /// Its bytes.
        bytes: ArrayVec<u8, OWN_MAX>,
    },
}

/// The thread, as the control task has it. It ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    commands: Option<Sender<Command>>,
    wake: Waker,
    /// What the thread has to say.
    pub reports: Arc<ArrayQueue<Report>>,
    /// Pulled by the thread when it has something to say.
    pub waker: Waker,
    /// What it has dropped.
    pub stats: Arc<RelayStats>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is given at start.
struct Parts {
    commands: Receiver<Command>,
    wake: Waker,
    reports: Arc<ArrayQueue<Report>>,
    control: Waker,
    stats: Arc<RelayStats>,
    tables: Published,
}

impl Relay {
    /// Starts the thread. `tables` tell which sessions are this gateway's own; `link_silence`: a stock peer whose place has
    /// been silent so long may be found elsewhere by any message, before only by a handshake.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn start(tables: Published, link_silence: Duration) -> io::Result<Self> {
        let (commands, receiver) = channel();
        let (wake, waker) = (Waker::new()?, Waker::new()?);
        let reports = Arc::new(ArrayQueue::new(REPORTS));
        let stats = Arc::new(RelayStats::default());
        let parts = Parts {
            commands: receiver,
            wake: wake.clone(),
            reports: Arc::clone(&reports),
            control: waker.clone(),
            stats: Arc::clone(&stats),
            tables,
        };
        let mut forwarder = forward::Forwarder::new(parts, link_silence)?;
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || forwarder.run())?;
        Ok(Self { commands: Some(commands), wake, reports, waker, stats, thread: Some(thread) })
    }

    /// Tells the thread something.
    pub fn tell(&self, command: Command) {
        // A thread that is gone has nothing to be told.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
        self.wake.wake();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.commands.take());
        self.wake.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it.
            let _ = thread.join();
        }
    }
}
