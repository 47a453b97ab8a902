//! A quantity by occupancy: one value a bucket, and what is done with such rows.

use lb_common::price::{BUCKETS, EDGES};

use super::math::{exp, ln};

pub type Row = [f64; BUCKETS];

/// What follows from the buckets alone, computed once.
#[derive(Debug)]
pub struct Grid {
    /// The occupancy that a bucket stands for: the middle of those in it.
    pub centre: Row,
    /// ln(n + 1), and how much it grows to the next bucket.
    pub logs: Row,
    pub steps: Row,
    /// Where n - 1 lies for the n of each bucket: a bucket and the part of the way to the next.
    below: [(usize, f64); BUCKETS],
}

impl Default for Grid {
    fn default() -> Self {
        Self::new()
    }
}

impl Grid {
    pub fn new() -> Self {
        let edge = |bucket: usize| f64::from(EDGES[bucket]);
        let centre: Row = std::array::from_fn(|bucket| {
            let last = if bucket + 1 < BUCKETS { edge(bucket + 1) - 1.0 } else { (edge(bucket) * 1.33).floor() };
            0.5 * (edge(bucket) + last)
        });
        let logs: Row = centre.map(|n| ln(n + 1.0));
        let steps = std::array::from_fn(|bucket| logs.get(bucket + 1).map_or(0.0, |next| next - logs[bucket]));
        let below = std::array::from_fn(|bucket| {
            let occupancy = (centre[bucket] - 1.0).max(0.0);
            let at = centre.iter().rposition(|other| *other <= occupancy).unwrap_or(0);
            let way = if at + 1 < BUCKETS { (occupancy - centre[at]) / (centre[at + 1] - centre[at]) } else { 0.0 };
            (at, way)
        });
        Self { centre, logs, steps, below }
    }

    /// The row's value at n - 1 for the n of each bucket.
    pub fn one_less(&self, row: &Row) -> Row {
        std::array::from_fn(|bucket| {
            let (at, way) = self.below[bucket];
            let next = row[(at + 1).min(BUCKETS - 1)];
            row[at] + (next - row[at]) * way
        })
    }

    /// The row's values at the lower edges of buckets instead of at their middles; the first sixteen are the same.
    pub fn at_edges(&self, row: &Row) -> Row {
        std::array::from_fn(|bucket| {
            let occupancy = edge_of(bucket);
            if bucket == 0 || self.centre[bucket] <= occupancy {
                return row[bucket];
            }
            let (low, high) = (self.centre[bucket - 1], self.centre[bucket]);
            row[bucket - 1] + (row[bucket] - row[bucket - 1]) * (occupancy - low) / (high - low)
        })
    }
}

fn edge_of(bucket: usize) -> f64 {
    f64::from(EDGES[bucket])
}

/// Weighted isotonic regression (pool adjacent violators): the non-decreasing row that is nearest.
pub fn isotonic(row: &mut Row, weights: &Row) {
    let mut blocks = [(0.0_f64, 0.0_f64, 0_usize); BUCKETS];
    let mut used = 0;
    for (value, weight) in row.iter().zip(weights) {
        blocks[used] = (*value, *weight, 1);
        used += 1;
        while used > 1 && blocks[used - 2].0 > blocks[used - 1].0 {
            let (upper, lower) = (blocks[used - 1], blocks[used - 2]);
            let sum = upper.1 + lower.1;
            blocks[used - 2] = ((lower.0 * lower.1 + upper.0 * upper.1) / sum, sum, lower.2 + upper.2);
            used -= 1;
        }
    }
    let mut at = 0;
    for (value, _, count) in &blocks[..used] {
        row[at..at + count].fill(*value);
        at += count;
    }
}

/// Makes the row non-decreasing by raising what falls.
pub fn raise(row: &mut Row) {
    for bucket in 1..BUCKETS {
        row[bucket] = row[bucket].max(row[bucket - 1]);
    }
}

pub fn exp_row(row: &Row) -> Row {
    row.map(exp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn isotonic_rises_and_keeps_the_weighted_mean(
            values in prop::collection::vec(-5.0..5.0_f64, BUCKETS),
            weights in prop::collection::vec(0.01..100.0_f64, BUCKETS),
        ) {
            let mut row: Row = values.clone().try_into().unwrap();
            let weights: Row = weights.try_into().unwrap();
            isotonic(&mut row, &weights);
            prop_assert!(row.windows(2).all(|pair| pair[0] <= pair[1]));
            let mean = |row: &[f64]| row.iter().zip(&weights).map(|(value, weight)| value * weight).sum::<f64>();
            prop_assert!((mean(&row) - mean(&values)).abs() < 1e-6 * weights.iter().sum::<f64>());
        }

        #[test]
        fn isotonic_leaves_alone_what_rises(start in -5.0..5.0_f64, steps in prop::collection::vec(0.0..1.0_f64, BUCKETS)) {
            let mut value = start;
            let rising: Row = std::array::from_fn(|bucket| { value += steps[bucket]; value });
            let mut row = rising;
            isotonic(&mut row, &[1.0; BUCKETS]);
            prop_assert_eq!(row, rising);
        }
    }

    #[test]
    fn one_less_of_a_line_is_the_line_moved() {
        let grid = Grid::new();
        let line = grid.centre;
        for (bucket, value) in grid.one_less(&line).into_iter().enumerate() {
            assert!((value - (grid.centre[bucket] - 1.0).max(0.0)).abs() < 1e-9, "bucket {bucket}: {value}");
        }
        for (bucket, value) in grid.at_edges(&line).into_iter().enumerate() {
            assert!((value - edge_of(bucket)).abs() < 1e-9, "bucket {bucket}: {value}");
        }
    }
}
