//! Charts in a grid with one legend, written as SVG and PNG.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font as register};

use super::chart::{Chart, FONT, colour};

/// Letters of pictures: DejaVu Sans, cut down to what is needed, so that a picture does not depend on a machine's fonts.
static LETTERS: &[u8] = include_bytes!("../../../assets/DejaVuSans-subset.ttf");

const CHART: (u32, u32) = (640, 400);
const LEGEND: u32 = 200;
const HEAD: u32 = 34;

pub(super) struct Figure {
    /// Name of the files, without the ending.
    pub(super) file: String,
    pub(super) title: String,
    pub(super) columns: usize,
    pub(super) charts: Vec<Chart>,
    /// Names of the colours.
    pub(super) legend: Vec<(usize, String)>,
}

/// Once, before anything is drawn.
pub(super) fn register_font() -> anyhow::Result<()> {
    register(FONT, FontStyle::Normal, LETTERS).map_err(|_| anyhow!("the built-in font cannot be read"))
}

impl Figure {
    pub(super) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let rows = self.charts.len().div_ceil(self.columns) as u32;
        let size = (CHART.0 * self.columns as u32 + LEGEND, CHART.1 * rows + HEAD);
        let (svg, png) = (directory.join(format!("{}.svg", self.file)), directory.join(format!("{}.png", self.file)));
        let failed = |path: &Path| format!("cannot draw {}", path.display());
        self.draw(SVGBackend::new(&svg, size).into_drawing_area()).with_context(|| failed(&svg))?;
        self.draw(BitMapBackend::new(&png, size).into_drawing_area()).with_context(|| failed(&png))
    }

    fn draw<B: DrawingBackend>(&self, whole: DrawingArea<B, plotters::coord::Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        whole.fill(&WHITE)?;
        let (head, body) = whole.split_vertically(HEAD);
        head.draw(&Text::new(self.title.clone(), (14, 9), (FONT, 20)))?;
        let (width, _) = body.dim_in_pixel();
        let (charts, legend) = body.split_horizontally(width - LEGEND);
        let rows = self.charts.len().div_ceil(self.columns);
        for (area, chart) in charts.split_evenly((rows, self.columns)).iter().zip(&self.charts) {
            chart.draw(area)?;
        }
        for (row, (index, name)) in self.legend.iter().enumerate() {
            let y = 14 + 20 * row as i32;
            legend.draw(&Rectangle::new([(4, y), (24, y + 4)], colour(*index).filled()))?;
            legend.draw(&Text::new(name.clone(), (30, y - 5), (FONT, 14)))?;
        }
        whole.present()?;
        Ok(())
    }
}
