//! One row: what has happened before, a packet, and everything that is expected of it. What a row does not mention must
//! not change: no other counter, no other flow entry, no byte of the frame.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Context as _, Result, bail};
use lb_agent::dataplane::kernel::Missing;
use lb_common::counters::BackendCounters;
use lb_common::flow::{FlowEntry, FlowState};
use lb_common::mode::Tracking;
use lb_common::reason::Reason;
use lb_common::slot::Slot;

use super::frame::{Frame, Tuple};
use super::plan::{Host, Link, NARROW_MTU};
use super::snapshot::{Snapshot, more_counters, more_reasons};
use super::{Verdict, World};
use crate::lab::address::Family;

/// What has happened before the packet, beginning with the plan's world and an empty flow table.
#[derive(Debug, Clone)]
pub enum Given {
    Packet(Frame),
    /// Its handshake has passed.
    Established(Tuple, Host),
    /// All slots of its service have moved to this backend.
    Moved(Host),
    /// Its service records no more flows than this says, and all slots are as this slot.
    Tracking(Host, Tracking, Slot),
    /// It takes no new flows; its slots are where they were.
    Draining(Host),
    Removed(Host),
    /// So many units of time have passed without a packet of this flow.
    Silent(Tuple, u32),
    /// The kernel does not forward.
    ForwardingOff(Family),
}

/// The one entry that the packet makes or changes.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    tuple: Tuple,
    backend: u16,
    state: FlowState,
    /// The flow whose place it takes.
    instead_of: Option<Tuple>,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    given: Vec<Given>,
    frame: Vec<u8>,
    verdict: Verdict,
    out: Vec<u8>,
    counters: BTreeMap<u16, BackendCounters>,
    reasons: BTreeMap<Reason, u64>,
    remembered: Option<Remembered>,
    missing: Vec<Missing>,
    /// Whose packet it is, for [`Row::remembers`].
    flow: Option<(Tuple, u16)>,
}

impl Row {
    /// None of ours: passed as it is, and nothing has happened.
    pub fn untouched(name: impl Into<String>, frame: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            given: vec![],
            out: frame.clone(),
            frame,
            verdict: Verdict::Pass,
            counters: BTreeMap::new(),
            reasons: BTreeMap::new(),
            remembered: None,
            missing: vec![],
            flow: None,
        }
    }

    /// Not forwarded: counted by reason, and nothing else has happened. The verdict is spelled out by the row, so that
    /// the table of reasons is held against it.
    pub fn refused(name: impl Into<String>, frame: Vec<u8>, reason: Reason, verdict: Verdict) -> Self {
        Self { verdict, ..Self::untouched(name, frame) }.counting(reason)
    }

    /// From a client, not forwarded for a reason, and its sender is told so.
    pub fn answered(name: impl Into<String>, frame: &Frame, reason: Reason, answer: Vec<u8>) -> Self {
        Self::untouched(name, frame.build()).becomes(Verdict::Tx, answer).counting(reason)
    }

    /// From a client, and forwarded to this backend, or refused where the plan says that it cannot be reached.
    pub fn request(name: impl Into<String>, world: &World, frame: &Frame, host: Host) -> Self {
        let built = frame.build();
        let bytes = built.len() as u64;
        let length = built.len() - super::frame::ETHERNET - frame.padding.len();
        let row = Self::untouched(name, built);
        let row = match world.way(&host, length) {
            Ok((verdict, macs)) => Self { verdict, out: frame.sent_to(host.address, macs).build(), ..row },
            Err(Reason::TooBig) => {
                let row = Self { verdict: Verdict::Tx, out: frame.too_big(NARROW_MTU as usize), ..row };
                row.counting(Reason::TooBig)
            }
            Err(reason) => row.counting(reason),
        };
        let row = Self { flow: Some((frame.tuple(), host.id)), ..row };
        row.counted(host.id, |counters| (counters.packets, counters.bytes) = (1, bytes))
    }

    /// From a client, and to any kind of backend as the row says.
    pub fn sent(name: impl Into<String>, frame: &Frame, backend: u16, verdict: Verdict, out: Vec<u8>) -> Self {
        let built = frame.build();
        let bytes = built.len() as u64;
        let row = Self { flow: Some((frame.tuple(), backend)), ..Self::untouched(name, built) }.becomes(verdict, out);
        row.counted(backend, |counters| (counters.packets, counters.bytes) = (1, bytes))
    }

    /// From a backend, and forwarded to the lab's client, who is also the gateway to the rest of the world.
    pub fn reply(name: impl Into<String>, world: &World, frame: &Frame, host: Host) -> Self {
        let out = frame.returned_from(host.vip, world.hop(Link::Client).1).build();
        Self { verdict: Verdict::Redirect, out, ..Self::answer(name, frame, host) }
    }

    /// From a backend, to a client whose neighbour is to be found: rewritten but for the hardware addresses.
    pub fn reply_without_neighbour(
        name: impl Into<String>,
        world: &World,
        frame: &Frame,
        host: Host,
        link: Link,
    ) -> Self {
        let out = frame.returned_from(host.vip, frame.macs).build();
        let missing = vec![Missing { address: frame.destination.ip(), ifindex: world.hop(link).0 }];
        Self { out, missing, ..Self::answer(name, frame, host) }.counting(Reason::NoNeighbour)
    }

    fn answer(name: impl Into<String>, frame: &Frame, host: Host) -> Self {
        let built = frame.build();
        let bytes = built.len() as u64;
        let tuple = Tuple { protocol: frame.stack.protocol, source: frame.destination, destination: host.vip };
        let row = Self { flow: Some((tuple, host.id)), ..Self::untouched(name, built) };
        row.counted(host.id, |counters| (counters.reply_packets, counters.reply_bytes) = (1, bytes))
    }

    /// Refused on its way to the backend: until there, it is a new flow's packet like any other.
    pub fn refused_later(name: impl Into<String>, frame: &Frame, host: Host, reason: Reason, verdict: Verdict) -> Self {
        let built = frame.build();
        let bytes = built.len() as u64;
        let row = Self { flow: Some((frame.tuple(), host.id)), ..Self::refused(name, built, reason, verdict) };
        row.counted(host.id, |counters| (counters.packets, counters.bytes) = (1, bytes)).opens()
    }

    #[must_use]
    pub fn given(mut self, given: impl IntoIterator<Item = Given>) -> Self {
        self.given.extend(given);
        self
    }

    /// The same change to the packet and to what is expected of it.
    #[must_use]
    pub fn changed(self, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Self {
        Self { frame: change(self.frame), out: change(self.out), ..self }
    }

    #[must_use]
    pub fn becomes(self, verdict: Verdict, out: Vec<u8>) -> Self {
        Self { verdict, out, ..self }
    }

    #[must_use]
    pub fn counting(mut self, reason: Reason) -> Self {
        self.reasons.insert(reason, 1);
        self
    }

    #[must_use]
    pub fn counted(mut self, backend: u16, change: impl FnOnce(&mut BackendCounters)) -> Self {
        change(self.counters.entry(backend).or_default());
        self
    }

    /// It belongs to this flow, whatever became of it.
    #[must_use]
    pub fn of(self, flow: Tuple, host: Host) -> Self {
        Self { flow: Some((flow, host.id)), ..self }
    }

    /// A new flow of the backend that is not remembered.
    #[must_use]
    pub fn new_flow(self) -> Self {
        let (_, backend) = self.flow.expect("the row has a flow");
        self.counted(backend, |counters| counters.new_flows = 1)
    }

    /// The packet's flow is remembered afterwards.
    #[must_use]
    pub fn remembers(self, state: FlowState) -> Self {
        let (tuple, backend) = self.flow.expect("the row has a flow");
        Self { remembered: Some(Remembered { tuple, backend, state, instead_of: None }), ..self }
    }

    /// A new flow that is remembered, as half-open.
    #[must_use]
    pub fn opens(self) -> Self {
        self.new_flow().remembers(FlowState::HalfOpen)
    }

    /// A new flow, for which another one is forgotten.
    #[must_use]
    pub fn opens_instead_of(self, loser: Tuple) -> Self {
        let mut row = self.opens();
        if let Some(remembered) = &mut row.remembered {
            remembered.instead_of = Some(loser);
        }
        row
    }

    /// The backend has reset the connection.
    #[must_use]
    pub fn reset(self) -> Self {
        let (_, backend) = self.flow.expect("the row has a flow");
        self.counted(backend, |counters| counters.resets = 1)
    }
}

/// Runs all rows, and says which of them are wrong, and how.
pub fn check_table(world: &mut World, rows: Vec<Row>) -> Result<()> {
    let rows: Vec<_> = rows.into_iter().filter(|row| world.takes(&row.frame)).collect();
    let count = rows.len();
    let wrong: Vec<_> = rows.into_iter().filter_map(|row| check(world, &row).err()).collect();
    println!("{count} rows");
    if !wrong.is_empty() {
        let texts: Vec<_> = wrong.iter().map(|error| format!("{error:#}")).collect();
        bail!("{} of {count} rows are wrong:\n\n{}", wrong.len(), texts.join("\n\n"));
    }
    Ok(())
}

/// The one way in: what is given, the packet, and everything that has changed.
pub fn check(world: &mut World, row: &Row) -> Result<()> {
    let complaints = run(world, row).with_context(|| row.name.clone())?;
    if !complaints.is_empty() {
        bail!("{}:\n  {}", row.name, complaints.join("\n  "));
    }
    Ok(())
}

fn run(world: &mut World, row: &Row) -> Result<Vec<String>> {
    world.restore()?;
    for given in &row.given {
        happen(world, given).with_context(|| format!("given {given:?}"))?;
    }
    world.events()?;
    let before = world.snapshot()?;
    let (verdict, out) = world.run(&row.frame)?;
    let after = world.snapshot()?;
    let events = world.events()?;
    let mut complaints = Vec::new();
    differ(&mut complaints, "verdict", &verdict, &row.verdict);
    differ(&mut complaints, "reasons", &more_reasons(&before.reasons, &after.reasons), &row.reasons);
    differ(&mut complaints, "counters", &more_counters(&before.counters, &after.counters), &row.counters);
    differ(&mut complaints, "events", &events, &row.missing);
    if out != row.out {
        complaints.push(format!("frame: {}", compare(&out, &row.out)));
    }
    complaints.extend(check_flows(world, &before, &after, row.remembered)?);
    Ok(complaints)
}

fn happen(world: &mut World, given: &Given) -> Result<()> {
    match given {
        Given::Packet(frame) => world.run(&frame.build()).map(drop),
        Given::Established(tuple, host) => world.establish(*tuple, *host),
        Given::Moved(host) => world.point(*host),
        Given::Tracking(host, tracking, slot) => world.set_tracking(*host, *tracking, *slot),
        Given::Draining(host) => world.put_backend(*host, false),
        Given::Removed(host) => Ok(world.kernel.tables_mut().remove_backend(host.id)?),
        Given::Silent(tuple, units) => world.age(*tuple, *units),
        Given::ForwardingOff(family) => world.set_forwarding(*family, false),
    }
}

fn differ<T: PartialEq + Debug>(complaints: &mut Vec<String>, what: &str, seen: &T, expected: &T) {
    if seen != expected {
        complaints.push(format!("{what}: {seen:?} instead of {expected:?}"));
    }
}

/// At most the one entry has changed, and it is what the row says.
fn check_flows(
    world: &World,
    before: &Snapshot,
    after: &Snapshot,
    remembered: Option<Remembered>,
) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let tag = remembered.map(|remembered| world.hash(remembered.tuple).tag());
    for (old, new) in before.flows.iter().flatten().zip(after.flows.iter().flatten()) {
        let (old, new) = (FlowEntry(*old), FlowEntry(*new));
        if old != new && tag != Some(new.tag()) {
            complaints.push(format!("flow entry: {} became {}", describe(old), describe(new)));
        }
    }
    let Some(expected) = remembered else { return Ok(complaints) };
    let entry = world.entry(expected.tuple)?.unwrap_or(FlowEntry(0));
    if (entry.backend(), entry.state()) != (expected.backend, Some(expected.state)) {
        complaints.push(format!(
            "flow: {} instead of backend {} {}",
            describe(entry),
            expected.backend,
            expected.state.name()
        ));
    }
    if let Some(loser) = expected.instead_of
        && let Some(entry) = world.entry(loser)?
    {
        complaints.push(format!("flow: {loser:?} is still remembered: {}", describe(entry)));
    }
    let more = after.entries().count() as i64 - before.entries().count() as i64;
    let expected_more = i64::from(expected.instead_of.is_none() && !knew(before, tag));
    differ(&mut complaints, "flows more", &more, &expected_more);
    Ok(complaints)
}

fn knew(snapshot: &Snapshot, tag: Option<u32>) -> bool {
    snapshot.entries().any(|entry| Some(entry.tag()) == tag)
}

fn describe(entry: FlowEntry) -> String {
    match entry.state() {
        Some(state) => format!("backend {} {} seen {}", entry.backend(), state.name(), entry.seen()),
        None => "nothing".to_owned(),
    }
}

/// The bytes in which two frames differ.
pub fn compare(seen: &[u8], expected: &[u8]) -> String {
    if seen.len() != expected.len() {
        return format!("{} bytes instead of {}", seen.len(), expected.len());
    }
    let pairs = seen.iter().zip(expected).enumerate().filter(|(_, (seen, expected))| seen != expected);
    let texts: Vec<_> =
        pairs.map(|(at, (seen, expected))| format!("byte {at} is {seen:02x} instead of {expected:02x}")).collect();
    texts.join(", ")
}
