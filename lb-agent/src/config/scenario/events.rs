//! What happens in a scenario, and to whom.

use super::super::reader::{Fields, Read, Reader, Section};
use super::super::report::{fault, shown};
use super::super::values::number;
use super::super::yaml::{Node, Value};
use super::{ANY_TIME, FACTORS, PARTS, SOME_TIME, decimal, kind, time};
use crate::model::scenario::{Event, What, Who};

const EVENT: Section = Section {
    name: "an event",
    keys: &[
        "kind",
        "backends",
        "at",
        "until",
        "factor",
        "cold",
        "cold_for",
        "probability",
        "on",
        "off",
        "part",
        "hold",
        "every",
        "down",
        "most",
    ],
    example: "`- { kind: slow, at: 12s, until: 26s, factor: 0.25 }`",
};

const MOST_EVENTS: usize = 1_000;
const EVENT_KINDS: &[(&str, &[&str])] = &[
    ("slow", &["at", "until", "factor"]),
    ("hang", &["at", "until", "cold", "cold_for"]),
    ("errors", &["at", "until", "probability"]),
    ("antagonist", &["factor", "on", "off", "part"]),
    ("slide", &["at", "until", "factor", "hold"]),
    ("rolling", &["at", "every", "down", "cold", "cold_for", "most"]),
    ("join", &["at", "cold", "cold_for"]),
];

pub(super) fn events(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<Vec<Event>> {
    if root.get("events").is_none() {
        return Ok(Vec::new());
    }
    let nodes = reader.items(root, "events", "events: [{ kind: slow, at: 12s, until: 26s, factor: 0.25 }]")?;
    if nodes.len() > MOST_EVENTS {
        let found = fault(format!("{} events", nodes.len()), format!("use up to {MOST_EVENTS}"));
        return Err(reader.fail(root.at_value("events"), "events", found));
    }
    // Each is read, so that one mistake hides no other.
    let read: Vec<_> =
        nodes.iter().enumerate().map(|(index, node)| event(reader, node, &format!("events[{index}]"))).collect();
    read.into_iter().collect()
}

fn event(reader: &mut Reader<'_>, node: &Node, path: &str) -> Read<Event> {
    let fields = reader.fields(node, path, &EVENT)?;
    let chosen = kind(reader, &fields, "kind", EVENT_KINDS, None, &["backends"])?;
    let who = who(reader, &fields);
    let mut factor = |key, default, range| decimal(reader, &fields, key, default, &range);
    let what = match chosen {
        "antagonist" => {
            let (factor, part) = (factor("factor", Some(0.4), FACTORS), factor("part", Some(1.0), PARTS));
            let mut time = |key, default| time(reader, &fields, key, Some(default), &SOME_TIME);
            let (on, off) = (time("on", 1.5), time("off", 4.0));
            What::Antagonist { factor: factor?, on: on?, off: off?, part: part? }
        }
        "slow" | "slide" => {
            let factor = factor("factor", Some(0.25), FACTORS);
            let (at, until) = span(reader, &fields)?;
            if chosen == "slow" {
                What::Slow { at, until, factor: factor? }
            } else {
                let hold = time(reader, &fields, "hold", Some(0.0), &ANY_TIME);
                What::Slide { at, until, factor: factor?, hold: hold? }
            }
        }
        "errors" => {
            let probability = factor("probability", Some(1.0), PARTS);
            let (at, until) = span(reader, &fields)?;
            What::Errors { at, until, probability: probability? }
        }
        _ => {
            let cold = factor("cold", Some(1.0), FACTORS)?;
            let cold_for = time(reader, &fields, "cold_for", Some(0.0), &ANY_TIME)?;
            cold_event(reader, &fields, chosen, cold, cold_for)?
        }
    };
    Ok(Event { who: who?, what })
}

/// Those after which a backend returns, perhaps cold.
fn cold_event(reader: &mut Reader<'_>, fields: &Fields<'_>, chosen: &str, cold: f64, cold_for: f64) -> Read<What> {
    if chosen == "hang" {
        let (at, until) = span(reader, fields)?;
        return Ok(What::Hang { at, until, cold, cold_for });
    }
    let at = time(reader, fields, "at", None, &ANY_TIME);
    if chosen == "join" {
        return Ok(What::Join { at: at?, cold, cold_for });
    }
    let (every, down) =
        (time(reader, fields, "every", None, &SOME_TIME), time(reader, fields, "down", None, &SOME_TIME));
    let most = reader.optional(fields, "most", 12, |text| number(text, &(1..=100_000)));
    Ok(What::Rolling { at: at?, every: every?, down: down?, cold, cold_for, most: most? as usize })
}

fn span(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Read<(f64, f64)> {
    let at = time(reader, fields, "at", None, &ANY_TIME);
    let until = time(reader, fields, "until", None, &ANY_TIME);
    let (at, until) = (at?, until?);
    if until <= at {
        let found = fault("it would end before it begins", "use a later time");
        return Err(reader.fail(fields.at_value("until"), &fields.path("until"), found));
    }
    Ok((at, until))
}

fn who(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Read<Who> {
    let Some(node) = fields.get("backends") else {
        return Ok(Who::Some);
    };
    let path = fields.path("backends");
    if let Value::List(items) = &node.value {
        let index =
            |node: &Node, reader: &mut Reader<'_>| reader.scalar(node, &path, |text| number(text, &(0..=100_000)));
        let indexes: Read<Vec<u64>> = items.iter().map(|node| index(node, reader)).collect();
        return Ok(Who::These(indexes?.into_iter().map(|index| index as usize).collect()));
    }
    reader.scalar(node, &path, |text| match text {
        "some" => Ok(Who::Some),
        "half" => Ok(Who::Half),
        "all" => Ok(Who::All),
        _ => Err(fault(format!("{} are no backends", shown(text)), "use some, half, all, or a list such as [0, 2]")),
    })
}
