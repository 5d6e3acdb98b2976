//! The thread: reads ports that are readable, and sends what is admitted out of the other end's port.
//!
//! The kernel joins datagrams of a flow into one message (UDP_GRO), and cuts what is sent as one (UDP_SEGMENT). Datagrams lie
//! in the buffers that they were read into until they are sent from there: nothing is copied in user space.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use landbridge_proto::DropReason;
use landbridge_xsk::datagram::{self, Departure, Inbox};
use landbridge_xsk::udp;
use rustix::event::epoll;
use rustix::io::Errno;

use super::admit::{Door, Link, Verdict};
use super::rate::Bucket;
use super::staged::{SEGMENTS, Staged};
use super::stats::EndStats;
use super::{Command, NewEnd, OWN_MAX, Parts, Place, Report};

/// Messages of one read.
const MESSAGES: usize = 16;
/// Bytes of one message at most.
const MESSAGE_MAX: usize = 1 << 16;
/// Reads of one port before the others have their turn.
const READS: usize = 8;
/// After so many sends one by one, the kernel is asked again whether it cuts messages.
const REFUSAL_LASTS: u32 = 10_000;
/// What the waker is called among the ports.
const WAKER: u64 = u64::MAX;

/// The thread's state.
pub(super) struct Forwarder {
    parts: Parts,
    poll: OwnedFd,
    ends: HashMap<u32, End>,
    inbox: Inbox,
    buffer: Box<[u8]>,
    link_silence: Duration,
}

/// One port.
struct End {
    socket: UdpSocket,
    is_v6: bool,
    segments_max: usize,
    /// Sends that are still to go one by one, as the kernel refused to cut.
    refused: u32,
    door: Door,
    stats: Arc<EndStats>,
}

/// The way out of the other end's port.
struct Outlet<'e> {
    socket: &'e UdpSocket,
    remote: SocketAddr,
    place: Place,
    segments_max: usize,
}

impl Forwarder {
    pub(super) fn new(parts: Parts, link_silence: Duration) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poll, parts.wake.as_fd(), epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        let buffer = vec![0; MESSAGES * MESSAGE_MAX].into();
        Ok(Self { parts, poll, ends: HashMap::new(), inbox: Inbox::default(), buffer, link_silence })
    }

    /// Runs until the control task lets go of it.
    pub(super) fn run(&mut self) {
        let mut events = Vec::with_capacity(MESSAGES);
        loop {
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the relay's thread cannot wait: it ends");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    WAKER => {
                        self.parts.wake.clear();
                        if !self.obey() {
                            return;
                        }
                    }
                    // Numbers of ends are below 2^32.
                    end => self.serve(end as u32),
                }
            }
        }
    }

    /// Does what the control task says. False when it is gone.
    fn obey(&mut self) -> bool {
        loop {
            match self.parts.commands.try_recv() {
                Ok(Command::Open(new)) => self.open(new),
                Ok(Command::Bind(end, place)) => {
                    if let Some(end) = self.ends.get_mut(&end) {
                        (end.door.place, end.door.heard) = (place, None);
                    }
                }
                Ok(Command::Expect(end, expected)) => {
                    if let Some(link) = self.ends.get_mut(&end).and_then(|end| end.door.link.as_mut()) {
                        link.expected = expected;
                    }
                }
                // Its descriptor leaves the poll when it is closed.
                Ok(Command::Close(end)) => drop(self.ends.remove(&end)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn open(&mut self, new: NewEnd) {
        let NewEnd { end, socket, rate, bucket, stats, link } = new;
        let now = Instant::now();
        let data = epoll::EventData::new_u64(u64::from(end));
        if let Err(error) = epoll::add(&self.poll, socket.as_fd(), data, epoll::EventFlags::IN) {
            tracing::warn!(%error, "a port of the relay cannot be served");
            return;
        }
        let is_v6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
        let segments_max = udp::segments_max(socket.as_fd()).min(SEGMENTS);
        let link = link.map(|other| Link { other, expected: None });
        let door = Door { place: None, heard: None, bucket: Bucket::new(rate, bucket, now), link };
        self.ends.insert(end, End { socket, is_v6, segments_max, refused: 0, door, stats });
    }

    /// Reads a port and forwards what comes.
    fn serve(&mut self, number: u32) {
        for _ in 0..READS {
            let Some(end) = self.ends.get(&number) else { return };
            let received = {
                let mut slices: ArrayVec<IoSliceMut<'_>, MESSAGES> =
                    self.buffer.chunks_exact_mut(MESSAGE_MAX).map(IoSliceMut::new).collect();
                self.inbox.receive(end.socket.as_fd(), &mut slices, 1)
            };
            let came = match received {
                Ok(came) => came,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What other machines said about a datagram of ours says nothing about the next one.
                Err(error) => {
                    tracing::debug!(%error, "receiving at a port of the relay");
                    return;
                }
            };
            self.forward(number, came);
            if came < MESSAGES {
                return;
            }
        }
    }

    /// Forwards the messages of one read.
    fn forward(&mut self, number: u32, came: usize) {
        let now = Instant::now();
        let tables = self.parts.tables.load();
        // The two are never the same: their numbers differ in the last bit.
        let Some(mut end) = self.ends.remove(&number) else { return };
        let mut other = self.ends.remove(&(number ^ 1));
        let mut outlet = other.as_ref().and_then(End::outlet);
        let mut staged = Staged::default();
        end.door.bucket.begin();
        let mut unsent = Unsent::default();
        for message in 0..came {
            let Some(arrival) = self.inbox.arrival(message) else { continue };
            let from = arrival.local.map(|local| Place { remote: arrival.remote, local });
            let bytes = &self.buffer[message * MESSAGE_MAX..][..arrival.len.min(MESSAGE_MAX)];
            for bytes in bytes.chunks(arrival.segment.max(1)) {
                match end.door.admit(from, arrival.hops, bytes, &tables, (now, self.link_silence)) {
                    Verdict::Forward => {}
                    Verdict::Found => {
                        end.door.place = from;
                        if let Some(place) = from {
                            self.parts.report(Report::Found { end: number, place });
                        }
                    }
                    Verdict::Own => {
                        self.parts.own(number, arrival.remote, arrival.local, bytes);
                        continue;
                    }
                    Verdict::Drop(reason) => {
                        if reason == DropReason::RelayLimited {
                            end.stats.limited();
                        }
                        self.parts.stats.drop_packets(reason, 1);
                        continue;
                    }
                }
                let Some(outlet) = &mut outlet else {
                    self.parts.stats.drop_packets(DropReason::RelayWaiting, 1);
                    continue;
                };
                let hops = arrival.hops.map(|hops| hops - 1);
                if !staged.joins(outlet.segments_max, bytes, arrival.ecn, hops) {
                    staged.leave(outlet, &end.stats, &mut unsent);
                }
                staged.push(bytes, arrival.ecn, hops);
            }
        }
        if let Some(outlet) = &mut outlet {
            staged.leave(outlet, &end.stats, &mut unsent);
        }
        end.door.bucket.finish(now);
        if end.door.heard == Some(now) {
            end.stats.heard(now);
        }
        self.parts.stats.drop_packets(DropReason::WanFull, unsent.full);
        self.parts.stats.drop_packets(DropReason::WanError, unsent.failed);
        if let Some(mut other) = other.take() {
            other.note(came, unsent.refused);
            self.ends.insert(number ^ 1, other);
        }
        self.ends.insert(number, end);
    }
}

/// What did not leave.
#[derive(Debug, Default)]
struct Unsent {
    full: usize,
    failed: usize,
    /// The kernel does not cut messages of this size on this way.
    refused: bool,
}

impl End {
    /// The way out, where the end is somewhere.
    fn outlet(&self) -> Option<Outlet<'_>> {
        let place = self.door.place?;
        let remote = match place.remote {
            SocketAddr::V4(v4) if self.is_v6 => {
                SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
            }
            SocketAddr::V6(_) if !self.is_v6 => return None,
            remote => remote,
        };
        let segments_max = if self.refused > 0 { 1 } else { self.segments_max };
        Some(Outlet { socket: &self.socket, remote, place, segments_max })
    }

    /// Remembers a refusal for a while.
    fn note(&mut self, sends: usize, refused: bool) {
        self.refused = match refused {
            true => REFUSAL_LASTS,
            false => self.refused.saturating_sub(sends as u32),
        };
    }
}

impl Staged<'_> {
    /// Sends what is staged.
    fn leave(&mut self, outlet: &mut Outlet<'_>, stats: &EndStats, unsent: &mut Unsent) {
        let (count, bytes) = (self.slices.len(), self.bytes);
        if count == 0 {
            return;
        }
        match self.send(outlet, 0..count) {
            Ok(()) => stats.forwarded(count, bytes),
            Err(error) if is(&error, &[Errno::AGAIN, Errno::NOBUFS]) => unsent.full += count,
            Err(error) if count > 1 && is(&error, &[Errno::INVAL, Errno::IO, Errno::MSGSIZE, Errno::OPNOTSUPP]) => {
                // The segments exceed the way's MTU, or the device cannot cut: each by itself.
                (unsent.refused, outlet.segments_max) = (true, 1);
                for at in 0..count {
                    match self.send(outlet, at..at + 1) {
                        Ok(()) => stats.forwarded(1, self.slices[at].len()),
                        Err(_) => unsent.failed += 1,
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a relayed datagram was not sent");
                unsent.failed += count;
            }
        }
        self.clear();
    }

    fn send(&self, outlet: &Outlet<'_>, which: std::ops::Range<usize>) -> io::Result<()> {
        let slices: ArrayVec<IoSlice<'_>, SEGMENTS> =
            self.slices[which].iter().map(|bytes| IoSlice::new(bytes)).collect();
        let segment = (slices.len() > 1).then_some(self.slices[0].len() as u16);
        let departure = Departure {
            remote: outlet.remote,
            local: Some(outlet.place.local),
            if_index: None,
            segment,
            ecn: self.ecn,
            whole_v6: false,
            hops: self.hops,
        };
        datagram::send(outlet.socket.as_fd(), &slices, &departure)
    }
}

impl Parts {
    fn report(&self, report: Report) {
        match self.reports.push(report) {
            Ok(()) => self.control.wake(),
            Err(_) => self.stats.drop_packets(DropReason::ControlQueueFull, 1),
        }
    }

    /// Hands a datagram to the control task.
    fn own(&self, end: u32, remote: SocketAddr, local: Option<std::net::IpAddr>, bytes: &[u8]) {
        let mut copy: ArrayVec<u8, OWN_MAX> = ArrayVec::new();
        match copy.try_extend_from_slice(bytes) {
            Ok(()) => self.report(Report::Own { end, remote, local, bytes: copy }),
            // Longer than any message for a relay's port.
            Err(_) => self.stats.drop_packets(DropReason::ChannelUnexpected, 1),
        }
    }
}

fn is(error: &io::Error, any: &[Errno]) -> bool {
    any.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
