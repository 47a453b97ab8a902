//! One service: its own keys, and what must be unique among all services. Health and backends have their own files.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::backend::backends;
use super::health::health;
use super::limits;
use super::reader::{Fields, LIMITS, Read, Reader, SERVICE};
use super::report::{Position, fault};
use super::schema::refuse_settings;
use super::yaml::{Node, Value};
use super::{names, unsupported, values};
use crate::model::config::{Affinity, Forward, Policy, Ports, Protocol, Scheduler, Service, Tracking};

const DEFAULT_SLOW_START: Duration = Duration::ZERO;
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_mins(1);
const DEFAULT_PANIC_THRESHOLD_PERCENT: u8 = 50;

/// An address, port and protocol.
pub(super) type Endpoint = (IpAddr, u16, Protocol);

pub(super) fn endpoint_text((address, port, protocol): Endpoint) -> String {
    format!("{}/{protocol}", SocketAddr::new(address, port))
}

/// What the services read so far have taken.
#[derive(Debug, Default)]
pub(super) struct Uniqueness {
    names: HashMap<String, Position>,
    /// Path of the service and where it says so.
    vips: HashMap<Endpoint, (String, Position)>,
    /// Backends whose replies come by here, and the services that they are in.
    pub(super) shared: HashMap<Endpoint, Vec<Membership>>,
    pub(super) backends: usize,
}

/// Of a backend in a service: the service's path, where the backend says its address, and whether the service records every flow.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) path: String,
    pub(super) at: Position,
    pub(super) recorded: bool,
}

impl Uniqueness {
    /// Replies to a port that flows are lent would be taken for requests where this host's address is also a VIP.
    pub(super) fn check_lent(&self, reader: &mut Reader<'_>, lent: Ports) -> Read<()> {
        let among = self.vips.iter().filter(|((_, port, _), _)| lent.contains(*port));
        let mut among: Vec<_> = among.collect();
        among.sort_by_key(|(endpoint, _)| **endpoint);
        let mut outcome = Ok(());
        for ((_, port, _), (path, at)) in among {
            let found = fault(
                format!("port {port} is among those that `snat` uses as source ports ({lent})"),
                "set `snat: { ports: .. }` to a range without it",
            );
            outcome = Err(reader.fail(*at, &format!("{path}.vip"), found));
        }
        outcome
    }
}

/// What a backend has to know of its service; none where the service's own value could not be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parent<'p> {
    pub(super) path: &'p str,
    pub(super) vip: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) protocol: Option<Protocol>,
    pub(super) forward: Option<Forward>,
    pub(super) tracking: Option<Tracking>,
}

pub(super) fn service(reader: &mut Reader<'_>, uniqueness: &mut Uniqueness, node: &Node, path: &str) -> Read<Service> {
    let fields = reader.fields(node, path, &SERVICE)?;
    // Everything is read before the first `?`, so that one mistake hides no other.
    let name = unique_name(reader, uniqueness, &fields);
    let vip = reader.required(&fields, "vip", "vip: 192.0.2.10", values::address);
    let port = reader.required(&fields, "port", "port: 80", values::port);
    let protocol = reader.choice(&fields, "protocol", Protocol::NAMES, Protocol::Tcp);
    let unique = match (vip, port, protocol) {
        (Ok(vip), Ok(port), Ok(protocol)) => unique_vip(reader, uniqueness, &fields, (vip, port, protocol), path),
        _ => Ok(()),
    };
    let forward = reader.choice(&fields, "forward", Forward::NAMES, Forward::Nat);
    let scheduler = reader.choice(&fields, "scheduler", Scheduler::NAMES, Scheduler::Consistent);
    let affinity = reader.choice(&fields, "affinity", Affinity::NAMES, Affinity::None);
    let tracking = reader.choice(&fields, "tracking", Tracking::NAMES, Tracking::Auto);
    let tracking = tracking.and_then(|tracking| all_recorded(reader, &fields, tracking, forward.ok()));
    let policy = policy(reader, &fields);
    let health = health(reader, &fields, protocol.ok());
    let slow_start = reader.optional(&fields, "slow_start", DEFAULT_SLOW_START, |text| {
        let value = values::duration(text, &limits::SLOW_START)?;
        unsupported::slow_start(value).map_or(Ok(value), Err)
    });
    let drain_timeout = reader.optional(&fields, "drain_timeout", DEFAULT_DRAIN_TIMEOUT, |text| {
        values::duration(text, &limits::DRAIN_TIMEOUT)
    });
    let panic_threshold = reader.optional(&fields, "panic_threshold", DEFAULT_PANIC_THRESHOLD_PERCENT, values::percent);
    let limits = flow_limits(reader, &fields);
    let parent = Parent {
        path,
        vip: vip.ok(),
        port: port.ok(),
        protocol: protocol.ok(),
        forward: forward.ok(),
        tracking: tracking.ok(),
    };
    let backends = backends(reader, uniqueness, &fields, parent);
    if let (Ok(scheduler), Ok(affinity), Ok(tracking)) = (scheduler, affinity, tracking) {
        agree(reader, &fields, scheduler, affinity, tracking)?;
        if let Ok(forward) = forward {
            by_slot_under_snat(reader, &fields, scheduler, affinity, forward)?;
        }
    }
    unique?;
    limits?;
    Ok(Service {
        name: name?,
        vip: vip?,
        port: port?,
        protocol: protocol?,
        forward: forward?,
        scheduler: scheduler?,
        affinity: affinity?,
        tracking: tracking?,
        policy: policy?,
        health: health?,
        slow_start: slow_start?,
        drain_timeout: drain_timeout?,
        panic_threshold_percent: panic_threshold?,
        backends: backends?,
    })
}

fn unique_name(reader: &mut Reader<'_>, uniqueness: &mut Uniqueness, fields: &Fields<'_>) -> Read<String> {
    let name = reader.required(fields, "name", "name: web", names::name)?;
    let at = fields.at_value("name");
    if let Some(first) = uniqueness.names.get(&name) {
        let place = reader.collector.source.place(*first);
        let found = fault(format!("`{name}` is already the name of the service on {place}"), "use another name");
        return Err(reader.fail(at, &fields.path("name"), found));
    }
    uniqueness.names.insert(name.clone(), at);
    Ok(name)
}

fn unique_vip(
    reader: &mut Reader<'_>,
    uniqueness: &mut Uniqueness,
    fields: &Fields<'_>,
    endpoint: Endpoint,
    path: &str,
) -> Read<()> {
    let at = fields.at_value("vip");
    if let Some((other, first)) = uniqueness.vips.get(&endpoint) {
        let place = reader.collector.source.place(*first);
        let found = fault(
            format!("{} is already served by {other} on {place}", endpoint_text(endpoint)),
            "use another vip, port or protocol",
        );
        return Err(reader.fail(at, &fields.path("vip"), found));
    }
    uniqueness.vips.insert(endpoint, (path.to_owned(), at));
    Ok(())
}

/// A name, or a mapping with a name and settings.
fn policy(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Read<Policy> {
    if let Some(node) = fields.get("policy")
        && matches!(node.value, Value::Map(_))
    {
        return Err(reader.fail(node.at, &fields.path("policy"), unsupported::policy_settings()));
    }
    reader.choice(fields, "policy", Policy::NAMES, Policy::Static)
}

/// Under `snat` the flow table knows a flow's port: without an entry there is no way back.
fn all_recorded(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    tracking: Tracking,
    forward: Option<Forward>,
) -> Read<Tracking> {
    if forward == Some(Forward::Snat) && matches!(tracking, Tracking::Minimal | Tracking::Off) {
        let found = fault(
            format!("under `snat` every flow is recorded, which `{tracking}` does not do"),
            "use `full`, or leave `tracking` out",
        );
        return Err(reader.fail(fields.at_value("tracking"), &fields.path("tracking"), found));
    }
    Ok(tracking)
}

/// Settings that contradict each other.
fn agree(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    scheduler: Scheduler,
    affinity: Affinity,
    tracking: Tracking,
) -> Read<()> {
    if !scheduler.needs_every_flow() {
        return Ok(());
    }
    if affinity == Affinity::ClientIp {
        let found = fault(
            format!("`client-ip` and `scheduler: {scheduler}` contradict each other: one of them chooses the backend"),
            "use `scheduler: consistent`, or `affinity: none`",
        );
        return Err(reader.fail(fields.at_value("affinity"), &fields.path("affinity"), found));
    }
    if matches!(tracking, Tracking::Minimal | Tracking::Off) {
        let found = fault(
            format!("`scheduler: {scheduler}` needs every flow to be remembered"),
            "use `tracking: full`, or `scheduler: consistent`",
        );
        return Err(reader.fail(fields.at_value("tracking"), &fields.path("tracking"), found));
    }
    Ok(())
}

fn flow_limits(reader: &mut Reader<'_>, service: &Fields<'_>) -> Read<()> {
    let Some(node) = service.get("limits") else {
        return Ok(());
    };
    let fields = reader.fields(node, &service.path("limits"), &LIMITS)?;
    refuse_settings(reader, &fields, LIMITS.keys)
}

/// Under `snat` a flow's entry holds its port, and its backend is its slot's.
fn by_slot_under_snat(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    scheduler: Scheduler,
    affinity: Affinity,
    forward: Forward,
) -> Read<()> {
    let (key, value, mend) = match (scheduler, affinity) {
        _ if forward != Forward::Snat => return Ok(()),
        (Scheduler::Consistent, Affinity::None) => return Ok(()),
        (Scheduler::Consistent, affinity) => ("affinity", affinity.as_str(), "use `none`"),
        (scheduler, _) => ("scheduler", scheduler.as_str(), "use `consistent`"),
    };
    let found = fault(format!("`{value}` does not go with `forward: snat` in this version"), mend);
    Err(reader.fail(fields.at_value(key), &fields.path(key), found))
}
