//! Which implementation seals and opens bursts, chosen once per process.
//!
//! Enters: what the operator asked for and what the CPU has. Leaves: an engine that agreed with `ring`
//! on a self-test at start. Never does: change its mind while packets are under way.

use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "x86_64")]
use crate::multibuffer::{self, Kernel};
#[cfg(target_arch = "x86_64")]
use crate::{Key, TAG_LEN};
use crate::{Packet, by_ring};

/// An implementation of ChaCha20-Poly1305 over bursts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// `ring`, packet by packet: the reference.
    Ring,
    /// Eight packets at once, AVX2.
    Avx2,
    /// Sixteen packets at once, AVX-512 with IFMA.
    Avx512,
}

/// Why an engine cannot be used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineUnavailable {
    /// The CPU lacks AVX2, or one of AVX-512 F, BW, VL, IFMA and VBMI2.
    Cpu,
    /// It disagreed with `ring` on the self-test.
    SelfTest,
}

impl core::fmt::Display for EngineUnavailable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "the CPU lacks its instructions",
            Self::SelfTest => "the engine disagreed with ring on the self-test at start",
        })
    }
}

impl core::error::Error for EngineUnavailable {}

impl core::fmt::Display for Engine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

const UNDECIDED: u8 = 0;
static IN_USE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// Chooses the engine for [`crate::seal_burst`] and [`crate::open_burst`]. Without a call, the first burst
/// chooses [`Engine::best`].
///
/// # Errors
/// When the CPU lacks what the engine needs, or its self-test failed; the choice is then as before.
pub fn select(engine: Engine) -> Result<(), EngineUnavailable> {
    engine.check()?;
    IN_USE.store(engine.code(), Ordering::Relaxed);
    Ok(())
}

impl Engine {
    /// Every engine, slowest first.
    pub const ALL: [Self; 3] = [Self::Ring, Self::Avx2, Self::Avx512];

    /// The engines that work here, slowest first; each ran its self-test just now.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|engine| engine.check().is_ok())
    }

    /// The fastest engine that works here.
    #[must_use]
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::Ring)
    }

    /// The engine that bursts go through.
    #[inline]
    #[must_use]
    pub fn in_use() -> Self {
        match IN_USE.load(Ordering::Relaxed) {
            1 => Self::Ring,
            2 => Self::Avx2,
            3 => Self::Avx512,
            _ => {
                let best = Self::best();
                // A choice that another thread made in the meantime stands.
                let _ = IN_USE.compare_exchange(UNDECIDED, best.code(), Ordering::Relaxed, Ordering::Relaxed);
                Self::in_use()
            }
        }
    }

    /// Its name in `status` and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Ring => 1,
            Self::Avx2 => 2,
            Self::Avx512 => 3,
        }
    }

    /// What the engine runs beside `ring`, if the CPU can run it.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn kernel(self) -> Option<&'static Kernel> {
        let kernel = match self {
            Self::Ring => return None,
            Self::Avx2 => &multibuffer::AVX2,
            Self::Avx512 => &multibuffer::AVX512,
        };
        (kernel.is_supported)().then_some(kernel)
    }

    /// Whether the CPU has what it needs and it agrees with `ring`.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self) -> Result<(), EngineUnavailable> {
        if self == Self::Ring {
            return Ok(());
        }
        #[cfg(target_arch = "x86_64")]
        if self.kernel().is_some() {
            return if agrees_with_ring(self) { Ok(()) } else { Err(EngineUnavailable::SelfTest) };
        }
        Err(EngineUnavailable::Cpu)
    }

    /// Seals a burst with this engine; [`Engine::check`] must have found it usable, else `ring` does it.
    pub fn seal_burst(self, burst: &mut [Packet<'_>]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = self.kernel() {
            // SAFETY: the kernel is supported.
            unsafe { kernel.seal_burst(burst) };
            return;
        }
        by_ring::seal(burst);
    }

    /// Opens a burst with this engine, in the same terms.
    pub fn open_burst(self, burst: &mut [Packet<'_>]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = self.kernel() {
            // SAFETY: the kernel is supported.
            unsafe { kernel.open_burst(burst) };
            return;
        }
        by_ring::open(burst);
    }
}

/// Seals and opens a burst of mixed lengths with the engine and packet by packet with `ring`.
#[cfg(target_arch = "x86_64")]
fn agrees_with_ring(engine: Engine) -> bool {
    const LENGTHS: [usize; 20] =
        [0, 1, 15, 16, 17, 48, 63, 64, 65, 80, 127, 128, 200, 512, 575, 1024, 1279, 1420, 33, 96];
    let key = Key::new(&core::array::from_fn(|i| (i as u8).wrapping_mul(37) ^ 0x5a));
    let counter = |i: usize| (i as u64).wrapping_mul(0x0123_4567_89ab_cdef);
    let plain = LENGTHS.map(|len| (0..len + TAG_LEN).map(|i| (i * 7 + len) as u8).collect::<Vec<u8>>());
    let mut reference = plain.clone();
    for (i, packet) in reference.iter_mut().enumerate() {
        key.seal(counter(i), packet);
    }
    let mut sealed = plain.clone();
    engine.seal_burst(&mut burst_of(&key, &mut sealed, counter));
    if sealed != reference {
        return false;
    }
    let forged = 7;
    sealed[forged][3] ^= 0x80;
    let mut burst = burst_of(&key, &mut sealed, counter);
    engine.open_burst(&mut burst);
    let verdicts_right = burst.iter().enumerate().all(|(i, packet)| packet.authentic == (i != forged));
    drop(burst);
    verdicts_right
        && sealed.iter().zip(&plain).enumerate().all(|(i, (opened, plain))| {
            let text = plain.len() - TAG_LEN;
            i == forged || opened[..text] == plain[..text]
        })
}

#[cfg(target_arch = "x86_64")]
fn burst_of<'a>(key: &'a Key, packets: &'a mut [Vec<u8>], counter: impl Fn(usize) -> u64) -> Vec<Packet<'a>> {
    packets
        .iter_mut()
        .enumerate()
        .map(|(i, bytes)| Packet { key, counter: counter(i), bytes, authentic: false })
        .collect()
}
