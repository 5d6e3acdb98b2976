//! The lan side of a running lane: its rings, if it has any, and its queue of the tunnel interface beside them.
//!
//! Enters and leaves: as [`super::side::Lan`] says. Which way a packet out of the tunnel leaves is decided here, per packet:
//! 1. With rings, its next hop is looked up; consecutive packets between the same addresses share that.
//! 2. It leaves by the ring of the hop's interface when it is one that is simply forwarded.
//! 3. Everything else is the kernel's, by the TUN: it resolves, fragments, answers and refuses.
//!
//! Never does: drop what the kernel could carry, or let one source of packets keep the others waiting.

use std::io;
use std::net::IpAddr;

use landbridge_xsk::{Burst, Frame, Pool};
use rustix::event::{PollFd, PollFlags};

use super::inner;
use super::lan_table::{LanTable, NextHop, ToKernel};
use super::lan_tun::LanTun;
use super::lan_xdp::LanXdp;
use super::ring::Rings;
use super::side::{Lan, PollSet};
use super::stats::LaneStats;

/// Rings and TUN queue of one lane. A lane that has neither only helps others.
#[derive(Debug)]
pub struct LanSide {
    rings: Rings<LanXdp>,
    tun: Option<Box<LanTun>>,
    /// What goes by the TUN of the burst at hand.
    to_kernel: Burst,
}

/// How packets between two addresses leave: by this ring to this hop, or by the TUN.
type Way<'a> = Result<(usize, &'a NextHop), ToKernel>;

impl LanSide {
    /// What the lane shall use.
    #[must_use]
    pub fn new(rings: Vec<LanXdp>, tun: Option<LanTun>) -> Self {
        Self { rings: Rings::new(rings), tun: tun.map(Box::new), to_kernel: Burst::new() }
    }

    /// Sorts a burst: into the rings, or into `to_kernel`.
    fn sort(&mut self, pool: &mut Pool, frames: &mut Burst, table: &LanTable, stats: &LaneStats) {
        let Self { rings, to_kernel, .. } = self;
        let mut last: Option<((IpAddr, IpAddr), Way<'_>)> = None;
        for frame in frames.drain(..) {
            // The lane has parsed it; what does not parse all the same is the kernel's to refuse.
            let Ok(packet) = inner::parse(frame.data()) else {
                to_kernel.push(frame);
                continue;
            };
            let between = (packet.source, packet.destination);
            let way = match last {
                Some((same, way)) if same == between => way,
                _ => {
                    let way = table.next_hop(&packet).and_then(|hop| {
                        let place = rings.place(hop.if_index);
                        hop.mark_used();
                        place.map(|place| (place, &**hop)).ok_or(ToKernel::NoRing)
                    });
                    last = Some((between, way));
                    way
                }
            };
            let way = way.and_then(|(place, hop)| {
                let ring = rings.at(place);
                forwardable(&frame, hop, ring.long_max()).map(|()| (ring, hop))
            });
            match way {
                Ok((ring, hop)) => ring.push(pool, frame, hop, stats),
                Err(why) => {
                    count(why, stats);
                    to_kernel.push(frame);
                }
            }
        }
    }
}

/// Whether a packet is one that is simply forwarded, by a ring that sends packets in jumbo frames up to `long_max`.
#[inline]
fn forwardable(frame: &Frame, hop: &NextHop, long_max: usize) -> Result<(), ToKernel> {
    if (frame.is_jumbo() && frame.len() > long_max) || frame.len() > hop.mtu as usize {
        return Err(ToKernel::TooLong);
    }
    let forwarded = inner::forwarded(frame.data());
    if forwarded.options {
        return Err(ToKernel::Options);
    }
    if forwarded.hop_limit <= 1 {
        return Err(ToKernel::HopLimit);
    }
    Ok(())
}

fn count(why: ToKernel, stats: &LaneStats) {
    let counter = match why {
        ToKernel::NoRoute => &stats.lan_kernel_no_route,
        ToKernel::Unresolved => &stats.lan_kernel_unresolved,
        ToKernel::Special => &stats.lan_kernel_special,
        ToKernel::HopLimit => &stats.lan_kernel_hop_limit,
        ToKernel::TooLong => &stats.lan_kernel_too_long,
        ToKernel::Options => &stats.lan_kernel_options,
        ToKernel::NoRing => &stats.lan_kernel_no_ring,
    };
    counter.add(1);
}

impl Lan for LanSide {
    fn receive(&mut self, pool: &mut Pool, into: &mut Burst, stats: &LaneStats) -> io::Result<()> {
        let Self { rings, tun, .. } = self;
        let mut result = Ok(());
        rings.in_turn(|ring| {
            match (ring, &mut *tun) {
                (Some(ring), _) => ring.receive(pool, into, stats),
                (None, Some(tun)) => result = tun.receive(pool, into, stats),
                (None, None) => {}
            }
            into.is_full()
        });
        result
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Burst, table: &LanTable, stats: &LaneStats) -> io::Result<()> {
        if self.rings.is_empty() {
            // Whoever calls counts what is left as refused.
            return self.tun.as_mut().map_or(Ok(()), |tun| tun.transmit(pool, frames, table, stats));
        }
        self.sort(pool, frames, table, stats);
        if self.to_kernel.is_empty() {
            return Ok(());
        }
        let sent = match &mut self.tun {
            Some(tun) => tun.transmit(pool, &mut self.to_kernel, table, stats),
            None => Ok(()),
        };
        frames.extend(self.to_kernel.drain(..));
        sent
    }

    fn flush(&mut self, pool: &mut Pool, stats: &LaneStats) -> io::Result<()> {
        let sent = self.tun.as_mut().map_or(Ok(()), |tun| tun.flush(pool, stats));
        self.rings.iter_mut().map(|ring| ring.flush(pool, stats)).fold(sent, Result::and)
    }

    fn glance(&mut self, pool: &mut Pool) -> bool {
        self.rings.glance(pool)
    }

    fn has_rings(&self) -> bool {
        !self.rings.is_empty()
    }

    fn poll_set<'a>(&'a self, into: &mut PollSet<'a>) {
        into.extend(self.rings.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        if let Some(tun) = &self.tun {
            tun.poll_set(into);
        }
    }

    fn replace_rings(&mut self, pool: &mut Pool, if_index: u32, rings: Vec<LanXdp>) {
        self.rings.replace(pool, if_index, rings);
    }

    fn close(&mut self, pool: &mut Pool) {
        self.rings.close(pool);
        if let Some(tun) = &mut self.tun {
            tun.close(pool);
        }
    }
}
