//! The packet's way: lanes between a wan and a lan side.
//!
//! Enters: bursts of frames from both sides, and the tables that the control task publishes. Leaves:
//! bursts of frames to the other side, counters, and reports to the control task. Never does: wait for
//! the control task, allocate per packet, or decide about the protocol's state.

mod channel;
pub mod checksum;
mod crowding;
mod desk;
mod flow;
mod flowlets;
mod handover;
mod hold;
mod inbound;
pub mod inner;
mod jobs;
pub mod join;
pub mod lan;
pub mod lan_table;
pub mod lan_tun;
pub mod lan_xdp;
mod landing;
pub mod lane;
pub mod lanes;
pub mod memory;
mod mss;
mod narrow;
mod outbound;
pub mod report;
mod ring;
pub mod segment;
pub mod side;
mod spread;
pub mod stages;
pub mod stats;
mod sync;
pub mod tables;
mod too_big;
pub mod transport;
pub mod vnet;
mod wait;
pub mod wan;
pub mod wan_udp;
pub mod wan_xdp;
pub mod wire;

#[cfg(test)]
pub(crate) mod crafted;
#[cfg(test)]
mod tests;
