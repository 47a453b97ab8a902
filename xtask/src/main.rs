//! The project's own tasks, one module each: `cargo xtask demo`, `cargo xtask test`. The scripts in `scripts/` only
//! prepare the machine and call these.

mod bench;
mod cargo;
mod demo;
mod interrupt;
mod out;
mod test;
mod tidy;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own tasks
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Bench(bench::BenchArgs),
    Demo(demo::DemoArgs),
    Test(test::TestArgs),
    /// Hold every file against the house rules
    Tidy,
    Verify(verify::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Tidy => tidy::run(cargo::root()).map(|()| ExitCode::SUCCESS),
        Task::Verify(options) => verify::run(&options).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        anstream::eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
