//! The WireGuard protocol without I/O.
//!
//! Enters: datagrams that are not transport data, what the lanes saw of transport data, configuration,
//! and time. Leaves: datagrams to send, events (sessions that began and ended, endpoints that moved) and
//! the next time to be called. Never does: read a clock, open a socket, spawn, sleep, or touch transport
//! data; lanes seal and open that with the [`Session`]s that this crate hands out.
//!
//! Specification: "WireGuard: Next Generation Kernel Network Tunnel" (Donenfeld, 2020 revision), cited
//! by section.

#![forbid(unsafe_code)]

pub mod allowed_ips;
pub mod candidate;
pub mod channel;
pub mod constants;
mod cookie;
mod drop_reason;
pub mod endpoint;
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod golden;
mod indices;
mod introduce;
mod keypairs;
mod message;
mod noise;
pub mod path;
mod peer;
mod peer_table;
pub mod pending;
mod rate_limit;
mod relay;
pub mod replay;
pub mod session;
mod spray;
mod timer;
mod timestamp;
pub mod tuning;

pub use allowed_ips::{AllowedIps, Owner, Prefixes};
pub use candidate::{Behaviour, Candidate, CandidateKind, Nat};
pub use channel::{Alternates, ChannelConfig, ChannelCounters, Spread};
pub use cookie::is_made_for;
pub use drop_reason::DropReason;
pub use endpoint::{Endpoint, Event, NatConfig, PeerConfig, PeerUpdate, RelayEnd, SPRAY_SLOT, Transmit, WallClock};
pub use path::{PathReason, PathView, PathsView, Tier};
pub use pending::Pending;
pub use replay::ReplayWindow;
pub use session::{PeerId, PeerShared, ReceiverIndex, Role, Session};

/// Bytes of a public, private or preshared key.
pub const KEY_LEN: usize = 32;
