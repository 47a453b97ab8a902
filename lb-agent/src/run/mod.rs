//! `lb-agent run`: the composition root. It alone knows every part; it starts them, joins them in one task that owns the data
//! plane and the engine ([`agent`]), and ends them.

mod agent;
mod apply;
mod control;
mod errors;
mod interfaces;
mod latency;
mod metrics;
mod mode;
mod requests;
mod saved;
mod start;
mod systemd;
mod traffic;
mod views;

use std::path::PathBuf;

use tracing::level_filters::LevelFilter;

pub use errors::RunError;

use crate::cli::args::{LogFormat, LogLevel, RunArgs};
use crate::config;
use crate::model::config::Config;

/// Where the configuration comes from, and comes from again at a reload.
#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    /// Flags, which do not change.
    Flags,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the configuration is not valid, the host is not fit, or the kernel refuses something. Nothing is left behind then
/// that was not there before.
pub fn run(args: RunArgs, socket: PathBuf) -> Result<(), RunError> {
    log_to_stderr(args.log_format, args.log_level);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(RunError::io("start the runtime"))?;
    runtime.block_on(async {
        let (config, source) = configuration(&args, socket).await?;
        start::start(config, source).await?.serve().await
    })
}

/// `socket` is for a configuration from flags; a file names its own.
async fn configuration(args: &RunArgs, socket: PathBuf) -> Result<(Config, Source), RunError> {
    match (&args.config, &args.vip) {
        (Some(path), _) => Ok((config::load(path)?, Source::File(path.clone()))),
        (None, Some(vip)) => {
            let chosen = if args.interfaces.is_empty() {
                interfaces::choose(vip.address.ip(), &args.backends).await?
            } else {
                args.interfaces.clone()
            };
            let backends: Vec<String> = args.backends.iter().map(ToString::to_string).collect();
            let mut config = config::from_flags(&format!("{}/{}", vip.address, vip.protocol), &backends, chosen)?;
            config.api.socket = socket;
            Ok((config, Source::Flags))
        }
        (None, None) => Err(RunError::Usage("give a configuration file with -c, or --vip and --backend".into())),
    }
}

fn log_to_stderr(format: LogFormat, level: LogLevel) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(level))
        .with_writer(std::io::stderr)
        .with_target(false);
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    match format {
        LogFormat::Text => builder.with_ansi(colour).init(),
        LogFormat::Json => builder.json().init(),
    }
}
