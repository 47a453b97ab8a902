//! The backends of a service, and what must be unique among them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use lb_common::limits::MAX_MEMBERSHIPS;

use super::limits;
use super::names;
use super::reader::{BACKEND, Fields, Read, Reader, Reported};
use super::report::{Position, fault};
use super::schema::refuse_setting;
use super::service::{Membership, Parent, Uniqueness, endpoint_text};
use super::values::{self, narrow, number};
use super::yaml::Node;
use crate::model::config::{Backend, Forward, MAX_WEIGHT, Tracking};

const DEFAULT_WEIGHT: u16 = 1;
const BACKENDS_EXAMPLE: &str = "backends: [{ address: 10.0.1.11 }]";

/// What the backends of one service have taken so far.
#[derive(Debug, Default)]
struct Taken {
    names: HashMap<String, Position>,
    endpoints: HashMap<(IpAddr, u16), Position>,
}

pub(super) fn backends(
    reader: &mut Reader<'_>,
    uniqueness: &mut Uniqueness,
    service: &Fields<'_>,
    parent: Parent<'_>,
) -> Read<Vec<Backend>> {
    let items = reader.items(service, "backends", BACKENDS_EXAMPLE)?;
    let list = service.path("backends");
    let mut taken = Taken::default();
    let mut backends = Vec::with_capacity(items.len().min(limits::MAX_BACKENDS));
    let mut failed: Option<Reported> = None;
    for (index, item) in items.iter().enumerate() {
        let path = format!("{list}[{index}]");
        if uniqueness.backends == limits::MAX_BACKENDS {
            let mend = format!("use up to {} in all services together", limits::MAX_BACKENDS);
            return Err(reader.fail(item.at, &path, fault("too many backends", mend)));
        }
        uniqueness.backends += 1;
        match backend(reader, uniqueness, &mut taken, item, &path, parent) {
            Ok(backend) => backends.push(backend),
            Err(reported) => failed = Some(reported),
        }
    }
    failed.map_or(Ok(backends), Err)
}

fn backend(
    reader: &mut Reader<'_>,
    uniqueness: &mut Uniqueness,
    taken: &mut Taken,
    node: &Node,
    path: &str,
    parent: Parent<'_>,
) -> Read<Backend> {
    let fields = reader.fields(node, path, &BACKEND)?;
    let given_name = reader.maybe(&fields, "name", names::backend_name);
    let address = reader.required(&fields, "address", "address: 10.0.1.11", values::address);
    let address = address.and_then(|address| fits_vip(reader, &fields, address, parent));
    let port = reader
        .maybe(&fields, "port", values::port)
        // Without a port of the service either, that one has been reported.
        .and_then(|port| port.or(parent.port).ok_or(Reported))
        .and_then(|port| kept_port(reader, &fields, port, parent));
    let unique = match (address, port) {
        (Ok(address), Ok(port)) => unique_endpoint(reader, uniqueness, taken, &fields, (address, port), parent),
        _ => Ok(()),
    };
    let name = given_name.and_then(|given| match (given, address, port) {
        (Some(name), ..) => unique_name(reader, taken, &fields, name),
        // A second backend at one endpoint has been reported; its default name would be no news.
        (None, Ok(address), Ok(port)) if unique.is_ok() => {
            unique_name(reader, taken, &fields, SocketAddr::new(address, port).to_string())
        }
        _ => Err(Reported),
    });
    let weight = reader.optional(&fields, "weight", DEFAULT_WEIGHT, |text| {
        number(text, &(0..=u64::from(MAX_WEIGHT))).and_then(narrow)
    });
    let zone = reader.maybe(&fields, "zone", names::name);
    let labels = labels(reader, &fields);
    let capped = refuse_setting(reader, &fields, "max_flows");
    unique?;
    capped?;
    Ok(Backend {
        name: name?,
        address: address?,
        port: port?,
        weight: weight?,
        zone: zone?,
        labels: labels?,
        max_flows: None,
    })
}

fn fits_vip(reader: &mut Reader<'_>, fields: &Fields<'_>, address: IpAddr, parent: Parent<'_>) -> Read<IpAddr> {
    let family = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let found = match parent.vip {
        Some(vip) if vip == address => fault("this is the VIP itself", "use the backend's own address"),
        // A tunnel carries either family in either.
        Some(vip)
            if vip.is_ipv4() != address.is_ipv4() && !matches!(parent.forward, Some(Forward::Ipip | Forward::Gue)) =>
        {
            fault(
                format!("{address} is {}, but the vip {vip} is {}", family(address), family(vip)),
                format!("use an {} address, or give {} a service of its own", family(vip), family(address)),
            )
        }
        _ => return Ok(address),
    };
    Err(reader.fail(fields.at_value("address"), &fields.path("address"), found))
}

/// Only `nat` and `snat` write a port into packets.
fn kept_port(reader: &mut Reader<'_>, fields: &Fields<'_>, port: u16, parent: Parent<'_>) -> Read<u16> {
    match (parent.forward, parent.port) {
        (Some(forward @ (Forward::Dsr | Forward::Ipip | Forward::Gue)), Some(vip_port)) if port != vip_port => {
            let found = fault(
                format!("under `{forward}` packets keep the port of the VIP, {vip_port}"),
                format!("use `port: {vip_port}` or leave it out, have the backend listen there, or use `forward: nat`"),
            );
            Err(reader.fail(fields.at_value("port"), &fields.path("port"), found))
        }
        _ => Ok(port),
    }
}

fn unique_endpoint(
    reader: &mut Reader<'_>,
    uniqueness: &mut Uniqueness,
    taken: &mut Taken,
    fields: &Fields<'_>,
    (address, port): (IpAddr, u16),
    parent: Parent<'_>,
) -> Read<()> {
    let at = fields.at_value("address");
    if let Some(first) = taken.endpoints.get(&(address, port)) {
        let place = reader.collector.source.place(*first);
        let found = fault(
            format!("{} is already a backend of this service on {place}", SocketAddr::new(address, port)),
            "remove one of them, and use `weight` to give a backend more",
        );
        return Err(reader.fail(at, &fields.path("address"), found));
    }
    taken.endpoints.insert((address, port), at);

    shared_endpoint(reader, uniqueness, fields, (address, port), parent)
}

/// An endpoint may be in several services: the flow table tells whose its replies are. So it must know all their flows.
fn shared_endpoint(
    reader: &mut Reader<'_>,
    uniqueness: &mut Uniqueness,
    fields: &Fields<'_>,
    (address, port): (IpAddr, u16),
    parent: Parent<'_>,
) -> Read<()> {
    let (Some(protocol), Some(forward @ (Forward::Nat | Forward::Snat)), Some(tracking)) =
        (parent.protocol, parent.forward, parent.tracking)
    else {
        return Ok(());
    };
    let (endpoint, at) = ((address, port, protocol), fields.at_value("address"));
    let recorded = forward == Forward::Snat || matches!(tracking, Tracking::Auto | Tracking::Full);
    let memberships = uniqueness.shared.entry(endpoint).or_default();
    let clash = memberships.iter().find(|other| !(other.recorded && recorded));
    let found = match clash {
        Some(other) => {
            let place = reader.collector.source.place(other.at);
            Some(fault(
                format!("{} is also a backend of {} on {place}", endpoint_text(endpoint), other.path),
                "set `tracking: full` for both services: only recorded flows tell which of them a reply belongs to",
            ))
        }
        None if memberships.len() == MAX_MEMBERSHIPS => Some(fault(
            format!("{} is a backend of too many services", endpoint_text(endpoint)),
            format!("use up to {MAX_MEMBERSHIPS}, or another port on the backend for the others"),
        )),
        None => None,
    };
    memberships.push(Membership { path: parent.path.to_owned(), at, recorded });
    found.map_or(Ok(()), |found| Err(reader.fail(at, &fields.path("address"), found)))
}

fn unique_name(reader: &mut Reader<'_>, taken: &mut Taken, fields: &Fields<'_>, name: String) -> Read<String> {
    let at = fields.at_value("name");
    if let Some(first) = taken.names.get(&name) {
        let place = reader.collector.source.place(*first);
        let found = fault(format!("`{name}` is already the name of the backend on {place}"), "use another name");
        return Err(reader.fail(at, &fields.path("name"), found));
    }
    taken.names.insert(name.clone(), at);
    Ok(name)
}

fn labels(reader: &mut Reader<'_>, backend: &Fields<'_>) -> Read<BTreeMap<String, String>> {
    let Some(node) = backend.get("labels") else {
        return Ok(BTreeMap::new());
    };
    let fields = reader.entries(node, &backend.path("labels"), "`labels: { model: v1 }`")?;
    let mut labels = BTreeMap::new();
    let mut failed = None;
    for (index, (key, value)) in fields.present().enumerate() {
        if index == limits::MAX_LABELS {
            let found = fault("too many labels", format!("use up to {}", limits::MAX_LABELS));
            return Err(reader.fail(fields.at_key(key), &backend.path("labels"), found));
        }
        let name =
            names::label_name(key).map_err(|found| reader.fail(fields.at_key(key), &backend.path("labels"), found));
        let path = || fields.path(&super::report::printable(key));
        match (name, reader.scalar(value, &path(), names::label_value)) {
            (Ok(name), Ok(text)) => {
                labels.insert(name, text);
            }
            (Err(reported), _) | (_, Err(reported)) => failed = Some(reported),
        }
    }
    failed.map_or(Ok(labels), Err)
}
