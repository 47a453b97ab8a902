//! Manual pages and completions, made from the definition of the command line itself.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory as _;

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::exit::CliError;

const BINARY: &str = "lb-agent";

pub(super) fn completions(args: &CompletionsArgs) -> String {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), BINARY, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The page of the whole program; with a directory, writes a page for each command there and returns a summary.
pub(super) fn man(args: &ManArgs) -> Result<String, CliError> {
    match &args.dir {
        Some(dir) => write_pages(dir).map_err(|error| {
            CliError::Failed(format!("could not write manual pages to {}: {error}; check its rights", dir.display()))
        }),
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
            rendered.map_err(|error| CliError::Failed(format!("could not render the manual page: {error}")))?;
            Ok(String::from_utf8_lossy(&page).into_owned())
        }
    }
}

fn write_pages(dir: &Path) -> io::Result<String> {
    fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)?;
    Ok(format!("wrote manual pages to {}\n", dir.display()))
}
