//! `cargo xtask demo`: the balancer with real traffic, a backend that dies and comes back, and figures of all of it,
//! on any machine within a minute. Two processes play: the stage holds the lab and does everything ([`stage`]), and
//! the supervisor, which the user has started, waits for it and clears up should it be killed ([`supervisor`]).

mod clean;
mod keeper;
mod program;
mod screen;
mod stage;
mod story;
mod summary;
mod supervisor;
mod traffic;
mod watched;

use std::process::ExitCode;

use anyhow::{Result, ensure};

/// Show the balancer at work: real traffic, a backend that is killed and comes back, figures
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo
  cargo xtask demo --keep     leave it running, with a little traffic
  cargo xtask demo --clean    end kept demos, remove what killed ones have left")]
pub(crate) struct DemoArgs {
    /// Leave everything running at the end, and say how to look at it
    #[arg(long)]
    keep: bool,

    /// End kept demos and remove what killed ones have left; nothing else
    #[arg(long, conflicts_with = "keep")]
    clean: bool,

    /// The part of the supervisor's child
    #[arg(long, hide = true, conflicts_with = "clean")]
    stage: bool,
}

pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces and XDP need root: sudo scripts/demo");
    if args.clean {
        clean::run()
    } else if args.stage {
        stage::run(args.keep)
    } else {
        supervisor::run(args.keep)
    }
}
