//! Questions to STUN servers, sans-IO.
//!
//! Enters: [`Query`]s, datagrams that look like STUN, the time. Leaves: requests to send, one [`Outcome`] for each query.
//! Never does: believe an answer to a transaction that is not under way, or from another place than was asked: such
//! datagrams change nothing and have a [`DropReason`].
//!
//! Call [`Client::poll_transmit`] after `ask` and `handle_timeout`, [`Client::poll_outcome`] after `handle_datagram` and
//! `handle_timeout`, [`Client::poll_timeout`] after all of them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landbridge_proto::DropReason;

use super::message::{self, Answer, Change};

/// Questions under way at most.
pub const PENDING_MAX: usize = 64;

/// When a request is repeated, RFC 8489 section 6.2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first wait; each one after it is twice as long.
    pub rto: Duration,
    /// Requests sent at most (`Rc`).
    pub sends: u32,
    /// After the last of them the answer is waited for so many times the first wait (`Rm`).
    pub last: u32,
}

impl Retry {
    /// As the RFC has it: given up after 39.5 s.
    pub const STANDARD: Self = Self { rto: Duration::from_millis(500), sends: 7, last: 16 };
    /// Where silence is an answer too: given up after 2.5 s.
    pub const SHORT: Self = Self { rto: Duration::from_millis(500), sends: 3, last: 2 };
    /// One request, and a second for its answer.
    pub const ONCE: Self = Self { rto: Duration::from_secs(1), sends: 1, last: 1 };
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// What it is about; the asker's own.
    pub tag: u32,
    /// The server.
    pub server: SocketAddr,
    /// Where the answer must come from; the server itself unless it is asked to answer from elsewhere.
    pub answered_from: SocketAddr,
    /// From which of our sockets.
    pub socket: u8,
    /// From which of our addresses; `None` lets the kernel choose.
    pub local: Option<IpAddr>,
    /// From where the server is to answer.
    pub change: Change,
    /// Bytes of the request's UDP payload; 0 for as few as it needs.
    pub size: usize,
    /// The server is ourselves, seen from outside: the request itself is to arrive, at another socket of ours.
    pub hairpin: bool,
    /// When to repeat it.
    pub retry: Retry,
}

impl Query {
    /// A plain question to a server.
    #[must_use]
    pub const fn new(tag: u32, server: SocketAddr, socket: u8) -> Self {
        Self {
            tag,
            server,
            answered_from: server,
            socket,
            local: None,
            change: Change::Nothing,
            size: 0,
            hairpin: false,
            retry: Retry::STANDARD,
        }
    }
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The question.
    pub query: Query,
    /// The answer; `None` for silence.
    pub answer: Option<Answer>,
    /// The address of ours that the answer came to.
    pub local: Option<IpAddr>,
    /// The round trip, where the request was not repeated, so that it is known which one was answered.
    pub rtt: Option<Duration>,
}

/// Questions under way.
#[derive(Debug, Default)]
pub struct Client {
    pending: Vec<Pending>,
    outcomes: VecDeque<Outcome>,
}

#[derive(Debug)]
struct Pending {
    query: Query,
    transaction: [u8; 12],
    sent: u32,
    sent_at: Instant,
    /// When to send again, or to give up.
    due: Instant,
    /// To be sent.
    ready: bool,
}

impl Client {
    /// Asks. False when too many questions are under way.
    pub fn ask(&mut self, query: Query, now: Instant) -> bool {
        if self.pending.len() >= PENDING_MAX {
            return false;
        }
        let transaction = rand::random();
        self.pending.push(Pending { query, transaction, sent: 0, sent_at: now, due: now, ready: true });
        true
    }

    /// Gives up questions without an outcome.
    pub fn forget(&mut self, which: impl Fn(&Query) -> bool) {
        self.pending.retain(|pending| !which(&pending.query));
        self.outcomes.retain(|outcome| !which(&outcome.query));
    }

    /// Whether a question like this is under way.
    #[must_use]
    pub fn has(&self, which: impl Fn(&Query) -> bool) -> bool {
        self.pending.iter().any(|pending| which(&pending.query))
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// When to call [`Client::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.due).min()
    }

    /// Repeats or gives up what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let outcomes = &mut self.outcomes;
        self.pending.retain_mut(|pending| {
            if pending.due > now {
                return true;
            }
            if pending.sent >= pending.query.retry.sends {
                outcomes.push_back(Outcome { query: pending.query, answer: None, local: None, rtt: None });
                return false;
            }
            pending.ready = true;
            true
        });
    }

    /// Writes the next request into a buffer of [`message::REQUEST_MAX`] bytes: its length, and where to send it.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut [u8]) -> Option<(usize, Query)> {
        let pending = self.pending.iter_mut().find(|pending| pending.ready)?;
        let retry = pending.query.retry;
        pending.ready = false;
        pending.sent += 1;
        pending.sent_at = now;
        let wait = if pending.sent >= retry.sends { retry.last } else { 1 << (pending.sent - 1).min(16) };
        pending.due = now + retry.rto * wait;
        let length = message::write_request(pending.transaction, pending.query.change, pending.query.size, buffer);
        Some((length, pending.query))
    }

    /// Takes a datagram that [`message::is_stun`].
    ///
    /// # Errors
    /// The reason for which it was dropped.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: u8,
        remote: SocketAddr,
        local: Option<IpAddr>,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let transaction = message::transaction(bytes).ok_or(DropReason::Truncated)?;
        let known = |pending: &Pending| pending.transaction == transaction && pending.sent > 0;
        let at = self.pending.iter().position(known).ok_or(DropReason::StunUnexpected)?;
        let query = self.pending[at].query;
        let answer = if message::is_request(bytes) {
            // Only our own, come back by the NAT's outer address to the socket that has it.
            if !query.hairpin || socket == query.socket {
                return Err(DropReason::StunUnexpected);
            }
            Answer::Mapped { mapped: remote, other: None }
        } else {
            if query.hairpin || socket != query.socket || remote != query.answered_from {
                return Err(DropReason::StunUnexpected);
            }
            message::read_answer(bytes)?
        };
        let pending = self.pending.swap_remove(at);
        let rtt = (pending.sent == 1).then(|| now.saturating_duration_since(pending.sent_at));
        self.outcomes.push_back(Outcome { query, answer: Some(answer), local, rtt });
        Ok(())
    }

    /// The next question that is done with.
    pub fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::stun::message::REQUEST_MAX;

    fn place(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// A server's answer to a request: that it came from 192.0.2.99:7.
    fn answer(request: &[u8]) -> Vec<u8> {
        let mut answer = vec![1, 1, 0, 12];
        answer.extend_from_slice(&request[4..20]);
        answer.extend_from_slice(&[0, 1, 0, 8, 0, 1, 0, 7, 192, 0, 2, 99]);
        answer
    }

    fn asked(client: &mut Client, now: Instant) -> Vec<u8> {
        let mut buffer = [0; REQUEST_MAX];
        let (length, _) = client.poll_transmit(now, &mut buffer).expect("a request");
        buffer[..length].to_vec()
    }

    #[test]
    fn a_request_is_repeated_as_the_rfc_says_and_then_given_up() {
        let (mut client, start) = (Client::default(), Instant::now());
        assert!(client.ask(Query::new(1, place("192.0.2.1:3478"), 0), start));
        let mut sent = Vec::new();
        let mut buffer = [0; REQUEST_MAX];
        let mut now = start;
        let mut first = None;
        while client.poll_outcome().is_none() {
            while let Some((length, _)) = client.poll_transmit(now, &mut buffer) {
                assert_eq!(*first.get_or_insert(buffer[..length].to_vec()), buffer[..length], "the same transaction");
                sent.push((now - start).as_millis());
            }
            if let Some(due) = client.poll_timeout() {
                now = due;
                client.handle_timeout(now);
            }
        }
        assert_eq!(sent, [0, 500, 1500, 3500, 7500, 15500, 31500]);
        assert_eq!((now - start).as_millis(), 39500);
        assert!(client.is_idle());
    }

    #[test]
    fn only_the_server_that_was_asked_can_answer_and_only_once() {
        let (mut client, now) = (Client::default(), Instant::now());
        let server = place("192.0.2.1:3478");
        client.ask(Query::new(9, server, 0), now);
        let request = asked(&mut client, now);
        let good = answer(&request);
        let mut forged = good.clone();
        forged[19] ^= 1;
        let unexpected = Err(DropReason::StunUnexpected);
        for (socket, remote, bytes) in [
            (0, server, &forged),
            (0, place("192.0.2.1:3479"), &good),
            (0, place("192.0.2.2:3478"), &good),
            (1, server, &good),
            (1, place("192.0.2.99:7"), &request),
        ] {
            assert_eq!(client.handle_datagram(now, socket, remote, None, bytes), unexpected);
        }
        assert_eq!(client.handle_datagram(now, 0, server, None, &good[..28]), Err(DropReason::Malformed));
        assert!(client.poll_outcome().is_none(), "nothing of that changed anything");
        let later = now + Duration::from_millis(30);
        assert_eq!(client.handle_datagram(later, 0, server, None, &good), Ok(()));
        let outcome = client.poll_outcome().expect("an outcome");
        assert_eq!(outcome.answer, Some(Answer::Mapped { mapped: place("192.0.2.99:7"), other: None }));
        assert_eq!((outcome.query.tag, outcome.rtt), (9, Some(Duration::from_millis(30))));
        assert_eq!(client.handle_datagram(later, 0, server, None, &good), unexpected, "a stale answer");
    }

    #[test]
    fn an_answer_to_a_repeated_request_has_no_round_trip() {
        let (mut client, now) = (Client::default(), Instant::now());
        let server = place("192.0.2.1:3478");
        client.ask(Query::new(0, server, 0), now);
        asked(&mut client, now);
        client.handle_timeout(now + Duration::from_millis(500));
        let request = asked(&mut client, now + Duration::from_millis(500));
        let result = client.handle_datagram(now + Duration::from_millis(510), 0, server, None, &answer(&request));
        assert_eq!((result, client.poll_outcome().and_then(|outcome| outcome.rtt)), (Ok(()), None));
    }

    #[test]
    fn our_own_request_proves_hairpinning_at_the_other_socket_alone() {
        let (mut client, now) = (Client::default(), Instant::now());
        let outside = place("198.51.100.1:40000");
        client.ask(Query { hairpin: true, ..Query::new(3, outside, 1) }, now);
        let request = asked(&mut client, now);
        let seen = place("198.51.100.1:40001");
        assert_eq!(client.handle_datagram(now, 1, seen, None, &request), Err(DropReason::StunUnexpected));
        assert_eq!(client.handle_datagram(now, 0, outside, None, &answer(&request)), Err(DropReason::StunUnexpected));
        assert_eq!(client.handle_datagram(now, 0, seen, None, &request), Ok(()));
        assert_eq!(client.poll_outcome().map(|outcome| outcome.query.tag), Some(3));
    }

    #[test]
    fn questions_are_bounded_and_can_be_forgotten() {
        let (mut client, now) = (Client::default(), Instant::now());
        let asked = (0..100).filter(|tag| client.ask(Query::new(*tag, place("192.0.2.1:1"), 0), now)).count();
        assert_eq!(asked, PENDING_MAX);
        client.forget(|query| query.tag > 3);
        assert_eq!(std::iter::from_fn(|| client.poll_transmit(now, &mut [0; REQUEST_MAX])).count(), 4);
    }
}
