//! The gateway among real kernels' networks: every test makes its own network namespaces, starts real programs in
//! them, sends real traffic, and removes all of it again, also when it fails.
//!
//! These tests need root. Without it they say that they are skipped; with `CI=true` they fail instead.

mod candidates;
mod channel;
mod forward;
mod hostile;
mod interop;
mod jumbo;
mod lab;
mod laboratory;
mod lifecycle;
mod metrics;
mod movement;
mod narrow;
mod nat;
mod nat_lab;
mod operation;
mod pairs;
mod relay;
mod rings;
mod uapi;
mod uplinks;
