//! A laboratory of network namespaces: what `landbridge demo` and the throughput bench are built from.
//!
//! 1. [`namespace`]: namespaces with names, gone when they are dropped.
//! 2. [`links`]: veth pairs, addresses, routes and settings inside them.
//! 3. [`nat`]: an internet, and sites behind routers with every kind of NAT.
//! 4. [`gateway`]: running gateways, with a [`scratch`] directory for what they read.
//! 5. [`tcp`] and [`stream`]: traffic between two namespaces.
//! 6. [`stop`]: how a person ends all of it early.
//!
//! Enters: names, addresses, durations. Leaves: namespaces, links and figures. Never does: touch an interface, an
//! address or a route of the namespace that it was called from, or wait without an end.

pub mod gateway;
pub mod links;
pub mod namespace;
pub mod nat;
pub mod scratch;
pub mod stop;
pub mod stream;
pub mod tcp;

use std::net::IpAddr;
use std::time::Duration;

use self::namespace::Namespace;

/// How long a socket call may take before its thread looks whether it should end.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// From which host to which address of which host.
#[derive(Debug, Clone, Copy)]
pub struct Path<'n> {
    /// Where senders run.
    pub from: &'n Namespace,
    /// Where receivers run.
    pub to: &'n Namespace,
    /// An address of the receiving side.
    pub address: IpAddr,
}

/// Whether a socket call failed only because its time was up.
#[must_use]
pub fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
