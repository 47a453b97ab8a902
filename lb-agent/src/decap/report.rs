//! What `decap` has counted, for people and for programs.

use std::fmt::Write as _;

use lb_common::decap::Counter;
use serde::Serialize;

use crate::dataplane::kernel::{Decap, KernelError};

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    interface: String,
    /// Packets that came out, by kind of tunnel.
    ipip: u64,
    gue: u64,
    /// Of those packets.
    bytes: u64,
    passed: Passed,
    dropped: Dropped,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Passed {
    foreign_source: u64,
    elsewhere: u64,
    malformed: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Dropped {
    congestion: u64,
}

impl Report {
    pub(super) fn read(interface: &str, decap: &Decap) -> Result<Self, KernelError> {
        Ok(Self {
            interface: interface.to_owned(),
            ipip: decap.counter(Counter::Ipip)?,
            gue: decap.counter(Counter::Gue)?,
            bytes: decap.counter(Counter::Bytes)?,
            passed: Passed {
                foreign_source: decap.counter(Counter::ForeignSource)?,
                elsewhere: decap.counter(Counter::Elsewhere)?,
                malformed: decap.counter(Counter::Malformed)?,
            },
            dropped: Dropped { congestion: decap.counter(Counter::Congestion)? },
        })
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    pub(super) fn text(&self) -> String {
        let Self { interface, ipip, gue, bytes, passed, dropped } = self;
        let mut text = format!("{interface}: {ipip} packets out of ipip, {gue} out of gue, {bytes} bytes\n");
        let rows = [
            (passed.foreign_source, "passed as they were: the outer source is not allowed (--source)"),
            (passed.elsewhere, "passed as they were: inside was a packet to an address that this host does not have"),
            (passed.malformed, "passed as they were: malformed"),
            (dropped.congestion, "dropped: marked as congested on the way, and their senders know no such marks"),
        ];
        for (count, what) in rows.into_iter().filter(|(count, _)| *count > 0) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{interface}: {count} {what}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_happen_is_not_told_to_people() {
        let mut report = Report { interface: "eth0".into(), ipip: 3, bytes: 180, ..Report::default() };
        assert_eq!(report.text(), "eth0: 3 packets out of ipip, 0 out of gue, 180 bytes\n");
        report.passed.foreign_source = 2;
        assert!(report.text().ends_with("eth0: 2 passed as they were: the outer source is not allowed (--source)\n"));
    }

    #[test]
    fn keys_are_stable() {
        let json: serde_json::Value = serde_json::from_str(&Report::default().json()).expect("JSON");
        let expected = serde_json::json!({
            "interface": "", "ipip": 0, "gue": 0, "bytes": 0,
            "passed": { "foreign_source": 0, "elsewhere": 0, "malformed": 0 }, "dropped": { "congestion": 0 },
        });
        assert_eq!(json, expected);
    }
}
