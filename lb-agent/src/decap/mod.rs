//! `lb-agent decap`: at a backend of an `ipip` or `gue` service, takes packets out of the balancer's tunnels before the stack
//! sees them. It lives and ends with its process: nothing is pinned, so that a backend is as it was once this is gone.

mod report;

use std::time::Duration;

use clap::{Args, ValueEnum};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::dataplane::kernel::{Decap, KernelError, Mode};
use crate::model::prefix::Prefix;
use crate::os::netlink::Netlink;
use crate::os::{addresses, links, netlink};
use report::Report;

/// How soon a new address of this host counts: the VIP may be given to it while this runs.
const LOOK: Duration = Duration::from_secs(1);

/// Take packets out of the balancer's tunnels, on a backend of an ipip or gue service
///
/// Packets in IP or GUE for an address of this host, from an allowed source, with a packet for an address of this host
/// inside, go to the stack without their outer headers. Everything else passes as it is. Runs in the foreground until it
/// is told to stop, and prints what it has counted; nothing stays behind.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lb-agent decap -i eth0 --source 10.0.1.1\n  \
                        lb-agent decap -i eth0 --source 10.0.1.0/24 --source 2001:db8:1::/64 --json\n  \
                        lb-agent decap -i eth0 --any-source --xdp-mode generic")]
pub struct DecapArgs {
    /// Where the balancer's packets arrive
    #[arg(short, long, value_name = "NAME")]
    pub interface: String,
    /// An address or range of outer sources to believe: the balancer's own addresses on the way here; give it once for each
    #[arg(long = "source", value_name = "CIDR", num_args = 1.., required_unless_present = "any_source")]
    pub sources: Vec<Prefix>,
    /// Believe everybody: whoever reaches this host then chooses the sources of the packets that it sees
    #[arg(long, conflicts_with = "sources")]
    pub any_source: bool,
    /// Let the driver run the program, or the kernel's slower substitute
    #[arg(long, value_enum, value_name = "MODE", default_value_t = DecapMode::Native)]
    pub xdp_mode: DecapMode,
    /// Print the counters as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DecapMode {
    Native,
    Generic,
}

#[derive(Debug, Error)]
pub enum DecapError {
    #[error(
        "interface {interface} does not take a native XDP program ({reason}); mend that, or add --xdp-mode generic, which is slower"
    )]
    NoNativeXdp { interface: String, reason: String },
    #[error(transparent)]
    Kernel(KernelError),
    #[error(transparent)]
    Link(#[from] links::Error),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error("could not {what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

impl DecapError {
    /// Whether more rights would help.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Kernel(error) if error.is_not_permitted())
    }
}

impl From<KernelError> for DecapError {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::NoNativeXdp { interface, reason } => Self::NoNativeXdp { interface, reason },
            error => Self::Kernel(error),
        }
    }
}

/// Until a signal ends it; gives what is to be printed.
///
/// # Errors
/// When the interface or the kernel refuses the program, or the kernel ceases to answer.
pub async fn run(args: DecapArgs) -> Result<String, DecapError> {
    let listen = |kind| signal(kind).map_err(|source| DecapError::Io { what: "listen for signals", source });
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let netlink = Netlink::open()?;
    let mut decap = attach(&args, &netlink).await?;
    anstream::eprintln!("{}", started(&args));
    follow(&mut decap, &netlink, &mut terminate, &mut interrupt).await?;
    let report = Report::read(&args.interface, &decap)?;
    Ok(if args.json { report.json() } else { report.text() })
}

async fn attach(args: &DecapArgs, netlink: &Netlink) -> Result<Decap, DecapError> {
    let link = links::by_name_with(netlink, &args.interface).await?;
    if let Some(xdp) = link.xdp {
        return Err(KernelError::ForeignProgram { interface: link.name, program: xdp.program_id }.into());
    }
    let mut decap = Decap::load()?;
    for source in sources(args) {
        decap.allow(source)?;
    }
    decap.set_addresses(addresses::list(netlink).await?)?;
    let mode = match args.xdp_mode {
        DecapMode::Native => Mode::Native,
        DecapMode::Generic => Mode::Generic,
    };
    decap.attach(&link.name, link.index, mode)?;
    Ok(decap)
}

fn sources(args: &DecapArgs) -> Vec<Prefix> {
    if args.any_source {
        let both = [std::net::Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()];
        return both.map(Prefix::any).to_vec();
    }
    args.sources.clone()
}

fn started(args: &DecapArgs) -> String {
    let texts: Vec<String> = args.sources.iter().map(ToString::to_string).collect();
    let whom = if args.any_source { "everybody".to_owned() } else { texts.join(", ") };
    format!("taking packets of {whom} out of ipip and gue on {}", args.interface)
}

/// Keeps the program's picture of this host's addresses up to date.
async fn follow(
    decap: &mut Decap,
    netlink: &Netlink,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> Result<(), DecapError> {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = look.tick() => decap.set_addresses(addresses::list(netlink).await?)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    enum Cli {
        Decap(DecapArgs),
    }

    fn parse(line: &str) -> Result<DecapArgs, String> {
        let words = std::iter::once("lb-agent").chain(line.split_whitespace());
        match Cli::try_parse_from(words) {
            Ok(Cli::Decap(args)) => Ok(args),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn closed_unless_somebody_is_named() {
        let error = parse("decap -i eth0").expect_err("nobody is named");
        assert!(error.contains("--source"), "{error}");
        let error = parse("decap -i eth0 --any-source --source 10.0.0.1").expect_err("both");
        assert!(error.contains("cannot be used with"), "{error}");
        let error = parse("decap -i eth0 --source 10.0.0.1/24").expect_err("bits behind the prefix");
        assert!(error.contains("write 10.0.0.0/24"), "{error}");
    }

    #[test]
    fn sources_are_those_that_were_named_or_all() {
        let texts = |line| sources(&parse(line).expect(line)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts("decap -i eth0 --source 10.0.0.1 --source fd00::/8"), ["10.0.0.1/32", "fd00::/8"]);
        assert_eq!(texts("decap -i eth0 --any-source"), ["0.0.0.0/0", "::/0"]);
        let args = parse("decap -i eth0 --source 10.0.0.1").expect("valid");
        assert_eq!(started(&args), "taking packets of 10.0.0.1/32 out of ipip and gue on eth0");
    }
}
