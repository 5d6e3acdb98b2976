//! What a NAT does, found out as RFC 5780 says, with means of our own: the proof of the laboratory itself.
//!
//! Enters: a gateway's namespace and a responder. Leaves: behaviours. Never does: wait longer than a lifetime that it
//! was asked for.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::kind::Behaviour;
use super::responder::{Request, Responder};
use crate::lab::is_timeout;
use crate::lab::namespace::Namespace;

/// How long an answer is waited for: namespaces answer within a millisecond, on a busy machine within many.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often a request is repeated before there is no answer.
const TRIES: usize = 2;

/// A prober.
#[derive(Debug)]
pub struct Prober<'w> {
    namespace: &'w Namespace,
    places: [SocketAddr; 4],
}

impl<'w> Prober<'w> {
    /// One that asks from a namespace.
    #[must_use]
    pub fn new(namespace: &'w Namespace, responder: &Responder) -> Self {
        Self { namespace, places: responder.places() }
    }

    /// How the NAT maps (RFC 5780, section 4.3); `None` as the outer result where nothing gets out.
    ///
    /// # Errors
    /// A socket that cannot be made.
    pub fn mapping(&self) -> anyhow::Result<Option<Behaviour>> {
        let places = self.places;
        self.namespace.run(move || {
            let socket = Socket::open(places[0])?;
            let Some(first) = socket.mapping(places[0])? else { return Ok(None) };
            if Some(first) == socket.own(places[0])? {
                return Ok(Some(Behaviour::None));
            }
            let (Some(port), Some(address)) = (socket.mapping(places[1])?, socket.mapping(places[2])?) else {
                return Ok(None);
            };
            Ok(Some(match (port == first, address == first) {
                (true, true) => Behaviour::EndpointIndependent,
                (true, false) => Behaviour::AddressDependent,
                (false, _) => Behaviour::AddressAndPortDependent,
            }))
        })
    }

    /// How the NAT filters (RFC 5780, section 4.4); `None` as the outer result where nothing gets out.
    ///
    /// # Errors
    /// A socket that cannot be made.
    pub fn filtering(&self) -> anyhow::Result<Option<Behaviour>> {
        let places = self.places;
        self.namespace.run(move || {
            let socket = Socket::open(places[0])?;
            let Some(first) = socket.mapping(places[0])? else { return Ok(None) };
            let none = Some(first) == socket.own(places[0])?;
            let answers = |by: u8| Ok::<_, anyhow::Error>(socket.ask(places[0], Request::Answer(Some(by)))?.is_some());
            Ok(Some(match (answers(3)?, answers(1)?) {
                (true, _) if none => Behaviour::None,
                (true, _) => Behaviour::EndpointIndependent,
                (false, true) => Behaviour::AddressDependent,
                (false, false) => Behaviour::AddressAndPortDependent,
            }))
        })
    }

    /// Whether a socket reaches another one of the same namespace by its mapping (RFC 4787, section 6).
    ///
    /// # Errors
    /// A socket that cannot be made, or a NAT that lets nothing out.
    pub fn hairpin(&self) -> anyhow::Result<bool> {
        let places = self.places;
        self.namespace.run(move || {
            let (one, other) = (Socket::open(places[0])?, Socket::open(places[0])?);
            one.mapping(places[0])?.context("nothing gets out")?;
            let mapped = other.mapping(places[0])?.context("nothing gets out")?;
            for _ in 0..TRIES {
                one.0.send_to(b"hairpin", mapped)?;
                if other.receive(|text| (text == "hairpin").then_some(()))?.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Whether a binding still lets in, after so long without a packet, who was sent to.
    ///
    /// # Errors
    /// A socket that cannot be made, or a NAT that lets nothing out.
    pub fn lives(&self, idle: Duration) -> anyhow::Result<bool> {
        let places = self.places;
        self.namespace.run(move || {
            let socket = Socket::open(places[0])?;
            // Twice, as the kernel counts a flow's first answer differently.
            socket.mapping(places[0])?;
            let mapped = socket.mapping(places[0])?.context("nothing gets out")?;
            std::thread::sleep(idle);
            // Another socket asks, so that the binding in question is not used by the question.
            let asker = Socket::open(places[1])?;
            let id = number();
            for _ in 0..TRIES {
                asker.0.send_to(Request::Send(0, mapped).write(id).as_bytes(), places[1])?;
                if socket.receive(|text| text.starts_with(&format!("{id} ")).then_some(()))?.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// The public address that the internet sees.
    ///
    /// # Errors
    /// A socket that cannot be made, or a NAT that lets nothing out.
    pub fn public(&self) -> anyhow::Result<IpAddr> {
        let places = self.places;
        let seen = self.namespace.run(move || Socket::open(places[0])?.mapping(places[0]))?;
        Ok(seen.context("nothing gets out")?.ip())
    }
}

struct Socket(UdpSocket);

impl Socket {
    fn open(towards: SocketAddr) -> anyhow::Result<Self> {
        let any: IpAddr = if towards.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).context("the prober's socket")?;
        socket.set_read_timeout(Some(PATIENCE / 4))?;
        Ok(Self(socket))
    }

    /// The place that a target sees this socket at.
    fn mapping(&self, target: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
        self.ask(target, Request::Answer(None))
    }

    /// This socket's own place, as it would be without a NAT.
    fn own(&self, target: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
        let probe = UdpSocket::bind((self.0.local_addr()?.ip(), 0))?;
        probe.connect(target)?;
        Ok(Some(SocketAddr::new(probe.local_addr()?.ip(), self.0.local_addr()?.port())))
    }

    fn ask(&self, target: SocketAddr, request: Request) -> anyhow::Result<Option<SocketAddr>> {
        let id = number();
        for _ in 0..TRIES {
            // A target that cannot be reached gives no answer.
            drop(self.0.send_to(request.write(id).as_bytes(), target));
            let seen = self.receive(|text| text.strip_prefix(&format!("{id} "))?.parse().ok())?;
            if seen.is_some() {
                return Ok(seen);
            }
        }
        Ok(None)
    }

    fn receive<T>(&self, mut is_it: impl FnMut(&str) -> Option<T>) -> anyhow::Result<Option<T>> {
        let end = Instant::now() + PATIENCE;
        let mut datagram = [0; 256];
        while Instant::now() < end {
            match self.0.recv_from(&mut datagram) {
                Ok((length, _)) => {
                    let text = std::str::from_utf8(&datagram[..length]).unwrap_or_default();
                    if let Some(answer) = is_it(text) {
                        return Ok(Some(answer));
                    }
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("the prober's socket"),
            }
        }
        Ok(None)
    }
}

/// What tells the answers of one request from those of another.
fn number() -> u64 {
    rand::random()
}
