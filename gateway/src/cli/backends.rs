//! Backend options of the command line, laid over settings.
//!
//! Enters: [`Backends`] and [`Settings`]. Leaves: the settings with what the options say. Never does: clear a setting that
//! no option names.

use super::args::Backends;
use crate::settings::Settings;

pub(super) fn apply(backends: &Backends, settings: &mut Settings) {
    if let Some(backend) = backends.wan {
        settings.wan.backend = backend;
    }
    if !backends.wan_interface.is_empty() {
        settings.wan.interfaces.clone_from(&backends.wan_interface);
    }
    if let Some(mode) = backends.xdp_mode {
        settings.wan.xdp_mode = mode;
    }
    settings.wan.copy |= backends.copy;
    if let Some(offload) = backends.checksum_offload {
        settings.wan.checksum_offload = offload;
    }
    settings.wan.one_buffer |= backends.one_buffer;
    if let Some(backend) = backends.lan {
        settings.lan.backend = backend;
    }
    if !backends.lan_interface.is_empty() {
        settings.lan.interfaces.clone_from(&backends.lan_interface);
    }
    if let Some(lanes) = backends.lanes {
        settings.lanes = Some(usize::from(lanes));
    }
    if let Some(crypto) = backends.crypto {
        settings.crypto = crypto;
    }
    if let Some(metrics) = backends.metrics {
        settings.metrics = Some(metrics);
    }
    if backends.stages.is_some() {
        settings.stages = backends.stages;
    }
}
