//! Endpoints over a simulated network, in virtual time.

mod flood;
mod pair;
mod world;
