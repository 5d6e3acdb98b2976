//! The relay: a sealed datagram from a bound peer goes on to the other peer of its allocation.
//!
//! 1. A port of the relay, and no header that only the kernel handles.
//! 2. [`admit`]: a bound place, a message of WireGuard, not for ourselves, hops left.
//! 3. [`way`]: the kernel's routes and neighbours say by which interface and to which hardware address.
//! 4. [`within_rate`]: the end's share.
//! 5. [`v4`], [`v6`]: addresses, ports, hop limit, checksums and hardware addresses are written.
//!
//! Enters: a UDP datagram to a port of the relay. Leaves: the frame, rewritten, and the verdict by which it leaves; or
//! untouched, with the verdict that says why. Never does: look behind the type and the receiver index of a message (the rest
//! is sealed with keys that the relay does not have), make a datagram longer, or choose a place: the user side binds those.
//!
//! Checksums change by what was written (RFC 1624), as whoever sealed the datagram is the only one to answer for its
//! content. A veth's peer may leave the sum over the content to hardware that is not there: then the field holds the sum
//! over the pseudo-header alone. Nobody would finish that in a frame that leaves as it is, so IPv4 gets "none" in its place;
//! IPv6 has no such word, and where an sk_buff is under the frame (generic mode) it would finish a sum that is no longer its
//! own: those are left to the kernel. One whole checksum in 65,536 looks like a partial one, which harms nobody.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
};
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::XdpContext;
use landbridge_ebpf_common::relay::{changed, fold};
use landbridge_ebpf_common::{
    AddressKey, Config, RELAY_BACK, RELAY_NATIVE, RelayKey, RelayRate, RelayTarget, SESSION_SLOT_MASK, Verdict,
};

use crate::maps;
use crate::parse::{Datagram, Frame, V4, V6};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UDP: u8 = 17;
const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
const UDP_LEN: usize = 8;
/// Where the IP header begins in a frame without tags.
const IP_AT: usize = 14;

/// Types and lengths of messages (paper, section 5.4).
const INITIATION: [u8; 4] = [1, 0, 0, 0];
const RESPONSE: [u8; 4] = [2, 0, 0, 0];
const COOKIE_REPLY: [u8; 4] = [3, 0, 0, 0];
const TRANSPORT_DATA: [u8; 4] = [4, 0, 0, 0];

/// Whether a port is one of the relay's.
#[inline(always)]
pub(crate) fn has_port(port: [u8; 2], config: &Config) -> bool {
    u16::from_be_bytes(port).wrapping_sub(config.relay_first) < config.relay_count
}

/// Relays a datagram of IPv4.
#[inline(always)]
pub(crate) fn v4(ctx: &XdpContext, frame: &Frame, packet: &V4, datagram: &Datagram, config: &Config) -> Verdict {
    let remote = AddressKey::v4(*packet.source);
    if frame.vlan != 0 || packet.has_options() {
        return Verdict::RelayHeaders;
    }
    let target = match admit(remote, datagram, packet.ttl) {
        Ok(target) => target,
        Err(verdict) => return verdict,
    };
    let Some(bytes) = bytes::<{ IP_AT + V4_LEN + UDP_LEN }>(ctx) else { return Verdict::Truncated };
    let udp = match checksum(bytes.u16(IP_AT + V4_LEN + 6), bytes.u16(IP_AT + V4_LEN + 4), target) {
        Checksum::Whole(sum) => sum,
        Checksum::None => 0,
        Checksum::Partial if config.relay_flags & RELAY_NATIVE != 0 => 0,
        Checksum::Partial => return Verdict::RelayChecksum,
    };
    let mut fib = lookup(ctx, AF_INET, packet.len);
    fib.__bindgen_anon_3.ipv4_src = target.local.0[3];
    fib.__bindgen_anon_4.ipv4_dst = target.remote.0[3];
    let verdict = match way(ctx, &mut fib, config).and_then(|verdict| within_rate(target, datagram).map(|()| verdict)) {
        Ok(verdict) => verdict,
        Err(verdict) => return verdict,
    };
    bytes.ethernet(&fib);
    // One hop less, in the high byte of its word on the wire.
    let hops = bytes.u16(IP_AT + 8);
    let [ttl, protocol] = hops.to_ne_bytes();
    let fewer = u16::from_ne_bytes([ttl.wrapping_sub(1), protocol]);
    let delta = target.ip_delta + u32::from(!hops) + u32::from(fewer);
    bytes.set_u16(IP_AT + 8, fewer);
    bytes.set_u16(IP_AT + 10, changed(bytes.u16(IP_AT + 10), delta));
    bytes.set_u32(IP_AT + 12, target.local.0[3]);
    bytes.set_u32(IP_AT + 16, target.remote.0[3]);
    bytes.udp(IP_AT + V4_LEN, target, udp);
    verdict
}

/// Relays a datagram of IPv6.
#[inline(always)]
pub(crate) fn v6(ctx: &XdpContext, frame: &Frame, packet: &V6, datagram: &Datagram, config: &Config) -> Verdict {
    if frame.vlan != 0 || packet.next != UDP {
        return Verdict::RelayHeaders;
    }
    let remote = AddressKey::v6(*packet.source);
    let target = match admit(remote, datagram, packet.hop_limit) {
        Ok(target) => target,
        Err(verdict) => return verdict,
    };
    let Some(bytes) = bytes::<{ IP_AT + V6_LEN + UDP_LEN }>(ctx) else { return Verdict::Truncated };
    let Checksum::Whole(udp) = checksum(bytes.u16(IP_AT + V6_LEN + 6), bytes.u16(IP_AT + V6_LEN + 4), target) else {
        return Verdict::RelayChecksum;
    };
    let mut fib = lookup(ctx, AF_INET6, packet.len);
    fib.__bindgen_anon_3.ipv6_src = target.local.0;
    fib.__bindgen_anon_4.ipv6_dst = target.remote.0;
    let verdict = match way(ctx, &mut fib, config).and_then(|verdict| within_rate(target, datagram).map(|()| verdict)) {
        Ok(verdict) => verdict,
        Err(verdict) => return verdict,
    };
    bytes.ethernet(&fib);
    let [next, hops] = bytes.u16(IP_AT + 6).to_ne_bytes();
    bytes.set_u16(IP_AT + 6, u16::from_ne_bytes([next, hops.wrapping_sub(1)]));
    for word in 0..4 {
        bytes.set_u32(IP_AT + 8 + 4 * word, target.local.0[word]);
        bytes.set_u32(IP_AT + 24 + 4 * word, target.remote.0[word]);
    }
    bytes.udp(IP_AT + V6_LEN, target, udp);
    verdict
}

/// Whether a datagram is to be relayed, and to where.
#[inline(always)]
fn admit(remote: AddressKey, datagram: &Datagram, hops: u8) -> Result<&'static RelayTarget, Verdict> {
    let Datagram { destination: local, port, source_port: remote_port, .. } = *datagram;
    let target = maps::relay_target(&RelayKey { remote, local, remote_port, port }).ok_or(Verdict::RelayUnbound)?;
    if datagram.payload_len < 32 {
        return Err(Verdict::RelayNotWireguard);
    }
    let [kind @ .., a, b, c, d] = *datagram.payload.peek::<8>()?;
    let whole = match kind {
        INITIATION => datagram.payload_len == 148,
        RESPONSE => datagram.payload_len == 92,
        COOKIE_REPLY => datagram.payload_len == 64,
        TRANSPORT_DATA => {
            let index = u32::from_le_bytes([a, b, c, d]);
            if index != 0 && maps::session(index & SESSION_SLOT_MASK) == index {
                return Err(Verdict::RelayOwn);
            }
            true
        }
        _ => false,
    };
    if !whole {
        return Err(Verdict::RelayNotWireguard);
    }
    if hops <= 1 { Err(Verdict::RelayHopLimit) } else { Ok(target) }
}

/// What a UDP checksum is.
enum Checksum {
    /// The sum over everything: this is it after the change.
    Whole(u16),
    /// There is none.
    None,
    /// The sum over the pseudo-header alone.
    Partial,
}

#[inline(always)]
fn checksum(present: u16, len: u16, target: &RelayTarget) -> Checksum {
    if present == 0 {
        return Checksum::None;
    }
    if present == fold(target.pseudo + u32::from(len)) {
        return Checksum::Partial;
    }
    let after = changed(present, target.udp_delta);
    // Zero says "none"; the same value has another name.
    Checksum::Whole(if after == 0 { 0xffff } else { after })
}

/// A question to the kernel's routes, without addresses.
#[inline(always)]
fn lookup(ctx: &XdpContext, family: u8, packet_len: u32) -> bpf_fib_lookup {
    // SAFETY: plain integers, for which zeroes are valid.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fib.family = family;
    fib.l4_protocol = UDP;
    fib.__bindgen_anon_1.tot_len = packet_len as u16;
    fib.ifindex = ctx.ingress_ifindex() as u32;
    fib
}

/// The verdict by which the frame leaves, with the hardware addresses in `fib`.
#[inline(always)]
fn way(ctx: &XdpContext, fib: &mut bpf_fib_lookup, config: &Config) -> Result<Verdict, Verdict> {
    let ingress = fib.ifindex;
    // SAFETY: the context is the kernel's, and the question is as long as it says.
    let answer = unsafe { generated::bpf_fib_lookup(ctx.as_ptr(), fib, size_of::<bpf_fib_lookup>() as i32, 0) };
    match answer as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {}
        BPF_FIB_LKUP_RET_NO_NEIGH => return Err(Verdict::RelayNoNeighbour),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => return Err(Verdict::RelayTooLong),
        _ => return Err(Verdict::RelayNoRoute),
    }
    if fib.ifindex == ingress && config.relay_flags & RELAY_BACK != 0 {
        return if maps::relay_may_leave(ingress) { Ok(Verdict::RelayTransmitted) } else { Err(Verdict::RelayNoRoute) };
    }
    if maps::relay_redirect(fib.ifindex) { Ok(Verdict::RelayRedirected) } else { Err(Verdict::RelayNoRoute) }
}

/// Counts a datagram, unless its end is too far ahead of its rate.
#[inline(always)]
fn within_rate(target: &RelayTarget, datagram: &Datagram) -> Result<(), Verdict> {
    let (Some(tally), Some(bucket)) = (maps::relay_tally(target.end), maps::relay_bucket(target.end)) else {
        return Err(Verdict::RelayUnbound);
    };
    // SAFETY: the helper has no conditions.
    let now = unsafe { generated::bpf_ktime_get_coarse_ns() };
    // SAFETY: the tally is aligned and this CPU's alone, where no XDP program preempts another.
    let tally = unsafe { &mut *tally };
    if target.ns_per_64kib != 0 {
        let cost = RelayRate::ns(target.ns_per_64kib, datagram.packet_len);
        // SAFETY: an aligned word that lives as long as the program. An end is one place and one port, whose datagrams come by
        // one queue: where they change CPU, a datagram more or less is charged.
        let until = unsafe { bucket.read_volatile() };
        if until > now && until - now > u64::from(target.burst_ns) {
            tally.limited += 1;
            return Err(Verdict::RelayLimited);
        }
        // SAFETY: as above.
        unsafe { bucket.write_volatile(if until > now { until } else { now } + cost) };
    }
    tally.packets += 1;
    tally.bytes += u64::from(datagram.payload_len);
    tally.last_ns = now;
    Ok(())
}

/// The first bytes of a frame: as many as were compared with its end.
#[derive(Clone, Copy)]
struct Bytes(usize);

/// The first `N` bytes of the frame.
#[inline(always)]
fn bytes<const N: usize>(ctx: &XdpContext) -> Option<Bytes> {
    if ctx.data() + N > ctx.data_end() { None } else { Some(Bytes(ctx.data())) }
}

impl Bytes {
    #[inline(always)]
    fn u16(self, at: usize) -> u16 {
        // SAFETY: whoever made this compared with the frame's end. Frames begin at even addresses, and so does all in them.
        unsafe { *((self.0 + at) as *const u16) }
    }

    #[inline(always)]
    fn set_u16(self, at: usize, value: u16) {
        // SAFETY: as above.
        unsafe { *((self.0 + at) as *mut u16) = value }
    }

    /// As two halves: IP headers begin at no multiple of four.
    #[inline(always)]
    fn set_u32(self, at: usize, value: u32) {
        let [a, b, c, d] = value.to_ne_bytes();
        self.set_u16(at, u16::from_ne_bytes([a, b]));
        self.set_u16(at + 2, u16::from_ne_bytes([c, d]));
    }

    #[inline(always)]
    fn ethernet(self, fib: &bpf_fib_lookup) {
        for half in 0..3 {
            self.set_u16(2 * half, u16::from_ne_bytes([fib.dmac[2 * half], fib.dmac[2 * half + 1]]));
            self.set_u16(6 + 2 * half, u16::from_ne_bytes([fib.smac[2 * half], fib.smac[2 * half + 1]]));
        }
    }

    #[inline(always)]
    fn udp(self, at: usize, target: &RelayTarget, checksum: u16) {
        self.set_u16(at, u16::from_ne_bytes(target.port));
        self.set_u16(at + 2, u16::from_ne_bytes(target.remote_port));
        self.set_u16(at + 6, checksum);
    }
}
