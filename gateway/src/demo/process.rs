//! The gateways of the demo: this very program, each with a configuration of its own.
//!
//! Enters: a role, keys and the demo's options. Leaves: a running [`Gateway`]. Never does: decide what it is asked for.

use anyhow::Context as _;

use super::Options;
use super::topology::{LAN, WAN, WAN_B};
use crate::config::keys;
use crate::lab::gateway::Gateway;
use crate::lab::namespace::Namespace;
use crate::lab::scratch::Scratch;
use crate::settings::{Crypto, LanBackend, Secret, WanBackend};

const PORT: u16 = 51820;
/// Inside the tunnel a full packet still fits the 1500 bytes of the wan.
const MTU: u32 = 1420;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    A,
    B,
}

/// The private keys of both.
pub(super) fn keys() -> anyhow::Result<[Secret; 2]> {
    let key = || keys::generate_private().context("the system gives no randomness");
    Ok([key()?, key()?])
}

/// Starts the gateway of a role.
pub(super) fn start(
    role: Role,
    namespace: &Namespace,
    scratch: &Scratch,
    keys: &[Secret; 2],
    options: &Options,
) -> anyhow::Result<Gateway> {
    let (letter, own) = match role {
        Role::A => ("a", &keys[0]),
        Role::B => ("b", &keys[1]),
    };
    let interface = format!("lbd-{}-{letter}", std::process::id());
    scratch.write(&format!("{letter}.key"), &keys::encode(own))?;
    let program = std::env::current_exe().context("the program's own file")?;
    Gateway::start(&program, namespace, scratch, &interface, &configuration(role, &interface, keys, options))
}

/// Gateway A knows where B is; B learns it from the handshake.
fn configuration(role: Role, interface: &str, keys: &[Secret; 2], options: &Options) -> String {
    let backend = match options.wan {
        WanBackend::Auto => "auto",
        WanBackend::Xdp => "xdp",
        WanBackend::Udp => "udp",
    };
    let lan = match options.lan {
        LanBackend::Auto => "auto",
        LanBackend::Tun => "tun",
        LanBackend::Xdp => "xdp",
    };
    let (letter, number, peer) = match role {
        Role::A => ("a", 1, &keys[1]),
        Role::B => ("b", 2, &keys[0]),
    };
    let other = 3 - number;
    let endpoint = match role {
        Role::A => format!("endpoint = \"{WAN_B}:{PORT}\"\n"),
        Role::B => String::new(),
    };
    let crypto = match options.crypto {
        Crypto::Auto => "auto",
        Crypto::Ring => "ring",
        Crypto::Multibuffer => "multibuffer",
    };
    let count = options.lanes.map(|lanes| format!("count = {lanes}\n")).unwrap_or_default();
    format!(
        "[interface]\nname = \"{interface}\"\nprivate_key_file = \"{letter}.key\"\nlisten_port = {PORT}\n\
         addresses = [\"10.81.0.{number}/24\"]\nmtu = {MTU}\n[wan]\nbackend = \"{backend}\"\ninterfaces = [\"{WAN}\"]\n\
         [lan]\nbackend = \"{lan}\"\ninterfaces = [\"{LAN}\"]\n\
         [lanes]\ncrypto = \"{crypto}\"\n{count}\
         [[peer]]\nname = \"site-{other}\"\npublic_key = \"{}\"\nallowed_ips = [\"10.81.0.{other}/32\", \"10.81.{other}.0/24\"]\n\
         {endpoint}",
        keys::public(peer)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Format, parse};

    #[test]
    fn both_configurations_are_good_ones() {
        let keys = keys().expect("randomness");
        for (wan, lan) in [
            (WanBackend::Auto, LanBackend::Auto),
            (WanBackend::Xdp, LanBackend::Xdp),
            (WanBackend::Udp, LanBackend::Tun),
        ] {
            let duration = Duration::from_secs(1);
            let options = Options { wan, lan, duration, streams: 1, lanes: Some(2), crypto: Crypto::Ring };
            for (role, name) in [(Role::A, "lbd-1234567-a"), (Role::B, "lbd-1234567-b")] {
                let text = configuration(role, name, &keys, &options);
                let settings = parse(&text, Format::Toml).and_then(|draft| draft.check(None)).expect("good");
                assert_eq!((settings.interface.as_str(), settings.wan.backend), (name, wan));
                assert_eq!((settings.lan.backend, settings.lan.interfaces), (lan, vec![LAN.to_owned()]));
                assert_eq!((settings.lanes, settings.crypto), (Some(2), Crypto::Ring));
                assert_eq!(settings.peers[0].endpoint.is_some(), role == Role::A);
            }
        }
    }
}
