//! The maps and what the program asks of them. Their layout is in `landbridge_ebpf_common`.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, DevMapHash, HashMap, PerCpuArray, XskMap};
use landbridge_ebpf_common as common;
use landbridge_ebpf_common::{
    AddressKey, Config, Interface, ROUTE_TO_PEER, RelayBucket, RelayKey, RelayTally, RelayTarget, Verdict,
};

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
static ADDRESSES: HashMap<AddressKey, u8> = HashMap::with_max_entries(common::ADDRESSES, 0);

#[map]
static SESSIONS: Array<u32> = Array::with_max_entries(common::SESSION_SLOTS, 0);

#[map]
static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(common::INTERFACES, 0);

#[map]
static ROUTES_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(common::ROUTES, 0);

#[map]
static ROUTES_V6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(common::ROUTES, 0);

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(common::SOCKETS, 0);

#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT as u32, 0);

#[map]
static RELAY: HashMap<RelayKey, RelayTarget> = HashMap::with_max_entries(common::RELAY_ENDS, 0);

#[map]
static RELAY_TALLIES: PerCpuArray<RelayTally> = PerCpuArray::with_max_entries(common::RELAY_ENDS, 0);

#[map]
static RELAY_BUCKETS: Array<RelayBucket> = Array::with_max_entries(common::RELAY_ENDS, 0);

#[map]
static RELAY_EGRESS: DevMapHash = DevMapHash::with_max_entries(common::RELAY_EGRESS, 0);

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

/// What an interface is to us.
#[inline(always)]
pub(crate) fn interface(if_index: u32) -> Option<&'static Interface> {
    // SAFETY: the map's value is aligned integers that live as long as the program runs. Where the user side replaces
    // it while we read, one packet is looked at by the old role or the new one.
    INTERFACES.get_ptr(&if_index).map(|interface| unsafe { &*interface })
}

/// Whether the longest route to an IPv4 address leads to a peer.
#[inline(always)]
pub(crate) fn route_v4(address: [u8; 4]) -> bool {
    ROUTES_V4.get(Key::new(32, address)).is_some_and(|target| *target == ROUTE_TO_PEER)
}

/// Whether the longest route to an IPv6 address leads to a peer.
#[inline(always)]
pub(crate) fn route_v6(address: AddressKey) -> bool {
    ROUTES_V6.get(Key::new(128, address.0)).is_some_and(|target| *target == ROUTE_TO_PEER)
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
        // SAFETY: the value is an aligned u64 of this CPU alone, where no XDP program preempts another.
        unsafe { *counter += 1 };
    }
}

/// What becomes of datagrams that come from there to here.
#[inline(always)]
pub(crate) fn relay_target(key: &RelayKey) -> Option<&'static RelayTarget> {
    // SAFETY: the map's value is aligned integers that live as long as the program runs. Where the user side binds an end
    // anew while we read, one datagram may go to neither place: its checksum says so.
    RELAY.get_ptr(key).map(|target| unsafe { &*target })
}

/// What an end has sent by way of this CPU.
#[inline(always)]
pub(crate) fn relay_tally(end: u32) -> Option<*mut RelayTally> {
    RELAY_TALLIES.get_ptr_mut(end)
}

/// How far ahead of its rate an end is.
#[inline(always)]
pub(crate) fn relay_bucket(end: u32) -> Option<*mut u64> {
    // The first of its words.
    RELAY_BUCKETS.get_ptr_mut(end).map(<*mut RelayBucket>::cast)
}

/// Whether relayed datagrams may leave by an interface.
#[inline(always)]
pub(crate) fn relay_may_leave(if_index: u32) -> bool {
    RELAY_EGRESS.get_ifindex(if_index).is_some()
}

/// Has the kernel send this frame by an interface once the program returns; false where it may not leave there.
#[inline(always)]
pub(crate) fn relay_redirect(if_index: u32) -> bool {
    RELAY_EGRESS.redirect(if_index, u64::from(xdp_action::XDP_PASS)) == Ok(xdp_action::XDP_REDIRECT)
}
