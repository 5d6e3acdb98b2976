//! Who computes the UDP checksum of datagrams over IPv6 that leave by rings.
//!
//! Enters: settings, an interface, what its rings were granted. Leaves: what the rings ask for, and what became of it in
//! words. Never does: ask a driver for what it did not declare.
//!
//! In zero-copy mode the driver has to know of it. In copy mode any interface can, as for the kernel's own packets; what is
//! saved there was not to be seen beside what a packet costs the kernel: `auto` leaves it.

use landbridge_xsk::{self as xsk, Bound};

use crate::settings::{ChecksumOffload, Wan};
use crate::steer::{self, Interface};

/// What the rings of an interface are to ask for.
#[must_use]
pub(super) fn wanted(wan: &Wan, interface: &Interface) -> xsk::ChecksumOffload {
    let declared = || steer::finishes_checksums(interface.index).unwrap_or(false);
    match wan.checksum_offload {
        ChecksumOffload::Auto => xsk::ChecksumOffload { zero_copy: declared(), copy: false },
        ChecksumOffload::On => xsk::ChecksumOffload { zero_copy: declared(), copy: true },
        ChecksumOffload::Off => xsk::ChecksumOffload::default(),
    }
}

/// Who computes them, for people. `rings` is what those of the interface were granted.
#[must_use]
pub(super) fn describe(wan: &Wan, interface: &Interface, rings: &[Bound]) -> String {
    let zero_copy = rings.iter().all(|ring| ring.zero_copy);
    if !rings.is_empty() && rings.iter().all(|ring| ring.checksum_offload) {
        return match zero_copy {
            true => "by the driver".to_owned(),
            false => "by the interface, as for the kernel's own packets".to_owned(),
        };
    }
    let driver = interface.driver.as_deref().unwrap_or("unknown");
    let asked = rings.iter().any(|ring| match ring.zero_copy {
        true => wanted(wan, interface).zero_copy,
        false => wan.checksum_offload == ChecksumOffload::On,
    });
    let why = match wan.checksum_offload {
        ChecksumOffload::Off => "configured".to_owned(),
        _ if asked => "this kernel has no metadata for it (Linux 6.11 and later have)".to_owned(),
        _ if zero_copy => format!("driver {driver} does not declare that offload"),
        _ => "in copy mode the offload is not shown to pay".to_owned(),
    };
    format!("in software: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_computes_checksums_is_said_with_the_reason() {
        let bound = |zero_copy, checksum_offload| Bound {
            zero_copy,
            multi_buffer: false,
            tx_metadata: checksum_offload,
            checksum_offload,
            need_wakeup: true,
            busy_poll: false,
        };
        // There is no such interface, so nothing declares anything.
        let driver = Some("mlx9".to_owned());
        let interface = Interface { index: u32::MAX, name: "none".into(), driver, rx_queues: 1, mtu: 1500 };
        let cases = [
            (ChecksumOffload::Auto, bound(true, true), "by the driver"),
            (ChecksumOffload::On, bound(false, true), "by the interface, as for the kernel's own packets"),
            (ChecksumOffload::Off, bound(true, false), "in software: configured"),
            (ChecksumOffload::Auto, bound(true, false), "in software: driver mlx9 does not declare that offload"),
            (ChecksumOffload::Auto, bound(false, false), "in software: in copy mode the offload is not shown to pay"),
            (
                ChecksumOffload::On,
                bound(false, false),
                "in software: this kernel has no metadata for it (Linux 6.11 and later have)",
            ),
        ];
        for (checksum_offload, granted, expected) in cases {
            let wan = Wan { checksum_offload, ..Wan::default() };
            assert_eq!(describe(&wan, &interface, &[granted, granted]), expected);
        }
    }
}
