//! The engines under a tracer: whether time may tell their secrets, and what they leave behind on the stack.
//!
//! Linux on x86-64 alone: it steps through machine code.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod bench;
mod constant_time;
mod leaky;
mod lockstep;
mod residue;
mod tracer;

#[path = "../vectors/reference.rs"]
#[expect(dead_code, reason = "tests/vectors uses the rest")]
mod reference;
