//! The control task.

pub mod driver;
pub mod kernel;
pub mod netlink;
pub mod paths;
pub mod sockets;
