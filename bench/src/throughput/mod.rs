//! Throughput: host - gateway - gateway - host in namespaces, with a generator and a sink of our own.
//!
//! 1. [`topology`]: four namespaces, links, addresses.
//! 2. [`trial`]: frames of one size at one rate for a while, and what arrived; [`tcp`]: streams for a while.
//!    [`tester`] runs trials: [`stamping`] says what frames are like, [`end`] has the programs on a host.
//! 3. [`search`]: the highest rate whose trials are good enough.
//!
//! Enters: what to measure. Leaves: figures. Never does: touch a network interface of the machine itself.

pub(crate) mod campaign;
pub(crate) mod command;
pub(crate) mod cpu;
pub(crate) mod end;
pub(crate) mod environment;
pub(crate) mod export;
pub(crate) mod frame;
pub(crate) mod gateway;
pub(crate) mod implementation;
pub(crate) mod latency;
pub(crate) mod measuring;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod ring_source;
pub(crate) mod roles;
pub(crate) mod scrape;
pub(crate) mod search;
pub(crate) mod stamping;
pub(crate) mod statistics;
pub(crate) mod tcp;
pub(crate) mod tester;
pub(crate) mod topology;
pub(crate) mod trial;
pub(crate) mod trials;
pub(crate) mod uapi;

#[cfg(test)]
mod tests;
