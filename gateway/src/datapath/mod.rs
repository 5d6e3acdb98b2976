//! The packet's way: lanes between a wan and a lan side.
//!
//! Enters: bursts of frames from both sides, and the tables that the control task publishes. Leaves:
//! bursts of frames to the other side, counters, and reports to the control task. Never does: wait for
//! the control task, allocate per packet, or decide about the protocol's state.

pub mod checksum;
mod flow;
pub mod inner;
pub mod join;
pub mod lanes;
pub mod report;
pub mod segment;
pub mod stats;
pub mod tables;
pub mod transport;
pub mod vnet;
pub mod wire;
