//! Surveys and the outlook in a world of their own: a NAT, STUN servers, virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landbridge_proto::candidate::Behaviour;
use landbridge_proto::candidate::Behaviour::{
    AddressAndPortDependent, AddressDependent, EndpointIndependent, None as Nothing,
};

use super::outlook::Outlook;
use super::stun::message::REQUEST_MAX;
use super::stun::{Client, Query, Retry};
use super::survey::{FRESH, Findings, Scope, Survey, TUNNEL};

const PORT: u16 = 51820;
const OUTSIDE: &str = "198.51.100.1";

fn place(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A NAT, and a server with two addresses and two ports behind it.
struct World {
    mapping: Behaviour,
    filtering: Behaviour,
    hairpin: bool,
    outside: IpAddr,
    /// Answers with OTHER-ADDRESS, and from there when asked to.
    second: bool,
    /// Servers that never answer.
    silent: BTreeSet<SocketAddr>,
    /// By our socket and what the mapping depends on, the port outside.
    ports: BTreeMap<(u8, Option<IpAddr>, u16), u16>,
    /// Our socket, its port outside, and whom it sent to.
    sent: Vec<(u8, u16, SocketAddr)>,
    asked: usize,
}

impl World {
    fn new(mapping: Behaviour, filtering: Behaviour) -> Self {
        Self {
            mapping,
            filtering,
            hairpin: false,
            outside: OUTSIDE.parse().expect("an address"),
            second: true,
            silent: BTreeSet::new(),
            ports: BTreeMap::new(),
            sent: Vec::new(),
            asked: 0,
        }
    }

    /// Where the internet sees a datagram of ours come from.
    fn source(&mut self, socket: u8, to: SocketAddr) -> SocketAddr {
        let own = if socket == TUNNEL { PORT } else { 40000 };
        let key = match self.mapping {
            Nothing => return SocketAddr::new(self.outside, own),
            AddressDependent => (socket, Some(to.ip()), 0),
            AddressAndPortDependent => (socket, Some(to.ip()), to.port()),
            _ => (socket, None, 0),
        };
        let next = 20000 + self.ports.len() as u16;
        let port = *self.ports.entry(key).or_insert(next);
        self.sent.push((socket, port, to));
        SocketAddr::new(self.outside, port)
    }

    /// Which socket of ours gets a datagram to a place outside, if the filter lets it in.
    fn inward(&self, from: SocketAddr, to: SocketAddr) -> Option<u8> {
        let mut open = self.sent.iter().filter(|(_, port, _)| *port == to.port());
        let passes = |whom: &SocketAddr| match self.filtering {
            AddressDependent => whom.ip() == from.ip(),
            AddressAndPortDependent => *whom == from,
            _ => true,
        };
        open.find(|(_, _, whom)| passes(whom)).map(|(socket, ..)| *socket)
    }

    /// Everything that follows from a request of ours.
    fn carry(&mut self, client: &mut Client, query: &Query, request: &[u8], now: Instant) {
        self.asked += 1;
        let to = query.server;
        let from = self.source(query.socket, to);
        let local = Some(IpAddr::from([10, 0, 0, 2])).filter(|_| self.mapping != Nothing).or(Some(self.outside));
        if to.ip() == self.outside {
            if self.hairpin
                && let Some(socket) = self.inward(from, to)
            {
                let _dropped = client.handle_datagram(now, socket, from, local, request);
            }
            return;
        }
        if self.silent.contains(&to) {
            return;
        }
        let other = |address: SocketAddr| {
            let ip = if address.ip() == place("203.0.113.1:1").ip() { [203, 0, 113, 2] } else { [203, 0, 113, 1] };
            SocketAddr::from((ip, if address.port() == 3478 { 3479 } else { 3478 }))
        };
        let change = request.get(20..28).filter(|change| change[..4] == [0, 3, 0, 4]).map_or(0, |change| change[7]);
        let answers_from = match change {
            0 => to,
            _ if !self.second => return,
            2 => SocketAddr::new(to.ip(), other(to).port()),
            _ => other(to),
        };
        let attribute = |kind: u16, address: SocketAddr| {
            let IpAddr::V4(ip) = address.ip() else { panic!("IPv4 alone") };
            let mut bytes = kind.to_be_bytes().to_vec();
            bytes.extend_from_slice(&[0, 8, 0, 1]);
            bytes.extend_from_slice(&address.port().to_be_bytes());
            bytes.extend_from_slice(&ip.octets());
            bytes
        };
        let mut body = attribute(1, from);
        if self.second {
            body.extend(attribute(0x802c, other(to)));
        }
        let header = [&[1, 1, 0, body.len() as u8], &request[4..20]].concat();
        let no_nat = self.mapping == Nothing && (self.filtering == Nothing || change == 0);
        let socket = if no_nat { Some(query.socket) } else { self.inward(answers_from, from) };
        if let Some(socket) = socket.filter(|_| self.mapping != Nothing || no_nat) {
            client.handle_datagram(now, socket, answers_from, local, &[header, body].concat()).expect("an answer");
        }
    }

    fn exchange(&mut self, client: &mut Client, now: Instant) {
        let mut buffer = [0; REQUEST_MAX];
        while let Some((length, query)) = client.poll_transmit(now, &mut buffer) {
            self.carry(client, &query, &buffer[..length], now);
        }
    }

    /// A thorough survey to its end.
    fn survey(&mut self, servers: &[&str]) -> Findings {
        let servers: Vec<_> = servers.iter().map(|text| place(text)).collect();
        let (mut client, mut now) = (Client::default(), Instant::now());
        let mut survey = Survey::new(false, PORT);
        let scope = Scope { servers: &servers, uplinks: &[], thorough: true, retry: Retry::STANDARD };
        survey.begin(scope, &mut client, now);
        while survey.is_under_way() {
            self.exchange(&mut client, now);
            while let Some(outcome) = client.poll_outcome() {
                assert!(survey.is_asker_of(&outcome));
                survey.take(&outcome, &mut client, now);
                self.exchange(&mut client, now);
            }
            now = client.poll_timeout().map_or(now, |due| due.max(now));
            client.handle_timeout(now);
        }
        survey.findings().clone()
    }
}

#[test]
fn a_server_with_two_addresses_tells_every_kind_of_nat() {
    for mapping in [EndpointIndependent, AddressDependent, AddressAndPortDependent] {
        for filtering in [EndpointIndependent, AddressDependent, AddressAndPortDependent] {
            let mut world = World::new(mapping, filtering);
            let found = world.survey(&["203.0.113.1:3478"]);
            let nat = found.nat(&[]);
            assert_eq!((nat.mapping, nat.filtering), (mapping, filtering));
            assert_eq!((found.blocked(), found.hairpin), (Some(false), Some(false)));
            assert!(world.asked <= 24, "{} requests", world.asked);
        }
    }
    let nat = World::new(Nothing, Nothing).survey(&["203.0.113.1:3478"]).nat(&[]);
    assert_eq!((nat.mapping, nat.filtering), (Nothing, Nothing));
}

#[test]
fn two_plain_servers_tell_the_mapping_and_one_tells_less() {
    for mapping in [EndpointIndependent, AddressAndPortDependent] {
        let mut world = World::new(mapping, AddressAndPortDependent);
        world.second = false;
        let nat = world.survey(&["203.0.113.1:3478", "203.0.113.2:3478"]).nat(&[]);
        assert_eq!((nat.mapping, nat.filtering), (mapping, Behaviour::Unknown));
        let nat = world.survey(&["203.0.113.1:3478"]).nat(&[]);
        assert_eq!(nat.mapping, Behaviour::Unknown);
    }
}

#[test]
fn hairpinning_is_seen_through_a_filter_too() {
    for filtering in [EndpointIndependent, AddressAndPortDependent] {
        let mut world = World::new(EndpointIndependent, filtering);
        world.hairpin = true;
        assert_eq!(world.survey(&["203.0.113.1:3478"]).hairpin, Some(true), "{filtering:?}");
    }
}

#[test]
fn silent_servers_are_blocked_udp_and_one_that_answers_is_enough() {
    let servers = ["203.0.113.1:3478", "203.0.113.2:3478"];
    let mut world = World::new(EndpointIndependent, EndpointIndependent);
    world.silent.insert(place(servers[0]));
    let found = world.survey(&servers);
    assert_eq!(
        (found.blocked(), found.servers[0].answered, found.servers[1].answered),
        (Some(false), None, Some(true))
    );
    world.silent.insert(place(servers[1]));
    let found = world.survey(&servers);
    assert_eq!((found.blocked(), found.mapped()), (Some(true), None));
}

/// Lives with a gateway's outlook for a time; returns the requests of it.
fn live(world: &mut World, outlook: &mut Outlook, now: &mut Instant, time: Duration) -> usize {
    let (before, end) = (world.asked, *now + time);
    while let Some(due) = outlook.poll_timeout().filter(|due| *due <= end) {
        *now = due.max(*now);
        if outlook.is_due(*now) {
            outlook.begin(true, *now);
        }
        outlook.handle_timeout(*now);
        // Answers come, and what follows from them is asked.
        for _ in 0..8 {
            world.exchange(&mut outlook.client, *now);
            outlook.hear(*now);
        }
    }
    *now = end;
    world.asked - before
}

#[test]
fn a_gateway_asks_seldom_while_nothing_changes_and_at_once_when_something_does() {
    let mut world = World::new(EndpointIndependent, AddressAndPortDependent);
    let (mut outlook, mut now) = (Outlook::new(PORT), Instant::now());
    outlook.set_servers(vec![place("203.0.113.1:3478")], now);
    let minute = Duration::from_secs(60);
    assert!(live(&mut world, &mut outlook, &mut now, minute) > 3);
    assert_eq!(outlook.nat(&[]).filtering, AddressAndPortDependent);
    assert!(!outlook.uses_fresh(), "the fresh socket has had its time");
    let idle = live(&mut world, &mut outlook, &mut now, minute * 60);
    assert!((10..=13).contains(&idle), "{idle} requests in an hour");
    outlook.doubt(Vec::new(), now);
    assert_eq!(outlook.nat(&[]).mapping, Behaviour::Unknown, "what was known may not be true");
    assert!(live(&mut world, &mut outlook, &mut now, Duration::from_secs(6)) > 3);
    assert_eq!(outlook.nat(&[]).mapping, EndpointIndependent);
}

#[test]
fn what_is_older_than_half_a_minute_is_asked_for_again_when_a_peer_is_sought() {
    let mut now = Instant::now();
    let mut world = World::new(EndpointIndependent, AddressAndPortDependent);
    let mut outlook = Outlook::new(PORT);
    outlook.set_servers(vec![place("203.0.113.1:3478")], now);
    assert!(live(&mut world, &mut outlook, &mut now, Duration::from_secs(20)) > 0);
    outlook.freshen(now);
    assert_eq!(live(&mut world, &mut outlook, &mut now, Duration::from_secs(20)), 0, "it is fresh");
    outlook.freshen(now);
    outlook.freshen(now);
    assert_eq!(live(&mut world, &mut outlook, &mut now, Duration::from_secs(10)), 1, "one question");
    outlook.freshen(now);
    assert_eq!(live(&mut world, &mut outlook, &mut now, Duration::from_secs(60)), 0, "and no other so soon");
    outlook.look_again(now);
    assert!(live(&mut world, &mut outlook, &mut now, Duration::from_secs(20)) > 1, "all of it, behind another router");
}

#[test]
fn an_address_that_moved_is_noticed_by_the_next_question() {
    let mut world = World::new(EndpointIndependent, EndpointIndependent);
    let (mut outlook, mut now) = (Outlook::new(PORT), Instant::now());
    outlook.set_servers(vec![place("203.0.113.1:3478")], now);
    live(&mut world, &mut outlook, &mut now, Duration::from_secs(30));
    assert_eq!(outlook.findings(false).mapped().map(|mapped| mapped.ip()), Some(world.outside));
    world.outside = place("198.51.100.77:1").ip();
    live(&mut world, &mut outlook, &mut now, Duration::from_secs(320));
    assert_eq!(outlook.findings(false).mapped().map(|mapped| mapped.ip()), Some(world.outside));
}

#[test]
fn where_nobody_answers_questions_come_ever_later_and_an_answer_is_found_again() {
    let mut world = World::new(EndpointIndependent, EndpointIndependent);
    let server = place("203.0.113.1:3478");
    world.silent.insert(server);
    let (mut outlook, mut now) = (Outlook::new(PORT), Instant::now());
    outlook.set_servers(vec![server], now);
    let hour = Duration::from_secs(3600);
    live(&mut world, &mut outlook, &mut now, hour);
    assert_eq!(outlook.blocked(), Some(true));
    let later = live(&mut world, &mut outlook, &mut now, hour);
    assert!(later <= 5 * 7, "{later} requests in an hour");
    world.silent.clear();
    live(&mut world, &mut outlook, &mut now, hour);
    assert_eq!((outlook.blocked(), outlook.nat(&[]).mapping), (Some(false), EndpointIndependent));
}

#[test]
fn a_server_cannot_have_us_send_into_our_own_network() {
    let (mut client, now) = (Client::default(), Instant::now());
    let mut survey = Survey::new(false, PORT);
    let server = place("203.0.113.1:3478");
    let scope = Scope { servers: &[server], uplinks: &[], thorough: true, retry: Retry::STANDARD };
    survey.begin(scope, &mut client, now);
    let mut buffer = [0; REQUEST_MAX];
    client.poll_transmit(now, &mut buffer).expect("a request");
    let mut answer = vec![1, 1, 0, 24];
    answer.extend_from_slice(&buffer[4..20]);
    answer.extend_from_slice(&[0, 1, 0, 8, 0, 1, 0, 7, 198, 51, 100, 1, 0x80, 0x2c, 0, 8, 0, 1, 0, 53, 192, 168, 1, 1]);
    client.handle_datagram(now, TUNNEL, server, None, &answer).expect("an answer");
    let outcome = client.poll_outcome().expect("an outcome");
    survey.take(&outcome, &mut client, now);
    let asked: Vec<_> = std::iter::from_fn(|| client.poll_transmit(now, &mut buffer)).map(|(_, query)| query).collect();
    assert!(asked.iter().all(|query| query.server == server && query.socket == FRESH), "{asked:?}");
}
