//! See `landbridge::fuzzing::stun`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge::fuzzing::stun(data));
