//! The figures of a study as tables: for people, for documents, and exact for programs.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use super::play::Contender;
use super::record::Summary;
use super::study::{Outcome, Study};
use crate::policy::math::{exp, ln, mean};

/// Columns of every run in CSV.
const CSV_HEAD: &str = "scenario,backends,seed,policy,requests,mean_ms,p50_ms,p95_ms,p99_ms,p99.9_ms,failed,\
                        throughput,convergence_s,oscillation,regret_ms,p99_times_oracle";
const FIGURES: &[&str] = &["p50", "p95", "p99", "p99.9", "failed", "regret", "p99/oracle"];

/// The runs of one contender in one scenario and size, over all seeds.
struct Average {
    contender: Contender,
    summary: Summary,
    regret: f64,
    /// Geometric mean.
    times_oracle: f64,
}

fn contenders(study: &Study) -> impl Iterator<Item = Contender> {
    std::iter::once(Contender::Oracle).chain(study.contenders.iter().copied())
}

fn averages(study: &Study, outcomes: &[Outcome], scenario: usize, backends: usize) -> Vec<Average> {
    contenders(study).map(|contender| average(outcomes, scenario, backends, contender)).collect()
}

fn average(outcomes: &[Outcome], scenario: usize, backends: usize, contender: Contender) -> Average {
    let runs = || {
        outcomes.iter().filter(move |outcome| {
            (outcome.scenario, outcome.backends, outcome.contender) == (scenario, backends, contender)
        })
    };
    let of = |figure: fn(&Outcome) -> f64| mean(runs().map(figure)).unwrap_or(f64::NAN);
    Average {
        contender,
        summary: Summary {
            requests: of(|run| run.summary.requests as f64) as u64,
            mean: of(|run| run.summary.mean),
            p50: of(|run| run.summary.p50),
            p95: of(|run| run.summary.p95),
            p99: of(|run| run.summary.p99),
            p999: of(|run| run.summary.p999),
            failed: of(|run| run.summary.failed),
            throughput: of(|run| run.summary.throughput),
            convergence: of(|run| run.summary.convergence),
            oscillation: of(|run| run.summary.oscillation),
        },
        regret: of(|run| run.regret),
        times_oracle: exp(of(|run| ln(run.times_oracle))),
    }
}

/// Heads and rows of text.
struct Sheet {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One sheet for each size of pool and scenario, and one of the whole for each size.
fn sheets(study: &Study, outcomes: &[Outcome]) -> Vec<Sheet> {
    let mut sheets = Vec::new();
    for &backends in &study.backends {
        for (index, scenario) in study.scenarios.iter().enumerate() {
            let mut head = vec!["policy".to_owned()];
            head.extend(FIGURES.iter().map(|name| (*name).to_owned()));
            let rows = averages(study, outcomes, index, backends).into_iter().map(row).collect();
            sheets.push(Sheet { title: format!("{}, {backends} backends", scenario.name), head, rows });
        }
        sheets.push(overview(study, outcomes, backends));
    }
    sheets
}

fn row(average: Average) -> Vec<String> {
    let Average { contender, summary, regret, times_oracle } = average;
    let failed = if summary.failed == 0.0 { "-".to_owned() } else { format!("{:.3}%", summary.failed * 100.0) };
    vec![
        contender.to_string(),
        millis(summary.p50),
        millis(summary.p95),
        millis(summary.p99),
        millis(summary.p999),
        failed,
        millis(regret),
        format!("{times_oracle:.2}"),
    ]
}

fn millis(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// p99 of every policy in every scenario, and its geometric mean against the oracle.
fn overview(study: &Study, outcomes: &[Outcome], backends: usize) -> Sheet {
    let mut head = vec!["policy".to_owned()];
    head.extend(study.scenarios.iter().map(|scenario| scenario.name.clone()));
    head.push("p99/oracle".to_owned());
    let rows = contenders(study).map(|contender| {
        let runs: Vec<_> =
            (0..study.scenarios.len()).map(|index| average(outcomes, index, backends, contender)).collect();
        let mut row = vec![contender.to_string()];
        row.extend(runs.iter().map(|average| millis(average.summary.p99)));
        let whole = exp(mean(runs.iter().map(|average| ln(average.times_oracle))).unwrap_or(f64::NAN));
        row.push(format!("{whole:.3}"));
        row
    });
    Sheet { title: format!("p99 in ms, {backends} backends"), head, rows: rows.collect() }
}

/// For a terminal.
pub(super) fn text(study: &Study, outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    for sheet in sheets(study, outcomes) {
        let mut table = Table::new();
        table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
        table.set_header(cells(&sheet.head));
        table.add_rows(sheet.rows.iter().map(|row| cells(row)));
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        }
        out += &format!("{}\n{}\n\n", sheet.title, table.trim_fmt());
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

fn cells(row: &[String]) -> Vec<Cell> {
    let align = |index| if index == 0 { CellAlignment::Left } else { CellAlignment::Right };
    row.iter().enumerate().map(|(index, text)| Cell::new(text).set_alignment(align(index))).collect()
}

pub(super) fn markdown(study: &Study, outcomes: &[Outcome]) -> String {
    let line = |row: &[String]| format!("| {} |\n", row.join(" | "));
    let mut out = format!(
        "Milliseconds, means over {} seeds; regret is mean latency above the oracle's; p99/oracle is a geometric mean.\n",
        study.seeds
    );
    for sheet in sheets(study, outcomes) {
        let rule: Vec<String> =
            (0..sheet.head.len()).map(|index| if index == 0 { "---" } else { "---:" }.to_owned()).collect();
        out += &format!("\n## {}\n\n{}{}", sheet.title, line(&sheet.head), line(&rule));
        out.extend(sheet.rows.iter().map(|row| line(row)));
    }
    out
}

/// One row a run, exact.
pub(super) fn csv(study: &Study, outcomes: &[Outcome]) -> String {
    let mut out = format!("{CSV_HEAD}\r\n");
    for Outcome { scenario, backends, seed, contender, summary, regret, times_oracle } in outcomes {
        let name = &study.scenarios[*scenario].name;
        let Summary { requests, mean, p50, p95, p99, p999, failed, throughput, convergence, oscillation } = summary;
        out += &format!(
            "{name},{backends},{seed},{contender},{requests},{mean},{p50},{p95},{p99},{p999},{failed},{throughput},\
             {convergence},{oscillation},{regret},{times_oracle}\r\n"
        );
    }
    out
}

#[derive(Serialize)]
struct JsonRun<'a> {
    scenario: &'a str,
    backends: usize,
    seed: u64,
    policy: String,
    #[serde(flatten)]
    summary: Summary,
    regret: f64,
    times_oracle: f64,
}

/// Every run, exact; latencies in milliseconds.
pub(super) fn json(study: &Study, outcomes: &[Outcome]) -> anyhow::Result<String> {
    let runs: Vec<_> = outcomes
        .iter()
        .map(|outcome| JsonRun {
            scenario: &study.scenarios[outcome.scenario].name,
            backends: outcome.backends,
            seed: outcome.seed,
            policy: outcome.contender.to_string(),
            summary: outcome.summary,
            regret: outcome.regret,
            times_oracle: outcome.times_oracle,
        })
        .collect();
    Ok(serde_json::to_string_pretty(&serde_json::json!({ "runs": runs }))? + "\n")
}
