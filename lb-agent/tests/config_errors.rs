//! The format as users meet it: broken files with the exact text that they get, good files with what they mean,
//! and input that nobody would write on purpose. `INSTA_UPDATE=always` rewrites the snapshots.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use lb_agent::config::{self, Errors, limits};
use lb_agent::model::config::Config;
use proptest::prelude::*;

/// Without the limits these inputs would take hours or all memory; with them seconds, unoptimized and on a busy machine.
const FAST: Duration = Duration::from_mins(2);

fn files(kind: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&dir).expect("test files").map(|entry| entry.expect("directory entry").path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let stem = path.file_stem().expect("file name").to_string_lossy().into_owned();
            (stem, fs::read_to_string(path).expect("UTF-8"))
        })
        .collect()
}

/// Compares with `tests/config/snapshots/NAME.snap`.
fn assert_kept(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("config/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| assert_snapshot!(name, text));
}

fn parse_fast(text: &str) -> Result<Config, Errors> {
    let start = Instant::now();
    let result = config::parse("lb.yaml", text);
    assert!(start.elapsed() < FAST, "took {:?}", start.elapsed());
    result
}

#[test]
fn broken_files_get_exactly_these_errors() {
    let broken = files("broken");
    assert!(broken.len() >= 20);
    for (name, text) in broken {
        let errors = config::parse("lb.yaml", &text).expect_err(&name);
        assert!(!errors.problems().is_empty(), "{name}");
        for problem in errors.problems() {
            let line = problem.line.unwrap_or_else(|| panic!("{name}: no line: {problem}"));
            let column = problem.column.unwrap_or_else(|| panic!("{name}: no column: {problem}"));
            assert!(line >= 1 && line as usize <= text.lines().count() + 1, "{name}: {problem}");
            let width = text.lines().nth(line as usize - 1).unwrap_or_default().chars().count();
            assert!(column >= 1 && column as usize <= width + 1, "{name}: {problem}");
            assert!(!problem.message.is_empty() && problem.mend.len() > 5, "{name}: {problem}");
            let in_yaml_itself = name.starts_with("yaml_") || matches!(name.as_str(), "empty" | "not_a_mapping");
            assert!(problem.field.is_some() || in_yaml_itself, "{name}: no field: {problem}");
        }
        assert_kept(&format!("broken_{name}"), &errors.to_string());
    }
}

#[test]
fn good_files_mean_exactly_this() {
    for (name, text) in files("good") {
        let config = config::parse("lb.yaml", &text).unwrap_or_else(|errors| panic!("{name}:\n{errors}"));
        assert_kept(&format!("good_{name}"), &serde_json::to_string_pretty(&config).expect("JSON"));
    }
}

#[test]
fn one_run_reports_every_mistake_of_a_file() {
    let text = "interfaces: [eth0]\nhok: xdp\nflow_table: 3\nservices:\n  - name: a\n    vip: 0.0.0.0\n    port: 99999\n    \
                backends: [{ address: x, weight: 5000 }, { port: 80 }]\n";
    let errors = config::parse("lb.yaml", text).expect_err("broken");
    let fields: Vec<&str> = errors.problems().iter().filter_map(|problem| problem.field.as_deref()).collect();
    assert_eq!(
        fields,
        [
            "hok",
            "flow_table",
            "services[0].vip",
            "services[0].port",
            "services[0].backends[0].address",
            "services[0].backends[0].weight",
            "services[0].backends[1].address",
        ]
    );
}

#[test]
fn a_file_as_large_as_the_data_plane_is_read() {
    let mut text = String::from("interfaces: [eth0]\nservices:\n");
    let per_service = limits::MAX_BACKENDS / limits::MAX_SERVICES;
    for service in 0..limits::MAX_SERVICES {
        let (high, low) = (service / 250, service % 250);
        writeln!(text, "- {{name: s{service}, vip: 192.0.{high}.{low}, port: 80, backends: [").expect("string");
        for backend in 0..per_service {
            writeln!(text, "{{address: 10.{backend}.{high}.{low}}},").expect("string");
        }
        text.push_str("]}\n");
    }
    let config = parse_fast(&text).expect("within the limits");
    assert_eq!(config.services.len(), limits::MAX_SERVICES);

    text.push_str("- {name: more, vip: 198.51.100.1, port: 80, backends: [{address: 10.99.0.1}]}\n");
    let errors = parse_fast(&text).expect_err("one too many");
    assert!(errors.to_string().contains("too many services, use up to 4095 services"), "{errors}");
}

#[test]
fn one_backend_too_many_is_refused() {
    let mut text =
        String::from("interfaces: [eth0]\nservices:\n- name: web\n  vip: 192.0.2.10\n  port: 80\n  backends:\n");
    for backend in 0..=limits::MAX_BACKENDS {
        writeln!(text, "  - {{address: 10.0.{}.{}}}", backend / 250, backend % 250).expect("string");
    }
    let errors = parse_fast(&text).expect_err("one too many");
    let problem = &errors.problems()[0];
    assert_eq!(errors.problems().len(), 1);
    assert_eq!(problem.field.as_deref(), Some("services[0].backends[32767]"));
    assert_eq!(problem.message, "too many backends");
}

#[test]
fn hostile_yaml_ends_fast_with_an_error() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..10 {
        let uses = vec![format!("*a{}", level - 1); 10].join(",");
        writeln!(bomb, "a{level}: &a{level} [{uses}]").expect("string");
    }
    let mut merges = String::from("m0: &m0 {a: 1}\n");
    for level in 1..2_000 {
        writeln!(merges, "m{level}: &m{level} {{<<: *m{}, k{level}: 1}}", level - 1).expect("string");
    }
    let rows = [
        ("alias bomb", bomb),
        ("chain of merges", merges),
        ("deep flow lists", "[".repeat(100_000)),
        ("deep flow mappings", "{a: ".repeat(100_000)),
        ("deep block lists", "- ".repeat(100_000)),
        ("5 MB", "# a comment that goes on and on\n".repeat(5_000_000 / 32)),
        (
            "many keys",
            (0..200_000).fold(String::new(), |mut text, n| {
                writeln!(text, "k{n}: 1").expect("string");
                text
            }),
        ),
        ("one key many times", "interfaces: [a]\n".repeat(100_000)),
        ("many documents", "---\n".repeat(500_000)),
        ("one long scalar", format!("interfaces: [{}]", "e".repeat(3_000_000))),
        ("one long key", format!("{}: 1", "k".repeat(3_000_000))),
        ("many unknown keys in one backend", {
            let keys: String = (0..100_000).fold(String::new(), |mut text, n| {
                write!(text, "k{n}: 1, ").expect("string");
                text
            });
            format!("interfaces: [a]\nservices: [{{name: a, vip: 192.0.2.1, port: 1, backends: [{{{keys}}}]}}]\n")
        }),
        ("nothing but zeros", "\0".repeat(1_000_000)),
        (
            "many anchors",
            (0..100_000).fold(String::new(), |mut text, n| {
                writeln!(text, "- &x{n} 1").expect("string");
                text
            }),
        ),
    ];
    for (name, text) in rows {
        let errors = parse_fast(&text).expect_err(name);
        let rendered = errors.to_string();
        assert!(rendered.len() < 100_000, "{name}: {} bytes of errors", rendered.len());
        assert!(errors.problems().iter().all(|problem| !problem.mend.is_empty()), "{name}");
    }
}

proptest! {
    #[test]
    fn any_text_is_either_read_or_refused(text in any::<String>()) {
        let _ = config::parse("lb.yaml", &text);
    }

    #[test]
    fn any_yaml_like_text_is_either_read_or_refused(text in "([a-z]{1,4}|[:\\-,{}\\[\\]&*!|>'\"#%@?~<]| |\n|  - |: ){0,60}") {
        let _ = config::parse("lb.yaml", &text);
    }

    /// Small damage to a good file: it must be read or refused with places that exist, and never panic.
    #[test]
    fn a_damaged_file_is_either_read_or_refused_in_place(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\n\u{e9}\t]{0,6}"), 1..6)
    ) {
        let mut text: Vec<char> = include_str!("config/good/full.yaml").chars().collect();
        for (index, len, insert) in &cuts {
            let start = index.index(text.len());
            let end = (start + len).min(text.len());
            text.splice(start..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = config::parse("lb.yaml", &text) {
            prop_assert!(!errors.problems().is_empty());
            for problem in errors.problems() {
                let line = problem.line.expect("a line") as usize;
                prop_assert!(line >= 1 && line <= text.split('\n').count(), "{}", problem);
                prop_assert!(!problem.mend.is_empty(), "{}", problem);
            }
        }
    }
}
