//! Configuration files: TOML of our own, or a `.conf` of wg-quick; both become [`Settings`].
//!
//! 1. [`load`] opens the file and looks at its mode.
//! 2. [`toml`] or [`wg_quick`] turns the text into a [`draft::Draft`]: every value with its place.
//! 3. [`draft`] checks what must hold between values.
//! 4. [`keys`] fetches private and preshared keys from files or systemd credentials.
//!
//! Enters: a file name. Leaves: [`Loaded`], or one [`ConfigError`]. Never does: touch the network or resolve a name.

pub mod draft;
pub mod error;
pub mod keys;
pub mod relay;
pub mod toml;
pub(crate) mod values;
pub mod wg_quick;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use self::draft::Draft;
pub use self::error::ConfigError;
use self::error::{Fault, Place, Problem};
use self::keys::KeySource;
use crate::settings::Settings;

/// The longest file that is read: 130,000 allowed IPs fit many times.
const FILE_MAX: u64 = 64 << 20;

/// Which language a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Our own.
    Toml,
    /// That of wg-quick.
    WgQuick,
}

impl Format {
    /// By the file's extension, else by what the text looks like: only wg-quick has a section `[Peer]` in single brackets
    /// and keys without quotes around values.
    #[must_use]
    pub fn of(path: &Path, text: &str) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(extension) if extension.eq_ignore_ascii_case("toml") => Self::Toml,
            Some(extension) if extension.eq_ignore_ascii_case("conf") => Self::WgQuick,
            _ => {
                let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
                if first.is_some_and(|line| line.starts_with("[Interface]") || line.starts_with("[Peer]")) {
                    Self::WgQuick
                } else {
                    Self::Toml
                }
            }
        }
    }
}

/// A configuration that holds in itself.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the gateway is told.
    pub settings: Settings,
    /// In which language.
    pub format: Format,
    /// What a person should know though it stops nothing.
    pub notes: Vec<String>,
}

/// Reads a configuration and the keys that it names.
///
/// # Errors
/// File, place and problem of the first thing that is wrong.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let whole = |problem: String| Fault::new(&Place::default(), Problem::Syntax(problem)).in_file(path);
    let file = File::open(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
    let mut bytes = Zeroizing::new(Vec::new());
    (&file).take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|error| whole(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(whole(format!("is larger than {} MiB", FILE_MAX >> 20)));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let place = Place::new(line, 1, "");
        Fault::new(&place, Problem::Syntax("not UTF-8 text".to_owned())).in_file(path)
    })?;
    let format = Format::of(path, text);
    finish(path, &file, text, format).map_err(|fault| fault.in_file(path))
}

/// Turns the text of either format into a draft.
///
/// # Errors
/// The first thing that is wrong in it.
pub fn parse(text: &str, format: Format) -> Result<Draft, Fault> {
    match format {
        Format::Toml => toml::parse(text),
        Format::WgQuick => wg_quick::parse(text),
    }
}

fn finish(path: &Path, file: &File, text: &str, format: Format) -> Result<Loaded, Fault> {
    let draft = parse(text, format)?;
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let mut settings = draft.check(stem)?;
    let mut notes = draft.notes.clone();
    notes.extend(check_inline_keys(path, file, &draft, format)?);
    let base = path.parent().unwrap_or(Path::new("."));
    if let Some(source) = &draft.private_key {
        let secret = source.value.fetch(base).map_err(|problem| Fault::new(&source.place, problem))?;
        draft.check_own_key(keys::public(&secret))?;
        settings.private_key = Some(secret);
    }
    for (peer, from) in settings.peers.iter_mut().zip(&draft.peers) {
        if let Some(source) = &from.preshared_key {
            let secret = source.value.fetch(base).map_err(|problem| Fault::new(&source.place, problem))?;
            peer.preshared_key = Some(secret);
        }
    }
    Ok(Loaded { settings, format, notes })
}

/// A file that holds a key must be private. wg-quick only warns, and its files have to work as they are.
fn check_inline_keys(path: &Path, file: &File, draft: &Draft, format: Format) -> Result<Option<String>, Fault> {
    let sources = draft.private_key.iter().chain(draft.peers.iter().filter_map(|peer| peer.preshared_key.as_ref()));
    let Some(inline) = sources.into_iter().find(|source| matches!(source.value, KeySource::Inline(_))) else {
        return Ok(None);
    };
    match (keys::check_private(file, path), format) {
        (Ok(()), _) => Ok(None),
        (Err(problem), Format::WgQuick) if is_world_accessible(file) => Ok(Some(format!("the file {problem}"))),
        (Err(_), Format::WgQuick) => Ok(None),
        (Err(problem), Format::Toml) => {
            let text = format!("the file holds a key and {problem}, or keep the key in a file of its own");
            Err(Fault::new(&inline.place, Problem::Conflict(text)))
        }
    }
}

fn is_world_accessible(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
}
