//! Plots as SVG: bars in panels, stacked bars, lines in panels.
//!
//! Enters: values with their names. Leaves: the text of an SVG. Never does: measure a font, so that a plot looks the
//! same wherever it is made, or tell two things apart by colour alone: lines have markers, bars have labels.

pub(crate) mod bars;
pub(crate) mod lines;
mod scale;
pub(crate) mod stack;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The palette of Okabe and Ito, which people who see few colours can tell apart, and two greys.
pub(crate) const PALETTE: [RGBColor; 10] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x5a, 0x5a, 0x5a),
    RGBColor(0xb8, 0xae, 0x1c),
    RGBColor(0x9a, 0x9a, 0x9a),
    RGBColor(0x33, 0x33, 0x33),
];
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0x66, 0x66, 0x66);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const TITLE_SIZE: u32 = 18;
const TEXT_SIZE: u32 = 13;
const SMALL_SIZE: u32 = 11;
/// Height of title and subtitle.
const HEAD: i32 = 62;
/// About the width of a character of [`TEXT_SIZE`], for the room that names take.
const CHARACTER: i32 = 7;

/// A place on the plot, in pixels from its upper left corner.
type Point = (i32, i32);

/// Where a text lies as seen from its point.
#[derive(Debug, Clone, Copy)]
enum Anchor {
    Left,
    Right,
    Middle,
}

/// A plot while it is drawn.
struct Canvas<'t> {
    area: DrawingArea<SVGBackend<'t>, Shift>,
}

/// Draws on a white ground with a title.
fn svg(
    size: (u32, u32),
    title: &str,
    subtitle: &str,
    draw: impl FnOnce(&Canvas<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut text = String::new();
    // The head has to fit, however small the plot is.
    let head = subtitle.chars().count() as i32 * CHARACTER + 32;
    let size = (size.0.max(head as u32), size.1);
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        let canvas = Canvas { area };
        canvas.text((16, 20), title, TITLE_SIZE, INK, Anchor::Left)?;
        canvas.text((16, 42), subtitle, TEXT_SIZE, FAINT, Anchor::Left)?;
        draw(&canvas)?;
        canvas.area.present()?;
    }
    Ok(text)
}

impl Canvas<'_> {
    fn text(&self, at: Point, text: &str, size: u32, colour: RGBColor, anchor: Anchor) -> anyhow::Result<()> {
        let horizontal = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Right => HPos::Right,
            Anchor::Middle => HPos::Center,
        };
        let style = TextStyle::from(("Helvetica, Arial, sans-serif", size).into_font())
            .color(&colour)
            .pos(Pos::new(horizontal, VPos::Center));
        Ok(self.area.draw(&Text::new(text.to_owned(), at, style))?)
    }

    fn line(&self, from: Point, to: Point, colour: RGBColor, width: u32) -> anyhow::Result<()> {
        Ok(self.area.draw(&PathElement::new(vec![from, to], colour.stroke_width(width)))?)
    }

    fn rectangle(&self, corner: Point, other: Point, colour: RGBColor) -> anyhow::Result<()> {
        Ok(self.area.draw(&Rectangle::new([corner, other], colour.filled()))?)
    }

    /// One of five shapes.
    fn marker(&self, (x, y): Point, kind: usize, colour: RGBColor) -> anyhow::Result<()> {
        const R: i32 = 5;
        let polygon = |points: Vec<Point>| Polygon::new(points, colour.filled());
        match kind % 5 {
            0 => self.area.draw(&Circle::new((x, y), R, colour.filled()))?,
            1 => self.area.draw(&Rectangle::new([(x - R + 1, y - R + 1), (x + R - 1, y + R - 1)], colour.filled()))?,
            2 => self.area.draw(&polygon(vec![(x, y - R - 1), (x + R + 1, y + R - 1), (x - R - 1, y + R - 1)]))?,
            3 => self.area.draw(&polygon(vec![(x, y - R - 1), (x + R, y), (x, y + R + 1), (x - R, y)]))?,
            _ => self.area.draw(&Circle::new((x, y), R, colour.stroke_width(2)))?,
        }
        Ok(())
    }
}

/// Three digits that count, thousands by their sign.
pub(crate) fn number(value: f64) -> String {
    let (value, sign) = match value.abs() {
        1e9.. => (value / 1e9, "G"),
        1e6..1e9 => (value / 1e6, "M"),
        1e4..1e6 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        0.0 => 0,
        0.0..0.0995 => 3,
        0.0..9.995 => 2,
        0.0..99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    // A whole number is written as one.
    let text = if text.contains('.') && value.fract() == 0.0 { format!("{value:.0}") } else { text };
    format!("{text}{sign}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (0.012_34, "0.012"),
            (0.6, "0.60"),
            (4.0, "4"),
            (3.456, "3.46"),
            (34.56, "34.6"),
            (345.6, "346"),
            (34_560.0, "34.6k"),
            (100_000.0, "100k"),
            (1_250_000.0, "1.25M"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_plot_is_an_svg_with_its_texts_and_without_fonts_of_the_machine() {
        let text =
            svg((400, 100), "A < B", "in one run", |canvas| canvas.marker((50, 80), 2, PALETTE[0])).expect("drawn");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert!(text.contains("A &lt; B") && text.contains("sans-serif"), "{text}");
    }
}
