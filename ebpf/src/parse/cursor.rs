//! A place in the frame, and how far one may read from it.
//!
//! Enters: the bounds of the frame. Leaves: bytes of it that are there. Never does: believe a length.
//!
//! Two bounds are kept side by side: the frame's end, by pointer, which is what the verifier wants to see
//! before every read; and what remains of the IP packet, by number and by whoever reads it, because a frame
//! may carry padding behind it. Offsets that depend on the packet make the verifier ask for CAP_PERFMON
//! beside CAP_BPF.

use landbridge_ebpf_common::Verdict;

/// A place in the frame, and the frame's end.
#[derive(Clone, Copy)]
pub(crate) struct Cursor {
    at: usize,
    end: usize,
}

impl Cursor {
    /// At the first byte of a frame.
    #[inline(always)]
    pub(crate) fn new(data: usize, data_end: usize) -> Self {
        Self { at: data, end: data_end }
    }

    /// The next `N` bytes.
    #[inline(always)]
    pub(crate) fn peek<const N: usize>(&self) -> Result<&'static [u8; N], Verdict> {
        self.peek_at::<0, N>()
    }

    /// `N` bytes from `OFFSET` on.
    #[inline(always)]
    pub(crate) fn peek_at<const OFFSET: usize, const N: usize>(&self) -> Result<&'static [u8; N], Verdict> {
        if self.at + OFFSET + N > self.end {
            return Err(Verdict::Truncated);
        }
        // SAFETY: the bytes lie within the frame, as was compared; a frame lives until the program returns, which is as
        // long as anything of it lives; bytes have no alignment and no invalid values.
        Ok(unsafe { &*((self.at + OFFSET) as *const [u8; N]) })
    }

    /// The next `N` bytes, and moves behind them.
    #[inline(always)]
    pub(crate) fn take<const N: usize>(&mut self) -> Result<&'static [u8; N], Verdict> {
        let bytes = self.peek::<N>()?;
        self.at += N;
        Ok(bytes)
    }

    /// Moves on. Reads behind it are compared with the frame's end as all are.
    #[inline(always)]
    pub(crate) fn skip(&mut self, n: u32) {
        self.at += n as usize;
    }

    /// That the frame has `n` more bytes.
    #[inline(always)]
    pub(crate) fn holds(&self, n: u32) -> Result<(), Verdict> {
        if self.at + n as usize > self.end { Err(Verdict::Truncated) } else { Ok(()) }
    }
}
