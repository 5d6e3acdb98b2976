//! Raw arguments, as clap reads them.
//!
//! Enters: words. Leaves: [`Args`], of which only the shape is checked. Never does: read a file or look at the machine.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{Parser, Subcommand};

use crate::config::values;
use crate::lab::nat::Kind;
use crate::settings::{ChecksumOffload, Crypto, EndpointName, LanBackend, WanBackend, XdpMode};

/// A WireGuard site-to-site gateway that moves packets past the kernel's network stack.
#[derive(Debug, Parser)]
#[command(name = "landbridge", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway of a configuration file in the foreground
    ///
    /// FILE is Landbridge's TOML, or a .conf of wg-quick. SIGTERM or Ctrl-C ends it: routes, addresses, the XDP program and
    /// the tunnel interface go away again. The log goes to standard error; LOG_LEVEL or RUST_LOG sets how much.
    Up(Up),
    /// Read a configuration file, say what it would run, and fail if anything is wrong in it
    Check(Check),
    /// Show running gateways: peers, paths, lanes and drops
    Status(Status),
    /// Show how running gateways reach their peers: paths, candidates, NATs
    Paths(Status),
    /// Join two sites on this machine by two gateways and measure real traffic through them
    ///
    /// Makes four network namespaces (host, gateway, gateway, host), and removes all of it again, also on Ctrl-C. The
    /// machine's own interfaces and routes are not touched. Needs root, and no other program.
    Demo(Demo),
    /// Test the network without a running gateway: UDP, the kind of NAT, port mapping, round trips, path MTU
    ///
    /// Asks STUN servers and the router of the default route, for at most ten seconds. Exit code 0: UDP gets out; 3: it is
    /// blocked; 1: the check could not be made.
    Netcheck(Netcheck),
    /// Make a private key
    Genkey,
    /// Read a private key from standard input and write its public key
    Pubkey,
    /// Make a preshared key
    Genpsk,
    /// Be a WireGuard interface that `wg` and `wg-quick` configure
    ///
    /// Makes the interface and goes into the background once it is ready, as the cross-platform userspace implementations
    /// do. A link to this program with the name landbridge-wg does the same, for WG_QUICK_USERSPACE_IMPLEMENTATION.
    /// Environment: LOG_LEVEL, WG_TUN_FD, WG_UAPI_FD, WG_PROCESS_FOREGROUND=1.
    Wg(Wg),
}

/// `landbridge up`.
#[derive(Debug, clap::Args)]
pub struct Up {
    /// The configuration
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Set by the demo: standard input is a pipe whose end is the gateway's end.
    #[arg(long, hide = true)]
    pub ends_with_stdin: bool,
    /// Backends that replace those of the file.
    #[command(flatten)]
    pub backends: Backends,
}

/// `landbridge demo`.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// The side towards the internet: xdp, udp or auto
    #[arg(long, value_name = "BACKEND", default_value = "xdp", value_parser = parser(values::wan_backend))]
    pub wan: WanBackend,
    /// The side towards the site: tun, xdp or auto. With xdp the hosts' links do without offloads, as between real cards
    #[arg(long, value_name = "BACKEND", default_value = "tun", value_parser = parser(values::lan_backend))]
    pub lan: LanBackend,
    /// Seconds of traffic: half of it TCP, the rest UDP and echo
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub duration: u64,
    /// TCP streams
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub streams: u8,
    /// Lanes of each gateway; by cores and queues when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub lanes: Option<u16>,
    /// What seals and opens packets: auto, ring or multibuffer
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = parser(values::crypto))]
    pub crypto: Crypto,
    /// Put the sites behind NATs, have them find each other by an introducer, and show how: two of none, full-cone,
    /// address-restricted, port-restricted, symmetric, cgnat and blocked. Needs the program nft
    #[arg(long, value_name = "KIND,KIND", value_parser = nat_kinds)]
    pub nat: Option<[Kind; 2]>,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `landbridge check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The configuration
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `landbridge netcheck`.
#[derive(Debug, clap::Args)]
pub struct Netcheck {
    /// A configuration: its STUN servers, its port and its protocols of port mapping
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// STUN servers, in place of those of FILE
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = parser(values::stun))]
    pub stun: Vec<EndpointName>,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `landbridge status` and `landbridge paths`.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// One gateway; all that run when left out
    #[arg(value_name = "IFNAME", value_parser = parser(values::interface))]
    pub interface: Option<String>,
    /// Print JSON: one object for IFNAME, a list without it
    #[arg(long)]
    pub json: bool,
}

/// `landbridge wg`.
#[derive(Debug, clap::Args)]
pub struct Wg {
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,
    /// Where the log goes when in the background; nowhere when left out
    #[arg(long, value_name = "FILE", env = "LANDBRIDGE_LOG_FILE")]
    pub log_file: Option<PathBuf>,
    /// Set by the program for itself: standard output is the pipe on which a parent waits for readiness.
    #[arg(long, hide = true)]
    pub detached: bool,
    /// The interface
    #[arg(value_name = "IFNAME", value_parser = parser(values::interface))]
    pub interface: String,
    /// How packets go in and out.
    #[command(flatten)]
    pub backends: Backends,
}

/// How packets go in and out: the same as the sections `wan`, `lan`, `lanes` and `metrics` of the configuration.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Backends")]
pub struct Backends {
    /// The side towards the internet: auto, xdp or udp
    #[arg(long, value_name = "BACKEND", env = "LANDBRIDGE_WAN", value_parser = parser(values::wan_backend))]
    pub wan: Option<WanBackend>,
    /// Interfaces that the xdp backend binds to
    #[arg(long, value_name = "IFNAME", env = "LANDBRIDGE_WAN_INTERFACE", value_delimiter = ',', value_parser = parser(values::interface))]
    pub wan_interface: Vec<String>,
    /// How the XDP program is attached: auto, native or generic
    #[arg(long, value_name = "MODE", env = "LANDBRIDGE_XDP_MODE", value_parser = parser(values::xdp_mode))]
    pub xdp_mode: Option<XdpMode>,
    /// Never try zero-copy
    #[arg(long, env = "LANDBRIDGE_COPY", value_parser = clap::builder::FalseyValueParser::new())]
    pub copy: bool,
    /// Have the interface compute UDP checksums over IPv6: auto, on or off
    #[arg(long, value_name = "WHERE", env = "LANDBRIDGE_CHECKSUM_OFFLOAD", value_parser = parser(values::checksum_offload))]
    pub checksum_offload: Option<ChecksumOffload>,
    /// Never let a packet take several frames of a ring
    #[arg(long, env = "LANDBRIDGE_ONE_BUFFER", value_parser = clap::builder::FalseyValueParser::new())]
    pub one_buffer: bool,
    /// The side towards the site: auto, tun or xdp
    #[arg(long, value_name = "BACKEND", env = "LANDBRIDGE_LAN", value_parser = parser(values::lan_backend))]
    pub lan: Option<LanBackend>,
    /// Interfaces of the lan side that the xdp backend binds to
    #[arg(long, value_name = "IFNAME", env = "LANDBRIDGE_LAN_INTERFACE", value_delimiter = ',', value_parser = parser(values::interface))]
    pub lan_interface: Vec<String>,
    /// How many lanes
    #[arg(long, value_name = "N", env = "LANDBRIDGE_LANES", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub lanes: Option<u16>,
    /// What seals and opens packets: auto, ring or multibuffer
    #[arg(long, value_name = "ENGINE", env = "LANDBRIDGE_CRYPTO", value_parser = parser(values::crypto))]
    pub crypto: Option<Crypto>,
    /// Where Prometheus scrapes, such as 127.0.0.1:9586
    #[arg(long, value_name = "ADDRESS:PORT", env = "LANDBRIDGE_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// Measure what each stage of the packet's way costs, in one turn of a lane in N
    #[arg(long, value_name = "N", env = "LANDBRIDGE_STAGES")]
    pub stages: Option<NonZeroU32>,
}

/// `symmetric,port-restricted`.
fn nat_kinds(text: &str) -> Result<[Kind; 2], String> {
    let (one, other) = text.split_once(',').ok_or("expected two kinds with a comma between them")?;
    let kind = |text: &str| text.parse::<Kind>().map_err(|error| error.to_string());
    Ok([kind(one)?, kind(other)?])
}

/// The parsers of the configuration, so that a word means the same on the command line.
fn parser<T: Clone + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, values::Expected>,
) -> impl clap::builder::TypedValueParser<Value = T> {
    clap::builder::NonEmptyStringValueParser::new()
        .try_map(move |text| parse(&text).map_err(|expected| format!("expected {expected}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_in_itself() {
        Args::command().debug_assert();
    }

    #[test]
    fn wg_takes_the_flags_of_the_userspace_implementations_and_the_backends() {
        let args = Args::try_parse_from([
            "landbridge",
            "wg",
            "-f",
            "--wan",
            "xdp",
            "--wan-interface",
            "eth1,eth2",
            "--lanes",
            "2",
            "--lan",
            "tun",
            "wg0",
        ])
        .expect("parses");
        let Command::Wg(wg) = args.command else { panic!("not wg") };
        assert!(wg.foreground && !wg.detached);
        assert_eq!(wg.backends.wan, Some(WanBackend::Xdp));
        assert_eq!(wg.backends.wan_interface, ["eth1", "eth2"]);
        assert_eq!((wg.backends.lanes, wg.interface.as_str()), (Some(2), "wg0"));
    }

    #[test]
    fn the_demo_takes_two_kinds_of_nat() {
        let args = Args::try_parse_from(["landbridge", "demo", "--nat", "symmetric,port-restricted"]).expect("parses");
        let Command::Demo(demo) = args.command else { panic!("not demo") };
        assert_eq!(demo.nat, Some([Kind::Symmetric, Kind::PortRestricted]));
        for wrong in ["symmetric", "symmetric,cone", "none,none,none"] {
            Args::try_parse_from(["landbridge", "demo", "--nat", wrong]).expect_err(wrong);
        }
    }

    #[test]
    fn words_that_mean_nothing_are_refused_with_what_is_expected() {
        for (words, expected) in [
            (["wg", "--wan", "dpdk", "wg0"], "\"auto\", \"xdp\" or \"udp\""),
            (["wg", "--lanes", "0", "wg0"], "1..=256"),
            (["wg", "--crypto", "rot13", "wg0"], "\"auto\", \"ring\" or \"multibuffer\""),
            (["wg", "--lan", "dpdk", "wg0"], "\"auto\", \"tun\" or \"xdp\""),
            (["wg", "-f", "--copy", "a/b"], "an interface name"),
        ] {
            let error =
                Args::try_parse_from(std::iter::once("landbridge").chain(words)).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
