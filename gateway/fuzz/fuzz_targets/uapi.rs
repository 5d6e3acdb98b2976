//! See `landbridge::fuzzing::uapi`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge::fuzzing::uapi(data));
