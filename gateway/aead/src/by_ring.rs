//! Bursts packet by packet with `ring`: the reference, and what serves where nothing across packets is faster.
//!
//! Enters: a burst. Leaves: the burst sealed, or opened with a verdict on each packet. Never does: depend on the CPU.

use crate::Packet;

pub(crate) fn seal(burst: &mut [Packet<'_>]) {
    for packet in burst {
        packet.key.seal(packet.counter, packet.bytes);
    }
}

pub(crate) fn open(burst: &mut [Packet<'_>]) {
    for packet in burst {
        packet.authentic = packet.key.open(packet.counter, packet.bytes).is_ok();
    }
}
