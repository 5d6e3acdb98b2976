//! See `bodies/aead_burst.rs`.
#![no_main]

#[path = "../bodies/aead_burst.rs"]
mod aead_burst;

libfuzzer_sys::fuzz_target!(|data: &[u8]| aead_burst::aead_burst(data));
