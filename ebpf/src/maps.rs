//! The maps and what the program asks of them. Their layout is in `landbridge_ebpf_common`.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, XskMap};
use landbridge_ebpf_common as common;
use landbridge_ebpf_common::{AddressKey, Config, Verdict};

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
static ADDRESSES: HashMap<AddressKey, u8> = HashMap::with_max_entries(common::ADDRESSES, 0);

#[map]
static SESSIONS: Array<u32> = Array::with_max_entries(common::SESSION_SLOTS, 0);

#[map]
static INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(common::INTERFACES, 0);

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(common::SOCKETS, 0);

#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT as u32, 0);

/// What to listen to.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Whether an address is one of ours.
#[inline(always)]
pub(crate) fn is_local(address: &AddressKey) -> bool {
    ADDRESSES.get_ptr(address).is_some()
}

/// The receiver index that is live in a slot; 0 for none.
#[inline(always)]
pub(crate) fn session(slot: u32) -> u32 {
    match SESSIONS.get_ptr(slot) {
        // SAFETY: the map's value is an aligned u32 that lives as long as the program. The user side stores it while we
        // read, as one word; volatile, so that it is read as one word here too.
        Some(index) => unsafe { index.read_volatile() },
        None => 0,
    }
}

/// The number of an interface among ours.
#[inline(always)]
pub(crate) fn interface(if_index: u32) -> Option<u32> {
    // SAFETY: as above; the number of an interface does not change while it is in the map.
    INTERFACES.get_ptr(&if_index).map(|number| unsafe { number.read_volatile() })
}

/// Has the kernel redirect this packet to a socket once the program returns; false where none is bound.
#[inline(always)]
pub(crate) fn redirect(socket: u32) -> bool {
    // The flags are what the helper returns where it finds no socket.
    SOCKETS.redirect(socket, u64::from(xdp_action::XDP_PASS)) == Ok(xdp_action::XDP_REDIRECT)
}

/// One more packet with this verdict.
#[inline(always)]
pub(crate) fn count(verdict: Verdict) {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict.index()) {
        // SAFETY: the value is an aligned u64 of this CPU alone, and programs on one CPU do not preempt each other here.
        unsafe { *counter += 1 };
    }
}
