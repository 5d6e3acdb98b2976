//! Attaching the program to interfaces: native where the driver has it, generic else.

use std::fmt;
use std::io;

use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, Xdp, XdpError, XdpMode as Flag};
use rustix::io::Errno;

use super::{Steer, SteerError, error, link, program};
use crate::settings::XdpMode;

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
}

impl Mode {
    /// Its word in status and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flag(self) -> Flag {
        match self {
            Self::Native => Flag::Driver,
            Self::Generic => Flag::Skb,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What came of attaching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Where the program runs.
    pub mode: Mode,
    /// Why it does not run in the driver, where that was tried first.
    pub fallback_reason: Option<String>,
}

/// Whose program an interface has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Ours.
    Ours,
    /// Nobody's: it was never attached, or somebody has detached it (`bpftool link detach`).
    Nobodys,
    /// Somebody else's.
    Anothers {
        /// The kernel's number of that program.
        program_id: u32,
    },
    /// The interface is gone, or the kernel does not tell.
    Unknown,
}

impl Steer {
    /// Asks the kernel whose program an interface has.
    #[must_use]
    pub fn hold(&self, if_index: u32) -> Hold {
        match link::by_index(if_index).map(|message| link::program(&message)) {
            Ok(Some(program)) if program.id == self.program_id => Hold::Ours,
            Ok(Some(program)) => Hold::Anothers { program_id: program.id },
            Ok(None) => Hold::Nobodys,
            Err(_) => Hold::Unknown,
        }
    }

    /// Attaches the program to an interface; `name` is for messages. An interface that has it already keeps it.
    ///
    /// # Errors
    /// Another XDP program on the interface, no such interface, no permission, or a driver that refuses.
    pub fn attach(&mut self, if_index: u32, name: &str, mode: XdpMode) -> Result<Attached, SteerError> {
        if let Some((_, attached)) = self.links.get(&if_index) {
            return Ok(attached.clone());
        }
        refuse_occupied(if_index, name)?;
        let xdp = program(&mut self.ebpf, self.program)?;
        let (link, attached) = match mode {
            XdpMode::Native => (attach(xdp, if_index, name, Mode::Native)?, Attached::plain(Mode::Native)),
            XdpMode::Generic => (attach(xdp, if_index, name, Mode::Generic)?, Attached::plain(Mode::Generic)),
            XdpMode::Auto => match attach(xdp, if_index, name, Mode::Native) {
                Ok(link) => (link, Attached::plain(Mode::Native)),
                Err(SteerError::Attach { reason, .. }) => {
                    let link = attach(xdp, if_index, name, Mode::Generic)?;
                    (link, Attached { mode: Mode::Generic, fallback_reason: Some(reason) })
                }
                Err(other) => return Err(other),
            },
        };
        self.links.insert(if_index, (link, attached.clone()));
        Ok(attached)
    }

    /// How an interface has the program attached.
    #[must_use]
    pub fn attached(&self, if_index: u32) -> Option<&Attached> {
        self.links.get(&if_index).map(|(_, attached)| attached)
    }

    /// Detaches the program from one interface. One that is gone has detached it by itself; one from which somebody
    /// else has detached it may be attached to again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn detach(&mut self, if_index: u32) -> Result<(), SteerError> {
        let Some((link, _)) = self.links.remove(&if_index) else { return Ok(()) };
        program(&mut self.ebpf, self.program)?.detach(link).map_err(error::program)
    }
}

impl Attached {
    const fn plain(mode: Mode) -> Self {
        Self { mode, fallback_reason: None }
    }
}

/// Asked before attaching, so that no path may replace what is there and the message can name it.
fn refuse_occupied(if_index: u32, name: &str) -> Result<(), SteerError> {
    let interface = || name.to_owned();
    let message = link::by_index(if_index).map_err(|source| match Errno::from_io_error(&source) {
        Some(Errno::NODEV) => SteerError::NoInterface { interface: interface() },
        _ => SteerError::Netlink { interface: interface(), source },
    })?;
    match link::program(&message) {
        Some(link::Program { id, mode, keyword }) => {
            Err(SteerError::Occupied { interface: interface(), program_id: id, mode, off: keyword })
        }
        None => Ok(()),
    }
}

fn attach(xdp: &mut Xdp, if_index: u32, name: &str, mode: Mode) -> Result<XdpLinkId, SteerError> {
    xdp.attach_to_if_index(if_index, mode.flag()).map_err(|error| refused(error, if_index, name, mode))
}

/// Sorts what the kernel said about attaching.
fn refused(error: ProgramError, if_index: u32, name: &str, mode: Mode) -> SteerError {
    let interface = name.to_owned();
    let io_error = match error {
        ProgramError::SyscallError(error) => error.io_error,
        ProgramError::XdpError(XdpError::NetlinkError(error)) => {
            // The system call answered "invalid argument" and so did netlink: the driver's own refusal.
            io::Error::new(Errno::INVAL.kind(), error::chain(&error))
        }
        other => return error::program(other),
    };
    let errno = Errno::from_io_error(&io_error);
    match errno {
        Some(Errno::PERM) => SteerError::Permission { step: "attaching the XDP program", source: io_error },
        Some(Errno::NODEV) => SteerError::NoInterface { interface },
        // Somebody came between the question and the attachment.
        Some(Errno::BUSY | Errno::EXIST) if refuse_occupied(if_index, name).is_err() => {
            refuse_occupied(if_index, name).err().unwrap_or(SteerError::NoInterface { interface })
        }
        _ => {
            let reason = match errno {
                Some(Errno::NOTSUP) => "its driver has no native XDP".to_owned(),
                Some(Errno::RANGE) => "its MTU, or that of its veth peer, is too large".to_owned(),
                _ => format!("its driver refuses: {io_error}"),
            };
            let way_out = match mode {
                Mode::Native => "; choose the mode `auto` or `generic`, or the wan backend `udp`",
                Mode::Generic => "; choose the wan backend `udp`",
            };
            SteerError::Attach { interface, mode, reason, way_out }
        }
    }
}
