//! A child process that runs a routine, single-stepped by its parent.
//!
//! Enters: what to prepare and what to run. Leaves: each instruction that the routine executes, with the registers
//! before it and every address that it touches, and at the end the child's stack. Never does: judge.
//!
//! 1. The parent forks. Both have the same code at the same addresses, so the parent decodes its own.
//! 2. The child prepares a run outside the marks, and runs the routine between two `int3`.
//! 3. The parent steps from one mark to the other, and hands each step to the observer.

use std::collections::HashMap;

use iced_x86::UsedMemory;
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};
use libc::user_regs_struct;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// More steps than any routine here takes.
const MOST_STEPS: usize = 4 << 20;
/// Bytes of the stack below a routine's caller that are looked at.
pub(crate) const STACK: usize = 96 << 10;

/// A decoded instruction and what it uses.
pub(crate) struct Code {
    pub(crate) instruction: Instruction,
    pub(crate) memory: Vec<UsedMemory>,
}

/// One instruction about to be executed.
pub(crate) struct Step<'a> {
    pub(crate) code: &'a Code,
    /// Where each of `code.memory` is.
    pub(crate) addresses: &'a [u64],
    /// What decides which part of it is touched: the mask of a masked access.
    pub(crate) mask: &'a [u64],
}

/// What sees the steps and the ends of runs.
pub(crate) trait Observer {
    /// Whether the steps are to be shown; else the child runs from mark to mark.
    const STEPS: bool;
    /// An instruction of run number `run` is about to be executed.
    fn step(&mut self, run: usize, step: &Step<'_>);
    /// A run is over; `dead` is the stack below its caller.
    fn end(&mut self, run: usize, dead: &[u8]);
}

/// Runs `prepare` and `routine` on the state in a child, `runs` times, and shows the observer what `routine` does.
/// The state is at the same address in every run, and changes in the child alone.
pub(crate) fn trace<S>(
    runs: usize,
    state: &mut S,
    prepare: impl Fn(&mut S, usize),
    routine: impl Fn(&mut S),
    observer: &mut impl Observer,
) {
    // SAFETY: the child runs what it was given, which allocates nothing, and leaves by _exit.
    match unsafe { fork() }.expect("a process may fork") {
        ForkResult::Child => {
            let stopped = ptrace::traceme().is_ok() && nix::sys::signal::raise(Signal::SIGSTOP).is_ok();
            nix::unistd::alarm::set(300);
            for run in 0..runs {
                prepare(state, run);
                between_marks(state, &routine);
            }
            // SAFETY: the child ends here, without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!stopped)) }
        }
        ForkResult::Parent { child } => Tracer::new(child).run(runs, observer),
    }
}

/// The same code for every run, which a loop that the compiler unrolls is not.
#[inline(never)]
fn between_marks<S>(state: &mut S, routine: &impl Fn(&mut S)) {
    mark();
    routine(state);
    mark();
}

/// Stops the child under its parent's eyes.
#[inline(never)]
fn mark() {
    // SAFETY: a trap is what the parent waits for.
    unsafe { core::arch::asm!("int3") }
}

struct Tracer {
    child: Pid,
    cache: HashMap<u64, Code>,
    factory: InstructionInfoFactory,
    running: bool,
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.running {
            // A failed run leaves no child behind; that it is gone already is as good.
            let _ = nix::sys::signal::kill(self.child, Signal::SIGKILL);
            let _ = waitpid(self.child, None);
        }
    }
}

impl Tracer {
    fn new(child: Pid) -> Self {
        Self { child, cache: HashMap::new(), factory: InstructionInfoFactory::new(), running: true }
    }

    fn run<O: Observer>(mut self, runs: usize, observer: &mut O) {
        self.expect_stop(Signal::SIGSTOP);
        for run in 0..runs {
            self.go_on();
            self.expect_stop(Signal::SIGTRAP);
            if O::STEPS {
                self.steps(run, observer);
            }
            self.go_on();
            self.expect_stop(Signal::SIGTRAP);
            let registers = ptrace::getregs(self.child).expect("a stopped child");
            observer.end(run, &self.stack_below(registers.rsp));
        }
        self.go_on();
        let end = waitpid(self.child, None).expect("a child to wait for");
        self.running = false;
        assert_eq!(end, WaitStatus::Exited(self.child, 0));
    }

    /// From behind one mark to the next.
    fn steps(&mut self, run: usize, observer: &mut impl Observer) {
        let mut addresses = Vec::new();
        for _ in 0..MOST_STEPS {
            let registers = ptrace::getregs(self.child).expect("a stopped child");
            let code = decoded(&mut self.cache, &mut self.factory, registers.rip);
            if code.instruction.mnemonic() == Mnemonic::Int3 {
                return;
            }
            addresses.clear();
            for memory in &code.memory {
                let address = memory.virtual_address(0, |register, _, _| value_of(register, &registers));
                addresses.push(address.unwrap_or_else(|| panic!("an address from vectors: {}", place(registers.rip))));
            }
            let mask = mask(self.child, code);
            observer.step(run, &Step { code, addresses: &addresses, mask: &mask });
            ptrace::step(self.child, None).expect("a stopped child");
            self.expect_stop(Signal::SIGTRAP);
        }
        panic!("the routine does not end");
    }

    fn go_on(&self) {
        ptrace::cont(self.child, None).expect("a stopped child");
    }

    fn expect_stop(&self, signal: Signal) {
        let status = waitpid(self.child, None).expect("a child to wait for");
        assert_eq!(status, WaitStatus::Stopped(self.child, signal), "the child failed");
    }

    /// What lies in the stack below `pointer`, the red zone included.
    fn stack_below(&self, pointer: u64) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.child)).expect("the child's memory");
        let mut bytes = vec![0; STACK];
        memory.read_exact_at(&mut bytes, pointer - STACK as u64).expect("a stack as deep as it was painted");
        bytes
    }
}

/// The value that masks a memory access, empty without one.
fn mask(child: Pid, code: &Code) -> Vec<u64> {
    let instruction = &code.instruction;
    if code.memory.is_empty() {
        return Vec::new();
    }
    if instruction.op_mask() != Register::None {
        let number = instruction.op_mask().number();
        return words(&extended_state(child)[state_offset(OPMASK) + 8 * number..][..8]);
    }
    let masked = matches!(
        instruction.mnemonic(),
        Mnemonic::Vpmaskmovd | Mnemonic::Vpmaskmovq | Mnemonic::Vmaskmovps | Mnemonic::Vmaskmovpd
    );
    if !masked {
        return Vec::new();
    }
    let operand = (0..3).find(|&i| i > 0 && instruction.op_kind(i) == OpKind::Register);
    let number = instruction.op_register(operand.expect("a masked move has a mask")).number();
    let state = extended_state(child);
    let low = words(&state[160 + 16 * number..][..16]);
    let high = words(&state[state_offset(YMM_HIGH) + 16 * number..][..16]);
    [low, high].concat()
}

/// The XSAVE area, in its standard form.
fn extended_state(child: Pid) -> Vec<u8> {
    const NT_X86_XSTATE: usize = 0x202;
    let mut state = vec![0_u8; 4096];
    let mut area = libc::iovec { iov_base: state.as_mut_ptr().cast(), iov_len: state.len() };
    // SAFETY: the kernel writes at most `iov_len` bytes into the buffer, which outlives the call.
    let done = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, child.as_raw(), NT_X86_XSTATE, &raw mut area) };
    assert_eq!(done, 0, "the kernel shows the vector registers of a stopped child");
    state
}

const YMM_HIGH: u32 = 2;
const OPMASK: u32 = 5;

/// Where a component is in the standard form of the XSAVE area.
fn state_offset(component: u32) -> usize {
    core::arch::x86_64::__cpuid_count(0xd, component).ebx as usize
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

fn decoded<'a>(cache: &'a mut HashMap<u64, Code>, factory: &mut InstructionInfoFactory, at: u64) -> &'a Code {
    cache.entry(at).or_insert_with(|| {
        // SAFETY: the child executes these bytes, and the parent has the same code at the same place; an instruction
        // has at most 15 bytes, and behind the last one of a section there is padding.
        let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, 15) };
        let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        assert!(!instruction.is_invalid(), "an unknown instruction: {}", place(at));
        let info = factory.info(&instruction);
        Code { instruction, memory: info.used_memory().to_vec() }
    })
}

fn value_of(register: Register, from: &user_regs_struct) -> Option<u64> {
    let full = match register.full_register() {
        Register::RAX => from.rax,
        Register::RBX => from.rbx,
        Register::RCX => from.rcx,
        Register::RDX => from.rdx,
        Register::RSI => from.rsi,
        Register::RDI => from.rdi,
        Register::RBP => from.rbp,
        Register::RSP => from.rsp,
        Register::R8 => from.r8,
        Register::R9 => from.r9,
        Register::R10 => from.r10,
        Register::R11 => from.r11,
        Register::R12 => from.r12,
        Register::R13 => from.r13,
        Register::R14 => from.r14,
        Register::R15 => from.r15,
        Register::FS => from.fs_base,
        Register::GS => from.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    };
    Some(if register.size() == 4 { full & 0xffff_ffff } else { full })
}

/// Function, file and line of an address, with what was inlined there.
pub(crate) fn place(address: u64) -> String {
    let mut frames = Vec::new();
    backtrace::resolve(address as *mut core::ffi::c_void, |symbol| {
        let name = symbol.name().map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
        let file = symbol.filename().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        let line = symbol.lineno().map_or_else(String::new, |line| format!(":{line}"));
        frames.push(format!("{name} ({}{line})", file.unwrap_or_default()));
    });
    format!("{address:#x} {}", frames.join(" in "))
}
