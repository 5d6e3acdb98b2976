//! See `landbridge_proto::fuzzing::endpoint_ops`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| landbridge_proto::fuzzing::endpoint_ops(data));
