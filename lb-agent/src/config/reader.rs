//! Walks the tree of nodes: looks keys up, notices unknown, repeated and missing ones, hands values to their
//! parsers and gathers what goes wrong. Readers go on after a mistake, so that one run finds all of them.

use std::str::FromStr;

use super::report::{Collector, Fault, Position, fault, printable};
use super::unsupported;
use super::values::{Parsed, choice, nearest, unknown_choice};
use super::yaml::{Node, Value};

/// The value could not be read, and the collector knows why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported;

pub(super) type Read<T> = Result<T, Reported>;

/// A kind of mapping: its name in messages and the keys that it may have.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
    /// How one is written.
    pub(super) example: &'static str,
}

/// Every kind of mapping with fixed keys, in one place so that a key in the wrong one can be pointed to the right one.
pub(super) const ROOT: Section = Section {
    name: "the top level",
    keys: &[
        "interfaces",
        "hook",
        "xdp_mode",
        "flow_table",
        "snat",
        "state_dir",
        "pin_dir",
        "api",
        "access",
        "services",
    ],
    example: "`interfaces: [eth0]` and `services:`",
};
pub(super) const SNAT: Section =
    Section { name: "`snat`", keys: &["ports"], example: "`snat: { ports: 16384-32767 }`" };
pub(super) const API: Section = Section {
    name: "`api`",
    keys: &["socket", "listen", "tokens_file"],
    example: "`api: { socket: /run/lb/agent.sock }`",
};
pub(super) const ACCESS: Section =
    Section { name: "`access`", keys: &["allow", "deny"], example: "`access: { deny: null }`" };
pub(super) const SERVICE: Section = Section {
    name: "a service",
    keys: &[
        "name",
        "vip",
        "port",
        "protocol",
        "forward",
        "scheduler",
        "affinity",
        "tracking",
        "policy",
        "health",
        "slow_start",
        "drain_timeout",
        "panic_threshold",
        "limits",
        "backends",
    ],
    example: "`- { name: web, vip: 192.0.2.10, port: 80, backends: [{ address: 10.0.1.11 }] }`",
};
pub(super) const HEALTH: Section = Section {
    name: "`health`",
    keys: &["kind", "path", "port", "interval", "timeout", "rise", "fall", "send", "expect"],
    example: "`health: { kind: http, path: /health }`",
};
pub(super) const LIMITS: Section = Section {
    name: "`limits`",
    keys: &["new_flows_per_second", "per_source_per_second", "flows"],
    example: "`limits: { flows: null }`",
};
pub(super) const BACKEND: Section = Section {
    name: "a backend",
    keys: &["name", "address", "port", "weight", "zone", "labels", "max_flows"],
    example: "`- { address: 10.0.1.11, port: 8080 }`",
};

const SECTIONS: &[&Section] = &[&ROOT, &SNAT, &API, &ACCESS, &SERVICE, &HEALTH, &LIMITS, &BACKEND];

/// The entries of one mapping; keys without a value (`listen: null`) count as absent.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    /// `services[0].`, or nothing at the top level.
    prefix: String,
    at: Position,
    entries: Vec<(&'n str, &'n Node, &'n Node)>,
    /// Keys that an unknown key was probably meant to be.
    misspelt: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(k, ..)| *k == key).map(|(.., node)| *node).filter(|node| node.value != Value::Null)
    }

    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Where the value stands, or the mapping if the key is absent.
    pub(super) fn at_value(&self, key: &str) -> Position {
        self.get(key).map_or(self.at, |node| node.at)
    }

    /// Where the key stands, even if it has no value, or else the mapping.
    pub(super) fn at_key(&self, key: &str) -> Position {
        self.entries.iter().find(|(k, ..)| *k == key).map_or(self.at, |(_, key_node, _)| key_node.at)
    }

    /// The values that are present.
    pub(super) fn present(&self) -> impl Iterator<Item = (&'n str, &'n Node)> {
        self.entries.iter().filter(|(.., node)| node.value != Value::Null).map(|(key, _, node)| (*key, *node))
    }
}

#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) collector: Collector<'a>,
}

impl Reader<'_> {
    pub(super) fn fail(&mut self, at: Position, path: &str, fault: Fault) -> Reported {
        self.collector.report(at, (!path.is_empty()).then(|| path.to_owned()), fault);
        Reported
    }

    /// A mapping with the keys of `section`; `path` is empty at the top level.
    pub(super) fn fields<'n>(&mut self, node: &'n Node, path: &str, section: &Section) -> Read<Fields<'n>> {
        let mut fields = self.entries(node, path, section.example)?;
        let mut misspelt = Vec::new();
        for (key, key_node, _) in &fields.entries {
            if !section.keys.contains(key) {
                if self.collector.is_full() {
                    self.collector.omit();
                    continue;
                }
                misspelt.extend(nearest(key, section.keys));
                self.fail(key_node.at, &fields.path(&printable(key)), unknown_key(key, section));
            }
        }
        fields.misspelt = misspelt;
        Ok(fields)
    }

    /// A mapping with any keys; repeated ones are reported, the first of them counts.
    pub(super) fn entries<'n>(&mut self, node: &'n Node, path: &str, example: &str) -> Read<Fields<'n>> {
        let Value::Map(map) = &node.value else {
            let found = fault(format!("expected a mapping, found {}", node.value.what()), format!("write {example}"));
            return Err(self.fail(node.at, path, found));
        };
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let mut fields =
            Fields { prefix, at: node.at, entries: Vec::with_capacity(map.len().min(32)), misspelt: Vec::new() };
        let mut seen = std::collections::HashMap::new();
        for (key_node, value) in map {
            let Value::Text(key) = &key_node.value else {
                let found =
                    fault(format!("a key must be a word, found {}", key_node.value.what()), "write `key: value`");
                self.fail(key_node.at, path, found);
                continue;
            };
            if let Some(first) = seen.insert(key.as_str(), key_node.at) {
                seen.insert(key.as_str(), first);
                let place = self.collector.source.place(first);
                let found = fault(format!("the key is given twice, first on {place}"), "remove one of them");
                self.fail(key_node.at, &fields.path(&printable(key)), found);
                continue;
            }
            fields.entries.push((key, key_node, value));
        }
        Ok(fields)
    }

    /// A list; `example` shows how one is written.
    pub(super) fn items<'n>(&mut self, fields: &Fields<'n>, key: &str, example: &str) -> Read<&'n [Node]> {
        let Some(node) = fields.get(key) else {
            return Err(self.missing(fields, key, example));
        };
        match &node.value {
            Value::List(items) if !items.is_empty() => Ok(items),
            Value::List(_) => {
                Err(self.fail(node.at, &fields.path(key), fault("the list is empty", format!("write `{example}`"))))
            }
            other => {
                let found = fault(format!("expected a list, found {}", other.what()), format!("write `{example}`"));
                Err(self.fail(node.at, &fields.path(key), found))
            }
        }
    }

    pub(super) fn missing(&mut self, fields: &Fields<'_>, key: &str, example: &str) -> Reported {
        // The unknown key has been reported with this one as the suggestion: that is one mistake, not two.
        if fields.misspelt.contains(&key) && fields.get(key).is_none() {
            return Reported;
        }
        let found = fault("the key is missing or has no value", format!("add `{example}`"));
        self.fail(fields.at_key(key), &fields.path(key), found)
    }

    /// A single value through its parser.
    pub(super) fn scalar<T>(&mut self, node: &Node, path: &str, parse: impl FnOnce(&str) -> Parsed<T>) -> Read<T> {
        let parsed = match &node.value {
            Value::Text(text) => parse(text),
            other => Err(fault(format!("expected a single value, found {}", other.what()), "write one value here")),
        };
        parsed.map_err(|found| self.fail(node.at, path, found))
    }

    pub(super) fn maybe<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Read<Option<T>> {
        fields.get(key).map(|node| self.scalar(node, &fields.path(key), parse)).transpose()
    }

    pub(super) fn optional<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        default: T,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Read<T> {
        Ok(self.maybe(fields, key, parse)?.unwrap_or(default))
    }

    pub(super) fn required<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        example: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Read<T> {
        match self.maybe(fields, key, parse)? {
            Some(value) => Ok(value),
            None => Err(self.missing(fields, key, example)),
        }
    }

    /// A value of a fixed set, without those that this version refuses.
    pub(super) fn choice<T: FromStr>(&mut self, fields: &Fields<'_>, key: &str, names: &[&str], default: T) -> Read<T> {
        self.optional(fields, key, default, |text| {
            if let Some(refused) = unsupported::value(key, text) {
                return Err(refused);
            }
            let refused = unsupported::refused_values(key);
            let accepted: Vec<&str> = names.iter().copied().filter(|name| !refused.contains(name)).collect();
            choice(text, &accepted).map_err(|found| match nearest(text, refused) {
                // Who mistyped a refused value learns at once that it would be refused.
                Some(near) if nearest(text, &accepted).is_none() => Fault {
                    mend: format!(
                        "{} (`{near}` is not supported by this version)",
                        unknown_choice(text, &accepted).mend
                    ),
                    ..found
                },
                _ => found,
            })
        })
    }
}

fn unknown_key(key: &str, section: &Section) -> Fault {
    let mend = if let Some(near) = nearest(key, section.keys) {
        format!("did you mean `{near}`?")
    } else if let Some(home) = SECTIONS.iter().find(|other| other.keys.contains(&key)) {
        format!("it belongs in {}", home.name)
    } else {
        format!("remove it, the keys of {} are: {}", section.name, section.keys.join(", "))
    };
    fault("unknown key", mend)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const REFERENCE: &str = include_str!("../../../docs/configuration.md");

    /// The keys that the reference lists under the heading of a section.
    fn documented(section: &Section) -> BTreeSet<&'static str> {
        let (_, text) = REFERENCE
            .split("\n## ")
            .skip(1)
            .filter_map(|part| part.split_once('\n'))
            .find(|(heading, _)| heading.eq_ignore_ascii_case(section.name))
            .unwrap_or_else(|| panic!("docs/configuration.md has no heading for {}", section.name));
        let (table, _) = text.split_once("\n### ").unwrap_or((text, ""));
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
    }

    #[test]
    fn the_reference_has_every_key_and_no_other() {
        for section in SECTIONS {
            assert_eq!(documented(section), section.keys.iter().copied().collect(), "{}", section.name);
        }
    }
}
