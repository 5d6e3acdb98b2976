//! Which turns a thread gets.
//!
//! Enters: nothing. Leaves: the calling thread with another scheduling policy. Never does: concern another thread.

use std::io;

/// Gives the calling thread only the turns that nobody else wants (SCHED_IDLE): a core that runs it counts as an idle
/// one.
///
/// # Errors
/// What the kernel said.
pub fn only_idle_turns() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one sched_param behind the pointer; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_can_leave_its_turns_to_others() {
        let policy = std::thread::spawn(|| {
            super::only_idle_turns().expect("every thread may");
            // SAFETY: takes no pointer.
            unsafe { libc::sched_getscheduler(0) }
        });
        assert_eq!(policy.join().expect("no panic"), libc::SCHED_IDLE);
    }
}
