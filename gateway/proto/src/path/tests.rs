//! The path manager alone, in virtual time: a peer that answers by some pairs of places and not by others.

mod watch;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::DropReason;
use crate::candidate::Nat;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn place(text: &str) -> SocketAddr {
    text.parse().expect("a place")
}

fn candidate(kind: CandidateKind, text: &str) -> Candidate {
    Candidate { kind, address: place(text) }
}

const HERE: &str = "198.51.100.1:51820";
const THERE: &str = "198.51.100.2:51820";
const MAPPED: &str = "198.51.100.3:40000";
const RELAY: &str = "192.0.2.1:51900";

/// A peer, the network before it, and traffic both ways.
struct Lab {
    paths: Paths,
    now: Instant,
    /// Round trips of the pairs that lead to the peer.
    leads: BTreeMap<(SocketAddr, Option<IpAddr>), Duration>,
    answers: BTreeMap<(Instant, u32), Probe>,
    /// Probes sent, with times.
    sent: Vec<(Instant, Probe)>,
    drawn: u32,
    /// Whether data is sent, and whether any comes back by the path in use.
    traffic: bool,
    returns: bool,
    /// Of so many probes the last one is lost.
    loses: usize,
    counts: [u64; SPREAD_SLOTS + PLACES],
    /// Changes of the path in use.
    moves: Vec<(Duration, SocketAddr, PathReason)>,
    start: Instant,
}

impl Lab {
    fn new(direct: bool) -> Self {
        let start = Instant::now();
        let terms = Terms { direct, mtu_max: 1500, locals: Vec::new() };
        Self {
            paths: Paths::new(terms),
            now: start,
            leads: BTreeMap::new(),
            answers: BTreeMap::new(),
            sent: Vec::new(),
            drawn: 0,
            traffic: true,
            returns: true,
            loses: usize::MAX,
            counts: [0; SPREAD_SLOTS + PLACES],
            moves: Vec::new(),
            start,
        }
    }

    /// Reached over a relay, with these candidates beside it.
    fn relayed(kinds: &[(CandidateKind, &str)]) -> Self {
        let mut lab = Self::new(true);
        lab.lead(RELAY, 60);
        lab.paths.set_named(vec![candidate(CandidateKind::Relayed, RELAY)]);
        lab.paths.moved(lab.now, place(RELAY), None, CandidateKind::PeerReflexive, PathReason::Handshake);
        lab.tell(1, kinds);
        lab
    }

    fn tell(&mut self, generation: u32, kinds: &[(CandidateKind, &str)]) -> bool {
        let list: Vec<_> = kinds.iter().map(|(kind, text)| candidate(*kind, text)).collect();
        self.paths.hear_candidates(self.now, generation, Candidates::new(Nat::default(), &list))
    }

    fn lead(&mut self, remote: &str, rtt_ms: u64) {
        self.leads.insert((place(remote), None), ms(rtt_ms));
    }

    fn block(&mut self, remote: &str) {
        self.leads.retain(|(at, _), _| *at != place(remote));
    }

    fn settle(&mut self) {
        while let Some(switch) = self.paths.choose(self.now) {
            self.moves.push((self.now - self.start, switch.remote, switch.reason));
            let moved =
                self.paths.moved(self.now, switch.remote, switch.local, CandidateKind::PeerReflexive, switch.reason);
            assert!(moved, "a choice is another pair");
        }
        let _ = self.paths.places();
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        let mut tick = self.now;
        self.settle();
        while self.now < end {
            let due = self.paths.due().map(|due| due.max(self.now + ms(1)));
            let answer = self.answers.keys().next().map(|(at, _)| *at);
            self.now = [due, answer, Some(tick), Some(end)].into_iter().flatten().min().expect("the end").max(self.now);
            if self.now >= tick {
                tick += ms(100);
                self.see_traffic();
            } else if self.paths.look_due().is_some_and(|due| due <= self.now) {
                self.see_traffic();
            }
            while let Some(entry) = self.answers.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let probe = entry.remove();
                let _ = self.paths.answered(self.now, probe.request, probe.remote, probe.local);
            }
            let (mut probes, drawn) = (Vec::new(), &mut self.drawn);
            self.paths.run(
                self.now,
                || {
                    *drawn += 1;
                    *drawn
                },
                &mut probes,
            );
            for probe in probes {
                self.sent.push((self.now, probe));
                let is_lost = self.sent.len().is_multiple_of(self.loses);
                if let Some(rtt) = self.leads.get(&(probe.remote, probe.local)).filter(|_| !is_lost) {
                    self.answers.insert((self.now + *rtt, probe.request), probe);
                }
            }
            self.settle();
        }
    }

    fn see_traffic(&mut self) {
        let sent = self.traffic.then_some(self.now);
        let delivers = self.paths.in_use.is_some_and(|at| self.leads.contains_key(&at));
        if self.traffic && delivers && self.returns {
            self.counts[0] += 10;
        }
        let heard = sent.filter(|_| delivers && self.returns);
        let counts = self.counts;
        self.paths.traffic(self.now, sent, heard, |place| counts[place]);
    }

    fn tier(&self) -> Option<Tier> {
        self.paths.in_use().filter(|path| path.proven).map(|path| path.tier)
    }

    fn sent_to(&self, remote: &str, since: Instant) -> usize {
        self.sent.iter().filter(|(at, probe)| *at >= since && probe.remote == place(remote)).count()
    }
}

#[test]
fn the_best_tier_is_taken_as_soon_as_it_is_proven_whatever_its_round_trip() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE), (CandidateKind::Mapped, MAPPED)]);
    lab.run_for(ms(150));
    assert_eq!(lab.tier(), Some(Tier::Relayed));
    lab.lead(MAPPED, 5);
    lab.run_for(ms(400));
    assert_eq!(lab.tier(), Some(Tier::Mapped));
    lab.lead(THERE, 90);
    lab.run_for(ms(1500));
    assert_eq!(lab.tier(), Some(Tier::Direct));
    assert!(lab.moves.iter().all(|(.., reason)| *reason == PathReason::BetterTier), "{:?}", lab.moves);
    let view = lab.paths.view();
    assert_eq!((view.paths.len(), view.candidates.len()), (3, 3));
    assert!(view.candidates.iter().all(|candidate| candidate.state == CandidateState::Proven));
}

#[test]
fn within_a_tier_only_a_clearly_faster_path_is_taken_and_none_to_and_fro() {
    for (rtt_ms, taken) in [(20, true), (31, true), (33, false), (39, false), (41, false)] {
        let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE), (CandidateKind::Stun, HERE)]);
        lab.lead(THERE, 40);
        lab.run_for(ms(3000));
        assert_eq!(lab.paths.in_use().map(|path| path.remote), Some(place(THERE)));
        lab.lead(HERE, rtt_ms);
        // Its first checks were in vain, and nothing is known to be gained by another: the peer is heard from there.
        lab.paths.arrived(lab.now, place(HERE), None, Via::Probe);
        lab.run_for(Duration::from_secs(120));
        assert_eq!(lab.paths.in_use().map(|path| path.remote == place(HERE)), Some(taken), "{rtt_ms} ms");
        assert!(lab.moves.len() <= 3, "{:?}", lab.moves);
    }
    // Two milliseconds are nothing to move for.
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE), (CandidateKind::Stun, HERE)]);
    lab.lead(THERE, 3);
    lab.run_for(ms(3000));
    lab.lead(HERE, 2);
    lab.paths.arrived(lab.now, place(HERE), None, Via::Probe);
    lab.run_for(Duration::from_secs(120));
    assert_eq!(lab.paths.in_use().map(|path| path.remote), Some(place(THERE)));
}

#[test]
fn a_path_that_comes_and_goes_is_returned_to_ever_more_seldom() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    for second in 0..600 {
        if second % 8 < 4 {
            lab.lead(THERE, 20)
        } else {
            lab.block(THERE)
        }
        lab.run_for(Duration::from_secs(1));
    }
    let later = lab.moves.iter().filter(|(at, ..)| *at > Duration::from_secs(300)).count();
    assert!(later <= 20, "{later} moves in five minutes");
    assert!(lab.moves.len() > later);
}

#[test]
fn an_idle_link_sends_nothing_once_its_candidates_are_checked() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE), (CandidateKind::Stun, HERE)]);
    lab.lead(THERE, 20);
    lab.traffic = false;
    lab.run_for(Duration::from_secs(20));
    assert_eq!(lab.tier(), Some(Tier::Direct));
    let then = lab.now;
    lab.run_for(Duration::from_secs(3600));
    assert_eq!(lab.sent.iter().filter(|(at, _)| *at > then).count(), 0);
    assert_eq!(lab.paths.due(), None);
}

#[test]
fn in_vain_checks_back_off_and_stop_where_nothing_would_be_gained() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.run_for(Duration::from_secs(3600));
    let checks = lab.sent_to(THERE, lab.start);
    assert!((12..30).contains(&checks), "{checks} checks in an hour over a relay");
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE), (CandidateKind::Stun, HERE)]);
    lab.lead(THERE, 20);
    lab.run_for(Duration::from_secs(3600));
    assert_eq!(lab.sent_to(HERE, lab.start), FIRST_CHECKS as usize, "its tier is no better");
}

#[test]
fn checks_of_many_pairs_are_paced() {
    let texts: Vec<String> = (0..12).map(|i| format!("203.0.113.{i}:9")).collect();
    let kinds: Vec<_> = texts.iter().map(|text| (CandidateKind::Host, text.as_str())).collect();
    let mut lab = Lab::relayed(&kinds);
    lab.traffic = false;
    lab.run_for(Duration::from_secs(5));
    let checks: Vec<_> = lab.sent.iter().filter(|(_, probe)| probe.what == What::Check).map(|(at, _)| *at).collect();
    assert!(checks.len() >= 36);
    assert!(checks.windows(2).all(|pair| pair[1] - pair[0] >= ms(19)));
}

#[test]
fn each_uplink_is_a_pair_of_its_own_and_a_failed_one_is_left() {
    let uplinks = ["10.1.0.2", "10.2.0.2"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
    let mut lab = Lab::new(true);
    let terms = |locals: &[IpAddr]| Terms { direct: true, mtu_max: 1500, locals: locals.to_vec() };
    lab.paths.set_terms(lab.now, terms(&uplinks));
    for (uplink, rtt) in uplinks.iter().zip([20, 40]) {
        lab.leads.insert((place(THERE), Some(*uplink)), ms(rtt));
    }
    lab.paths.moved(lab.now, place(THERE), Some(uplinks[1]), CandidateKind::Configured, PathReason::Configured);
    lab.tell(1, &[(CandidateKind::Host, THERE)]);
    lab.run_for(Duration::from_secs(60));
    assert_eq!(lab.paths.in_use().map(|path| path.local), Some(Some(uplinks[0])), "the faster one");
    lab.leads.remove(&(place(THERE), Some(uplinks[0])));
    lab.run_for(ms(1600));
    assert_eq!(lab.paths.in_use().map(|path| path.local), Some(Some(uplinks[1])));
    // Its address comes back, and the other one's goes.
    lab.leads.insert((place(THERE), Some(uplinks[0])), ms(20));
    lab.run_for(Duration::from_secs(60));
    lab.paths.set_terms(lab.now, terms(&uplinks[1..]));
    lab.run_for(ms(100));
    let last = lab.moves.last().map(|moved| moved.2);
    assert_eq!((lab.tier(), last), (Some(Tier::Direct), Some(PathReason::OtherGone)));
    assert_eq!(lab.paths.in_use().map(|path| path.local), Some(Some(uplinks[1])));
}

#[test]
fn without_direct_paths_only_relays_are_probed_and_taken() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.lead(THERE, 20);
    lab.run_for(Duration::from_secs(5));
    assert_eq!(lab.tier(), Some(Tier::Direct));
    let then = lab.now;
    lab.paths.set_terms(lab.now, Terms { direct: false, mtu_max: 1500, locals: Vec::new() });
    lab.run_for(Duration::from_secs(60));
    assert_eq!((lab.tier(), lab.sent_to(THERE, then)), (Some(Tier::Relayed), 0));
    assert!(!lab.paths.arrived(lab.now, place(THERE), None, Via::Data), "it is not followed there either");
}

#[test]
fn a_relay_that_is_gone_is_left_at_once() {
    let mut lab = Lab::relayed(&[]);
    lab.lead("192.0.2.9:1", 80);
    lab.run_for(ms(500));
    let both = [RELAY, "192.0.2.9:1"].map(|text| candidate(CandidateKind::Relayed, text));
    lab.paths.set_named(both.to_vec());
    lab.paths.run(lab.now, || 0, &mut Vec::new());
    lab.run_for(ms(1000));
    assert_eq!(lab.paths.in_use().map(|path| path.remote), Some(place(RELAY)), "the faster one");
    lab.paths.set_named(both[1..].to_vec());
    lab.paths.run(lab.now, || 0, &mut Vec::new());
    lab.settle();
    assert_eq!(lab.moves.last().map(|moved| (moved.1, moved.2)), Some((place("192.0.2.9:1"), PathReason::OtherGone)));
}

#[test]
fn a_peer_seen_elsewhere_is_followed_at_once_only_when_the_path_in_use_is_silent() {
    let mut lab = Lab::new(true);
    lab.lead(THERE, 20);
    lab.paths.moved(lab.now, place(THERE), None, CandidateKind::PeerReflexive, PathReason::Handshake);
    lab.run_for(Duration::from_secs(2));
    assert!(!lab.paths.arrived(lab.now, place(HERE), None, Via::Data), "it is checked first");
    lab.run_for(ms(10));
    assert_eq!(lab.sent_to(HERE, lab.start), 1);
    lab.traffic = false;
    lab.run_for(ms(900));
    assert!(lab.paths.arrived(lab.now, place(MAPPED), None, Via::Data), "nothing speaks against it");
    assert!(!lab.paths.arrived(lab.now, place("203.0.113.1:1"), None, Via::Probe), "probes come from anywhere");
}

#[test]
fn answers_to_nothing_prove_nothing() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.run_for(ms(100));
    let probe = lab.sent.iter().map(|(_, probe)| *probe).find(|probe| probe.remote == place(THERE)).expect("a check");
    let refused = Err(DropReason::ChannelUnexpected);
    assert_eq!(lab.paths.answered(lab.now, probe.request + 1000, place(THERE), None), refused, "a number not drawn");
    assert_eq!(lab.paths.answered(lab.now, probe.request, place(HERE), None), refused, "from elsewhere");
    lab.run_for(ms(2500));
    assert_eq!(lab.paths.answered(lab.now, probe.request, place(THERE), None), refused, "much too late");
    let probe = lab.sent.iter().map(|(_, probe)| *probe).rfind(|probe| probe.remote == place(RELAY)).expect("a probe");
    let _ = lab.paths.answered(lab.now, probe.request, place(RELAY), None);
    assert_eq!(lab.paths.answered(lab.now, probe.request, place(RELAY), None), refused, "twice");
    assert_eq!(lab.tier(), Some(Tier::Relayed));
}

#[test]
fn stale_candidates_change_nothing_and_a_peers_word_makes_no_relay() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    assert!(lab.tell(5, &[(CandidateKind::Host, THERE)]));
    assert!(!lab.tell(4, &[(CandidateKind::Host, HERE)]));
    assert!(lab.tell(5, &[(CandidateKind::Host, THERE), (CandidateKind::Relayed, MAPPED)]));
    assert!(!lab.paths.is_relayed(place(MAPPED)) && lab.paths.is_relayed(place(RELAY)));
    assert!(lab.tell(6, &[]));
    assert_eq!(lab.paths.pairs.len(), 1, "what nobody vouches for is forgotten, and the path in use is not");
}

#[test]
fn few_answers_are_kept_back_and_none_for_ever() {
    let mut lab = Lab::relayed(&[]);
    let from = (place(THERE), None);
    assert!(!lab.paths.answer_late(lab.now, 1, LATE_AT_MOST + ms(1), from));
    assert!(lab.paths.answer_late(lab.now, 1, Duration::from_secs(30), from));
    assert!(lab.paths.answer_late(lab.now, 2, Duration::from_secs(60), from));
    assert!(!lab.paths.answer_late(lab.now, 3, Duration::from_secs(60), from));
    let then = lab.now;
    lab.run_for(Duration::from_secs(70));
    let late: Vec<_> = lab.sent.iter().filter(|(_, probe)| probe.what == What::LateAnswer).collect();
    let times: Vec<_> = late.iter().map(|(at, probe)| ((*at - then).as_secs(), probe.request)).collect();
    assert_eq!(times, [(30, 1), (60, 2)]);
}

#[derive(Debug, Clone)]
enum Op {
    Tell(u32, Vec<(u8, u8)>),
    Name(Vec<u8>),
    Arrive(u8, u8),
    Move(u8),
    Answer(u32, u8),
    Lead(u8, bool),
    Locals(u8),
    Run(u16),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0_u32..8, proptest::collection::vec((1_u8..8, 0_u8..40), 0..12)).prop_map(|(g, list)| Op::Tell(g, list)),
        proptest::collection::vec(0_u8..40, 0..4).prop_map(Op::Name),
        (0_u8..200, 0_u8..4).prop_map(|(at, via)| Op::Arrive(at, via)),
        (0_u8..40).prop_map(Op::Move),
        (0_u32..200, 0_u8..40).prop_map(|(request, at)| Op::Answer(request, at)),
        (0_u8..40, any::<bool>()).prop_map(|(at, leads)| Op::Lead(at, leads)),
        (0_u8..4).prop_map(Op::Locals),
        (1_u16..4000).prop_map(Op::Run),
    ]
}

#[test]
fn pairs_of_addresses_that_are_no_longer_ours_can_still_be_chosen() {
    let mut lab = Lab::new(true);
    let locals = ["10.1.0.2", "10.2.0.2"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
    for local in [None, Some(locals[0]), Some(locals[1])] {
        lab.leads.insert((place(RELAY), local), ms(57));
    }
    lab.paths.set_named(vec![candidate(CandidateKind::Relayed, RELAY)]);
    lab.tell(0, &[(CandidateKind::Host, RELAY)]);
    lab.paths.set_named(Vec::new());
    for locals in [locals.to_vec(), Vec::new()] {
        lab.paths.set_terms(lab.now, Terms { direct: true, mtu_max: 1500, locals });
        lab.settle();
    }
    lab.run_for(ms(500));
    assert!(lab.paths.is_proven() && lab.moves.len() <= 2, "{:?}", lab.moves);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_tables_are_bounded_and_what_is_preferred_is_proven(
        ops in proptest::collection::vec(ops(), 1..60),
    ) {
        let at = |n: u8| SocketAddr::from(([203, 0, 113, n], 9));
        let ips = ["10.1.0.2", "10.2.0.2", "10.3.0.2"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let mut lab = Lab::new(true);
        for op in ops {
            let before = lab.moves.len();
            match op {
                Op::Tell(generation, list) => {
                    let kind = |n| CandidateKind::from_wire(n).expect("a kind");
                    let list: Vec<_> =
                        list.into_iter().map(|(k, n)| Candidate { kind: kind(k), address: at(n) }).collect();
                    lab.paths.hear_candidates(lab.now, generation, Candidates::new(Nat::default(), &list));
                }
                Op::Name(list) => {
                    let of = |n| Candidate { kind: CandidateKind::Relayed, address: at(n) };
                    lab.paths.set_named(list.into_iter().map(of).collect());
                }
                Op::Arrive(n, via) => {
                    let via = [Via::Data, Via::Initiation, Via::Response, Via::Probe][usize::from(via)];
                    if lab.paths.arrived(lab.now, at(n), None, via) {
                        lab.paths.moved(lab.now, at(n), None, CandidateKind::PeerReflexive, PathReason::Roamed);
                    }
                }
                Op::Move(n) => {
                    lab.paths.moved(lab.now, at(n), None, CandidateKind::Configured, PathReason::Configured);
                }
                Op::Answer(request, n) => {
                    let _ = lab.paths.answered(lab.now, request, at(n), None);
                }
                Op::Lead(n, true) => {
                    for local in [None, Some(ips[0]), Some(ips[1])] {
                        lab.leads.insert((at(n), local), ms(u64::from(n) * 3));
                    }
                }
                Op::Lead(n, false) => lab.leads.retain(|(remote, _), _| *remote != at(n)),
                Op::Locals(n) => {
                    let locals = ips[..usize::from(n)].to_vec();
                    lab.paths.set_terms(lab.now, Terms { direct: n != 3, mtu_max: 1500, locals });
                }
                Op::Run(time) => lab.run_for(ms(time.into())),
            }
            lab.settle();
            prop_assert!(lab.paths.pairs.len() <= PAIRS_MAX + 1, "{} pairs", lab.paths.pairs.len());
            prop_assert!(lab.paths.flights.len() <= 64);
            prop_assert!(lab.moves.len() <= before + 200);
            if lab.moves.len() > before {
                prop_assert!(lab.paths.is_proven(), "what was chosen was proven");
            }
            let of_pairs: std::collections::BTreeSet<_> =
                lab.paths.pairs.iter().map(|pair| (pair.remote, pair.local)).collect();
            prop_assert_eq!(of_pairs.len(), lab.paths.pairs.len(), "each pair is there once");
        }
        let seconds = (lab.now - lab.start).as_secs() as usize + 1;
        prop_assert!(lab.sent.len() <= 60 * seconds + 100, "{} probes in {} s", lab.sent.len(), seconds);
    }
}
