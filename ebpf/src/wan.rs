//! The wan role: whether a datagram is transport data of a live session.
//!
//! Enters: a UDP datagram. Leaves: that it is ours to open, or the verdict that ends the matter.

use landbridge_ebpf_common::{Config, SESSION_SLOT_MASK, Verdict};

use crate::maps;
use crate::parse::Datagram;

/// First four bytes of transport data: type 4 and three reserved zeros (paper, section 5.4.6).
const TRANSPORT_DATA: [u8; 4] = [4, 0, 0, 0];
/// Bytes of the shortest transport data: header of 16, tag of 16 (a keepalive).
const TRANSPORT_DATA_LEN_MIN: u32 = 32;

/// Whether the datagram is transport data of a live session: the cheap questions first.
#[inline(always)]
pub(crate) fn select(datagram: &Datagram, config: &Config) -> Result<(), Verdict> {
    if datagram.port != config.port {
        return Err(Verdict::OtherPort);
    }
    if datagram.packet_len > u32::from(config.packet_len_max) {
        return Err(Verdict::TooLong);
    }
    if !maps::is_local(&datagram.destination) {
        return Err(Verdict::OtherAddress);
    }
    // A payload too short for a head is control: it is ours, and no transport data.
    if datagram.payload_len < 8 {
        return Err(Verdict::Control);
    }
    let [kind @ .., a, b, c, d] = *datagram.payload.peek::<8>()?;
    if datagram.payload_len < TRANSPORT_DATA_LEN_MIN || kind != TRANSPORT_DATA {
        return Err(Verdict::Control);
    }
    let index = u32::from_le_bytes([a, b, c, d]);
    // An index of 0 is never live: a slot without session reads 0.
    if index == 0 || maps::session(index & SESSION_SLOT_MASK) != index {
        return Err(Verdict::UnknownSession);
    }
    Ok(())
}
