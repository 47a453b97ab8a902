//! The few functions of mathematics that policies need, from `libm` and not from the platform: the standard library calls the C
//! library for `exp` and `ln`, whose last bits differ between versions, and a study must come out the same everywhere.

pub use libm::{exp, log as ln};

/// The middle of the values; none of nothing. Sorts.
pub fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    Some(if values.len() % 2 == 1 { values[middle] } else { 0.5 * (values[middle - 1] + values[middle]) })
}

/// The arithmetic mean; none of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}
