//! See `landbridge::fuzzing::transport_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge::fuzzing::transport_header(data));
