//! The ways to the peers and our own place, as they are told.

use landbridge_proto::endpoint::PeerView;

use crate::status::paths::{PathStatus, PathsStatus, PlaceStatus};

/// Where the gateway is.
pub(super) fn place() -> PlaceStatus {
    PlaceStatus::default()
}

/// The ways to a peer. Of one that does not prove paths, its endpoint is the only one.
pub(super) fn of(view: &PeerView<'_>) -> PathsStatus {
    PathsStatus { in_use: endpoint(view), ..PathsStatus::default() }
}

fn endpoint(view: &PeerView<'_>) -> Option<PathStatus> {
    Some(PathStatus {
        tier: None,
        kind: None,
        remote: view.endpoint?,
        local: view.local,
        proven: false,
        rtt_ms: None,
        loss_ratio: None,
        mtu: None,
        heard_seconds_ago: None,
    })
}
