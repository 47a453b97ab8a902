//! `xtask bench`: what a packet costs in the shipped program, in nanoseconds, beside the floors of the same run; and
//! `xtask bench live` ([`live`]), real traffic through it and through others.
//!
//! Here is the former. The programs run in the kernel (BPF_PROG_TEST_RUN) behind a packet maker that varies the flow; cases and floors take
//! turns in rounds, so that whatever disturbs the machine disturbs all of them.

mod cases;
mod figures;
mod latency;
mod live;
mod packets;
mod plane;
mod programs;
mod report;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use cases::{Case, Table};
use clap::{Args, Subcommand};
use lb_agent::dataplane::kernel::{Configuration, costs};
use lb_tests::lab::{CLIENT_DEVICE, Lab, Options as LabOptions, netlink};
use lb_tests::serial;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use plane::Plane;
use programs::{Floor, Programs};
use report::{Report, Row};

use crate::interrupt::Interrupt;
use crate::out::say;

/// Measure the data plane: nanoseconds per packet (the default), or live traffic beside other balancers
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  scripts/bench --quick
  scripts/bench --only replies --json figures.json
  scripts/bench live --quick"
)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    kind: Option<Kind>,
    #[command(flatten)]
    packets: Options,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Nanoseconds per packet, beside floors
    Packets(Options),
    Live(live::Options),
    Latency(latency::Options),
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.kind {
        None => packets(&args.packets),
        Some(Kind::Packets(options)) => packets(options),
        Some(Kind::Live(options)) => live::run(options),
        Some(Kind::Latency(options)) => latency::run(options),
    }
}

#[derive(Debug, Args)]
struct Options {
    /// Few packets and rounds: a look, not a measurement
    #[arg(long)]
    quick: bool,
    /// Rounds; the figures are medians over them
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets of a case in a round
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=20_000_000))]
    packets: u32,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where the programs run [default: the last CPU]
    #[arg(long)]
    cpu: Option<usize>,
    #[command(flatten)]
    output: Output,
}

/// Where the figures go beside standard output.
#[derive(Debug, Args)]
struct Output {
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    md: Option<PathBuf>,
}

impl Output {
    fn publish(&self, markdown: &str, json: &serde_json::Value) -> Result<()> {
        say(markdown.trim_end())?;
        let write = |path: &PathBuf, text: &str| {
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
        };
        self.md.as_ref().map_or(Ok(()), |path| write(path, markdown))?;
        self.json.as_ref().map_or(Ok(()), |path| write(path, &format!("{json:#}\n")))
    }
}

/// enum xdp_action (linux/bpf.h).
const XDP_TX: u32 = 3;

const QUICK_ROUNDS: u32 = 3;
const QUICK_PACKETS: u32 = 200_000;

fn packets(options: &Options) -> Result<()> {
    if let Some(reason) = serial::why_not() {
        bail!("{reason}");
    }
    let cases = chosen(options)?;
    let _serial = serial::acquire()?;
    let interrupt = Interrupt::watch()?;
    Lab::sweep_leftovers()?;
    let lab = Lab::build(LabOptions { backends: 1, ..LabOptions::default() })?;
    let report = lab.balancer.enter(|| {
        pin(options.cpu)?;
        Bench::new(&lab)?.measure(options, &cases, &interrupt)
    });
    let report = report.and_then(|report| interrupt.check().map(|()| report));
    for table in Table::ALL {
        lb_agent::dataplane::kernel::unload(&directory(&lab, table))?;
    }
    if lab.pin_dir().exists() {
        std::fs::remove_dir(lab.pin_dir()).context("removing the pin directory")?;
    }
    lab.assert_clean()?;
    let report = report?;
    options.output.publish(&report.markdown(), &report.json())
}

fn chosen(options: &Options) -> Result<Vec<Case>> {
    let wanted = |case: &Case| options.only.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
    let cases: Vec<_> = cases::ALL.into_iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no case has that in its name; they are: {:?}", cases::ALL.map(|case| case.name));
    Ok(cases)
}

fn directory(lab: &Lab, table: Table) -> PathBuf {
    lab.pin_dir().join(table.entries().to_string())
}

struct Bench {
    programs: Programs,
    /// As [`Table::ALL`].
    planes: Vec<Plane>,
}

impl Bench {
    fn new(lab: &Lab) -> Result<Self> {
        let mut programs = Programs::load()?;
        let (vip, backends) = Plane::floor_service();
        programs.fill(vip, &backends)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outside = runtime.block_on(async { netlink::link(&netlink::connect()?, CLIENT_DEVICE).await })?.index;
        let open = |table| Plane::open(&directory(lab, table), table, outside);
        let mut planes = Table::ALL.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        planes.iter_mut().try_for_each(|plane| plane.resolve_clients(&mut programs))?;
        Ok(Self { programs, planes })
    }

    fn measure(&mut self, options: &Options, cases: &[Case], interrupt: &Interrupt) -> Result<Report> {
        let (rounds, packets) =
            if options.quick { (QUICK_ROUNDS, QUICK_PACKETS) } else { (options.rounds, options.packets) };
        let mut report = Report {
            machine: machine(),
            rounds,
            packets,
            rows: cases.iter().map(|case| Row { name: case.name, ..Row::default() }).collect(),
            verified: costs(Configuration::default())?.into_iter().map(|cost| (cost.program, cost.verified)).collect(),
            ..Report::default()
        };
        for round in 1..=rounds {
            anstream::eprintln!("bench: round {round} of {rounds}");
            let transmit = self.programs.alone(Floor::Transmit, &Plane::floor_packet(), packets)?.ns;
            report.transmit.push(transmit);
            report.swap.push(self.programs.alone(Floor::Swap, &Plane::floor_packet(), packets)?.ns);
            for (case, row) in cases.iter().zip(&mut report.rows) {
                // A signal also ends the system call in which packets run.
                interrupt.check()?;
                self.case(case, row, transmit, packets).with_context(|| format!("measuring {:?}", case.name))?;
            }
        }
        Ok(report)
    }

    fn case(&mut self, case: &Case, row: &mut Row, transmit: f64, packets: u32) -> Result<()> {
        let plane = &mut self.planes[Table::ALL.iter().position(|table| *table == case.table).unwrap_or(0)];
        plane.prepare(&mut self.programs, case)?;
        // Not counted: brings code, maps and branch predictors into the caches.
        plane.send(&mut self.programs, case, packets / 10)?;
        let (kind, order) = plane.packets(case);
        let preparation = self.programs.floor(Floor::Transmit, &kind, order, packets)?.ns - transmit;
        let (run, counted) = plane.send(&mut self.programs, case, packets)?;
        case.check(packets, &counted).map_err(anyhow::Error::msg)?;
        row.verdict = run.verdict;
        row.raw.push(run.ns);
        row.ns.push(run.ns - preparation);
        row.preparation.push(preparation);
        if case.has_floor() {
            let kind = packets::Kind { server: Plane::floor_packet().server, ..kind };
            let floor = self.programs.floor(Floor::Stateless, &kind, order, packets)?;
            ensure!(floor.verdict == XDP_TX, "the floor did not forward; its verdict was {}", floor.verdict);
            row.stateless.push(floor.ns - preparation);
        }
        Ok(())
    }
}

fn pin(cpu: Option<usize>) -> Result<()> {
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    let cpu = cpu.unwrap_or(last);
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("running on CPU {cpu} only"))
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| rest.trim_start_matches(|c: char| c.is_whitespace() || c == ':'));
    format!("{model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
