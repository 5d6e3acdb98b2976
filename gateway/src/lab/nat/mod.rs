//! The network laboratory: an internet, servers on it, and sites behind every kind of NAT, all of it in network
//! namespaces.
//!
//! 1. [`kind`]: the kinds of access, and what RFC 5780 would find of each.
//! 2. [`internet`]: the router in the middle; it links servers and sites, and makes faults: a cut or unplugged
//!    uplink, two sites that cannot reach each other, a narrow path.
//! 3. [`router`]: NAT by nftables ([`rules`]), in front of a [`site`] with one gateway and one host.
//! 4. [`stun_server`] and [`port_mapper`]: coturn and miniupnpd, as real ones.
//! 5. [`responder`] and [`prober`]: the proof that each NAT behaves as it is called.
//! 6. [`scene`]: two sites and introducers with gateways, and [`coming_up`]: how long their link takes, [`change`]:
//!    what it goes through.
//!
//! Enters: kinds of access. Leaves: namespaces in which gateways can run, and figures. Never does: touch a network
//! outside the namespaces that it made. It needs root and the programs that it runs: nft, and for their parts
//! turnserver and miniupnpd.

pub mod change;
pub mod coming_up;
mod ground;
pub mod internet;
pub mod kind;
mod nft;
pub mod port_mapper;
pub mod prober;
mod program;
pub mod responder;
pub mod router;
mod rules;
pub mod scene;
pub mod site;
pub mod stun_server;

pub use self::ground::Attachment;
pub use self::internet::{Internet, Server};
pub use self::kind::{Access, Behaviour, Kind};
pub use self::router::Router;
pub use self::site::{Site, Uplink};
