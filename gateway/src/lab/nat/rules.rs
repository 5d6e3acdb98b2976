//! A NAT in the words of nftables.
//!
//! The kernel's masquerade with a range of ports gives one source one mapping for all destinations, as long as any of
//! its flows lives, and lets back in who was sent to: a port-restricted NAT that changes ports. `random,fully-random`
//! gives each flow a port of its own: a symmetric one. The other kinds let more people in: behind masquerade each
//! mapping is written down in `bindings`, and who was sent to in `permitted`; what comes from outside is sent on by
//! these.
//!
//! Enters: a NAT's behaviour. Leaves: the text of a table that replaces the one before. Never does: run anything.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::kind::Behaviour;

/// Mapped ports: neither those that a gateway listens on nor those that the kernel chooses for sockets, which
/// masquerade would keep.
const PORTS: &str = "10000-29999";

/// How a router's NAT behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nat {
    pub(super) mapping: Behaviour,
    pub(super) filtering: Behaviour,
    pub(super) hairpin: bool,
    pub(super) lifetime: Duration,
    /// Whom UDP gets out to; `None` for all.
    pub(super) allowed: Option<Vec<Ipv4Addr>>,
    /// Whether it is a carrier's, with shared addresses inside.
    pub(super) carrier: bool,
}

/// The table of a NAT whose inside interfaces are `in*` and whose outside interface is `out` with the address `public`.
pub(super) fn table(nat: &Nat, public: Ipv4Addr) -> String {
    let seconds = nat.lifetime.as_secs().max(1);
    let kept = |name: &str, kind: &str, of: &str| {
        format!("  {name} {{ type {of}; flags dynamic,timeout; timeout {seconds}s; size 65535; }}\n").replacen(
            name,
            &format!("{kind} {name}"),
            1,
        )
    };
    let mut text = String::from("table ip lab\ndelete table ip lab\ntable ip lab {\n");
    text += &kept("bindings", "map", "inet_service : ipv4_addr . inet_service");
    text += &kept("permitted", "set", "inet_service . ipv4_addr");
    let inbound = match nat.filtering {
        Behaviour::None | Behaviour::EndpointIndependent => "iifname \"out\" dnat ip to udp dport map @bindings\n",
        Behaviour::AddressDependent => {
            "iifname \"out\" udp dport . ip saddr @permitted dnat ip to udp dport map @bindings\n"
        }
        Behaviour::AddressAndPortDependent => "",
    };
    let (mut before, mut after) = (inbound.to_owned(), String::new());
    let how = if nat.mapping == Behaviour::EndpointIndependent { "" } else { " random,fully-random" };
    if nat.hairpin {
        let _infallible = writeln!(before, "iifname \"in*\" ip daddr {public} dnat ip to udp dport map @bindings");
        let _infallible = writeln!(
            after,
            "iifname \"in*\" oifname \"in*\" meta l4proto udp ct status dnat snat to {public}:{PORTS}{how}"
        );
    }
    let _infallible = writeln!(after, "oifname \"out\" meta l4proto udp masquerade to :{PORTS}{how}");
    after += "oifname \"out\" masquerade\n";
    text += &chain("before", "nat hook prerouting priority dstnat", &before);
    text += &chain("after", "nat hook postrouting priority srcnat", &after);
    // Behind masquerade: the header bears the mapped port, and `ct original` what it stands for.
    text += &chain(
        "learn",
        "filter hook postrouting priority 150",
        "oifname \"out\" ct direction original update @bindings \
         { udp sport : ct original ip saddr . ct original proto-src }\n\
         oifname \"out\" update @permitted { udp sport . ip daddr }\n",
    );
    // Dropped before the connection is entered: a stranger's packet leaves no trace that would spoil a later mapping.
    let input = format!(
        "iifname \"out\" meta l4proto udp ct state new drop\niifname \"in*\" ip daddr {public} meta l4proto udp drop\n"
    );
    text += &chain("input", "filter hook input priority filter", &input);
    let mut forward =
        String::from("iifname \"out\" ct state new ct status dnat accept\niifname \"out\" ct state new drop\n");
    if let Some(allowed) = &nat.allowed {
        let list: Vec<String> = allowed.iter().map(Ipv4Addr::to_string).collect();
        let except = if list.is_empty() { String::new() } else { format!("ip daddr != {{ {} }} ", list.join(", ")) };
        let _infallible = writeln!(forward, "oifname \"out\" meta l4proto udp {except}drop");
    }
    text += &chain("forward", "filter hook forward priority filter", &forward);
    text + "}\n" + FIREWALL
}

/// What a router does with IPv6: it answers no stranger.
const FIREWALL: &str = "table ip6 lab\ndelete table ip6 lab\ntable ip6 lab {\n  chain forward {\n    \
    type filter hook forward priority filter\n    iifname \"out\" ct state new drop\n  }\n}\n";

fn chain(name: &str, hook: &str, rules: &str) -> String {
    let rules: String = rules.lines().map(|rule| format!("    {rule}\n")).collect();
    format!("  chain {name} {{\n    type {hook}\n{rules}  }}\n")
}
