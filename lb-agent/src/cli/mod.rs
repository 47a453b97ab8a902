//! The command line: what can be typed, how it is asked of the running agent, and how the answer is shown.
//! `main` hands over here; each command is one arm of [`dispatch`].

pub mod args;
mod client;
mod commands;
mod docs;
mod exit;
mod run;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod views;

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Style};

pub use args::Cli;
pub use exit::{CliError, Exit};

use crate::config::check;
use crate::{demo_backend, load, sim};
use args::Command;
use client::Client;
use commands::Shown;
use table::Look;

/// Does what was typed, and says on stderr why it could not.
pub fn run(cli: Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
            anstream::eprintln!("{red}error:{red:#} {}", text::sanitise_lines(&error.to_string()));
            error.exit().into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    let client = Client::new(cli.socket.clone());
    let look = Look::of_stdout();
    match cli.command {
        Command::Run(args) => run::run(args, cli.socket)?,
        Command::Unload(args) => print(&run::unload(&args)?)?,
        Command::Check(args) => return Ok(check::run(&args)),
        Command::Doctor(args) => return block_on(run::doctor(args)),
        Command::Decap(args) => print(&on_this_thread(run::decap(args))?)?,
        Command::Load(args) => return block_on(load::run(args)),
        Command::DemoBackend(args) => {
            return block_on(async { demo_backend::run(args).await.map(|()| Exit::Done.into()) });
        }
        Command::Simulate(args) => {
            return sim::run(&args).map_err(|error| CliError::Failed(format!("{error:#}")));
        }
        Command::Status(output) => ask(commands::status(&client, output, look))?,
        Command::Service(command) => ask(commands::service(&client, command, look))?,
        Command::Backend(command) => ask(commands::backend(&client, command, look))?,
        Command::Flow(command) => ask(commands::flow(&client, command, look))?,
        Command::Reload(args) => ask(commands::reload(&client, args))?,
        Command::Completions(args) => print(&docs::completions(&args))?,
        Command::Man(args) => print(&docs::man(&args)?)?,
    }
    Ok(Exit::Done.into())
}

/// For the commands that work by themselves, on all processors.
fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("could not start the runtime: {error}")))?;
    runtime.block_on(work).map_err(|error| CliError::Failed(format!("{error:#}")))
}

fn on_this_thread<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("could not start the runtime: {error}")))?;
    runtime.block_on(work)
}

/// Runs one conversation with the agent and prints what came of it.
fn ask(conversation: impl Future<Output = Result<Shown, CliError>>) -> Result<(), CliError> {
    let Shown { out, note } = on_this_thread(conversation)?;
    print(&out)?;
    if let Some(note) = note {
        anstream::eprintln!("{note}");
    }
    Ok(())
}

fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever reads, `head` for example, has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CliError::Failed(format!("could not write the output: {error}"))),
        Ok(()) => Ok(()),
    }
}
