//! The figures of the demo, phase by phase, as a table.

use comfy_table::{CellAlignment, Table, presets};
use lb_agent::load::Report;

use super::screen::millis;

/// What happened, and the generator's report of it.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) report: Report,
}

/// One row for each phase; the last columns are the backends' shares of its answers.
pub(super) fn table(phases: &[Phase], backends: &[&str]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let figures = ["requests", "req/s", "failed", "success", "p50", "p95", "p99", "p99.9"];
    table.set_header(std::iter::once("  phase").chain(figures).chain(backends.iter().copied()));
    for Phase { name, report } in phases {
        let latency = report.latency.as_ref();
        let mut row = vec![
            format!("  {name}"),
            report.requests.to_string(),
            format!("{:.0}", report.requests_per_second),
            report.errors.to_string(),
            success(report),
        ];
        row.extend(
            [
                latency.map(|l| l.p50_ms),
                latency.map(|l| l.p95_ms),
                latency.map(|l| l.p99_ms),
                latency.map(|l| l.p999_ms),
            ]
            .map(millis),
        );
        row.extend(backends.iter().map(|backend| share(report, backend)));
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        let alignment = if column.index == 0 { CellAlignment::Left } else { CellAlignment::Right };
        column.set_cell_alignment(alignment);
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// All requests of the phases.
pub(super) fn requests(phases: &[Phase]) -> u64 {
    phases.iter().map(|phase| phase.report.requests).sum()
}

/// `173 refused, 2 reset`.
pub(super) fn kinds(report: &Report) -> String {
    let entries = report.errors_by_kind.entries();
    let kinds: Vec<_> =
        entries.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    if kinds.is_empty() { "none".into() } else { kinds.join(", ") }
}

/// Cut, not rounded: what is not all is never shown as 100 %.
fn success(report: &Report) -> String {
    let Some(percent) = report.success_percent else { return "-".to_owned() };
    if report.errors == 0 { "100%".to_owned() } else { format!("{:.2}%", (percent * 100.0).floor() / 100.0) }
}

fn share(report: &Report, backend: &str) -> String {
    match report.backends.iter().find(|one| one.name == backend) {
        Some(one) => format!("{:.1}%", one.share_percent),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ok: u64, refused: u64) -> Report {
        let json = serde_json::json!({
            "url": "http://10.77.0.100:80/", "target_rate": 400.0, "arrivals": "constant", "seed": 1, "connections": 64,
            "new_connections": true, "timeout_ms": 2000, "started_at_unix_ms": 0, "elapsed_seconds": 1.0,
            "interrupted": false, "requests": ok + refused, "ok": ok, "errors": refused, "unfinished": 0,
            "success_percent": ok as f64 / (ok + refused) as f64 * 100.0, "requests_per_second": ok as f64,
            "body_bytes": 0, "connections_opened": ok,
            "latency": { "mean_ms": 1.0, "p50_ms": 1.0, "p90_ms": 2.0, "p95_ms": 3.0, "p99_ms": 4.0, "p999_ms": 5.55,
                         "max_ms": 6.0 },
            "service_time": null, "generator_lag": null,
            "errors_by_kind": { "refused": refused, "reset": 0, "timeout": 0, "status_5xx": 0, "queue_full": 0,
                                "other": 0 },
            "error_example": null, "statuses": { "200": ok },
            "backends": [{ "name": "b1", "requests": ok, "ok": ok, "errors": 0, "share_percent": 100.0, "p50_ms": 1.0,
                           "p95_ms": 1.0, "p99_ms": 1.0 }],
            "timeline": [], "distribution": []
        });
        serde_json::from_value(json).expect("a report")
    }

    #[test]
    fn a_row_says_it_all_and_never_rounds_up_to_success() {
        let phases = [
            Phase { name: "all".into(), report: report(400, 0) },
            Phase { name: "b2 killed".into(), report: report(99_999, 1) },
        ];
        let expected = "\
\x20 phase      requests  req/s  failed  success  p50  p95  p99  p99.9      b1  b2
  all             400    400       0     100%  1.0  3.0  4.0    5.5  100.0%   -
  b2 killed    100000  99999       1   99.99%  1.0  3.0  4.0    5.5  100.0%   -";
        assert_eq!(table(&phases, &["b1", "b2"]), expected);
        assert_eq!(requests(&phases), 100_400);
        assert_eq!(kinds(&phases[1].report), "1 refused");
        assert_eq!(kinds(&phases[0].report), "none");
    }
}
