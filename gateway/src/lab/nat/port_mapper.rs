//! miniupnpd: a real router's PCP, NAT-PMP and UPnP-IGD.
//!
//! Enters: a router of the laboratory. Leaves: a running `miniupnpd` that maps ports by nftables. Never does: map for
//! strangers.

use std::time::Duration;

use anyhow::Context as _;

use super::nft;
use super::program::{Directory, Program};
use super::router::{OUT, Router};

const PATIENCE: Duration = Duration::from_secs(10);
/// The chains that it fills.
const CHAINS: &str = "table inet filter {\n  chain miniupnpd { }\n  chain forward {\n    \
    type filter hook forward priority filter\n    jump miniupnpd\n  }\n  \
    chain prerouting_miniupnpd { }\n  chain postrouting_miniupnpd { }\n  \
    chain prerouting {\n    type nat hook prerouting priority dstnat\n    jump prerouting_miniupnpd\n  }\n  \
    chain postrouting {\n    type nat hook postrouting priority srcnat\n    jump postrouting_miniupnpd\n  }\n}\n";

/// Which protocols it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// PCP and NAT-PMP.
    PcpAndNatPmp,
    /// UPnP-IGD.
    Upnp,
    /// All three.
    All,
}

/// A running miniupnpd. Its epoch (RFC 6887 section 8.5) begins with it: dropped and started again it is a router that was
/// started again, once [`PortMapper::forget`] took away what it had written.
#[derive(Debug)]
pub struct PortMapper {
    _program: Program,
}

impl PortMapper {
    /// Starts it on a router, for those behind `in0`, and waits until it listens.
    ///
    /// # Errors No such program (package miniupnpd-nftables), or one that does not come up; it wants an address
    /// outside that is not reserved for documentation: see [`super::Access::mappable`].
    pub fn start(router: &Router, protocols: Protocols) -> anyhow::Result<Self> {
        let namespace = router.namespace();
        nft::apply(namespace, CHAINS)?;
        let yes = |one: bool| if one { "yes" } else { "no" };
        let mut text = format!("ext_ifname={OUT}\nlistening_ip=in0\nport=5000\n");
        let _infallible = std::fmt::Write::write_fmt(
            &mut text,
            format_args!(
                "enable_natpmp={}\nenable_upnp={}\nsecure_mode=yes\nsystem_uptime=no\n\
             upnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             uuid=1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed\nallow 1024-65535 192.168.0.0/16 1024-65535\n\
             deny 0-65535 0.0.0.0/0 0-65535\n",
                yes(protocols != Protocols::Upnp),
                yes(protocols != Protocols::PcpAndNatPmp),
            ),
        );
        let directory = Directory::new("miniupnpd")?;
        let configuration = directory.path("miniupnpd.conf");
        std::fs::write(&configuration, text).context("the configuration of miniupnpd")?;
        let arguments = ["-d", "-f", &configuration, "-P", &directory.path("pid")].map(str::to_owned);
        let mut program = Program::start(namespace, "miniupnpd", &arguments, directory)?;
        let port = if protocols == Protocols::Upnp { 1900 } else { 5351 };
        program.wait_until(PATIENCE, || namespace.run(move || Ok(listens(port))))?;
        Ok(Self { _program: program })
    }
}

impl PortMapper {
    /// Takes away all that was mapped on a router, with the chains.
    ///
    /// # Errors
    /// What nft said.
    pub fn forget(router: &Router) -> anyhow::Result<()> {
        nft::apply(router.namespace(), "delete table inet filter\n")
    }
}

/// Whether a UDP socket of this namespace is bound to a port.
fn listens(port: u16) -> bool {
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    tables.iter().any(|path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let ports = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)?.rsplit(':').next());
        ports.filter_map(|digits| u16::from_str_radix(digits, 16).ok()).any(|bound| bound == port)
    })
}

/// The base of addresses outside that miniupnpd takes for public ones.
pub(super) const PUBLIC: [u8; 3] = [128, 66, 0];
