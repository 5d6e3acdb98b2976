//! From a run to the repository: the README's table and plot, and the report that they come from.
//!
//! Enters: a report. Leaves: `bench/results/` and the marked block of `README.md`. Never does: touch any other line.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::{Written, markdown};
use crate::readme;

/// Where the block begins and ends.
const MARKS: [&str; 2] =
    ["<!-- throughput: begin (landbridge-bench throughput --quick --publish .) -->", "<!-- throughput: end -->"];
/// The report's place in the repository.
const RESULTS: &str = "bench/results";
/// The plot that the README shows.
const SHOWN: &str = "comparison.svg";

/// Writes both below the root of the repository.
pub(crate) fn publish(root: &Path, written: &Written) -> anyhow::Result<()> {
    let block = markdown::block(&written.material, &format!("{RESULTS}/{SHOWN}"), &format!("{RESULTS}/report.md"));
    let results = root.join(RESULTS);
    fs::create_dir_all(&results).with_context(|| format!("{} cannot be made", results.display()))?;
    let page = [("report.md", written.markdown.as_str())];
    let plots = written.plots.iter().map(|plot| (plot.name, plot.svg.as_str()));
    for (name, text) in page.into_iter().chain(plots) {
        let path = results.join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    readme::replace(root, MARKS, &block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repositorys_readme_has_a_block_to_replace() {
        let before = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("a README");
        let text = readme::replaced(&before, MARKS, "| other | table |").expect("marks");
        assert!(text.contains("\n| other | table |\n"));
        let outside = |text: &str| {
            let (before, rest) = text.split_once(MARKS[0]).expect("begin");
            let (_, after) = rest.split_once(MARKS[1]).expect("end");
            (before.to_owned(), after.to_owned())
        };
        assert_eq!(outside(&text), outside(&before), "nothing else has changed");
    }

    #[test]
    fn a_text_without_marks_is_refused() {
        assert!(readme::replaced("# Title\n", MARKS, "x").is_err());
        assert!(readme::replaced(&format!("{}\n", MARKS[0]), MARKS, "x").is_err());
    }
}
