//! Replays the corpora of the fuzz targets in `gateway/fuzz`, and each file with every byte changed in turn.

use std::path::{Path, PathBuf};

use landbridge::control::uapi::parse::Parser;
use landbridge::datapath::transport::TransportHeader;
use landbridge::datapath::{inner, wire};
use landbridge::fuzzing;

#[path = "../fuzz/bodies/steer.rs"]
mod steer;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn replay(target: &str, run: fn(&[u8])) {
    let directory = corpus(target);
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
fn the_corpus_of_stun_answers_is_taken_whole_or_not_at_all() {
    replay("stun", fuzzing::stun);
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
fn the_corpus_of_relayed_datagrams_is_forwarded_only_as_permitted() {
    replay("relay", fuzzing::relay);
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

/// Else fuzzing would begin in front of the parser's first check.
#[test]
fn what_a_corpus_holds_as_good_gets_through_its_parser() {
    let good = |target: &str, names: &[&str], accepts: &dyn Fn(&[u8]) -> bool| {
        for name in names {
            let bytes = std::fs::read(corpus(target).join(name)).expect("a file");
            assert!(accepts(&bytes), "{target}/{name}");
        }
    };
    let frames = ["ipv4", "ipv6", "vlan", "two_vlans", "ipv4_options", "ipv4_padded", "ipv6_extensions"];
    good("outer_frame", &frames, &|bytes| wire::parse(bytes).is_ok());
    let packets = ["ipv4", "ipv4_marked", "ipv4_options_padded", "ipv6_marked"];
    good("inner_packet", &packets, &|bytes| inner::parse(&bytes[1..]).is_ok());
    good("transport_header", &["data", "keepalive"], &|bytes| TransportHeader::parse(bytes).is_ok());
    let requests = ["get", "set_all", "set_then_get", "scoped_endpoint"];
    good("uapi", &requests, &|bytes| matches!(Parser::default().feed(&bytes[1..]), Ok((_, Some(_)))));
}
