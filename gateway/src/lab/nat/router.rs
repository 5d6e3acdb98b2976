//! A router with a NAT, between the internet and what lies behind it.
//!
//! Enters: how its NAT behaves. Leaves: a namespace that forwards and translates. Never does: answer strangers.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::ground::{Attachment, Ground, Wanted, make_router};
use super::nft;
use super::rules::{self, Nat};
use crate::lab::links;
use crate::lab::namespace::Namespace;

/// The interface towards the internet.
pub(super) const OUT: &str = "out";

/// The router.
#[derive(Debug)]
pub struct Router {
    namespace: Namespace,
    nat: Nat,
    /// How it is linked to what is above.
    uplink: Attachment,
    public: Ipv4Addr,
    inside: Ground,
}

impl Router {
    /// A router in a namespace that is linked already.
    pub(super) fn new(namespace: Namespace, nat: Nat, uplink: Attachment, inside: Ground) -> anyhow::Result<Self> {
        make_router(&namespace)?;
        let router = Self { public: uplink.address(), namespace, nat, uplink, inside };
        router.apply()?;
        router.set_lifetime(router.nat.lifetime)?;
        Ok(router)
    }

    /// Where it runs.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address outside.
    #[must_use]
    pub fn public(&self) -> Ipv4Addr {
        self.public
    }

    /// How it is linked to what is above it.
    #[must_use]
    pub fn uplink(&self) -> &Attachment {
        &self.uplink
    }

    /// Links a namespace to its inside.
    pub(super) fn attach(&mut self, lower: &Namespace, interface: &str, wanted: Wanted) -> anyhow::Result<Attachment> {
        self.inside.attach(&self.namespace, lower, interface, wanted)
    }

    /// Changes its address outside to the spare one, and back again at the next call: all bindings are gone.
    ///
    /// # Errors
    /// What the kernel or nft said.
    pub fn change_address(&mut self) -> anyhow::Result<Ipv4Addr> {
        let (old, new) = other(&self.uplink, self.public);
        swap(&self.namespace, OUT, old, new, &self.uplink)?;
        self.public = new;
        self.apply()?;
        Ok(new)
    }

    /// Forgets all bindings, as a router that is started again.
    ///
    /// # Errors
    /// What nft or conntrack said.
    pub fn forget(&self) -> anyhow::Result<()> {
        self.apply()?;
        // Taking the address away for a moment makes the kernel forget the masqueraded flows.
        swap(&self.namespace, OUT, self.public, other(&self.uplink, self.public).1, &self.uplink)?;
        swap(&self.namespace, OUT, other(&self.uplink, self.public).1, self.public, &self.uplink)
    }

    fn apply(&self) -> anyhow::Result<()> {
        nft::apply(&self.namespace, &rules::table(&self.nat, self.public))
    }

    fn set_lifetime(&self, lifetime: Duration) -> anyhow::Result<()> {
        let seconds = lifetime.as_secs().max(1).to_string();
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            links::setting(&self.namespace, &format!("netfilter/{name}"), &seconds)?;
        }
        Ok(())
    }
}

/// The address in use, and the one of the two that is not.
pub(super) fn other(uplink: &Attachment, current: Ipv4Addr) -> (Ipv4Addr, Ipv4Addr) {
    (current, if current == uplink.address() { uplink.spare() } else { uplink.address() })
}

/// Replaces an interface's address; routes stay.
pub(super) fn swap(
    namespace: &Namespace,
    interface: &str,
    old: Ipv4Addr,
    new: Ipv4Addr,
    uplink: &Attachment,
) -> anyhow::Result<()> {
    links::address(namespace, interface, new.into(), uplink.network.prefix_len())?;
    links::remove_address(namespace, interface, old.into())
}
