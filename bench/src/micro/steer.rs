//! The XDP program: what it costs a packet, timed by the kernel (BPF_PROG_TEST_RUN), without a wire.
//!
//! The same packet runs again and again, so maps and code are in the cache: differences between the rows are the
//! program's, the rest of a cache miss has to be added for scattered traffic. Needs root; without it there are no
//! rows.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::rc::Rc;

use anyhow::Context;
use aya::programs::{TestRun, TestRunOptions};
use ipnet::IpNet;
use landbridge::steer::{LanInterface, Steer};
use landbridge_proto::ReceiverIndex;
use landbridge_xsk::{ChecksumOffload, Memory, MemoryConfig, Xsk, XskConfig};
use nix::sched::{CloneFlags, unshare};

use crate::measure::{Case, Sample};

const GROUP: &str = "XDP program";
const REPEAT: u32 = 20_000;
const PORT: u16 = 51_820;
const LIVE: u32 = 0xabc0_1234;
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// A run without a wire arrives on the loopback device.
const LOOPBACK: u32 = 1;
const ROUTES: [u32; 4] = [1, 100, 10_000, 100_000];
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// All cases of this file.
pub(super) fn cases() -> anyhow::Result<Vec<Case>> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("landbridge-bench: the XDP program is left out, as it needs root");
        return Ok(Vec::new());
    }
    let udp = transport_data();
    let (data, own, far) = (v4(OURS, 17, &udp), v4(OURS, 6, &[0; 100]), v4(Ipv4Addr::new(10, 0, 0, 9), 6, &[0; 100]));
    let mut cases = Vec::new();
    for (role, lan) in [("wan", None), ("wan and lan", Some(true)), ("lan", Some(false))] {
        let rig = rig(lan, 1)?;
        let data_goes = if lan == Some(false) { XDP_PASS } else { XDP_REDIRECT };
        let far_goes = if lan.is_some() { XDP_REDIRECT } else { XDP_PASS };
        let kinds =
            [("transport data", &data, data_goes), ("TCP to us", &own, XDP_PASS), ("to a peer's", &far, far_goes)];
        for (kind, frame, action) in kinds {
            let case = case(format!("{role}: {kind}"), Rc::clone(&rig), frame.clone(), action);
            cases.push(if role == "wan" { case } else { case.against(format!("wan: {kind}")) });
        }
    }
    for routes in ROUTES {
        let case = case(format!("lan: {routes} routes"), rig(Some(false), routes)?, far.clone(), XDP_REDIRECT);
        cases.push(if routes == ROUTES[0] { case } else { case.against(format!("lan: {} routes", ROUTES[0])) });
    }
    Ok(cases)
}

/// The program and the socket that it redirects to.
struct Rig {
    steer: Steer,
    _socket: Xsk,
}

/// A program with a session, and an interface that is one of the wan, of a lan, or of both.
fn rig(lan: Option<bool>, routes: u32) -> anyhow::Result<Rc<RefCell<Rig>>> {
    let mut steer = Steer::load()?;
    steer.set_addresses(&[OURS.into()])?;
    steer.set_tunnel_mtu(1420)?;
    steer.set_port(PORT)?;
    steer.insert_session(ReceiverIndex(LIVE))?;
    if let Some(wan) = lan {
        steer.set_lan_interface(LanInterface { if_index: LOOPBACK, mac: MAC, vlan: None, wan })?;
        let nets: BTreeSet<IpNet> = (0..routes).map(route).collect::<Result<_, _>>()?;
        steer.set_routes(&nets)?;
    }
    let socket = std::thread::spawn(socket).join().map_err(|_| anyhow::anyhow!("no socket"))??;
    steer.bind_socket(LOOPBACK, 0, socket.as_fd())?;
    Ok(Rc::new(RefCell::new(Rig { steer, _socket: socket })))
}

/// The nth /24 of 10.0.0.0/7.
fn route(n: u32) -> Result<IpNet, ipnet::PrefixLenError> {
    IpNet::new(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + (n << 8))), 24)
}

/// An AF_XDP socket on the loopback device of a namespace of its own.
fn socket() -> anyhow::Result<Xsk> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    let sizes = MemoryConfig { frames: 64, frame_size: 2048, jumbo_frames: 0, huge_pages: false };
    let (memory, _) = Memory::new(sizes)?;
    let rings = XskConfig {
        if_index: LOOPBACK,
        queue: 0,
        rx_ring: 64,
        tx_ring: 64,
        fill_ring: 64,
        copy: true,
        multi_buffer: false,
        busy_poll: None,
        checksum_offload: ChecksumOffload::default(),
    };
    Xsk::open(&rings, &memory).context("an AF_XDP socket")
}

fn case(name: String, rig: Rc<RefCell<Rig>>, frame: Vec<u8>, action: u32) -> Case {
    let bytes = frame.len();
    let sample = move || {
        let options = TestRunOptions { data_in: Some(&frame), repeat: REPEAT, ..Default::default() };
        let mut rig = rig.borrow_mut();
        let program = rig.steer.program().expect("the program was loaded");
        let result = program.test_run(options).expect("the kernel runs it");
        assert_eq!(result.return_value, action, "the packet goes another way");
        Sample::measured(u64::from(REPEAT), result.duration.as_nanos() as f64)
    };
    Case::new(GROUP, name, sample).bytes(bytes)
}

fn transport_data() -> Vec<u8> {
    let mut datagram = vec![0x9c, 0x40];
    datagram.extend(PORT.to_be_bytes());
    datagram.extend([0, 104, 0, 0, 4, 0, 0, 0]);
    datagram.extend(LIVE.to_le_bytes());
    datagram.resize(104, 0);
    datagram
}

fn v4(destination: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = [&MAC[..], &[2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0]].concat();
    frame.extend((20 + body.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 51, 100, 7]);
    frame.extend(destination.octets());
    frame.extend(body);
    frame
}
