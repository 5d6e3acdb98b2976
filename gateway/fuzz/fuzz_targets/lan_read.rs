//! See `landbridge::fuzzing::lan_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge::fuzzing::lan_read(data));
