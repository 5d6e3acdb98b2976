//! One mapping of a UDP port by one protocol.
//!
//! Enters: a router, our port. Leaves: a [`Lease`], or why there is none. Never does: take more than a few seconds, or a
//! mapping on another device than the router.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, GetGenericPortMappingEntryError, PortMappingProtocol, SearchOptions};

use super::epoch::Epoch;
use super::{Mapped, Router};
use crate::settings::MappingProtocol;

/// What is asked for: a router that loses its power forgets us, so that long leases are no worse than short ones, and a gateway
/// that does gives its port free within the hour.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Requests by UDP are given up after 2.75 s.
const TIMEOUTS: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(1)),
};
/// How long the router itself may take to answer a search, which is then repeated for everybody.
const SEARCH_ROUTER: Duration = Duration::from_millis(800);
const SEARCH_ALL: Duration = Duration::from_secs(2);
/// How long all requests of one step may take, by HTTP.
const PATIENCE: Duration = Duration::from_secs(6);
/// Entries of a router's list that are read to find ours: by HTTP, one each.
const ENTRIES_MAX: u32 = 32;
/// What the router's pages show.
const DESCRIPTION: &str = "landbridge";

/// Why there is no mapping, in the words of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }

    fn timeout() -> Self {
        Self("no answer in time".to_owned())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A granted mapping.
#[derive(Debug)]
pub struct Lease {
    held: Held,
    mapped: Mapped,
}

/// What a renewal has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The router has had it all the time.
    Kept,
    /// The router had forgotten it, and has it again.
    Restored,
}

#[derive(Debug)]
enum Held {
    /// PCP or NAT-PMP.
    Udp(PortMapping, Epoch),
    Upnp {
        gateway: Box<Gateway<Tokio>>,
        client: SocketAddr,
        seconds: u32,
    },
}

impl Lease {
    /// Asks the router to forward the port to us, and the port of the same number if that can be had.
    ///
    /// # Errors
    /// No answer, a refusal, or an answer that is none.
    pub async fn obtain(protocol: MappingProtocol, router: Router, port: NonZeroU16) -> Result<Self, Failure> {
        let lease = match protocol {
            MappingProtocol::Pcp => {
                let gateway = match router.address {
                    IpAddr::V4(v4) => GatewayAddress::IpV4(v4),
                    IpAddr::V6(v6) => GatewayAddress::IpV6(v6, router.scope),
                };
                let base = pcp::BaseMapRequest::new(gateway, router.client, InternetProtocol::Udp, port);
                let mapping = pcp::port_mapping(base, None, None, options(port)).await.map_err(Failure::new)?;
                Self::of_udp(mapping).await?
            }
            MappingProtocol::NatPmp => {
                let IpAddr::V4(address) = router.address else { return Err(Failure::new("it is for IPv4 alone")) };
                let gateway = GatewayAddress::IpV4(address);
                let mapping = natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options(port)).await;
                Self::of_udp(mapping.map_err(Failure::new)?).await?
            }
            MappingProtocol::Upnp => {
                let obtained = tokio::time::timeout(PATIENCE, obtain_upnp(router, port)).await;
                obtained.map_err(|_| Failure::timeout())??
            }
        };
        let external = lease.mapped.external;
        let reserved = match external.ip() {
            IpAddr::V4(v4) => router.client.is_ipv6() || v4.is_broadcast() || v4.is_loopback() || v4.is_link_local(),
            // A pinhole is at our own address; a router that says another translates, and is not understood.
            IpAddr::V6(_) => external.ip() != router.client,
        };
        if reserved || external.ip().is_unspecified() || external.ip().is_multicast() || external.port() == 0 {
            lease.release().await;
            return Err(Failure::new(format_args!("the router has no address outside ({})", external.ip())));
        }
        Ok(lease)
    }

    async fn of_udp(mapping: PortMapping) -> Result<Self, Failure> {
        let (protocol, address) = match mapping.mapping_type() {
            PortMappingType::Pcp { external_ip, .. } => (MappingProtocol::Pcp, external_ip.to_canonical()),
            PortMappingType::NatPmp => {
                let address =
                    natpmp::external_address(mapping.gateway(), Some(TIMEOUTS)).await.map_err(Failure::new)?;
                (MappingProtocol::NatPmp, IpAddr::V4(address))
            }
        };
        let external = SocketAddr::new(address, mapping.external_port().get());
        let lifetime = Some(Duration::from_secs(u64::from(mapping.lifetime())));
        let epoch = Epoch { seconds: mapping.gateway_epoch(), at: Instant::now() };
        Ok(Self { mapped: Mapped { protocol, external, lifetime }, held: Held::Udp(mapping, epoch) })
    }

    /// What is granted.
    #[must_use]
    pub fn mapped(&self) -> Mapped {
        self.mapped
    }

    /// Asks for it again, before it ends. The place may be another one afterwards.
    ///
    /// # Errors
    /// As [`Lease::obtain`]; what was granted is still so until its time is over.
    pub async fn renew(&mut self) -> Result<Renewed, Failure> {
        let was_kept = match &mut self.held {
            Held::Udp(mapping, epoch) => {
                let (before, mut renewed) = (*epoch, mapping.clone());
                renewed.renew().await.map_err(Failure::new)?;
                let after = Epoch { seconds: renewed.gateway_epoch(), at: Instant::now() };
                *self = Self::of_udp(renewed).await?;
                !before.is_of_another_life(&after)
            }
            Held::Upnp { gateway, client, seconds } => {
                let port = self.mapped.external.port();
                let renewed = async {
                    let was_kept = has(gateway, port, *client).await;
                    add(gateway, port, *client, *seconds).await.map_err(Failure::new)?;
                    Ok::<_, Failure>((was_kept, gateway.get_external_ip().await.map_err(Failure::new)?))
                };
                let renewed = tokio::time::timeout(PATIENCE, renewed).await.map_err(|_| Failure::timeout())?;
                let (was_kept, address) = renewed?;
                self.mapped.external = SocketAddr::new(address, port);
                was_kept
            }
        };
        Ok(if was_kept { Renewed::Kept } else { Renewed::Restored })
    }

    /// Gives it back. A router that does not listen lets it end by itself.
    pub async fn release(self) {
        match self.held {
            Held::Udp(mapping, _) => {
                if let Err((error, _)) = mapping.try_drop().await {
                    tracing::debug!(%error, "a mapping is left to end by itself");
                }
            }
            Held::Upnp { gateway, .. } => {
                let removed = gateway.remove_port(PortMappingProtocol::UDP, self.mapped.external.port());
                match tokio::time::timeout(PATIENCE, removed).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a mapping is left to end by itself"),
                    Err(_) => tracing::debug!("a mapping is left to end by itself: no answer"),
                }
            }
        }
    }
}

fn options(port: NonZeroU16) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LIFETIME.as_secs() as u32),
        timeout_config: Some(TIMEOUTS),
    }
}

async fn obtain_upnp(router: Router, port: NonZeroU16) -> Result<Lease, Failure> {
    let gateway = find(router).await?;
    let client = SocketAddr::new(router.client, port.get());
    let mut seconds = LIFETIME.as_secs() as u32;
    let mut added = add(&gateway, port.get(), client, seconds).await;
    if matches!(added, Err(AddPortError::OnlyPermanentLeasesSupported)) {
        seconds = 0;
        added = add(&gateway, port.get(), client, seconds).await;
    }
    let external = match added {
        Ok(()) => port.get(),
        Err(AddPortError::PortInUse) => {
            gateway.add_any_port(PortMappingProtocol::UDP, client, seconds, DESCRIPTION).await.map_err(Failure::new)?
        }
        Err(error) => return Err(Failure::new(error)),
    };
    let address = gateway.get_external_ip().await.map_err(Failure::new)?;
    let mapped = Mapped {
        protocol: MappingProtocol::Upnp,
        external: SocketAddr::new(address, external),
        lifetime: (seconds > 0).then_some(LIFETIME),
    };
    Ok(Lease { held: Held::Upnp { gateway: Box::new(gateway), client, seconds }, mapped })
}

async fn add(gateway: &Gateway<Tokio>, port: u16, client: SocketAddr, seconds: u32) -> Result<(), AddPortError> {
    gateway.add_port(PortMappingProtocol::UDP, port, client, seconds, DESCRIPTION).await
}

/// Whether the router's list has our port. A list that cannot be read, or is longer than anybody reads, says nothing: then it
/// is taken to.
async fn has(gateway: &Gateway<Tokio>, port: u16, client: SocketAddr) -> bool {
    for index in 0..ENTRIES_MAX {
        match gateway.get_generic_port_mapping_entry(index).await {
            Ok(entry) => {
                let is_udp = entry.protocol == PortMappingProtocol::UDP;
                let is_ours = entry.internal_client.parse() == Ok(client.ip()) && entry.internal_port == client.port();
                if is_udp && is_ours && entry.external_port == port {
                    return true;
                }
            }
            Err(GetGenericPortMappingEntryError::SpecifiedArrayIndexInvalid) => return false,
            Err(_) => return true,
        }
    }
    true
}

/// Asks the router itself first: on a network with several devices whoever answers first need not be the one of our route.
async fn find(router: Router) -> Result<Gateway<Tokio>, Failure> {
    if router.address.is_ipv6() {
        return Err(Failure::new("it is asked for IPv4 alone"));
    }
    let search = |to: Option<SocketAddr>, patience| {
        let mut options = SearchOptions::default();
        // The address also chooses the interface of a multicast (ip(7)).
        options.bind_addr = SocketAddr::new(router.client, 0);
        options.broadcast_address = to.unwrap_or(options.broadcast_address);
        options.timeout = Some(patience);
        options.single_search_timeout = Some(patience);
        search_gateway(options)
    };
    let itself = SocketAddr::new(router.address, 1900);
    let found = match search(Some(itself), SEARCH_ROUTER).await {
        Ok(gateway) => gateway,
        Err(_) => search(None, SEARCH_ALL).await.map_err(Failure::new)?,
    };
    if found.addr.ip() == router.address {
        Ok(found)
    } else {
        Err(Failure::new("another device than the router of the default route answered"))
    }
}
