//! What both benchmarks do with their figures: medians with their spread, and tables that are Markdown and readable as
//! they stand.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One value a round.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    pub(super) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            count if count.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        }
    }

    /// The smallest and the largest.
    pub(super) fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN))
    }

    pub(super) fn json(&self) -> Value {
        let (min, max) = self.range();
        json!({ "median": self.median(), "min": min, "max": max, "samples": self.0 })
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Columns as wide as their widest cell, so that the Markdown is readable as it stands.
pub(super) fn table(heading: &[String], lines: &[impl AsRef<[String]>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().map(|line| &line.as_ref()[column]).chain([&heading[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    let mut put = |line: &[String]| {
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            let _ = if column == 0 { write!(text, "| {cell:width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text += "|\n";
    };
    put(heading);
    let dashes = |column: usize| {
        let dashes = "-".repeat(width(column).saturating_sub(1));
        if column == 0 { format!("-{dashes}") } else { format!("{dashes}:") }
    };
    put(&(0..heading.len()).map(dashes).collect::<Vec<_>>());
    lines.iter().for_each(|line| put(line.as_ref()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(Samples(vec![4.0, 1.0]).range(), (1.0, 4.0));
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn the_table_is_aligned_markdown() {
        let cell = |text: &str| text.to_owned();
        let text = table(&[cell("a"), cell("ns")], &[[cell("long"), cell("1.0")]]);
        assert_eq!(text, "| a    |  ns |\n| ---- | --: |\n| long | 1.0 |\n");
    }
}
