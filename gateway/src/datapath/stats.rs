//! Counters of a lane: one writer, cache-line padded, summed when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};

use landbridge_proto::DropReason;

use super::stages::StageStats;

/// A counter that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning lane calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        // One writer: a plain load and store cost less than an atomic addition.
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// Replaces the value, for gauges; only the owning lane calls this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! lane_stats {
    ($($(#[doc = $doc:literal])+ $field:ident,)+) => {
        /// Counters of one lane.
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct LaneStats {
            $($(#[doc = $doc])+ pub $field: Counter,)+
            drops: [Counter; DropReason::COUNT],
            /// Where its time goes, if that is sampled.
            pub stages: StageStats,
        }

        impl Default for LaneStats {
            fn default() -> Self {
                Self {
                    $($field: Counter::default(),)+
                    drops: std::array::from_fn(|_| Counter::default()),
                    stages: StageStats::default(),
                }
            }
        }

        impl LaneStats {
            /// Every counter but the drops, by name.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field.value()),)+].into_iter()
            }

            /// What a counter counts, for people.
            #[must_use]
            pub fn help(field: &str) -> &'static str {
                match field {
                    $(stringify!($field) => concat!($($doc),+).trim_ascii(),)+
                    _ => "A counter of one lane.",
                }
            }
        }
    };
}

lane_stats! {
    /// Packets received from the wan side's rings.
    wan_xdp_rx_packets,
    /// Bytes of outer IP packets among them.
    wan_xdp_rx_bytes,
    /// Packets sent through the wan side's rings.
    wan_xdp_tx_packets,
    /// Bytes of outer IP packets among them.
    wan_xdp_tx_bytes,
    /// Datagrams of transport data received from the kernel's socket.
    wan_socket_rx_packets,
    /// Bytes of UDP payload among them.
    wan_socket_rx_bytes,
    /// Datagrams of transport data sent through the kernel's socket.
    wan_socket_tx_packets,
    /// Bytes of UDP payload among them.
    wan_socket_tx_bytes,
    /// Inner packets received from the lan side (super-packets count as their segments).
    lan_rx_packets,
    /// Bytes of inner packets among them.
    lan_rx_bytes,
    /// Inner packets given to the lan side (joined ones count as their segments).
    lan_tx_packets,
    /// Bytes of inner packets among them.
    lan_tx_bytes,
    /// Those among them that the lan side's rings received.
    lan_xdp_rx_packets,
    /// Bytes of inner packets among them.
    lan_xdp_rx_bytes,
    /// Those among them that the lan side's rings sent.
    lan_xdp_tx_packets,
    /// Bytes of inner packets among them.
    lan_xdp_tx_bytes,
    /// Given to the kernel although there are lan rings, as no route leads to an interface with rings.
    lan_kernel_no_route,
    /// The same, as the next hop is not resolved.
    lan_kernel_unresolved,
    /// The same, as an address is the gateway's own or one that no router forwards.
    lan_kernel_special,
    /// The same, as the hop limit ends here.
    lan_kernel_hop_limit,
    /// The same, as the packet is longer than the interface takes.
    lan_kernel_too_long,
    /// The same, as the packet has options that concern routers.
    lan_kernel_options,
    /// The same, as the lane has no ring on the interface.
    lan_kernel_no_ring,
    /// Packets read or written on the lan side as units (super-packets count once).
    lan_rx_super_packets,
    /// Super-packets written.
    lan_tx_super_packets,
    /// SYNs whose maximum segment size was lowered to what the path carries.
    mss_clamped,
    /// TCP segments that were cut to what the path carries.
    tcp_cut,
    /// Senders told that a packet is too big for the path.
    too_big_told,
    /// Keepalives received.
    keepalives_received,
    /// Crypto jobs that this lane did for itself.
    jobs_own,
    /// Crypto jobs that this lane stole from another.
    jobs_stolen,
    /// Times the lane had nothing to do and slept.
    sleeps,
    /// Loops of the lane.
    loops,
    /// Free small frames in the lane's pool when last looked at.
    frames_free,
}

impl LaneStats {
    /// Counts dropped packets.
    #[inline]
    pub fn drop_packets(&self, reason: DropReason, packets: u64) {
        self.drops[reason as usize].add(packets);
    }

    /// Packets dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].value()
    }
}
