//! What a program may cost, and which ones cost more. SPECIFICATION.md promises these numbers.

use lb_agent::dataplane::kernel::{Configuration, Cost};
use serde::Serialize;

#[derive(Debug)]
pub(super) struct Budget {
    /// Instructions that the verifier may walk through for one program. Kernels refuse at a million.
    pub(super) verified: u32,
    /// The programs that packets meet: a call costs each of them six nanoseconds.
    pub(super) no_calls_in: &'static [&'static str],
}

pub(super) const BUDGET: Budget = Budget { verified: 100_000, no_calls_in: &["balance", "balance_tc"] };

/// A program as it was loaded once.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Loaded {
    #[serde(flatten)]
    pub(super) cost: Cost,
    pub(super) configuration: Configuration,
}

/// What is over the budget, a line each; nothing loaded is no good sign either.
pub(super) fn judge(loaded: &[Loaded]) -> Vec<String> {
    let mut complaints = Vec::new();
    for name in BUDGET.no_calls_in.iter().filter(|name| loaded.iter().all(|loaded| loaded.cost.program != **name)) {
        complaints.push(format!("the object has no program {name}"));
    }
    for Loaded { cost, configuration } in loaded {
        let Cost { program, verified, calls, .. } = cost;
        if *verified == 0 {
            complaints.push(format!("{program}: the kernel does not say what it verified (with {configuration})"));
        }
        if *verified > BUDGET.verified {
            let limit = BUDGET.verified;
            complaints.push(format!("{program}: {verified} verified instructions of {limit} (with {configuration})"));
        }
        if *calls > 0 && BUDGET.no_calls_in.contains(&program.as_str()) {
            complaints.push(format!("{program}: {calls} calls of other functions (with {configuration})"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(program: &str, verified: u32, calls: usize) -> Loaded {
        let cost = Cost { program: program.to_owned(), verified, instructions: 10, jited_bytes: 50, calls };
        Loaded { cost, configuration: Configuration::default() }
    }

    #[track_caller]
    fn check(others: &[Loaded], expected: &[&str]) {
        let all: Vec<_> =
            others.iter().cloned().chain(BUDGET.no_calls_in.iter().map(|name| loaded(name, 22_000, 0))).collect();
        let complaints = judge(&all);
        assert_eq!(complaints.len(), expected.len(), "{complaints:?}");
        for (complaint, start) in complaints.iter().zip(expected) {
            assert!(complaint.starts_with(start), "{complaint}");
        }
    }

    #[test]
    fn the_limits_are_where_they_are_promised() {
        check(&[], &[]);
        check(&[loaded("balance", 100_000, 0)], &[]);
        check(&[loaded("balance", 100_001, 0)], &["balance: 100001 verified"]);
        check(&[loaded("balance", 1, 1)], &["balance: 1 calls"]);
        check(&[loaded("balance_tc", 1, 1)], &["balance_tc: 1 calls"]);
        check(&[loaded("balance", 100_001, 2)], &["balance: 100001 verified", "balance: 2 calls"]);
        check(&[loaded("route", 100_001, 1)], &["route: 100001 verified"]);
        check(&[loaded("route", 10, 7)], &[]);
    }

    #[test]
    fn silence_is_no_consent() {
        check(&[loaded("route", 0, 0)], &["route: the kernel does not say"]);
        assert_eq!(judge(&[]).len(), 2);
        assert_eq!(judge(&[loaded("balance", 10, 0)]), ["the object has no program balance_tc"]);
    }
}
