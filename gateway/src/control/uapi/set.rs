//! A set, applied to the endpoint.
//!
//! Port and mark are the sockets' business: [`super::super::Control`] sees to them before the peers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use landbridge_proto::{Endpoint, PeerConfig, PeerId, PeerUpdate};

use super::parse::{Errno, PeerSet, Set};

/// Applies keys and peers. Returns the peers that were added or changed.
///
/// # Errors
/// More peers than the endpoint holds; what was applied until then stays.
pub fn apply(endpoint: &mut Endpoint, set: Set, now: Instant) -> Result<Vec<PeerId>, Errno> {
    if let Some(key) = set.private_key {
        let key = (*key != [0; 32]).then_some(*key);
        if endpoint.private_key() != key {
            endpoint.set_private_key(key, now);
        }
    }
    if set.replace_peers {
        let peers: Vec<_> = endpoint.peers().collect();
        for peer in peers {
            endpoint.remove_peer(peer, now);
        }
    }
    let mut touched = Vec::new();
    for peer in set.peers {
        touched.extend(apply_peer(endpoint, peer, now)?);
    }
    Ok(touched)
}

fn apply_peer(endpoint: &mut Endpoint, set: PeerSet, now: Instant) -> Result<Option<PeerId>, Errno> {
    let known = endpoint.peer_by_key(&set.public_key);
    if set.remove {
        if let Some(peer) = known {
            endpoint.remove_peer(peer, now);
        }
        return Ok(None);
    }
    // Our own key is no peer: such a section is passed over, as the reference does.
    if (known.is_none() && set.update_only) || endpoint.public_key() == Some(set.public_key) {
        return Ok(None);
    }
    let peer = match known {
        Some(peer) => peer,
        None => endpoint.add_peer(set.public_key, PeerConfig::default(), now).ok_or(Errno::TOO_BIG)?,
    };
    let (allowed_ips_add, allowed_ips_remove) = sort_out(&set);
    let update = PeerUpdate {
        preshared_key: set.preshared_key.as_deref().copied(),
        endpoint: set.endpoint,
        persistent_keepalive: set
            .persistent_keepalive
            .map(|seconds| (seconds > 0).then(|| Duration::from_secs(seconds.into()))),
        replace_allowed_ips: set.replace_allowed_ips,
        allowed_ips_add,
        allowed_ips_remove,
        direct: None,
    };
    endpoint.update_peer(peer, update, now);
    Ok(Some(peer))
}

/// What is added and what is removed; the last word on a prefix counts.
fn sort_out(set: &PeerSet) -> (Vec<IpNet>, Vec<IpNet>) {
    if set.allowed_ips.iter().all(|ip| !ip.remove) {
        return (set.allowed_ips.iter().map(|ip| ip.net).collect(), Vec::new());
    }
    let last: BTreeMap<IpNet, bool> = set.allowed_ips.iter().map(|ip| (ip.net, ip.remove)).collect();
    let (remove, add): (Vec<_>, Vec<_>) = last.into_iter().partition(|(_, remove)| *remove);
    (add.into_iter().map(|(net, _)| net).collect(), remove.into_iter().map(|(net, _)| net).collect())
}
