//! What can be typed. Every command's help ends with examples, and a test types them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::api::MAX_FLOWS;
use crate::config::check::CheckArgs;
use crate::decap::DecapArgs;
use crate::demo_backend::DemoBackendArgs;
use crate::doctor::DoctorArgs;
use crate::load::LoadArgs;
use crate::model::admin::UndoAfter;
use crate::model::config::{MAX_WEIGHT, Protocol};
use crate::model::pool::BackendKey;
use crate::sim::SimulateArgs;

pub const DEFAULT_SOCKET: &str = "/run/lb/agent.sock";
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/lb";

/// A layer 4 load balancer in the kernel: runs it, asks it, changes it
#[derive(Debug, Parser)]
#[command(
    name = "lb-agent",
    version,
    propagate_version = true,
    after_help = "Examples:\n  lb-agent status\n  lb-agent backend drain web/b1 --for 10m\n\n\
                  Exit codes: 0 done, 1 failed, 2 usage or invalid configuration, 3 the agent is not running, \
                  4 not permitted"
)]
pub struct Cli {
    /// The admin socket of the agent
    #[arg(long, global = true, value_name = "PATH", env = "LB_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show everything on one screen: state, services, backends, rates, drops
    #[command(after_help = "Examples:\n  lb-agent status\n  lb-agent status --json\n  lb-agent status -o csv")]
    Status(OutputArgs),
    /// Show services
    #[command(subcommand, after_help = "Examples:\n  lb-agent service list\n  lb-agent service show web")]
    Service(ServiceCommand),
    /// Show backends, and take them out of and into service
    #[command(
        subcommand,
        after_help = "Examples:\n  lb-agent backend list web\n  lb-agent backend drain web/b1 --for 10m"
    )]
    Backend(BackendCommand),
    /// Show flows, and ask where one would go
    #[command(
        subcommand,
        after_help = "Examples:\n  lb-agent flow count\n  lb-agent flow route 203.0.113.7:40000 192.0.2.10:80"
    )]
    Flow(FlowCommand),
    /// Read the configuration again and apply all of it or nothing
    #[command(after_help = "Examples:\n  lb-agent reload\n  lb-agent reload --json")]
    Reload(JsonArgs),
    Run(RunArgs),
    Unload(UnloadArgs),
    Check(CheckArgs),
    Doctor(DoctorArgs),
    Decap(DecapArgs),
    Load(LoadArgs),
    DemoBackend(DemoBackendArgs),
    Simulate(SimulateArgs),
    /// Print completions for a shell
    #[command(after_help = "Examples:\n  lb-agent completions bash > /etc/bash_completion.d/lb-agent\n  \
                      lb-agent completions zsh > /usr/share/zsh/site-functions/_lb-agent")]
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands
    #[command(after_help = "Examples:\n  lb-agent man | man -l -\n  lb-agent man --dir /usr/share/man/man1")]
    Man(ManArgs),
}

/// How a read command shows its answer.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// Print JSON; the same as `-o json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
}

impl OutputArgs {
    pub fn format(self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: rounded, as wide as the terminal
    Table,
    /// Exact, with stable keys
    Json,
    /// Exact, one row per thing (RFC 4180)
    Csv,
}

/// How a command that changes something reports.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonArgs {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// List all services
    #[command(after_help = "Examples:\n  lb-agent service list\n  lb-agent service list -o csv")]
    List(OutputArgs),
    /// Show one service and its backends
    #[command(after_help = "Examples:\n  lb-agent service show web\n  lb-agent service show web --json")]
    Show {
        /// The service's name
        service: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// List the backends of one service or of all
    #[command(after_help = "Examples:\n  lb-agent backend list\n  lb-agent backend list web --json")]
    List {
        /// Only those of this service
        service: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Send no new flows to a backend; those that exist may finish
    #[command(after_help = "Examples:\n  lb-agent backend drain web/b1\n  lb-agent backend drain web/b1 --for 10m")]
    Drain {
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        undo: UndoArgs,
    },
    /// End a drain
    #[command(after_help = "Examples:\n  lb-agent backend undrain web/b1")]
    Undrain {
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Set a backend's weight; 0 sends it no new flows
    #[command(after_help = "Examples:\n  lb-agent backend weight web/b1 5\n  \
                            lb-agent backend weight web/b1 0 --for 10m")]
    Weight {
        #[command(flatten)]
        target: TargetArgs,
        /// The new weight
        #[arg(value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_WEIGHT)))]
        weight: u16,
        #[command(flatten)]
        undo: UndoArgs,
    },
    /// End a disable
    #[command(after_help = "Examples:\n  lb-agent backend enable web/b1")]
    Enable {
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Send no new flows to a backend and stop probing it; those that exist may finish
    #[command(after_help = "Examples:\n  lb-agent backend disable web/b1\n  lb-agent backend disable web/b1 --for 1h")]
    Disable {
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        undo: UndoArgs,
    },
}

#[derive(Debug, Args)]
pub struct TargetArgs {
    /// The backend
    #[arg(value_name = "SERVICE/BACKEND", value_parser = parse_backend)]
    pub backend: BackendKey,
    #[command(flatten)]
    pub output: JsonArgs,
}

#[derive(Debug, Args)]
pub struct UndoArgs {
    /// Undo it after this time, for example 90s, 10m or 2h
    #[arg(long = "for", value_name = "TIME")]
    pub undo_after: Option<UndoAfter>,
}

#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// List flows that are tracked
    #[command(after_help = "Examples:\n  lb-agent flow list\n  lb-agent flow list web/b1 --limit 1000 -o csv")]
    List {
        /// Only those of this service or backend
        #[arg(value_name = "SERVICE[/BACKEND]")]
        of: Option<Scope>,
        /// List this many at most
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse_limit)]
        limit: usize,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Count flows by service and backend
    #[command(after_help = "Examples:\n  lb-agent flow count\n  lb-agent flow count --json")]
    Count(OutputArgs),
    /// Ask the loaded program which backend a flow would get, and why
    #[command(after_help = "Examples:\n  lb-agent flow route 203.0.113.7:40000 192.0.2.10:80\n  \
                            lb-agent flow route [2001:db8::7]:40000 [2001:db8::1]:53/udp --json")]
    Route {
        /// The client
        #[arg(value_name = "ADDR:PORT")]
        source: SocketAddr,
        /// What it talks to
        #[arg(value_name = "ADDR:PORT[/udp]")]
        destination: Endpoint,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Load, attach and serve, in the foreground
///
/// With `-c`, everything is in the file. With `--vip` and `--backend`, interface, mode and next hops are chosen
/// and the choice is said; the admin socket is then that of `--socket`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lb-agent run -c /etc/lb/lb.yaml\n  \
                        lb-agent run --vip 192.0.2.10:80 --backend 10.0.1.11:8080 --backend 10.0.1.12:8080\n  \
                        lb-agent run --vip [2001:db8::1]:53/udp --backend [2001:db8:1::11]:53 --interface eth0")]
pub struct RunArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", required_unless_present = "vip")]
    #[arg(conflicts_with_all = ["vip", "backends", "interfaces"])]
    pub config: Option<PathBuf>,
    /// Address, port and protocol of the one service
    #[arg(long, value_name = "ADDR:PORT[/udp]", requires = "backends")]
    pub vip: Option<Endpoint>,
    /// A backend of that service; give it once for each
    #[arg(long = "backend", value_name = "ADDR:PORT", num_args = 1.., requires = "vip")]
    pub backends: Vec<SocketAddr>,
    /// Where to attach, instead of where the routes point
    #[arg(long = "interface", value_name = "NAME", num_args = 1.., requires = "vip")]
    pub interfaces: Vec<String>,
    /// How to log
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// How much to log
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for tracing::level_filters::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Detach the programs and remove everything that is pinned
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lb-agent unload\n  lb-agent unload --pin-dir /sys/fs/bpf/lb --json")]
pub struct UnloadArgs {
    /// Where the programs and maps are pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    #[command(flatten)]
    pub output: JsonArgs,
}

/// `192.0.2.10:80`, `[2001:db8::1]:53/udp`; TCP where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub protocol: Protocol,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) = match text.split_once('/') {
            Some((address, protocol)) => (address, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        match address.parse() {
            Ok(address) => Ok(Self { address, protocol }),
            Err(_) => Err("write ADDR:PORT, for example 192.0.2.10:80, [2001:db8::1]:80 or 192.0.2.10:53/udp".into()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.protocol)
    }
}

/// A service, or one backend of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub service: String,
    pub backend: Option<String>,
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            let BackendKey { service, backend } = parse_backend(text)?;
            return Ok(Self { service, backend: Some(backend) });
        }
        if text.is_empty() {
            return Err("write SERVICE or SERVICE/BACKEND, for example web or web/b1".into());
        }
        Ok(Self { service: text.to_owned(), backend: None })
    }
}

fn parse_backend(text: &str) -> Result<BackendKey, String> {
    match text.split_once('/') {
        Some((service, backend)) if !service.is_empty() && !backend.is_empty() => {
            Ok(BackendKey { service: service.to_owned(), backend: backend.to_owned() })
        }
        _ => Err("write SERVICE/BACKEND, for example web/b1; `lb-agent backend list` shows all".into()),
    }
}

fn parse_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=MAX_FLOWS).contains(&limit) => Ok(limit),
        _ => Err(format!("give a number from 1 to {MAX_FLOWS}")),
    }
}
