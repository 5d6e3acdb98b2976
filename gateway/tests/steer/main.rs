//! The XDP program and its loader, against a kernel.
//!
//! [`program`], [`long`], [`lan`] and [`relay`] run the object on crafted packets (BPF_PROG_TEST_RUN) and check it against the naive parser
//! of [`model`]; [`attach`] attaches it to interfaces of throw-away network namespaces. All of it needs root; where
//! `CI=true` its absence is a failure. `LANDBRIDGE_XDP_OBJECT=PATH` tests another build of the object.

mod attach;
mod lan;
mod long;
mod model;
mod packet;
mod program;
mod relay;
mod rig;

use landbridge::steer::{PROGRAM, PROGRAM_LONG, Steer};

/// Loads the object under test.
fn load() -> Steer {
    load_form(PROGRAM)
}

/// Loads the form for frames in several buffers.
fn load_long() -> Steer {
    load_form(PROGRAM_LONG)
}

fn load_form(name: &'static str) -> Steer {
    let loaded = match std::env::var_os("LANDBRIDGE_XDP_OBJECT") {
        Some(path) => {
            let object = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Steer::load_object(&object, name)
        }
        None if name == PROGRAM_LONG => Steer::load_long(),
        None => Steer::load(),
    };
    loaded.unwrap_or_else(|error| panic!("{error}"))
}

/// Whether the test may go on. Without root it is skipped, saying so, but never in CI.
fn may_run() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var("CI").as_deref() != Ok("true"), "this test needs root, and CI skips nothing");
    if !root {
        eprintln!("skipped: this test needs root");
    }
    root
}
