//! One question to the kernel's ethtool interface: how many queues does an interface use?
//!
//! Enters: an interface's index. Leaves: its receive queues in use, where its driver tells. Never does: wait for
//! anything but the kernel's immediate answer. rtnetlink knows only how many queues were allocated.

use std::io;

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

// linux/genetlink.h, linux/ethtool_netlink.h
const FAMILY_CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
const CHANNELS_GET: u8 = 17;
const CHANNELS_HEADER: u16 = 1;
const HEADER_DEVICE_INDEX: u16 = 1;
const CHANNELS_RX_COUNT: u16 = 6;
const CHANNELS_COMBINED_COUNT: u16 = 9;

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// Bytes of the headers of a message: netlink's and the generic one.
const HEADERS_LEN: usize = 16 + 4;

/// The receive queues that an interface uses; none where its driver does not tell.
pub(super) fn rx_queues(if_index: u32) -> Option<u32> {
    let mut socket = open().ok()?;
    let family = family(&mut socket, b"ethtool\0")?;
    let device = attribute(HEADER_DEVICE_INDEX, &if_index.to_ne_bytes());
    let answer = ask(&mut socket, family, CHANNELS_GET, &attribute(CHANNELS_HEADER, &device)).ok()?;
    let count = |kind| find(&answer, kind, |bytes| bytes.first_chunk().copied()).map_or(0, u32::from_ne_bytes);
    // A queue serves either receiving alone or both directions.
    Some(count(CHANNELS_RX_COUNT).saturating_add(count(CHANNELS_COMBINED_COUNT))).filter(|queues| *queues > 0)
}

/// The number of a generic family; `name` ends with a zero byte.
pub(super) fn family(socket: &mut Socket, name: &[u8]) -> Option<u16> {
    ask(socket, FAMILY_CONTROL, CONTROL_GET_FAMILY, &attribute(CONTROL_FAMILY_NAME, name))
        .ok()
        .and_then(|answer| find(&answer, CONTROL_FAMILY_ID, |bytes| bytes.first_chunk().copied()))
        .map(u16::from_ne_bytes)
}

pub(super) fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// The attributes of the answer to one message.
pub(super) fn ask(socket: &mut Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(HEADERS_LEN + attributes.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADERS_LEN + attributes.len());
    message.extend(len.to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port; then the version of the command and two reserved bytes.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.first_chunk().copied()).map(u16::from_ne_bytes);
    match (kind, answer.get(HEADERS_LEN..)) {
        (Some(kind), Some(attributes)) if kind != NLMSG_ERROR => Ok(attributes.to_vec()),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// An attribute, padded to four bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    // All that is asked here is short.
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of an attribute, read by `read`. Lengths that lead nowhere end the search.
pub(super) fn find<T>(mut attributes: &[u8], wanted: u16, read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    while let Some([a, b, c, d]) = attributes.first_chunk().copied() {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..len)?;
        if u16::from_ne_bytes([c, d]) == wanted {
            return read(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_among_others_and_damaged_ones_end_the_search() {
        let value = |bytes: &[u8]| bytes.first_chunk().copied().map(u32::from_ne_bytes);
        let mut bytes = [attribute(3, b"odd"), attribute(6, &7u32.to_ne_bytes())].concat();
        assert_eq!(find(&bytes, 6, value), Some(7));
        assert_eq!(find(&bytes, 9, value), None);
        assert_eq!(find(&bytes[..bytes.len() - 1], 6, value), None, "cut off");
        bytes[0] = 0;
        assert_eq!(find(&bytes, 6, value), None, "an attribute shorter than its own header");
        assert_eq!(find(&attribute(6, &[1, 2]), 6, value), None, "a value that is too short");
    }
}
