//! Other implementations at the other end, in both roles: each side begins the conversation once.

use std::time::{Duration, Instant};

use crate::lab::{
    Echo, Flow, Gateway, Lab, Outside, Program, Sites, Wan, available, connected, eventually, tcp_exchange, tunnel_v4,
    tunnel_v6, udp_sizes,
};

/// Bytes of each TCP stream, each way.
const STREAM: usize = 6 << 20;

/// A Landbridge and another implementation, of which one knows where the other is.
fn pair(
    lab: &Lab,
    sites: &Sites,
    ours: Program,
    theirs: Program,
    we_begin: bool,
    outside: Outside,
) -> (Gateway, Gateway) {
    let (mut left, mut right) = sites.gateways(lab, ours, theirs, outside);
    if we_begin {
        right.peers[0].endpoint = None;
    } else {
        left.peers[0].endpoint = None;
    }
    left.start();
    right.start();
    (left, right)
}

/// Both roles, everything inside, and a second handshake because one side has lost its session.
fn understands(ours: Program, theirs: Program, outside: Outside) {
    if !available(theirs) {
        return;
    }
    for we_begin in [true, false] {
        let Some(lab) = Lab::open() else { return };
        let sites = Sites::build(&lab);
        let (mut left, right) = pair(&lab, &sites, ours, theirs, we_begin, outside);
        let (begins, answers, host) = if we_begin { (&sites.a, &sites.b, 2) } else { (&sites.b, &sites.a, 1) };
        let echo = Echo::start(answers, tunnel_v4(host));
        assert!(udp_sizes(begins, &echo, 1..=1392) <= 20);
        connected(&[&left, &right], Duration::from_secs(2));
        tcp_exchange(begins, answers, tunnel_v4(host), STREAM);
        tcp_exchange(begins, answers, tunnel_v6(host), STREAM);
        drop(echo);
        if we_begin {
            // Its session is gone with it; the other one learns of that by our new handshake.
            assert!(left.stop().success());
            left.start();
            let echo = Echo::start(answers, tunnel_v4(host));
            Flow::start(begins, &echo, Duration::from_millis(5))
                .goes_on("traffic of a restarted gateway", Duration::from_secs(15));
        }
    }
}

macro_rules! interoperation {
    ($($name:ident: $ours:expr, $theirs:ident, $outside:ident;)+) => {
        $(#[test]
        fn $name() {
            understands($ours, Program::$theirs, Outside::$outside);
        })+
    };
}

interoperation! {
    wireguard_go_and_a_gateway_with_sockets_understand_each_other: Program::Up(Wan::Udp), WireguardGo, V4;
    wireguard_go_and_a_gateway_with_rings_understand_each_other: Program::Uapi(Wan::Xdp), WireguardGo, V6;
    boringtun_and_a_gateway_with_sockets_understand_each_other: Program::Uapi(Wan::Udp), Boringtun, V4;
    boringtun_and_a_gateway_with_rings_understand_each_other: Program::Up(Wan::Xdp), Boringtun, V4;
    gotatun_and_a_gateway_with_sockets_understand_each_other: Program::Up(Wan::Udp), Gotatun, V6;
    gotatun_and_a_gateway_with_rings_understand_each_other: Program::Uapi(Wan::Xdp), Gotatun, V4;
}

/// The protocol's time between handshakes, and what a busy machine may add.
const REKEY: Duration = Duration::from_secs(120);
const REKEY_LATEST: Duration = Duration::from_secs(165);

/// Traffic from before a rekey until after it; nothing of it may be lost.
fn crosses_a_rekey(ours: Program, theirs: Program, we_begin: bool) {
    let Some(lab) = Lab::open() else { return };
    let title = format!("{ours:?} and {theirs:?}, we begin: {we_begin}");
    let sites = Sites::build(&lab);
    let (left, right) = pair(&lab, &sites, ours, theirs, we_begin, Outside::V4);
    let (begins, answers, host) = if we_begin { (&sites.a, &sites.b, 2) } else { (&sites.b, &sites.a, 1) };
    let echo = Echo::start(answers, tunnel_v4(host));
    let flow = Flow::start(begins, &echo, Duration::from_millis(40));
    flow.goes_on(&title, Duration::from_secs(20));
    connected(&[&left, &right], Duration::from_secs(5));
    let start = Instant::now();
    // boringtun tells the seconds since its handshake where the others tell the time of it: ours is asked.
    let first = left.last_handshake();
    let (sent, answered) = flow.counts();
    let lost = sent - answered;
    std::thread::sleep(REKEY - Duration::from_secs(8));
    let rekeyed = eventually(&format!("a rekey of {title}"), REKEY_LATEST - start.elapsed(), || {
        std::thread::sleep(Duration::from_millis(480));
        (left.last_handshake() > first + 60).then_some(start.elapsed())
    });
    flow.goes_on(&format!("traffic of {title} after the rekey"), Duration::from_secs(5));
    tcp_exchange(begins, answers, tunnel_v6(host), 1 << 20);
    let (sent, answered) = flow.counts();
    let lost_since = (sent - answered).saturating_sub(lost);
    eprintln!("{title}: rekeyed after {rekeyed:?}, {lost_since} of {sent} datagrams lost");
    assert!(lost_since <= 3, "{title}: {lost_since} of {sent} datagrams were lost around the rekey");
}

/// The cases run beside one another, as each of them mostly waits.
#[test]
fn traffic_crosses_a_rekey_with_every_implementation_in_both_roles() {
    let others = [Program::WireguardGo, Program::Boringtun, Program::Gotatun, Program::Up(Wan::Xdp)];
    let mut cases = Vec::new();
    for theirs in others.into_iter().filter(|program| available(*program)) {
        for we_begin in [true, false] {
            let wan = if (cases.len() / 2 + usize::from(we_begin)) % 2 == 0 { Wan::Udp } else { Wan::Xdp };
            cases.push((Program::Up(wan), theirs, we_begin));
        }
    }
    let threads: Vec<_> = cases
        .into_iter()
        .map(|(ours, theirs, we_begin)| std::thread::spawn(move || crosses_a_rekey(ours, theirs, we_begin)))
        .collect();
    let failed = threads.into_iter().map(std::thread::JoinHandle::join).filter(Result::is_err).count();
    assert_eq!(failed, 0, "some cases failed: their reports stand above");
}
