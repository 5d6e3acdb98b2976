//! A program that redirects every packet to the AF_XDP socket of its queue, made of raw instructions, so that these
//! tests need no compiler for BPF.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The program on an interface. It is detached when this is dropped.
pub(crate) struct RedirectAll {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

/// An argument of bpf(2), written field by field.
struct Attributes([u8; 128]);

impl Attributes {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn fd(self, at: usize, fd: &OwnedFd) -> Self {
        self.u32(at, fd.as_raw_fd().cast_unsigned())
    }

    fn pointer<T>(mut self, at: usize, to: &T) -> Self {
        let address = std::ptr::from_ref(to).addr() as u64;
        self.0[at..at + 8].copy_from_slice(&address.to_ne_bytes());
        self
    }

    fn call(&self, command: libc::c_long) -> libc::c_long {
        // SAFETY: the pointers in the argument are to values that the caller of this method still holds.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), self.0.len()) };
        assert!(result >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
        result
    }

    fn open(&self, command: libc::c_long) -> OwnedFd {
        // SAFETY: these commands return a descriptor that nobody else owns.
        unsafe { OwnedFd::from_raw_fd(self.call(command) as i32) }
    }
}

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;

fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(registers) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

impl RedirectAll {
    /// Attaches to an interface, in the driver, loaded with these flags.
    pub(crate) fn attach(if_index: u32, flags: u32) -> Self {
        let xskmap = 17;
        let map = Attributes::new().u32(0, xskmap).u32(4, 4).u32(8, 4).u32(12, 64).open(MAP_CREATE);
        let program = [
            instruction(0x61, 0x12, 16, 0),              // r2 = context.rx_queue_index
            instruction(0x18, 0x11, 0, map.as_raw_fd()), // r1 = map
            0,                                           // (second half)
            instruction(0xb7, 0x03, 0, 2),               // r3 = XDP_PASS, if the queue has no socket
            instruction(0x85, 0, 0, 51),                 // call bpf_redirect_map
            instruction(0x95, 0, 0, 0),                  // exit
        ];
        let xdp = 6;
        let program = Attributes::new()
            .u32(0, xdp)
            .u32(4, program.len() as u32)
            .pointer(8, &program)
            .pointer(16, c"GPL".to_bytes_with_nul().first().expect("a letter"))
            .u32(44, flags)
            .open(PROG_LOAD);
        let (attach_xdp, driver_mode) = (37, 4);
        let link = Attributes::new()
            .fd(0, &program)
            .u32(4, if_index)
            .u32(8, attach_xdp)
            .u32(12, driver_mode)
            .open(LINK_CREATE);
        Self { map, _program: program, _link: link }
    }

    /// Gives the packets of a queue to a socket.
    pub(crate) fn steer(&self, queue: u32, socket: impl AsFd) {
        let value = socket.as_fd().as_raw_fd();
        Attributes::new().fd(0, &self.map).pointer(8, &queue).pointer(16, &value).call(MAP_UPDATE_ELEM);
    }
}

/// The number of an interface of this thread's namespace.
pub(crate) fn if_index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("an interface of that name")
}
