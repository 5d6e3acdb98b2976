//! As a sender: the source ports in use towards one peer.
//!
//! Enters: the peer's packet rate, answers to probes, time. Leaves: probes to send, each from its port, and the
//! [`Spread`] by which lanes choose. Never does: use a port that the peer has not confirmed, or probe an idle link.
//!
//! 1. A link that becomes busy probes its main port and the first one beside it. A NAT or firewall at the other end
//!    that takes packets from known ports alone lets that one die: then nothing is changed, and it is tried again much later.
//! 2. When it is confirmed, the others are probed; each is used once it is confirmed itself.
//! 3. While the link is busy every port is probed every two seconds. A port that is not confirmed three times, or whose
//!    packets are lost much more often than those of the others, is given up for a while, and its flows take the rest.
//! 4. A link that is idle again, that moves, or whose peer forgot everything goes back to the main port.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::message::Seen;
use super::spread::{SlotCounts, Spread};

/// Packets per second sent from which a link is worth several ports.
const BUSY_RATE: u64 = 2000;
/// Below this rate a link is idle again...
const IDLE_RATE: u64 = 200;
/// ... after so long.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// Rates are measured over at least this time.
const RATE_OVER: Duration = Duration::from_millis(200);
/// Between two probes of a port that is confirmed.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How long a confirmation may take.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);
/// Probes in a row without an answer that end a port.
const TRIES: u32 = 3;
/// For how long a port that failed is left alone; doubled with each failure.
const BACK_OFF: Duration = Duration::from_secs(30);
/// Doublings at most: 32 minutes.
const BACK_OFF_DOUBLINGS: u32 = 6;
/// Loss is judged by so many packets at least.
const JUDGED_BY: u64 = 500;
/// Percent of packets that a port may lose beyond twice what the others lose.
const LOSS_PERCENT: u64 = 20;

/// A probe to send: from the port of this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) slot: u8,
    pub(crate) request: u32,
}

/// Packets of one port: what it sent, and what arrived.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    sent: u64,
    arrived: u64,
}

#[derive(Debug, Default)]
struct Port {
    /// The probe that waits for its confirmation.
    request: Option<u32>,
    tries: u32,
    due: Option<Instant>,
    proven: bool,
    failures: u32,
    /// Counts of both sides at the last confirmation, and what happened in the time before it.
    counted: Option<Tally>,
    lately: Tally,
    /// Whether it lost much more than the others at the last confirmation.
    lossy: bool,
}

impl Port {
    fn confirm(&mut self, seen: Seen, sent: u64) {
        let now = Tally { sent, arrived: seen.packets };
        if let Some(then) = self.counted
            && let (Some(sent), Some(arrived)) =
                (now.sent.checked_sub(then.sent), now.arrived.checked_sub(then.arrived))
        {
            // What is sent between the probe and its answer is at neither end counted alike.
            self.lately = Tally { sent, arrived: arrived.min(sent) };
        }
        self.counted = Some(now);
        (self.request, self.tries, self.proven) = (None, 0, true);
    }
}

/// How often ports came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PortEvents {
    pub(crate) proven: u64,
    pub(crate) lost: u64,
}

/// The source ports towards one peer.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    /// By place, the main one first; none while only that is used.
    ports: Vec<Port>,
    /// Not tried before this time, as the last attempt failed so often in a row.
    off: Option<(Instant, u32)>,
    /// The count of packets sent, when it was last looked at.
    measured: Option<(Instant, u64)>,
    /// When the link was last not idle.
    busy: Option<Instant>,
    /// When a port last came into use or was given up.
    changed: Option<Instant>,
    /// Counts, from the first attempt on.
    sent: Option<SlotCounts>,
    pub(crate) events: PortEvents,
}

impl Ports {
    /// The link sent `packets` so far: begins when it has become busy. `beside`: ports beside the main one that both sides
    /// agreed to. True when probes are due.
    pub(crate) fn measure(&mut self, now: Instant, packets: u64, beside: u8) -> bool {
        let Some((then, before)) = self.measured else {
            self.measured = Some((now, packets));
            return false;
        };
        let elapsed = now.saturating_duration_since(then);
        if elapsed < RATE_OVER {
            return false;
        }
        self.measured = Some((now, packets));
        let rate = u128::from(packets.saturating_sub(before)) * 1000 / elapsed.as_millis().max(1);
        if rate >= u128::from(IDLE_RATE) {
            self.busy = Some(now);
        }
        let allowed = self.off.is_none_or(|(until, _)| until <= now);
        if rate < u128::from(BUSY_RATE) || beside == 0 || !allowed || !self.ports.is_empty() {
            return false;
        }
        self.sent.get_or_insert_default();
        self.ports = (0..=beside).map(|_| Port::default()).collect();
        for port in &mut self.ports[..2] {
            port.due = Some(now);
        }
        true
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.ports.iter().filter_map(|port| port.due).min()
    }

    /// Does what is due: fills `probes`, with request numbers that `draw` makes. True when other ports are in use than
    /// before.
    pub(crate) fn run(&mut self, now: Instant, mut draw: impl FnMut() -> u32, probes: &mut Vec<Probe>) -> bool {
        if self.ports.is_empty() {
            return false;
        }
        if self.busy.is_none_or(|busy| now.saturating_duration_since(busy) >= IDLE_AFTER) {
            return self.stop();
        }
        let mut changed = false;
        for slot in 0..self.ports.len() {
            let port = &mut self.ports[slot];
            if port.due.is_none_or(|due| due > now) {
                continue;
            }
            if port.tries >= TRIES {
                changed |= self.give_up(now, slot);
                if self.ports.is_empty() {
                    return changed;
                }
                continue;
            }
            // An answer to an earlier try confirms as well.
            let request = *port.request.get_or_insert_with(&mut draw);
            port.tries += 1;
            port.due = Some(now + CONFIRM_WITHIN);
            probes.push(Probe { slot: slot as u8, request });
        }
        changed
    }

    /// A probe was answered. `None`: it answers nothing. True when other ports are in use than before.
    pub(crate) fn confirm(&mut self, now: Instant, request: u32, seen: Seen) -> Option<bool> {
        let slot = usize::from(seen.slot);
        let sent = self.sent.as_ref()?.get(slot)?.load(Ordering::Relaxed);
        let port = self.ports.get_mut(slot).filter(|port| port.request == Some(request))?;
        let is_news = slot > 0 && !port.proven;
        port.confirm(seen, sent);
        port.due = Some(now + RENEW_EVERY);
        if is_news {
            self.events.proven += 1;
            (self.off, self.changed) = (None, Some(now));
            for other in self.ports.iter_mut().filter(|port| port.due.is_none()) {
                other.due = Some(now);
            }
            return Some(true);
        }
        // Once may be a moment in which the peer had not learned of a move.
        let lossy = slot > 0 && self.loses_more_than_others(slot);
        let lossy_again = std::mem::replace(&mut self.ports[slot].lossy, lossy) && lossy;
        Some(lossy_again && self.give_up(now, slot))
    }

    fn loses_more_than_others(&self, slot: usize) -> bool {
        let here = self.ports[slot].lately;
        let others = self.ports.iter().enumerate().filter(|(other, port)| *other != slot && port.proven);
        let there = others.fold(Tally::default(), |sum, (_, port)| Tally {
            sent: sum.sent + port.lately.sent,
            arrived: sum.arrived + port.lately.arrived,
        });
        let percent = |tally: Tally| (tally.sent - tally.arrived) * 100 / tally.sent.max(1);
        here.sent >= JUDGED_BY && percent(here) > 2 * percent(there) + LOSS_PERCENT
    }

    /// Leaves a port alone for a while. True when other ports are in use than before.
    fn give_up(&mut self, now: Instant, slot: usize) -> bool {
        let port = &mut self.ports[slot];
        (port.request, port.tries) = (None, 0);
        if slot == 0 {
            // Without it there is no link at all: that is the session's concern.
            port.due = Some(now + RENEW_EVERY);
            return false;
        }
        let was_proven = port.proven;
        if was_proven {
            self.changed = Some(now);
        }
        self.events.lost += 1;
        let failures = port.failures + 1;
        *port = Port { due: Some(now + back_off(failures)), failures, ..Port::default() };
        let hope = |port: &Port| port.proven || port.request.is_some();
        if !self.ports.iter().skip(1).any(hope) {
            let failures = self.off.map_or(0, |(_, failures)| failures) + 1;
            self.off = Some((now + back_off(failures), failures));
            self.ports.clear();
        }
        was_proven
    }

    /// Every port is probed at once, or where only the main one is used, that one.
    pub(crate) fn probe_all(&mut self, now: Instant) {
        for port in self.ports.iter_mut().filter(|port| port.due.is_some() && (port.failures == 0 || port.proven)) {
            port.due = Some(now);
        }
    }

    /// Back to the main port. True when others were in use.
    pub(crate) fn stop(&mut self) -> bool {
        let spread = self.in_use() > 0;
        self.ports.clear();
        spread
    }

    /// Back to the main port, on another way, of which nothing is known. True when others were in use.
    pub(crate) fn restart(&mut self) -> bool {
        self.off = None;
        self.stop()
    }

    /// Ports in use beside the main one.
    pub(crate) fn in_use(&self) -> usize {
        self.ports.iter().skip(1).filter(|port| port.proven).count()
    }

    /// Whether no port beside the main one got through when they were last tried.
    pub(crate) const fn is_refused(&self) -> bool {
        self.off.is_some()
    }

    /// For the lanes.
    pub(crate) fn spread(&self) -> Option<Arc<Spread>> {
        let (sent, since) = (self.sent.as_ref()?, self.changed?);
        let proven = self.ports.iter().enumerate().skip(1).filter(|(_, port)| port.proven);
        let beside: Vec<u8> = proven.map(|(slot, _)| slot as u8).collect();
        (!beside.is_empty()).then(|| Arc::new(Spread::new(&beside, since, Arc::clone(sent))))
    }
}

fn back_off(failures: u32) -> Duration {
    BACK_OFF * (1 << failures.saturating_sub(1).min(BACK_OFF_DOUBLINGS))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn seen(slot: u8, packets: u64) -> Seen {
        Seen { slot, observed: HERE, packets }
    }

    struct Lab {
        ports: Ports,
        now: Instant,
        packets: u64,
        drawn: u32,
    }

    impl Lab {
        fn new() -> Self {
            let mut lab = Self { ports: Ports::default(), now: Instant::now(), packets: 0, drawn: 0 };
            lab.ports.measure(lab.now, 0, 4);
            lab
        }

        /// A quarter of a second at this rate, after which it answers the probes of these places; returns those probed.
        fn quarter(&mut self, rate: u64, answered: &[u8], packets: impl Fn(u8) -> u64) -> Vec<u8> {
            self.now += Duration::from_millis(250);
            self.packets += rate / 4;
            self.ports.measure(self.now, self.packets, 4);
            let mut probes = Vec::new();
            let drawn = &mut self.drawn;
            self.ports.run(
                self.now,
                || {
                    *drawn += 1;
                    *drawn
                },
                &mut probes,
            );
            for probe in probes.iter().filter(|probe| answered.contains(&probe.slot)) {
                self.ports.confirm(self.now, probe.request, seen(probe.slot, packets(probe.slot)));
            }
            probes.iter().map(|probe| probe.slot).collect()
        }

        fn slots(&self) -> Vec<u8> {
            self.ports.spread().map(|spread| spread.slots()).unwrap_or_default()
        }
    }

    #[test]
    fn a_busy_link_tries_one_port_and_then_the_others() {
        let mut lab = Lab::new();
        assert!(lab.quarter(BUSY_RATE - 100, &[0, 1, 2, 3, 4], |_| 0).is_empty());
        assert_eq!(lab.quarter(BUSY_RATE, &[0, 1, 2, 3, 4], |_| 0), [0, 1]);
        assert_eq!(lab.slots(), [0, 1]);
        assert_eq!(lab.quarter(BUSY_RATE, &[0, 1, 2, 4], |_| 0), [2, 3, 4]);
        assert_eq!(lab.slots(), [0, 1, 2, 4]);
        for _ in 0..20 {
            lab.quarter(BUSY_RATE, &[0, 1, 2, 4], |_| 0);
        }
        assert_eq!(lab.slots(), [0, 1, 2, 4]);
        assert_eq!(lab.ports.events, PortEvents { proven: 3, lost: 1 });
    }

    #[test]
    fn where_no_port_gets_through_only_one_is_tried_and_ever_more_seldom() {
        let mut lab = Lab::new();
        let mut tried = 0;
        for _ in 0..4 * 3600 {
            let probed = lab.quarter(BUSY_RATE, &[0], |_| 0);
            assert!(probed.iter().all(|slot| *slot <= 1));
            tried += probed.iter().filter(|slot| **slot == 1).count();
            assert!(lab.slots().is_empty());
        }
        // 0, 30, 90, 210, 450, 930, 1890 seconds and so on.
        assert_eq!(tried, 7 * TRIES as usize);
    }

    #[test]
    fn a_port_that_is_not_confirmed_any_more_is_left_within_seconds() {
        let mut lab = Lab::new();
        for _ in 0..8 {
            lab.quarter(BUSY_RATE, &[0, 1, 2, 3, 4], |_| 0);
        }
        assert_eq!(lab.slots(), [0, 1, 2, 3, 4]);
        for _ in 0..16 {
            lab.quarter(BUSY_RATE, &[0, 1, 2, 4], |_| 0);
        }
        assert_eq!(lab.slots(), [0, 1, 2, 4]);
    }

    #[test]
    fn a_port_whose_packets_are_lost_is_given_up_and_common_loss_is_no_reason() {
        for (lost_by_all, given_up) in [(0, true), (15, true), (60, false)] {
            let mut lab = Lab::new();
            for round in 1..60_u64 {
                if let Some(spread) = lab.ports.spread() {
                    for slot in spread.slots() {
                        spread.note_sent(slot, 1000);
                    }
                }
                let arrives = move |slot| round * 10 * if slot == 3 { 30 } else { 100 - lost_by_all };
                lab.quarter(BUSY_RATE, &[0, 1, 2, 3, 4], arrives);
            }
            assert_eq!(!lab.slots().contains(&3), given_up, "{lost_by_all} % lost by all");
            assert!([0, 1, 2, 4].iter().all(|slot| lab.slots().contains(slot)));
        }
    }

    #[test]
    fn an_idle_link_goes_back_to_its_main_port_and_probes_no_more() {
        let mut lab = Lab::new();
        for _ in 0..8 {
            lab.quarter(BUSY_RATE, &[0, 1, 2, 3, 4], |_| 0);
        }
        for _ in 0..60 {
            lab.quarter(0, &[0, 1, 2, 3, 4], |_| 0);
        }
        assert!(lab.slots().is_empty() && lab.ports.due().is_none());
    }

    #[test]
    fn an_answer_to_nothing_proves_nothing() {
        let mut lab = Lab::new();
        assert_eq!(lab.ports.confirm(lab.now, 1, seen(1, 0)), None);
        lab.quarter(BUSY_RATE, &[], |_| 0);
        assert_eq!(lab.ports.confirm(lab.now, 99, seen(1, 0)), None);
        assert_eq!(lab.ports.confirm(lab.now, 2, seen(9, 0)), None);
        assert_eq!(lab.ports.confirm(lab.now, 1, seen(1, 0)), None, "the request of another port");
        assert!(lab.slots().is_empty());
        assert_eq!(lab.ports.confirm(lab.now, 2, seen(1, 0)), Some(true));
    }
}
