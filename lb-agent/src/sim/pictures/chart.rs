//! One chart as data, and how it is drawn: lines over two axes, each of which may be logarithmic.

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

/// Colours that are told apart on white, the first for what everything is compared with.
const COLOURS: [RGBColor; 18] = [
    RGBColor(0, 0, 0),
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(23, 190, 207),
    RGBColor(188, 189, 34),
    RGBColor(127, 127, 127),
    RGBColor(0, 63, 127),
    RGBColor(127, 0, 63),
    RGBColor(0, 127, 63),
    RGBColor(174, 199, 232),
    RGBColor(255, 187, 120),
    RGBColor(75, 0, 130),
    RGBColor(120, 160, 60),
];

pub(super) fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// The font that is built in, whatever the machine has.
pub(super) const FONT: &str = "sans-serif";

#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub(super) points: Vec<(f64, f64)>,
    /// Index of its colour; the same in every chart of a figure.
    pub(super) colour: usize,
    /// A part that is hardly known is drawn thin.
    pub(super) faint: bool,
    /// What the figure is about is drawn thick.
    pub(super) bold: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x_label: &'static str,
    pub(super) y_label: &'static str,
    pub(super) x_log: bool,
    pub(super) y_log: bool,
    pub(super) lines: Vec<Line>,
    /// Vertical lines: when something happened.
    pub(super) marks: Vec<f64>,
    /// Names at whole numbers of the horizontal axis, instead of numbers.
    pub(super) names: Vec<String>,
    /// The upper end of the vertical axis, where data must not decide it.
    pub(super) y_most: Option<f64>,
}

impl Chart {
    /// The values of one axis from end to end; none without data.
    fn range(&self, log: bool, of: impl Fn(&(f64, f64)) -> f64) -> Option<(f64, f64)> {
        let values = self.lines.iter().flat_map(|line| &line.points).map(of);
        let values = values.filter(|value| value.is_finite() && (!log || *value > 0.0));
        values.fold(None, |range: Option<(f64, f64)>, value| {
            Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        })
    }

    pub(super) fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, plotters::coord::Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let (Some(x), Some(y)) = (self.range(self.x_log, |point| point.0), self.range(self.y_log, |point| point.1))
        else {
            return Ok(());
        };
        let y = self.y_most.map_or(y, |most| (y.0, y.1.min(most)));
        let x = if self.names.is_empty() { widen(x, self.x_log, 0.0) } else { (x.0 - 0.5)..(x.1 + 0.5) };
        let y = widen(if self.y_log { y } else { (y.0.min(0.0), y.1) }, self.y_log, 0.05);
        match (self.x_log, self.y_log) {
            (false, false) => self.plot(area, x, y),
            (false, true) => self.plot(area, x, y.log_scale()),
            (true, false) => self.plot(area, x.log_scale(), y),
            (true, true) => self.plot(area, x.log_scale(), y.log_scale()),
        }
    }

    fn plot<B, X, Y>(&self, area: &DrawingArea<B, plotters::coord::Shift>, x: X, y: Y) -> anyhow::Result<()>
    where
        B: DrawingBackend,
        B::ErrorType: 'static,
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let mut context = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 17))
            .margin(8)
            .x_label_area_size(if self.names.is_empty() { 38 } else { 50 })
            .y_label_area_size(62)
            .build_cartesian_2d(x, y)?;
        let name = |value: &f64| {
            let whole = (value - value.round()).abs() < 0.01;
            self.names.get(value.round() as usize).filter(|_| whole && *value > -0.5).cloned().unwrap_or_default()
        };
        let number = |value: &f64| figure(*value);
        context
            .configure_mesh()
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .label_style((FONT, 13))
            .axis_desc_style((FONT, 14))
            .light_line_style(RGBColor(244, 244, 244))
            .bold_line_style(RGBColor(225, 225, 225))
            .x_labels(if self.names.is_empty() { 10 } else { 2 * self.names.len() + 1 })
            .x_label_formatter(if self.names.is_empty() { &number } else { &name })
            .y_label_formatter(&number)
            .draw()?;
        let bounds = context.y_range();
        for mark in &self.marks {
            let line = [(*mark, bounds.start), (*mark, bounds.end)];
            context.draw_series(DashedLineSeries::new(line, 3, 3, RGBColor(120, 120, 120).stroke_width(1)))?;
        }
        // The first line last: nothing hides what the others are compared with.
        for line in self.lines.iter().rev() {
            let width = 2 + u32::from(line.bold) - u32::from(line.faint);
            let shade = colour(line.colour).mix(if line.faint { 0.35 } else { 0.9 }).stroke_width(width);
            let inside = |(_, y): &(f64, f64)| y.is_finite();
            let points =
                line.points.iter().copied().filter(inside).map(|(x, y)| (x, y.clamp(bounds.start, bounds.end)));
            context.draw_series(LineSeries::new(points.clone(), shade))?;
            if !self.names.is_empty() {
                context.draw_series(points.map(|point| Circle::new(point, 4, colour(line.colour).filled())))?;
            }
        }
        Ok(())
    }
}

fn widen((low, high): (f64, f64), log: bool, part: f64) -> std::ops::Range<f64> {
    if log {
        return low / (1.0 + 2.0 * part)..(high * (1.0 + 2.0 * part)).max(low * 1.01);
    }
    let margin = part * (high - low);
    low..(high + margin).max(low + 1e-9)
}

/// A number as short as it can be on an axis.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 10_000.0 => format!("{}k", (value / 1e3).round()),
        size if size >= 10.0 => format!("{}", value.round()),
        size if size >= 0.01 => format!("{:.2}", value).trim_end_matches('0').trim_end_matches('.').to_owned(),
        _ => format!("{value:.0e}"),
    }
}
