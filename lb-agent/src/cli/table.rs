//! Rows as a table for people or as CSV for programs, from one list of columns: so that both always agree.
//! CSV is RFC 4180, with its line ends; control characters are escaped, so that a row is always one line.

use std::io::IsTerminal as _;

use anstream::{AutoStream, ColorChoice};
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table};

use super::text;

/// Narrower than this there is no room for addresses and reasons beside the figures.
const NARROW_BELOW: u16 = 110;
/// What a last column of text needs to be readable.
const LAST_COLUMN_AT_LEAST: u16 = 16;
const GAP: u16 = 2;

/// What the output goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Columns of the terminal; none: a file or a pipe, where nothing is wrapped.
    pub(super) width: Option<u16>,
    pub(super) colour: bool,
}

impl Look {
    pub(super) fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let width = if stdout.is_terminal() { Table::new().width().filter(|width| *width > 0) } else { None };
        Self { width, colour: AutoStream::choice(&stdout) != ColorChoice::Never }
    }

    pub(super) fn is_narrow(self) -> bool {
        self.width.is_some_and(|width| width < NARROW_BELOW)
    }

    /// An empty table that obeys this look.
    pub(super) fn table(self) -> Table {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        match self.width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        if self.colour {
            table.enforce_styling()
        } else {
            table.force_no_tty()
        };
        table
    }
}

/// One cell, exact. How it looks follows from what it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// A life-cycle state or a verdict; coloured.
    State(String),
    Flag(bool),
    Count(u64),
    Rate(f64),
    Share(f64),
    Millis(Option<f64>),
    Age(f64),
}

impl Value {
    /// Rounded, for people.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) | Self::State(text) => text::sanitise(text),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Count(count) => text::count(*count),
            Self::Rate(rate) => text::rate(*rate),
            Self::Share(share) => text::share(*share),
            Self::Millis(millis) => millis.map_or_else(|| "-".to_owned(), text::millis),
            Self::Age(seconds) => text::age(*seconds),
        }
    }

    /// Exact, for programs; empty where there is no number.
    fn raw(&self) -> String {
        match self {
            Self::Text(text) | Self::State(text) => text::sanitise(text),
            Self::Flag(flag) => flag.to_string(),
            Self::Count(count) => count.to_string(),
            Self::Rate(number) | Self::Share(number) | Self::Age(number) | Self::Millis(Some(number)) => {
                if number.is_finite() { number.to_string() } else { String::new() }
            }
            Self::Millis(None) => String::new(),
        }
    }

    fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::State(_) | Self::Flag(_))
    }

    fn colour(&self) -> Option<Color> {
        let Self::State(state) = self else { return None };
        state_colour(state)
    }

    pub(super) fn cell(&self) -> Cell {
        let alignment = if self.is_number() { CellAlignment::Right } else { CellAlignment::Left };
        let cell = Cell::new(self.shown()).set_alignment(alignment);
        match self.colour() {
            Some(colour) => cell.fg(colour),
            None => cell,
        }
    }
}

fn state_colour(state: &str) -> Option<Color> {
    match state {
        "up" | "running" | "forward" | "established" => Some(Color::Green),
        "down" | "error" | "drop" => Some(Color::Red),
        "checking" | "unresolved" | "draining" | "starting" | "stopping" => Some(Color::Yellow),
        "disabled" | "stopped" => Some(Color::DarkGrey),
        _ => None,
    }
}

/// One column of rows of type `R`.
pub(super) struct Column<R> {
    /// The head in CSV; the same name as in JSON.
    pub(super) key: &'static str,
    /// The head in tables; none: only in CSV.
    pub(super) title: Option<&'static str>,
    pub(super) value: fn(&R) -> Value,
}

impl<R> Column<R> {
    pub(super) const fn new(key: &'static str, title: &'static str, value: fn(&R) -> Value) -> Self {
        Self { key, title: Some(title), value }
    }

    pub(super) const fn exact(key: &'static str, value: fn(&R) -> Value) -> Self {
        Self { key, title: None, value }
    }
}

/// A table of the columns that have a title and are not left out; ends with a line end.
pub(super) fn table<R>(columns: &[Column<R>], without: &[&str], rows: &[R], look: Look) -> String {
    let shown: Vec<_> =
        columns.iter().filter(|column| column.title.is_some() && !without.contains(&column.key)).collect();
    let mut table = look.table();
    table.set_header(shown.iter().map(|column| {
        let right = rows.first().is_some_and(|row| (column.value)(row).is_number());
        Cell::new(column.title.unwrap_or_default()).add_attribute(Attribute::Bold).set_alignment(if right {
            CellAlignment::Right
        } else {
            CellAlignment::Left
        })
    }));
    table.add_rows(rows.iter().map(|row| shown.iter().map(|column| (column.value)(row).cell()).collect::<Vec<_>>()));
    finish(&mut table)
}

/// A column of names and a column of what they have, without heads.
pub(super) fn pairs<N: AsRef<str>>(rows: &[(N, Value)], look: Look) -> String {
    let mut table = look.table();
    table.add_rows(rows.iter().map(|(name, value)| {
        vec![Cell::new(name.as_ref()).add_attribute(Attribute::Bold), value.cell().set_alignment(CellAlignment::Left)]
    }));
    finish(&mut table)
}

fn finish(table: &mut Table) -> String {
    let widths = table.column_max_content_widths();
    let last = widths.len().saturating_sub(1);
    // The last column gives way first: names and figures are not broken for the sake of a sentence.
    let others = widths[..last].iter().fold(0_u16, |sum, width| sum.saturating_add(*width).saturating_add(GAP));
    let fits = table.width().is_some_and(|width| others.saturating_add(LAST_COLUMN_AT_LEAST) <= width);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { GAP }));
        if fits && index != last {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt() + "\n"
}

/// All columns, exact.
pub(super) fn csv<R>(columns: &[Column<R>], rows: &[R]) -> String {
    let mut out = csv_line(columns.iter().map(|column| column.key.to_owned()));
    for row in rows {
        out.push_str(&csv_line(columns.iter().map(|column| (column.value)(row).raw())));
    }
    out
}

fn csv_line(fields: impl Iterator<Item = String>) -> String {
    fields.map(|field| csv_field(&field)).collect::<Vec<_>>().join(",") + "\r\n"
}

fn csv_field(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) || field.starts_with(' ') || field.ends_with(' ') {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A reader of RFC 4180 that knows nothing of the writer.
    fn read_csv(text: &str) -> Vec<Vec<String>> {
        let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
        let (mut quoted, mut chars) = (false, text.chars().peekable());
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => record.push(std::mem::take(&mut field)),
                '\r' if !quoted => {
                    assert_eq!(chars.next(), Some('\n'));
                    record.push(std::mem::take(&mut field));
                    records.push(std::mem::take(&mut record));
                }
                c => field.push(c),
            }
        }
        assert!(!quoted && field.is_empty() && record.is_empty(), "ends with a line end");
        records
    }

    proptest! {
        #[test]
        fn csv_reads_back(rows in prop::collection::vec(("(?s).{0,12}", any::<u64>(), any::<f64>()), 0..6)) {
            type Row = (String, u64, f64);
            let columns: [Column<Row>; 3] = [
                Column::new("name", "NAME", |row| Value::Text(row.0.clone())),
                Column::exact("count", |row| Value::Count(row.1)),
                Column::new("rate", "RATE", |row| Value::Rate(row.2)),
            ];
            let records = read_csv(&csv(&columns, &rows));
            prop_assert_eq!(records.len(), rows.len() + 1);
            for (record, row) in records[1..].iter().zip(&rows) {
                prop_assert_eq!(&record[0], &text::sanitise(&row.0));
                prop_assert_eq!(record[1].parse(), Ok(row.1));
                let rate_reads_back =
                    if row.2.is_finite() { record[2].parse() == Ok(row.2) } else { record[2].is_empty() };
                prop_assert!(rate_reads_back, "{} as {}", row.2, record[2]);
            }
        }

        #[test]
        fn a_table_keeps_to_its_width(
            names in prop::collection::vec("[a-z:\\[\\]\u{1b}\u{4e2d}]{0,60}", 1..5),
            width in 40u16..140,
        ) {
            let columns: [Column<String>; 2] = [
                Column::new("name", "NAME", |name| Value::Text(name.clone())),
                Column::new("length", "LENGTH", |name| Value::Count(name.len() as u64)),
            ];
            for line in table(&columns, &[], &names, Look { width: Some(width), colour: false }).lines() {
                let cells: usize = line.chars().map(|c| if c == '\u{4e2d}' { 2 } else { 1 }).sum();
                prop_assert!(cells <= usize::from(width), "{line:?}");
                prop_assert!(!line.contains('\u{1b}'), "an escape");
            }
        }
    }
}
