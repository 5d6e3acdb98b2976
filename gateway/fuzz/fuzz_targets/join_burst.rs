//! See `landbridge::fuzzing::join_burst`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge::fuzzing::join_burst(data));
