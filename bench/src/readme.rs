//! The blocks of the README that commands write.
//!
//! Enters: a README, the marks of a block, its text. Leaves: the README with that block. Never does: touch any other
//! line.

use std::path::Path;

use anyhow::Context as _;

/// Replaces the block between two marks in the README of a repository.
pub(crate) fn replace(root: &Path, marks: [&str; 2], block: &str) -> anyhow::Result<()> {
    let readme = root.join("README.md");
    let text = std::fs::read_to_string(&readme).with_context(|| format!("{} cannot be read", readme.display()))?;
    let text = replaced(&text, marks, block).with_context(|| format!("{}", readme.display()))?;
    std::fs::write(&readme, text).with_context(|| format!("{} cannot be written", readme.display()))
}

/// The text with another block between the marks.
pub(crate) fn replaced(text: &str, [begin, end]: [&str; 2], block: &str) -> anyhow::Result<String> {
    let from = text.find(begin).with_context(|| format!("the line {begin:?} is missing"))? + begin.len();
    let to = text.find(end).filter(|to| *to >= from).with_context(|| format!("the line {end:?} is missing"))?;
    Ok(format!("{}\n{}\n{}", &text[..from], block.trim_end(), &text[to..]))
}
