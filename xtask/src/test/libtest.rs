//! Reads what Rust's test runner and cargo print: how many tests passed, failed and were left out, and whether every
//! test binary that was started has said so.

use super::table::Counts;

/// How cargo announces a test binary.
const RUNNING: &str = "     Running ";

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Not tests of their own: another test runs them, in a process that it stops or kills.
    helpers: u64,
    /// Tests that found that they cannot run here; they count as passed for the runner.
    skipped: u64,
    started: u64,
    finished: u64,
    section: Section,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Section {
    #[default]
    Outside,
    Successes,
    /// The output of a test that has passed.
    Test,
    /// The same, and it says that it was skipped.
    Skipped,
}

impl Tally {
    pub(super) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.section = Section::Outside;
            if self.add(counts).is_some() {
                self.finished += 1;
            }
        } else if line.starts_with(RUNNING) || line.starts_with("   Doc-tests ") {
            self.started += 1;
        } else if is_helper(line) {
            self.helpers += 1;
        } else if line == "successes:" {
            self.section = Section::Successes;
        } else if line == "failures:" {
            self.section = Section::Outside;
        } else if self.section != Section::Outside && is_heading(line) {
            self.section = Section::Test;
        } else if self.section == Section::Test && line.starts_with("skipped: ") {
            self.section = Section::Skipped;
            self.skipped += 1;
        }
    }

    /// `ok. 23 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
    fn add(&mut self, counts: &str) -> Option<()> {
        let (_, counts) = counts.split_once(". ")?;
        let count =
            |name: &str| counts.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse::<u64>().ok());
        let (passed, failed, ignored) = (count("passed")?, count("failed")?, count("ignored")?);
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        Some(())
    }

    /// The counts, and what is wrong with the run beside failed tests.
    pub(super) fn judge(&self, success: bool) -> (Counts, Option<String>) {
        let mut counts = Counts {
            passed: self.passed.saturating_sub(self.skipped),
            failed: self.failed,
            skipped: self.ignored.saturating_sub(self.helpers) + self.skipped,
        };
        let complaint = if self.started == 0 {
            Some("no test binary was run".to_owned())
        } else if self.finished < self.started {
            Some(format!(
                "{} of {} test binaries have ended without a result",
                self.started - self.finished,
                self.started
            ))
        } else if counts == Counts::default() {
            Some("there was no test in it".to_owned())
        } else if !success && self.failed == 0 {
            Some("it has failed although no test has".to_owned())
        } else {
            None
        };
        if complaint.is_some() {
            counts.failed += 1;
        }
        (counts, complaint)
    }
}

/// `test NAME ... ok`
pub(super) fn is_result(line: &str) -> bool {
    line.starts_with("test ") && line.contains(" ... ")
}

/// `test NAME ... ignored, run by TEST`
fn is_helper(line: &str) -> bool {
    line.starts_with("test ") && line.contains(" ... ignored, ") && line.contains("run by ")
}

/// The heading of a test's output.
fn is_heading(line: &str) -> bool {
    line.starts_with("---- ") && line.ends_with(" stdout ----")
}

/// The output as far as it is about failures: without the build, if it has come to tests at all, and without tests that
/// passed and what they printed.
pub(super) fn without_successes(output: &str) -> String {
    let mut in_successes = false;
    let tests = output.find(RUNNING).unwrap_or(0);
    let kept = output[tests..].lines().filter(|line| {
        if *line == "successes:" {
            in_successes = true;
        } else if *line == "failures:" || line.starts_with("test result: ") {
            in_successes = false;
        }
        !(in_successes || is_result(line) && line.ends_with(" ... ok"))
    });
    kept.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSING: &str = "     Running unittests src/lib.rs (target/debug/deps/x-1)

running 3 tests
test a ... ok
test b ... ok
test c ... ignored

successes:

---- a stdout ----
skipped: network namespaces need root
skipped: said twice

---- b stdout ----
nothing skipped: here

successes:
    a
    b

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";
    const FAILING: &str = "     Running tests/y.rs (target/debug/deps/y-1)

running 2 tests
test good ... ok
test bad ... FAILED

successes:

---- good stdout ----
noise

successes:
    good

failures:

---- bad stdout ----
skipped: half of it
thread 'bad' panicked at y.rs:1:1:
it is bad

failures:
    bad

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

error: test failed, to rerun pass `--test y`
";

    #[track_caller]
    fn check(output: &str, success: bool, expected: (u64, u64, u64), complaint: &str) {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        let (counts, said) = tally.judge(success);
        assert_eq!((counts.passed, counts.failed, counts.skipped), expected);
        assert_eq!(said.as_deref().unwrap_or(""), complaint);
    }

    #[test]
    fn tests_are_counted_by_what_became_of_them() {
        check(PASSING, true, (1, 0, 2), "");
        check(FAILING, false, (1, 1, 0), "");
        check(&format!("{PASSING}{FAILING}"), false, (2, 1, 2), "");
        let documentation =
            "   Doc-tests x\n\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured";
        check(&format!("{PASSING}{documentation}"), true, (1, 0, 2), "");
    }

    #[test]
    fn what_another_test_runs_is_not_skipped() {
        check(&PASSING.replace("ignored\n", "ignored, waits to be killed; run by a\n"), true, (1, 0, 1), "");
    }

    #[test]
    fn a_run_without_its_summary_has_failed() {
        let cut = PASSING.split("test result").next().expect("a beginning");
        check(cut, true, (0, 1, 1), "1 of 1 test binaries have ended without a result");
        check(&format!("{FAILING}{cut}"), false, (0, 2, 1), "1 of 2 test binaries have ended without a result");
        check("error: could not compile `x`", false, (0, 1, 0), "no test binary was run");
        check("", true, (0, 1, 0), "no test binary was run");
        check(PASSING, false, (1, 1, 2), "it has failed although no test has");
        let empty = "     Running tests/z.rs (z)\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured";
        check(empty, true, (0, 1, 0), "there was no test in it");
        let unreadable = "     Running tests/z.rs (z)\ntest result: ok. many passed";
        check(unreadable, true, (0, 1, 0), "1 of 1 test binaries have ended without a result");
    }

    #[test]
    fn of_a_failure_only_the_failure_is_shown() {
        let shown = without_successes(&format!("   Compiling y v0.1.0\n{FAILING}"));
        assert!(shown.contains("it is bad") && shown.contains("test bad ... FAILED"), "{shown}");
        assert!(!shown.contains("noise") && !shown.contains("Compiling") && !shown.contains("good"), "{shown}");
        assert_eq!(without_successes("error: could not compile `y`"), "error: could not compile `y`");
    }
}
