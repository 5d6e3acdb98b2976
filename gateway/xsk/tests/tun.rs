//! TUN devices against the kernel, each in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{in_namespace, sh};
use landbridge_xsk::{Tun, TunConfig};

fn config(name: &str, queues: usize) -> TunConfig {
    TunConfig { name: name.into(), queues, offloads: true }
}

#[test]
fn a_device_has_the_queues_and_offloads_that_were_asked_for() {
    in_namespace(|| {
        let tun = Tun::create(&config("lbt%d", 2)).unwrap();
        assert_eq!((tun.name.as_str(), tun.queues.len()), ("lbt0", 2));
        assert!(tun.tso && tun.uso);
        sh("ip link show lbt0");
        drop(tun);
        sh("! ip link show lbt0 2>/dev/null");
    });
}
