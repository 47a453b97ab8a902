//! The table at the end, and the counts in it.

use std::fmt::{self, Display, Formatter};

use comfy_table::{CellAlignment, Table, presets};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |total, one| Self {
            passed: total.passed + one.passed,
            failed: total.failed + one.failed,
            skipped: total.skipped + one.skipped,
        })
    }
}

/// Scripts read this line.
impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) counts: Counts,
    pub(super) seconds: f64,
}

pub(super) fn render(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["kind", "what", "run", "passed", "failed", "skipped", "seconds"]);
    for Row { kind, name, counts, seconds } in rows {
        let Counts { passed, failed, skipped } = counts;
        table.add_row([
            (*kind).to_owned(),
            name.clone(),
            (passed + failed).to_string(),
            passed.to_string(),
            failed.to_string(),
            skipped.to_string(),
            format!("{seconds:.1}"),
        ]);
    }
    for column in table.column_iter_mut() {
        let alignment = if column.index < 2 { CellAlignment::Left } else { CellAlignment::Right };
        column.set_cell_alignment(alignment);
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let rows = [
            Row {
                kind: "unit",
                name: "agent".into(),
                counts: Counts { passed: 20, failed: 1, skipped: 2 },
                seconds: 1.26,
            },
            Row { kind: "e2e", name: "lab".into(), counts: Counts { passed: 3, ..Counts::default() }, seconds: 61.0 },
        ];
        let expected = "\
kind  what   run  passed  failed  skipped  seconds
unit  agent   21      20       1        2      1.3
e2e   lab      3       3       0        0     61.0";
        assert_eq!(render(&rows), expected);
        let total: Counts = rows.iter().map(|row| row.counts).sum();
        assert_eq!(total.to_string(), "23 passed, 1 failed, 2 skipped");
    }
}
