//! Which socket of a port gets which datagram: transport data goes to the lanes, everything else to the control task.
//!
//! Enters: a group of UDP sockets with SO_REUSEPORT on one port, bound in this order: the control task's, then one of
//! each lane. Leaves: a classic BPF program that the kernel runs for each datagram of the group. A flood of handshakes
//! thereby never reaches a lane.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::error;

/// First byte of a WireGuard transport data message.
const TRANSPORT_DATA: u32 = 4;

/// Offset of the receiver index in it.
const RECEIVER_INDEX: u32 = 4;

/// Where classic BPF finds the packet's IP header.
const IP_HEADER: u32 = libc::SKF_NET_OFF as u32;
/// Bytes of an IPv6 header. Behind extension headers other bytes are taken for the port, the same ones for a whole
/// flow.
const IPV6_LEN: u32 = 40;
/// Spreads ports and indices over all bits (2^32 by the golden ratio).
const MIX: u32 = 0x9e37_79b1;

/// Where classic BPF finds the packet's receive hash.
const RECEIVE_HASH: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RXHASH) as u32;

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const LOAD_HALF_AT_X: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
const LOAD_X_HEADER_LEN: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
const LOAD_X: u16 = (libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM) as u16;
const A_TO_X: u16 = (libc::BPF_MISC | libc::BPF_TAX) as u16;
const XOR_X: u16 = (libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X) as u16;
const MULTIPLY: u16 = (libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K) as u16;
const SHIFT_RIGHT: u16 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const MODULO: u16 = (libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K) as u16;
const ADD: u16 = (libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K) as u16;
const RETURN_RESULT: u16 = (libc::BPF_RET | BPF_A) as u16;
const RETURN_CONSTANT: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Source of a return value: the accumulator (linux/filter.h).
const BPF_A: u32 = 0x10;

/// Makes the group of `socket` (any bound socket of it will do) give transport data to the sockets 1 to `lanes`, one
/// flow always to the same, and everything else to socket 0. Sockets are numbered as they were bound; closing one
/// renumbers the group, so all are closed together.
///
/// # Errors
/// InvalidInput without lanes; what setsockopt said.
pub fn attach_by_message_type(socket: impl AsFd, lanes: u16) -> io::Result<()> {
    let step = "attach the program that spreads datagrams over lanes";
    if lanes == 0 {
        return Err(error::at(step, io::ErrorKind::InvalidInput.into()));
    }
    let mut program = by_message_type(lanes);
    let description = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies sock_fprog and the instructions it points to, both alive until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const description).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    if result < 0 { Err(error::at(step, io::Error::last_os_error())) } else { Ok(()) }
}

/// The program. Data begins at the UDP payload; a load beyond its end ends the program with 0, the control task.
fn by_message_type(lanes: u16) -> [libc::sock_filter; 20] {
    let op = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let jump = |k, jt, jf| libc::sock_filter { code: JUMP_IF_EQUAL, jt, jf, k };
    [
        op(LOAD_BYTE, 0),
        jump(TRANSPORT_DATA, 0, 17),
        op(LOAD_WORD, RECEIVE_HASH),
        jump(0, 0, 12),
        // Drivers that compute no hash leave 0: then source ports and sessions spread the load. Of one flow both stay.
        op(LOAD_BYTE, IP_HEADER),
        op(SHIFT_RIGHT, 4),
        jump(6, 2, 0),
        op(LOAD_X_HEADER_LEN, IP_HEADER),
        op(JUMP, 1),
        op(LOAD_X, IPV6_LEN),
        op(LOAD_HALF_AT_X, IP_HEADER),
        op(A_TO_X, 0),
        op(LOAD_WORD, RECEIVER_INDEX),
        op(XOR_X, 0),
        op(MULTIPLY, MIX),
        op(SHIFT_RIGHT, 16),
        op(MODULO, u32::from(lanes)),
        op(ADD, 1),
        op(RETURN_RESULT, 0),
        op(RETURN_CONSTANT, 0),
    ]
}
