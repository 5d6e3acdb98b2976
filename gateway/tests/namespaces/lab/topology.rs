//! Two sites and the network between them.
//!
//! ```text
//!   a: wan0 10.77.0.1, fd77::1 ----+                        +---- b: wan0 10.77.0.2, fd77::2
//!                                  net: br0 10.77.0.254, fd77::fe
//! ```
//!
//! Enters: a laboratory. Leaves: namespaces with addresses, and gateways that know each other. Never does: start a
//! gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Gateway, Keys, Lab, Namespace, Outside, Peer, Program, Veth};

/// Queues of either wan interface.
const QUEUES: u32 = 2;
/// The UDP port of every gateway.
pub(crate) const PORT: u16 = 51820;

/// The two sites.
pub(crate) struct Sites {
    /// One site's gateway.
    pub(crate) a: Namespace,
    /// The other site's gateway.
    pub(crate) b: Namespace,
    /// What lies between them.
    pub(crate) net: Namespace,
}

/// A site's IPv4 address inside the tunnel.
pub(crate) fn tunnel_v4(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 88, 0, host).into()
}

/// A site's IPv6 address inside the tunnel.
pub(crate) fn tunnel_v6(host: u8) -> IpAddr {
    Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, host.into()).into()
}

impl Sites {
    /// Makes the namespaces and links.
    #[track_caller]
    pub(crate) fn build(lab: &Lab) -> Self {
        let sites = Self { a: lab.namespace("a"), b: lab.namespace("b"), net: lab.namespace("net") };
        sites.net.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        sites.net.ip("link set br0 up");
        sites.net.ip("addr add 10.77.0.254/24 dev br0");
        sites.net.ip("addr add fd77::fe/64 dev br0");
        for (namespace, host, port) in [(&sites.a, 1, "pa"), (&sites.b, 2, "pb")] {
            Veth { left: (namespace, "wan0"), right: (&sites.net, port), queues: QUEUES }.create();
            sites.net.ip(&format!("link set {port} master br0"));
            namespace.ip(&format!("addr add 10.77.0.{host}/24 dev wan0"));
            namespace.ip(&format!("addr add fd77::{host}/64 dev wan0"));
            // A changed MAC address is announced, as it is by whatever makes an address move in practice.
            namespace.sysctl("net.ipv4.conf.wan0.arp_notify", "1");
            namespace.sysctl("net.ipv6.conf.wan0.ndisc_notify", "1");
        }
        sites
    }

    /// A gateway for each site that knows the other's key and address.
    pub(crate) fn gateways(&self, lab: &Lab, a: Program, b: Program, outside: Outside) -> (Gateway, Gateway) {
        let keys = (Keys::generate(), Keys::generate());
        let preshared = Keys::preshared();
        let make = |namespace: &Namespace, program, role, keys: &Keys, other: &Keys, host: u8, other_host: u8| {
            let mut gateway = Gateway::new(lab, namespace, program, role, keys.clone());
            gateway.addresses = vec![format!("{}/24", tunnel_v4(host)), format!("{}/64", tunnel_v6(host))];
            gateway.port = PORT;
            gateway.peers = vec![Peer {
                public_key: other.public.clone(),
                preshared_key: Some(preshared.clone()),
                endpoint: Some(SocketAddr::new(outside.address(other_host), PORT)),
                allowed_ips: vec![format!("{}/32", tunnel_v4(other_host)), format!("{}/128", tunnel_v6(other_host))],
                keepalive: None,
            }];
            gateway
        };
        (make(&self.a, a, 'a', &keys.0, &keys.1, 1, 2), make(&self.b, b, 'b', &keys.1, &keys.0, 2, 1))
    }
}
