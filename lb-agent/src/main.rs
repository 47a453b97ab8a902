//! The binary: reads the command line and hands over to the library. `lb_agent::cli` has the commands.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    lb_agent::cli::run(lb_agent::cli::Cli::parse())
}
