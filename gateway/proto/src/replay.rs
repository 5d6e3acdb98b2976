//! The replay window: which counters of a session were seen (RFC 6479, paper section 5.4.6).

/// An 8192-deep window of seen counters.
#[derive(Debug)]
pub struct ReplayWindow {
    _private: (),
}

impl ReplayWindow {
    /// A window in which nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        panic!("stub")
    }

    /// Whether a packet with this counter would be refused. Called before the AEAD.
    #[must_use]
    pub fn would_reject(&self, _counter: u64) -> bool {
        panic!("stub")
    }

    /// Notes a counter whose packet was authentic. False when it was seen before or lies behind the
    /// window: the packet must then be dropped. Called after the AEAD.
    pub fn commit(&mut self, _counter: u64) -> bool {
        panic!("stub")
    }
}
