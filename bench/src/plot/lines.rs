//! Lines with markers in panels, over named steps.
//!
//! Enters: a [`LineChart`]. Leaves: an SVG. Never does: join points between which something is missing.

use plotters::prelude::RGBColor;

use super::scale::Scale;
use super::{Anchor, CHARACTER, Canvas, FAINT, GRID, HEAD, INK, SMALL_SIZE, TEXT_SIZE, number, svg};

const PANEL: i32 = 330;
const HEIGHT: i32 = 300;
const AXIS: i32 = 58;
const PANEL_HEAD: i32 = 24;
const FOOT: i32 = 50;
const KEY_ROW: i32 = 21;

/// A line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Its name in the key.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
    /// A value, and the ends of its spread, for each step.
    pub(crate) points: Vec<Option<(f64, f64, f64)>>,
}

/// A panel; all have the same lines in the same order.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    /// What it shows.
    pub(crate) title: String,
    /// Its lines.
    pub(crate) lines: Vec<Line>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct LineChart {
    /// What one sees.
    pub(crate) title: String,
    /// On what and how.
    pub(crate) subtitle: String,
    /// The steps from left to right.
    pub(crate) steps: Vec<String>,
    /// What the steps are.
    pub(crate) step_title: String,
    /// What the values are, with their unit.
    pub(crate) value_title: String,
    /// Whether values grow by factors.
    pub(crate) is_log: bool,
    /// From left to right.
    pub(crate) panels: Vec<Panel>,
}

impl LineChart {
    /// Draws.
    pub(crate) fn svg(&self) -> anyhow::Result<String> {
        let names = self.panels.iter().flat_map(|panel| &panel.lines).map(|line| line.name.chars().count());
        let key = names.max().unwrap_or(0) as i32 * CHARACTER + 60;
        let width = (self.panels.len() as i32 * (PANEL + AXIS) + key + 24).max(640);
        let lines = self.panels.iter().map(|panel| panel.lines.len()).max().unwrap_or(0) as i32;
        let height = (HEAD + PANEL_HEAD + HEIGHT + FOOT).max(HEAD + PANEL_HEAD + lines * KEY_ROW + 20);
        let (top, bottom) = (HEAD + PANEL_HEAD, HEAD + PANEL_HEAD + HEIGHT);
        let values = || self.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| line.points.iter().flatten());
        let ends = || values().flat_map(|(value, min, max)| [*value, *min, *max]);
        let scale = match self.is_log {
            true => Scale::log(ends(), bottom, top),
            false => Scale::linear(ends(), bottom, top),
        };
        svg((width as u32, height as u32), &self.title, &self.subtitle, |canvas| {
            for (at, panel) in self.panels.iter().enumerate() {
                self.panel(canvas, panel, &scale, at as i32 * (PANEL + AXIS) + AXIS)?;
            }
            let left = self.panels.len() as i32 * (PANEL + AXIS) + 24;
            let lines = self.panels.first().map(|panel| &panel.lines[..]).unwrap_or_default();
            for (at, line) in lines.iter().enumerate() {
                let y = top + at as i32 * KEY_ROW + 8;
                canvas.line((left, y), (left + 24, y), line.colour, 2)?;
                canvas.marker((left + 12, y), at, line.colour)?;
                canvas.text((left + 32, y), &line.name, TEXT_SIZE, INK, Anchor::Left)?;
            }
            Ok(())
        })
    }

    fn panel(&self, canvas: &Canvas<'_>, panel: &Panel, scale: &Scale, left: i32) -> anyhow::Result<()> {
        let (top, bottom, right) = (HEAD + PANEL_HEAD, HEAD + PANEL_HEAD + HEIGHT, left + PANEL);
        canvas.text((left, top - 14), &panel.title, TEXT_SIZE, INK, Anchor::Left)?;
        if left == AXIS {
            canvas.text((right, top - 14), &self.value_title, TEXT_SIZE, FAINT, Anchor::Right)?;
        }
        for tick in scale.ticks(6) {
            let y = scale.place(tick);
            canvas.line((left, y), (right, y), GRID, 1)?;
            canvas.text((left - 6, y), &number(tick), SMALL_SIZE, FAINT, Anchor::Right)?;
        }
        let place = |step: usize| left + (step as i32 * 2 + 1) * PANEL / (self.steps.len().max(1) as i32 * 2);
        for (step, name) in self.steps.iter().enumerate() {
            canvas.text((place(step), bottom + 14), name, SMALL_SIZE, FAINT, Anchor::Middle)?;
        }
        canvas.text(((left + right) / 2, bottom + 34), &self.step_title, TEXT_SIZE, FAINT, Anchor::Middle)?;
        canvas.line((left, bottom), (right, bottom), FAINT, 1)?;
        for (at, line) in panel.lines.iter().enumerate() {
            let points: Vec<Option<(i32, i32)>> = line
                .points
                .iter()
                .enumerate()
                .map(|(step, point)| point.map(|(value, _, _)| (place(step), scale.place(value))))
                .collect();
            for pair in points.windows(2) {
                if let [Some(from), Some(to)] = pair {
                    canvas.line(*from, *to, line.colour, 2)?;
                }
            }
            for (point, spread) in points.iter().zip(&line.points) {
                let (Some((x, y)), Some((_, min, max))) = (point, spread) else { continue };
                canvas.line((*x, scale.place(*min)), (*x, scale.place(*max)), line.colour, 1)?;
                canvas.marker((*x, *y), at, line.colour)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::PALETTE;
    use super::*;

    #[test]
    fn a_gap_is_not_joined_and_everything_is_named() {
        let chart = |points: Vec<Option<(f64, f64, f64)>>| LineChart {
            title: "Title".to_owned(),
            subtitle: String::new(),
            steps: vec!["64".to_owned(), "512".to_owned(), "1420".to_owned()],
            step_title: "bytes".to_owned(),
            value_title: "Mpps".to_owned(),
            is_log: true,
            panels: vec![Panel {
                title: "one way".to_owned(),
                lines: vec![Line { name: "udp/tun".to_owned(), colour: PALETTE[1], points }],
            }],
        };
        let point = Some((1.0, 0.9, 1.1));
        let whole = chart(vec![point, point, point]).svg().expect("drawn");
        let gap = chart(vec![point, None, point]).svg().expect("drawn");
        let joins = |text: &str| text.matches("stroke-width=\"2\"").count();
        assert_eq!(joins(&whole) - joins(&gap), 2);
        for part in ["one way", "udp/tun", "bytes", "Mpps", "1420"] {
            assert!(whole.contains(part), "{part} is missing");
        }
    }
}
