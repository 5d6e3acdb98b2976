//! The control task.

pub mod driver;
pub mod hooks;
pub mod kernel;
pub mod listeners;
pub mod names;
pub mod netlink;
pub mod paths;
pub mod privileges;
pub mod routing;
pub mod sockets;
pub mod tunnel;
