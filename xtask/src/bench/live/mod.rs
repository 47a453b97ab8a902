//! `xtask bench live`: real traffic from a client through each contender to real servers, in network namespaces. The
//! contenders take turns within each round, each in a lab of its own, so that whatever disturbs the machine disturbs all
//! of them and nothing of one is left for the next.

mod contender;
mod cpu;
mod proxy;
mod report;
mod services;
mod udp;
mod workload;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use lb_tests::clients;
use lb_tests::lab::Lab;
use lb_tests::lab::address::Family;
use lb_tests::serial;

use self::contender::{Contender, Offloads};
use self::cpu::Meter;
use self::report::{Report, Sample};
use self::services::Servers;
use self::workload::Workload;
use super::{Output, machine};
use crate::cargo::agent_binary;
use crate::interrupt::Interrupt;

/// Live traffic through this balancer, nftables, HAProxy and nginx, in network namespaces
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  scripts/bench live --quick
  scripts/bench live --only lb,nftables --only http --offloads off
  scripts/bench live --rounds 9 --json live.json --md live.md")]
pub(super) struct Options {
    /// One round of a second each: a look, not a measurement
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Rounds; the figures are medians over them
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each run of traffic
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Only these contenders or workloads (direct, the reference, always takes part)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// How the veth devices are set
    #[arg(long, value_enum, default_value_t)]
    offloads: Settings,
    /// Backends
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    backends: u16,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Settings {
    /// All offloads off: frames as they are on a wire
    Off,
    /// As the kernel makes a veth
    Default,
    /// One after the other
    #[default]
    Both,
}

impl Settings {
    fn list(self) -> Vec<Offloads> {
        match self {
            Self::Off => vec![Offloads::Off],
            Self::Default => vec![Offloads::Default],
            Self::Both => vec![Offloads::Off, Offloads::Default],
        }
    }
}

const QUICK: (u32, u32) = (1, 1);
/// Until every backend has answered through the VIP.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Requests of each look whether they have.
const LOOK: u32 = 12;
/// Between two workloads: connections of the one before are closed.
const PAUSE: Duration = Duration::from_millis(200);
/// What a turn takes beside its traffic, to say how long all of it will take.
const SET_UP: Duration = Duration::from_secs(1);

pub(super) fn run(options: &Options) -> Result<()> {
    if let Some(reason) = serial::why_not() {
        bail!("{reason}");
    }
    let (contenders, workloads) = chosen(&options.only)?;
    agent_binary()?;
    if cfg!(debug_assertions) {
        anstream::eprintln!("bench: this is a debug build; scripts/bench live measures a release build");
    }
    let (contenders, skipped) = installed(contenders);
    for (name, package) in &skipped {
        anstream::eprintln!("bench: {name} is skipped: install {package} (scripts/setup --bench does it)");
    }
    let _serial = serial::acquire()?;
    let interrupt = Interrupt::watch()?;
    Lab::sweep_leftovers()?;
    let (rounds, seconds) = if options.quick { QUICK } else { (options.rounds, options.seconds) };
    let meter = Meter::new();
    let mut report = Report {
        machine: machine(),
        cpu: meter.what(),
        rounds,
        seconds,
        backends: options.backends,
        offloads: options.offloads.list(),
        workloads,
        contenders,
        skipped,
        samples: Vec::new(),
        failures: Vec::new(),
    };
    Bench { report: &mut report, meter: &meter, interrupt: &interrupt }.measure()?;
    options.output.publish(&report.markdown(), &report.json())?;
    ensure!(report.failures.is_empty(), "{} turns failed", report.failures.len());
    Ok(())
}

/// Names of contenders choose among these, names of workloads among those.
fn chosen(only: &[String]) -> Result<(Vec<Contender>, Vec<Workload>)> {
    let contender_names: Vec<_> = contender::ALL.iter().map(|one| one.name).collect();
    let workload_names: Vec<_> = Workload::ALL.iter().map(|one| one.name()).collect();
    for name in only {
        ensure!(
            contender_names.contains(&name.as_str()) || workload_names.contains(&name.as_str()),
            "there is no {name}; contenders: {}; workloads: {}",
            contender_names.join(", "),
            workload_names.join(", ")
        );
    }
    let named = |names: &[&str], name: &str| {
        let any = only.iter().any(|one| names.contains(&one.as_str()));
        !any || only.iter().any(|one| one == name)
    };
    let mut contenders = contender::ALL.to_vec();
    let reference = contenders[0].name;
    contenders.retain(|one| one.name == reference || named(&contender_names, one.name));
    let mut workloads = Workload::ALL.to_vec();
    workloads.retain(|one| named(&workload_names, one.name()));
    Ok((contenders, workloads))
}

/// Those that can be run here, and those that cannot with the package that they lack.
fn installed(contenders: Vec<Contender>) -> (Vec<Contender>, Vec<(&'static str, &'static str)>) {
    let skipped = contenders.iter().filter_map(|one| Some((one.name, one.missing_package()?))).collect();
    (contenders.into_iter().filter(|one| one.missing_package().is_none()).collect(), skipped)
}

/// Who runs, how and when.
#[derive(Debug, Clone, Copy)]
struct Turn {
    round: u32,
    offloads: Offloads,
    contender: Contender,
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "round {}, offloads {}, {}", self.round, self.offloads.name(), self.contender.name)
    }
}

/// All turns in their order: in every round another contender begins.
fn turns(rounds: u32, settings: &[Offloads], contenders: &[Contender]) -> Vec<Turn> {
    let mut order = contenders.to_vec();
    let mut turns = Vec::new();
    for round in 1..=rounds {
        for &offloads in settings {
            turns.extend(order.iter().map(|&contender| Turn { round, offloads, contender }));
        }
        order.rotate_left(1);
    }
    turns
}

struct Bench<'run> {
    report: &'run mut Report,
    meter: &'run Meter,
    interrupt: &'run Interrupt,
}

impl Bench<'_> {
    fn measure(&mut self) -> Result<()> {
        let turns = turns(self.report.rounds, &self.report.offloads, &self.report.contenders);
        let traffic = Duration::from_secs(self.report.seconds.into()) + PAUSE;
        let turn = traffic * u32::try_from(self.report.workloads.len())? + SET_UP;
        let minutes = (turn.as_secs_f64() * turns.len() as f64 / 60.0).ceil();
        anstream::eprintln!("bench: {} turns, about {minutes} min", turns.len());
        for turn in turns {
            let before = self.report.samples.len();
            let outcome = self.take(turn);
            self.interrupt.check()?;
            let rates: Vec<_> = self.report.samples[before..].iter().map(progress).collect();
            anstream::eprintln!("bench: {turn}: {}", rates.join(", "));
            if let Err(error) = outcome {
                let failure = format!("{turn}: {error:#}");
                anstream::eprintln!("bench: failed: {failure}");
                self.report.failures.push(failure);
            }
        }
        Ok(())
    }

    /// Every workload, in a lab that is built for this turn. That something is left behind comes before all else.
    fn take(&mut self, turn: Turn) -> Result<()> {
        let lab = turn.contender.lab(self.report.backends)?;
        let played = self.play(&lab, turn);
        lab.assert_clean().context("something is left behind")?;
        played
    }

    fn play(&mut self, lab: &Lab, turn: Turn) -> Result<()> {
        let Turn { round, offloads, contender } = turn;
        for namespace in lab.namespaces() {
            // Connections are opened at a rate at which ports run out otherwise.
            namespace.sysctl("ipv4/tcp_tw_reuse", "1")?;
            namespace.sysctl("ipv4/tcp_max_syn_backlog", "8192")?;
        }
        contender.wire(lab, offloads)?;
        let servers = Servers::start(lab)?;
        let _standing = contender.start(lab)?;
        ready(lab, contender, self.interrupt)?;
        for workload in self.report.workloads.clone().into_iter().filter(|workload| contender.carries(*workload)) {
            self.interrupt.check()?;
            std::thread::sleep(PAUSE);
            let before = self.meter.now()?;
            let done = workload.run(lab, &servers, self.report.seconds, self.interrupt).context(workload.name())?;
            let used = self.meter.since(&before)?;
            self.report.samples.push(Sample { round, offloads, contender: contender.name, workload, done, used });
        }
        Ok(())
    }
}

fn progress(sample: &Sample) -> String {
    let rate = sample.workload.rate(sample.done.per_second);
    format!("{} {}", report::short(rate), sample.workload.rate_heading())
}

/// Waits until every backend that is to answer on the VIP has answered.
fn ready(lab: &Lab, contender: Contender, interrupt: &Interrupt) -> Result<()> {
    let expected = if contender.balances() { lab.backends.len() } else { 1 };
    let mut seen = BTreeSet::new();
    interrupt.wait_until("every backend has answered on the VIP", READY_LIMIT, || {
        seen.extend(clients::curl(&lab.client, Family::V4.vip(), LOOK)?.into_keys());
        ensure!(seen.len() == expected, "only {seen:?} of {expected} have");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(only: &[&str], contenders: &[&str], workloads: &[&str]) {
        let only: Vec<_> = only.iter().map(|&name| name.to_owned()).collect();
        let (found, traffic) = chosen(&only).expect("known names");
        assert!(found.iter().map(|one| one.name).eq(contenders.iter().copied()), "{only:?} -> {found:?}");
        assert!(traffic.iter().map(|one| one.name()).eq(workloads.iter().copied()), "{only:?} -> {traffic:?}");
    }

    #[test]
    fn names_choose_contenders_and_workloads_and_the_reference_stays() {
        let contenders: Vec<_> = contender::ALL.iter().map(|one| one.name).collect();
        let workloads = Workload::ALL.map(Workload::name);
        check(&[], &contenders, &workloads);
        check(&["lb"], &["direct", "lb"], &workloads);
        check(&["udp", "http"], &contenders, &["http", "udp"]);
        check(&["bulk", "nftables", "lb"], &["direct", "nftables", "lb"], &["bulk"]);
        let error = chosen(&["ipvs".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("there is no ipvs; contenders: direct, "), "{error}");
    }

    #[test]
    fn each_round_has_every_turn_and_another_beginning() {
        let turns = turns(2, &Settings::Both.list(), contender::ALL);
        assert_eq!(turns.len(), 2 * 2 * contender::ALL.len());
        let beginnings = turns.chunks(contender::ALL.len()).map(|one| one[0].contender.name);
        let (first, second) = (contender::ALL[0].name, contender::ALL[1].name);
        assert!(beginnings.eq([first, first, second, second]));
        for offloads in Settings::Both.list() {
            for one in contender::ALL {
                let own = turns.iter().filter(|turn| (turn.offloads, turn.contender.name) == (offloads, one.name));
                assert!(own.map(|turn| turn.round).eq([1, 2]), "{} takes part once a round", one.name);
            }
        }
    }
}
