//! Virtual Ethernet between namespaces.
//!
//! Enters: two namespaces. Leaves: a link between them. Never does: touch a namespace that the laboratory did not make.

use super::{Namespace, run};

/// A pair of virtual Ethernet interfaces.
pub(crate) struct Veth<'a> {
    /// One end and its name.
    pub(crate) left: (&'a Namespace, &'a str),
    /// The other end.
    pub(crate) right: (&'a Namespace, &'a str),
    /// Receive and transmit queues of either end.
    pub(crate) queues: u32,
}

impl Veth<'_> {
    /// Makes the pair and brings both ends up.
    #[track_caller]
    pub(crate) fn create(&self) {
        let queues = self.queues.to_string();
        run(&[
            "ip",
            "link",
            "add",
            self.left.1,
            "netns",
            self.left.0.name(),
            "numrxqueues",
            &queues,
            "numtxqueues",
            &queues,
            "type",
            "veth",
            "peer",
            "name",
            self.right.1,
            "netns",
            self.right.0.name(),
            "numrxqueues",
            &queues,
            "numtxqueues",
            &queues,
        ]);
        for (namespace, name) in [self.left, self.right] {
            plain(namespace, name);
            namespace.ip(&format!("link set {name} up"));
        }
    }
}

/// Switches off what a physical wire could not carry: unfinished checksums and super-packets.
#[track_caller]
pub(crate) fn plain(namespace: &Namespace, name: &str) {
    namespace.run(&[
        "ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off", "txvlan", "off", "rxvlan", "off",
    ]);
}
