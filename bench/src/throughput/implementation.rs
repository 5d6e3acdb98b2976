//! WireGuard implementations: which there are on this machine, where, and how each is called.
//!
//! Enters: names and paths that a person gave. Leaves: a [`Catalogue`] of what was found and what is missing. Never
//! does: start one; that is [`super::gateway`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use landbridge::lab::links;
use landbridge::lab::namespace::Namespace;
use serde::Serialize;

/// How an implementation is called. All but the last two are userspace programs that make a TUN and serve the UAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// This project's.
    Landbridge,
    /// Mullvad's.
    Gotatun,
    /// Cloudflare's.
    Boringtun,
    /// The reference in Go.
    WireguardGo,
    /// Any other program with the conventions of the field: `PROGRAM -f IFNAME`.
    Other,
    /// The kernel's own, by `ip link` and `wg`.
    Kernel,
    /// No tunnel: the kernel forwards. What the links and the stack reach alone.
    Plain,
}

/// The kinds that are looked for, with the names of their programs.
const KNOWN: [(Kind, &str, &str); 4] = [
    (Kind::Landbridge, "landbridge", "landbridge"),
    (Kind::Gotatun, "gotatun", "gotatun"),
    (Kind::Boringtun, "boringtun", "boringtun-cli"),
    (Kind::WireguardGo, "wireguard-go", "wireguard-go"),
];

/// An implementation that can be measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Implementation {
    /// Its name in reports.
    pub(crate) name: String,
    /// How it is called.
    pub(crate) kind: Kind,
    /// Its program, if it has one.
    pub(crate) program: Option<PathBuf>,
    /// What it says of its version.
    pub(crate) version: String,
}

/// An implementation that cannot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Missing {
    /// Its name.
    pub(crate) name: String,
    /// Why, and what to do.
    pub(crate) reason: String,
}

/// `NAME=PATH` from the command line. A name that begins with one of the known ones is called like that one, so that
/// `landbridge-old=/path` compares two builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    name: String,
    path: PathBuf,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("NAME=PATH, such as landbridge-old=/tmp/landbridge")?;
        let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 32 || !name.chars().all(sound) {
            return Err("a name is 1 to 32 letters, digits, dots and dashes".to_owned());
        }
        match path {
            "" => Err("the path is empty".to_owned()),
            path => Ok(Self { name: name.to_owned(), path: path.into() }),
        }
    }
}

/// What there is, and what is missing.
#[derive(Debug, Serialize)]
pub(crate) struct Catalogue {
    /// Found.
    pub(crate) found: Vec<Implementation>,
    /// Not found.
    pub(crate) missing: Vec<Missing>,
}

impl Catalogue {
    /// Looks for every implementation: in `named`, beside this program, in `target/tools/bin`, on the path.
    pub(crate) fn look(named: &[Named]) -> Self {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (kind, name, program) in KNOWN {
            let given = named.iter().find(|named| named.name == name).map(|named| named.path.clone());
            match given.clone().or_else(|| find(program)) {
                Some(path) => take(name, kind, path, &mut found, &mut missing),
                None => missing.push(Missing { name: name.to_owned(), reason: how_to_get(kind, program) }),
            }
        }
        for Named { name, path } in named {
            if !KNOWN.iter().any(|(_, known, _)| known == name) {
                take(name, kind_of(name), path.clone(), &mut found, &mut missing);
            }
        }
        match kernel() {
            Ok(implementation) => found.push(implementation),
            Err(reason) => missing.push(Missing { name: "kernel".to_owned(), reason }),
        }
        found.push(Implementation {
            name: "plain routing".to_owned(),
            kind: Kind::Plain,
            program: None,
            version: format!("Linux {}", release()),
        });
        Self { found, missing }
    }

    /// The one that the command line names.
    pub(crate) fn named(&self, named: &Named) -> Option<&Implementation> {
        self.found.iter().find(|implementation| implementation.name == named.name)
    }
}

impl Kind {
    /// Arguments before the interface's name.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Landbridge => &["wg", "--foreground"],
            // Dropping privileges needs a user who called sudo.
            Self::Gotatun | Self::Boringtun => &["--foreground", "--disable-drop-privileges"],
            Self::WireguardGo | Self::Other => &["-f"],
            Self::Kernel | Self::Plain => &[],
        }
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn kind_of(name: &str) -> Kind {
    KNOWN.iter().find(|(_, known, _)| name.starts_with(known)).map_or(Kind::Other, |(kind, _, _)| *kind)
}

fn take(name: &str, kind: Kind, path: PathBuf, found: &mut Vec<Implementation>, missing: &mut Vec<Missing>) {
    match version(&path) {
        Ok(version) => found.push(Implementation { name: name.to_owned(), kind, program: Some(path), version }),
        Err(reason) => missing.push(Missing { name: name.to_owned(), reason }),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let target = beside.as_ref().and_then(|release| Some(release.parent()?.join("tools/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = beside.into_iter().chain(target).chain([PathBuf::from("target/tools/bin")]);
    let mut places = directories.chain(std::env::split_paths(&path)).map(|directory| directory.join(program));
    places.find(|place| is_program(place))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The first line of `PROGRAM --version`.
fn version(path: &Path) -> Result<String, String> {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{} cannot be run: {error}", path.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    match text.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => Ok(line.chars().take(80).collect()),
        None => Ok("does not tell its version".to_owned()),
    }
}

/// Whether this kernel makes WireGuard interfaces: tried in a namespace of its own.
fn kernel() -> Result<Implementation, String> {
    let tried = || -> anyhow::Result<()> {
        let namespace = Namespace::new("landbridge-throughput", "kernel")?;
        links::wireguard(&namespace, "wg0")
    };
    tried().map_err(|error| format!("this kernel ({}) makes no WireGuard interface: {error:#}", release()))?;
    let Some(wg) = find("wg") else { return Err("its configuration needs `wg` (Debian: wireguard-tools)".to_owned()) };
    Ok(Implementation {
        name: "kernel".to_owned(),
        kind: Kind::Kernel,
        program: Some(wg),
        version: format!("Linux {}", release()),
    })
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().into())
}

fn how_to_get(kind: Kind, program: &str) -> String {
    let how = match kind {
        Kind::Landbridge => "cargo build --release builds it beside this program",
        Kind::Gotatun => "cargo install --root target/tools gotatun-cli, or --implementation gotatun=PATH",
        Kind::Boringtun => "cargo install --root target/tools boringtun-cli, or --implementation boringtun=PATH",
        _ => "Debian has a package of that name, or --implementation wireguard-go=PATH",
    };
    format!("{program} was not found: {how}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_program_is_called_like_the_known_one_that_its_name_begins_with() {
        for (name, kind) in [
            ("landbridge-old", Kind::Landbridge),
            ("boringtun-next", Kind::Boringtun),
            ("wireguard-go-1", Kind::WireguardGo),
            ("mine", Kind::Other),
        ] {
            assert_eq!(kind_of(name), kind, "{name}");
        }
    }

    #[test]
    fn only_name_and_path_name_a_program() {
        let named: Named = "landbridge-old=/tmp/a=b".parse().expect("good");
        assert_eq!((named.name.as_str(), named.path.to_str()), ("landbridge-old", Some("/tmp/a=b")));
        for text in ["", "x", "=/tmp/x", "a b=/tmp/x", "x="] {
            assert!(text.parse::<Named>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_named_with_the_way_to_get_it() {
        let named = ["gotatun=/nowhere/gotatun".parse().expect("good"), "mine=/bin/true".parse().expect("good")];
        let catalogue = Catalogue::look(&named);
        let missing = catalogue.missing.iter().find(|missing| missing.name == "gotatun").expect("named as missing");
        assert!(missing.reason.contains("/nowhere/gotatun"), "{}", missing.reason);
        assert!(catalogue.found.iter().any(|found| found.name == "mine" && found.kind == Kind::Other));
        assert!(catalogue.found.iter().any(|found| found.kind == Kind::Plain), "plain routing needs no program");
    }
}
