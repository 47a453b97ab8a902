//! What a packet costs: a line for each case and floor, as a table (which is Markdown) and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::figures::{Samples, table};

/// One row. `ns` and `stateless` have the packet maker's cost taken off.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) verdict: u32,
    pub(super) ns: Samples,
    /// With the packet maker.
    pub(super) raw: Samples,
    /// The packet maker alone.
    pub(super) preparation: Samples,
    pub(super) stateless: Samples,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Report {
    pub(super) machine: String,
    pub(super) rounds: u32,
    pub(super) packets: u32,
    pub(super) transmit: Samples,
    pub(super) swap: Samples,
    pub(super) rows: Vec<Row>,
    /// Instructions that the verifier walked through, by program.
    pub(super) verified: Vec<(String, u32)>,
}

const COLUMNS: [&str; 8] =
    ["packets", "ns", "min to max", "stateless NAT", "x", "verdict", "with packet maker", "packet maker"];

impl Report {
    pub(super) fn markdown(&self) -> String {
        let mut lines =
            vec![floor("floor: return XDP_TX", &self.transmit), floor("floor: parse, swap MACs", &self.swap)];
        lines.extend(self.rows.iter().map(cells));
        let mut text = format!(
            "Nanoseconds per packet: medians of {} rounds of {} packets, one core, {}.\n\
             The packet maker's cost is taken off, measured in the same round with a program that returns XDP_TX.\n\
             `stateless NAT`: VIP, hash, slot, backend, DNAT; no memory, no counters, no checks. `x`: ns / stateless NAT.\n\
             `ipip`, `gue`: taking the outer header off again is the packet maker's doing, and is in the figure.\n\n",
            self.rounds, self.packets, self.machine
        );
        text += &table(&COLUMNS.map(str::to_owned), &lines);
        text += "\nInstructions that the verifier walked through:";
        for (name, count) in &self.verified {
            let _ = write!(text, " {name} {count}");
        }
        text + "\n"
    }

    pub(super) fn json(&self) -> Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name,
                    "verdict": verdict(row.verdict),
                    "ns": row.ns.json(),
                    "raw_ns": row.raw.json(),
                    "preparation_ns": row.preparation.json(),
                    "stateless_nat_ns": optional(&row.stateless),
                })
            })
            .collect();
        let verified: serde_json::Map<_, _> =
            self.verified.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
        json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "packets": self.packets,
            "floors": { "transmit_ns": self.transmit.json(), "swap_ns": self.swap.json() },
            "rows": rows,
            "verified_instructions": verified,
        })
    }
}

fn optional(samples: &Samples) -> Value {
    if samples.is_empty() { Value::Null } else { samples.json() }
}

fn floor(name: &str, samples: &Samples) -> [String; COLUMNS.len()] {
    let mut cells: [String; COLUMNS.len()] = Default::default();
    cells[0] = name.into();
    cells[1] = number(samples.median());
    cells[2] = range(samples);
    cells
}

fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let known = |text: String| if row.stateless.is_empty() { String::new() } else { text };
    [
        row.name.into(),
        number(row.ns.median()),
        range(&row.ns),
        known(number(row.stateless.median())),
        known(format!("{:.2}", row.ns.median() / row.stateless.median())),
        verdict(row.verdict).into(),
        number(row.raw.median()),
        number(row.preparation.median()),
    ]
}

fn number(ns: f64) -> String {
    format!("{ns:.1}")
}

fn range(samples: &Samples) -> String {
    let (min, max) = samples.range();
    format!("{min:.1} to {max:.1}")
}

fn verdict(number: u32) -> &'static str {
    match number {
        1 => "drop",
        2 => "pass",
        3 => "transmit",
        4 => "redirect",
        _ => "aborted",
    }
}
