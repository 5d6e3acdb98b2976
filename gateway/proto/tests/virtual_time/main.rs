//! Endpoints over a simulated network, in virtual time.

mod candidates;
mod flood;
mod hostile;
mod many;
mod meet;
mod net;
mod pair;
mod paths;
mod ports;
mod watch;
mod world;
