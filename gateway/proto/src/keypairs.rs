//! The sessions of one peer: the one to seal with, the one before it, and one that waits for confirmation.

use std::sync::Arc;

use crate::{ReceiverIndex, Session};

/// Up to three sessions, all of which open packets.
#[derive(Debug, Default)]
pub(crate) struct Keypairs {
    /// Seals.
    pub(crate) current: Option<Arc<Session>>,
    /// Sealed before; opens what is still under way.
    pub(crate) previous: Option<Arc<Session>>,
    /// We answered for it; the initiator has not used it.
    pub(crate) next: Option<Arc<Session>>,
}

/// Sessions that a change has ended.
pub(crate) type Ended = [Option<Arc<Session>>; 3];

impl Keypairs {
    /// Takes in a session that we began: it seals at once.
    ///
    /// When both sides begin at the same time, each finds the other's session in `next`. One side (`yields`)
    /// leaves it there, to be confirmed by the other's keepalive; so both end up with the same one.
    pub(crate) fn add_initiated(&mut self, session: Arc<Session>, yields: bool) -> Ended {
        let demoted = if yields { None } else { self.next.take() };
        let replaced = self.current.replace(session);
        match demoted {
            Some(next) => [self.previous.replace(next), replaced, None],
            None => [std::mem::replace(&mut self.previous, replaced), None, None],
        }
    }

    /// Takes in a session that the peer began: it only opens until it is confirmed. The one before the current
    /// session stays meanwhile, as the peer may still seal with it.
    pub(crate) fn add_answered(&mut self, session: Arc<Session>) -> Ended {
        [self.next.replace(session), None, None]
    }

    /// The session of this index was used by its initiator. `None` when it did not wait for that.
    pub(crate) fn confirm(&mut self, index: ReceiverIndex) -> Option<Ended> {
        let next = self.next.take_if(|next| next.local_index == index)?;
        let replaced = self.current.replace(next);
        Some([std::mem::replace(&mut self.previous, replaced), None, None])
    }

    /// The session of this index.
    pub(crate) fn find(&self, index: ReceiverIndex) -> Option<&Arc<Session>> {
        [&self.current, &self.previous, &self.next].into_iter().flatten().find(|session| session.local_index == index)
    }

    /// Ends all sessions.
    pub(crate) fn clear(&mut self) -> Ended {
        [self.next.take(), self.previous.take(), self.current.take()]
    }
}
