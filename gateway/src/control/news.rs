//! News of the kernel: links, addresses, routes, neighbours.
//!
//! Enters: what the monitors read. Leaves: doubts about paths, rings and the lan, our addresses for the steering program,
//! word to the peers that they changed. Never does: act on each of a heap of news; they are taken together.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFdReadyGuard;

use super::Control;
use super::netlink::{Monitor, News};

/// News of the kernel come in heaps: paths are found again this long after the first of one.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How long after a change of our addresses the peers are told.
const ANNOUNCE: Duration = Duration::from_millis(250);

impl Control {
    /// Routes, addresses, links or neighbours changed.
    pub(super) fn take_news(&mut self, now: Instant) {
        let news = std::mem::take(&mut self.news);
        self.news_due = None;
        if news.links {
            if let Err(error) = self.driver.network.read_links() {
                tracing::warn!(%error, "cannot read the interfaces of this host");
            }
            self.tunnel_due = now;
            self.look_at_rings(now);
        }
        if news.addresses {
            self.steer_addresses();
        }
        self.following.doubt(news, now);
        if news.links || news.addresses || news.routes {
            self.driver.doubt_paths();
            self.doubt_candidates(now);
        } else {
            self.driver.doubt_next_hops();
        }
    }

    /// Reads which addresses are ours, and tells the steering program. When they changed the peers are told where we are,
    /// a moment later, as new addresses need one before they can be sent from.
    pub fn steer_addresses(&mut self) {
        let found = match self.driver.network.read_addresses() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot read the addresses of this host");
                return;
            }
        };
        if found == self.addresses {
            return;
        }
        self.addresses = found;
        self.announce_due = Some(Instant::now() + ANNOUNCE);
        if let Some(relays) = &mut self.driver.relays {
            relays.set_own(self.driver.steer.as_mut(), &self.addresses);
        }
        let Some(steer) = &mut self.driver.steer else { return };
        let addresses: Vec<_> = self.addresses.iter().copied().collect();
        if let Err(error) = steer.set_addresses(&addresses) {
            tracing::warn!("packets to some of our addresses will come by the kernel's socket: {error:#}");
        }
    }
}

/// Notes what a monitor has to say, and when it is to be acted on.
pub(super) fn note_news(ready: io::Result<AsyncFdReadyGuard<'_, Monitor>>, news: &mut News, due: &mut Option<Instant>) {
    let Ok(mut guard) = ready else { return };
    let (found, more) = guard.get_inner().read();
    if !more {
        guard.clear_ready();
    }
    news.links |= found.links;
    news.addresses |= found.addresses;
    news.routes |= found.routes;
    news.neighbours |= found.neighbours;
    if news.any() {
        due.get_or_insert_with(|| Instant::now() + DEBOUNCE);
    }
}
