//! Damaged frames by the thousand: the program makes of each what the plain reference says (`packets::reference`), and
//! whatever it is, nothing but what NAT has to change has changed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lb_common::counters::BackendCounters;
use lb_common::reason::Reason;
use lb_tests::packets::frame::Checksum;
use lb_tests::packets::mutate::mutate;
use lb_tests::packets::plan::{BACKEND_NUMBERS, NARROW_MTU, STACKS};
use lb_tests::packets::reference::{Prediction, Side, check_answer, check_rewrite, check_too_big, parts, predict};
use lb_tests::packets::{Frame, Role, Verdict, World, flag, with_world};
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

/// One seed for all runs; change it to look elsewhere.
const SEED: u64 = 0x0226_0001;
const FRAMES: usize = 20_000;
/// Few enough that replies find their flows.
const CLIENT_PORTS: u16 = 24;
/// All of the plan's backends are read every so many frames; in between, the one that is concerned.
const FULL_CHECK_EVERY: usize = 250;

/// What has been counted since the start, by the predictions.
struct Ledger {
    start: BTreeMap<u16, BackendCounters>,
    counted: BTreeMap<u16, BackendCounters>,
    reasons: BTreeMap<Reason, u64>,
}

fn add(total: &mut BackendCounters, more: &BackendCounters) {
    total.packets += more.packets;
    total.bytes += more.bytes;
    total.reply_packets += more.reply_packets;
    total.reply_bytes += more.reply_bytes;
    total.new_flows += more.new_flows;
    total.resets += more.resets;
}

impl Ledger {
    fn open(world: &World) -> Result<Self> {
        Ok(Self { start: world.counters()?, counted: BTreeMap::new(), reasons: world.reasons()? })
    }

    fn expected(&self, id: u16) -> BackendCounters {
        let mut total = self.start[&id];
        add(&mut total, self.counted.get(&id).unwrap_or(&BackendCounters::default()));
        total
    }

    /// Evictions are not predicted.
    fn check(&self, world: &World, ids: impl IntoIterator<Item = u16>) -> Result<()> {
        for id in ids {
            let mut seen = world.kernel.counters(id)?;
            (seen.evicted_half_open, seen.evicted_stale) = (0, 0);
            let expected = self.expected(id);
            ensure!(seen == expected, "backend {id}: {seen:?} instead of {expected:?}");
        }
        Ok(())
    }
}

/// A frame as somebody sends it: mostly of our services, in both directions.
fn sound_frame(rng: &mut Pcg64Mcg) -> Vec<u8> {
    let stack = STACKS[rng.random_range(0..STACKS.len())];
    let role = Role::ALL[rng.random_range(0..Role::ALL.len())];
    let role = if rng.random_bool(0.6) { Role::Spread } else { role };
    let client = stack.client(1000 + rng.random_range(0..CLIENT_PORTS));
    let hosts = stack.hosts(role);
    let mut frame = if hosts.is_empty() || rng.random_bool(0.6) {
        Frame::new(stack, client, stack.vip(role))
    } else {
        Frame::new(stack, hosts[rng.random_range(0..hosts.len())].address, client)
    };
    const FLAGS: [u8; 6] =
        [flag::SYN, flag::SYN | flag::ACK, flag::ACK, flag::ACK | flag::PSH, flag::FIN | flag::ACK, flag::RST];
    frame.flags = FLAGS[rng.random_range(0..FLAGS.len())];
    frame = frame.payload(rng.random_range(0..80));
    if rng.random_bool(0.2) {
        frame = frame.payload(rng.random_range(1200..1400));
    }
    frame = frame.ip_options(rng.random_range(0..=4)).tcp_options(rng.random_range(0..=4));
    if rng.random_bool(0.2) {
        frame = frame.padding(rng.random_range(1..20));
    }
    frame.checksum = match rng.random_range(0..8) {
        0 => Checksum::Zero,
        1 => Checksum::Off(rng.random_range(1..0xffff)),
        _ => Checksum::Right,
    };
    frame.build()
}

/// What holds of every frame, whatever it is.
fn check_laws(before: &[u8], verdict: Verdict, after: &[u8], reasons: &BTreeMap<Reason, u64>) -> Result<()> {
    let drops = [
        Reason::NoBackend,
        Reason::Malformed,
        Reason::TcpFlags,
        Reason::TtlExpired,
        Reason::MapMiss,
        Reason::Land,
        Reason::TooBig,
        Reason::Martian,
        Reason::Hairpin,
    ];
    let dropped: u64 = drops.iter().filter_map(|reason| reasons.get(reason)).sum();
    match verdict {
        Verdict::Drop => {
            ensure!(dropped == 1, "dropped for {dropped} reasons: {reasons:?}");
            ensure!(before == after, "changed, then dropped");
        }
        Verdict::Pass => {
            ensure!(dropped == 0, "counted as dropped, but passed: {reasons:?}");
            // The one exception: the stack is to forward a reply whose neighbour is not known.
            let rewritten = reasons.contains_key(&Reason::NoNeighbour);
            ensure!(before == after || rewritten, "changed, then passed: {reasons:?}");
        }
        Verdict::Tx | Verdict::Redirect => {
            let answers = [Reason::TooBig, Reason::NoBackend, Reason::TtlExpired];
            let allowed =
                |reason| reason == Reason::FlowTableFull || verdict == Verdict::Tx && answers.contains(&reason);
            ensure!(reasons.keys().all(|reason| allowed(*reason)), "sent, with {reasons:?}");
        }
    }
    Ok(())
}

/// Verdict, frame and reasons as predicted; says what is to be counted for whom.
fn check_prediction(
    prediction: Prediction,
    before: &[u8],
    verdict: Verdict,
    after: &[u8],
    reasons: &BTreeMap<Reason, u64>,
) -> Result<Option<(u16, BackendCounters)>> {
    let mut reasons = reasons.clone();
    reasons.remove(&Reason::FlowTableFull);
    let limited = reasons.remove(&Reason::AnswerLimit).is_some();
    ensure!(!limited || verdict == Verdict::Drop, "{verdict:?} where no more answers are given");
    match prediction {
        Prediction::Untouched => {
            ensure!(verdict == Verdict::Pass && reasons.is_empty(), "{verdict:?} with {reasons:?}");
            Ok(None)
        }
        Prediction::Refused(reason) => {
            check_refused(reason, verdict, &reasons)?;
            Ok(None)
        }
        Prediction::Answered(reason) => {
            ensure!(reasons == BTreeMap::from([(reason, 1)]), "{reasons:?} instead of {reason:?}");
            match verdict {
                Verdict::Tx => check_answer(before, after, reason)?,
                other => ensure!(limited && other == Verdict::Drop && before == after, "{other:?} without an answer"),
            }
            Ok(None)
        }
        Prediction::Request { host, way: Err(Reason::TooBig), counted } => {
            ensure!(reasons == BTreeMap::from([(Reason::TooBig, 1)]), "{reasons:?} for a packet that is too big");
            match verdict {
                Verdict::Tx => check_too_big(before, after, NARROW_MTU)?,
                other => ensure!(limited && other == Verdict::Drop && before == after, "{other:?} without an answer"),
            }
            Ok(Some((host.id, counted)))
        }
        Prediction::Request { host, way: Err(reason), counted } => {
            check_refused(reason, verdict, &reasons)?;
            ensure!(before == after, "refused, and changed");
            Ok(Some((host.id, counted)))
        }
        Prediction::Request { host, way: Ok((way, macs)), counted } => {
            ensure!(verdict == way, "{verdict:?} instead of {way:?}");
            check_rewrite(before, after, Side::Destination, host.address, Some(macs))?;
            Ok(Some((host.id, counted)))
        }
        Prediction::Reply { host, macs, counted } => {
            ensure!(verdict == Verdict::Redirect, "{verdict:?} for a reply");
            check_rewrite(before, after, Side::Source, host.vip, Some(macs))?;
            Ok(Some((host.id, counted)))
        }
        Prediction::Unknown => {
            let unreachable = [Reason::NoRoute, Reason::NoNeighbour, Reason::TooBig];
            ensure!(reasons.keys().all(|reason| unreachable.contains(reason)), "{reasons:?}");
            Ok(None)
        }
    }
}

/// Exactly this reason, once, and its documented verdict.
fn check_refused(reason: Reason, verdict: Verdict, reasons: &BTreeMap<Reason, u64>) -> Result<()> {
    let documented = match reason {
        Reason::NoBackend
        | Reason::Malformed
        | Reason::TcpFlags
        | Reason::TtlExpired
        | Reason::MapMiss
        | Reason::Martian
        | Reason::Land => Verdict::Drop,
        _ => Verdict::Pass,
    };
    ensure!(*reasons == BTreeMap::from([(reason, 1)]), "{reasons:?} instead of {reason:?}");
    ensure!(verdict == documented, "{verdict:?} for {reason:?}");
    Ok(())
}

fn kind(prediction: Prediction) -> String {
    match prediction {
        Prediction::Untouched => "untouched".to_owned(),
        Prediction::Refused(reason) => format!("refused: {}", reason.name()),
        Prediction::Answered(reason) => format!("answered: {}", reason.name()),
        Prediction::Request { way: Ok((verdict, _)), .. } => format!("request: {verdict:?}"),
        Prediction::Request { way: Err(reason), .. } => format!("request refused: {}", reason.name()),
        Prediction::Reply { .. } => "reply".to_owned(),
        Prediction::Unknown => "unknown".to_owned(),
    }
}

/// One frame against the reference and the laws.
fn step(world: &mut World, ledger: &mut Ledger, frame: &[u8]) -> Result<String> {
    let prediction = predict(world, frame)?;
    let (verdict, out) = world.run(frame)?;
    let now = world.reasons()?;
    let more = |(reason, count): (&Reason, &u64)| {
        let more = count - ledger.reasons.get(reason).unwrap_or(&0);
        (more > 0).then_some((*reason, more))
    };
    let reasons: BTreeMap<_, _> = now.iter().filter_map(more).collect();
    ledger.reasons = now;
    check_laws(frame, verdict, &out, &reasons)?;
    let concerned = check_prediction(prediction, frame, verdict, &out, &reasons);
    match concerned.with_context(|| format!("predicted {prediction:?}"))? {
        Some((id, counted)) => {
            add(ledger.counted.entry(id).or_default(), &counted);
            ledger.check(world, [id])?;
        }
        None if prediction == Prediction::Unknown => *ledger = Ledger::open_without_evictions(world)?,
        None => {}
    }
    Ok(kind(prediction))
}

impl Ledger {
    fn open_without_evictions(world: &World) -> Result<Self> {
        let mut ledger = Self::open(world)?;
        for counters in ledger.start.values_mut() {
            (counters.evicted_half_open, counters.evicted_stale) = (0, 0);
        }
        Ok(ledger)
    }
}

fn describe(frame: &[u8]) -> String {
    let headers: Vec<_> = frame.iter().take(130).map(|byte| format!("{byte:02x}")).collect();
    format!("{:?}\n{} bytes: {}", parts(frame), frame.len(), headers.join(" "))
}

#[test]
fn damaged_frames_get_what_the_reference_says() {
    with_world(|world| {
        world.restore()?;
        let mut rng = Pcg64Mcg::seed_from_u64(SEED);
        let mut ledger = Ledger::open_without_evictions(world)?;
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for number in 0..FRAMES {
            let mut frame = sound_frame(&mut rng);
            if rng.random_bool(0.8) {
                mutate(&mut rng, &mut frame);
            }
            if !world.takes(&frame) {
                continue;
            }
            let context = || format!("frame {number} of seed {SEED:#x}: {}", describe(&frame));
            let kind = step(world, &mut ledger, &frame).with_context(context)?;
            *kinds.entry(kind).or_default() += 1;
            if number % FULL_CHECK_EVERY == 0 {
                ledger.check(world, BACKEND_NUMBERS).with_context(|| format!("before frame {number}"))?;
            }
        }
        ledger.check(world, BACKEND_NUMBERS)?;
        println!("{kinds:#?}");
        check_variety(&kinds)
    });
}

/// What hardly came up was hardly tested.
fn check_variety(kinds: &BTreeMap<String, usize>) -> Result<()> {
    let expected = [
        "untouched",
        "reply",
        "request: Redirect",
        "request: Tx",
        "refused: malformed",
        "refused: fragment",
        "refused: ttl-expired",
        "answered: ttl-expired",
        "answered: no-backend",
        "refused: tcp-flags",
        "refused: no-backend",
        "refused: vlan",
        "request refused: no-neighbour",
        "request refused: no-route",
        "request refused: too-big",
    ];
    for kind in expected {
        let count = kinds.get(kind).copied().unwrap_or(0);
        ensure!(count >= 20, "only {count} frames were {kind:?}");
    }
    ensure!(kinds.get("unknown").copied().unwrap_or(0) < FRAMES / 50, "too much is left open");
    Ok(())
}
