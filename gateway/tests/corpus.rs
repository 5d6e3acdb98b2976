//! Replays the corpora of the fuzz targets in `gateway/fuzz`, and each file with every byte changed in turn.

use std::path::Path;

use landbridge::fuzzing;

#[path = "../fuzz/bodies/steer.rs"]
mod steer;

fn replay(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the corpus is committed") {
        let mut bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
        run(&bytes);
        for at in 0..bytes.len().min(200) {
            let before = bytes[at];
            for changed in [before ^ 1, before ^ 0x80, 0, 0xff] {
                bytes[at] = changed;
                run(&bytes);
            }
            bytes[at] = before;
            run(&bytes[..at]);
        }
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

#[test]
fn the_corpus_of_outer_frames_is_survived() {
    replay("outer_frame", fuzzing::outer_frame);
}

#[test]
fn the_corpus_of_inner_packets_is_survived() {
    replay("inner_packet", fuzzing::inner_packet);
}

#[test]
fn the_corpus_of_transport_headers_is_survived() {
    replay("transport_header", fuzzing::transport_header);
}

#[test]
fn the_corpus_of_reads_of_the_lan_is_split_joined_and_split_to_the_same() {
    replay("lan_read", fuzzing::lan_read);
}

#[test]
fn the_corpus_of_bursts_is_joined_without_a_change_to_any_flow() {
    replay("join_burst", fuzzing::join_burst);
}

#[test]
fn the_corpus_of_uapi_requests_is_understood_alike_wherever_it_is_cut() {
    replay("uapi", fuzzing::uapi);
}

#[test]
fn the_xdp_program_and_the_lane_agree_on_the_corpus_of_frames() {
    replay("steer", steer::steer);
    replay("outer_frame", steer::steer);
}
