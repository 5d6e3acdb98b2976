//! Horizontal bars: a row for each thing, a panel for each quantity.
//!
//! Enters: a [`BarChart`]. Leaves: an SVG. Never does: leave a gap unexplained: what was not measured says so.

use plotters::prelude::RGBColor;

use super::scale::Scale;
use super::{Anchor, CHARACTER, Canvas, FAINT, GRID, HEAD, INK, SMALL_SIZE, TEXT_SIZE, number, svg};

const ROW: i32 = 27;
const BAR: i32 = 15;
const PANEL: i32 = 220;
const GAP: i32 = 36;
const PANEL_HEAD: i32 = 30;
const FOOT: i32 = 34;

/// A value with the ends of its spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bar {
    /// The bar's length.
    pub(crate) value: f64,
    /// Where the spread begins.
    pub(crate) min: f64,
    /// Where it ends.
    pub(crate) max: f64,
    /// It is at least this.
    pub(crate) is_lower_limit: bool,
}

/// A row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
}

/// A quantity.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    /// What it is, and its unit.
    pub(crate) title: String,
    /// What is shown below it.
    pub(crate) note: String,
    /// A value for each row.
    pub(crate) bars: Vec<Option<Bar>>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct BarChart {
    /// What one sees.
    pub(crate) title: String,
    /// On what and how.
    pub(crate) subtitle: String,
    /// From top to bottom.
    pub(crate) rows: Vec<Row>,
    /// From left to right.
    pub(crate) panels: Vec<Panel>,
}

impl BarChart {
    /// Draws.
    pub(crate) fn svg(&self) -> anyhow::Result<String> {
        let names = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0) as i32 * CHARACTER + 30;
        let width = (names + self.panels.len() as i32 * (PANEL + GAP) + 16).max(640);
        let height = HEAD + PANEL_HEAD + self.rows.len() as i32 * ROW + FOOT;
        svg((width as u32, height as u32), &self.title, &self.subtitle, |canvas| {
            for (at, row) in self.rows.iter().enumerate() {
                canvas.text((names - 10, middle(at)), &row.name, TEXT_SIZE, INK, Anchor::Right)?;
            }
            for (at, panel) in self.panels.iter().enumerate() {
                self.panel(canvas, panel, names + at as i32 * (PANEL + GAP))?;
            }
            Ok(())
        })
    }

    fn panel(&self, canvas: &Canvas<'_>, panel: &Panel, left: i32) -> anyhow::Result<()> {
        let (top, bottom) = (HEAD + PANEL_HEAD, HEAD + PANEL_HEAD + self.rows.len() as i32 * ROW);
        // The value stands behind the bar.
        let longest = PANEL - 44;
        let scale = Scale::linear(panel.bars.iter().flatten().map(|bar| bar.max), left, left + longest);
        canvas.text((left, HEAD + 8), &panel.title, TEXT_SIZE, INK, Anchor::Left)?;
        canvas.text((left, HEAD + 23), &panel.note, SMALL_SIZE, FAINT, Anchor::Left)?;
        for tick in scale.ticks(4) {
            let x = scale.place(tick);
            canvas.line((x, top), (x, bottom), GRID, 1)?;
            canvas.text((x, bottom + 12), &number(tick), SMALL_SIZE, FAINT, Anchor::Middle)?;
        }
        for (at, (bar, row)) in panel.bars.iter().zip(&self.rows).enumerate() {
            let y = middle(at);
            let Some(bar) = bar else {
                canvas.text((left + 6, y), "not measured", SMALL_SIZE, FAINT, Anchor::Left)?;
                continue;
            };
            canvas.rectangle((left, y - BAR / 2), (scale.place(bar.value).max(left + 1), y + BAR / 2), row.colour)?;
            let (min, max) = (scale.place(bar.min), scale.place(bar.max));
            if max > min {
                canvas.line((min, y), (max, y), INK, 1)?;
                canvas.line((min, y - 4), (min, y + 4), INK, 1)?;
                canvas.line((max, y - 4), (max, y + 4), INK, 1)?;
            }
            let behind = max.max(scale.place(bar.value)) + 6;
            let at_least = if bar.is_lower_limit { "≥ " } else { "" };
            let label = format!("{at_least}{}", number(bar.value));
            canvas.text((behind, y), &label, TEXT_SIZE, INK, Anchor::Left)?;
        }
        canvas.line((left, top), (left, bottom), FAINT, 1)
    }
}

fn middle(row: usize) -> i32 {
    HEAD + PANEL_HEAD + row as i32 * ROW + ROW / 2
}

#[cfg(test)]
mod tests {
    use super::super::PALETTE;
    use super::*;

    #[test]
    fn every_row_and_every_value_is_named() {
        let row = |name: &str| Row { name: name.to_owned(), colour: PALETTE[0] };
        let bar = |value: f64| Some(Bar { value, min: value * 0.9, max: value * 1.1, is_lower_limit: true });
        let panel =
            Panel { title: "TCP, Gb/s".to_owned(), note: "more is better".to_owned(), bars: vec![bar(3.25), None] };
        let chart = BarChart {
            title: "Title".to_owned(),
            subtitle: "Subtitle".to_owned(),
            rows: vec![row("first"), row("second")],
            panels: vec![panel],
        };
        let text = chart.svg().expect("drawn");
        for part in ["first", "second", "≥ 3.25", "not measured", "TCP, Gb/s", "more is better"] {
            assert!(text.contains(part), "{part} is missing");
        }
    }
}
