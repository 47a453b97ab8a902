//! Scenario files as `lb-agent simulate` reads them: the public ones are valid and described, and mistakes are named with line
//! and mend.

use std::path::Path;

use lb_agent::config::load_scenario;

fn public() -> Vec<std::path::PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn public_scenarios_are_valid_and_named_like_their_files() {
    let files = public();
    assert!(files.len() >= 10, "{files:?}");
    let documentation = include_str!("../../docs/policies.md");
    for file in files {
        let scenario = load_scenario(&file).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(Some(scenario.name.as_str()), file.file_stem().and_then(|stem| stem.to_str()));
        assert!(!scenario.about.is_empty(), "{}", scenario.name);
        assert!(documentation.contains(&format!("`{}`", scenario.name)), "{} is not documented", scenario.name);
    }
}

#[test]
fn mistakes_are_named_with_line_and_mend() {
    let cases = [
        ("name: x\n", "load", "add `load: { kind: constant, load: 0.75 }`"),
        ("name: x\nload: { kind: constant, load: 0.5 }\nlaod: 3\n", ":3:", "did you mean `load`?"),
        ("name: x\nload: { kind: constant, load: 9 }\n", ":2:", "use 0.001 to 4"),
        ("name: x\nload: { kind: constant, load: 0.5, peak: 1 }\n", "`constant` has no `peak`", "remove it"),
        ("name: x\nload: { kind: constnat, load: 0.5 }\n", ":2:", "did you mean `constant`?"),
        ("name: x\nload: { kind: steps, steps: [[1s, 0.5]] }\n", "times must begin at 0s", "[[0s, 0.4]"),
        ("name: x\nload: { kind: replay, load: 0.5, file: nowhere.txt }\n", "cannot be read", "one arrival time"),
        (
            "name: x\nload: { kind: constant, load: 0.5 }\nevents:\n  - { kind: slow, at: 5s, until: 4s }\n",
            ":4:",
            "use a later time",
        ),
        (
            "name: x\nload: { kind: constant, load: 0.5 }\nevents:\n  - { kind: join, at: 5s, factor: 2 }\n",
            "`join` has no `factor`",
            "remove it",
        ),
        (
            "name: x\nload: { kind: constant, load: 0.5 }\nevents:\n  - { kind: errors, at: 1, until: 2s }\n",
            "has no unit",
            "write `1s`",
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broken.yaml");
    for (text, place, mend) in cases {
        std::fs::write(&file, text).unwrap();
        let errors = load_scenario(&file).expect_err(text).to_string();
        assert!(errors.contains(place) && errors.contains(mend), "{text}: {errors}");
    }
}

#[test]
fn a_recording_is_replayed_at_the_wanted_load() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("times.txt"), "# seconds\n0.0\n0.5\n\n0.6\n2.0\n").unwrap();
    let file = directory.path().join("replay.yaml");
    std::fs::write(&file, "name: replay\nload: { kind: replay, load: 0.5, file: times.txt }\n").unwrap();
    let scenario = load_scenario(&file).unwrap_or_else(|errors| panic!("{errors}"));
    let expected = vec![0.0, 0.5, 0.6, 2.0];
    assert!(
        matches!(&scenario.load, lb_agent::model::scenario::Load::Replay { times, .. } if *times == expected),
        "{:?}",
        scenario.load
    );
}

#[test]
fn every_policy_is_documented() {
    let documentation = include_str!("../../docs/policies.md");
    for kind in lb_agent::policy::PolicyKind::ALL {
        assert!(documentation.contains(&format!("`{kind}`")), "{kind}");
    }
}
