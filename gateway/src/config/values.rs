//! The values that both formats share: text in, typed value out.
//!
//! Enters: the text of one value. Leaves: the value, or a phrase that says what is expected. Never does: look at other
//! values; what must hold between several of them is in [`super::draft`].

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::keys;
use crate::settings::{
    ChecksumOffload, Crypto, EndpointName, LanBackend, MappingProtocol, PublicKey, RouteTable, Secret, WanBackend,
    XdpMode,
};

/// What a value should have been.
pub(crate) type Expected = &'static str;

pub(crate) const INTERFACE: Expected =
    "an interface name: 1 to 15 characters of A-Z a-z 0-9 _ = + . -, of which the first is no -";
pub(crate) const KEY: Expected = "a key: 32 bytes in base64, 44 characters";
pub(crate) const PORT: Expected = "a UDP port, 0 to 65535 (0 picks a free one)";
pub(crate) const MARK: Expected = "a mark: a decimal or 0x hexadecimal number of 32 bits, or \"off\"";
pub(crate) const ADDRESS: Expected = "an IP address with an optional prefix length, such as 10.0.0.1/24 or fd00::1/64";
pub(crate) const NETWORK: Expected = "an IP network, such as 192.168.7.0/24 or fd00:7::/48";
pub(crate) const ENDPOINT: Expected =
    "HOST:PORT, where HOST is a name, an IPv4 address or an IPv6 address in brackets, such as [2001:db8::1]:51820";
pub(crate) const KEEPALIVE: Expected = "seconds between keepalives, 1 to 65535, or \"off\"";
pub(crate) const TABLE: Expected = "\"auto\", \"off\" or the number of a routing table";
pub(crate) const MTU: Expected = "an MTU of 1280 to 65535 (from 576 when no IPv6 address is inside)";
pub(crate) const SOCKET: Expected = "an IP address and a port, such as 127.0.0.1:9586 or [::1]:9586";
pub(crate) const DNS: Expected = "the address of a name server, or a search domain";
pub(crate) const WAN_BACKEND: Expected = "\"auto\", \"xdp\" or \"udp\"";
pub(crate) const LAN_BACKEND: Expected = "\"auto\", \"tun\" or \"xdp\"";
pub(crate) const CRYPTO: Expected = "\"auto\", \"ring\" or \"multibuffer\"";
pub(crate) const XDP_MODE: Expected = "\"auto\", \"native\" or \"generic\"";
pub(crate) const STUN: Expected =
    "HOST or HOST:PORT of a STUN server, such as stun.example.net, 192.0.2.1:3478 or [2001:db8::1]:3478";
pub(crate) const MAPPING: Expected = "\"auto\", \"off\", or a list of \"pcp\", \"nat-pmp\" and \"upnp\"";
pub(crate) const USER: Expected = "the name of a user";

pub(crate) fn interface(text: &str) -> Result<String, Expected> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_=+.-".contains(c);
    let dots = text == "." || text == "..";
    // Every other program would take it for an option.
    let option = text.starts_with('-');
    if text.is_empty() || text.len() > 15 || dots || option || !text.chars().all(legal) {
        return Err(INTERFACE);
    }
    Ok(text.to_owned())
}

pub(crate) fn secret(text: &str) -> Result<Secret, Expected> {
    keys::decode_secret(text).ok_or(KEY)
}

pub(crate) fn public_key(text: &str) -> Result<PublicKey, Expected> {
    keys::decode(text).map(|bytes| PublicKey(*bytes)).ok_or(KEY)
}

pub(crate) fn port(text: &str) -> Result<u16, Expected> {
    text.parse().map_err(|_| PORT)
}

/// `off` and 0 are no mark.
pub(crate) fn mark(text: &str) -> Result<Option<u32>, Expected> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map(|mark| (mark != 0).then_some(mark)).map_err(|_| MARK)
}

fn network_or_host(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// An address of the tunnel interface: the host part is kept.
pub(crate) fn address(text: &str) -> Result<IpNet, Expected> {
    network_or_host(text).ok_or(ADDRESS)
}

/// A network behind a peer: the host part is cut off, as `wg` does.
pub(crate) fn network(text: &str) -> Result<IpNet, Expected> {
    network_or_host(text).map(|net| net.trunc()).ok_or(NETWORK)
}

pub(crate) fn endpoint(text: &str) -> Result<EndpointName, Expected> {
    let (host, port) = text.rsplit_once(':').ok_or(ENDPOINT)?;
    let port: u16 = port.parse().map_err(|_| ENDPOINT)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let address = rest.strip_suffix(']').ok_or(ENDPOINT)?;
            // A scope such as fe80::1%eth0 is the resolver's business; what stands before it must be an address.
            let bare = address.split('%').next().unwrap_or(address);
            bare.parse::<Ipv6Addr>().map_err(|_| ENDPOINT)?;
            address
        }
        None => host,
    };
    let name = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    let ambiguous = host.contains(':') && !text.starts_with('[');
    if port == 0 || host.is_empty() || host.len() > 253 || ambiguous || !host.chars().all(name) {
        return Err(ENDPOINT);
    }
    Ok(EndpointName { host: host.to_owned(), port })
}

/// The port of a STUN server that names none, RFC 8489 section 18.6.
const STUN_PORT: u16 = 3478;

/// As an endpoint, with a port that may be left out.
pub(crate) fn stun(text: &str) -> Result<EndpointName, Expected> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let is_address = bare.parse::<Ipv6Addr>().is_ok();
    let with_port = if is_address { format!("[{bare}]:{STUN_PORT}") } else { format!("{text}:{STUN_PORT}") };
    let result = if is_address || !text.contains(':') { endpoint(&with_port) } else { endpoint(text) };
    result.map_err(|_| STUN)
}

/// One word of the setting: several protocols, none, or one.
pub(crate) fn mapping(text: &str) -> Result<Vec<MappingProtocol>, Expected> {
    match text {
        "auto" => Ok(MappingProtocol::ALL.to_vec()),
        "off" => Ok(Vec::new()),
        name => MappingProtocol::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name)
            .map(|protocol| vec![protocol])
            .ok_or(MAPPING),
    }
}

/// `off` and 0 are none.
pub(crate) fn keepalive(text: &str) -> Result<Option<Duration>, Expected> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let seconds: u16 = text.parse().map_err(|_| KEEPALIVE)?;
    Ok((seconds > 0).then(|| Duration::from_secs(u64::from(seconds))))
}

pub(crate) fn table(text: &str) -> Result<RouteTable, Expected> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(RouteTable::Auto);
    }
    if text.eq_ignore_ascii_case("off") {
        return Ok(RouteTable::Off);
    }
    if text.eq_ignore_ascii_case("main") {
        return Ok(RouteTable::Id(254));
    }
    let number = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.ok().filter(|id| *id != 0).map(RouteTable::Id).ok_or(TABLE)
}

/// Whether it fits the addresses inside is checked with them.
pub(crate) fn mtu(text: &str) -> Result<u32, Expected> {
    text.parse().ok().filter(|mtu| (576..=65535).contains(mtu)).ok_or(MTU)
}

pub(crate) fn socket(text: &str) -> Result<SocketAddr, Expected> {
    text.parse().map_err(|_| SOCKET)
}

pub(crate) fn dns(text: &str) -> Result<String, Expected> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.:~".contains(c);
    if text.is_empty() || text.len() > 253 || !text.chars().all(legal) {
        return Err(DNS);
    }
    Ok(text.to_owned())
}

pub(crate) fn user(text: &str) -> Result<String, Expected> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-$".contains(c);
    if text.is_empty() || text.len() > 32 || text.starts_with('-') || !text.chars().all(legal) {
        return Err(USER);
    }
    Ok(text.to_owned())
}

pub(crate) fn wan_backend(text: &str) -> Result<WanBackend, Expected> {
    match text {
        "auto" => Ok(WanBackend::Auto),
        "xdp" => Ok(WanBackend::Xdp),
        "udp" => Ok(WanBackend::Udp),
        _ => Err(WAN_BACKEND),
    }
}

pub(crate) fn lan_backend(text: &str) -> Result<LanBackend, Expected> {
    match text {
        "auto" => Ok(LanBackend::Auto),
        "tun" => Ok(LanBackend::Tun),
        "xdp" => Ok(LanBackend::Xdp),
        _ => Err(LAN_BACKEND),
    }
}

pub(crate) fn crypto(text: &str) -> Result<Crypto, Expected> {
    match text {
        "auto" => Ok(Crypto::Auto),
        "ring" => Ok(Crypto::Ring),
        "multibuffer" => Ok(Crypto::Multibuffer),
        _ => Err(CRYPTO),
    }
}

pub(crate) fn xdp_mode(text: &str) -> Result<XdpMode, Expected> {
    match text {
        "auto" => Ok(XdpMode::Auto),
        "native" => Ok(XdpMode::Native),
        "generic" => Ok(XdpMode::Generic),
        _ => Err(XDP_MODE),
    }
}

pub(crate) const CHECKSUM_OFFLOAD: Expected = "auto, on or off";

pub(crate) fn checksum_offload(text: &str) -> Result<ChecksumOffload, Expected> {
    match text {
        "auto" => Ok(ChecksumOffload::Auto),
        "on" => Ok(ChecksumOffload::On),
        "off" => Ok(ChecksumOffload::Off),
        _ => Err(CHECKSUM_OFFLOAD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_taken_as_wg_takes_them() {
        for (text, expected) in [
            ("192.0.2.1:51820", Some(("192.0.2.1", 51820))),
            ("[2001:db8::1]:51820", Some(("2001:db8::1", 51820))),
            ("[fe80::1%eth0]:1", Some(("fe80::1%eth0", 1))),
            ("site-b.example.org:443", Some(("site-b.example.org", 443))),
            ("2001:db8::1:51820", None),
            ("[192.0.2.1]:51820", None),
            ("192.0.2.1", None),
            (":51820", None),
            ("host:0", None),
            ("host:65536", None),
            ("two words:1", None),
        ] {
            let parsed = endpoint(text).ok();
            assert_eq!(parsed.as_ref().map(|e| (e.host.as_str(), e.port)), expected, "{text}");
        }
    }

    #[test]
    fn a_stun_server_needs_no_port() {
        for (text, expected) in [
            ("stun.example.net", Some(("stun.example.net", 3478))),
            ("stun.example.net:19302", Some(("stun.example.net", 19302))),
            ("192.0.2.1", Some(("192.0.2.1", 3478))),
            ("2001:db8::1", Some(("2001:db8::1", 3478))),
            ("[2001:db8::1]", Some(("2001:db8::1", 3478))),
            ("[2001:db8::1]:7", Some(("2001:db8::1", 7))),
            ("", None),
            ("stun:stun.example.net:1", None),
            ("host:0", None),
        ] {
            let parsed = stun(text).ok();
            assert_eq!(parsed.as_ref().map(|e| (e.host.as_str(), e.port)), expected, "{text}");
        }
    }

    #[test]
    fn a_bare_address_is_a_host_and_a_network_loses_its_host_part() {
        assert_eq!(address("10.1.2.3").map(|a| a.to_string()), Ok("10.1.2.3/32".to_owned()));
        assert_eq!(address("fd00::7").map(|a| a.to_string()), Ok("fd00::7/128".to_owned()));
        assert_eq!(address("10.1.2.3/8").map(|a| a.to_string()), Ok("10.1.2.3/8".to_owned()));
        assert_eq!(network("10.1.2.3/8").map(|a| a.to_string()), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(network("10.1.2.3/33"), Err(NETWORK));
    }

    #[test]
    fn off_and_zero_mean_none() {
        assert_eq!(mark("off"), Ok(None));
        assert_eq!(mark("0"), Ok(None));
        assert_eq!(mark("0xCa6c"), Ok(Some(51820)));
        assert_eq!(mark("0x1ffffffff"), Err(MARK));
        assert_eq!(keepalive("off"), Ok(None));
        assert_eq!(keepalive("0"), Ok(None));
        assert_eq!(keepalive("25"), Ok(Some(Duration::from_secs(25))));
        assert_eq!(keepalive("65536"), Err(KEEPALIVE));
        assert_eq!(table("off"), Ok(RouteTable::Off));
        assert_eq!(table("51820"), Ok(RouteTable::Id(51820)));
        assert_eq!(table("nowhere"), Err(TABLE));
    }

    #[test]
    fn interface_names_are_what_the_kernel_and_a_file_name_can_hold() {
        for (name, legal) in [
            ("wg0", true),
            ("lb-site_a.7", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("sixteen-letters1", false),
        ] {
            assert_eq!(interface(name).is_ok(), legal, "{name}");
        }
    }
}
