//! The kind of NAT, from what was seen of it (RFC 4787 sections 4.1 and 5, RFC 5780 sections 4.3 and 4.4).
//!
//! Enters: where others saw us, and which answers came through. Leaves: [`Behaviour`]s. Never does: guess where too little
//! was seen.

use std::net::SocketAddr;

use landbridge_proto::candidate::Behaviour;

/// Where somebody saw us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Observation {
    /// Who saw us: a server or a peer, at the address and port that we sent to.
    pub observer: SocketAddr,
    /// Where our datagrams came from.
    pub mapped: SocketAddr,
}

/// Which answers of a server came through though they came from elsewhere; `None` for what is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// Those from its other address and port.
    pub other_address: Option<bool>,
    /// Those from its other port.
    pub other_port: Option<bool>,
}

/// How mappings are chosen, from observations of one of our sockets in one address family. `own` is that socket's address
/// and port.
///
/// With observations of which no two share an address but not the port it is not known whether ports matter, and the worse is
/// taken: what is done for it works for the better as well.
#[must_use]
pub fn mapping(own: Option<SocketAddr>, observations: &[Observation]) -> Behaviour {
    let Some(first) = observations.first() else { return Behaviour::Unknown };
    if observations.iter().all(|seen| Some(seen.mapped) == own) {
        return Behaviour::None;
    }
    let pairs =
        || observations.iter().enumerate().flat_map(|(at, one)| observations[..at].iter().map(move |two| (one, two)));
    if observations.iter().all(|seen| seen.mapped == first.mapped) {
        let several = pairs().any(|(one, two)| one.observer.ip() != two.observer.ip());
        return if several { Behaviour::EndpointIndependent } else { Behaviour::Unknown };
    }
    let same_address = || {
        pairs()
            .filter(|(one, two)| one.observer.ip() == two.observer.ip() && one.observer.port() != two.observer.port())
    };
    if same_address().next().is_some() && same_address().all(|(one, two)| one.mapped == two.mapped) {
        Behaviour::AddressDependent
    } else {
        Behaviour::AddressAndPortDependent
    }
}

/// How datagrams are let in. Without a NAT, and with everything let in, there is no filter.
#[must_use]
pub fn filtering(mapping: Behaviour, passed: Passed) -> Behaviour {
    match (passed.other_address, passed.other_port) {
        (Some(true), _) if mapping == Behaviour::None => Behaviour::None,
        (Some(true), _) => Behaviour::EndpointIndependent,
        (Some(false), Some(true)) => Behaviour::AddressDependent,
        (Some(false), Some(false)) => Behaviour::AddressAndPortDependent,
        _ => Behaviour::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_is_told_from_who_saw_us_where() {
        use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent, None as NoNat, Unknown};
        let own = "10.0.0.2:51820";
        for (seen, expected) in [
            (&[][..], Unknown),
            (&[("192.0.2.1:1", own)][..], NoNat),
            (&[("192.0.2.1:1", "198.51.100.1:7")], Unknown),
            (&[("192.0.2.1:1", "198.51.100.1:7"), ("192.0.2.1:2", "198.51.100.1:7")], Unknown),
            (&[("192.0.2.1:1", "198.51.100.1:7"), ("192.0.2.2:1", "198.51.100.1:7")], EndpointIndependent),
            (&[("192.0.2.1:1", "198.51.100.1:7"), ("192.0.2.2:1", "198.51.100.1:8")], AddressAndPortDependent),
            (
                &[
                    ("192.0.2.1:1", "198.51.100.1:7"),
                    ("192.0.2.2:1", "198.51.100.1:8"),
                    ("192.0.2.2:2", "198.51.100.1:8"),
                ],
                AddressDependent,
            ),
            (
                &[
                    ("192.0.2.1:1", "198.51.100.1:7"),
                    ("192.0.2.2:1", "198.51.100.1:8"),
                    ("192.0.2.2:2", "198.51.100.1:9"),
                ],
                AddressAndPortDependent,
            ),
            (&[("192.0.2.1:1", "198.51.100.1:7"), ("192.0.2.2:1", "198.51.100.2:7")], AddressAndPortDependent),
        ] {
            let place = |text: &str| text.parse::<SocketAddr>().expect("an address");
            let seen: Vec<_> =
                seen.iter().map(|(by, at)| Observation { observer: place(by), mapped: place(at) }).collect();
            assert_eq!(mapping(Some(place(own)), &seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn the_filter_is_told_from_what_came_through() {
        let passed = |other_address, other_port| Passed { other_address, other_port };
        for (mapping, passed, expected) in [
            (Behaviour::None, passed(Some(true), Some(true)), Behaviour::None),
            (Behaviour::EndpointIndependent, passed(Some(true), None), Behaviour::EndpointIndependent),
            (Behaviour::EndpointIndependent, passed(Some(false), Some(true)), Behaviour::AddressDependent),
            (Behaviour::None, passed(Some(false), Some(false)), Behaviour::AddressAndPortDependent),
            (Behaviour::None, passed(None, Some(true)), Behaviour::Unknown),
            (Behaviour::None, passed(Some(false), None), Behaviour::Unknown),
        ] {
            assert_eq!(filtering(mapping, passed), expected);
        }
    }
}
