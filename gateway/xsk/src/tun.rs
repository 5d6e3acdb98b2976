//! TUN devices with several queues and segmentation offload (IFF_VNET_HDR).
//!
//! Enters: packets of the kernel's stack, each behind a virtio_net_hdr, up to 64 KiB when segmentation is offloaded.
//! Leaves: the same the other way. Never does: wait, or look into a packet.

use std::ffi::{c_int, c_uint, c_ulong};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use arrayvec::ArrayVec;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error;

/// What to create.
#[derive(Debug, Clone)]
pub struct TunConfig {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// How many queues.
    pub queues: usize,
    /// TSO (v4, v6) and, where the kernel has it, USO: super-packets of up to 64 KiB in both directions.
    pub offloads: bool,
}

/// A TUN device: its queues, and what was granted.
#[derive(Debug)]
pub struct Tun {
    /// The queues, to be handed to lanes.
    pub queues: Vec<TunQueue>,
    /// The interface's name (the kernel resolves `%d`).
    pub name: String,
    /// TCP segmentation is offloaded.
    pub tso: bool,
    /// UDP segmentation is offloaded.
    pub uso: bool,
}

/// Most queues that the kernel gives a device.
const QUEUES_MAX: usize = 256;

/// Every queue is of a multi-queue device, also the only one, so that others can be attached to it.
const FLAGS: c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;

impl Tun {
    /// Creates the device (not persistent: it goes with its last descriptor).
    ///
    /// # Errors
    /// What the kernel said, with the step that failed: no /dev/net/tun, no permission, name in use.
    pub fn create(config: &TunConfig) -> io::Result<Self> {
        if config.queues == 0 || config.queues > QUEUES_MAX {
            let what = format!("create TUN interface: {} queues, but 1 to {QUEUES_MAX} can be had", config.queues);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        // Exclusive, or the kernel would add queues to a device that another program made.
        let (first, name) = open_queue(&config.name, FLAGS | libc::IFF_TUN_EXCL)?;
        let mut queues = vec![first];
        for _ in 1..config.queues {
            queues.push(open_queue(&name, FLAGS)?.0);
        }
        for queue in &queues {
            queue.set_header_size()?;
        }
        let (tso, uso) = if config.offloads { queues[0].offload() } else { queues[0].no_offload() };
        Ok(Self { queues, name, tso, uso })
    }

    /// Takes a descriptor that somebody else opened (WG_TUN_FD). Without IFF_VNET_HDR it is one queue without offloads,
    /// and its packets are read with an empty header all the same. It must have been made with IFF_NO_PI: the kernel
    /// reports that flag for every device, so it cannot be checked here.
    ///
    /// # Errors
    /// What the kernel said, or InvalidInput when the descriptor is of another kind.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let step = "take over TUN descriptor";
        let (name, flags) = interface(fd.as_fd()).map_err(|e| error::at(step, e))?;
        if flags & libc::IFF_TUN == 0 {
            let what = format!("{step}: {name} is a TAP interface");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let status = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK)?;
        let queue = TunQueue { fd, vnet_hdr: flags & libc::IFF_VNET_HDR != 0 };
        let (tso, uso) = if queue.vnet_hdr {
            queue.set_header_size()?;
            queue.offload()
        } else {
            (false, false)
        };
        Ok(Self { queues: vec![queue], name, tso, uso })
    }
}

/// One queue.
#[derive(Debug)]
pub struct TunQueue {
    fd: OwnedFd,
    /// Whether the kernel puts the header before packets; else reads make an empty one and writes take it off.
    vnet_hdr: bool,
}

/// Bytes of the virtio_net_hdr before each packet read or written.
pub const VNET_HDR_LEN: usize = 10;

/// Most slices of one write to a device without IFF_VNET_HDR.
const SLICES_MAX: usize = 64;

impl TunQueue {
    /// Reads one packet with its virtio_net_hdr; `Ok(None)` when none waits. A packet longer than the buffer is cut:
    /// with offloads the buffer must hold `VNET_HDR_LEN` + 65,535 bytes, else `VNET_HDR_LEN` + the MTU.
    ///
    /// # Errors
    /// What read said; EBADFD (with its raw code) when the interface was deleted.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let skipped = if self.vnet_hdr { 0 } else { VNET_HDR_LEN };
        let Some((header, rest)) = buffer.split_at_mut_checked(skipped) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        header.fill(0);
        loop {
            return match rustix::io::read(&self.fd, &mut *rest) {
                Ok(n) => Ok(Some(n + skipped)),
                Err(Errno::AGAIN) => Ok(None),
                Err(Errno::INTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Writes one packet, virtio_net_hdr first, from several slices; `Ok(false)` when the queue is full.
    ///
    /// # Errors
    /// What writev said: EIO when the interface is down, EBADFD when it was deleted, EINVAL when the header contradicts
    /// the packet.
    pub fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<bool> {
        if self.vnet_hdr {
            return writev(self.fd.as_fd(), slices);
        }
        let mut bare: ArrayVec<IoSlice<'_>, SLICES_MAX> = ArrayVec::new();
        let (mut skip, mut asks) = (VNET_HDR_LEN, false);
        for slice in slices {
            let header = skip.min(slice.len());
            skip -= header;
            asks |= slice[..header].iter().any(|byte| *byte != 0);
            if header < slice.len() && bare.try_push(IoSlice::new(&slice[header..])).is_err() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        // A header that asks for something cannot be honoured without IFF_VNET_HDR.
        if asks || skip > 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        writev(self.fd.as_fd(), &bare)
    }

    /// The namespace that the interface lives in at present (TUNGETDEVNETNS), wherever it was moved to.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn network_namespace(&self) -> io::Result<OwnedFd> {
        // SAFETY: this ioctl takes no argument and returns a descriptor or -1.
        let fd = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNGETDEVNETNS) };
        if fd < 0 {
            return Err(error::at("ask for the namespace of the TUN interface", io::Error::last_os_error()));
        }
        // SAFETY: the kernel just opened this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A second handle of the queue, by which the interface can be followed while a lane owns the queue.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, vnet_hdr: self.vnet_hdr })
    }

    /// The interface's present name.
    ///
    /// # Errors
    /// What the kernel said; EBADFD (with its raw code) when the interface was deleted.
    pub fn interface_name(&self) -> io::Result<String> {
        interface(self.fd.as_fd()).map(|(name, _)| name)
    }

    fn set_header_size(&self) -> io::Result<()> {
        let size = VNET_HDR_LEN as c_int;
        // SAFETY: this ioctl reads one int behind the pointer.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        checked(result).map_err(|e| error::at("set the size of the TUN packet header", e))
    }

    /// Offers the kernel what lanes can do. Returns (TSO, USO) as granted.
    ///
    /// TUN_F_TSO_ECN is not offered: the kernel splits the rare super-packets with CWR itself, so that lanes never have
    /// to give one segment other flags than the rest.
    fn offload(&self) -> (bool, bool) {
        let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        for (flags, granted) in [(tso | uso, (true, true)), (tso, (true, false))] {
            if self.set_offload(flags).is_ok() {
                return granted;
            }
        }
        self.no_offload()
    }

    fn no_offload(&self) -> (bool, bool) {
        // None is what a fresh device has, and what every kernel takes.
        let _ = self.set_offload(0);
        (false, false)
    }

    fn set_offload(&self, flags: c_uint) -> io::Result<()> {
        // SAFETY: this ioctl takes its argument by value.
        checked(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(flags)) })
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens one queue of the device `name`, and makes the device if there is none. Returns the device's name, too.
fn open_queue(name: &str, flags: c_int) -> io::Result<(TunQueue, String)> {
    let mut request = empty_request();
    if name.len() >= request.ifr_name.len() || name.is_empty() || name.contains(['/', '\0']) || name.contains(' ') {
        let what = format!("create TUN interface {name:?}: a name has 1 to 15 bytes without spaces or slashes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as _;
    }
    request.ifr_ifru.ifru_flags = flags as _;
    let open = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open("/dev/net/tun", open, Mode::empty()).map_err(|errno| {
        let way_out = match errno {
            Errno::NOENT | Errno::NXIO | Errno::NODEV => Some("load the module tun, or give the container this device"),
            Errno::ACCESS | Errno::PERM => Some("run as root, or give the container this device"),
            _ => None,
        };
        error::with_way_out("open /dev/net/tun", errno.into(), way_out)
    })?;
    // SAFETY: this ioctl reads and writes one ifreq behind the pointer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    checked(result).map_err(|source| {
        let way_out = match source.raw_os_error() {
            Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) if exists(name) => {
                Some("the name is in use: another gateway runs, or another program made the interface")
            }
            Some(libc::EPERM) => Some("it takes root or CAP_NET_ADMIN"),
            Some(libc::E2BIG) => Some("the device has no more queues"),
            _ => None,
        };
        error::with_way_out(format_args!("create TUN interface {name}"), source, way_out)
    })?;
    Ok((TunQueue { fd, vnet_hdr: true }, name_of(&request)))
}

/// Whether this namespace has an interface of that name.
fn exists(name: &str) -> bool {
    // SAFETY: a C string is read, nothing kept.
    std::ffi::CString::new(name).is_ok_and(|name| unsafe { libc::if_nametoindex(name.as_ptr()) } != 0)
}

/// Name and flags of the interface behind a descriptor.
fn interface(fd: BorrowedFd<'_>) -> io::Result<(String, c_int)> {
    let mut request = empty_request();
    // SAFETY: this ioctl writes one ifreq behind the pointer.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: after TUNGETIFF the flags are what the union holds; every bit pattern is a short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_of(&request), c_int::from(flags.cast_unsigned())))
}

fn empty_request() -> libc::ifreq {
    // SAFETY: ifreq is plain data for which zeroes are valid.
    unsafe { std::mem::zeroed() }
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn writev(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<bool> {
    loop {
        return match rustix::io::writev(fd, slices) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}
