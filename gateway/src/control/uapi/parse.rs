//! Lines to requests.
//!
//! Enters: bytes of a client, cut anywhere. Leaves: a whole [`Request`], or the errno that the client is told. Never
//! does: change anything; a set is applied only when all of it was understood.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use ipnet::IpNet;
use zeroize::Zeroizing;

/// The longest line: a key and a value of 64 digits leave ample room.
const LINE_MAX: usize = 1024;
/// Peers in one set.
const PEERS_MAX: usize = 1 << 17;
/// Allowed IPs in one set.
const ALLOWED_IPS_MAX: usize = 1 << 22;

/// What a client is told: a negative errno, as the reference implementation prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// All is well.
    pub const OK: Self = Self(0);
    /// A key, a value or an order that the protocol does not have.
    pub const INVALID: Self = Self(-(nix::errno::Errno::EINVAL as i32));
    /// More than one set may hold.
    pub const TOO_BIG: Self = Self(-(nix::errno::Errno::E2BIG as i32));
    /// The port is taken.
    pub const PORT_IN_USE: Self = Self(-(nix::errno::Errno::EADDRINUSE as i32));
    /// Anything else.
    pub const IO: Self = Self(-(nix::errno::Errno::EIO as i32));
}

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// `get=1`.
    Get,
    /// `set=1` and what follows.
    Set(Set),
}

/// A change of configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// `private_key`; all zero takes it away.
    pub private_key: Option<Zeroizing<[u8; 32]>>,
    /// `listen_port`; zero picks a free one.
    pub listen_port: Option<u16>,
    /// `fwmark`; zero for none.
    pub fwmark: Option<u32>,
    /// `replace_peers`.
    pub replace_peers: bool,
    /// One for each `public_key`, in their order.
    pub peers: Vec<PeerSet>,
}

/// A change of one peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PeerSet {
    /// `public_key`.
    pub public_key: [u8; 32],
    /// `remove`.
    pub remove: bool,
    /// `update_only`.
    pub update_only: bool,
    /// `preshared_key`; all zero for none.
    pub preshared_key: Option<Zeroizing<[u8; 32]>>,
    /// `endpoint`.
    pub endpoint: Option<SocketAddr>,
    /// `persistent_keepalive_interval` in seconds; zero turns it off.
    pub persistent_keepalive: Option<u16>,
    /// `replace_allowed_ips`.
    pub replace_allowed_ips: bool,
    /// `allowed_ip`, in their order.
    pub allowed_ips: Vec<AllowedIp>,
}

/// One `allowed_ip`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedIp {
    /// The prefix.
    pub net: IpNet,
    /// It was written with a leading `-`.
    pub remove: bool,
}

/// Reads requests off a stream.
#[derive(Debug, Default)]
pub struct Parser {
    line: Zeroizing<Vec<u8>>,
    state: State,
    allowed_ips: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Get,
    Set(Set),
}

impl Parser {
    /// Takes bytes up to the end of a request. Returns how many it took, and the request when it is whole.
    ///
    /// # Errors
    /// What the client is told before it is left.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Request>), Errno> {
        for (taken, byte) in bytes.iter().enumerate() {
            if *byte != b'\n' {
                if self.line.len() == LINE_MAX {
                    return Err(Errno::INVALID);
                }
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let request = self.take_line(&line)?;
            // The next line reuses the memory.
            self.line = line;
            self.line.clear();
            if request.is_some() {
                return Ok((taken + 1, request));
            }
        }
        Ok((bytes.len(), None))
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Request>, Errno> {
        let line = std::str::from_utf8(line).map_err(|_| Errno::INVALID)?;
        if line.is_empty() {
            return Ok(match std::mem::take(&mut self.state) {
                State::Idle => None,
                State::Get => Some(Request::Get),
                State::Set(set) => Some(Request::Set(set)),
            });
        }
        let (key, value) = line.split_once('=').ok_or(Errno::INVALID)?;
        match &mut self.state {
            State::Idle => {
                self.allowed_ips = 0;
                self.state = match (key, value) {
                    ("get", "1") => State::Get,
                    ("set", "1") => State::Set(Set::default()),
                    _ => return Err(Errno::INVALID),
                };
            }
            State::Get => return Err(Errno::INVALID),
            State::Set(set) => {
                if key == "allowed_ip" {
                    self.allowed_ips += 1;
                    if self.allowed_ips > ALLOWED_IPS_MAX {
                        return Err(Errno::TOO_BIG);
                    }
                }
                take_setting(set, key, value)?;
            }
        }
        Ok(None)
    }
}

fn take_setting(set: &mut Set, key: &str, value: &str) -> Result<(), Errno> {
    if key == "public_key" {
        if set.peers.len() == PEERS_MAX {
            return Err(Errno::TOO_BIG);
        }
        set.peers.push(PeerSet { public_key: *hex_key(value)?, ..PeerSet::default() });
        return Ok(());
    }
    if let Some(peer) = set.peers.last_mut() {
        return take_peer_setting(peer, key, value);
    }
    match key {
        "private_key" => set.private_key = Some(hex_key(value)?),
        "listen_port" => set.listen_port = Some(number(value)?),
        "fwmark" => set.fwmark = Some(if value.is_empty() { 0 } else { number(value)? }),
        "replace_peers" => set.replace_peers = yes(value)?,
        _ => return Err(Errno::INVALID),
    }
    Ok(())
}

fn take_peer_setting(peer: &mut PeerSet, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "remove" => peer.remove = yes(value)?,
        "update_only" => peer.update_only = yes(value)?,
        "preshared_key" => peer.preshared_key = Some(hex_key(value)?),
        "endpoint" => peer.endpoint = Some(endpoint(value)?),
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(number(value)?),
        "replace_allowed_ips" => {
            peer.replace_allowed_ips = yes(value)?;
            // What came before it goes as well.
            peer.allowed_ips.clear();
        }
        "allowed_ip" => {
            let (text, remove) = value.strip_prefix('-').map_or((value, false), |rest| (rest, true));
            let net = allowed_ip(text.strip_prefix('+').unwrap_or(text))?;
            peer.allowed_ips.push(AllowedIp { net, remove });
        }
        "protocol_version" if value == "1" => {}
        _ => return Err(Errno::INVALID),
    }
    Ok(())
}

fn yes(value: &str) -> Result<bool, Errno> {
    if value == "true" { Ok(true) } else { Err(Errno::INVALID) }
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, Errno> {
    // A sign is no digit: FromStr alone would take "+5".
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_err(|_| Errno::INVALID)
    } else {
        Err(Errno::INVALID)
    }
}

fn hex_key(value: &str) -> Result<Zeroizing<[u8; 32]>, Errno> {
    let digits = value.as_bytes();
    let mut key = Zeroizing::new([0; 32]);
    if digits.len() != 64 {
        return Err(Errno::INVALID);
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Ok(key)
}

fn hex_digit(digit: u8) -> Result<u8, Errno> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Errno::INVALID),
    }
}

/// `ADDRESS:PORT`, `[ADDRESS]:PORT` or `[ADDRESS%SCOPE]:PORT`, the scope as a number or an interface's name.
fn endpoint(value: &str) -> Result<SocketAddr, Errno> {
    let (host, port) = value.rsplit_once(':').ok_or(Errno::INVALID)?;
    let port = number(port)?;
    let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        let address: std::net::Ipv4Addr = host.parse().map_err(|_| Errno::INVALID)?;
        return Ok(SocketAddr::from((address, port)));
    };
    let (address, scope) = match inner.split_once('%') {
        None => (inner, 0),
        Some((address, scope)) => (address, scope_id(scope)?),
    };
    let address: std::net::Ipv6Addr = address.parse().map_err(|_| Errno::INVALID)?;
    Ok(match address.to_ipv4_mapped() {
        Some(v4) => SocketAddr::from((v4, port)),
        None => SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)),
    })
}

fn scope_id(scope: &str) -> Result<u32, Errno> {
    match number(scope) {
        Ok(index) => Ok(index),
        Err(_) => nix::net::if_::if_nametoindex(scope).map_err(|_| Errno::INVALID),
    }
}

/// `ADDRESS/LENGTH`, or an address alone for all of its bits.
fn allowed_ip(text: &str) -> Result<IpNet, Errno> {
    match text.split_once('/') {
        None => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| Errno::INVALID),
        Some((address, length)) => {
            let address: IpAddr = address.parse().map_err(|_| Errno::INVALID)?;
            IpNet::new(address, number(length)?).map(|net| net.trunc()).map_err(|_| Errno::INVALID)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

    fn whole(text: &str) -> Result<Request, Errno> {
        let (taken, request) = Parser::default().feed(text.as_bytes())?;
        assert_eq!(taken, text.len());
        Ok(request.expect("a whole request"))
    }

    #[test]
    fn every_key_of_a_set_is_understood() {
        let text = format!(
            "set=1\nprivate_key={KEY}\nlisten_port=12912\nfwmark=4660\nreplace_peers=true\npublic_key={KEY}\n\
             update_only=true\npreshared_key={KEY}\nendpoint=[abcd:23::33%2]:51820\n\
             persistent_keepalive_interval=111\nreplace_allowed_ips=true\nallowed_ip=192.168.4.5/24\n\
             allowed_ip=-fd00::/64\nallowed_ip=+10.0.0.1\nprotocol_version=1\npublic_key={KEY}\nremove=true\n\n"
        );
        let Request::Set(set) = whole(&text).expect("valid") else { panic!("a set") };
        assert_eq!((set.listen_port, set.fwmark, set.replace_peers), (Some(12912), Some(4660), true));
        assert_eq!(set.private_key.expect("a key")[..2], [0xb8, 0x59]);
        let peer = &set.peers[0];
        assert!(peer.update_only && peer.replace_allowed_ips && !peer.remove);
        assert_eq!(peer.endpoint, Some("[abcd:23::33%2]:51820".parse().expect("an address")));
        assert_eq!(peer.persistent_keepalive, Some(111));
        let nets: Vec<_> = peer.allowed_ips.iter().map(|ip| (ip.net.to_string(), ip.remove)).collect();
        let expected = [("192.168.4.0/24", false), ("fd00::/64", true), ("10.0.0.1/32", false)];
        assert_eq!(nets, expected.map(|(net, remove)| (net.to_owned(), remove)));
        assert!(set.peers[1].remove);
    }

    #[test]
    fn a_request_may_be_cut_anywhere() {
        let text = format!("set=1\nlisten_port=7\npublic_key={KEY}\nallowed_ip=10.0.0.0/8\n\n");
        for cut in 1..text.len() {
            let mut parser = Parser::default();
            assert_eq!(parser.feed(&text.as_bytes()[..cut]).expect("valid").1, None);
            let (_, request) = parser.feed(&text.as_bytes()[cut..]).expect("valid");
            assert_eq!(request, Some(whole(&text).expect("valid")), "cut at {cut}");
        }
    }

    #[test]
    fn two_requests_in_one_read_are_two_requests() {
        let mut parser = Parser::default();
        let (taken, request) = parser.feed(b"get=1\n\nset=1\n\n").expect("valid");
        assert_eq!((taken, request), (7, Some(Request::Get)));
        let (_, request) = parser.feed(b"set=1\n\n").expect("valid");
        assert_eq!(request, Some(Request::Set(Set::default())));
    }

    #[test]
    fn what_the_protocol_does_not_have_is_einval() {
        let lines = [
            "get=2".to_owned(),
            "nonsense".to_owned(),
            "set=1\nlisten_port=65536".to_owned(),
            "set=1\nlisten_port=+5".to_owned(),
            "set=1\nlisten_port=-1".to_owned(),
            "set=1\nprivate_key=00".to_owned(),
            format!("set=1\nprivate_key={}", KEY.replace('b', "g")),
            "set=1\nreplace_peers=false".to_owned(),
            "set=1\nallowed_ip=10.0.0.0/8".to_owned(),
            "set=1\nunknown=1".to_owned(),
            format!("set=1\npublic_key={KEY}\nlisten_port=1"),
            format!("set=1\npublic_key={KEY}\nallowed_ip=10.0.0.0/33"),
            format!("set=1\npublic_key={KEY}\nallowed_ip=::/129"),
            format!("set=1\npublic_key={KEY}\nallowed_ip=ten"),
            format!("set=1\npublic_key={KEY}\nendpoint=example.org:1"),
            format!("set=1\npublic_key={KEY}\nendpoint=1.2.3.4"),
            format!("set=1\npublic_key={KEY}\nendpoint=::1:5"),
            format!("set=1\npublic_key={KEY}\nendpoint=[::1%no-such-interface]:5"),
            format!("set=1\npublic_key={KEY}\nprotocol_version=2"),
            format!("set=1\npublic_key={KEY}\npersistent_keepalive_interval=70000"),
            "set=1\n\u{fffd}".to_owned(),
        ];
        for text in lines {
            assert_eq!(whole(&format!("{text}\n\n")), Err(Errno::INVALID), "{text}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_memory() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(&[b'a'; LINE_MAX]).expect("not yet"), (LINE_MAX, None));
        assert_eq!(parser.feed(b"a"), Err(Errno::INVALID));
    }

    #[test]
    fn a_hundred_and_thirty_thousand_allowed_ips_are_one_set() {
        let mut text = format!("set=1\npublic_key={KEY}\n");
        for n in 0..130_000_u32 {
            text += &format!("allowed_ip={}/32\n", std::net::Ipv4Addr::from(0x0a00_0000 + n));
        }
        text.push('\n');
        let Request::Set(set) = whole(&text).expect("valid") else { panic!("a set") };
        assert_eq!(set.peers[0].allowed_ips.len(), 130_000);
    }
}
