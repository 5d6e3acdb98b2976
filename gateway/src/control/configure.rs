//! Configuration, from the settings at start and from the UAPI while running.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::Context as _;
use landbridge_proto::{NatConfig, PeerConfig, PeerId};

use super::names::{self, Resolved};
use super::netlink::routes::RouteQuery;
use super::paths::Network as _;
use super::sockets::Sockets;
use super::uapi::parse::{Errno, Set};
use super::uapi::set;
use super::{Control, watch};
use crate::datapath::report::Command;
use crate::settings::Settings;

impl Control {
    /// Takes keys and peers of the settings. Endpoints by name follow when they are resolved.
    ///
    /// # Errors
    /// More peers than a gateway can have, or a peer with our own key.
    pub fn configure_from(&mut self, settings: &Settings) -> anyhow::Result<()> {
        let now = Instant::now();
        let endpoint = &mut self.driver.endpoint;
        if let Some(key) = &settings.private_key {
            endpoint.set_private_key(Some(*key.0), now);
        }
        let nat = &settings.nat;
        let present = endpoint.nat_config();
        let config = NatConfig {
            direct: nat.direct,
            introduces: nat.introduce,
            spray: nat.spray,
            relays: settings.relay.enabled,
            ..present
        };
        endpoint.set_nat_config(now, config);
        for peer in &settings.peers {
            let literal = peer
                .endpoint
                .as_ref()
                .and_then(|name| name.host.parse::<IpAddr>().ok().map(|host| SocketAddr::new(host, name.port)));
            let config = PeerConfig {
                preshared_key: peer.preshared_key.as_ref().map_or([0; 32], |key| *key.0),
                endpoint: literal,
                allowed_ips: peer.allowed_ips.clone(),
                persistent_keepalive: peer.persistent_keepalive,
                without_channel: !peer.extensions,
                direct: peer.direct,
            };
            let id = self.driver.endpoint.add_peer(peer.public_key.0, config, now).with_context(|| {
                format!("peer {}: its key is our own, or there are too many peers", peer.public_key)
            })?;
            let host = peer.endpoint.clone().filter(|_| literal.is_none());
            if let Some(host) = &host {
                self.names.want(id, host.clone(), now);
            }
            self.driver.describe(id, peer.name.clone(), host);
            if let Some(remote) = literal {
                self.driver.locate(id, remote, None);
            }
        }
        self.open_links(&settings.relay)?;
        self.driver.settle(now);
        Ok(())
    }

    /// Applies a set: sockets first, as only they can fail.
    pub(super) fn configure(&mut self, set: Set) -> Errno {
        let now = Instant::now();
        if let Some(mark) = set.fwmark
            && let Err(error) = self.set_mark((mark != 0).then_some(mark))
        {
            tracing::warn!(%error, "the mark cannot be set");
            return errno_of(&error);
        }
        if let Some(port) = set.listen_port
            && (port == 0 || port != self.driver.socket.port())
            && let Err(error) = self.listen_on((port != 0).then_some(port))
        {
            tracing::warn!("{error:#}");
            return error.downcast_ref::<io::Error>().map_or(Errno::PORT_IN_USE, errno_of);
        }
        let endpoints: Vec<_> = set.peers.iter().filter_map(|peer| Some((peer.public_key, peer.endpoint?))).collect();
        match set::apply(&mut self.driver.endpoint, set, now) {
            Ok(touched) => {
                for peer in touched {
                    self.driver.adopt(peer);
                }
                self.locate(&endpoints);
                self.driver.settle(now);
                Errno::OK
            }
            Err(errno) => {
                self.driver.settle(now);
                errno
            }
        }
    }

    /// Paths are found even to an endpoint that is the same as before: the operator may have meant just that.
    fn locate(&mut self, endpoints: &[([u8; 32], SocketAddr)]) {
        for (key, remote) in endpoints {
            if let Some(peer) = self.driver.endpoint.peer_by_key(key) {
                // Who gives an address means it: a name of the configuration is not to take it back.
                self.driver.adopt(peer).host = None;
                self.driver.locate(peer, *remote, None);
            }
        }
    }

    fn set_mark(&mut self, mark: Option<u32>) -> io::Result<()> {
        self.driver.socket.set_mark(mark.unwrap_or(0))?;
        for socket in &self.lane_sockets {
            socket2::SockRef::from(socket).set_mark(mark.unwrap_or(0))?;
        }
        self.mark_source_ports(mark.unwrap_or(0))?;
        if let Some(relays) = &mut self.driver.relays {
            relays.set_mark(mark)?;
        }
        self.fwmark = mark;
        self.driver.ground.mark = mark;
        self.driver.doubt_paths();
        Ok(())
    }

    /// Moves to another port. The old sockets are given up only when the new ones are there.
    fn listen_on(&mut self, port: Option<u16>) -> anyhow::Result<()> {
        let sockets = Sockets::open(port, self.lane_sockets.len(), self.fwmark)?;
        let clones = sockets.lanes.iter().map(std::net::UdpSocket::try_clone).collect::<io::Result<Vec<_>>>()?;
        let datagrams = watch(sockets.control.second_handle()?)?;
        let port = sockets.control.port();
        // Out of the reactor before its descriptor is closed.
        drop(std::mem::replace(&mut self.datagrams, datagrams));
        self.driver.set_socket(sockets.control);
        self.move_candidates();
        if let Some(steer) = &mut self.driver.steer {
            steer.set_port(port)?;
        }
        for (link, socket) in self.driver.lanes().iter().zip(sockets.lanes) {
            // A lane's queue of commands is drained within a loop of it: a full one says that the lane is stuck.
            if link.commands.push(Command::Socket(socket)).is_err() {
                tracing::error!("a lane does not take its new socket");
            }
            link.lane.wake();
        }
        self.lane_sockets = clones;
        self.driver.endpoint.announce(Instant::now());
        Ok(())
    }

    /// An endpoint's name was resolved.
    pub(super) fn take_name(&mut self, resolved: &Resolved<PeerId>) {
        let now = Instant::now();
        self.names.note(resolved, now);
        self.tick_due = now;
        if self.driver.peer(resolved.who).is_none_or(|state| state.host.is_none()) {
            return;
        }
        let present = self.driver.endpoint.peer(resolved.who).and_then(|view| view.endpoint);
        let Self { driver, .. } = self;
        let mark = driver.ground.mark;
        let usable: Vec<_> = resolved
            .addresses
            .iter()
            .copied()
            .filter(|address| {
                let query = RouteQuery { destination: address.ip(), source: None, mark, if_index: None };
                driver.network.route(&query).is_ok()
            })
            .collect();
        let chosen = names::choose(&resolved.addresses, present, |address| usable.contains(&address));
        if let Some(remote) = chosen.filter(|remote| Some(*remote) != present) {
            tracing::info!(peer = resolved.who.slot, "the endpoint's name is resolved to another address than before");
            let update = landbridge_proto::PeerUpdate { endpoint: Some(remote), ..Default::default() };
            driver.endpoint.update_peer(resolved.who, update, now);
            driver.locate(resolved.who, remote, None);
        }
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, |code| Errno(-code))
}
