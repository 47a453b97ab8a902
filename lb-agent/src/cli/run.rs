//! The commands that touch the data plane themselves: `run`, `unload`, and `doctor`, which wants to know what is ours.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::{DEFAULT_PIN_DIR, RunArgs, UnloadArgs};
use super::exit::{CliError, Exit};
use crate::config;
use crate::dataplane::kernel::{self, KernelError};
use crate::decap::{self, DecapArgs};
use crate::doctor::{self, DoctorArgs};
use crate::run::{self, RunError};

pub(super) fn run(args: RunArgs, socket: PathBuf) -> Result<(), CliError> {
    run::run(args, socket).map_err(|error| match &error {
        RunError::Config(_) | RunError::Usage(_) => CliError::Usage(error.to_string()),
        _ if error.is_not_permitted() => CliError::NotPermitted(permission(&error.to_string())),
        _ => CliError::Failed(error.to_string()),
    })
}

pub(super) fn unload(args: &UnloadArgs) -> Result<String, CliError> {
    let removed = kernel::unload(&args.pin_dir).map_err(|error| match &error {
        KernelError::NotPermitted(_) => CliError::NotPermitted(permission(&error.to_string())),
        _ => CliError::Failed(error.to_string()),
    })?;
    if args.output.json {
        let json = serde_json::to_string_pretty(&removed).map_err(|error| CliError::Failed(error.to_string()))?;
        return Ok(json + "\n");
    }
    Ok(format!(
        "removed {} attachments, {} programs and {} maps from {}\n",
        removed.attachments,
        removed.programs,
        removed.maps,
        args.pin_dir.display()
    ))
}

pub(super) async fn decap(args: DecapArgs) -> Result<String, CliError> {
    decap::run(args).await.map_err(|error| {
        if error.is_not_permitted() {
            CliError::NotPermitted(permission(&error.to_string()))
        } else {
            CliError::Failed(error.to_string())
        }
    })
}

pub(super) async fn doctor(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = match args.config.as_deref().map(config::load).transpose() {
        Ok(config) => config,
        Err(errors) => {
            anstream::eprintln!("{errors}");
            return Ok(Exit::Usage.into());
        }
    };
    let pin_dir = config.as_ref().map_or(Path::new(DEFAULT_PIN_DIR), |config| &config.pin_dir);
    let ours = kernel::pinned_programs(pin_dir);
    doctor::run(args, config, &ours).await
}

/// The error's own words already begin so where the kernel was asked.
fn permission(message: &str) -> String {
    message.strip_prefix("not permitted to ").unwrap_or(message).to_owned()
}
