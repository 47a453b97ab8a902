//! What is shown, in which order, and what must be true for the demo to succeed: all backends serve, one is killed and
//! taken out within the documented time, nothing fails from then on, and it comes back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_agent::load::Report;
use lb_tests::lab::address::Family;
use lb_tests::lab::{CLIENT_DEVICE, Lab};
use lb_tests::programs::HTTP_PORT;

use super::screen::Screen;
use super::stage::{DELAYS, Stage};
use super::summary::{self, Phase};
use super::watched::Watched;

/// Requests per second: enough for percentiles, and little for two cores with a debug build.
const RATE: f64 = 400.0;
const CALM: Duration = Duration::from_secs(8);
const REDUCED: Duration = Duration::from_secs(6);
const RETURN: Duration = Duration::from_secs(8);
/// The backend that is killed, from 0.
const VICTIM: usize = 1;
/// The agent is asked every 10 ms; the rest is for its answer on a machine that does something else too.
const LOOKING: Duration = Duration::from_millis(100);
/// After this a backend that is not taken out, or not taken back, never will be.
const PATIENCE: Duration = Duration::from_secs(15);

/// Draws who is there.
pub(super) fn introduce(lab: &Lab, screen: &Screen) -> Result<()> {
    let (client, vip) = (Family::V4.client(), SocketAddr::new(Family::V4.vip(), HTTP_PORT));
    let rows = lab.backends.iter().zip(DELAYS).enumerate().map(|(index, (backend, delay))| {
        let address = SocketAddr::new(backend.address(Family::V4), HTTP_PORT);
        let joint = match index {
            0 => '┬',
            last if last + 1 == lab.backends.len() => '└',
            _ => '├',
        };
        format!("{joint}── {} ── {}  {address}  answers in {delay:?}", backend.device, backend.name)
    });
    let (left, under) = (format!("client ── {CLIENT_DEVICE} [ balancer ] ─"), format!("{client}    VIP {vip}"));
    let width = left.chars().count().max(under.chars().count() + 1);
    screen.step("A client, a balancer and three HTTP servers", "Each in a network namespace, joined by veth pairs.")?;
    for (index, row) in rows.enumerate() {
        let margin = match index {
            0 => format!("{left:─<width$}"),
            1 => format!("{under:<width$}"),
            _ => " ".repeat(width),
        };
        screen.line(&format!("  {margin}{row}"))?;
    }
    Ok(())
}

/// Plays it all, and prints the figures.
pub(super) fn tell(stage: &mut Stage<'_>, screen: &Screen) -> Result<()> {
    attached(stage, screen)?;
    let mut phases = vec![all_serve(stage, screen)?];
    let (dying, reduced, detection) = one_dies(stage, screen)?;
    phases.extend([dying, reduced]);
    let (returning, recovery) = it_returns(stage, screen)?;
    phases.push(returning);
    screen.step("Summary", "Latency in milliseconds, from the intended send time; shares of the requests answered.")?;
    let names: Vec<_> = stage.lab.backends.iter().map(|backend| backend.name.as_str()).collect();
    screen.line(&(summary::table(&phases, &names) + "\n"))?;
    let name = names[VICTIM];
    screen.kept(&format!("{name} was taken out {detection:.2?} after it was killed; allowed: {}", allowed(stage)))?;
    screen.kept(&format!("0 of {} requests failed after that", summary::requests(&phases[2..])))?;
    screen.kept(&format!("{name} was back {recovery:.2?} after it was started again"))
}

fn attached(stage: &Stage<'_>, screen: &Screen) -> Result<()> {
    let status = stage.status()?;
    screen
        .step("The balancer starts", "A program in the driver rewrites each packet; the agent only keeps it right.")?;
    for one in &status.attachments {
        screen.note(&format!("{:5} {} {}, program {}", one.interface, one.hook, one.mode, one.program_id))?;
    }
    ensure!(
        status.attachments.iter().all(|one| one.hook == "xdp" && one.mode == "native"),
        "not every interface has the program in native mode"
    );
    Ok(())
}

fn all_serve(stage: &Stage<'_>, screen: &Screen) -> Result<Phase> {
    let why =
        format!("{RATE} requests per second to the VIP, a new connection for each; shares as the agent counts them.");
    screen.step("All three serve", &why)?;
    let report = Watched::start(stage, screen, RATE, CALM)?.until_end(stage)?;
    no_failure(&report, "while all backends were up")?;
    for backend in &stage.lab.backends {
        ensure!(answered(&report, &backend.name) > 0, "{} has answered no request", backend.name);
    }
    Ok(Phase { name: "all three serve".into(), report })
}

/// The phase until the dead backend is out, the phase without it, and how long it took.
fn one_dies(stage: &mut Stage<'_>, screen: &Screen) -> Result<(Phase, Phase, Duration)> {
    let name = stage.lab.backends[VICTIM].name.clone();
    let health = stage.health();
    let limit = health.detection() + LOOKING;
    let why = format!(
        "It is checked every {:?}; after {} failures it gets nothing more. Until then some requests fail.",
        health.interval, health.fall
    );
    screen.step(&format!("{name} is killed (SIGKILL)"), &why)?;
    let mut dying = Watched::start(stage, screen, RATE, PATIENCE)?;
    let killed = stage.kill(VICTIM)?;
    let out = dying.until_state(stage, &name, "down", PATIENCE)?;
    let detection = out - killed;
    // Begun before the other ends, so that traffic never pauses.
    let reduced = Watched::start(stage, screen, RATE, REDUCED)?;
    let dying = dying.cut()?;
    ensure!(detection <= limit, "{name} was taken out after {detection:.2?}; allowed: {}", allowed(stage));
    screen.kept(&format!("out after {detection:.2?}; allowed: {}", allowed(stage)))?;
    screen.note(&format!(
        "{} of {} requests failed until then: {}; {} were under way when it was out",
        dying.errors,
        dying.requests,
        summary::kinds(&dying),
        dying.unfinished
    ))?;
    screen.step("Two carry on", "From here on no request may fail.")?;
    let reduced = reduced.until_end(stage)?;
    no_failure(&reduced, &format!("after {name} was out"))?;
    ensure!(answered(&reduced, &name) == 0, "{name} has answered although it is dead");
    let dying = Phase { name: format!("{name} killed, not yet out"), report: dying };
    Ok((dying, Phase { name: format!("{name} out"), report: reduced }, detection))
}

fn it_returns(stage: &mut Stage<'_>, screen: &Screen) -> Result<(Phase, Duration)> {
    let name = stage.lab.backends[VICTIM].name.clone();
    let why = format!("After {} good checks it gets its share again.", stage.health().rise);
    screen.step(&format!("{name} is started again"), &why)?;
    let mut traffic = Watched::start(stage, screen, RATE, RETURN)?;
    let started = stage.revive(VICTIM)?;
    let up = traffic.until_state(stage, &name, "up", PATIENCE)?;
    screen.kept(&format!("back after {:.2?}", up - started))?;
    let report = traffic.until_end(stage)?;
    no_failure(&report, &format!("while {name} came back"))?;
    ensure!(answered(&report, &name) > 0, "{name} is up again and has answered no request");
    Ok((Phase { name: format!("{name} comes back"), report }, up - started))
}

/// The documented bound, in words.
fn allowed(stage: &Stage<'_>) -> String {
    let health = stage.health();
    format!(
        "{} × {:?} + {:?} = {:?}, and {LOOKING:?} for looking",
        health.fall,
        health.interval,
        health.timeout,
        health.detection()
    )
}

fn answered(report: &Report, backend: &str) -> u64 {
    report.backends.iter().find(|one| one.name == backend).map_or(0, |one| one.requests)
}

fn no_failure(report: &Report, when: &str) -> Result<()> {
    ensure!(report.requests > 0, "no request was sent {when}");
    ensure!(
        report.errors == 0,
        "{} of {} requests failed {when}: {}{}",
        report.errors,
        report.requests,
        summary::kinds(report),
        report.error_example.as_ref().map_or_else(String::new, |example| format!(" (for example: {example})"))
    );
    Ok(())
}
