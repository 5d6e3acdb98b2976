//! The thread that keeps a port mapped.
//!
//! 1. The protocols are tried in their order, each a moment after the one before; the first that is granted is kept.
//! 2. The lease is renewed well before it ends, each minute, and when the router announces itself, so that one that forgot it
//!    is noticed.
//! 3. A lease that is lost is asked for anew, ever less often while that fails.
//! 4. With another router or port, and at the end, it is given back.
//!
//! Enters: [`Wanted`]. Leaves: [`State`], by a channel that holds the last one. Never does: end later than a moment after its
//! owner.

use std::io;
use std::num::NonZeroU16;
use std::sync::mpsc as blocking;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::announce::Announcements;
use super::lease::{Failure, Lease, Renewed};
use super::{Mapped, Router, State};
use crate::settings::MappingProtocol;

/// A protocol is tried this long after the one before it.
const STAGGER: Duration = Duration::from_millis(300);
/// The longest time between renewals: two datagrams, by which a router is caught that has lost its mappings.
const RENEW_MAX: Duration = Duration::from_secs(60);
/// Everybody behind a router hears what it announces, and waits for a part of this (RFC 6887 section 14.1.3 has up to 5 s; a
/// home has fewer hosts than it was made for).
const ANNOUNCED_MAX: Duration = Duration::from_millis(1500);
/// The shortest one, whatever a router grants.
const RENEW_MIN: Duration = Duration::from_secs(5);
/// First wait after nobody granted anything; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(15);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(900);
/// How long the end waits for the router.
const FAREWELL: Duration = Duration::from_millis(1500);

/// What is to be mapped, and by whom; `None` for nothing.
pub type Wanted = Option<(Router, NonZeroU16)>;

/// What the owner says.
#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    wanted: Wanted,
    /// Grows with every doubt whether the router remembers.
    doubts: u32,
}

/// The owner's end of the thread.
#[derive(Debug)]
pub struct Keeper {
    wishes: Option<watch::Sender<Wish>>,
    ended: blocking::Receiver<()>,
}

impl Keeper {
    /// Starts the thread, which asks for nothing yet. The receiver has what it gets.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(protocols: Vec<MappingProtocol>) -> io::Result<(Self, watch::Receiver<State>)> {
        let (sender, wishes) = watch::channel(Wish::default());
        let (state, states) = watch::channel(State::default());
        let (end, ended) = blocking::sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("port-mapping".to_owned()).spawn(move || {
            runtime.block_on(keep(&protocols, wishes, &state));
            // Its owner may have given up waiting.
            let _ = end.try_send(());
        })?;
        Ok((Self { wishes: Some(sender), ended }, states))
    }

    /// Wants this mapped in place of what was before.
    pub fn want(&self, wanted: Wanted) {
        if let Some(sender) = &self.wishes {
            sender.send_if_modified(|present| std::mem::replace(&mut present.wanted, wanted) != wanted);
        }
    }

    /// The router may have forgotten what it granted: it is renewed at once, or tried again.
    pub fn doubt(&self) {
        if let Some(sender) = &self.wishes {
            sender.send_modify(|present| present.doubts = present.doubts.wrapping_add(1));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.wishes.take());
        // A router that does not answer keeps the mapping until its time is over.
        let _ = self.ended.recv_timeout(FAREWELL);
    }
}

async fn keep(protocols: &[MappingProtocol], mut wishes: watch::Receiver<Wish>, state: &watch::Sender<State>) {
    let mut wait = RETRY_MIN;
    let announcements = Announcements::open();
    loop {
        let wanted = wishes.borrow_and_update().wanted;
        let Some((router, port)) = wanted else {
            state.send_if_modified(|state| std::mem::take(&mut state.mapped).is_some());
            match wishes.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        state.send_modify(|state| state.router = Some(router));
        let obtained = tokio::select! {
            obtained = obtain(protocols, router, port) => obtained,
            changed = wishes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match obtained {
            Ok(lease) => {
                wait = RETRY_MIN;
                if !hold(lease, wanted, &mut wishes, &announcements, state).await {
                    return;
                }
            }
            Err(failures) => {
                let failed = !state.borrow().failures.is_empty();
                for (protocol, failure) in failures.iter().filter(|_| !failed) {
                    tracing::info!(protocol = protocol.name(), "the router maps no port: {failure}");
                }
                let told = failures.into_iter().map(|(protocol, failure)| (protocol, failure.to_string())).collect();
                state.send_modify(|state| {
                    state.mapped = None;
                    state.failures = told;
                });
                tokio::select! {
                    () = sleep(wait) => {}
                    // One that has begun anew may be willing.
                    () = announced(&announcements, router) => wait = RETRY_MIN,
                    changed = wishes.changed() => match changed {
                        Ok(()) => wait = RETRY_MIN,
                        Err(_) => return,
                    },
                }
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
    }
}

/// The first lease that any protocol gives; all failures where none does.
async fn obtain(
    protocols: &[MappingProtocol],
    router: Router,
    port: NonZeroU16,
) -> Result<Lease, Vec<(MappingProtocol, Failure)>> {
    let mut attempts = JoinSet::new();
    for (place, protocol) in protocols.iter().copied().enumerate() {
        attempts.spawn(async move {
            sleep(STAGGER * place as u32).await;
            (protocol, Lease::obtain(protocol, router, port).await)
        });
    }
    let mut failures = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            // What the others were about to get ends by itself; with the same router it is most often the same mapping.
            Ok((_, Ok(lease))) => return Ok(lease),
            Ok((protocol, Err(failure))) => failures.push((protocol, failure)),
            Err(error) => tracing::warn!(%error, "asking the router to map a port"),
        }
    }
    failures.sort_unstable_by_key(|(protocol, _)| *protocol);
    Err(failures)
}

/// Keeps a lease while it is wanted and granted. False when the owner is gone.
async fn hold(
    mut lease: Lease,
    wanted: Wanted,
    wishes: &mut watch::Receiver<Wish>,
    announcements: &Announcements,
    state: &watch::Sender<State>,
) -> bool {
    let Some((router, _)) = wanted else { return true };
    let mut mapped = lease.mapped();
    let mut ends = mapped.lifetime.map(|lifetime| Instant::now() + lifetime);
    tracing::info!(
        protocol = mapped.protocol.name(),
        port = mapped.external.port(),
        seconds = mapped.lifetime.map(|lifetime| lifetime.as_secs()),
        "the router forwards a port to us"
    );
    state.send_modify(|state| {
        state.mapped = Some(mapped);
        state.failures.clear();
    });
    let mut due = Instant::now() + renew_after(mapped.lifetime);
    loop {
        tokio::select! {
            () = sleep_until(due) => {}
            () = announced(announcements, router) => {}
            changed = wishes.changed() => {
                if changed.is_err() || wishes.borrow_and_update().wanted != wanted {
                    lease.release().await;
                    state.send_modify(|state| state.mapped = None);
                    return changed.is_ok();
                }
            }
        }
        match lease.renew().await {
            Ok(renewed) => {
                let present = lease.mapped();
                ends = present.lifetime.map(|lifetime| Instant::now() + lifetime);
                due = Instant::now() + renew_after(present.lifetime);
                let moved = present.external != mapped.external;
                if moved || renewed == Renewed::Restored {
                    tell_lost(present, moved);
                    state.send_modify(|state| {
                        state.mapped = Some(present);
                        state.lost += 1;
                    });
                }
                mapped = present;
            }
            Err(failure) => {
                tracing::info!(protocol = mapped.protocol.name(), "the mapping is not renewed: {failure}");
                let gone = ends.is_none_or(|ends| ends <= Instant::now() + RENEW_MIN);
                due = Instant::now() + RENEW_MIN;
                state.send_modify(|state| {
                    state.failures = vec![(mapped.protocol, failure.to_string())];
                    if gone {
                        state.mapped = None;
                        state.lost += 1;
                    }
                });
                if gone {
                    return true;
                }
            }
        }
    }
}

/// Resolves a moment after the router has announced itself.
async fn announced(announcements: &Announcements, router: Router) {
    announcements.heard(router).await;
    sleep(ANNOUNCED_MAX.mul_f32(rand::random())).await;
}

fn tell_lost(present: Mapped, moved: bool) {
    let port = present.external.port();
    match moved {
        true => tracing::info!(port, "the router forwards another port to us than before"),
        false => tracing::info!(port, "the router had forgotten our port, and forwards it again"),
    }
}

/// Half of its time (RFC 6886 section 3.3, RFC 6887 section 11.2.1), within bounds.
fn renew_after(lifetime: Option<Duration>) -> Duration {
    lifetime.map_or(RENEW_MAX, |lifetime| (lifetime / 2).clamp(RENEW_MIN, RENEW_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_come_in_time_and_not_too_often() {
        let after = |seconds: u64| renew_after(Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!([0, 8, 20, 100, 7200].map(after), [5, 5, 10, 50, 60]);
        assert_eq!(renew_after(None), RENEW_MAX);
    }

    #[test]
    fn a_keeper_that_was_asked_for_nothing_ends_at_once() {
        let (keeper, state) = Keeper::start(MappingProtocol::ALL.to_vec()).expect("a thread");
        keeper.want(None);
        assert_eq!(*state.borrow(), State::default());
        let begun = std::time::Instant::now();
        drop(keeper);
        assert!(begun.elapsed() < FAREWELL, "it was waited for in vain");
    }
}
