//! Packets seen and made on the network between the sites.
//!
//! Enters: the namespace in between. Leaves: datagrams as they were on the wire, and forged ones onto it. Never does: send
//! anything out of that namespace's own network.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use landbridge_xsk::{Burst, ChecksumOffload, Memory, MemoryConfig, Xsk, XskConfig};
use socket2::{Domain, Protocol, Socket, Type};

use super::Namespace;

/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// All protocols, in network byte order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();
/// The kernel takes the whole IP header from us.
const IPPROTO_RAW: i32 = 255;

/// A UDP datagram over IPv4.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    /// Who it says it comes from.
    pub(crate) from: SocketAddrV4,
    /// Where it goes.
    pub(crate) to: SocketAddrV4,
    /// IPv4 options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// What is added to the true length in the UDP header.
    pub(crate) lie: u16,
    /// The whole frame, where it was seen and not made.
    pub(crate) frame: Vec<u8>,
    /// What it carries.
    pub(crate) payload: Vec<u8>,
}

/// Waits for a WireGuard transport data packet from a host to another one.
#[track_caller]
pub(crate) fn capture_data(net: &Namespace, from: Ipv4Addr, to: Ipv4Addr) -> Datagram {
    let seen = net.inside(move || -> std::io::Result<Datagram> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ALL))))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let end = Instant::now() + Duration::from_secs(10);
        let mut frame = vec![0; 65536];
        while Instant::now() < end {
            let Ok(length) = (&socket).read(&mut frame) else { continue };
            if let Some(datagram) =
                parse(&frame[..length]).filter(|seen| (*seen.from.ip(), *seen.to.ip()) == (from, to))
            {
                return Ok(datagram);
            }
        }
        Err(std::io::ErrorKind::TimedOut.into())
    });
    seen.unwrap_or_else(|error| panic!("no transport data from {from} to {to} was seen: {error}"))
}

/// Counts packets of transport data from a host to another one for a while, by their source ports. What leaves the host
/// as one row of segments is one packet here.
#[track_caller]
pub(crate) fn source_ports(net: &Namespace, from: Ipv4Addr, to: Ipv4Addr, time: Duration) -> BTreeMap<u16, u64> {
    let seen = net.inside(move || -> std::io::Result<BTreeMap<u16, u64>> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ALL))))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let end = Instant::now() + time;
        let mut frame = vec![0; 65536];
        let mut ports = BTreeMap::new();
        while Instant::now() < end {
            let Ok(length) = (&socket).read(&mut frame) else { continue };
            if let Some(seen) = parse(&frame[..length]).filter(|seen| (*seen.from.ip(), *seen.to.ip()) == (from, to)) {
                *ports.entry(seen.from.port()).or_default() += 1;
            }
        }
        Ok(ports)
    });
    seen.unwrap_or_else(|error| panic!("packets cannot be seen: {error}"))
}

fn parse(frame: &[u8]) -> Option<Datagram> {
    let is_udp = frame.len() > HEADERS && frame[12..15] == [8, 0, 0x45] && frame[23] == 17;
    if !is_udp {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let payload = frame.get(HEADERS..HEADERS + usize::from(word(38)).checked_sub(8)?)?.to_vec();
    payload.starts_with(&[4, 0, 0, 0]).then(|| Datagram {
        from: SocketAddrV4::new(address(26), word(34)),
        to: SocketAddrV4::new(address(30), word(36)),
        options: Vec::new(),
        lie: 0,
        frame: frame.to_vec(),
        payload,
    })
}

/// Puts datagrams onto the wire, whoever they say they come from.
#[track_caller]
pub(crate) fn inject(net: &Namespace, datagrams: Vec<Datagram>) {
    let sent = net.inside(move || -> std::io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
        for datagram in datagrams {
            socket.send_to(&datagram.bytes(), &datagram.to.into())?;
        }
        Ok(())
    });
    sent.unwrap_or_else(|error| panic!("raw packets cannot be sent: {error}"));
}

/// Puts a frame onto a link, byte for byte, through a ring.
#[track_caller]
pub(crate) fn transmit(namespace: &Namespace, interface: &'static str, bytes: Vec<u8>) {
    let sent = namespace.inside(move || -> std::io::Result<()> {
        let memory = MemoryConfig { frames: 64, frame_size: 4096, jumbo_frames: 0, huge_pages: false };
        let (memory, mut pool) = Memory::new(memory)?;
        let config = XskConfig {
            if_index: nix::net::if_::if_nametoindex(interface)?,
            queue: 0,
            rx_ring: 16,
            tx_ring: 16,
            fill_ring: 16,
            copy: true,
            multi_buffer: false,
            busy_poll: None,
            checksum_offload: ChecksumOffload::default(),
        };
        let mut socket = Xsk::open(&config, &memory)?;
        let mut frame = pool.take().expect("a free frame");
        frame.append(bytes.len()).expect("room for a frame of Ethernet").copy_from_slice(&bytes);
        let mut burst = Burst::new();
        burst.push(frame);
        socket.transmit(&mut pool, &mut burst);
        socket.flush(&mut pool)?;
        socket.close(&mut pool);
        Ok(())
    });
    sent.unwrap_or_else(|error| panic!("a raw frame cannot be sent: {error}"));
}

impl Datagram {
    /// The same datagram with another payload.
    pub(crate) fn with(&self, payload: Vec<u8>) -> Self {
        Self { payload, ..self.clone() }
    }

    /// The packet from its IPv4 header on. The kernel fills in the header's checksum; UDP goes without, as IPv4 allows.
    fn bytes(&self) -> Vec<u8> {
        let header_words = u8::try_from(5 + self.options.len() / 4).expect("options fit into a header");
        let udp_length = u16::try_from(8 + self.payload.len()).expect("a datagram's size");
        let length = udp_length + u16::from(header_words) * 4;
        let mut packet = vec![0x40 | header_words, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend(self.from.ip().octets());
        packet.extend(self.to.ip().octets());
        packet.extend(&self.options);
        packet.extend(self.from.port().to_be_bytes());
        packet.extend(self.to.port().to_be_bytes());
        packet.extend(udp_length.wrapping_add(self.lie).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(&self.payload);
        packet
    }
}
