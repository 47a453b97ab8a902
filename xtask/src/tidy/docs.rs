//! What documents promise: their links lead somewhere, and what a user can meet (reasons, metrics, commands) is
//! described. The lists come from the code, so that neither side can change alone.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory as _;
use lb_common::reason::{Outcome, Reason};

use super::{TextFile, Violation, line_of};

const PACKETS: &str = "docs/packets.md";
const OPERATE: &str = "docs/operate.md";
const METRICS: &str = "lb-agent/src/run/metrics.rs";
/// How a metric is registered there.
const REGISTERS: &str = "registry.register(\"";

pub(super) fn check(files: &[TextFile]) -> Vec<Violation> {
    let mut violations: Vec<Violation> = files.iter().flat_map(|file| links(file, files)).collect();
    let known: Vec<Row> = Reason::ALL.iter().map(|reason| Row::of(*reason)).collect();
    violations.extend(with(files, PACKETS, |file| reasons(file, &known)));
    violations.extend(with(files, OPERATE, |file| mentions(file, "command", &commands())));
    let registered = files.iter().find(|file| file.path == METRICS).map(metrics).unwrap_or_default();
    violations.extend(with(files, OPERATE, |file| mentions(file, "metric", &registered)));
    violations
}

fn with(files: &[TextFile], path: &str, rule: impl Fn(&TextFile) -> Vec<Violation>) -> Vec<Violation> {
    match files.iter().find(|file| file.path == path) {
        Some(file) => rule(file),
        None => vec![TextFile::new(path, String::new()).violation(1, "the document is missing", "write it")],
    }
}

/// Each relative link of a document leads to a file, and to a heading in it if it names one.
fn links(file: &TextFile, files: &[TextFile]) -> Vec<Violation> {
    if !file.is_markdown() {
        return Vec::new();
    }
    let targets = file.text.match_indices("](").filter_map(|(at, _)| {
        let target = file.text[at + 2..].split(')').next()?;
        (!target.contains("://") && !target.starts_with("mailto:")).then_some((at, target))
    });
    targets
        .filter_map(|(at, target)| {
            let fault = |what: String| file.violation(line_of(&file.text, at), what, "mend the link");
            let (path, heading) = target.split_once('#').map_or((target, None), |(path, name)| (path, Some(name)));
            let path = if path.is_empty() { file.path.clone() } else { resolve(&file.path, path) };
            let inside = format!("{path}/");
            let found = files.iter().find(|other| other.path == path);
            if found.is_none() && !files.iter().any(|other| other.path.starts_with(&inside)) {
                return Some(fault(format!("`{target}` leads nowhere")));
            }
            let missing = heading.is_some_and(|name| !found.is_some_and(|other| headings(&other.text).contains(name)));
            missing.then(|| fault(format!("`{target}` names a heading that is not there")))
        })
        .collect()
}

/// `link` as seen from the document at `from`.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The anchors that a renderer makes of a document's headings.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let slug = |title: &str| {
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    titles.map(slug).collect()
}

/// A reason as the table of [`PACKETS`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) verdict: String,
}

impl Row {
    fn of(reason: Reason) -> Self {
        let verdict = match reason.outcome() {
            Outcome::Drop => "drop",
            Outcome::Pass => "pass",
        };
        Self { number: reason as u32, name: reason.name().to_owned(), verdict: verdict.to_owned() }
    }
}

/// The table of reasons has each once, with its number, name and verdict, and no other.
pub(super) fn reasons(file: &TextFile, known: &[Row]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut listed: BTreeMap<u32, usize> = BTreeMap::new();
    for (line, text) in (1..).zip(file.text.lines()) {
        let cells: Vec<&str> = text.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, number, name, verdict, ..] = cells[..] else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        let row = Row { number, name: name.to_owned(), verdict: verdict.to_owned() };
        if !known.contains(&row) {
            let what = format!("reason {number} `{name}`, {verdict}, is not one of the code's");
            violations.push(file.violation(line, what, "write it as lb-common/src/reason.rs has it"));
        }
        if let Some(first) = listed.insert(number, line) {
            let what = format!("reason {number} stands on line {first} already");
            violations.push(file.violation(line, what, "remove one of them"));
        }
    }
    let missing = known.iter().filter(|row| !listed.contains_key(&row.number));
    violations.extend(missing.map(|row| {
        let what = format!("reason {} `{}` is not described", row.number, row.name);
        file.violation(1, what, "add a row to the table of reasons")
    }));
    violations
}

/// `` `lb-agent backend drain `` for every command that does something itself.
fn commands() -> Vec<String> {
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path}{}", command.get_name());
        if !command.has_subcommands() {
            found.push(path.clone());
        }
        command.get_subcommands().for_each(|below| leaves(below, &format!("{path} "), found));
    }
    let mut found = Vec::new();
    leaves(&lb_agent::cli::Cli::command(), "", &mut found);
    found
}

/// The names under which the agent's metrics are registered.
pub(super) fn metrics(file: &TextFile) -> Vec<String> {
    let names = file.text.match_indices(REGISTERS).filter_map(|(at, _)| {
        let name = file.text[at + REGISTERS.len()..].split('"').next()?;
        Some(format!("lb_{name}"))
    });
    names.collect()
}

/// Every one of `names` begins something in backticks. A list that is empty is a check that has lost its object.
pub(super) fn mentions(file: &TextFile, kind: &str, names: &[String]) -> Vec<Violation> {
    if names.is_empty() {
        let mend = "tell xtask/src/tidy/docs.rs where they are now";
        return vec![file.violation(1, format!("no {kind} was found in the code"), mend)];
    }
    let described = |name: &str| {
        let quoted = format!("`{name}");
        file.text.match_indices(&quoted).any(|(at, _)| {
            let after = file.text[at + quoted.len()..].chars().next();
            // A counter's exposed name ends in `_total`.
            !after.is_some_and(super::is_word) || file.text[at + quoted.len()..].starts_with("_total")
        })
    };
    let missing = names.iter().filter(|name| !described(name));
    missing.map(|name| file.violation(1, format!("the {kind} `{name}` is not described"), "describe it")).collect()
}
