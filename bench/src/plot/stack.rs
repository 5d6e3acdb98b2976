//! Stacked horizontal bars: what a whole is made of.
//!
//! Enters: a [`StackChart`]. Leaves: an SVG. Never does: leave a part without a name; those too thin for theirs are in
//! the key.

use super::scale::Scale;
use super::{Anchor, CHARACTER, FAINT, GRID, HEAD, INK, PALETTE, SMALL_SIZE, TEXT_SIZE, number, svg};

const ROW: i32 = 34;
const BAR: i32 = 22;
const WIDTH: i32 = 720;
const KEY_COLUMN: i32 = 150;
const KEY_ROW: i32 = 20;

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct StackChart {
    /// What one sees.
    pub(crate) title: String,
    /// On what and how.
    pub(crate) subtitle: String,
    /// Below the axis.
    pub(crate) axis: String,
    /// The parts, in their order.
    pub(crate) parts: Vec<String>,
    /// Name of each row, and a value for each part.
    pub(crate) rows: Vec<(String, Vec<f64>)>,
}

impl StackChart {
    /// Draws.
    pub(crate) fn svg(&self) -> anyhow::Result<String> {
        let names = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) as i32 * CHARACTER + 30;
        let columns = ((names + WIDTH) / KEY_COLUMN).max(1) as usize;
        let key_rows = self.parts.len().div_ceil(columns) as i32;
        let top = HEAD + key_rows * KEY_ROW + 8;
        let bottom = top + self.rows.len() as i32 * ROW;
        let size = ((names + WIDTH + 90) as u32, (bottom + 44) as u32);
        let sums = self.rows.iter().map(|(_, values)| values.iter().sum::<f64>());
        let scale = Scale::linear(sums, names, names + WIDTH);
        svg(size, &self.title, &self.subtitle, |canvas| {
            for (at, part) in self.parts.iter().enumerate() {
                let (x, y) = (16 + (at % columns) as i32 * KEY_COLUMN, HEAD + (at / columns) as i32 * KEY_ROW + 6);
                canvas.rectangle((x, y - 6), (x + 12, y + 6), PALETTE[at % PALETTE.len()])?;
                canvas.text((x + 18, y), part, TEXT_SIZE, INK, Anchor::Left)?;
            }
            for tick in scale.ticks(6) {
                let x = scale.place(tick);
                canvas.line((x, top), (x, bottom), GRID, 1)?;
                canvas.text((x, bottom + 12), &number(tick), SMALL_SIZE, FAINT, Anchor::Middle)?;
            }
            canvas.text((names + WIDTH / 2, bottom + 30), &self.axis, TEXT_SIZE, FAINT, Anchor::Middle)?;
            for (at, (name, values)) in self.rows.iter().enumerate() {
                let y = top + at as i32 * ROW + ROW / 2;
                canvas.text((names - 10, y), name, TEXT_SIZE, INK, Anchor::Right)?;
                let mut sum = 0.0;
                for (part, value) in values.iter().enumerate() {
                    let (from, to) = (scale.place(sum), scale.place(sum + value));
                    sum += value;
                    canvas.rectangle((from, y - BAR / 2), (to, y + BAR / 2), PALETTE[part % PALETTE.len()])?;
                    canvas.line((to, y - BAR / 2), (to, y + BAR / 2), plotters::style::WHITE, 1)?;
                    if to - from > 30 {
                        let white = plotters::style::WHITE;
                        canvas.text(((from + to) / 2, y), &number(*value), SMALL_SIZE, white, Anchor::Middle)?;
                    }
                }
                canvas.text((scale.place(sum) + 8, y), &number(sum), TEXT_SIZE, INK, Anchor::Left)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sums_and_rows_are_named() {
        let chart = StackChart {
            title: "Title".to_owned(),
            subtitle: String::new(),
            axis: "ns a packet".to_owned(),
            parts: vec!["open".to_owned(), "seal".to_owned()],
            rows: vec![("gateway A".to_owned(), vec![300.0, 45.0])],
        };
        let text = chart.svg().expect("drawn");
        for part in ["open", "seal", "gateway A", "345", "ns a packet"] {
            assert!(text.contains(part), "{part} is missing");
        }
    }
}
