//! Which engine seals and opens packets, and why.
//!
//! Enters: what the operator asked for. Leaves: the engine in use, with its reason in words. Never does: fall back from an
//! engine that was asked for by name.

use anyhow::Context as _;
use landbridge_aead::{Engine, EngineUnavailable, select};

use crate::settings::Crypto;
use crate::status::CryptoStatus;

/// Engines across packets, fastest first.
const ACROSS_PACKETS: [Engine; 2] = [Engine::Avx512, Engine::Avx2];

/// Chooses the engine of this process.
///
/// # Errors
/// An engine across packets was asked for and none works here.
pub fn choose(crypto: Crypto) -> anyhow::Result<CryptoStatus> {
    choose_with(crypto, select)
}

fn choose_with(
    crypto: Crypto,
    select: impl Fn(Engine) -> Result<(), EngineUnavailable>,
) -> anyhow::Result<CryptoStatus> {
    let status = |engine: Engine, reason: String| CryptoStatus { engine: engine.name().to_owned(), reason };
    let ring = || select(Engine::Ring).context("crypto: ring cannot be used");
    if crypto == Crypto::Ring {
        ring()?;
        return Ok(status(Engine::Ring, "configured".to_owned()));
    }
    let mut refused = Vec::new();
    for engine in ACROSS_PACKETS {
        match select(engine) {
            Ok(()) if crypto == Crypto::Auto => {
                return Ok(status(engine, "the fastest that works on this CPU".to_owned()));
            }
            Ok(()) => return Ok(status(engine, "configured".to_owned())),
            Err(error) => {
                // A CPU that lacks something is common; one that computes wrongly is not.
                if error == EngineUnavailable::SelfTest {
                    tracing::warn!(engine = engine.name(), "{error}");
                }
                refused.push(format!("{} cannot be used: {error}", engine.name()));
            }
        }
    }
    let refused = refused.join(", ");
    if crypto == Crypto::Multibuffer {
        anyhow::bail!("crypto multibuffer: {refused}; choose \"auto\" or \"ring\"");
    }
    ring()?;
    Ok(status(Engine::Ring, refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_vectors(engine: Engine) -> Result<(), EngineUnavailable> {
        if engine == Engine::Ring { Ok(()) } else { Err(EngineUnavailable::Cpu) }
    }

    #[test]
    fn auto_falls_back_saying_so_and_an_engine_asked_for_by_name_does_not() {
        let status = choose_with(Crypto::Auto, without_vectors).expect("a fall back");
        assert_eq!(status.engine, "ring");
        assert!(status.reason.contains("avx512 cannot be used: the CPU lacks"), "{}", status.reason);
        let error = choose_with(Crypto::Multibuffer, without_vectors).expect_err("no fall back").to_string();
        assert!(error.contains("avx512 cannot be used: the CPU lacks") && error.contains("\"ring\""), "{error}");
        let status = choose_with(Crypto::Ring, without_vectors).expect("ring is always there");
        assert_eq!((status.engine.as_str(), status.reason.as_str()), ("ring", "configured"));
    }

    #[test]
    fn a_cpu_without_avx512_takes_avx2() {
        let without_avx512 = |engine| if engine == Engine::Avx512 { Err(EngineUnavailable::Cpu) } else { Ok(()) };
        for crypto in [Crypto::Auto, Crypto::Multibuffer] {
            assert_eq!(choose_with(crypto, without_avx512).expect("avx2 works").engine, "avx2");
        }
    }

    #[test]
    fn where_an_engine_across_packets_works_it_is_preferred() {
        let engine = |crypto| choose_with(crypto, |_| Ok(())).expect("all work").engine;
        assert_eq!([Crypto::Auto, Crypto::Multibuffer, Crypto::Ring].map(engine), ["avx512", "avx512", "ring"]);
    }
}
