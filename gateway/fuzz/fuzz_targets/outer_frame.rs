//! See `landbridge::fuzzing::outer_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge::fuzzing::outer_frame(data));
