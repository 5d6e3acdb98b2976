//! The relay's part of the program: its ports, its bound ends, and what they have sent.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::xdp::XdpMapError;
use aya::maps::{Array, MapData, MapError};
use landbridge_ebpf_common::relay::RelayBucket;
use landbridge_ebpf_common::{self as common, RelayTarget};
pub use landbridge_ebpf_common::{RelayKey, RelayRate, RelayTally};
use rustix::time::{ClockId, clock_gettime};

use super::{Steer, SteerError, absent_is_fine, error};

/// Where datagrams of an end go on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayOnward {
    /// The other peer's place.
    pub remote: SocketAddr,
    /// The address of ours that it is used to.
    pub local: IpAddr,
    /// The port of ours that it is used to.
    pub port: u16,
}

/// What the program is told of the relay. All zero relays nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayPlan {
    /// The first port.
    pub first: u16,
    /// How many there are.
    pub count: u16,
    /// No interface has the program in generic mode.
    pub native: bool,
    /// Every interface sends frames back that came by it; a veth does not do so reliably.
    pub back: bool,
}

impl RelayPlan {
    /// As the program has it.
    pub(super) const fn flags(self) -> u32 {
        (if self.native { common::RELAY_NATIVE } else { 0 }) | (if self.back { common::RELAY_BACK } else { 0 })
    }
}

impl Steer {
    /// Looks at datagrams to the relay's ports as to be relayed.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_relay(&mut self, relay: RelayPlan) -> Result<(), SteerError> {
        if self.relay == relay {
            return Ok(());
        }
        self.relay = relay;
        self.configure()
    }

    /// Lets relayed datagrams leave by an interface, or not. Its driver has to send frames that XDP programs of other
    /// interfaces hand it; what does not leave by such an interface is left to the kernel.
    ///
    /// # Errors
    /// More interfaces than the map holds, or what the kernel said.
    pub fn set_relay_egress(&mut self, if_index: u32, may_leave: bool) -> Result<(), SteerError> {
        let done = match may_leave {
            true => self.relay_egress.insert(if_index, if_index, None, 0).map_err(|error| match error {
                XdpMapError::MapError(error) => error,
                // Nobody asked for a program there.
                XdpMapError::ChainedProgramNotSupported => MapError::ElementNotFound,
            }),
            false => absent_is_fine(self.relay_egress.remove(if_index)),
        };
        done.map_err(error::map("an interface of the relay"))
    }

    /// From here on relays what comes from `from`. False where the places are of different families: user space does it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn bind_relay(
        &mut self,
        from: RelayKey,
        to: RelayOnward,
        end: u32,
        rate: RelayRate,
    ) -> Result<bool, SteerError> {
        let target = RelayTarget::new(&from, to.remote, to.local, to.port, end, rate);
        let Some(target) = target.filter(|target| target.end < common::RELAY_ENDS) else { return Ok(false) };
        self.relay_ends.insert(from, target, 0).map_err(error::map("an end of the relay"))?;
        Ok(true)
    }

    /// Leaves what comes from there to user space.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn unbind_relay(&mut self, from: &RelayKey) -> Result<(), SteerError> {
        absent_is_fine(self.relay_ends.remove(from)).map_err(error::map("an end of the relay"))
    }

    /// What an end has sent by way of the program since [`Steer::reset_relay`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn relay_tally(&self, end: u32) -> Result<RelayTally, SteerError> {
        let of_cpus = self.relay_tallies.get(&end, 0).map_err(error::map("the counters of the relay"))?;
        Ok(of_cpus.iter().fold(RelayTally::default(), |sum, cpu| RelayTally {
            packets: sum.packets.wrapping_add(cpu.packets),
            bytes: sum.bytes.wrapping_add(cpu.bytes),
            limited: sum.limited.wrapping_add(cpu.limited),
            last_ns: sum.last_ns.max(cpu.last_ns),
        }))
    }

    /// Begins an end's counters and its rate anew, before it is given to another peer.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn reset_relay(&mut self, end: u32) -> Result<(), SteerError> {
        let cpus = self.relay_tallies.get(&end, 0).map_err(error::map("the counters of the relay"))?.len();
        let zeros = aya::maps::PerCpuValues::try_from(vec![RelayTally::default(); cpus])
            .map_err(|source| error::map("the counters of the relay")(source.into()))?;
        self.relay_tallies.set(end, zeros, 0).map_err(error::map("the counters of the relay"))?;
        let mut buckets = self.relay_buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.set(end, RelayBucket::default(), 0).map_err(error::map("the rate of the relay"))
    }

    /// Where the program counts how far an end is ahead of its rate.
    #[must_use]
    pub fn relay_bucket(&self, end: u32) -> SharedBucket {
        SharedBucket { buckets: Arc::clone(&self.relay_buckets), end }
    }
}

/// The map of buckets.
pub(super) type Buckets = Arc<Mutex<Array<MapData, RelayBucket>>>;

/// Where the program counts how far one end is ahead of its rate, for others that count in the same place.
#[derive(Clone)]
pub struct SharedBucket {
    buckets: Buckets,
    end: u32,
}

impl SharedBucket {
    /// When what was forwarded would have ended at the permitted rate, on the monotonic clock; `None` where the kernel does
    /// not say.
    #[must_use]
    pub fn until_ns(&self) -> Option<u64> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get(&self.end, 0).map(|bucket| bucket.until_ns).ok()
    }

    /// Counts what would have taken so long. What the program counts in the same moment may be lost: some packets at most.
    pub fn count(&self, now_ns: u64, taken_ns: u64) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(present) = buckets.get(&self.end, 0) else { return };
        let until_ns = present.until_ns.max(now_ns) + taken_ns;
        // An element of an array is always there.
        let _ = buckets.set(self.end, RelayBucket { until_ns, ..present }, 0);
    }
}

impl fmt::Debug for SharedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBucket").field("end", &self.end).finish_non_exhaustive()
    }
}

/// How long ago something was on the program's clock.
#[must_use]
pub fn since(ns: u64) -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let now = Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    now.saturating_sub(Duration::from_nanos(ns))
}
