//! From a run to the repository.
//!
//! Enters: results. Leaves: `bench/results/nat.md`, `nat.json` and the marked block of `README.md`. Never does: touch
//! any other line.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::report::{Results, block};
use crate::readme;

/// Where the block begins and ends.
const MARKS: [&str; 2] = ["<!-- nat: begin (landbridge-bench nat --publish .) -->", "<!-- nat: end -->"];
const RESULTS: &str = "bench/results";

/// Writes all of it below the root of the repository.
pub(super) fn publish(root: &Path, results: &Results, page: &str, json: &str) -> anyhow::Result<()> {
    let directory = root.join(RESULTS);
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    for (name, text) in [("nat.md", page), ("nat.json", json)] {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let more = format!(
        "\n[The whole table]({RESULTS}/nat.md) has other networks too:\n\
         mapped ports, IPv6, narrow paths, lost uplinks.\n"
    );
    readme::replace(root, MARKS, &(block(results) + &more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repositorys_readme_has_a_block_for_the_table() {
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("a README");
        let text = readme::replaced(&text, MARKS, "| other |").expect("marks");
        assert!(text.contains("\n| other |\n"));
    }
}
