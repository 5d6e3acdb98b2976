//! See `landbridge::fuzzing::relay`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge::fuzzing::relay(data));
