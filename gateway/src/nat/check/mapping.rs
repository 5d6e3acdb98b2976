//! By which protocols the router maps a port, on a thread beside the rest of the check.
//!
//! Enters: the router. Leaves: for each protocol what it granted, or why not. Never does: keep a lease.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::Context as _;

use super::report::{MappingReport, ProtocolReport};
use crate::nat::mapping::Router;
use crate::nat::mapping::lease::Lease;
use crate::settings::MappingProtocol;

/// The port of the first test lease; each protocol has one of its own, so that none takes another's away.
const PORT: u16 = 61_820;

/// What is still asked.
pub(super) struct Pending(mpsc::Receiver<ProtocolReport>, usize);

/// Begins to ask.
pub(super) fn begin(router: Router, protocols: Vec<MappingProtocol>) -> anyhow::Result<Pending> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let (sender, answers) = mpsc::channel();
    let count = protocols.len();
    let work = move || {
        runtime.block_on(async {
            let asked = protocols.into_iter().enumerate().map(|(at, protocol)| {
                let sender = sender.clone();
                async move {
                    let report = ask(protocol, router, PORT + at as u16).await;
                    let _ = sender.send(report);
                }
            });
            futures_util::future::join_all(asked).await;
        });
    };
    std::thread::Builder::new().name("port-mapping".to_owned()).spawn(work).context("a thread cannot be started")?;
    Ok(Pending(answers, count))
}

async fn ask(protocol: MappingProtocol, router: Router, port: u16) -> ProtocolReport {
    let begun = Instant::now();
    let (mut external, mut failure): (Option<SocketAddr>, _) = (None, None);
    if let Some(port) = NonZeroU16::new(port) {
        match Lease::obtain(protocol, router, port).await {
            Ok(lease) => {
                external = Some(lease.mapped().external);
                lease.release().await;
            }
            Err(error) => failure = Some(error.to_string()),
        }
    }
    ProtocolReport {
        protocol: protocol.name().to_owned(),
        external: external.map(|external| external.ip()),
        failure,
        ms: begun.elapsed().as_secs_f64() * 1e3,
    }
}

impl Pending {
    /// What came up to a time.
    pub(super) fn finish(self, end: Instant) -> MappingReport {
        let mut protocols = Vec::new();
        while protocols.len() < self.1
            && let Ok(report) = self.0.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            protocols.push(report);
        }
        let place = |name: &str| MappingProtocol::ALL.iter().position(|protocol| protocol.name() == name);
        protocols.sort_by_key(|report| place(&report.protocol));
        MappingReport { protocols }
    }
}
