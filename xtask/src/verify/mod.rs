//! `xtask verify`: loads every program of the shipped object in every configuration that changes it, and holds what the
//! kernel made of it against the budget. A program that grows slowly is seen here long before a kernel refuses it.

mod budget;
mod table;

use anyhow::{Context as _, Result, bail};
use lb_agent::dataplane::kernel::{Configuration, costs};
use lb_tests::serial;
use serde_json::{Value, json};

use self::budget::{BUDGET, Loaded};
use crate::out::say;

/// Load every program in every configuration and hold its cost against the budget
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Examples:
  sudo cargo xtask verify
  sudo cargo xtask verify --json")]
pub(crate) struct Options {
    /// Print all figures of all configurations, as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if serial::why_not().is_some() {
        bail!("loading programs needs root: run it with sudo");
    }
    let mut loaded = Vec::new();
    for configuration in Configuration::all() {
        let costs = costs(configuration).with_context(|| format!("with {configuration}"))?;
        loaded.extend(costs.into_iter().map(|cost| Loaded { cost, configuration }));
    }
    let complaints = budget::judge(&loaded);
    if options.json {
        say(&format!("{:#}", json(&loaded, &complaints)))?;
    } else {
        say(&table::render(&loaded))?;
    }
    if complaints.is_empty() { Ok(()) } else { bail!("over the budget:\n{}", complaints.join("\n")) }
}

fn json(loaded: &[Loaded], complaints: &[String]) -> Value {
    json!({
        "budget": { "verified": BUDGET.verified, "no_calls_in": BUDGET.no_calls_in },
        "programs": loaded,
        "over_budget": complaints,
    })
}
