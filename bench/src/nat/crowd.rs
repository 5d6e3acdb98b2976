//! A thousand peers of one introducer, all idle: what it costs the introducer.
//!
//! The introducer is the real program. Its peers are endpoints of `landbridge-proto` in one thread, each with a UDP
//! socket of its own on a server of the laboratory; each keeps its link, and seeks a peer that is not there.
//!
//! Enters: a run. Leaves: CPU time, messages and memory of the introducer. Never does: send payload.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landbridge::config::keys;
use landbridge::lab::gateway::Gateway;
use landbridge::lab::namespace::join;
use landbridge::lab::nat::Internet;
use landbridge::lab::nat::internet::SERVER_INTERFACE;
use landbridge::lab::nat::scene;
use landbridge::lab::scratch::Scratch;
use serde::Serialize;

use self::member::Member;
use super::{PREFIX, Run};

mod member;

pub(super) const NAME: &str = "a thousand idle peers";
const PEERS: usize = 1000;
/// How long all may take to be linked, and to be told whatever there is to tell at first.
const LINK_PATIENCE: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(15);
/// How long is measured: longer than any interval of an idle link.
const WINDOW: Duration = Duration::from_secs(35);

/// What it cost.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Crowd {
    pub(super) peers: usize,
    pub(super) linked: usize,
    pub(super) cpu_percent: f64,
    pub(super) seconds: f64,
    pub(super) messages_per_second: f64,
    pub(super) resident_mib: f64,
}

pub(super) fn measure(run: &Run) -> anyhow::Result<Crowd> {
    let mut internet = Internet::new(PREFIX)?;
    let (introducer, crowd) = (internet.server("i0")?, internet.server("crowd")?);
    let scratch = Scratch::new(scene::SCRATCH)?;
    let own = keys::generate_private().context("the system gives no randomness")?;
    let now = Instant::now();
    let place = SocketAddr::from((introducer.address(), scene::PORT));
    let address = crowd.address();
    let sockets = crowd.namespace.run(move || {
        let one = |_| -> anyhow::Result<UdpSocket> {
            let socket = UdpSocket::bind((address, 0)).context("a socket for each peer")?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        (0..PEERS).map(one).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let public = keys::public(&own).0;
    let members: Vec<Member> =
        sockets.into_iter().map(|socket| Member::new(socket, public, place, now)).collect::<anyhow::Result<_>>()?;
    let interface = format!("lbn{}i0", std::process::id());
    scratch.write("i0.key", &keys::encode(&own))?;
    let mut text = format!(
        "[interface]\nname = \"{interface}\"\nprivate_key_file = \"i0.key\"\nlisten_port = {}\n\
         addresses = [\"10.82.0.1/32\"]\n[wan]\nbackend = \"{}\"\ninterfaces = [\"{SERVER_INTERFACE}\"]\n\
         [nat]\nport_mapping = \"off\"\nintroduce = true\n",
        scene::PORT,
        run.wan
    );
    for (number, member) in members.iter().enumerate() {
        let (key, high, low) = (member.public_key(), number / 256, number % 256);
        let _infallible = write!(text, "[[peer]]\npublic_key = \"{key}\"\nallowed_ips = [\"10.83.{high}.{low}/32\"]\n");
    }
    let mut gateway = Gateway::start(&run.program, &introducer.namespace, &scratch, &interface, &text)?;
    gateway.wait_until_ready(&run.stop)?;
    let (end, linked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (ended, count) = (Arc::clone(&end), Arc::clone(&linked));
    let thread = crowd.namespace.spawn("crowd", move || member::serve(members, &ended, &count))?;
    let measured = watch(run, &mut gateway, &linked);
    end.store(true, Ordering::Relaxed);
    join(thread)?;
    measured
}

fn watch(run: &Run, gateway: &mut Gateway, linked: &AtomicUsize) -> anyhow::Result<Crowd> {
    let began = Instant::now();
    while linked.load(Ordering::Relaxed) < PEERS && began.elapsed() < LINK_PATIENCE {
        run.stop.sleep(Duration::from_millis(50))?;
        gateway.check()?;
    }
    eprintln!("{NAME}: {} linked after {:.1} s", linked.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    run.stop.sleep(CALM)?;
    let messages = |gateway: &Gateway| {
        let channel = gateway.status()?.channel;
        Ok::<_, anyhow::Error>(channel.messages_sent + channel.messages_received)
    };
    // Asking costs the gateway time too, so it is done outside the window.
    let before = messages(gateway)?;
    let (from, cpu) = (Instant::now(), gateway.cpu_time());
    run.stop.sleep(WINDOW)?;
    let (seconds, used) = (from.elapsed().as_secs_f64(), gateway.cpu_time().saturating_sub(cpu));
    let after = messages(gateway)?;
    let crowd = Crowd {
        peers: PEERS,
        linked: linked.load(Ordering::Relaxed),
        cpu_percent: used.as_secs_f64() / seconds * 100.0,
        seconds,
        messages_per_second: after.saturating_sub(before) as f64 / seconds,
        resident_mib: gateway.resident_bytes() as f64 / f64::from(1 << 20),
    };
    eprintln!("{NAME}: {crowd:?}");
    Ok(crowd)
}
