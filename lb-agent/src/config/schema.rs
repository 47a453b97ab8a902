//! The top level of a configuration: from the tree of nodes to [`Config`], with every default that the file leaves out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::limits;
use super::reader::{ACCESS, API, Fields, ROOT, Read, Reader, Reported, SNAT};
use super::report::{Position, fault};
use super::service::{Uniqueness, service};
use super::yaml::Node;
use super::{names, unsupported, values};
use crate::model::config::{Api, Config, Forward, Hook, Ports, Service, Snat, XdpMode};

const DEFAULT_FLOW_TABLE: u32 = 1 << 20;
const DEFAULT_STATE_DIR: &str = "/var/lib/lb";
const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/lb";
const DEFAULT_SOCKET: &str = "/run/lb/agent.sock";

const INTERFACES_EXAMPLE: &str = "interfaces: [eth0]";
const SERVICES_EXAMPLE: &str =
    "services: [{ name: web, vip: 192.0.2.10, port: 80, backends: [{ address: 10.0.1.11 }] }]";

pub(super) fn config(reader: &mut Reader<'_>, root: &Node) -> Read<Config> {
    let fields = reader.fields(root, "", &ROOT)?;
    // Everything is read before the first `?`, so that one mistake hides no other.
    let interfaces = interfaces(reader, &fields);
    let hook = reader.choice(&fields, "hook", Hook::NAMES, Hook::Auto);
    let xdp_mode = reader.choice(&fields, "xdp_mode", XdpMode::NAMES, XdpMode::Native);
    let flow_table = reader.optional(&fields, "flow_table", DEFAULT_FLOW_TABLE, values::flow_table);
    let snat = snat(reader, &fields);
    let state_dir = directory(reader, &fields, "state_dir", DEFAULT_STATE_DIR);
    let pin_dir = directory(reader, &fields, "pin_dir", DEFAULT_PIN_DIR);
    let api = api(reader, &fields);
    let access = access(reader, &fields);
    let services = services(reader, &fields, snat.map_or_else(|_| Ports::DEFAULT, |snat| snat.ports));
    access?;
    Ok(Config {
        interfaces: interfaces?,
        hook: hook?,
        xdp_mode: xdp_mode?,
        flow_table: flow_table?,
        snat: snat?,
        state_dir: state_dir?,
        pin_dir: pin_dir?,
        api: api?,
        services: services?,
    })
}

fn directory(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str, default: &str) -> Read<PathBuf> {
    reader.optional(fields, key, PathBuf::from(default), names::directory)
}

fn interfaces(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Read<Vec<String>> {
    let items = reader.items(fields, "interfaces", INTERFACES_EXAMPLE)?;
    let mut seen: HashMap<String, Position> = HashMap::new();
    let mut names = Vec::new();
    let mut failed = None;
    for (index, item) in items.iter().enumerate() {
        let path = format!("interfaces[{index}]");
        if index == limits::MAX_INTERFACES {
            let mend = format!("use up to {}", limits::MAX_INTERFACES);
            return Err(reader.fail(item.at, &path, fault("too many interfaces", mend)));
        }
        match reader.scalar(item, &path, names::interface) {
            Ok(name) => match seen.get(&name) {
                Some(first) => {
                    let place = reader.collector.source.place(*first);
                    let found = fault(format!("`{name}` is listed twice, first on {place}"), "remove one of them");
                    failed = Some(reader.fail(item.at, &path, found));
                }
                None => {
                    seen.insert(name.clone(), item.at);
                    names.push(name);
                }
            },
            Err(reported) => failed = Some(reported),
        }
    }
    failed.map_or(Ok(names), Err)
}

fn snat(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<Snat> {
    let Some(node) = root.get("snat") else {
        return Ok(Snat::default());
    };
    let fields = reader.fields(node, "snat", &SNAT)?;
    let ports = reader.optional(&fields, "ports", Ports::DEFAULT, values::ports)?;
    Ok(Snat { ports })
}

fn api(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<Api> {
    let default = Api { socket: Path::new(DEFAULT_SOCKET).to_owned(), listen: None };
    let Some(node) = root.get("api") else {
        return Ok(default);
    };
    let fields = reader.fields(node, "api", &API)?;
    let socket = reader.optional(&fields, "socket", default.socket, names::socket_path);
    let listen = reader.maybe(&fields, "listen", |text| {
        let address = values::socket_address(text)?;
        unsupported::listen(address).map_or(Ok(address), Err)
    });
    let refused = refuse_setting(reader, &fields, "tokens_file");
    refused?;
    Ok(Api { socket: socket?, listen: listen? })
}

fn access(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<()> {
    let Some(node) = root.get("access") else {
        return Ok(());
    };
    let fields = reader.fields(node, "access", &ACCESS)?;
    refuse_settings(reader, &fields, ACCESS.keys)
}

/// Reports each of `keys` that has a value although this version cannot act on it.
pub(super) fn refuse_settings(reader: &mut Reader<'_>, fields: &Fields<'_>, keys: &[&str]) -> Read<()> {
    let mut outcome = Ok(());
    for key in keys {
        // Not `?`: all of them are to be reported.
        outcome = refuse_setting(reader, fields, key).and(outcome);
    }
    outcome
}

pub(super) fn refuse_setting(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str) -> Read<()> {
    match fields.get(key).and(unsupported::setting(key)) {
        Some(found) => Err(reader.fail(fields.at_key(key), &fields.path(key), found)),
        None => Ok(()),
    }
}

fn services(reader: &mut Reader<'_>, root: &Fields<'_>, lent: Ports) -> Read<Vec<Service>> {
    let items = reader.items(root, "services", SERVICES_EXAMPLE)?;
    let mut uniqueness = Uniqueness::default();
    let mut services = Vec::with_capacity(items.len().min(limits::MAX_SERVICES));
    let mut failed: Option<Reported> = None;
    for (index, item) in items.iter().enumerate() {
        let path = format!("services[{index}]");
        if index == limits::MAX_SERVICES {
            let mend = format!("use up to {} services", limits::MAX_SERVICES);
            return Err(reader.fail(item.at, &path, fault("too many services", mend)));
        }
        match service(reader, &mut uniqueness, item, &path) {
            Ok(service) => services.push(service),
            Err(reported) => failed = Some(reported),
        }
    }
    if services.iter().any(|service| service.forward == Forward::Snat)
        && let Err(reported) = uniqueness.check_lent(reader, lent)
    {
        failed = Some(reported);
    }
    failed.map_or(Ok(services), Err)
}
