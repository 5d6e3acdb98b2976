//! Host names of endpoints and servers, resolved beside the control task.
//!
//! Enters: who wants a host name (a peer, a server), and the name. Leaves: its addresses, later. Never does: hold up the
//! control task; the system's resolver may take half a minute, so each name gets a thread, of which there are few at once.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::settings::EndpointName;

/// Names resolved at the same time.
const AT_ONCE: usize = 4;
/// First wait after a failure; doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait after a failure, and shortest between two successes.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A peer that fell silent is asked for again not sooner than this.
const AGAIN: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug)]
pub struct Resolved<K> {
    /// Who wanted it.
    pub who: K,
    /// Its addresses; empty when the name could not be resolved.
    pub addresses: Vec<SocketAddr>,
}

/// Names that wait, and those under way.
#[derive(Debug)]
pub struct Names<K> {
    waiting: BTreeMap<K, Waiting>,
    running: usize,
    answers: mpsc::Sender<Resolved<K>>,
}

#[derive(Debug)]
struct Waiting {
    host: EndpointName,
    due: Instant,
    wait: Duration,
    running: bool,
    /// Resolved: kept so that it is not asked for again too soon.
    done: bool,
}

impl<K: Ord + Copy + Send + 'static> Names<K> {
    /// Nothing to resolve; the receiver gets the answers.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Resolved<K>>) {
        let (answers, receiver) = mpsc::channel(AT_ONCE);
        (Self { waiting: BTreeMap::new(), running: 0, answers }, receiver)
    }

    /// Wants a peer's name resolved, unless that was done a moment ago.
    pub fn want(&mut self, who: K, host: EndpointName, now: Instant) {
        let entry = self.waiting.entry(who).or_insert(Waiting {
            host: host.clone(),
            due: now,
            wait: WAIT_MIN,
            running: false,
            done: false,
        });
        if entry.host != host {
            *entry = Waiting { host, due: now, wait: WAIT_MIN, running: entry.running, done: false };
        } else if entry.done && entry.due <= now {
            entry.done = false;
        }
    }

    /// Starts what is due. Returns when to call again.
    pub fn run(&mut self, now: Instant) -> Option<Instant> {
        for (who, entry) in &mut self.waiting {
            if self.running == AT_ONCE {
                break;
            }
            if !entry.running
                && !entry.done
                && entry.due <= now
                && start(*who, entry.host.clone(), self.answers.clone())
            {
                entry.running = true;
                self.running += 1;
            }
        }
        // With all threads busy an answer is what wakes us.
        (self.running < AT_ONCE)
            .then(|| self.waiting.values().filter(|entry| !entry.running && !entry.done).map(|entry| entry.due).min())
            .flatten()
            .map(|due| due.max(now + Duration::from_millis(10)))
    }

    /// Takes note of an answer. A failure is tried again, later and later.
    pub fn note(&mut self, resolved: &Resolved<K>, now: Instant) {
        self.running = self.running.saturating_sub(1);
        let Some(entry) = self.waiting.get_mut(&resolved.who) else { return };
        entry.running = false;
        if resolved.addresses.is_empty() {
            tracing::warn!(host = entry.host.host, retry_seconds = entry.wait.as_secs(), "a name cannot be resolved");
            entry.due = now + entry.wait;
            entry.wait = (entry.wait * 2).min(WAIT_MAX);
        } else {
            entry.due = now + AGAIN;
            entry.wait = WAIT_MIN;
            entry.done = true;
        }
    }

    /// Forgets peers that are gone.
    pub fn retain(&mut self, keep: impl Fn(K) -> bool) {
        self.waiting.retain(|who, _| keep(*who));
    }
}

fn start<K: Send + 'static>(who: K, host: EndpointName, answers: mpsc::Sender<Resolved<K>>) -> bool {
    std::thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(move || {
            let addresses =
                (host.host.as_str(), host.port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
            // The gateway may have ended in the meantime.
            let _ = answers.blocking_send(Resolved { who, addresses });
        })
        .is_ok()
}

/// Which of a name's addresses to try: the one after the present one, so that a dead address is left.
#[must_use]
pub fn choose(
    addresses: &[SocketAddr],
    present: Option<SocketAddr>,
    usable: impl Fn(SocketAddr) -> bool,
) -> Option<SocketAddr> {
    let usable: Vec<_> = addresses.iter().copied().filter(|address| usable(*address)).collect();
    let after =
        present.and_then(|present| usable.iter().position(|address| *address == present)).map_or(0, |at| at + 1);
    usable.get(after).or_else(|| usable.first()).or_else(|| addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use landbridge_proto::PeerId;

    use super::*;

    fn addresses() -> Vec<SocketAddr> {
        ["[2001:db8::1]:5", "192.0.2.1:5", "192.0.2.2:5"].map(|text| text.parse().expect("an address")).to_vec()
    }

    #[test]
    fn a_silent_address_is_followed_by_the_next_usable_one() {
        let all = addresses();
        assert_eq!(choose(&all, None, |_| true), Some(all[0]));
        assert_eq!(choose(&all, Some(all[1]), |_| true), Some(all[2]));
        assert_eq!(choose(&all, Some(all[2]), |_| true), Some(all[0]));
        assert_eq!(choose(&all, None, |address| address.is_ipv4()), Some(all[1]));
        assert_eq!(choose(&all, None, |_| false), Some(all[0]));
        assert_eq!(choose(&[], None, |_| true), None);
    }

    #[test]
    fn a_failure_is_tried_again_later_and_later() {
        let (mut names, _answers) = Names::new();
        let peer = PeerId { slot: 0, generation: 0 };
        let host = EndpointName { host: "no.invalid".to_owned(), port: 1 };
        let now = Instant::now();
        names.want(peer, host, now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let entry = names.waiting.get_mut(&peer).expect("it waits");
            entry.running = true;
            names.running = 1;
            names.note(&Resolved { who: peer, addresses: Vec::new() }, now);
            waits.push((names.waiting[&peer].due - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
