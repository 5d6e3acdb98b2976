//! How many packets a second AF_XDP moves in copy mode on a veth pair of this machine: sending alone, and sending and
//! receiving on one core. Figures are printed, not judged; compare them within one run only.
//!
//! Needs root. Runs in a network namespace of its own: `cargo run --release -p landbridge-xsk --example veth_rates`.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/xdp.rs"]
mod xdp;

use std::time::{Duration, Instant};

use common::{in_namespace, sh};
use landbridge_xsk::{Burst, ChecksumOffload, Memory, MemoryConfig, Pool, Xsk, XskConfig};
use xdp::{RedirectAll, if_index};

const RUN: Duration = Duration::from_secs(2);

fn open(name: &str, memory: &Memory) -> Xsk {
    let if_index = if_index(name);
    let config = XskConfig {
        if_index,
        queue: 0,
        rx_ring: 1024,
        tx_ring: 1024,
        fill_ring: 2048,
        copy: false,
        multi_buffer: false,
        busy_poll: None,
        checksum_offload: ChecksumOffload::default(),
    };
    Xsk::open(&config, memory).expect("a socket on a veth interface")
}

fn memory() -> (Memory, Pool) {
    let config = MemoryConfig { frames: 8192, frame_size: 2048, jumbo_frames: 0, huge_pages: true };
    Memory::new(config).expect("16 MiB")
}

/// Sends a burst of `len`-byte packets.
fn send(socket: &mut Xsk, pool: &mut Pool, burst: &mut Burst, len: usize) -> usize {
    while !burst.is_full() {
        let Some(mut frame) = pool.take() else { break };
        frame.append(len).expect("a packet fits")[..12].fill(0xff);
        burst.push(frame);
    }
    let sent = socket.transmit(pool, burst);
    socket.flush(pool).expect("the interface is up");
    sent
}

fn measure(len: usize, receiving: bool) {
    let (near_memory, mut near_pool) = memory();
    let (far_memory, mut far_pool) = memory();
    let mut near = open("lbe0", &near_memory);
    let mut far = open("lbe1", &far_memory);
    let program = RedirectAll::attach(if_index("lbe1"), 0);
    if receiving {
        program.steer(0, &far);
    }
    let (mut sent, mut received) = (0, 0);
    let (mut out, mut came) = (Burst::new(), Burst::new());
    let start = Instant::now();
    while start.elapsed() < RUN {
        if receiving {
            while far.receive(&mut far_pool, &mut came) > 0 {
                received += came.len();
                came.drain(..).for_each(|frame| far_pool.put(frame));
            }
        }
        sent += send(&mut near, &mut near_pool, &mut out, len);
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = |count: usize| count as f64 / seconds / 1e6;
    println!("{len:>5} B: {:.2} Mpps sent, {:.2} Mpps received ({:?})", rate(sent), rate(received), near.bound());
}

fn main() {
    in_namespace(|| {
        sh("ip link add lbe0 type veth peer name lbe1; ip link set lbe0 addrgenmode none up
            ip link set lbe1 addrgenmode none up");
        for receiving in [false, true] {
            for len in [64, 570, 1420] {
                measure(len, receiving);
            }
        }
    });
}
