//! What one peer is to be told, and is told again until it answers.
//!
//! Enters: errands, answers, time. Leaves: errands to say with a request number, and those that were never answered. Never
//! does: hold an errand twice, or say so much at once that the peer's limit (`CHANNEL_INTERVAL_MS`) would drop it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Errands that wait for one peer.
const WAITING_MAX: usize = 1024;
/// Errands said that are not answered yet.
const WINDOW: usize = 8;
/// Between two errands, when more than a window of them waits.
const SPACING: Duration = Duration::from_millis(30);
/// Until an errand is said again; doubled each time.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// How often an errand is said.
const TRIES: u32 = 5;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand<T> {
    /// Say it under this request number.
    Say(T, u32),
    /// It was never answered.
    Unanswered(T),
}

#[derive(Debug)]
struct Said<T> {
    errand: T,
    request: u32,
    tries: u32,
    due: Instant,
    sent: Instant,
}

/// The errands for one peer. `T` says what they are about; the words are found when they are said.
#[derive(Debug)]
pub(crate) struct Errands<T> {
    waiting: VecDeque<T>,
    said: Vec<Said<T>>,
    /// Until when what was said has used up the pace.
    paced_until: Option<Instant>,
}

impl<T> Default for Errands<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), said: Vec::new(), paced_until: None }
    }
}

impl<T: Copy + PartialEq> Errands<T> {
    /// Adds an errand; one that was said and is not answered begins anew. False when too many wait.
    pub(crate) fn push(&mut self, errand: T) -> bool {
        if self.waiting.contains(&errand) {
            return true;
        }
        if self.waiting.len() >= WAITING_MAX {
            return false;
        }
        self.said.retain(|said| said.errand != errand);
        self.waiting.push_back(errand);
        true
    }

    /// Drops errands that are no longer of use.
    pub(crate) fn drop_if(&mut self, useless: impl Fn(&T) -> bool) {
        self.waiting.retain(|errand| !useless(errand));
        self.said.retain(|said| !useless(&said.errand));
    }

    /// When [`Errands::run`] has something to do.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let again = self.said.iter().map(|said| said.due).min();
        let next = (!self.waiting.is_empty() && self.said.len() < WINDOW).then(|| self.may_say(now));
        again.into_iter().chain(next).min()
    }

    /// The next thing that is due; call it until there is none.
    pub(crate) fn run(&mut self, now: Instant, draw: impl FnOnce() -> u32) -> Option<Errand<T>> {
        if let Some(place) = self.said.iter().position(|said| said.due <= now) {
            let said = &mut self.said[place];
            if said.tries >= TRIES {
                return Some(Errand::Unanswered(self.said.swap_remove(place).errand));
            }
            said.due = now + ANSWER_WITHIN * 2_u32.pow(said.tries);
            said.tries += 1;
            said.sent = now;
            return Some(Errand::Say(said.errand, said.request));
        }
        if self.said.len() >= WINDOW || self.may_say(now) > now {
            return None;
        }
        let errand = self.waiting.pop_front()?;
        self.paced_until = Some(self.paced_until.map_or(now, |until| until.max(now)) + SPACING);
        let request = draw();
        self.said.push(Said { errand, request, tries: 1, due: now + ANSWER_WITHIN, sent: now });
        Some(Errand::Say(errand, request))
    }

    /// An answer came: the errand that it answers, and the time that it took when it was said only once.
    pub(crate) fn answered(&mut self, now: Instant, request: u32) -> Option<(T, Option<Duration>)> {
        let place = self.said.iter().position(|said| said.request == request)?;
        let said = self.said.swap_remove(place);
        Some((said.errand, (said.tries == 1).then(|| now.saturating_duration_since(said.sent))))
    }

    /// A window's worth may go at once.
    fn may_say(&self, now: Instant) -> Instant {
        self.paced_until.and_then(|until| until.checked_sub(SPACING * WINDOW as u32)).map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs until nothing is due before `until`; what was said, and when.
    fn said(errands: &mut Errands<u32>, start: Instant, until: Duration) -> Vec<(Duration, Errand<u32>)> {
        let (mut all, mut now, mut request) = (Vec::new(), start, 100);
        while now < start + until {
            while let Some(errand) = errands.run(now, || {
                request += 1;
                request
            }) {
                all.push((now - start, errand));
            }
            now += Duration::from_millis(10);
        }
        all
    }

    #[test]
    fn an_errand_is_said_five_times_and_then_given_up() {
        let (mut errands, start) = (Errands::default(), Instant::now());
        assert!(errands.push(7) && errands.push(7), "twice is once");
        let all = said(&mut errands, start, Duration::from_secs(20));
        let times: Vec<_> = all.iter().map(|(at, _)| at.as_millis()).collect();
        assert_eq!(times, [0, 250, 750, 1750, 3750, 7750]);
        assert!(all[..5].iter().all(|(_, errand)| *errand == Errand::Say(7, 101)), "under one request number");
        assert_eq!(all[5].1, Errand::Unanswered(7));
        assert_eq!(errands.due(start + Duration::from_secs(20)), None);
    }

    #[test]
    fn an_answer_ends_it_and_tells_the_round_trip_once() {
        let (mut errands, start) = (Errands::default(), Instant::now());
        let ms = |ms| start + Duration::from_millis(ms);
        errands.push(7);
        assert_eq!(errands.run(start, || 1), Some(Errand::Say(7, 1)));
        assert_eq!(errands.answered(ms(30), 2), None, "it answers nothing");
        assert_eq!(errands.answered(ms(30), 1), Some((7, Some(Duration::from_millis(30)))));
        assert_eq!(errands.answered(ms(30), 1), None);
        errands.push(8);
        assert_eq!(errands.run(ms(40), || 3), Some(Errand::Say(8, 3)));
        assert_eq!(errands.run(ms(290), || 4), Some(Errand::Say(8, 3)));
        assert_eq!(errands.answered(ms(300), 3), Some((8, None)), "which of two was answered is unknown");
        assert_eq!(errands.due(ms(300)), None);
    }

    #[test]
    fn many_errands_are_paced_below_the_limit_of_the_peer() {
        let (mut errands, start) = (Errands::default(), Instant::now());
        let pushed = (0..2000).filter(|errand| errands.push(*errand)).count();
        assert_eq!(pushed, WAITING_MAX);
        let mut said = Vec::new();
        for ms in 0..3000_u64 {
            let now = start + Duration::from_millis(ms);
            while let Some(Errand::Say(errand, request)) = errands.run(now, || ms as u32) {
                said.push(errand);
                assert!(errands.answered(now, request).is_some());
            }
        }
        assert_eq!(said.len(), 100 + WINDOW, "a window at once, then one in 30 ms");
        assert!(said.is_sorted(), "in order");
        errands.drop_if(|errand| *errand > 500);
        assert!(errands.due(start).is_some());
        errands.drop_if(|_| true);
        assert_eq!(errands.due(start), None);
    }
}
