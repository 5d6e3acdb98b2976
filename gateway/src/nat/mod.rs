//! What stands between this host and the internet: NATs, their kind, and the addresses they give us.
//!
//! 1. [`stun`]: our address as a server sees it, asked from the sockets that count.
//! 2. [`survey`]: servers, a fresh socket and our own mapped address tell what is in between; [`kind`] names it.
//!    [`outlook`] says when to look, and keeps what is known.
//! 3. [`hosts`]: which of our own addresses others may reach; [`gather`] makes one list of candidates of everything.
//! 4. [`mapping`]: a port that the router forwards to us.
//!
//! The control task uses all of it for the candidates of a running gateway, `landbridge netcheck` without one ([`check`]).
//!
//! Enters: datagrams, addresses of interfaces, servers. Leaves: addresses at which we may be reached, and what kind of NAT
//! we are behind. Never does: send anything to anybody but the servers and routers that it is given.

pub mod check;
pub mod gather;
pub mod hosts;
pub mod kind;
pub mod mapping;
pub mod outlook;
pub mod stun;
pub mod survey;

#[cfg(test)]
mod tests;
