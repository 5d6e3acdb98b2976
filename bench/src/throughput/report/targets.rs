//! The figures that this project has set itself to reach, as far as a run in namespaces can tell.
//!
//! Enters: results. Leaves: verdicts on those for which both sides were measured. Never does: count the noise in
//! anybody's favour.

use super::super::implementation::Kind;
use super::super::results::Results;

/// What was to be reached and what was.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// In words.
    pub(super) what: &'static str,
    /// At least.
    pub(super) least: f64,
    /// Reached.
    pub(super) reached: f64,
}

impl Verdict {
    pub(super) fn is_met(&self) -> bool {
        self.reached >= self.least
    }
}

/// Everything that can be told.
pub(super) fn verdicts(results: &Results) -> Vec<Verdict> {
    let tcp = "tcp 1 gbps";
    let plain = results.place("plain routing");
    let stripped = results.place("plain routing, host offloads off");
    let (gotatun, go) = (results.place("gotatun"), results.place("wireguard-go"));
    let of = |wan_lan: &str| results.place(&format!("landbridge {wan_lan}"));
    let best = |figure: &str| best(results, figure);
    let ratio = |one: Option<usize>, other: Option<usize>, figure: &str| {
        results.compare(one?, other?, figure).map(|comparison| comparison.ratio)
    };
    let rate = |place: Option<usize>, figure: &str| results.spread(place?, figure).map(|spread| spread.median);
    let all = [
        ("TCP, 1 stream, best backends, to gotatun", 6.0, ratio(best(tcp), gotatun, tcp)),
        ("TCP, 1 stream, best backends, to plain routing", 0.30, ratio(best(tcp), plain, tcp)),
        ("TCP, 1 stream, wan xdp with lan tun, to wan udp", 0.70, ratio(of("xdp/tun"), of("udp/tun"), tcp)),
        (
            "TCP, 1 stream, xdp on both sides, to plain routing, both with the hosts' offloads off",
            0.50,
            ratio(of("xdp/xdp"), stripped, tcp),
        ),
        ("UDP 1300 B flood, best backends, to gotatun", 3.0, ratio(best("flood gbps"), gotatun, "flood gbps")),
        ("UDP 1300 B flood, best backends, to wireguard-go", 3.0, ratio(best("flood gbps"), go, "flood gbps")),
        ("Mpps of 64 B, at most 0.1 % lost, wan udp with lan xdp", 0.9, rate(of("udp/xdp"), "loss0.1 64 one way mpps")),
        ("Mpps of 64 B, at most 0.1 % lost, xdp on both sides", 0.3, rate(of("xdp/xdp"), "loss0.1 64 one way mpps")),
    ];
    let verdict =
        |(what, least, reached): (&'static str, f64, Option<f64>)| Some(Verdict { what, least, reached: reached? });
    all.into_iter().filter_map(verdict).collect()
}

/// Landbridge's configuration with the best median.
fn best(results: &Results, figure: &str) -> Option<usize> {
    let configurations = results.plan.configurations.iter().enumerate();
    let ours = configurations.filter(|(_, c)| c.implementation.kind == Kind::Landbridge && c.twin_of.is_none());
    let medians = ours.filter_map(|(place, _)| Some((place, results.spread(place, figure)?.median)));
    medians.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::super::super::results::tests::results;
    use super::*;

    #[test]
    fn what_was_measured_is_judged_and_nothing_else() {
        let of: [(&str, Option<&str>, &[f64]); 4] = [
            ("landbridge udp/tun", None, &[6.0, 6.2]),
            ("landbridge xdp/tun", None, &[4.0, 4.1]),
            ("gotatun", None, &[1.0, 1.0]),
            ("plain routing", None, &[30.0, 31.0]),
        ];
        let mut results = results("tcp 1 gbps", &of);
        for configuration in &mut results.plan.configurations[..2] {
            configuration.implementation.kind = Kind::Landbridge;
        }
        let verdicts = verdicts(&results);
        let met: Vec<bool> = verdicts.iter().map(Verdict::is_met).collect();
        assert_eq!(met, [true, false, false], "{verdicts:?}");
        assert!((verdicts[0].reached - 6.1).abs() < 1e-9);
    }
}
