//! Both formats, every class of message, and the example that operators copy.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::settings::{NatSettings, RelayBackend, RelaySettings, RouteTable, WanBackend};

const KEY_A: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC_A: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const PUBLIC_B: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

fn settings(text: &str, format: Format) -> Result<Settings, String> {
    let name = match format {
        Format::Toml => "lb0.toml",
        Format::WgQuick => "wg0.conf",
    };
    let path = Path::new(name);
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    parse(text, format).and_then(|draft| draft.check(stem)).map_err(|fault| fault.in_file(path).to_string())
}

fn file(name: &str, text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    (directory, path)
}

#[test]
fn the_example_in_deploy_is_a_good_configuration() {
    let text = include_str!("../../../deploy/landbridge.toml");
    let settings = settings(text, Format::Toml).expect("the example parses");
    assert_eq!(settings.interface, "lb0");
    assert_eq!(settings.listen_port, Some(51820));
    assert_eq!(settings.peers.len(), 1);
    assert_eq!((settings.wan.ring, settings.frames_per_lane), (0, 0), "the number of queues decides");
}

#[test]
fn the_example_has_every_key_that_the_parser_knows() {
    let text = include_str!("../../../deploy/landbridge.toml");
    for (section, keys) in toml::SECTIONS {
        let header = match *section {
            "peer" => "[[peer]]".to_owned(),
            "relay.link" => "# [[relay.link]]".to_owned(),
            other => format!("[{other}]"),
        };
        let lines: Vec<&str> =
            text.lines().skip_while(|line| *line != header).skip(1).take_while(|line| !line.starts_with('[')).collect();
        assert!(!lines.is_empty(), "{header} is missing");
        for key in keys.iter().filter(|key| **key != "link") {
            let is_word = |word: &str| word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_') == *key;
            assert!(lines.iter().any(|line| line.split_whitespace().any(is_word)), "{header} lacks {key}");
        }
    }
}

#[test]
fn the_example_stays_good_with_every_key_that_it_has_commented_out() {
    let text = include_str!("../../../deploy/landbridge.toml");
    let key = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let (name, _) = rest.split_once(" = ")?;
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        plain.then(|| rest.to_owned())
    };
    let full: Vec<String> = text.lines().map(|line| key(line).unwrap_or_else(|| line.to_owned())).collect();
    let settings = settings(&full.join("\n"), Format::Toml).expect("the full example parses");
    assert_eq!(settings.mtu, Some(1420));
    assert_eq!((settings.lanes, settings.pin), (Some(2), Some(true)));
    assert_eq!(settings.hooks.post_up.len(), 1);
    assert_eq!(settings.wan.interfaces, ["eth0"]);
    assert_eq!((settings.wan.ring, settings.frames_per_lane), (2048, 8192));
}

#[test]
fn nat_settings_are_taken_as_written_and_have_defaults() {
    let head = "[interface]\nname = \"lb0\"\nprivate_key_file = \"k\"\n";
    let nat = |text: &str| settings(&format!("{head}{text}"), Format::Toml).expect("good").nat;
    let default = nat("");
    assert_eq!(default, NatSettings::default());
    assert!(default.direct && default.spray && !default.introduce && default.stun.is_empty());
    let protocols = |text: &str| {
        nat(&format!("[nat]\nport_mapping = {text}"))
            .port_mapping
            .iter()
            .map(|p| p.name())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(protocols("\"auto\""), "pcp nat-pmp upnp");
    assert_eq!(protocols("\"off\""), "");
    assert_eq!(protocols("[]"), "");
    assert_eq!(protocols("[\"upnp\", \"pcp\", \"upnp\"]"), "upnp pcp");
    let full = nat("[nat]\nstun = \"stun.example.net\"\ndirect = false\nintroduce = true\nspray = false");
    assert_eq!(full.stun.iter().map(ToString::to_string).collect::<Vec<_>>(), ["stun.example.net:3478"]);
    assert!(!full.direct && full.introduce && !full.spray);
    let with_peer = format!("{head}[[peer]]\npublic_key = \"{PUBLIC_B}\"\ndirect = false");
    assert_eq!(settings(&with_peer, Format::Toml).expect("good").peers[0].direct, Some(false));
}

#[test]
fn relay_settings_are_taken_as_written_and_have_defaults() {
    let head = "[interface]\nname = \"lb0\"\nprivate_key_file = \"k\"\nlisten_port = 51820\n";
    let peers = format!(
        "[[peer]]\nname = \"berlin\"\npublic_key = \"{PUBLIC_A}\"\n[[peer]]\nname = \"phone\"\npublic_key = \"{PUBLIC_B}\"\n"
    );
    let relay = |text: &str| settings(&format!("{head}{text}{peers}"), Format::Toml).map(|settings| settings.relay);
    assert_eq!(relay(""), Ok(RelaySettings::default()));
    let link = "[[relay.link]]\npeers = [\"phone\", \"berlin\"]\nports = [41001, 41000]\n";
    let full =
        relay(&format!("[relay]\nenabled = true\nbackend = \"user\"\nports = \"41000-41003\"\nrate_mbps = 0\n{link}"))
            .expect("good");
    assert_eq!((full.enabled, full.backend, full.rate_mbps), (true, RelayBackend::User, 0));
    assert_eq!((full.ports.first, full.ports.last, full.ports.count()), (41_000, 41_003, 4));
    assert_eq!(full.links.len(), 1);
    assert_eq!(full.links[0].peers.map(|key| key.to_string()), [PUBLIC_B, PUBLIC_A]);
    assert_eq!(full.links[0].ports, [41_001, 41_000]);
    let on = "[relay]\nenabled = true\n";
    let linked = |link: &str| format!("{on}[[relay.link]]\n{link}\n");
    for (text, expected) in [
        ("[relay]\nports = \"5\"\n".to_owned(), "expected a range of at least two UDP ports"),
        ("[relay]\nports = \"9-8\"\n".to_owned(), "expected a range of at least two UDP ports"),
        (format!("{on}ports = \"51800-51899\"\n"), "51800-51899 holds the listen port 51820"),
        ("[relay]\nbackend = \"both\"\n".to_owned(), "expected \"auto\", \"xdp\" or \"user\""),
        ("[relay]\nrate_mbps = -1\n".to_owned(), "0 for no limit"),
        ("[relay]\nport = 1\n".to_owned(), "did you mean `ports`?"),
        (format!("[relay]\n{link}"), "no effect without `enabled = true`"),
        (linked("peers = [\"phone\"]"), "the names of two peers"),
        (linked("peers = [\"phone\", \"berlin\"]"), "two ports of relay.ports"),
        (linked("peers = [\"phone\", \"berlin\"]\nports = [1, 51900]"), "1 is not among relay.ports"),
        (linked("peers = [\"phone\", \"berlin\"]\nports = [51900, 51900]"), "port 51900 again"),
        (linked("peers = [\"phone\", \"phone\"]\nports = [51900, 51901]"), "no relay to itself"),
        (linked("peers = [\"phone\", \"berlim\"]\nports = [51900, 51901]"), "did you mean \"berlin\"?"),
        (linked("peers = [\"phone\", \"berlin\"]\nports = [51900, \"51901\"]"), "expected a UDP port"),
        (linked("peer = []"), "unknown key: did you mean `peers`?"),
    ] {
        let message = relay(&text).expect_err(&text);
        assert!(message.contains(expected), "{text}\nsaid: {message}\nnot:  {expected}");
    }
}

#[test]
fn a_wg_quick_file_is_taken_as_it_is() {
    let text = format!(
        "\u{feff}# a comment\n[interface]\nprivatekey={KEY_A}\nADDRESS = 10.1.0.1, fd00:1::1/64 # two\nAddress=10.2.0.1/24\n\
         ListenPort = 51820\nFwMark = 0xca6c\nDNS = 10.1.0.53,example.org\nMTU = 1380\nTable = off\n\
         PreUp = echo one = 1\nPostUp = iptables -A FORWARD -i %i -j ACCEPT; ip a\nPostUp = true\nPreDown=a\nPostDown=b\n\
         SaveConfig = true\n\n[PEER]\nPublicKey = {PUBLIC_B}\nPresharedKey = {KEY_A}\nAllowedIPs = 10.3.0.9/16, fd00:3::/48\n\
         AllowedIPs = 10.4.0.1\nEndpoint = [2001:db8::1]:51820\nPersistentKeepalive = 25\n\
         [Peer]\nPublicKey = {PUBLIC_A}\nAllowedIPs =\nPersistentKeepalive = off\nEndpoint = site.example:1\n"
    );
    let draft = parse(&text, Format::WgQuick).expect("parses");
    assert_eq!(draft.notes.len(), 1, "{:?}", draft.notes);
    let settings = settings(&text, Format::WgQuick).expect("holds");
    assert_eq!(settings.interface, "wg0");
    let addresses: Vec<String> = settings.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.1.0.1/32", "fd00:1::1/64", "10.2.0.1/24"]);
    assert_eq!((settings.listen_port, settings.fwmark, settings.mtu), (Some(51820), Some(0xca6c), Some(1380)));
    assert_eq!((settings.table, settings.dns.len()), (RouteTable::Off, 2));
    assert_eq!(settings.hooks.pre_up, ["echo one = 1"]);
    assert_eq!(settings.hooks.post_up, ["iptables -A FORWARD -i %i -j ACCEPT; ip a", "true"]);
    assert_eq!((settings.hooks.pre_down.len(), settings.hooks.post_down.len()), (1, 1));
    let peer = &settings.peers[0];
    let networks: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.3.0.0/16", "fd00:3::/48", "10.4.0.1/32"]);
    assert_eq!(peer.endpoint.as_ref().map(|e| (e.host.as_str(), e.port)), Some(("2001:db8::1", 51820)));
    assert_eq!(peer.persistent_keepalive, Some(Duration::from_secs(25)));
    assert_eq!((settings.peers[1].allowed_ips.len(), settings.peers[1].persistent_keepalive), (0, None));
}

#[test]
fn every_toml_mistake_is_named_with_its_place_and_what_is_expected() {
    let peer = format!("[[peer]]\npublic_key = \"{PUBLIC_B}\"\n");
    let head = "[interface]\nprivate_key_file = \"k\"\n";
    for (number, (text, expected)) in [
        ("[interface\n".to_owned(), "lb0.toml:1:11: not TOML"),
        ("[wan]\n".to_owned(), "lb0.toml:1:1: `interface`: missing: expected a section [interface]"),
        ("interface = 3".to_owned(), "lb0.toml:1:13: `interface`: a number: expected a section [interface]"),
        ("[interfaces]\n".to_owned(), "lb0.toml:1:2: `interfaces`: unknown section: did you mean `interface`?"),
        ("[interface]\n".to_owned(), "`interface`: missing: expected private_key_file, private_key_credential or"),
        (format!("{head}listen_prot = 1"), "lb0.toml:3:1: `interface.listen_prot`: unknown key: did you mean `listen_port`?"),
        (format!("{head}colour = 1"), "lb0.toml:3:1: `interface.colour`: unknown key"),
        (format!("{head}listen_port = 65536"), "lb0.toml:3:15: `interface.listen_port`: 65536: expected a UDP port, 0 to"),
        (format!("{head}listen_port = \"x\""), "`interface.listen_port`: a string: expected a UDP port"),
        (format!("{head}name = \"sixteen-letters1\""), "`interface.name`: \"sixteen-letters1\": expected an interface name"),
        (format!("{head}private_key = \"{KEY_A}\""), "`interface.private_key_file`: excludes `interface.private_key` at line 3"),
        ("[interface]\nprivate_key = \"c2VjcmV0\"".to_owned(), "lb0.toml:2:15: `interface.private_key`: not a key: expected a"),
        ("[interface]\nprivate_key_credential = \"a/b\"".to_owned(), "expected the name of a systemd credential"),
        (format!("{head}mtu = 500"), "`interface.mtu`: \"500\": expected an MTU of 1280 to 65535"),
        (format!("{head}mtu = 1000\naddresses = [\"fd00::1/64\"]"), "lb0.toml:3:7: `interface.mtu`: 1000 is too small for the IPv6"),
        (format!("{head}addresses = [\"10.0.0.1/33\"]"), "lb0.toml:3:14: `interface.addresses`: \"10.0.0.1/33\": expected an IP"),
        (format!("{head}addresses = [\"10.0.0.1/24\",\n \"10.0.0.1/8\"]"), "lb0.toml:4:2: `interface.addresses`: 10.0.0.1 again: it is already at line 3"),
        (format!("{head}addresses = [\"0.0.0.0/0\"]"), "0.0.0.0: expected an address that a host can have"),
        (format!("{head}addresses = 7"), "`interface.addresses`: a number: expected a list of strings"),
        (format!("{head}table = \"none\""), "expected \"auto\", \"off\" or the number of a routing table"),
        (format!("{head}fwmark = -1"), "`interface.fwmark`: \"-1\": expected a mark"),
        (format!("{head}post_up = [\"\"]"), "`interface.post_up`: \"\": expected a command"),
        (format!("{head}[wan]\nbackend = \"dpdk\""), "lb0.toml:4:11: `wan.backend`: \"dpdk\": expected \"auto\", \"xdp\" or \"udp\""),
        (format!("{head}[wan]\nring = 1000"), "`wan.ring`: 1000: expected a power of two"),
        (format!("{head}[wan]\ncopy = \"yes\""), "`wan.copy`: a string: expected true or false"),
        (format!("{head}[wan]\nring = 4096\n[lanes]\nframes = 8192"), "`lanes.frames`: 8192 frames cannot fill rings of 4096 entries"),
        (format!("{head}[lan]\nbackend = \"bridge\""), "`lan.backend`: \"bridge\": expected \"auto\", \"tun\" or \"xdp\""),
        (format!("{head}[lan]\nbackend = \"xdp\""), "lb0.toml:3:1: `lan.interfaces`: missing: expected lan.interfaces, the interfaces"),
        (
            format!("{head}[wan]\nbackend = \"xdp\"\ninterfaces = [\"eth0\"]\n[lan]\nbackend = \"xdp\"\ninterfaces = [\"eth0\"]"),
            "`lan.interfaces`: eth0: expected an interface that is not a wan interface too",
        ),
        (format!("{head}[nat]\nstun = [\"stun:a\"]"), "lb0.toml:4:9: `nat.stun`: \"stun:a\": expected HOST or HOST:PORT of a STUN"),
        (
            format!("{head}[nat]\nstun = [{}]", "\"a.example\", ".repeat(9)),
            "`nat.stun`: 9 servers: expected at most 8",
        ),
        (format!("{head}[nat]\nport_mapping = \"igd\""), "`nat.port_mapping`: \"igd\": expected \"auto\", \"off\", or a list of"),
        (
            format!("{head}[nat]\nport_mapping = [\"pcp\", \"off\"]"),
            "lb0.toml:4:24: `nat.port_mapping`: this word stands alone",
        ),
        (format!("{head}[nat]\nspray = 1"), "`nat.spray`: a number: expected true or false"),
        (
            format!("{head}{peer}extensions = false\ndirect = true"),
            "lb0.toml:6:10: `peer.direct`: has no meaning with `extensions = false`",
        ),
        (format!("{head}[lanes]\ncount = 0"), "`lanes.count`: 0: expected a number of lanes"),
        (format!("{head}[metrics]\nlisten = \"9586\""), "`metrics.listen`: \"9586\": expected an IP address and a port"),
        (format!("{head}[peer]\n"), "`peer`: a table: expected sections [[peer]]"),
        (format!("{head}[[peer]]\n"), "lb0.toml:3:1: `peer.public_key`: missing: expected a key"),
        (format!("{head}[[peer]]\npublic_key = \"\""), "`peer.public_key`: \"\": expected a key: 32 bytes in base64"),
        (format!("{head}{peer}{peer}"), "lb0.toml:6:14: `peer.public_key`: peer 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08= again"),
        (
            format!("{head}{peer}allowed_ips = [\"10.0.0.0/8\"]\n[[peer]]\npublic_key = \"{PUBLIC_A}\"\nallowed_ips = [\"10.1.1.1/8\"]"),
            "lb0.toml:8:16: `peer.allowed_ips`: 10.0.0.0/8 can lead to one peer only and stands here again: it is already at line 5",
        ),
        (format!("{head}{peer}endpoint = \"2001:db8::1:1\""), "`peer.endpoint`: \"2001:db8::1:1\": expected HOST:PORT"),
        (format!("{head}{peer}allowed_ip = []"), "`peer.allowed_ip`: unknown key: did you mean `allowed_ips`?"),
        (format!("{head}{peer}persistent_keepalive = 70000"), "expected seconds between keepalives"),
    ]
    .into_iter()
    .enumerate()
    {
        let message = settings(&text, Format::Toml).expect_err(&text);
        assert!(message.contains(expected), "case {number}:\n{text}\nsaid: {message}\nnot:  {expected}");
        assert!(message.starts_with("lb0.toml:") && !message.contains('\n'), "case {number}: {message}");
    }
}

#[test]
fn every_wg_quick_mistake_is_named_with_its_place_and_what_is_expected() {
    let peer = format!("[Peer]\nPublicKey = {PUBLIC_B}\n");
    for (number, (text, expected)) in [
        (String::new(), "wg0.conf:1:1: `Interface`: missing: expected a section [Interface]"),
        ("Address = 10.0.0.1\n".to_owned(), "wg0.conf:1:11: `Address`: stands before the first section"),
        ("[Interfaces]\n".to_owned(), "wg0.conf:1:1: `[Interfaces]`: unknown section: did you mean `Interface`?"),
        ("[Interface]\nhello\n".to_owned(), "wg0.conf:2:1: \"hello\" is not a setting"),
        (
            "[Interface]\n  Adress = 10.0.0.1\n".to_owned(),
            "wg0.conf:2:12: `Adress`: unknown key: did you mean `Address`?",
        ),
        (
            "[Interface]\nEndpoint = a:1\n".to_owned(),
            "`Endpoint`: does not belong here: expected in the section [Peer]",
        ),
        ("[Interface]\nPrivateKey = secret\n".to_owned(), "wg0.conf:2:14: `PrivateKey`: not a key: expected a key"),
        ("[Interface]\nListenPort = -1\n".to_owned(), "`ListenPort`: \"-1\": expected a UDP port"),
        (
            "[Interface]\nAddress = 10.0.0.1, 10.0.0.x\n".to_owned(),
            "wg0.conf:2:21: `Address`: \"10.0.0.x\": expected an IP",
        ),
        ("[Interface]\nSaveConfig = 1\n".to_owned(), "`SaveConfig`: \"1\": expected true or false"),
        ("[Interface]\nPostUp = # nothing\n".to_owned(), "`PostUp`: \"\": expected a command"),
        (format!("[Interface]\n{peer}AllowedIPs = 10.0.0.0/8,\n"), "`AllowedIPs`: \"\": expected an IP network"),
        (format!("[Interface]\n{peer}{peer}"), "wg0.conf:5:13: `PublicKey`: peer 3p7b"),
        (
            "[Interface]\n[Peer]\nEndpoint = a:1\n".to_owned(),
            "wg0.conf:2:1: `peer.public_key`: missing: expected a key",
        ),
        (
            format!("[Interface]\n{peer}MTU = 1400\n"),
            "`MTU`: does not belong here: expected in the section [Interface]",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let message = settings(&text, Format::WgQuick).expect_err(&text);
        assert!(message.contains(expected), "case {number}:\n{text}\nsaid: {message}\nnot:  {expected}");
        assert!(!message.contains("secret"), "a key's text is never repeated: {message}");
    }
}

#[test]
fn the_format_is_known_by_the_extension_and_else_by_the_text() {
    for (name, text, format) in [
        ("a.toml", "[Interface]", Format::Toml),
        ("a.CONF", "[interface]", Format::WgQuick),
        ("a", "# x\n\n[Interface]\n", Format::WgQuick),
        ("a", "[interface]\n", Format::Toml),
        ("a.txt", "", Format::Toml),
    ] {
        assert_eq!(Format::of(Path::new(name), text), format, "{name} {text}");
    }
}

#[test]
fn a_toml_file_with_a_key_in_it_must_be_private_and_a_conf_gets_a_warning() {
    let toml = format!("[interface]\nprivate_key = \"{KEY_A}\"\n");
    let (_keep, path) = file("lb1.toml", &toml, 0o600);
    let loaded = load(&path).expect("a private file");
    assert_eq!(loaded.settings.interface, "lb1");
    assert_eq!(draft::own_key(&loaded.settings).map(|key| key.to_string()).as_deref(), Some(PUBLIC_A));
    let (_keep, path) = file("lb1.toml", &toml, 0o644);
    let message = load(&path).expect_err("an open file").to_string();
    assert!(message.contains("chmod 600") && message.contains(":2:15"), "{message}");
    let conf = format!("[Interface]\nPrivateKey = {KEY_A}\n");
    let (_keep, path) = file("wg7.conf", &conf, 0o644);
    let loaded = load(&path).expect("wg-quick's files work as they are");
    assert!(loaded.notes.iter().any(|note| note.contains("chmod 600")), "{:?}", loaded.notes);
    let (_keep, path) = file("wg7.conf", &conf, 0o600);
    assert!(load(&path).expect("a private file").notes.is_empty());
}

#[test]
fn a_key_file_is_found_beside_the_configuration() {
    let (keep, path) = file("lb1.toml", "[interface]\nprivate_key_file = \"own.key\"\n", 0o644);
    let message = load(&path).expect_err("no key yet").to_string();
    assert!(
        message.contains("own.key: cannot be read") && message.contains(":2:20: `interface.private_key_file`"),
        "{message}"
    );
    let key = keep.path().join("own.key");
    std::fs::write(&key, format!("{KEY_A}\n")).expect("write");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(load(&path).expect("the key is there").settings.private_key.is_some());
}

#[test]
fn the_own_key_as_a_peer_is_refused() {
    let text = format!("[interface]\nprivate_key = \"{KEY_A}\"\n[[peer]]\npublic_key = \"{PUBLIC_A}\"\n");
    let (_keep, path) = file("lb1.toml", &text, 0o600);
    let message = load(&path).expect_err("a gateway cannot be its own peer").to_string();
    assert!(message.contains(":4:14: `peer.public_key`: this is the gateway's own public key"), "{message}");
}

#[test]
fn files_that_are_missing_or_no_text_are_named() {
    let message = load(Path::new("/nonexistent/x.toml")).expect_err("no such file").to_string();
    assert!(message.starts_with("/nonexistent/x.toml: cannot be read"), "{message}");
    let (_keep, path) = file("lb1.toml", "", 0o600);
    std::fs::write(&path, b"\n\xff\xfe").expect("write");
    let message = load(&path).expect_err("not text").to_string();
    assert!(message.contains(":2:1: not UTF-8 text"), "{message}");
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let text = format!("[interface]\nprivate_key = \"{KEY_A}\"\n[wan]\nbackend = \"udp\"\n");
    let draft = parse(&text, Format::Toml).expect("parses");
    assert!(!format!("{draft:?}").contains("dwdt"));
    assert_eq!(draft.wan_backend, WanBackend::Udp);
}

#[test]
fn the_corpus_of_the_fuzz_target_is_survived_by_both_parsers() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    let mut good = 0;
    for entry in std::fs::read_dir(directory).expect("the corpus is committed") {
        let text = std::fs::read_to_string(entry.expect("entry").path()).expect("text");
        good += [Format::Toml, Format::WgQuick].into_iter().filter(|format| settings(&text, *format).is_ok()).count();
    }
    assert_eq!(good, 2, "one good file of each format is in the corpus");
}

fn fragments() -> impl Strategy<Value = String> {
    let words = proptest::sample::select(vec![
        "[interface]",
        "[Interface]",
        "[Peer]",
        "[[peer]]",
        "[wan]",
        "\n",
        "=",
        " = ",
        "\"",
        "[",
        "]",
        ",",
        "#",
        "private_key",
        "PrivateKey",
        "Address",
        "addresses",
        "AllowedIPs",
        "allowed_ips",
        "10.0.0.1/24",
        "::/0",
        "Endpoint",
        "endpoint",
        "[::1]:1",
        "mtu",
        "1400",
        "0x",
        "off",
        "\u{feff}",
        "é",
        "\r",
        "\0",
        KEY_A,
    ]);
    proptest::collection::vec(prop_oneof![words.prop_map(str::to_owned), ".{0,6}"], 0..40)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in prop_oneof![any::<String>(), fragments()]) {
        for format in [Format::Toml, Format::WgQuick] {
            if let Err(message) = settings(&text, format) {
                prop_assert!(!message.is_empty());
            }
        }
    }
}
