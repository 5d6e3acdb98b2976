//! The interfaces on which the XDP program relays.
//!
//! 1. At the start they are chosen, as the wan side's are, and the program is attached to those that have no rings.
//! 2. Once a second: whether an interface's driver sends frames that the program hands it (a veth does only while its peer
//!    takes such frames), and whether the program is attached still.
//!
//! Enters: settings, the host's interfaces. Leaves: attachments, the program's list of interfaces, the reason in words. Never
//! does: attach to an interface that has rings, which is [`super::super::rings`]' business.

use std::time::Instant;

use anyhow::bail;

use super::super::Control;
use super::super::netlink::Netlink;
use super::super::wan::{self, Choice};
use super::super::watch::retry_after;
use crate::settings::{RelayBackend, Settings, XdpMode};
use crate::steer::relay::RelayPlan;
use crate::steer::{self, Hold, Interface, Mode, Steer};

/// Interfaces of the relay, and why.
#[derive(Debug, Default)]
pub struct Egress {
    pub(super) interfaces: Vec<Leaving>,
    /// Why these, or why none.
    pub(super) reason: String,
    /// An interface that refuses the program ends the start.
    required: bool,
    mode: XdpMode,
}

/// An interface.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) interface: Interface,
    /// It has rings, which have the program attached.
    ringed: bool,
    /// How the program runs there.
    pub(super) mode: Option<Mode>,
    /// Relayed datagrams may leave by it.
    pub(super) sends: bool,
    /// Why not, where that is known.
    pub(super) trouble: Option<String>,
    failures: u32,
    retry: Option<Instant>,
}

impl Egress {
    /// The thread forwards everything.
    #[must_use]
    pub fn none(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    /// Whether the program is wanted.
    #[must_use]
    pub fn wants_program(&self) -> bool {
        !self.interfaces.is_empty()
    }

    /// Whether the start fails without it.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Chooses the interfaces. Only for `auto` the reason may be a failure.
    ///
    /// # Errors
    /// The `xdp` backend was asked for and an interface is missing or unknown.
    pub fn choose(settings: &Settings, wan: &Choice, netlink: &mut Netlink) -> anyhow::Result<Self> {
        let relay = &settings.relay;
        if !relay.enabled || relay.backend == RelayBackend::User {
            return Ok(Self::none("configured"));
        }
        let required = relay.backend == RelayBackend::Xdp;
        let interfaces = match wan::interfaces(settings, netlink) {
            Ok(interfaces) if !interfaces.is_empty() => interfaces,
            Ok(_) if required => {
                bail!(
                    "relay backend xdp: no interface is configured and there is no route to tell it from: set wan.interfaces"
                )
            }
            Ok(_) => return Ok(Self::none("no interface leads to the peers at present")),
            Err(error) if required => return Err(error),
            Err(error) => return Ok(Self::none(format!("{error:#}"))),
        };
        let ringed =
            |interface: &Interface| wan.interfaces.iter().any(|with_rings| with_rings.index == interface.index);
        for interface in interfaces.iter().filter(|interface| !required && !ringed(interface)) {
            if !sends_on_veth(interface) {
                return Ok(Self::none(format!(
                    "the peer of veth {} takes no frames of XDP programs (`ethtool -K PEER gro on` there lets it)",
                    interface.name
                )));
            }
        }
        // A program in generic mode costs all other traffic of the interface more than relaying gains: only on demand.
        let mode = match settings.wan.xdp_mode {
            XdpMode::Auto if !required => XdpMode::Native,
            mode => mode,
        };
        let leaving = |interface: Interface| Leaving {
            ringed: ringed(&interface),
            interface,
            mode: None,
            sends: false,
            trouble: None,
            failures: 0,
            retry: None,
        };
        let interfaces = interfaces.into_iter().map(leaving).collect();
        let reason = if required { "configured" } else { "the drivers run XDP programs" }.to_owned();
        Ok(Self { interfaces, reason, required, mode })
    }

    /// The program runs in no interface's generic mode.
    fn is_native(&self) -> bool {
        self.interfaces.iter().all(|leaving| leaving.mode != Some(Mode::Generic))
    }

    /// Attaches where nobody did, and finds out what sends.
    fn look(&mut self, steer: &mut Steer, now: Instant) {
        let alone = self.interfaces.len() == 1;
        for leaving in &mut self.interfaces {
            leaving.hold(steer, self.mode, now);
            let sends = leaving.may_send(alone);
            if sends != leaving.sends {
                match steer.set_relay_egress(leaving.interface.index, sends) {
                    Ok(()) => leaving.sends = sends,
                    Err(error) => leaving.trouble = Some(error.to_string()),
                }
            }
        }
    }

    /// In words: what forwards, and why.
    #[must_use]
    pub(super) fn describe(&self) -> String {
        let mut text = self.reason.clone();
        for leaving in &self.interfaces {
            let name = &leaving.interface.name;
            if let Some(trouble) = &leaving.trouble {
                text += &format!("; {name}: {trouble}");
            } else if !leaving.sends {
                text += &format!("; {name} does not send frames of XDP programs: the thread forwards there");
            }
            for (family, path) in [("IPv4", "ipv4"), ("IPv6", "ipv6")] {
                if forwarding_is_off(path, name) {
                    text += &format!(
                        "; {name} does not forward {family} (sysctl net.{path}.conf.{name}.forwarding): the thread does"
                    );
                }
            }
        }
        text
    }
}

impl Leaving {
    /// Whether the program is attached; where it is not, and this is ours to do, attaches it.
    fn hold(&mut self, steer: &mut Steer, mode: XdpMode, now: Instant) {
        let index = self.interface.index;
        if self.ringed {
            self.mode = steer.attached(index).map(|attached| attached.mode);
            return;
        }
        if self.mode.is_some() && steer.hold(index) == Hold::Ours {
            return;
        }
        self.mode = None;
        if self.retry.is_some_and(|retry| retry > now) {
            return;
        }
        let outcome = match steer::interface_by_name(&self.interface.name) {
            Ok(interface) => {
                let _ = steer.detach(index);
                self.interface = interface;
                steer.attach(self.interface.index, &self.interface.name, mode).map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("it is not there: {error}")),
        };
        match outcome {
            Ok(attached) => (self.mode, self.trouble, self.retry, self.failures) = (Some(attached.mode), None, None, 0),
            Err(trouble) => {
                self.trouble = Some(trouble);
                self.retry = Some(now + retry_after(self.failures));
                self.failures += 1;
            }
        }
    }

    /// Whether frames of the program leave by it. Every driver with native XDP sends a frame back out of the interface that
    /// it came by; to send those of other interfaces is a gift that it tells of. A veth has neither unless its peer takes
    /// such frames.
    fn may_send(&self, alone: bool) -> bool {
        match self.mode {
            None => false,
            Some(Mode::Generic) => true,
            Some(Mode::Native) if self.is_veth() => sends_on_veth(&self.interface),
            Some(Mode::Native) => alone || steer::sends_frames(self.interface.index).unwrap_or(true),
        }
    }

    fn is_veth(&self) -> bool {
        self.interface.driver.as_deref() == Some("veth")
    }
}

/// Whether the peer of a veth takes frames of XDP programs; of any other driver: true. Before Linux 6.3 nobody tells.
fn sends_on_veth(interface: &Interface) -> bool {
    interface.driver.as_deref() != Some("veth") || steer::sends_frames(interface.index).unwrap_or(false)
}

fn forwarding_is_off(family: &str, interface: &str) -> bool {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
    std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0")
}

impl Control {
    /// Tells the program which ports are the relay's, and attaches it where it is not.
    ///
    /// # Errors
    /// What the kernel refused, where the program was asked for by name.
    pub fn begin_relaying(&mut self) -> anyhow::Result<()> {
        self.look_at_egress(Instant::now());
        let Some(relays) = &self.driver.relays else { return Ok(()) };
        if relays.egress.is_required() {
            for leaving in &relays.egress.interfaces {
                if let Some(trouble) = leaving.trouble.as_ref().filter(|_| leaving.mode.is_none()) {
                    bail!("relay backend xdp: {}: {trouble}", leaving.interface.name);
                }
            }
        }
        tracing::info!(ports = %relays.settings.ports, why = relays.egress.describe(), "relaying");
        Ok(())
    }

    /// See the module.
    pub(super) fn look_at_egress(&mut self, now: Instant) {
        let driver = &mut self.driver;
        let (Some(relays), Some(steer)) = (&mut driver.relays, &mut driver.steer) else { return };
        if !relays.egress.wants_program() {
            return;
        }
        relays.egress.look(steer, now);
        let ports = relays.settings.ports;
        let plan = RelayPlan {
            first: ports.first,
            count: ports.count(),
            native: relays.egress.is_native(),
            back: !relays.egress.interfaces.iter().any(Leaving::is_veth),
        };
        if let Err(error) = steer.set_relay(plan) {
            tracing::warn!(%error, "the XDP program does not relay");
        }
    }
}
