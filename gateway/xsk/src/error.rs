//! Errors of the system with the step that failed and, where there is one, the way out.

use std::fmt;
use std::io;

/// What [`io::Error`] carries: its kind stays that of the kernel's error.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}{way_out}")]
struct Failed {
    step: String,
    source: io::Error,
    way_out: WayOut,
}

/// A clause after the error, or nothing.
#[derive(Debug)]
struct WayOut(Option<&'static str>);

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |text| write!(f, " ({text})"))
    }
}

/// Adds the step that failed.
pub(crate) fn at(step: impl fmt::Display, source: io::Error) -> io::Error {
    with_way_out(step, source, None)
}

/// Adds the step that failed and the way out.
pub(crate) fn with_way_out(step: impl fmt::Display, source: io::Error, way_out: Option<&'static str>) -> io::Error {
    io::Error::new(source.kind(), Failed { step: step.to_string(), source, way_out: WayOut(way_out) })
}

/// The kernel's number of an error, also when a step was added to it.
#[must_use]
pub fn os_code(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| {
        let failed = error.get_ref()?.downcast_ref::<Failed>()?;
        os_code(&failed.source)
    })
}
