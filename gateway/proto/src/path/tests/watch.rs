//! The watch alone, in virtual time.

use super::*;

#[test]
fn a_dead_path_under_a_stream_is_left_at_once_and_taken_again_soon_after_it_returns() {
    for (rtt_ms, returns) in [(1, true), (20, true), (80, true), (1, false), (20, false), (80, false)] {
        let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
        lab.lead(THERE, rtt_ms);
        lab.returns = returns;
        lab.run_for(Duration::from_secs(20));
        assert_eq!(lab.tier(), Some(Tier::Direct));
        let cut = lab.now;
        lab.block(THERE);
        while lab.tier() == Some(Tier::Direct) {
            lab.run_for(ms(10));
            assert!(lab.now - cut < ms(110 + 4 * rtt_ms), "it is still in use");
        }
        let last = lab.moves.last().map(|moved| moved.2);
        assert_eq!((lab.tier(), last), (Some(Tier::Relayed), Some(PathReason::OtherSilent)));
        lab.run_for(Duration::from_secs(8));
        assert!(lab.paths.view().paths.iter().all(|path| path.tier == Tier::Relayed), "it is no path any more");
        lab.lead(THERE, rtt_ms);
        let back = lab.now;
        while lab.tier() == Some(Tier::Relayed) {
            lab.run_for(ms(10));
            assert!(lab.now - back < ms(1700 + 4 * rtt_ms), "it is not taken again");
        }
        // Three answers in a row, as it was left lately.
        assert!(lab.sent_to(THERE, back) >= 3);
    }
}

#[test]
fn a_path_that_is_silent_for_a_moment_is_taken_again_with_its_first_answer() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.lead(THERE, 20);
    lab.run_for(Duration::from_secs(20));
    lab.block(THERE);
    lab.run_for(ms(400));
    assert_eq!(lab.tier(), Some(Tier::Relayed));
    lab.lead(THERE, 20);
    lab.run_for(ms(230));
    assert_eq!(lab.tier(), Some(Tier::Direct), "{:?}", lab.moves);
    // The next time more is wanted before it is doubted.
    lab.run_for(ms(300));
    lab.block(THERE);
    lab.run_for(ms(400));
    assert_eq!(lab.tier(), Some(Tier::Direct), "it was doubted for nothing just now");
}

#[test]
fn our_own_lateness_is_no_silence_of_the_network() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.lead(THERE, 20);
    lab.returns = false;
    lab.run_for(Duration::from_secs(5));
    let moves = lab.moves.len();
    for round in 0..80 {
        // Answers wait while nobody looks: they are taken behind the timers that are due meanwhile.
        lab.now += ms(70);
        lab.see_traffic();
        let (mut probes, drawn) = (Vec::new(), &mut lab.drawn);
        let draw = || {
            *drawn += 1;
            *drawn
        };
        lab.paths.run(lab.now, draw, &mut probes);
        for probe in probes {
            lab.answers.insert((lab.now + ms(20), probe.request), probe);
        }
        lab.settle();
        if round % 3 == 2 {
            lab.run_for(ms(1500));
        }
    }
    assert_eq!(lab.moves.len(), moves, "{:?}", lab.moves);
}

#[test]
fn links_that_are_many_share_a_budget_of_probes_and_a_dead_path_is_left_in_three_seconds_all_the_same() {
    let epoch = Instant::now();
    for links in [1, 10, 50, 150, 1000] {
        let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
        lab.paths.set_pace(Pace::of(epoch, links, links));
        lab.lead(THERE, 20);
        lab.returns = false;
        lab.run_for(Duration::from_secs(12));
        let then = lab.now;
        lab.run_for(Duration::from_secs(10));
        let a_second = lab.sent_to(THERE, then) * links / 10;
        assert!(a_second <= 260 || links == 1000 && a_second <= 1500, "{a_second} probes a second of {links} links");
        lab.block(THERE);
        let (then, mut left) = (lab.now, None);
        while left.is_none() {
            lab.run_for(ms(10));
            left = (lab.tier() != Some(Tier::Direct)).then(|| lab.now - then);
            assert!(lab.now - then < Duration::from_secs(3), "of {links} links");
        }
        let a_second = lab.sent_to(THERE, then) as f64 * links as f64 / left.expect("left").as_secs_f64();
        assert!(a_second <= 350.0 || links == 1000 && a_second <= 2000.0, "{a_second} a second of {links} dying links");
    }
}

#[test]
fn packets_that_are_lost_now_and_then_are_no_reason_to_leave() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.lead(THERE, 20);
    lab.run_for(Duration::from_secs(5));
    let moves = lab.moves.len();
    // One way only: every probe counts, and every third is lost.
    (lab.returns, lab.loses) = (false, 3);
    lab.run_for(Duration::from_secs(120));
    assert_eq!(lab.moves.len(), moves, "{:?}", lab.moves);
}

#[test]
fn a_path_that_is_silent_again_and_again_does_not_flap() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.lead(THERE, 20);
    lab.returns = false;
    lab.run_for(Duration::from_secs(5));
    for round in 0..400_u64 {
        if round % 3 == 0 {
            lab.block(THERE)
        } else {
            lab.lead(THERE, 20)
        }
        lab.run_for(ms(300));
    }
    assert!(lab.moves.len() <= 24, "{} moves in two minutes: {:?}", lab.moves.len(), lab.moves);
}

#[test]
fn a_stream_that_stops_costs_a_probe_and_who_is_not_answered_then_asks_to_be_found() {
    for answered in [true, false] {
        let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
        lab.lead(THERE, 20);
        lab.run_for(Duration::from_secs(20));
        // It only receives, and then no more.
        lab.traffic = false;
        for _ in 0..100 {
            lab.counts[0] += 10;
            let (heard, counts) = (Some(lab.now), lab.counts);
            lab.paths.traffic(lab.now, None, heard, |place| counts[place]);
            lab.run_for(ms(20));
        }
        assert!(!lab.paths.lost_touch(lab.now));
        let then = lab.now;
        if !answered {
            lab.block(THERE);
        }
        lab.run_for(ms(450));
        assert_eq!(lab.paths.lost_touch(lab.now), !answered);
        lab.run_for(Duration::from_secs(20));
        let (there, relay) = (lab.sent_to(THERE, then), lab.sent_to(RELAY, then));
        if answered {
            assert_eq!((there, relay), (1, 0));
        } else {
            assert!(there <= 30 && (1..=3).contains(&relay), "{there} {relay}");
        }
        assert!(!lab.paths.lost_touch(lab.now), "once");
    }
}

#[test]
fn what_the_peer_asks_says_nothing_of_the_way_to_it() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.lead(THERE, 20);
    lab.returns = false;
    lab.run_for(Duration::from_secs(5));
    lab.block(THERE);
    let cut = lab.now;
    // Its probes come all the time, as only our direction is dead.
    while lab.tier() == Some(Tier::Direct) {
        lab.run_for(ms(30));
        lab.counts[0] += 1;
        lab.paths.arrived(lab.now, place(THERE), None, Via::Probe);
        assert!(lab.now - cut < ms(1000), "it is still in use");
    }
}

#[test]
fn a_path_with_few_answers_is_watched_all_the_same_when_packets_come_in_place_of_one() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.lead(THERE, 20);
    lab.returns = false;
    while lab.tier() != Some(Tier::Direct) {
        lab.run_for(ms(1));
    }
    // Of the first probes by it one is lost, and a packet of the peer comes meanwhile.
    lab.block(THERE);
    lab.answers.clear();
    while lab.paths.pairs.iter().all(|pair| pair.remote != place(THERE) || pair.unanswered == 0) {
        lab.run_for(ms(1));
    }
    lab.counts[0] += 1;
    let (now, counts) = (lab.now, lab.counts);
    lab.paths.traffic(now, Some(now), Some(now), |place| counts[place]);
    lab.run_for(Duration::from_secs(3));
    assert_eq!(lab.tier(), Some(Tier::Relayed), "it is dead and still in use");
}

#[test]
fn a_link_that_rests_is_none_of_those_that_are_probed() {
    let mut lab = Lab::relayed(&[(CandidateKind::Host, THERE)]);
    lab.lead(THERE, 20);
    lab.returns = false;
    lab.run_for(Duration::from_secs(5));
    assert!(lab.paths.is_probed(lab.now));
    // The last look is the last time that anybody asks.
    lab.traffic = false;
    lab.paths.active = None;
    while lab.paths.look_due().is_some() {
        lab.run_for(ms(5));
    }
    assert!(!lab.paths.is_probed(lab.now));
}
