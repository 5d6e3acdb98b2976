//! Requests that are said again until they are answered.
//!
//! Enters: requests, answers' numbers, time. Leaves: what is to be said again. Never does: keep more than a few requests of
//! one peer, or say one for ever.

use std::time::{Duration, Instant};

use super::Said;

/// Between the first two times.
const FIRST: Duration = Duration::from_millis(250);
/// How often one is said.
const TRIES: u32 = 5;
/// Requests that wait for their answers; the oldest gives way.
const WAITING_MAX: usize = 24;

#[derive(Debug)]
struct Waiting {
    said: Said,
    tries: u32,
    due: Instant,
}

/// The requests to one peer that wait for their answers.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    waiting: Vec<Waiting>,
    /// The last requests that were answered: said twice, they are answered twice.
    answered: [Option<u32>; 4],
}

impl Retries {
    /// Notes a request that is being said for the first time.
    pub(crate) fn add(&mut self, now: Instant, said: Said) {
        if self.waiting.len() == WAITING_MAX {
            self.waiting.remove(0);
        }
        self.waiting.push(Waiting { said, tries: 1, due: now + FIRST });
    }

    /// The request that an answer belongs to, which is done.
    pub(crate) fn answered(&mut self, request: u32) -> Option<Said> {
        let place = self.waiting.iter().position(|waiting| waiting.said.message.request == request)?;
        self.answered.rotate_right(1);
        self.answered[0] = Some(request);
        Some(self.waiting.remove(place).said)
    }

    /// Whether a request was answered of late.
    pub(crate) fn was_answered(&self, request: u32) -> bool {
        self.answered.contains(&Some(request))
    }

    /// Whether one of those that wait is such a one.
    pub(crate) fn waits(&self, is_such: impl Fn(&Said) -> bool) -> bool {
        self.waiting.iter().any(|waiting| waiting.tries < TRIES && is_such(&waiting.said))
    }

    /// Those that `obsolete` picks are not said again. An answer that is under way still finds its request.
    pub(crate) fn forget(&mut self, obsolete: impl Fn(&Said) -> bool) {
        for waiting in self.waiting.iter_mut().filter(|waiting| obsolete(&waiting.said)) {
            waiting.tries = TRIES;
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.due).min()
    }

    /// What is to be said again.
    pub(crate) fn run(&mut self, now: Instant) -> Vec<Said> {
        let mut again = Vec::new();
        self.waiting.retain_mut(|waiting| {
            if waiting.due > now {
                return true;
            }
            if waiting.tries == TRIES {
                return false;
            }
            waiting.due = now + FIRST * (1 << waiting.tries);
            waiting.tries += 1;
            again.push(waiting.said.clone());
            true
        });
        again
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Body, Message};
    use super::*;

    fn said(request: u32) -> Said {
        Said::to_endpoint(Message { request, body: Body::RelayRelease { allocation: 1 } })
    }

    #[test]
    fn a_request_is_said_five_times_and_then_given_up() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        retries.add(start, said(7));
        let mut times = Vec::new();
        while let Some(due) = retries.due() {
            times.extend(retries.run(due).iter().map(|_| (due - start).as_millis()));
        }
        assert_eq!(times, [250, 750, 1750, 3750]);
        assert!(retries.answered(7).is_none());
    }

    #[test]
    fn an_answer_ends_its_own_request_and_the_oldest_of_too_many_gives_way() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        for request in 0..WAITING_MAX as u32 + 1 {
            retries.add(start, said(request));
        }
        assert!(retries.answered(0).is_none(), "it gave way");
        assert!(retries.answered(5).is_some() && retries.answered(5).is_none());
        assert!(retries.was_answered(5) && !retries.was_answered(6));
        assert_eq!(retries.run(start + FIRST).len(), WAITING_MAX - 1);
        retries.forget(|said| said.message.request > 3);
        assert_eq!(retries.run(start + FIRST * 10).len(), 3);
    }
}
