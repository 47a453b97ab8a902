//! What is run, in order: the cheap checks first, the slow tests last.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use lb_tests::serial;

use crate::cargo::{cargo, root};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// rustfmt
    Format,
    /// clippy with warnings denied, and the house rules
    Lint,
    /// Unit and property tests, and those of the documentation
    Unit,
    /// Packets run through the loaded program (BPF_PROG_TEST_RUN)
    Packets,
    /// Real programs in network namespaces, file by file
    E2e,
    /// Nothing is left behind; always run
    #[value(skip)]
    Clean,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Packets => "packets",
            Self::E2e => "e2e",
            Self::Clean => "clean",
        }
    }
}

/// One row of the final table.
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) work: Work,
}

pub(super) enum Work {
    /// A function of this program.
    Call(Box<dyn FnOnce() -> Result<()>>),
    /// Something that cannot be done here, and why.
    Skip(String),
    /// A command whose exit status says it all.
    Check(Command),
    /// A runner of tests. Those in a lab need the agent's binary, and are slow enough to be worth a line each.
    Tests { tests: Command, in_lab: bool },
}

impl Step {
    pub(super) fn call(kind: Kind, name: &str, call: impl FnOnce() -> Result<()> + 'static) -> Self {
        Self { kind, name: name.to_owned(), work: Work::Call(Box::new(call)) }
    }

    /// A call that only root can make; for others it is skipped, and says so.
    fn as_root(kind: Kind, name: &str, call: impl FnOnce() -> Result<()> + 'static) -> Self {
        match serial::why_not() {
            Some(_) => Self { kind, name: name.to_owned(), work: Work::Skip("it needs root: run it with sudo".into()) },
            None => Self::call(kind, name, call),
        }
    }

    fn check<'a>(kind: Kind, name: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self { kind, name: name.to_owned(), work: Work::Check(cargo(arguments)) }
    }
}

/// Everything, in order.
pub(super) fn all() -> Result<Vec<Step>> {
    let mut steps = vec![
        Step::check(Kind::Format, "rustfmt", ["fmt", "--all", "--check"]),
        Step::check(
            Kind::Lint,
            "clippy",
            ["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"],
        ),
        Step::call(Kind::Lint, "house rules", || crate::tidy::run(root())),
        unit("libraries and the agent", &["--package", "lb-common", "--package", "lb-ebpf", "--package", "lb-agent"]),
        unit("tools of the tests", &["--package", "xtask", "--package", "lb-tests", "--lib", "--bins"]),
        Step::as_root(Kind::Packets, "budget of the programs", || {
            crate::verify::run(&crate::verify::Options::default())
        }),
    ];
    steps.extend(files_of_tests(&root().join("tests/tests"))?.iter().map(|name| in_lab(name)));
    Ok(steps)
}

fn unit(name: &str, packages: &[&str]) -> Step {
    let mut tests = cargo(["test", "--no-fail-fast"]);
    tests.args(packages).args(["--", "--show-output"]);
    Step { kind: Kind::Unit, name: name.to_owned(), work: Work::Tests { tests, in_lab: false } }
}

/// One file of tests that need root, one test after another: each wants the machine for itself.
fn in_lab(name: &str) -> Step {
    let kind = if name == "packets" { Kind::Packets } else { Kind::E2e };
    let tests = cargo(["test", "--package", "lb-tests", "--test", name, "--", "--show-output", "--test-threads=1"]);
    Step { kind, name: name.to_owned(), work: Work::Tests { tests, in_lab: true } }
}

/// Names of the integration tests: `NAME.rs` and `NAME/main.rs`; the packets first, the others by name.
fn files_of_tests(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", directory.display()))?.path();
        if path.join("main.rs").is_file() || path.extension().is_some_and(|ending| ending == "rs") {
            let name = path.file_stem().and_then(|name| name.to_str());
            names.push(name.with_context(|| format!("{} has a strange name", path.display()))?.to_owned());
        }
    }
    ensure!(!names.is_empty(), "there are no tests in {}", directory.display());
    names.sort_by_key(|name| (name != "packets", name.clone()));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_tests_are_run_and_the_packets_come_first() {
        let names = files_of_tests(&root().join("tests/tests")).expect("the workspace has tests");
        assert_eq!(names[0], "packets");
        assert!(names[1..].is_sorted() && names.iter().any(|name| name == "failover"), "{names:?}");
    }
}
