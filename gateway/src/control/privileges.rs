//! Giving up what is not needed after start.

use anyhow::Context as _;
use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, User, setgid, setgroups, setuid};

/// Becomes a user that can do no more than a running gateway must: follow and remove its routes (`NET_ADMIN`), write its
/// maps (`BPF`), listen on another port (`NET_BIND_SERVICE`) and remove its sockets' files (`DAC_OVERRIDE`). With rings also
/// bind them again when their interface comes back (`NET_RAW`, and `IPC_LOCK` for packet memory).
///
/// # Errors
/// No such user, or what the kernel said.
pub fn become_user(name: &str, rings: bool) -> anyhow::Result<()> {
    let user = User::from_name(name).context("cannot read the users of this host")?.with_context(|| {
        format!("user {name} does not exist: create it (`useradd --system {name}`), or remove the key")
    })?;
    let kept: CapsHashSet = [
        Capability::CAP_NET_ADMIN,
        Capability::CAP_BPF,
        Capability::CAP_NET_BIND_SERVICE,
        Capability::CAP_DAC_OVERRIDE,
    ]
    .into_iter()
    .chain([Capability::CAP_NET_RAW, Capability::CAP_IPC_LOCK].into_iter().filter(|_| rings))
    .filter(|capability| caps::has_cap(None, CapSet::Permitted, *capability).unwrap_or(false))
    .collect();
    caps::securebits::set_keepcaps(true).context("cannot keep capabilities")?;
    setgroups(&[Gid::from_raw(user.gid.as_raw())]).context("cannot leave root's groups")?;
    setgid(user.gid).with_context(|| format!("cannot become the group of {name}"))?;
    setuid(user.uid).with_context(|| format!("cannot become {name}"))?;
    caps::set(None, CapSet::Permitted, &kept).context("cannot give up capabilities")?;
    caps::set(None, CapSet::Effective, &kept).context("cannot use the capabilities kept")
}
