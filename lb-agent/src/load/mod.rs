//! The traffic generator: `lb-agent load`, and [`generate`] for whoever needs measured traffic. It sends requests on
//! a schedule that does not depend on the server (an open loop) and measures each from its intended send time, so
//! that a server which stalls shows the delay that its users would see. It owns nothing outside its own run.

mod arrivals;
mod client;
mod generator;
mod options;
mod recorder;
mod report;
mod target;
mod text;
pub(crate) mod timer;

#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use self::arrivals::{Arrivals, Schedule};
pub use self::generator::{generate, generate_until};
pub use self::options::{
    LoadArgs, LoadOptions, MAX_CONNECTIONS, MAX_DURATION, MAX_RATE, MAX_TIMEOUT, MIN_RATE, OptionsError,
};
pub use self::report::{BackendReport, ErrorCounts, ErrorKind, Latency, Quantile, Report, Second, Snapshot};
pub use self::target::{Target, TargetError};

/// `lb-agent load`: runs, shows progress on a terminal, prints the report. ctrl-C ends the run and not the report.
pub async fn run(args: LoadArgs) -> anyhow::Result<ExitCode> {
    let options = LoadOptions::from(&args);
    let progress = progress_bar(&options)?;
    let report = generate_until(&options, interrupted(), |snapshot| {
        progress.set_position(snapshot.elapsed_seconds as u64);
        progress.set_message(text::progress_line(snapshot));
    })
    .await;
    progress.finish_and_clear();
    let report = report?;
    let shown = if args.json {
        serde_json::to_string_pretty(&report).context("cannot write the report as JSON")? + "\n"
    } else {
        text::summary(&report)
    };
    std::io::stdout().lock().write_all(shown.as_bytes()).context("cannot write the report")?;
    match args.max_error_percent {
        Some(limit) if report.error_percent() > limit => {
            anstream::eprintln!(
                "{:.2}% of the requests failed, more than the {limit}% of --max-error-percent",
                report.error_percent()
            );
            Ok(ExitCode::FAILURE)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Ends when the user presses ctrl-C; never, if that cannot be watched.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A line on stderr that renews itself; nothing at all where that is not a terminal.
fn progress_bar(options: &LoadOptions) -> anyhow::Result<ProgressBar> {
    let target = ProgressDrawTarget::stderr();
    let seconds = options.planned().as_secs_f64().ceil().max(1.0);
    let style = ProgressStyle::with_template("{bar:20} {wide_msg}").context("the progress bar's template")?;
    Ok(ProgressBar::with_draw_target(Some(seconds as u64), target).with_style(style))
}
