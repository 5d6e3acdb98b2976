//! What a check found, as JSON and in a person's words.
//!
//! Enters: findings. Leaves: text. Never does: judge: what is in the way of a gateway is said, and left to its operator.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// All that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The port that was asked from.
    pub port: u16,
    /// Servers whose names have no address.
    pub unresolved: Vec<String>,
    /// IPv4.
    pub ipv4: Family,
    /// IPv6.
    pub ipv6: Family,
    /// The router that was asked for a port: that of the default route, when our address is not one of the internet's.
    pub router: Option<Ipv4Addr>,
    /// What it said.
    pub mapping: MappingReport,
}

/// One address family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// Our addresses.
    pub hosts: Vec<IpAddr>,
    /// There is a route to the internet.
    pub route: bool,
    /// No server answered; `None` where none was asked.
    pub udp_blocked: Option<bool>,
    /// Where servers see us.
    pub mapped: Option<SocketAddr>,
    /// `unknown`, `none`, `endpoint_independent`, `address_dependent` or `address_and_port_dependent`.
    pub mapping: String,
    /// The same.
    pub filtering: String,
    /// Whether datagrams to our own mapped address come back; `None` where it was not looked at.
    pub hairpin: Option<bool>,
    /// The servers.
    pub servers: Vec<ServerReport>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it answered.
    pub answered: bool,
    /// The code of its error.
    pub refused: Option<u16>,
    /// The shortest round trip.
    pub rtt_ms_min: Option<f64>,
    /// The median of the round trips.
    pub rtt_ms_median: Option<f64>,
    /// The largest IP packet that got there in one piece, to within four bytes.
    pub mtu: Option<u32>,
}

/// What the router said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MappingReport {
    /// Each protocol.
    pub protocols: Vec<ProtocolReport>,
}

/// What the router said by one protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProtocolReport {
    /// `pcp`, `nat-pmp` or `upnp`.
    pub protocol: String,
    /// The address outside, when it mapped a port.
    pub external: Option<IpAddr>,
    /// Why it did not.
    pub failure: Option<String>,
    /// How long it took.
    pub ms: f64,
}

impl Report {
    /// Whether servers were asked, and UDP gets to none of them.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        let families = [&self.ipv4, &self.ipv6].map(|family| family.udp_blocked);
        families.contains(&Some(true)) && !families.contains(&Some(false))
    }

    /// In a person's words.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("asked from UDP port {}\n", self.port);
        for name in &self.unresolved {
            line(&mut text, "unresolved", format_args!("{name}: the name has no address"));
        }
        self.ipv4.text("IPv4", &mut text);
        self.ipv6.text("IPv6", &mut text);
        text += "port mapping\n";
        match self.router {
            None => line(
                &mut text,
                "router",
                format_args!("none to ask: our address is the internet's, or there is no way out"),
            ),
            Some(router) => line(&mut text, "router", format_args!("{router}")),
        }
        for protocol in &self.mapping.protocols {
            match (&protocol.external, &protocol.failure) {
                (Some(external), _) => {
                    line(
                        &mut text,
                        &protocol.protocol,
                        format_args!("yes, outside {external} ({:.0} ms)", protocol.ms),
                    );
                }
                (None, failure) => {
                    line(
                        &mut text,
                        &protocol.protocol,
                        format_args!("no: {}", failure.as_deref().unwrap_or("no answer")),
                    );
                }
            }
        }
        if self.router.is_some() && self.mapping.protocols.is_empty() {
            line(&mut text, "protocols", format_args!("none answered in time"));
        }
        text
    }
}

impl Family {
    fn text(&self, name: &str, text: &mut String) {
        let _infallible = writeln!(text, "{name}");
        if self.hosts.is_empty() {
            line(text, "addresses", format_args!("none that others could reach"));
        } else {
            let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
            line(text, "addresses", format_args!("{}", hosts.join(", ")));
        }
        if !self.route {
            line(text, "internet", format_args!("no route"));
        }
        let udp = match self.udp_blocked {
            None => "not known: no server of this family was asked",
            Some(true) => "BLOCKED: no server answers",
            Some(false) => "gets out",
        };
        line(text, "udp", format_args!("{udp}"));
        if let Some(mapped) = self.mapped {
            line(text, "seen as", format_args!("{mapped}"));
            line(text, "nat", format_args!("{}", nat(&self.mapping, &self.filtering)));
            let hairpin = match self.hairpin {
                Some(true) => "yes",
                Some(false) => "no: two gateways behind this NAT do not reach each other by their addresses outside",
                None => "not looked at",
            };
            if self.mapping != "none" {
                line(text, "hairpin", format_args!("{hairpin}"));
            }
        }
        for server in &self.servers {
            line(text, "server", format_args!("{}", server.text()));
        }
    }
}

impl ServerReport {
    fn text(&self) -> String {
        let mut text = self.address.to_string();
        match (self.answered, self.refused) {
            (false, _) => text += ": no answer",
            (true, Some(code)) => {
                let _infallible = write!(text, ": answers with error {code}");
            }
            (true, None) => {}
        }
        if let (Some(min), Some(median)) = (self.rtt_ms_min, self.rtt_ms_median) {
            let _infallible = write!(text, ": {min:.1} ms (median {median:.1})");
        }
        if let Some(mtu) = self.mtu {
            let _infallible = write!(text, ", path MTU {mtu}");
        }
        text
    }
}

/// Mapping and filtering, and what follows for direct links.
fn nat(mapping: &str, filtering: &str) -> String {
    let words = |label: &str| label.replace('_', "-");
    let behind = match mapping {
        "none" if filtering == "none" => return "none".to_owned(),
        "none" => format!("none, but a filter: {}", words(filtering)),
        _ => format!("mapping {}, filtering {}", words(mapping), words(filtering)),
    };
    let follows = match mapping {
        "endpoint_independent" | "none" => "direct links are possible with almost everybody",
        "address_dependent" | "address_and_port_dependent" => {
            "direct links only with peers whose mapping is endpoint-independent, or with a mapped port"
        }
        _ => return behind,
    };
    format!("{behind}: {follows}")
}

fn line(text: &mut String, name: &str, value: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(text, "  {name:<12} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(udp_blocked: Option<bool>) -> Family {
        Family {
            hosts: vec!["192.168.1.2".parse().expect("an address")],
            route: true,
            udp_blocked,
            mapped: udp_blocked.filter(|blocked| !blocked).map(|_| "198.51.100.1:7".parse().expect("an address")),
            mapping: "endpoint_independent".to_owned(),
            filtering: "address_and_port_dependent".to_owned(),
            hairpin: Some(false),
            servers: vec![ServerReport {
                address: "203.0.113.1:3478".parse().expect("an address"),
                answered: udp_blocked == Some(false),
                refused: None,
                rtt_ms_min: Some(1.25),
                rtt_ms_median: Some(2.0),
                mtu: Some(1492),
            }],
        }
    }

    #[test]
    fn a_person_reads_what_was_found_and_a_script_whether_udp_is_blocked() {
        let protocol = |protocol: &str, external: Option<&str>| ProtocolReport {
            protocol: protocol.to_owned(),
            external: external.map(|text| text.parse().expect("an address")),
            failure: external.is_none().then(|| "no answer in time".to_owned()),
            ms: 3.0,
        };
        let mapping = MappingReport { protocols: vec![protocol("pcp", Some("198.51.100.1")), protocol("upnp", None)] };
        let report = Report {
            port: 51820,
            unresolved: vec!["stun.invalid:3478".to_owned()],
            ipv4: family(Some(false)),
            ipv6: family(None),
            router: Some(Ipv4Addr::new(192, 168, 1, 1)),
            mapping,
        };
        let text = report.text();
        for expected in [
            "unresolved   stun.invalid:3478",
            "  udp          gets out",
            "  seen as      198.51.100.1:7",
            "mapping endpoint-independent, filtering address-and-port-dependent: direct links are possible",
            "203.0.113.1:3478: 1.2 ms (median 2.0), path MTU 1492",
            "  pcp          yes, outside 198.51.100.1 (3 ms)",
            "  upnp         no: no answer in time",
            "  udp          not known",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
        assert!(!report.is_blocked());
        assert!(!Report { ipv4: family(None), ..report.clone() }.is_blocked());
        assert!(!Report { ipv6: family(Some(true)), ..report.clone() }.is_blocked(), "IPv4 gets out");
        assert!(Report { ipv4: family(Some(true)), ..report }.is_blocked());
    }
}
