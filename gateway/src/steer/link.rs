//! One question to rtnetlink: what is this interface?
//!
//! Enters: an interface's index or name. Leaves: its attributes. Never does: wait for anything but the
//! kernel's immediate answer, or look into a mounted /sys, which may belong to another network namespace.

use std::io;

use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage, LinkXdp};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// An XDP program that is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Program {
    /// The kernel's number of it.
    pub(super) id: u32,
    /// Where it runs.
    pub(super) mode: &'static str,
    /// What `ip link set dev X` calls that.
    pub(super) keyword: &'static str,
}

/// Asks by index.
pub(super) fn by_index(if_index: u32) -> io::Result<LinkMessage> {
    let mut request = LinkMessage::default();
    request.header.index = if_index;
    ask(request)
}

/// Asks by name.
pub(super) fn by_name(name: &str) -> io::Result<LinkMessage> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.to_owned()));
    ask(request)
}

/// The XDP program of an interface.
pub(super) fn program(link: &LinkMessage) -> Option<Program> {
    let attributes = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(attributes) => Some(attributes),
        _ => None,
    })?;
    // The mode's own attribute where the kernel gives it, the general one else.
    let of_a_mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) => Some(Program { id: *id, mode: "native", keyword: "xdpdrv" }),
        LinkXdp::SkbProgId(id) => Some(Program { id: *id, mode: "generic", keyword: "xdpgeneric" }),
        LinkXdp::HwProgId(id) => Some(Program { id: *id, mode: "offloaded", keyword: "xdpoffload" }),
        _ => None,
    });
    of_a_mode.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            LinkXdp::ProgId(id) if *id != 0 => Some(Program { id: *id, mode: "unknown mode", keyword: "xdp" }),
            _ => None,
        })
    })
}

fn ask(mut request: LinkMessage) -> io::Result<LinkMessage> {
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(request));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an unexpected kind of answer")),
    }
}
