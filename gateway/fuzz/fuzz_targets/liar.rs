//! See `landbridge_proto::fuzzing::liar`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge_proto::fuzzing::liar(data));
