//! What a gateway says of itself.

use super::super::fields::{Field, Fields, Writer};
use super::Malformed;

/// What a gateway can do, one bit each. Unknown bits are kept: they are later versions'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u32);

impl Features {
    /// Sends from, and takes, several source ports.
    pub const SOURCE_PORTS: Self = Self(1);
    /// Proves paths by probes, and answers those of others.
    pub const PATHS: Self = Self(2);
    /// Introduces its peers to each other.
    pub const INTRODUCES: Self = Self(4);
    /// Relays between its peers.
    pub const RELAYS: Self = Self(8);
    /// What this version can do whatever its configuration says.
    pub const OURS: Self = Self(Self::SOURCE_PORTS.0 | Self::PATHS.0);

    const NAMES: [(Self, &'static str); 4] = [
        (Self::SOURCE_PORTS, "source_ports"),
        (Self::PATHS, "paths"),
        (Self::INTRODUCES, "introduces"),
        (Self::RELAYS, "relays"),
    ];

    /// Whether all of these are among them.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These, and others when `on`.
    #[must_use]
    pub const fn with(self, other: Self, on: bool) -> Self {
        Self(if on { self.0 | other.0 } else { self.0 })
    }

    /// Names of the bits that are set; those of later versions have none.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, name)| name)
    }
}

/// A gateway introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Drawn when it started: another one says that it forgot everything.
    pub(crate) instance: u64,
    pub(crate) features: Features,
    /// Source ports beside the main one that it makes use of as a receiver.
    pub(crate) accepts_ports: u8,
}

impl Hello {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, Malformed> {
        let [accepts_ports] = fields.exactly(Field::AcceptsPorts)?;
        Ok(Self {
            instance: u64::from_be_bytes(fields.exactly(Field::Instance)?),
            features: Features(fields.number(Field::Features)?),
            accepts_ports,
        })
    }

    pub(super) fn write(self, fields: &mut Writer<'_>) {
        fields.put(Field::Instance, &self.instance.to_be_bytes());
        fields.put(Field::Features, &self.features.0.to_be_bytes());
        fields.put(Field::AcceptsPorts, &[self.accepts_ports]);
    }
}
