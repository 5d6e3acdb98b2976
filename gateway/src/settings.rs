//! What a gateway is told to be: validated, complete, and independent of the file it was read from.
//!
//! Enters: nothing; [`crate::config`] and the command line make these values. Leaves: nothing; they are
//! read by [`crate::control`] at start. Never does: parse text.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipnet::IpNet;
use zeroize::Zeroizing;

/// A private or preshared key, wiped when it is dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Zeroizing<[u8; 32]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A peer's or our own public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The tunnel interface.
    pub interface: String,
    /// Our private key; a `wg` interface starts without one.
    pub private_key: Option<Secret>,
    /// The UDP port; `None` picks a free one.
    pub listen_port: Option<u16>,
    /// Mark of outer packets, for policy routing.
    pub fwmark: Option<u32>,
    /// Addresses of the tunnel interface.
    pub addresses: Vec<IpNet>,
    /// MTU of the tunnel interface; `None` derives it from the routes to the endpoints.
    pub mtu: Option<u32>,
    /// Where the routes to the peers' allowed IPs go.
    pub table: RouteTable,
    /// Name servers and search domains, for resolvconf.
    pub dns: Vec<String>,
    /// Commands around start and stop; `%i` stands for the interface.
    pub hooks: Hooks,
    /// The side towards the internet.
    pub wan: Wan,
    /// The side towards the site.
    pub lan: Lan,
    /// How peers behind NATs are found.
    pub nat: NatSettings,
    /// Forwarding of sealed datagrams between peers.
    pub relay: RelaySettings,
    /// How many lanes; `None` picks by cores and queues.
    pub lanes: Option<usize>,
    /// Whether each lane keeps to one core; `None`: where cores remain for everything else, and with rings on the lan.
    pub pin: Option<bool>,
    /// What seals and opens packets.
    pub crypto: Crypto,
    /// Small frames of packet memory per lane; zero picks by the number of rings.
    pub frames_per_lane: u32,
    /// Where Prometheus scrapes.
    pub metrics: Option<SocketAddr>,
    /// Measure the stages of one turn of a lane in so many; `None` for none.
    pub stages: Option<NonZeroU32>,
    /// User to become after start.
    pub user: Option<String>,
    /// The other sites.
    pub peers: Vec<Peer>,
}

/// The wan side.
#[derive(Debug, Clone, Default)]
pub struct Wan {
    /// Which backend.
    pub backend: WanBackend,
    /// Interfaces that the `xdp` backend binds to; empty: the one that the default route or the endpoints' routes use.
    pub interfaces: Vec<String>,
    /// How the XDP program is attached.
    pub xdp_mode: XdpMode,
    /// Never try zero-copy.
    pub copy: bool,
    /// Never let a packet take several frames of a ring, of either side.
    pub one_buffer: bool,
    /// Entries of each AF_XDP ring, of either side; zero picks by their number.
    pub ring: u32,
    /// Busy polling budget; `None` for off.
    pub busy_poll: Option<u32>,
    /// Source ports beside the listen port, for peers that agree to them.
    pub source_ports: u8,
    /// Who computes the UDP checksum of datagrams over IPv6 that leave by rings.
    pub checksum_offload: ChecksumOffload,
}

/// How peers behind NATs are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatSettings {
    /// STUN servers, which tell the gateway its address as the internet sees it.
    pub stun: Vec<EndpointName>,
    /// Protocols by which the router is asked to map a port; empty for none.
    pub port_mapping: Vec<MappingProtocol>,
    /// Give peers our addresses, and reach them at theirs; else by relays alone.
    pub direct: bool,
    /// Introduce our peers to each other.
    pub introduce: bool,
    /// Search the port of a peer behind a symmetric NAT.
    pub spray: bool,
}

impl Default for NatSettings {
    fn default() -> Self {
        Self {
            stun: Vec::new(),
            port_mapping: MappingProtocol::ALL.to_vec(),
            direct: true,
            introduce: false,
            spray: true,
        }
    }
}

/// A protocol by which a router is asked to map a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MappingProtocol {
    /// The Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT-PMP, RFC 6886.
    NatPmp,
    /// UPnP's Internet Gateway Device.
    Upnp,
}

impl MappingProtocol {
    /// All of them, the one that is asked first first.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

/// Forwarding of sealed datagrams between two of our peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelaySettings {
    /// Whether anything is forwarded.
    pub enabled: bool,
    /// What forwards.
    pub backend: RelayBackend,
    /// The UDP ports of allocations: two for each.
    pub ports: RelayPorts,
    /// Million bits a second that each end of an allocation may send; 0 for no limit.
    pub rate_mbps: u32,
    /// Fixed allocations, for peers that know nothing of relays.
    pub links: Vec<RelayLink>,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            enabled: false,
            backend: RelayBackend::Auto,
            ports: RelayPorts { first: 51_900, last: 52_155 },
            rate_mbps: 1000,
            links: Vec::new(),
        }
    }
}

/// What forwards relayed datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayBackend {
    /// The XDP program where the interfaces at hand can, else a thread.
    #[default]
    Auto,
    /// The XDP program, and a thread for what that leaves.
    Xdp,
    /// A thread with sockets.
    User,
}

/// A range of UDP ports; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayPorts {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl RelayPorts {
    /// Whether a port is among them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// How many they are.
    #[must_use]
    pub const fn count(self) -> u16 {
        (self.last - self.first).saturating_add(1)
    }
}

impl fmt::Display for RelayPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A fixed allocation for two peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLink {
    /// Who they are.
    pub peers: [PublicKey; 2],
    /// The port that each of them sends to, to reach the other.
    pub ports: [u16; 2],
}

/// Which backend the wan side uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WanBackend {
    /// The best that the driver at hand supports.
    #[default]
    Auto,
    /// AF_XDP rings.
    Xdp,
    /// The kernel's UDP socket with segmentation offload.
    Udp,
}

/// Whether interfaces with rings compute the UDP checksum that datagrams over IPv6 must have (over IPv4 they have none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumOffload {
    /// Where that is faster: with zero-copy rings whose driver declares it.
    #[default]
    Auto,
    /// In copy mode, too: there the interface does what it does for the kernel's own packets, and the kernel the rest.
    On,
    /// Never.
    Off,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// Native where the driver has it, generic else.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
}

/// What seals and opens packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Crypto {
    /// The fastest that works on this CPU.
    #[default]
    Auto,
    /// `ring`, packet by packet.
    Ring,
    /// Several packets at once, in the lanes of wide registers.
    Multibuffer,
}

/// The lan side.
#[derive(Debug, Clone, Default)]
pub struct Lan {
    /// Which backend.
    pub backend: LanBackend,
    /// Interfaces that the `xdp` backend binds to.
    pub interfaces: Vec<String>,
    /// How the XDP program is attached to them.
    pub xdp_mode: XdpMode,
    /// Never try zero-copy on them.
    pub copy: bool,
    /// Offer segmentation offload on the TUN.
    pub offloads: bool,
}

/// Which backend the lan side uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LanBackend {
    /// The best that is there.
    #[default]
    Auto,
    /// A TUN device.
    Tun,
    /// AF_XDP rings for what is forwarded, beside the TUN device.
    Xdp,
}

/// Where routes to allowed IPs are put, as in wg-quick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteTable {
    /// The main table; a default route gets a table of its own and two rules, as wg-quick does.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// This table.
    Id(u32),
}

/// Commands around start and stop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are wg-quick's")]
pub struct Hooks {
    pub pre_up: Vec<String>,
    pub post_up: Vec<String>,
    pub pre_down: Vec<String>,
    pub post_down: Vec<String>,
}

/// A peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its key.
    pub public_key: PublicKey,
    /// A name for logs, status and metrics.
    pub name: Option<String>,
    /// Its preshared key.
    pub preshared_key: Option<Secret>,
    /// Where it is.
    pub endpoint: Option<EndpointName>,
    /// What lies behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Interval of persistent keepalives.
    pub persistent_keepalive: Option<Duration>,
    /// Speak the control channel with it.
    pub extensions: bool,
    /// Direct paths to it, or relays alone; `None` as for all peers.
    pub direct: Option<bool>,
}

/// An endpoint or a STUN server as written: an address or a host name, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointName {
    /// IPv4 address, IPv6 address without brackets, or host name.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where settings came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(pub PathBuf);
