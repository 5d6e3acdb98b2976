//! Whether the process may do what it is asked for, said in one sentence before anything is opened.
//!
//! Enters: what is asked for. Leaves: nothing, or what is missing and the way out. Never does: gain or drop a privilege.

use caps::{CapSet, Capability, CapsHashSet};

use crate::settings::{LanBackend, WanBackend};

/// What loading the XDP program (BPF, and PERFMON for its arithmetic on packets) and binding its rings (NET_RAW) takes.
const XDP: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_RAW];

/// Checks the capabilities that a gateway needs.
pub(super) fn check(command: &str, wan: WanBackend, makes_interface: bool) -> anyhow::Result<()> {
    let mut needed = Vec::new();
    if makes_interface {
        needed.push(Capability::CAP_NET_ADMIN);
    }
    if wan == WanBackend::Xdp {
        needed.push(Capability::CAP_NET_ADMIN);
        needed.extend(XDP);
    }
    let have = caps::read(None, CapSet::Effective).unwrap_or_default();
    match missing(&needed, |capability| granted(&have, capability)) {
        None => Ok(()),
        Some(missing) => Err(anyhow::anyhow!(
            "`landbridge {command}` needs {missing}: run it as root (`sudo landbridge {command} ...`) or give it the capability"
        )),
    }
}

/// Checks the capabilities that the demo needs.
pub(super) fn check_demo(wan: WanBackend, lan: LanBackend) -> anyhow::Result<()> {
    let mut needed = vec![Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN];
    if wan == WanBackend::Xdp || lan == LanBackend::Xdp {
        needed.extend(XDP);
    }
    let have = caps::read(None, CapSet::Effective).unwrap_or_default();
    match missing(&needed, |capability| granted(&have, capability)) {
        None => Ok(()),
        Some(missing) => Err(anyhow::anyhow!(
            "the demo makes network namespaces and XDP programs, for which it needs root (missing here: {missing}): run \
             `sudo landbridge demo`; it touches no interface of the machine itself"
        )),
    }
}

/// To the kernel SYS_ADMIN holds BPF and PERFMON.
fn granted(have: &CapsHashSet, capability: Capability) -> bool {
    let in_sys_admin = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
    have.contains(&capability) || (in_sys_admin && have.contains(&Capability::CAP_SYS_ADMIN))
}

fn missing(needed: &[Capability], has: impl Fn(Capability) -> bool) -> Option<String> {
    let mut names: Vec<String> = needed.iter().filter(|c| !has(**c)).map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_once() {
        let needed = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_BPF];
        assert_eq!(missing(&needed, |_| true), None);
        assert_eq!(missing(&needed, |c| c == Capability::CAP_BPF).as_deref(), Some("CAP_NET_ADMIN"));
        let admin = CapsHashSet::from([Capability::CAP_SYS_ADMIN]);
        assert_eq!(missing(&XDP, |c| granted(&admin, c)).as_deref(), Some("CAP_NET_RAW"));
        assert_eq!(missing(&needed, |_| false).as_deref(), Some("CAP_BPF, CAP_NET_ADMIN"));
    }
}
