//! Network interfaces: what they are, and what of the tunnel interface is set.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, VlanProtocol,
};

use super::Netlink;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: u32,
    /// Its address, of Ethernet interfaces.
    pub mac: Option<[u8; 6]>,
    /// Administratively up.
    pub up: bool,
    /// Something is at the other end.
    pub carrier: bool,
    /// Its addresses are the host's as a whole, whatever interface packets take: loopback and dummies.
    pub host_wide: bool,
    /// Receive queues it was made with.
    pub rx_queues: u32,
    /// When it is a VLAN: the interface below it, its tag and that tag's EtherType.
    pub vlan: Option<Vlan>,
}

/// A VLAN interface's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// The interface below.
    pub lower: u32,
    /// The tag.
    pub id: u16,
    /// 0x8100 or 0x88a8.
    pub ether_type: u16,
}

impl Netlink {
    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answer = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(read(&link)),
                _ => None,
            })
            .collect())
    }

    /// The interface of a name.
    ///
    /// # Errors
    /// What the kernel said: ENODEV when there is none.
    pub fn link_by_name(&mut self, name: &str) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message)
    }

    /// The interface of an index.
    ///
    /// # Errors
    /// What the kernel said: ENODEV when there is none.
    pub fn link(&mut self, index: u32) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(message)
    }

    fn one_link(&mut self, message: LinkMessage) -> io::Result<Link> {
        let answer = self.request(RouteNetlinkMessage::GetLink(message), 0)?;
        answer
            .iter()
            .find_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(read(link)),
                _ => None,
            })
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Sets the MTU of an interface.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }
}

fn is_host_wide(message: &LinkMessage) -> bool {
    let flags = message.header.flags;
    // A dummy asks for no neighbours; neither do point-to-point links, but those are ways out.
    message.header.link_layer_type == LinkLayerType::Loopback
        || (flags.contains(LinkFlags::Noarp) && !flags.contains(LinkFlags::Pointopoint))
}

fn read(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        host_wide: is_host_wide(message),
        rx_queues: 1,
        vlan: None,
    };
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut lower = None;
    let mut tag = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(address) if ethernet => link.mac = address.as_slice().try_into().ok(),
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = *queues,
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkInfo(infos) => tag = vlan_of(infos),
            _ => {}
        }
    }
    if let (Some(lower), Some((id, ether_type))) = (lower, tag) {
        link.vlan = Some(Vlan { lower, id, ether_type });
    }
    link
}

fn vlan_of(infos: &[LinkInfo]) -> Option<(u16, u16)> {
    if !infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Vlan))) {
        return None;
    }
    let mut id = None;
    let mut ether_type = 0x8100;
    for info in infos {
        if let LinkInfo::Data(InfoData::Vlan(fields)) = info {
            for field in fields {
                match field {
                    InfoVlan::Id(tag) => id = Some(*tag),
                    InfoVlan::Protocol(VlanProtocol::Ieee8021Ad) => ether_type = 0x88a8,
                    _ => {}
                }
            }
        }
    }
    Some((id?, ether_type))
}
