//! Landbridge: a site-to-site WireGuard gateway that moves packets past the kernel's network stack.
//!
//! The packet's way is in [`datapath`], what steers it up into the rings in [`steer`], everything that is
//! not a packet's way (handshakes, routes, names, UAPI, metrics) in [`control`]. [`settings`] is what all
//! of them are told, [`config`] where that is read from, [`cli`] what a person types.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod demo;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod hangup;
pub mod lab;
pub mod nat;
pub mod relay;
pub mod settings;
pub mod sizes;
pub mod status;
pub mod steer;
