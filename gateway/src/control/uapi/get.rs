//! The answer to `get=1`.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use landbridge_proto::Endpoint;
use zeroize::Zeroizing;

/// What of the interface the endpoint does not know.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// The UDP port.
    pub listen_port: u16,
    /// The mark of outer packets.
    pub fwmark: Option<u32>,
}

/// The whole answer, with its errno line and the blank one.
#[must_use]
pub fn answer(endpoint: &Endpoint, device: Device) -> Zeroizing<String> {
    // Growing would leave copies of the private key behind.
    let peers = endpoint.peers().count();
    let mut text = Zeroizing::new(String::with_capacity(1024 + peers * 512 + endpoint.allowed_ips().len() * 64));
    if let Some(key) = endpoint.private_key() {
        line_hex(&mut text, "private_key", &Zeroizing::new(key));
    }
    line(&mut text, "listen_port", device.listen_port);
    if let Some(mark) = device.fwmark.filter(|mark| *mark != 0) {
        line(&mut text, "fwmark", mark);
    }
    for id in endpoint.peers() {
        let Some(peer) = endpoint.peer(id) else { continue };
        line_hex(&mut text, "public_key", &peer.public_key);
        line_hex(&mut text, "preshared_key", &peer.preshared_key);
        line(&mut text, "protocol_version", 1);
        if let Some(remote) = peer.endpoint {
            line(&mut text, "endpoint", remote);
        }
        let last = peer.last_handshake.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        line(&mut text, "last_handshake_time_sec", last.as_secs());
        line(&mut text, "last_handshake_time_nsec", last.subsec_nanos());
        line(&mut text, "tx_bytes", peer.shared.tx_bytes());
        line(&mut text, "rx_bytes", peer.shared.rx_bytes());
        let keepalive = peer.persistent_keepalive.map_or(0, |interval| interval.as_secs());
        line(&mut text, "persistent_keepalive_interval", keepalive);
        for net in endpoint.allowed_ips().of_owner(id) {
            line(&mut text, "allowed_ip", net);
        }
    }
    text.push_str("errno=0\n\n");
    text
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key}={value}");
}

fn line_hex(text: &mut String, key: &str, bytes: &[u8; 32]) {
    text.push_str(key);
    text.push('=');
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
}
