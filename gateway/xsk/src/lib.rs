//! AF_XDP sockets, packet memory and the system's packet interfaces.
//!
//! Enters: frames to send, queue numbers, interface names. Leaves: frames received. Never does: look
//! into a packet, keep a table, or wait longer than asked. All `unsafe` of Landbridge that concerns the
//! kernel or packet memory lives here, behind types that cannot be misused.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod bind;
pub mod chain;
mod control;
pub mod datagram;
pub mod error;
pub mod frame;
mod mapping;
pub mod memory;
pub mod offloads;
pub mod pool;
pub mod reuseport;
mod ring;
pub mod scheduling;
pub mod socket;
pub mod sum;
mod sys;
pub mod ticks;
pub mod tun;
pub mod tx_metadata;
pub mod udp;

pub use chain::ChainsDropped;
pub use frame::Frame;
pub use memory::{Memory, MemoryConfig};
pub use pool::Pool;
pub use socket::{Bound, Xsk, XskConfig, XskStatistics};
pub use tun::{Tun, TunConfig, TunQueue};
pub use tx_metadata::ChecksumOffload;

/// How many frames a burst holds.
pub const BURST: usize = 64;

/// A fixed-capacity batch of frames, the unit of every hand-over.
pub type Burst = arrayvec::ArrayVec<Frame, BURST>;
