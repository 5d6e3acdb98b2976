//! Whether runs with different secrets take the same way: the same instructions, the same addresses.
//!
//! Enters: the steps of several runs. Leaves: the first step at which a run leaves the way of the first run, or that is
//! of a kind whose time depends on its operands. Never does: know what is secret; its caller changes nothing else.

use iced_x86::{Code as Kind, FlowControl, Mnemonic};

use crate::tracer::{Observer, Step, place};

/// Compares all runs with run 0.
#[derive(Default)]
pub(crate) struct Lockstep {
    way: Vec<Vec<u64>>,
    at: usize,
    run: usize,
    last: u64,
    /// What was found first.
    pub(crate) leak: Option<String>,
}

impl Lockstep {
    /// Steps of one run.
    pub(crate) fn steps(&self) -> usize {
        self.way.len()
    }

    fn found(&mut self, what: &str, address: u64) {
        if self.leak.is_none() {
            self.leak = Some(format!("run {}, step {}: {what}: {}", self.run, self.at, place(address)));
        }
    }
}

impl Observer for Lockstep {
    const STEPS: bool = true;

    fn step(&mut self, run: usize, step: &Step<'_>) {
        if run != self.run {
            (self.run, self.at) = (run, 0);
        }
        let instruction = &step.code.instruction;
        let here = instruction.ip();
        if matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv) {
            self.found("a division", here);
        }
        if instruction.code() == Kind::INVALID || instruction.flow_control() == FlowControl::Exception {
            self.found("an instruction that fails", here);
        }
        let seen: Vec<u64> = [here].iter().chain(step.addresses).chain(step.mask).copied().collect();
        match self.way.get(self.at) {
            _ if run == 0 => self.way.push(seen),
            Some(expected) if expected[0] != here => self.found("a branch to elsewhere", self.last),
            Some(expected) if *expected != seen => self.found("an address", here),
            Some(_) => {}
            None => self.found("a longer way", self.last),
        }
        self.at += 1;
        self.last = here;
    }

    fn end(&mut self, run: usize, _dead: &[u8]) {
        if run != 0 && self.at != self.way.len() {
            self.found("a shorter way", self.last);
        }
    }
}
