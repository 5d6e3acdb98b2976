//! See `landbridge::fuzzing::inner_packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge::fuzzing::inner_packet(data));
