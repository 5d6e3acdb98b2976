//! Two sites that know of each other's key alone, and introducers on the internet that both are linked to.
//!
//! ```text
//! host -- gateway a -- NAT -- the internet -- NAT -- gateway b -- host
//!                                 |
//!                     introducers, which may relay too
//! ```
//!
//! Enters: accesses and what the gateways are told. Leaves: gateways that can be started one by one, and the path
//! between the hosts. Never does: tell a site where the other one is.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context as _;

use super::internet::{Internet, Server};
use super::kind::{Access, Kind};
use super::port_mapper::{PortMapper, Protocols};
use super::site::{LAN, Site};
use super::stun_server::{self, StunServer};
use crate::config::keys;
use crate::lab::gateway::Gateway;
use crate::lab::scratch::Scratch;
use crate::lab::{Path, links};
use crate::settings::Secret;
use crate::status::{PeerStatus, Status};

/// The UDP port of every gateway.
pub const PORT: u16 = 51820;
/// What the names of a scene's directories begin with.
pub const SCRATCH: &str = "nat-";
/// Inside the tunnel a full packet still fits the 1500 bytes of a link.
const MTU: u32 = 1420;

/// What a scene is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program `landbridge`.
    pub program: PathBuf,
    /// What the names of namespaces begin with.
    pub prefix: String,
    /// What the names of tunnel interfaces begin with: eleven letters at most.
    pub interfaces: String,
    /// The uplinks of both sites.
    pub accesses: [Vec<Access>; 2],
    /// How many introducers there are.
    pub introducers: usize,
    /// Whether the introducers relay too.
    pub relay: bool,
    /// Whether there is a STUN server, which the sites know.
    pub stun: bool,
    /// What the routers of either site map ports by; the sites ask for it where one is.
    pub mappers: [Option<Protocols>; 2],
    /// Whether the second site is behind the router of the first.
    pub neighbours: bool,
    /// How narrow the internet is, and whether it says so by ICMP.
    pub narrow: Option<(u32, bool)>,
    /// The wan backend of all gateways.
    pub wan: &'static str,
    /// Lines for the configuration of both sites, before their peers.
    pub extra: String,
}

/// Who runs a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// An introducer.
    Introducer(usize),
    /// A site.
    Site(usize),
}

/// Namespaces and keys; gateways as they are started.
#[derive(Debug)]
pub struct Scene {
    // Fields are dropped in this order: programs before the namespaces that they run in.
    introducer_gateways: Vec<Option<Gateway>>,
    site_gateways: [Option<Gateway>; 2],
    _mappers: Vec<PortMapper>,
    stun: Option<(StunServer, Server)>,
    scratch: Scratch,
    /// The introducers.
    pub introducers: Vec<Server>,
    /// Both sites.
    pub sites: [Site; 2],
    /// What links all of them.
    pub internet: Internet,
    keys: Vec<Secret>,
    options: Options,
}

impl Options {
    /// Two sites with one uplink each and one introducer that relays.
    #[must_use]
    pub fn new(program: PathBuf, prefix: &str, kinds: [Kind; 2]) -> Self {
        Self {
            program,
            prefix: prefix.to_owned(),
            interfaces: format!("lbn{}", std::process::id()),
            accesses: kinds.map(|kind| vec![Access::new(kind)]),
            introducers: 1,
            relay: true,
            stun: false,
            mappers: [None, None],
            neighbours: false,
            narrow: None,
            wan: "udp",
            extra: String::new(),
        }
    }
}

impl Member {
    fn role(self) -> String {
        match self {
            Self::Introducer(number) => format!("i{number}"),
            Self::Site(0) => "a".to_owned(),
            Self::Site(_) => "b".to_owned(),
        }
    }

    /// The name in the configurations of the others.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Introducer(number) => format!("introducer-{number}"),
            Self::Site(0) => "site-a".to_owned(),
            Self::Site(_) => "site-b".to_owned(),
        }
    }

    fn key(self) -> usize {
        match self {
            Self::Site(number) => number,
            Self::Introducer(number) => 2 + number,
        }
    }

    /// Its address inside the tunnel.
    fn tunnel(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 82, 0, 1 + self.key() as u8)
    }
}

impl Scene {
    /// Makes the namespaces; nothing runs in them yet but the STUN server.
    ///
    /// # Errors
    /// What the kernel or a program said.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let mut internet = Internet::new(&options.prefix)?;
        let names = (0..options.introducers).map(|number| Member::Introducer(number).role());
        let introducers = names.map(|role| internet.server(&role)).collect::<anyhow::Result<Vec<_>>>()?;
        let addresses: Vec<Ipv4Addr> = introducers.iter().map(Server::address).collect();
        let site = |internet: &mut Internet, number: usize| {
            let accesses = options.accesses[number].iter().cloned().map(|access| match access.kind {
                Kind::Blocked if access.allowed.is_empty() => access.allowing(addresses.clone()),
                _ => access,
            });
            internet.site(&Member::Site(number).role(), &accesses.collect::<Vec<_>>())
        };
        let mut first = site(&mut internet, 0)?;
        let second = match options.neighbours {
            false => site(&mut internet, 1)?,
            true => internet.neighbour(&Member::Site(1).role(), first.uplinks[0].inner_router())?,
        };
        let sites = [first, second];
        let mappers = sites
            .iter()
            .zip(options.mappers)
            .filter_map(|(site, protocols)| Some(PortMapper::start(site.uplinks[0].routers.last()?, protocols?)));
        let mappers = mappers.collect::<anyhow::Result<Vec<_>>>()?;
        let stun = options.stun.then(|| {
            let server = internet.server("stun")?;
            Ok::<_, anyhow::Error>((StunServer::start(&server)?, server))
        });
        if let Some((mtu, icmp)) = options.narrow {
            internet.narrow(mtu, icmp)?;
        }
        let keys = (0..2 + options.introducers).map(|_| keys::generate_private()).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            introducer_gateways: introducers.iter().map(|_| None).collect(),
            site_gateways: [None, None],
            _mappers: mappers,
            stun: stun.transpose()?,
            scratch: Scratch::new(SCRATCH)?,
            introducers,
            sites,
            internet,
            keys: keys.context("the system gives no randomness")?,
            options,
        })
    }

    /// From the host of the first site to that of the second.
    #[must_use]
    pub fn path(&self) -> Path<'_> {
        let [a, b] = &self.sites;
        Path { from: &a.host, to: &b.host, address: b.host_address().into() }
    }

    /// Starts a gateway, and does not wait for it.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn start(&mut self, member: Member) -> anyhow::Result<()> {
        let interface = format!("{}{}", self.options.interfaces, member.role());
        let key = format!("{}.key", member.role());
        if self.slot(member).take().is_some() {
            self.scratch.remove(&[&key, &format!("{interface}.toml"), &format!("{interface}.log")]);
        }
        self.scratch.write(&key, &keys::encode(&self.keys[member.key()]))?;
        let text = match member {
            Member::Introducer(_) => self.introducers_configuration(member, &interface),
            Member::Site(number) => self.sites_configuration(number, &interface),
        };
        let namespace = match member {
            Member::Introducer(number) => &self.introducers[number].namespace,
            Member::Site(number) => &self.sites[number].gateway,
        };
        let gateway = Gateway::start(&self.options.program, namespace, &self.scratch, &interface, &text)?;
        *self.slot(member) = Some(gateway);
        Ok(())
    }

    /// Ends a gateway.
    pub fn stop(&mut self, member: Member) {
        let interface = format!("{}{}", self.options.interfaces, member.role());
        if self.slot(member).take().is_some() {
            let names = [format!("{}.key", member.role()), format!("{interface}.toml"), format!("{interface}.log")];
            self.scratch.remove(&names.each_ref().map(String::as_str));
        }
    }

    /// A gateway that runs.
    ///
    /// # Errors
    /// One that was not started.
    pub fn gateway(&self, member: Member) -> anyhow::Result<&Gateway> {
        let slot = match member {
            Member::Introducer(number) => self.introducer_gateways[number].as_ref(),
            Member::Site(number) => self.site_gateways[number].as_ref(),
        };
        slot.with_context(|| format!("the gateway of {} does not run", member.name()))
    }

    /// The same, to wait for.
    ///
    /// # Errors
    /// One that was not started.
    pub fn gateway_mut(&mut self, member: Member) -> anyhow::Result<&mut Gateway> {
        self.slot(member).as_mut().with_context(|| format!("the gateway of {} does not run", member.name()))
    }

    fn slot(&mut self, member: Member) -> &mut Option<Gateway> {
        match member {
            Member::Introducer(number) => &mut self.introducer_gateways[number],
            Member::Site(number) => &mut self.site_gateways[number],
        }
    }

    /// What a gateway says of one of its peers.
    ///
    /// # Errors
    /// One that does not run or answer, or has no such peer.
    pub fn peer(&self, of: Member, peer: Member) -> anyhow::Result<PeerStatus> {
        let Status { peers, .. } = self.gateway(of)?.status()?;
        let name = peer.name();
        let found = peers.into_iter().find(|status| status.name.as_deref() == Some(&name));
        found.with_context(|| format!("{} has no peer {name}", of.name()))
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let all = self.introducer_gateways.iter().chain(&self.site_gateways);
        all.flatten().map(Gateway::log).collect()
    }

    fn introducers_configuration(&self, member: Member, interface: &str) -> String {
        let relay = if self.options.relay { "[relay]\nenabled = true\n" } else { "" };
        let mut text = self.head(member, interface, "[\"wan0\"]");
        text += &format!("[nat]\nport_mapping = \"off\"\nintroduce = true\n{relay}");
        for site in [Member::Site(0), Member::Site(1)] {
            text += &self.peer_section(site, &format!("\"{}/32\"", site.tunnel()), None);
        }
        text
    }

    fn sites_configuration(&self, number: usize, interface: &str) -> String {
        let (site, other) = (Member::Site(number), Member::Site(1 - number));
        let uplinks: Vec<String> =
            self.sites[number].uplinks.iter().map(|uplink| format!("\"{}\"", uplink.link.interface)).collect();
        let mut text = self.head(site, interface, &format!("[{}]", uplinks.join(", ")));
        let mapping = if self.options.mappers[number].is_some() { "auto" } else { "off" };
        let _infallible = write!(text, "[nat]\nport_mapping = \"{mapping}\"\n");
        if let Some((_, server)) = &self.stun {
            let _infallible = writeln!(text, "stun = [\"{}:{}\"]", server.address(), stun_server::PORT);
        }
        text += &self.options.extra;
        let ipv4 = self.sites[number].uplinks.iter().any(|uplink| uplink.link.has_v4);
        for (index, introducer) in self.introducers.iter().enumerate() {
            let address: IpAddr = if ipv4 { introducer.address().into() } else { introducer.link.address_v6().into() };
            let introducer = Member::Introducer(index);
            text += &self.peer_section(introducer, &format!("\"{}/32\"", introducer.tunnel()), Some(address));
        }
        let network = self.sites[1 - number].network();
        text += &self.peer_section(other, &format!("\"{}/32\", \"{network}\"", other.tunnel()), None);
        text
    }

    fn head(&self, member: Member, interface: &str, interfaces: &str) -> String {
        let (role, address, wan) = (member.role(), member.tunnel(), self.options.wan);
        format!(
            "[interface]\nname = \"{interface}\"\nprivate_key_file = \"{role}.key\"\nlisten_port = {PORT}\n\
             addresses = [\"{address}/32\"]\nmtu = {MTU}\n[wan]\nbackend = \"{wan}\"\ninterfaces = {interfaces}\n\
             [lan]\nbackend = \"tun\"\ninterfaces = [\"{LAN}\"]\n"
        )
    }

    /// A peer; with an address it is one that the link is kept up to.
    fn peer_section(&self, peer: Member, allowed: &str, address: Option<IpAddr>) -> String {
        let key = keys::public(&self.keys[peer.key()]);
        let name = peer.name();
        let mut text = format!("[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\nallowed_ips = [{allowed}]\n");
        if let Some(address) = address {
            let place = std::net::SocketAddr::new(address, PORT);
            let _infallible = write!(text, "endpoint = \"{place}\"\npersistent_keepalive = 25\n");
        }
        text
    }

    /// Has the hosts' kernels cut packets to what fits a narrow tunnel, as hosts do that were told.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_lan_mtu(&self, mtu: u32) -> anyhow::Result<()> {
        self.sites.iter().try_for_each(|site| links::set_mtu(&site.host, LAN, mtu))
    }
}
