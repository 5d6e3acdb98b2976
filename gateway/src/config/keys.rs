//! Keys: base64 text, files and systemd credentials.
//!
//! Enters: a [`KeySource`]. Leaves: a [`Secret`]. Never does: accept a key file that others can read, or repeat the text of
//! a key in a message.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use x25519_dalek::{PublicKey as X25519Public, StaticSecret};
use zeroize::Zeroizing;

use super::error::Problem;
use super::values;
use crate::settings::{PublicKey, Secret};

/// The longest key file that is read: a key, some white space, no more.
const KEY_FILE_MAX: u64 = 4096;

/// Where a secret key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// It stands in the configuration itself.
    Inline(Secret),
    /// A file of mode 0600 or stricter.
    File(PathBuf),
    /// A systemd credential, by name.
    Credential(String),
}

impl KeySource {
    /// Fetches the key. Relative file names are taken from `base`.
    ///
    /// # Errors
    /// The file that cannot be used, why, and the way out.
    pub fn fetch(&self, base: &Path) -> Result<Secret, Problem> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => read_key_file(&base.join(path), true),
            Self::Credential(name) => read_credential(name),
        }
    }
}

fn read_credential(name: &str) -> Result<Secret, Problem> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
        return Err(Problem::Conflict(format!(
            "credential {name:?} was asked for, but CREDENTIALS_DIRECTORY is not set: start Landbridge from a systemd unit \
             with LoadCredential={name}:FILE, or name a key file"
        )));
    };
    // systemd makes the directory private to the service; the mode of the file inside does not matter.
    read_key_file(&PathBuf::from(directory).join(name), false)
}

fn read_key_file(path: &Path, check_mode: bool) -> Result<Secret, Problem> {
    let problem = |problem: String| Problem::File { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    if check_mode {
        check_private(&file, path).map_err(problem)?;
    }
    let mut text = Zeroizing::new(String::new());
    let size = file
        .take(KEY_FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| problem(format!("cannot be read: {error}")))?;
    if size as u64 > KEY_FILE_MAX {
        return Err(problem(format!("is too long: expected {}", values::KEY)));
    }
    decode_secret(text.trim()).ok_or_else(|| problem(format!("holds no key: expected {}", values::KEY)))
}

/// Refuses a file that its group or everybody can read or write.
pub(crate) fn check_private(file: &File, path: &Path) -> Result<(), String> {
    let mode = file.metadata().map_err(|error| format!("cannot be looked at: {error}"))?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(format!("has mode {mode:04o}, so others can get at the key: run `chmod 600 {}`", path.display()))
}

/// 32 bytes of canonical base64, as `wg` writes them.
#[must_use]
pub fn decode(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    if text.len() != 44 {
        return None;
    }
    let mut buffer = Zeroizing::new([0_u8; 48]);
    let length = BASE64.decode_slice(text, buffer.as_mut_slice()).ok()?;
    let bytes: &[u8; 32] = buffer.get(..length)?.try_into().ok()?;
    Some(Zeroizing::new(*bytes))
}

/// A private or preshared key.
#[must_use]
pub fn decode_secret(text: &str) -> Option<Secret> {
    decode(text).map(Secret)
}

/// Base64, wiped when it is dropped.
#[must_use]
pub fn encode(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(BASE64.encode(secret.0.as_slice()))
}

/// Makes a private key, clamped as Curve25519 wants it.
///
/// # Errors
/// When the system has no randomness to give.
pub fn generate_private() -> std::io::Result<Secret> {
    let mut secret = generate_preshared()?;
    secret.0[0] &= 248;
    secret.0[31] = (secret.0[31] & 127) | 64;
    Ok(secret)
}

/// Makes a preshared key.
///
/// # Errors
/// When the system has no randomness to give.
pub fn generate_preshared() -> std::io::Result<Secret> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(Secret(bytes))
}

/// The public key of a private one.
#[must_use]
pub fn public(secret: &Secret) -> PublicKey {
    PublicKey(*X25519Public::from(&StaticSecret::from(*secret.0)).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        let alice = decode_secret("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").expect("key");
        assert_eq!(public(&alice).to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        let bob = decode_secret("XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=").expect("key");
        assert_eq!(public(&bob).to_string(), "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=");
    }

    #[test]
    fn text_that_is_not_44_characters_of_canonical_base64_is_no_key() {
        let good = encode(&generate_private().expect("randomness"));
        assert!(decode(&good).is_some());
        assert!(decode(&good[..43]).is_none());
        assert!(decode(&format!("{}=", good.as_str())).is_none());
        assert!(decode("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=").is_none(), "padding bits are set");
        assert!(decode("!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").is_none());
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("key");
        let key = generate_private().expect("randomness");
        std::fs::write(&path, format!("{}\n", encode(&key).as_str())).expect("write");
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        for (mode, accepted) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            set(mode);
            let result = KeySource::File(path.clone()).fetch(Path::new("/"));
            assert_eq!(result.is_ok(), accepted, "{mode:o}");
            if let Err(problem) = result {
                assert!(problem.to_string().contains("chmod 600"), "{problem}");
            }
        }
    }
}
