//! `lb-agent simulate`: what is asked for, progress on a terminal, and where results go.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::play::Contender;
use super::study::Study;
use super::{pictures, report};
use crate::config;
use crate::model::scenario::Scenario;
use crate::policy::PolicyKind;

/// The contract's code for usage errors and files that are not valid.
const EXIT_INVALID: u8 = 2;
const MOST_BACKENDS: u64 = 4_096;
const MOST_SEEDS: u64 = 10_000;

/// Compare policies on scenarios, in virtual time and from seeds
///
/// Every contender plays the same arrivals, the same work and the same failures; the oracle, which sees every queue and speed, is
/// the bound. The same command gives the same result on every machine. Latencies are milliseconds; a failed request counts as
/// at least a second. The first five seconds are not counted.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  lb-agent simulate tests/scenarios/slow4x.yaml
  lb-agent simulate tests/scenarios/*.yaml --policies all --seeds 5 --backends 3,8,64
  lb-agent simulate tests/scenarios/die.yaml --policies q-learning,p2c --out results

Exit codes: 0 done; 1 failed; 2 usage, or a scenario that is not valid.")]
pub struct SimulateArgs {
    /// Scenario files
    #[arg(value_name = "SCENARIO", required = true, num_args = 1..)]
    pub scenarios: Vec<PathBuf>,
    /// Policies to compare, or `all`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "all", value_parser = parse_policies)]
    pub policies: Vec<Policies>,
    /// Seeds of each scenario, from 1 on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MOST_SEEDS))]
    pub seeds: u64,
    /// Sizes of the pool
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "8")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=MOST_BACKENDS))]
    pub backends: Vec<u64>,
    /// Threads to use [default: one a processor]; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    pub threads: Option<u64>,
    /// Write results as JSON, CSV and Markdown into this directory, and pictures of seed 1 as SVG and PNG
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print JSON; the same as `-o json`
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// Exact, every run
    Json,
    /// Exact, a row a run
    Csv,
    /// The tables, for documents
    Markdown,
}

/// One name of `--policies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    All,
    One(PolicyKind),
}

fn parse_policies(text: &str) -> Result<Policies, String> {
    if text == "all" { Ok(Policies::All) } else { text.parse().map(Policies::One) }
}

impl SimulateArgs {
    fn contenders(&self) -> Vec<Contender> {
        let mut kinds = Vec::new();
        for policies in &self.policies {
            let named = match policies {
                Policies::All => PolicyKind::ALL,
                Policies::One(kind) => std::slice::from_ref(kind),
            };
            let new: Vec<_> = named.iter().copied().filter(|kind| !kinds.contains(kind)).collect();
            kinds.extend(new);
        }
        kinds.into_iter().map(Contender::Policy).collect()
    }
}

/// Plays everything that is asked for, and prints what came of it.
pub fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let Some(scenarios) = load(&args.scenarios) else {
        return Ok(ExitCode::from(EXIT_INVALID));
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut backends: Vec<usize> = args.backends.iter().map(|count| *count as usize).collect();
    backends.dedup();
    let study = Study {
        scenarios,
        contenders: args.contenders(),
        backends,
        seeds: args.seeds,
        threads: args.threads.map_or(processors, |threads| threads as usize),
    };
    let progress = progress_bar(study.runs(), "{bar:20} {pos}/{len} runs, {eta} left")?;
    let outcomes = study.run(&|_| progress.inc(1));
    progress.finish_and_clear();
    let shown = match if args.json { Output::Json } else { args.output } {
        Output::Table => report::text(&study, &outcomes),
        Output::Json => report::json(&study, &outcomes)?,
        Output::Csv => report::csv(&study, &outcomes),
        Output::Markdown => report::markdown(&study, &outcomes),
    };
    if let Some(directory) = &args.out {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        write(directory, "results.json", &report::json(&study, &outcomes)?)?;
        write(directory, "results.csv", &report::csv(&study, &outcomes))?;
        write(directory, "results.md", &report::markdown(&study, &outcomes))?;
        let progress = progress_bar(pictures::count(&study), "{bar:20} {pos}/{len} pictures")?;
        pictures::draw(&study, &outcomes, directory, &|| progress.inc(1))?;
        progress.finish_and_clear();
    }
    match std::io::stdout().lock().write_all(shown.as_bytes()) {
        // Whoever reads, `head` for example, has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        result => result.context("cannot write the output")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// All scenarios, or every mistake in them on stderr.
fn load(files: &[PathBuf]) -> Option<Vec<Scenario>> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut valid = true;
    for file in files {
        match config::load_scenario(file) {
            Ok(scenario) if scenarios.iter().any(|other| other.name == scenario.name) => {
                let name = &scenario.name;
                anstream::eprintln!(
                    "error: {}: a scenario `{name}` is given twice: rename one of them",
                    file.display()
                );
                valid = false;
            }
            Ok(scenario) => scenarios.push(scenario),
            Err(errors) => {
                anstream::eprintln!("{errors}");
                valid = false;
            }
        }
    }
    valid.then_some(scenarios)
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A line on stderr that renews itself; nothing at all where that is not a terminal.
fn progress_bar(length: u64, template: &str) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template(template).context("the progress bar's template")?;
    Ok(ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()).with_style(style))
}
