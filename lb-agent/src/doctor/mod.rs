//! `lb-agent doctor`: is this host fit to balance, and if not, which command mends it? [`facts`] looks, [`judge`]
//! decides, [`render`] shows. It attaches nothing and sends nothing but the kernel's questions for the backends' MACs,
//! and it says what it cannot see where it lacks the privileges.

mod facts;
mod judge;
mod render;

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::model::config::Config;

/// Examine this host, and say what would keep the balancer from working well
///
/// Kernel, privileges, interfaces, offloads, routing, limits: what fails and what warns comes with its mend. Changes nothing.
/// Ends with 1 if something fails.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  lb-agent doctor
  lb-agent doctor --config /etc/lb/lb.yaml
  lb-agent doctor --interface eth0 --json")]
pub struct DoctorArgs {
    /// Configuration to examine the host for: its interfaces, VIPs and backends
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Interface to examine, beside those of the configuration; without any, all Ethernet interfaces that are up
    #[arg(long, value_name = "NAME")]
    pub interface: Vec<String>,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// One check of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable, for scripts: `tx-checksum-offload`.
    pub check: &'static str,
    /// What was checked: an interface, a backend, `host`.
    pub subject: String,
    pub severity: Severity,
    pub message: String,
    /// The command that mends it.
    pub mend: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// Works, but not in every case or not as well; or it could not be seen.
    Warning,
    /// Traffic would not flow, or the agent would not start.
    Problem,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// Prints what [`examine`] finds; fails if there is a problem. `config` is what `args.config` names, loaded;
/// `our_programs` are the ids of the programs that this agent has pinned.
pub async fn run(args: DoctorArgs, config: Option<Config>, our_programs: &[u32]) -> anyhow::Result<ExitCode> {
    let findings = examine(config.as_ref(), &args.interface, our_programs).await;
    if args.json {
        anstream::println!("{}", serde_json::to_string_pretty(&render::Report::new(&findings))?);
    } else {
        anstream::print!("{}", render::table(&findings));
    }
    let problem = findings.iter().any(|finding| finding.severity == Severity::Problem);
    Ok(if problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Examines the host and the calling thread's network namespace.
pub async fn examine(config: Option<&Config>, interfaces: &[String], our_programs: &[u32]) -> Vec<Finding> {
    judge::judge(&facts::gather(config, interfaces, our_programs).await)
}

#[cfg(test)]
mod tests;
