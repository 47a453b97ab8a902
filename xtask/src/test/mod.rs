//! `cargo xtask test`: everything that checks this project, in order of cost, and how many tests of each kind ran. What
//! a runner says of itself is counted, not believed: one that ends without its summary has failed.

mod leftovers;
mod libtest;
mod runner;
mod steps;
mod table;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, ensure};
use lb_tests::lab::Lab;

use self::leftovers::Leftovers;
use self::libtest::Tally;
use self::steps::{Kind, Step, Work};
use self::table::{Counts, Row};
use crate::cargo::cargo;
use crate::interrupt::Interrupt;
use crate::out::say;

/// Run all tests and say how many of each kind there were
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test
  cargo xtask test --only format --only lint
  cargo xtask test --list")]
pub(crate) struct TestArgs {
    /// Run only this kind; may be given more than once
    #[arg(long, value_enum, value_name = "KIND")]
    only: Vec<Kind>,

    /// Say what would run, and run nothing
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let before = Leftovers::look();
    let mut steps = steps::all()?;
    steps.retain(|step| args.only.is_empty() || args.only.contains(&step.kind));
    if args.list {
        for step in &steps {
            say(&format!("{:<9} {}", step.kind.name(), step.name))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let interrupt = Interrupt::watch()?;
    let mut rows = Vec::new();
    for step in steps {
        rows.push(perform(step, &interrupt)?);
    }
    rows.push(perform(leftovers_step(before), &interrupt)?);
    say(&format!("\n{}\n", table::render(&rows)))?;
    let total: Counts = rows.iter().map(|row| row.counts).sum();
    say(&total.to_string())?;
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Nothing may be there afterwards that was not there before.
fn leftovers_step(before: Leftovers) -> Step {
    Step::call(Kind::Clean, "nothing is left behind", move || {
        let found = Leftovers::look().since(&before);
        // Found is found; but the next run shall start clean.
        Lab::sweep_leftovers()?;
        ensure!(found.is_empty(), "left behind: {found:?}");
        Ok(())
    })
}

fn perform(step: Step, interrupt: &Interrupt) -> Result<Row> {
    interrupt.check()?;
    let Step { kind, name, work } = step;
    say(&format!("\n{}: {name}", kind.name()))?;
    let start = Instant::now();
    let counts = match work {
        Work::Call(call) => outcome(call().map_err(|error| format!("{error:#}")))?,
        Work::Skip(reason) => {
            say(&format!("  skipped: {reason}"))?;
            Counts { skipped: 1, ..Counts::default() }
        }
        Work::Check(command) => {
            let ended = runner::run(command, interrupt, |_| Ok(()))?;
            outcome(if ended.success() { Ok(()) } else { Err(ended.output()) })?
        }
        Work::Tests { tests, in_lab } => test(tests, in_lab, interrupt)?,
    };
    let seconds = start.elapsed().as_secs_f64();
    say(&format!("  {counts} in {seconds:.1} s"))?;
    Ok(Row { kind: kind.name(), name, counts, seconds })
}

/// A check that is no test counts as one.
fn outcome(result: Result<(), String>) -> Result<Counts> {
    Ok(match result {
        Ok(()) => Counts { passed: 1, ..Counts::default() },
        Err(reason) => {
            say(&reason)?;
            Counts { failed: 1, ..Counts::default() }
        }
    })
}

fn test(tests: Command, in_lab: bool, interrupt: &Interrupt) -> Result<Counts> {
    if in_lab {
        // Cargo does not build it for another package's tests.
        let build = runner::run(cargo(["build", "--package", "lb-agent"]), interrupt, |_| Ok(()))?;
        if !build.success() {
            return outcome(Err(build.output()));
        }
    }
    let mut tally = Tally::default();
    let ended = runner::run(tests, interrupt, |line| {
        tally.read(line);
        if in_lab && libtest::is_result(line) { say(&format!("  {line}")) } else { Ok(()) }
    })?;
    let (counts, complaint) = tally.judge(ended.success());
    if counts.failed > 0 {
        say(&libtest::without_successes(&ended.output()))?;
    }
    if let Some(complaint) = complaint {
        say(&format!("  {complaint}"))?;
    }
    Ok(counts)
}
