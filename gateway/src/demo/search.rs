//! Which rate to try next, and what is known of the edge when the search ends.
//!
//! Enters: what each trial showed. Leaves: rates to try, an [`Edge`]. Never does: send, or look at a clock: whoever tries has
//! a time to end, and the edge says whether it came first.

use serde::Serialize;

use super::udp::UdpFigures;

/// The loss that a rate may have to count as carried, of one: that of the partial drop rate of MLRsearch.
const TOLERANCE: f64 = 0.005;
/// A loss beyond this is no hiccup.
const AGAIN: f64 = 0.2;
/// A sender that reaches less than this share of a rate cannot keep up with it.
const KEEPS_UP: f64 = 0.9;
/// Good and bad rates this close, as a share of the bad one, are the edge.
const CLOSE: f64 = 0.08;
const RATE_FIRST: f64 = 20_000.0;
const RATE_MIN: f64 = 500.0;
const RATE_MAX: f64 = 4_000_000.0;

/// What the figure of an edge says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A little more than this lost packets.
    Found,
    /// This arrived; time, or what the sender can send, ended the search before loss did.
    AtLeast,
    /// No rate that was tried arrived nearly whole: this is half of what arrived of a flood.
    Guess,
}

/// The highest rate that arrives nearly whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Edge {
    /// Packets a second; zero when none arrived at all.
    pub(super) pps: f64,
    /// What that says.
    pub(super) kind: Kind,
}

/// A rate that did not work out.
#[derive(Debug, Clone, Copy)]
struct Bad {
    rate: f64,
    /// It lost packets; else the sender could not keep up.
    lost: bool,
}

/// The search at work.
#[derive(Debug)]
pub(super) struct Search {
    rate: f64,
    good: f64,
    bad: Option<Bad>,
    /// What came through when nothing came through whole.
    carried: f64,
}

impl Default for Search {
    fn default() -> Self {
        Self { rate: RATE_FIRST, good: 0.0, bad: None, carried: 0.0 }
    }
}

/// Whether a trial deserves a second one: one hiccup of the machine is not the edge.
pub(super) fn is_hiccup(figures: &UdpFigures) -> bool {
    figures.loss() > TOLERANCE && figures.loss() < AGAIN
}

impl Search {
    /// The rate to try.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Takes what a trial at that rate showed. True when there is nothing left to try.
    pub(super) fn take(&mut self, figures: &UdpFigures) -> bool {
        let (rate, lost) = (self.rate, figures.loss() > TOLERANCE);
        self.carried = self.carried.max(figures.rate());
        if !lost {
            self.good = self.good.max(figures.offered().min(rate));
        }
        if (lost || figures.offered() < rate * KEEPS_UP) && self.bad.is_none_or(|bad| rate < bad.rate) {
            self.bad = Some(Bad { rate, lost });
        }
        self.rate = match self.bad {
            None => rate * 1.7,
            // Under a flood less arrives than could, so the edge is not far below what arrived.
            Some(bad) if self.good == 0.0 => (bad.rate / 2.0).min(figures.rate()),
            Some(bad) => (self.good + bad.rate) / 2.0,
        };
        self.is_close() || !(RATE_MIN..=RATE_MAX).contains(&self.rate)
    }

    fn is_close(&self) -> bool {
        self.bad.is_some_and(|bad| bad.rate - self.good < bad.rate * CLOSE)
    }

    /// What is known so far.
    pub(super) fn edge(&self) -> Edge {
        if self.good == 0.0 {
            return Edge { pps: self.carried / 2.0, kind: Kind::Guess };
        }
        let found = self.is_close() && self.bad.is_some_and(|bad| bad.lost);
        Edge { pps: self.good, kind: if found { Kind::Found } else { Kind::AtLeast } }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What a way that carries `edge` packets a second shows of a rate, from a sender that manages `sender` a second.
    fn at(rate: f64, edge: f64, sender: f64) -> UdpFigures {
        let sent = rate.min(sender);
        UdpFigures { sent: sent as u64, received: sent.min(edge) as u64, window: Duration::from_secs(1) }
    }

    fn run(edge: f64, sender: f64, trials: usize) -> Edge {
        let mut search = Search::default();
        for _ in 0..trials {
            if search.take(&at(search.rate(), edge, sender)) {
                break;
            }
        }
        search.edge()
    }

    #[test]
    fn an_edge_between_loss_and_none_is_found() {
        for edge in [1_000.0, 19_000.0, 70_000.0, 350_000.0] {
            let found = run(edge, 1e9, 40);
            assert_eq!(found.kind, Kind::Found, "{edge}: {found:?}");
            assert!(found.pps <= edge * 1.01 && found.pps > edge * 0.9, "{edge}: {found:?}");
        }
    }

    #[test]
    fn a_search_that_time_ends_says_at_least() {
        let early = run(350_000.0, 1e9, 3);
        assert_eq!(early, Edge { pps: 20_000.0 * 1.7 * 1.7, kind: Kind::AtLeast });
        // Between a loss and the edge, too.
        let closer = run(350_000.0, 1e9, 7);
        assert!(closer.kind == Kind::AtLeast && closer.pps < 350_000.0, "{closer:?}");
    }

    #[test]
    fn a_sender_that_cannot_send_more_says_at_least() {
        let own = run(350_000.0, 90_000.0, 40);
        assert!(own.kind == Kind::AtLeast && own.pps <= 90_000.0 && own.pps > 60_000.0, "{own:?}");
        let endless = run(1e9, 1e9, 40);
        assert!(endless.kind == Kind::AtLeast && endless.pps > RATE_MAX / 1.8, "{endless:?}");
    }

    #[test]
    fn nothing_that_arrives_whole_is_a_guess_or_none() {
        assert_eq!(run(10_000.0, 1e9, 1), Edge { pps: 5_000.0, kind: Kind::Guess });
        assert_eq!(run(0.0, 1e9, 40), Edge { pps: 0.0, kind: Kind::Guess });
    }
}
