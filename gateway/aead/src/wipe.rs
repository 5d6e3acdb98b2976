//! Wiping what engines leave on the stack.
//!
//! Enters: nothing. Leaves: zeros in the frames that died below the caller. Never does: look for secrets: where the
//! compiler spills a register is its affair, so the whole depth goes.

use core::mem::MaybeUninit;

/// Bytes below the caller that are wiped: more than an engine's frames take, which the tests in `tests/traced` watch.
const DEPTH: usize = 17 << 10;

/// Writes zeros over the stack that an engine has used. Called once per burst by the function that called the engine.
#[inline(never)]
pub(crate) fn dead_stack() {
    let mut frame = MaybeUninit::<[u8; DEPTH]>::uninit();
    let start = frame.as_mut_ptr();
    // SAFETY: the frame is this function's own; the empty assembly is told of it and may read it, so the zeros are
    // written.
    unsafe {
        start.write_bytes(0, 1);
        core::arch::asm!("/* {} */", in(reg) start, options(nostack, preserves_flags));
    }
}
