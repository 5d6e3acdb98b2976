//! The control task.

pub mod netlink;
