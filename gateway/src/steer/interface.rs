//! What a backend has to know about an interface before it binds to it.

use std::fs;
use std::io;
use std::path::PathBuf;

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::{channels, link};

/// An interface, as the kernel describes it in the network namespace of the calling thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What drives it: the kind of a virtual link (`veth`, `vlan`, ...), the driver of a device (`virtio_net`, `ice`,
    /// ...).
    pub driver: Option<String>,
    /// Its receive queues in use.
    pub rx_queues: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// Describes an interface by index.
///
/// # Errors
/// What netlink said: NotFound (ENODEV) where there is none.
pub fn interface(if_index: u32) -> io::Result<Interface> {
    link::by_index(if_index).map(|message| describe(&message))
}

/// Describes an interface by name.
///
/// # Errors
/// As [`interface`].
pub fn interface_by_name(name: &str) -> io::Result<Interface> {
    link::by_name(name).map(|message| describe(&message))
}

fn describe(message: &LinkMessage) -> Interface {
    let index = message.header.index;
    let mut interface = Interface { index, name: String::new(), driver: None, rx_queues: 1, mtu: 0 };
    let (mut device, mut bus) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::NumRxQueues(queues) => interface.rx_queues = (*queues).max(1),
            LinkAttribute::ParentDevName(name) => device = Some(name),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            LinkAttribute::LinkInfo(infos) => interface.driver = infos.iter().find_map(kind),
            _ => {}
        }
    }
    if interface.driver.is_none()
        && let (Some(device), Some(bus)) = (device, bus)
    {
        interface.driver = bus_driver(bus, device);
    }
    if let Some(active) = channels::rx_queues(index).or_else(|| active_rx_queues(&interface)) {
        interface.rx_queues = interface.rx_queues.min(active);
    }
    interface
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// The driver of a device on a bus. Unlike /sys/class/net, /sys/bus is the same in every network namespace.
fn bus_driver(bus: &str, device: &str) -> Option<String> {
    let link: PathBuf = ["/sys/bus", bus, "devices", device, "driver"].iter().collect();
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// Receive queues in use; netlink tells only how many were allocated. /sys/class/net shows the namespace that /sys was
/// mounted in: an interface of that name but another index is not ours.
fn active_rx_queues(interface: &Interface) -> Option<u32> {
    let directory: PathBuf = ["/sys/class/net", &interface.name].iter().collect();
    let index: u32 = fs::read_to_string(directory.join("ifindex")).ok()?.trim().parse().ok()?;
    if index != interface.index {
        return None;
    }
    let entries = fs::read_dir(directory.join("queues")).ok()?;
    let queues = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count();
    u32::try_from(queues).ok().filter(|queues| *queues > 0)
}
