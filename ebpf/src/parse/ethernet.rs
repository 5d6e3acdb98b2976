//! From the first byte of a frame to its IP packet: Ethernet and VLAN tags.

use landbridge_ebpf_common::Verdict;

use super::cursor::Cursor;

pub(crate) const IPV4: [u8; 2] = [0x08, 0x00];
pub(crate) const IPV6: [u8; 2] = [0x86, 0xdd];
/// IEEE 802.1Q.
const VLAN: [u8; 2] = [0x81, 0x00];
/// IEEE 802.1Q and 802.1ad.
const TAGS: [[u8; 2]; 2] = [VLAN, [0x88, 0xa8]];
const TAGS_MAX: usize = 2;
/// The bits of a tag that are the VLAN's number.
const VLAN_MASK: u8 = 0x0f;

/// An Ethernet header.
pub(crate) struct Frame {
    /// Whom the frame is for.
    pub(crate) destination: &'static [u8; 6],
    /// The VLAN that it belongs to: 0 where it has no tag, [`VLAN_NONE`] where it has two or a provider's.
    pub(crate) vlan: u16,
    /// The type of what is inside the tags.
    pub(crate) kind: [u8; 2],
    /// Bytes of the header with its tags.
    pub(crate) header_len: u32,
    /// Behind the tags.
    pub(crate) body: Cursor,
}

/// No VLAN has this number (it takes 13 bits).
const VLAN_NONE: u16 = 0x1000;

/// Reads the header of a frame.
#[inline(always)]
pub(crate) fn frame(mut cursor: Cursor) -> Result<Frame, Verdict> {
    let destination = cursor.peek::<6>()?;
    let [.., high, low] = *cursor.take::<14>()?;
    let mut kind = [high, low];
    let mut vlan = 0;
    let mut header_len = 14;
    for position in 0..TAGS_MAX {
        if !TAGS.contains(&kind) {
            break;
        }
        let [id_high, id_low, high, low] = *cursor.take::<4>()?;
        header_len += 4;
        let id = u16::from_be_bytes([id_high & VLAN_MASK, id_low]);
        vlan = if position == 0 && kind == VLAN && id != 0 { id } else { VLAN_NONE };
        kind = [high, low];
    }
    if TAGS.contains(&kind) {
        return Err(Verdict::TooManyTags);
    }
    Ok(Frame { destination, vlan, kind, header_len, body: cursor })
}
