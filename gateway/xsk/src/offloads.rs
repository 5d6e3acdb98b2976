//! Offloads of an interface that tools need to switch: generic receive offload, which on a veth decides whether frames
//! of XDP programs are accepted from its peer, and those by which a host hands unfinished packets to a virtual link.
//!
//! Enters: an interface's name in the namespace of the calling thread. Leaves: the offload, switched. Never does: touch
//! another setting.

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, socket};

use crate::error::at;

/// linux/ethtool.h: reads whether generic receive offload is on.
const ETHTOOL_GGRO: u32 = 0x2b;
/// linux/ethtool.h: switches it.
const ETHTOOL_SGRO: u32 = 0x2c;

/// linux/ethtool.h: read and switch transmit checksums, TCP segmentation and generic segmentation.
const ETHTOOL_TRANSMIT: [(u32, u32); 3] = [(0x16, 0x17), (0x1e, 0x1f), (0x23, 0x24)];

/// struct ethtool_value.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Switches generic receive offload of an interface, and says whether it was on.
///
/// # Errors
/// No such interface, no right to do so, or a driver that refuses.
pub fn switch_generic_receive(interface: &str, on: bool) -> io::Result<bool> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let was = ethtool(&socket, interface, ETHTOOL_GGRO, 0).map_err(|error| at("reading an offload", error))? != 0;
    if was != on {
        let wanted = u32::from(on);
        ethtool(&socket, interface, ETHTOOL_SGRO, wanted).map_err(|error| at("switching an offload", error))?;
    }
    Ok(was)
}

/// Has the kernel finish packets before it hands them to an interface, as it does for a card that offloads nothing:
/// whoever reads them at the other end of a virtual link past the kernel finds right checksums and no super-packets.
///
/// # Errors
/// As [`switch_generic_receive`].
pub fn finish_transmitted(interface: &str) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    ETHTOOL_TRANSMIT
        .into_iter()
        .try_for_each(|(read, switch)| {
            // What the interface has not at present, it does not let be switched either.
            if ethtool(&socket, interface, read, 0)? == 0 {
                return Ok(());
            }
            ethtool(&socket, interface, switch, 0).map(drop)
        })
        .map_err(|error| at("switching an offload off", error))
}

fn ethtool(socket: &OwnedFd, interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = Value { command, data };
    // SAFETY: plain data, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: this ioctl reads one ifreq, and reads and writes the ethtool_value that it points to; both outlive the
    // call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}
