//! How a socket comes to its rings and its queue.
//!
//! Tried in this order, each on a fresh socket, until the kernel grants one: (1) zero-copy, on the UMEM registration of
//! a zero-copy socket of the same memory; (2) zero-copy with a registration of its own; (3) copy mode on a copy-mode
//! socket's registration; (4) copy mode with its own. Where packets longer than a frame are wanted (multi-buffer), all of it
//! with that first, and only then all of it without: rings that miss packets would be no use for being quick. Several registrations of one memory are allowed by the kernel and
//! needed where one interface can do zero-copy and the other cannot, since a registration is of one kind.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use libc::{SOL_SOCKET, SOL_XDP, xdp_desc};

use crate::control::{Control, LiveSocket};
use crate::mapping::Mapping;
use crate::ring::{Consumer, Layout, Producer};
use crate::socket::{Bound, XskConfig};
use crate::{error, sys, tx_metadata};

/// How long a queue may stay busy: the kernel frees that of a closed socket a little after close.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// How long the kernel polls the device in one call when busy polling is on.
const BUSY_POLL_US: i32 = 20;

/// The rings and the descriptor, in the order in which they must go: mapped rings keep the socket alive.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) fill: Producer<u64>,
    pub(crate) completion: Consumer<u64>,
    pub(crate) receive: Consumer<xdp_desc>,
    pub(crate) transmit: Producer<xdp_desc>,
    pub(crate) fd: OwnedFd,
    /// The registration has room for what is asked of the device.
    tx_metadata: bool,
}

#[derive(Debug, Clone, Copy)]
enum Attempt {
    /// On the registration behind this descriptor, of the kind it has.
    Shared { fd: RawFd, tx_metadata: bool },
    /// With a registration of its own, of this kind.
    Own(u16),
}

/// One thing to try, and whether packets may come in several frames: a registration has that or has it not, too.
#[derive(Debug, Clone, Copy)]
struct Try {
    attempt: Attempt,
    multi_buffer: bool,
}

/// Opens a socket and binds it. `live` are the sockets bound to this memory.
pub(crate) fn open(config: &XskConfig, control: &Control, live: &[LiveSocket]) -> io::Result<(Rings, Bound)> {
    check(config)?;
    let deadline = Instant::now() + BUSY_MAX;
    loop {
        let mut failed = None;
        for Try { attempt, multi_buffer } in attempts(config, control, live) {
            match open_once(config, control, attempt, multi_buffer) {
                Ok(rings) => return granted(config, rings, multi_buffer),
                Err(error) => failed = Some(error),
            }
        }
        let failed = failed.unwrap_or_else(|| io::ErrorKind::InvalidInput.into());
        if error::os_code(&failed) != Some(libc::EBUSY) || Instant::now() >= deadline {
            return Err(failed);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn check(config: &XskConfig) -> io::Result<()> {
    for (name, size) in [("rx_ring", config.rx_ring), ("tx_ring", config.tx_ring), ("fill_ring", config.fill_ring)] {
        if !size.is_power_of_two() || size > 1 << 20 {
            let what = format!("open AF_XDP socket: {name} {size} is no power of two up to 1048576");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    }
    Ok(())
}

fn attempts(config: &XskConfig, control: &Control, live: &[LiveSocket]) -> impl Iterator<Item = Try> {
    let wants_metadata = wants_metadata(config, control);
    let try_zero_copy = !config.copy;
    let multi_buffer = config.multi_buffer.then_some(true);
    multi_buffer.into_iter().chain([false]).flat_map(move |multi_buffer| {
        let share = |zero_copy| {
            let mut like = live.iter().filter(|s| (s.zero_copy, s.multi_buffer) == (zero_copy, multi_buffer));
            let found = like.find(|s| s.tx_metadata || !wants_metadata);
            found.map(|s| Attempt::Shared { fd: s.fd, tx_metadata: s.tx_metadata })
        };
        let zero_copy = [share(true), Some(Attempt::Own(libc::XDP_ZEROCOPY))];
        let zero_copy = zero_copy.into_iter().filter(move |_| try_zero_copy);
        let all = zero_copy.chain([share(false), Some(Attempt::Own(libc::XDP_COPY))]).flatten();
        all.map(move |attempt| Try { attempt, multi_buffer })
    })
}

/// Whether a registration made for this socket is to have room for what is asked of the device.
fn wants_metadata(config: &XskConfig, control: &Control) -> bool {
    config.checksum_offload.is_wanted() && !control.without_tx_metadata.load(Ordering::Relaxed)
}

fn open_once(config: &XskConfig, control: &Control, attempt: Attempt, multi_buffer: bool) -> io::Result<Rings> {
    let socket = sys::xdp_socket().map_err(|source| {
        let way_out = match source.raw_os_error() {
            Some(libc::EPERM) => Some("it takes root or CAP_NET_RAW"),
            Some(libc::EAFNOSUPPORT) => Some("this kernel was built without CONFIG_XDP_SOCKETS"),
            _ => None,
        };
        error::with_way_out("open AF_XDP socket", source, way_out)
    })?;
    let fd = socket.as_fd();
    let tx_metadata = match attempt {
        Attempt::Own(_) => {
            let (wanted, option) = (wants_metadata(config, control), libc::XDP_UMEM_REG);
            let granted = register(control, wanted, |umem| sys::set_option(fd, SOL_XDP, option, umem))?;
            control.without_tx_metadata.fetch_or(wanted && !granted, Ordering::Relaxed);
            granted
        }
        Attempt::Shared { tx_metadata, .. } => tx_metadata,
    };
    let sizes = [
        (libc::XDP_UMEM_FILL_RING, config.fill_ring),
        (libc::XDP_UMEM_COMPLETION_RING, config.fill_ring),
        (libc::XDP_RX_RING, config.rx_ring),
        (libc::XDP_TX_RING, config.tx_ring),
    ];
    for (option, size) in sizes {
        sys::set_option(fd, SOL_XDP, option, size).map_err(|e| error::at("make the rings of an AF_XDP socket", e))?;
    }
    let rings = map(&socket, config).map_err(|e| error::at("map the rings of an AF_XDP socket", e))?;
    let (flags, shared) = match attempt {
        Attempt::Shared { fd, .. } => (libc::XDP_SHARED_UMEM, fd.cast_unsigned()),
        Attempt::Own(kind) if multi_buffer => (kind | libc::XDP_USE_NEED_WAKEUP | libc::XDP_USE_SG, 0),
        Attempt::Own(kind) => (kind | libc::XDP_USE_NEED_WAKEUP, 0),
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: config.if_index,
        sxdp_queue_id: config.queue,
        sxdp_shared_umem_fd: shared,
    };
    sys::bind(fd, &address).map_err(|source| bind_failed(config, source))?;
    let Mapped { fill, completion, receive, transmit } = rings;
    Ok(Rings { fill, completion, receive, transmit, fd: socket, tx_metadata })
}

/// Registers the memory as a UMEM of a socket, by `set`. Returns whether it has room for what is asked of the device: Linux
/// before 6.8, or before it learnt the flag, says EINVAL to that.
fn register(
    control: &Control,
    wants_metadata: bool,
    set: impl Fn(libc::xdp_umem_reg) -> io::Result<()>,
) -> io::Result<bool> {
    let (base, len) = control.umem();
    let plain = libc::xdp_umem_reg {
        addr: base.as_ptr() as u64,
        len,
        chunk_size: control.frame_size(),
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    if wants_metadata {
        let flags = libc::XDP_UMEM_TX_METADATA_LEN;
        match set(libc::xdp_umem_reg { flags, tx_metadata_len: tx_metadata::LEN as u32, ..plain }) {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(register_failed(error)),
        }
    }
    set(plain).map(|()| false).map_err(register_failed)
}

fn register_failed(source: io::Error) -> io::Error {
    let way_out = match source.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => {
            Some("give CAP_IPC_LOCK, raise RLIMIT_MEMLOCK, or configure fewer frames")
        }
        _ => None,
    };
    error::with_way_out("register packet memory with AF_XDP", source, way_out)
}

fn bind_failed(config: &XskConfig, source: io::Error) -> io::Error {
    let way_out = match source.raw_os_error() {
        Some(libc::EBUSY) => Some("another program has an AF_XDP socket on this queue"),
        Some(libc::ENODEV | libc::ENXIO) => Some("there is no such interface"),
        Some(libc::EINVAL) => Some("the interface has no such queue"),
        Some(libc::EOPNOTSUPP) => Some("the driver has no AF_XDP support in this mode"),
        Some(libc::EPERM | libc::EACCES) => Some("it takes root or CAP_NET_RAW"),
        Some(libc::ENOBUFS) => Some("give CAP_IPC_LOCK, raise RLIMIT_MEMLOCK, or configure fewer frames"),
        Some(libc::ENETDOWN) => Some("the interface is down"),
        _ => None,
    };
    let step = format_args!("bind AF_XDP socket to interface {} queue {}", config.if_index, config.queue);
    error::with_way_out(step, source, way_out)
}

/// The four rings before the socket is bound.
struct Mapped {
    fill: Producer<u64>,
    completion: Consumer<u64>,
    receive: Consumer<xdp_desc>,
    transmit: Producer<xdp_desc>,
}

fn map(socket: &OwnedFd, config: &XskConfig) -> io::Result<Mapped> {
    let fd = socket.as_fd();
    let at: libc::xdp_mmap_offsets = sys::xdp_option(fd, libc::XDP_MMAP_OFFSETS)?;
    let fill = map_ring::<u64>(fd, &at.fr, config.fill_ring, libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t)?;
    let completion =
        map_ring::<u64>(fd, &at.cr, config.fill_ring, libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t)?;
    let receive = map_ring::<xdp_desc>(fd, &at.rx, config.rx_ring, libc::XDP_PGOFF_RX_RING)?;
    let transmit = map_ring::<xdp_desc>(fd, &at.tx, config.tx_ring, libc::XDP_PGOFF_TX_RING)?;
    // SAFETY: the kernel laid these rings out for entries of these types and sizes; each mapping goes into its ring,
    // and this socket is fresh, so nobody else has its user-space ends.
    unsafe {
        Ok(Mapped {
            fill: Producer::new(fill.0, Some(fill.1)),
            completion: Consumer::new(completion.0, Some(completion.1)),
            receive: Consumer::new(receive.0, Some(receive.1)),
            transmit: Producer::new(transmit.0, Some(transmit.1)),
        })
    }
}

fn map_ring<T>(
    fd: BorrowedFd<'_>,
    at: &libc::xdp_ring_offset,
    size: u32,
    offset: libc::off_t,
) -> io::Result<(Layout<T>, Mapping)> {
    let mapping = Mapping::shared(fd, at.desc as usize + size as usize * size_of::<T>(), offset)?;
    let base = mapping.base();
    // SAFETY: the offsets are the kernel's, for a mapping of this length.
    let part = |offset: u64| -> NonNull<u8> { unsafe { base.add(offset as usize) } };
    let layout = Layout {
        producer: part(at.producer).cast(),
        consumer: part(at.consumer).cast(),
        flags: part(at.flags).cast(),
        entries: part(at.desc).cast(),
        size,
    };
    Ok((layout, mapping))
}

/// Sets what can be set on a bound socket, and asks what was granted.
fn granted(config: &XskConfig, rings: Rings, multi_buffer: bool) -> io::Result<(Rings, Bound)> {
    let fd = rings.fd.as_fd();
    let options: libc::xdp_options = sys::xdp_option(fd, libc::XDP_OPTIONS)
        .map_err(|e| error::at("ask an AF_XDP socket whether it is zero-copy", e))?;
    // Both lift limits of copy mode, and both are optional: without them a flush takes more calls.
    let _ = sys::set_option(fd, SOL_XDP, sys::XDP_MAX_TX_SKB_BUDGET, config.tx_ring);
    let bytes = i32::try_from(config.tx_ring.saturating_mul(4096)).unwrap_or(i32::MAX / 2);
    if sys::set_option(fd, SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes).is_err() {
        let _ = sys::set_option(fd, SOL_SOCKET, libc::SO_SNDBUF, bytes);
    }
    let busy_poll = config.busy_poll.is_some_and(|budget| {
        let budget = i32::try_from(budget).unwrap_or(i32::MAX);
        sys::set_option(fd, SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, 1_i32)
            .and_then(|()| sys::set_option(fd, SOL_SOCKET, libc::SO_BUSY_POLL, BUSY_POLL_US))
            .and_then(|()| sys::set_option(fd, SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, budget))
            .is_ok()
    });
    let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
    let (tx_metadata, wanted) = (rings.tx_metadata, config.checksum_offload);
    let checksum_offload = tx_metadata && if zero_copy { wanted.zero_copy } else { wanted.copy };
    let bound = Bound { zero_copy, multi_buffer, tx_metadata, checksum_offload, need_wakeup: true, busy_poll };
    Ok((rings, bound))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::control::Handle;
    use crate::memory::MemoryConfig;

    /// Flags and bytes of metadata of each attempt.
    type Asked = Vec<(u32, u32)>;

    /// Registers with a kernel that answers so to what has flags; says what it was asked.
    fn registered(wanted: bool, to_flags: Option<i32>) -> (Result<bool, Option<i32>>, Asked) {
        let config = MemoryConfig { frames: 4, frame_size: 2048, jumbo_frames: 0, huge_pages: false };
        let control = Handle::new(&config).expect("a few pages");
        let asked = RefCell::new(Vec::new());
        let result = register(&control, wanted, |umem| {
            asked.borrow_mut().push((umem.flags, umem.tx_metadata_len));
            match to_flags.filter(|_| umem.flags != 0) {
                Some(error) => Err(io::Error::from_raw_os_error(error)),
                None => Ok(()),
            }
        });
        (result.map_err(|error| error::os_code(&error)), asked.into_inner())
    }

    #[test]
    fn a_kernel_without_transmit_metadata_gets_memory_without_it() {
        let with = (libc::XDP_UMEM_TX_METADATA_LEN, 24);
        assert_eq!(registered(true, None), (Ok(true), vec![with]));
        assert_eq!(registered(true, Some(libc::EINVAL)), (Ok(false), vec![with, (0, 0)]));
        assert_eq!(registered(false, Some(libc::EINVAL)), (Ok(false), vec![(0, 0)]));
        assert_eq!(registered(true, Some(libc::ENOBUFS)), (Err(Some(libc::ENOBUFS)), vec![with]));
    }
}
