//! STUN (RFC 8489): what our address is as others see it.
//!
//! 1. [`message`]: the bytes.
//! 2. [`client`]: questions on their way, repeated until they are answered or given up.
//!
//! Enters: servers to ask, datagrams. Leaves: requests, answers. Never does: own a socket or read a clock; who uses it
//! sends from the sockets that count.

pub mod client;
pub mod message;

pub use client::{Client, Outcome, Query, Retry};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use landbridge_proto::DropReason;

pub use message::{Answer, Change, is_stun};

/// Takes a datagram that came to a socket which is for STUN alone.
///
/// # Errors
/// The reason for which it was dropped.
pub fn take(
    client: &mut Client,
    now: Instant,
    socket: u8,
    remote: SocketAddr,
    local: Option<IpAddr>,
    bytes: &[u8],
) -> Result<(), DropReason> {
    if is_stun(bytes) {
        client.handle_datagram(now, socket, remote, local, bytes)
    } else {
        Err(DropReason::StunUnexpected)
    }
}
