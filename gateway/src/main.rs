//! Parse, run, exit code: see [`landbridge::cli`].

use std::process::ExitCode;

/// What is not on a packet's way allocates; it should be quick at that too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    landbridge::cli::main()
}
