//! See `bodies/steer.rs`.
#![no_main]

#[path = "../bodies/steer.rs"]
mod steer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| steer::steer(data));
