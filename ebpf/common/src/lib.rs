//! What the XDP program and its loader have in common: the layout of the maps, and the verdicts.
//!
//! Enters: addresses and ports as the user side knows them. Leaves: values whose bytes both sides agree
//! on. Never does: touch a map or a packet.

#![no_std]

pub mod bench;
mod maps;
pub mod relay;
mod verdict;

pub use maps::{
    ADDRESSES, AddressKey, Config, INTERFACES, Interface, PACKET_LEN_MAX, QUEUES_PER_INTERFACE, RELAY_BACK,
    RELAY_NATIVE, ROLE_LAN, ROLE_WAN, ROUTE_ELSEWHERE, ROUTE_TO_PEER, ROUTES, ROUTES_PER_FAMILY, SESSION_SLOT_MASK,
    SESSION_SLOTS, SOCKETS, map,
};
pub use relay::{RELAY_EGRESS, RELAY_ENDS, RelayBucket, RelayKey, RelayRate, RelayTally, RelayTarget};
pub use verdict::Verdict;
