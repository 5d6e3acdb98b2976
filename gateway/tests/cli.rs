//! The program as a person meets it: its commands, their output and their exit codes.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn landbridge(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_landbridge"))
        .args(arguments)
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A command that reads nothing may have closed its end already.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

fn file(directory: &tempfile::TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    path
}

#[test]
fn pubkey_of_a_known_private_key_is_the_one_that_wg_writes() {
    for (private, public) in [
        ("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n"),
        ("XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=", "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\n"),
    ] {
        let output = landbridge(&["pubkey"], private);
        assert!(output.status.success());
        assert_eq!(out(&output), public);
    }
}

#[test]
fn generated_keys_are_clamped_differ_and_have_a_public_key() {
    let first = landbridge(&["genkey"], "");
    let second = landbridge(&["genkey"], "");
    assert_ne!(out(&first), out(&second));
    for key in [&first, &second] {
        assert_eq!(out(key).len(), 45);
        assert_eq!(landbridge(&["pubkey"], out(key)).stdout.len(), 45);
    }
    let preshared = landbridge(&["genpsk"], "");
    assert_eq!((out(&preshared).len(), preshared.status.success()), (45, true));
}

#[test]
fn pubkey_of_nonsense_fails_and_does_not_repeat_it() {
    let output = landbridge(&["pubkey"], "my secret\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("holds no private key: expected a key: 32 bytes in base64"), "{}", err(&output));
    assert!(!err(&output).contains("my secret"));
}

#[test]
fn check_says_what_a_good_file_would_run() {
    let directory = tempfile::tempdir().expect("directory");
    let key = landbridge(&["genkey"], "");
    file(&directory, "own.key", out(&key), 0o600);
    let text = "[interface]\nprivate_key_file = \"own.key\"\naddresses = [\"10.77.0.1/24\"]\n[wan]\nbackend = \"udp\"\n\
                [[peer]]\nname = \"b\"\npublic_key = \"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\"\n\
                endpoint = \"[2001:db8::1]:51820\"\nallowed_ips = [\"10.9.0.0/16\"]\n";
    let path = file(&directory, "site.toml", text, 0o644);
    let output = landbridge(&["check", &path.to_string_lossy()], "");
    assert!(output.status.success(), "{}", err(&output));
    let public = landbridge(&["pubkey"], out(&key));
    for expected in
        [out(&public).trim(), "interface    site", "10.77.0.1/24", "wan          udp", "[2001:db8::1]:51820", "(b)"]
    {
        assert!(out(&output).contains(expected), "{expected} is missing in:\n{}", out(&output));
    }
    assert!(!out(&output).contains(out(&key).trim()), "the private key is shown");
}

#[test]
fn check_takes_a_wg_quick_file_and_warns_when_everybody_can_read_it() {
    let directory = tempfile::tempdir().expect("directory");
    let key = landbridge(&["genkey"], "");
    let text = format!("[Interface]\nPrivateKey = {}Address = 10.1.0.1/24\nPostUp = true\n", out(&key));
    let path = file(&directory, "wg5.conf", &text, 0o644);
    let output = landbridge(&["check", &path.to_string_lossy()], "");
    assert!(output.status.success(), "{}", err(&output));
    assert!(out(&output).contains("interface    wg5") && out(&output).contains("wg-quick's format"));
    assert!(err(&output).contains("chmod 600"), "{}", err(&output));
}

#[test]
fn check_and_up_refuse_a_bad_file_with_its_place() {
    let directory = tempfile::tempdir().expect("directory");
    let path = file(&directory, "bad.toml", "[interface]\nprivate_key_file = \"k\"\nlisten_prot = 1\n", 0o600);
    for command in ["check", "up"] {
        let output = landbridge(&[command, &path.to_string_lossy()], "");
        assert_eq!(output.status.code(), Some(1));
        let expected =
            format!("{}:3:1: `interface.listen_prot`: unknown key: did you mean `listen_port`?", path.display());
        assert!(err(&output).contains(&expected), "{}", err(&output));
        assert!(out(&output).is_empty());
    }
}

#[test]
fn check_refuses_an_open_file_with_a_key_in_it() {
    let directory = tempfile::tempdir().expect("directory");
    let key = landbridge(&["genkey"], "");
    let text = format!("[interface]\nprivate_key = \"{}\"\n", out(&key).trim());
    let path = file(&directory, "lb1.toml", &text, 0o640);
    let output = landbridge(&["check", &path.to_string_lossy()], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("mode 0640") && err(&output).contains("chmod 600"), "{}", err(&output));
    assert!(!err(&output).contains(out(&key).trim()));
}

#[test]
fn a_systemd_credential_is_taken_as_the_private_key() {
    let directory = tempfile::tempdir().expect("directory");
    file(&directory, "landbridge.key", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n", 0o444);
    let path = file(&directory, "lb2.toml", "[interface]\nprivate_key_credential = \"landbridge.key\"\n", 0o644);
    let check = |credentials: Option<&std::path::Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landbridge"));
        command.arg("check").arg(&path).env_remove("CREDENTIALS_DIRECTORY");
        if let Some(credentials) = credentials {
            command.env("CREDENTIALS_DIRECTORY", credentials);
        }
        command.output().expect("the program runs")
    };
    let output = check(Some(directory.path()));
    assert!(out(&output).contains("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="), "{}", err(&output));
    let output = check(None);
    assert!(err(&output).contains("LoadCredential=landbridge.key"), "{}", err(&output));
}

#[test]
fn status_of_an_interface_that_nobody_runs_fails_with_its_name() {
    let output = landbridge(&["status", "lbcli-none"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("lbcli-none"), "{}", err(&output));
}

#[test]
fn usage_mistakes_have_an_exit_code_of_their_own() {
    for arguments in [&["upp"][..], &["up"], &["wg", "a/b"], &["wg", "--wan", "dpdk", "wg0"], &[]] {
        let output = landbridge(arguments, "");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_descriptor_that_is_not_open_is_refused_and_the_background_process_says_so() {
    for variable in ["WG_TUN_FD", "WG_UAPI_FD"] {
        for (value, expected) in [("907", "is 907: expected the number of an open descriptor"), ("x", "is \"x\"")] {
            let output = Command::new(env!("CARGO_BIN_EXE_landbridge"))
                .args(["wg", "lbcli-fd"])
                .env(variable, value)
                .output()
                .expect("the program runs");
            assert_eq!(output.status.code(), Some(1));
            assert!(err(&output).contains(&format!("{variable} {expected}")), "{}", err(&output));
        }
    }
}
