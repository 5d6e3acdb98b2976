//! Relays: how an allocation comes about, is kept, and ends. Forwarding itself is not done here.
//!
//! Enters: requests and binds of peers, answers of relays, time. Leaves: allocations to make and to free, places of their
//! ends, binds to send. Never does: touch what is relayed, or tell anybody of a peer that has not asked for it as well.
//!
//! 1. Both ends ask the relay for each other; whoever asks first is told to wait, as is one who asks for nobody.
//! 2. The relay gives each of them a port: what comes to one leaves from the other, to where the other end was bound.
//! 3. Each end binds by a message sealed in its session with the relay, sent to its port, again and again.

mod client;
mod server;

pub(crate) use client::{BindDue, Client};
pub(crate) use server::{Asked, Server};

use std::time::Duration;

/// Allocations of one peer.
pub(crate) const ALLOCATIONS_PER_PEER: usize = 16;
/// Allocations in all.
pub(crate) const ALLOCATIONS_MAX: usize = 1024;
/// How long an allocation lives when either of its ends is not bound again.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60);
/// Relays that a peer is asked for at.
pub(crate) const RELAYS_MAX: usize = 2;
