//! Where a gateway may be reached, as it says itself or as its introducer does.

use super::super::fields::{Field, Fields, Writer, place};
use super::Malformed;
use crate::candidate::{Behaviour, CANDIDATES_MAX, Candidate, CandidateKind, Nat};

/// The candidates of one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Candidates {
    pub(crate) nat: Nat,
    /// [`CANDIDATES_MAX`] at most.
    pub(crate) list: Vec<Candidate>,
}

impl Candidates {
    /// The first ones of a list, as many as a message holds.
    pub(crate) fn new(nat: Nat, list: &[Candidate]) -> Self {
        Self { nat, list: list[..list.len().min(CANDIDATES_MAX)].to_vec() }
    }

    /// The candidates, and how many were skipped as their kinds are not known.
    pub(super) fn parse(fields: &Fields<'_>) -> Result<(Self, u32), Malformed> {
        let [mapping, filtering] = fields.exactly(Field::Nat)?;
        let nat = Nat { mapping: Behaviour::from_wire(mapping), filtering: Behaviour::from_wire(filtering) };
        let (mut list, mut ignored) = (Vec::with_capacity(fields.candidates().len()), 0);
        for value in fields.candidates() {
            let (kind, rest) = value.split_first().ok_or(Malformed)?;
            let address = place(rest)?;
            match CandidateKind::from_wire(*kind) {
                Some(kind) => list.push(Candidate { kind, address }),
                None => ignored += 1,
            }
        }
        Ok((Self { nat, list }, ignored))
    }

    pub(super) fn write(&self, fields: &mut Writer<'_>) {
        fields.put(Field::Nat, &[self.nat.mapping as u8, self.nat.filtering as u8]);
        for candidate in self.list.iter().take(CANDIDATES_MAX) {
            fields.put_place(Field::Candidate, &[candidate.kind as u8], candidate.address);
        }
    }
}
