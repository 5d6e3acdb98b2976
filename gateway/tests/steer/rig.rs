//! The object under test with its maps filled, and one frame after the other through it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{TestRun, TestRunOptions};
use landbridge::steer::{Counters, Steer, Verdict};
use landbridge_proto::ReceiverIndex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::load;
use crate::model::Model;

pub(crate) const PORT: u16 = 51_820;
pub(crate) const OURS_4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OURS_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const LIVE: u32 = 0xabc0_1234;
/// The longest IP packet that the rig's sockets take.
pub(crate) const LONGEST: usize = 1664;
/// A run without a wire arrives on the loopback device's only queue.
pub(crate) const LOOPBACK: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// The program with a port, two addresses, a live session and a socket.
pub(crate) struct Rig {
    pub(crate) steer: Steer,
    pub(crate) socket: OwnedFd,
    pub(crate) before: Counters,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(load(), LONGEST)
    }

    /// The same of one that was loaded, whose sockets take packets up to `longest`.
    pub(crate) fn with(mut steer: Steer, longest: usize) -> Self {
        steer.set_packet_len_max(longest);
        steer.set_port(PORT).expect("a port");
        steer.set_addresses(&[OURS_4.into(), OURS_6.into()]).expect("addresses");
        steer.insert_session(ReceiverIndex(LIVE)).expect("a session");
        // A descriptor of the right family is all that the map asks for.
        let family = AddressFamily::from_raw(44);
        let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None).expect("an AF_XDP socket");
        steer.bind_socket(LOOPBACK, 0, socket.as_fd()).expect("a bound socket");
        Self { steer, socket, before: Counters::default() }
    }

    /// Runs the program on a frame: its verdict, by the one counter that moved. Checks what holds of every frame.
    pub(crate) fn verdict(&mut self, frame: &[u8]) -> Verdict {
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
        let result = self.steer.program().expect("the program").test_run(options).expect("a run");
        assert_eq!(&out[..result.data_size_out as usize], frame, "the program changed the frame");

        let after = self.steer.counters().expect("counters");
        let moved: Vec<_> =
            after.iter().filter(|(verdict, packets)| *packets != self.before.packets(*verdict)).collect();
        assert_eq!(moved.len(), 1, "one verdict per packet, not {moved:?}");
        let (verdict, packets) = moved[0];
        assert_eq!(packets, self.before.packets(verdict) + 1, "{verdict:?} counted more than once");
        self.before = after;

        let taken = matches!(verdict, Verdict::Redirected | Verdict::LanRedirected);
        let action = if taken { XDP_REDIRECT } else { XDP_PASS };
        assert_eq!(result.return_value, action, "the action of {verdict:?}");
        verdict
    }
}

/// What [`Rig::new`] tells the program.
pub(crate) fn model() -> Model {
    Model {
        port: PORT,
        packet_len_max: LONGEST,
        addresses: [OURS_4.into(), OURS_6.into()].into(),
        sessions: [(LIVE & 0xf_ffff, LIVE)].into(),
        lan: None,
    }
}
