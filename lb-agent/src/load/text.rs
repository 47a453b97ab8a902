//! The report for people: a few lines, two tables, and a remark where a figure needs one.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::report::{Latency, Report, Snapshot};

/// Rows of the backend table; the JSON has them all.
const MAX_BACKEND_ROWS: usize = 20;
/// The generator's own delay is worth a remark from this share of the latency on.
const LAG_SHARE: f64 = 0.5;

pub(super) fn summary(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_summary(&mut text, report);
    text
}

fn write_summary(out: &mut String, report: &Report) -> std::fmt::Result {
    let kind = if report.new_connections { "one per request" } else { "kept alive" };
    writeln!(out, "{}", report.url)?;
    writeln!(
        out,
        "{} requests in {:.1} s, {:.1} of {} per second, up to {} connections, {kind}",
        report.requests, report.elapsed_seconds, report.requests_per_second, report.target_rate, report.connections
    )?;
    if report.interrupted {
        writeln!(out, "stopped early; {} requests were not finished and are not counted", report.unfinished)?;
    }
    writeln!(out, "\n{}", figures(report))?;
    if report.errors > 0 {
        let kinds: Vec<String> = report
            .errors_by_kind
            .entries()
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        writeln!(out, "\nerrors: {} ({})", report.errors, kinds.join(", "))?;
        if let Some(example) = &report.error_example {
            writeln!(out, "        other, for example: {example}")?;
        }
    }
    if !report.backends.is_empty() {
        writeln!(out, "\n{}", backends(report))?;
        if report.backends.len() > MAX_BACKEND_ROWS {
            let hidden = report.backends.len() - MAX_BACKEND_ROWS;
            writeln!(out, "and {hidden} more; --json lists all")?;
        }
    }
    if let (Some(latency), Some(lag)) = (&report.latency, &report.generator_lag)
        && lag.p99_ms > latency.p99_ms * LAG_SHARE
    {
        writeln!(
            out,
            "\nnote: the generator itself was up to {} ms late (p99), which is part of the latency above;\n\
             \x20     give it more CPU or a lower rate for figures of the server alone",
            lag.p99_ms
        )?;
    }
    Ok(())
}

fn figures(report: &Report) -> String {
    let mut table = plain_table();
    table.set_header(["", "req/s", "success", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"]);
    let success = report.success_percent.map_or_else(|| "-".to_owned(), percent);
    let rate = format!("{:.1}", report.requests_per_second);
    table.add_row(row("latency (ms)", &rate, &success, report.latency.as_ref()));
    table.add_row(row("since sent (ms)", "", "", report.service_time.as_ref()));
    finish(table)
}

fn row(name: &str, rate: &str, success: &str, latency: Option<&Latency>) -> Vec<String> {
    let mut cells = vec![name.to_owned(), rate.to_owned(), success.to_owned()];
    match latency {
        Some(l) => cells.extend(
            [l.mean_ms, l.p50_ms, l.p90_ms, l.p95_ms, l.p99_ms, l.p999_ms, l.max_ms].map(|ms| format!("{ms:.2}")),
        ),
        None => cells.extend(std::iter::repeat_n("-".to_owned(), 7)),
    }
    cells
}

fn backends(report: &Report) -> String {
    let mut table = plain_table();
    table.set_header(["backend", "requests", "share", "success", "p50", "p95", "p99"]);
    for backend in report.backends.iter().take(MAX_BACKEND_ROWS) {
        let success = backend.ok as f64 / backend.requests.max(1) as f64 * 100.0;
        table.add_row([
            backend.name.clone(),
            backend.requests.to_string(),
            percent(backend.share_percent),
            percent(success),
            optional(backend.p50_ms),
            optional(backend.p95_ms),
            optional(backend.p99_ms),
        ]);
    }
    finish(table)
}

/// One line about a run that goes on.
pub(super) fn progress_line(snapshot: &Snapshot) -> String {
    let success = match snapshot.requests {
        0 => "-".to_owned(),
        requests => percent(snapshot.ok as f64 / requests as f64 * 100.0),
    };
    format!(
        "{:.0} s  {:.0} req/s  success {success}  p50 {} ms  p99 {} ms  in flight {}  waiting {}",
        snapshot.elapsed_seconds,
        snapshot.requests_per_second,
        optional(snapshot.p50_ms),
        optional(snapshot.p99_ms),
        snapshot.in_flight,
        snapshot.queued
    )
}

/// Two decimals, but never a round 100 or 0 that is not exact.
fn percent(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    match rounded {
        100.0 if value < 100.0 => ">99.99%".to_owned(),
        0.0 if value > 0.0 => "<0.01%".to_owned(),
        _ => format!("{rounded}%"),
    }
}

fn optional(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"))
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// Names to the left, figures to the right.
fn finish(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        let alignment = if column.index == 0 { CellAlignment::Left } else { CellAlignment::Right };
        column.set_cell_alignment(alignment);
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
