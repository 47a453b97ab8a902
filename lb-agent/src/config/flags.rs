//! A configuration of one service from command line options. The options become the same tree of nodes that a file
//! becomes, with one "line" per option, so that there is a single set of rules and defaults.

use super::Errors;
use super::reader::Reader;
use super::report::{Collector, Fault, Position, Source, fault, printable, shown};
use super::schema;
use super::values::Parsed;
use super::yaml::{Node, Value};
use crate::model::config::Config;

const SERVICE_NAME: &str = "vip";

/// The configuration that `lb-agent run --vip VIP:PORT[/PROTOCOL] --backend ADDRESS[:PORT] ...` stands for.
///
/// The caller chooses the interfaces where the user gave none.
pub fn from_flags(vip: &str, backends: &[String], interfaces: Vec<String>) -> Result<Config, Errors> {
    let mut lines = vec![format!("--vip {}", printable(vip))];
    lines.extend(backends.iter().map(|backend| format!("--backend {}", printable(backend))));
    lines.extend(interfaces.iter().map(|interface| format!("--interface {}", printable(interface))));
    let text = lines.join("\n");
    let mut reader = Reader { collector: Collector::new(Source::Flags { text: &text }) };

    let mut next = (1..).map(|line| Position { line, column: 1, chars: 1 });
    let mut line = || next.next().unwrap_or_default();
    let service = service_node(&mut reader, vip, line());
    let backends: Vec<Option<Node>> =
        backends.iter().map(|backend| backend_node(&mut reader, backend, line())).collect();
    if backends.is_empty() {
        let found = fault("there is no backend to send to", "add `--backend 10.0.1.11:8080`");
        reader.fail(Position::default(), "", found);
    }
    if interfaces.is_empty() {
        let found = fault("there is no interface to attach to", "add `--interface eth0` (`ip link` lists them)");
        reader.fail(Position::default(), "", found);
    }
    let interfaces = interfaces.into_iter().map(|name| text_node(line(), name)).collect();

    let config = match (service, backends.into_iter().collect::<Option<Vec<_>>>()) {
        // With nothing missing, what the rules report from here on is about a value and not about YAML.
        (Some(mut entries), Some(backends)) if reader.collector.is_empty() => {
            entries.push(entry("backends", Position::default(), Value::List(backends)));
            let services = vec![Node { at: Position::default(), value: Value::Map(entries) }];
            let root = Value::Map(vec![
                entry("interfaces", Position::default(), Value::List(interfaces)),
                entry("services", Position::default(), Value::List(services)),
            ]);
            schema::config(&mut reader, &Node { at: Position::default(), value: root }).ok()
        }
        _ => None,
    };
    reader.collector.into_result(config)
}

fn service_node(reader: &mut Reader<'_>, vip: &str, at: Position) -> Option<Vec<(Node, Node)>> {
    let parsed = endpoint(vip).and_then(|endpoint| match endpoint.port {
        Some(port) => Ok((endpoint, port)),
        None => Err(fault("the port is missing", format!("write `--vip {}`", with_port(endpoint.address)))),
    });
    let (endpoint, port) = parsed.map_err(|found| reader.fail(at, "", found)).ok()?;
    let mut entries = vec![
        entry("name", at, Value::Text(SERVICE_NAME.to_owned())),
        entry("vip", at, Value::Text(endpoint.address.to_owned())),
        entry("port", at, Value::Text(port.to_owned())),
    ];
    entries.extend(endpoint.protocol.map(|protocol| entry("protocol", at, Value::Text(protocol.to_owned()))));
    Some(entries)
}

fn backend_node(reader: &mut Reader<'_>, backend: &str, at: Position) -> Option<Node> {
    let parsed = endpoint(backend).and_then(|endpoint| match endpoint.protocol {
        None => Ok(endpoint),
        Some(_) => {
            Err(fault("a backend has no protocol of its own", "write it behind the VIP: `--vip 192.0.2.10:53/udp`"))
        }
    });
    let endpoint = parsed.map_err(|found| reader.fail(at, "", found)).ok()?;
    let mut entries = vec![entry("address", at, Value::Text(endpoint.address.to_owned()))];
    entries.extend(endpoint.port.map(|port| entry("port", at, Value::Text(port.to_owned()))));
    Some(Node { at, value: Value::Map(entries) })
}

fn entry(key: &str, at: Position, value: Value) -> (Node, Node) {
    (text_node(at, key.to_owned()), Node { at, value })
}

fn text_node(at: Position, text: String) -> Node {
    Node { at, value: Value::Text(text) }
}

/// The parts of `ADDRESS[:PORT][/PROTOCOL]`, none of them checked yet.
#[derive(Debug, PartialEq)]
struct Endpoint<'a> {
    address: &'a str,
    port: Option<&'a str>,
    protocol: Option<&'a str>,
}

fn endpoint(text: &str) -> Parsed<Endpoint<'_>> {
    let (place, protocol) = match text.split_once('/') {
        Some((place, protocol)) => (place, Some(protocol)),
        None => (text, None),
    };
    let (address, port) = if let Some(bracketed) = place.strip_prefix('[') {
        match bracketed.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, rest)) => match rest.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return Err(not_an_endpoint(text)),
            },
            None => return Err(not_an_endpoint(text)),
        }
    } else {
        match place.split_once(':') {
            // More than one colon: an IPv6 address without a port.
            Some((_, rest)) if rest.contains(':') => (place, None),
            Some((address, port)) => (address, Some(port)),
            None => (place, None),
        }
    };
    Ok(Endpoint { address, port, protocol })
}

fn not_an_endpoint(text: &str) -> Fault {
    fault(format!("{} is not an address and a port", shown(text)), "write `192.0.2.10:80` or `[2001:db8::10]:80`")
}

fn with_port(address: &str) -> String {
    let address = printable(address);
    if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{HealthKind, Protocol};

    fn flags(vip: &str, backends: &[&str]) -> Result<Config, Errors> {
        let backends: Vec<String> = backends.iter().map(|&backend| backend.to_owned()).collect();
        from_flags(vip, &backends, vec!["eth0".to_owned()])
    }

    #[test]
    fn options_mean_what_the_same_file_means() {
        let from_file = super::super::parse(
            "lb.yaml",
            "interfaces: [eth0]\nservices:\n  - name: vip\n    vip: 192.0.2.10\n    port: 80\n    backends:\n      \
             - { address: 10.0.1.11, port: 8080 }\n      - { address: 10.0.1.12 }\n",
        );
        assert_eq!(flags("192.0.2.10:80", &["10.0.1.11:8080", "10.0.1.12"]), from_file);
    }

    #[test]
    fn ipv6_and_udp() {
        let config =
            flags("[2001:db8::10]:53/udp", &["[2001:db8::1]:5353", "2001:db8::2", "[2001:db8::3]"]).expect("valid");
        let service = &config.services[0];
        assert_eq!(service.address(), "[2001:db8::10]:53/udp");
        assert_eq!((service.protocol, service.health.kind), (Protocol::Udp, HealthKind::None));
        let names: Vec<&str> = service.backends.iter().map(|backend| backend.name.as_str()).collect();
        assert_eq!(names, ["[2001:db8::1]:5353", "[2001:db8::2]:53", "[2001:db8::3]:53"]);
    }

    #[test]
    fn mistakes_name_the_option() {
        for (vip, backends, expected) in [
            (
                "192.0.2.10",
                &["10.0.1.11:80"][..],
                "--vip 192.0.2.10: the port is missing, write `--vip 192.0.2.10:80`\n",
            ),
            (
                "2001:db8::1",
                &["2001:db8::2"],
                "--vip 2001:db8::1: the port is missing, write `--vip [2001:db8::1]:80`\n",
            ),
            ("192.0.2.10:0", &["10.0.1.11"], "--vip 192.0.2.10:0: port: 0 is out of range, use 1 to 65535\n"),
            (
                "192.0.2.10:80/icmp",
                &["10.0.1.11"],
                "--vip 192.0.2.10:80/icmp: protocol: unknown value `icmp`, use one of: tcp, udp\n",
            ),
            (
                "[2001:db8::1:80",
                &["10.0.1.11"],
                "--vip [2001:db8::1:80: `[2001:db8::1:80` is not an address and a port, write `192.0.2.10:80` or `[2001:db8::10]:80`\n",
            ),
            ("192.0.2.10:80", &[], "command line: there is no backend to send to, add `--backend 10.0.1.11:8080`\n"),
            (
                "192.0.2.10:80",
                &["10.0.1.11/udp"],
                "--backend 10.0.1.11/udp: a backend has no protocol of its own, write it behind the VIP: `--vip 192.0.2.10:53/udp`\n",
            ),
            (
                "192.0.2.10:80",
                &["web\n"],
                "--backend web\\n: address: `web\\n` is not an IP address, use an IPv4 or IPv6 address, such as 192.0.2.10 or 2001:db8::10 (names are not looked up)\n",
            ),
            (
                "192.0.2.10:80",
                &["10.0.1.11", "10.0.1.11:80"],
                "--backend 10.0.1.11:80: address: 10.0.1.11:80 is already a backend of this service on `--backend 10.0.1.11`, remove one of them, and use `weight` to give a backend more\n",
            ),
        ] {
            assert_eq!(flags(vip, backends).expect_err(vip).to_string(), expected);
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let backends = ["10.0.1.11:0".to_owned(), "2001:db8::1".to_owned()];
        let errors = from_flags("192.0.2.10:80", &backends, vec!["a/b".to_owned()]).expect_err("three mistakes");
        let files: Vec<&str> = errors.problems().iter().map(|problem| problem.file.as_str()).collect();
        assert_eq!(files, ["--backend 10.0.1.11:0", "--backend 2001:db8::1", "--interface a/b"]);
        let errors = from_flags("x", &[], Vec::new()).expect_err("nothing is right");
        assert_eq!(errors.problems().len(), 3);
    }
}
