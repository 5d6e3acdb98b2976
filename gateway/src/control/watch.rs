//! Whether what an interface's rings rest on is still there: the program's attachment, the queues.
//!
//! 1. A program that somebody detached is attached again at once; when that happens again soon, the rings are given up
//!    for a while, as are those of an interface where another program has taken the place.
//! 2. An interface that uses another number of queues gets rings for these, and one whose packets take several frames from
//!    here on, rings for such.
//!
//! Enters: the kernel's word on each interface, with every tick. Leaves: attachments, losses of rings with their
//! reason. Never does: fight with whoever wants the interface, or touch a program that is not ours.

use std::time::{Duration, Instant};

use super::Control;
use crate::steer::{self, Hold};

/// How often an interface is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What has held this long is steady: the next loss is the first one again.
pub(super) const STEADY: Duration = Duration::from_secs(60);
/// The delay after the first loss or failed attempt; it doubles with each one that follows.
const RETRY: Duration = Duration::from_secs(1);
/// Doublings at most: about a minute.
const DOUBLINGS_MAX: u32 = 6;

/// How long after so many losses and failed attempts in a row rings are bound again.
pub(super) fn retry_after(failures: u32) -> Duration {
    RETRY * (1 << failures.min(DOUBLINGS_MAX))
}

/// What is remembered of an interface from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Watched {
    looked: Option<Instant>,
    /// When its program was attached again.
    reattached: Option<Instant>,
}

/// What has become of an interface.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Sound,
    /// Nobody has a program there, ours included.
    Detached,
    /// The rings cannot go on.
    Broken(String),
}

impl Control {
    /// Looks at an interface that has its rings.
    pub(super) fn look_at_attachment(&mut self, at: usize, now: Instant) {
        let watched = self.rings.watched(at);
        if watched.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return;
        }
        watched.looked = Some(now);
        let steady = watched.reattached.is_none_or(|before| now.saturating_duration_since(before) >= STEADY);
        match self.finding(at) {
            Finding::Sound => {}
            Finding::Detached if steady => {
                self.facts.xdp_programs_lost += 1;
                self.rings.watched(at).reattached = Some(now);
                match self.reattach(at) {
                    Ok(name) => tracing::warn!(interface = name, "the XDP program was detached: attached it again"),
                    Err(error) => self.lose_rings(at, format!("the XDP program was detached: {error:#}"), now),
                }
            }
            Finding::Detached => {
                self.facts.xdp_programs_lost += 1;
                self.lose_rings(at, "the XDP program was detached twice within a minute".to_owned(), now);
            }
            Finding::Broken(why) => self.lose_rings(at, why, now),
        }
    }

    fn finding(&mut self, at: usize) -> Finding {
        let Some(steer) = &self.driver.steer else { return Finding::Sound };
        let interface = self.rings.interface(at);
        match steer.hold(interface.index) {
            Hold::Ours => {}
            Hold::Nobodys => return Finding::Detached,
            Hold::Anothers { program_id } => {
                self.facts.xdp_programs_lost += 1;
                return Finding::Broken(format!("another XDP program (id {program_id}) has taken its place"));
            }
            // Gone: news of interfaces tells.
            Hold::Unknown => return Finding::Sound,
        }
        match steer::interface(interface.index) {
            Ok(current) if current.rx_queues != interface.rx_queues => {
                let (before, after) = (interface.rx_queues, current.rx_queues);
                Finding::Broken(format!("it has {after} receive queues in place of {before}"))
            }
            Ok(current) if self.rings.outgrows(at, current.mtu) => {
                Finding::Broken(format!("its MTU of {} takes rings of several frames for a packet", current.mtu))
            }
            _ => Finding::Sound,
        }
    }

    /// Attaches the program again, whose sockets are bound still.
    fn reattach(&mut self, at: usize) -> anyhow::Result<String> {
        let interface = self.rings.interface(at);
        let (index, name) = (interface.index, interface.name.clone());
        let mode = self.rings.options(at).rings.xdp_mode;
        if let Some(steer) = &mut self.driver.steer {
            steer.detach(index)?;
            steer.attach(index, &name, mode)?;
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_ever_later_but_never_end() {
        let delays: Vec<u64> = (0..9).map(|failures| retry_after(failures).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(retry_after(u32::MAX).as_secs(), 64);
    }
}
