//! From the first byte of a frame to what the roles ask about.
//!
//! Enters: the bounds of the frame. Leaves: typed headers, or the verdict that ends the matter. Never does: believe a
//! length that leads beyond the frame, or ask a map.
//!
//! 1. [`frame`]: Ethernet, VLAN tags.
//! 2. [`V4`], [`V6`]: the IP header.
//! 3. [`udp`]: the datagram behind it.

mod cursor;
mod ethernet;
mod ip;
pub(crate) mod udp;

pub(crate) use cursor::Cursor;
pub(crate) use ethernet::{Frame, IPV4, IPV6, frame};
pub(crate) use ip::{V4, V6};
pub(crate) use udp::Datagram;
