//! Scenarios of the simulator: the same strictness and the same errors as a configuration.

mod events;

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::limits;
use super::names;
use super::reader::{Fields, Read, Reader, Section};
use super::report::{fault, shown};
use super::values::{self, Parsed, number};
use super::yaml::{Node, Value};
use crate::model::scenario::{
    BackendKind, Discipline, Distribution, Failures, HealthChecks, Load, Measurement, Pool, Scenario, Visibility, Work,
};

const ROOT: Section = Section {
    name: "a scenario",
    keys: &[
        "name",
        "about",
        "duration",
        "pool",
        "load",
        "work",
        "balancers",
        "requests_per_flow",
        "think",
        "visibility",
        "measurement",
        "health",
        "failures",
        "events",
    ],
    example: "`name: steady` and `load: { kind: constant, load: 0.75 }`",
};
const POOL: Section = Section {
    name: "`pool`",
    keys: &["backends", "discipline", "backlog", "network"],
    example: "`pool: { backends: [{ speed: 1, cores: 4 }] }`",
};
const KIND: Section =
    Section { name: "a kind of backend", keys: &["speed", "cores"], example: "`{ speed: 1, cores: 4 }`" };
const LOAD: Section = Section {
    name: "`load`",
    keys: &[
        "kind", "load", "steps", "base", "peak", "at", "rise", "hold", "decay", "low", "high", "low_for", "high_for",
        "middle", "swing", "period", "file",
    ],
    example: "`load: { kind: constant, load: 0.75 }`",
};
const WORK: Section = Section {
    name: "`work`",
    keys: &["mean", "distribution", "sigma", "alpha", "ratio", "part"],
    example: "`work: { mean: 10ms, distribution: lognormal, sigma: 1 }`",
};
const MEASUREMENT: Section = Section {
    name: "`measurement`",
    keys: &["interval", "delay", "noise", "load_noise"],
    example: "`measurement: { interval: 250ms }`",
};
const HEALTH: Section = Section {
    name: "`health`",
    keys: &["interval", "timeout", "rise", "fall"],
    example: "`health: { interval: 1s, fall: 2 }`",
};
const FAILURES: Section = Section {
    name: "`failures`",
    keys: &["seen", "error_latency", "hang_timeout", "timeout"],
    example: "`failures: { seen: 1 }`",
};

const DURATION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
const SOME_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);
/// Load beyond capacity ends in queues that only the backlog bounds.
const LOADS: RangeInclusive<f64> = 0.001..=4.0;
const FACTORS: RangeInclusive<f64> = 0.001..=100.0;
const PARTS: RangeInclusive<f64> = 0.0..=1.0;
const MOST_BALANCERS: u64 = 64;
const MOST_REPLAYED: usize = 20_000_000;

const LOAD_KINDS: &[(&str, &[&str])] = &[
    ("constant", &["load"]),
    ("steps", &["steps"]),
    ("flash", &["base", "peak", "at", "rise", "hold", "decay"]),
    ("bursty", &["low", "high", "low_for", "high_for"]),
    ("diurnal", &["middle", "swing", "period"]),
    ("replay", &["file", "load"]),
];
const DISTRIBUTIONS: &[(&str, &[&str])] = &[
    ("lognormal", &["sigma", "mean"]),
    ("pareto", &["alpha", "ratio", "mean"]),
    ("exponential", &["mean"]),
    ("bimodal", &["part", "ratio", "mean"]),
    ("fixed", &["mean"]),
];

pub(super) fn scenario(reader: &mut Reader<'_>, root: &Node, directory: &Path) -> Read<Scenario> {
    let fields = reader.fields(root, "", &ROOT)?;
    // Everything is read before the first `?`, so that one mistake hides no other.
    let name = reader.required(&fields, "name", "name: steady", names::name);
    let about = reader.optional(&fields, "about", String::new(), names::label_value);
    let duration = time(reader, &fields, "duration", Some(40.0), &DURATION);
    let pool = pool(reader, &fields);
    let load = load(reader, &fields, directory);
    let work = work(reader, &fields);
    let balancers = reader.optional(&fields, "balancers", 1, |text| number(text, &(1..=MOST_BALANCERS)));
    let requests_per_flow = decimal(reader, &fields, "requests_per_flow", Some(1.0), &(1.0..=10_000.0));
    let think = time(reader, &fields, "think", Some(0.1), &ANY_TIME);
    let visibility = reader.choice(&fields, "visibility", Visibility::NAMES, Visibility::Requests);
    let measurement = measurement(reader, &fields);
    let health = health(reader, &fields);
    let failures = failures(reader, &fields);
    let events = events::events(reader, &fields);
    Ok(Scenario {
        name: name?,
        about: about?,
        duration: duration?,
        pool: pool?,
        load: load?,
        work: work?,
        balancers: balancers? as usize,
        requests_per_flow: requests_per_flow?,
        think: think?,
        visibility: visibility?,
        measurement: measurement?,
        health: health?,
        failures: failures?,
        events: events?,
    })
}

/// A number with decimals; without a default it is required.
fn decimal(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    key: &str,
    default: Option<f64>,
    range: &RangeInclusive<f64>,
) -> Read<f64> {
    let parse = |text: &str| decimal_text(text, range);
    match default {
        Some(default) => reader.optional(fields, key, default, parse),
        None => reader.required(fields, key, &format!("{key}: {}", range.end().min(1.0)), parse),
    }
}

fn decimal_text(text: &str, range: &RangeInclusive<f64>) -> Parsed<f64> {
    let mend = || format!("use {} to {}", range.start(), range.end());
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.parse::<f64>() {
        Ok(value) if plain && range.contains(&value) => Ok(value),
        Ok(_) if plain => Err(fault(format!("{} is out of range", shown(text)), mend())),
        _ => Err(fault(format!("{} is not a number", shown(text)), mend())),
    }
}

/// A duration in seconds; without a default it is required.
fn time(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    key: &str,
    default: Option<f64>,
    range: &RangeInclusive<Duration>,
) -> Read<f64> {
    let parse = |text: &str| values::duration(text, range).map(|value| value.as_secs_f64());
    match default {
        Some(default) => reader.optional(fields, key, default, parse),
        None => reader.required(fields, key, &format!("{key}: 1s"), parse),
    }
}

/// A mapping that may be left out.
fn section<'n>(reader: &mut Reader<'_>, fields: &Fields<'n>, key: &str, kind: &Section) -> Read<Option<Fields<'n>>> {
    fields.get(key).map(|node| reader.fields(node, &fields.path(key), kind)).transpose()
}

/// The kind that a mapping says it is, after a look at whether its other keys belong to that kind.
fn kind<'k>(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    key: &str,
    kinds: &[(&'k str, &[&str])],
    default: Option<&'k str>,
    common: &[&str],
) -> Read<&'k str> {
    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    let parse = |text: &str| match kinds.iter().find(|(name, _)| *name == text) {
        Some((name, _)) => Ok(*name),
        None => Err(values::unknown_choice(text, &names)),
    };
    let chosen = match default {
        Some(default) => reader.optional(fields, key, default, parse),
        None => reader.required(fields, key, &format!("{key}: {}", names[0]), parse),
    }?;
    let keys = kinds.iter().find(|(name, _)| *name == chosen).map_or(&[] as &[&str], |(_, keys)| keys);
    let mut outcome = Ok(chosen);
    for (other, _) in fields.present() {
        if other != key && !keys.contains(&other) && !common.contains(&other) {
            let mend = format!("remove it, `{chosen}` has: {}", keys.join(", "));
            let found = fault(format!("`{chosen}` has no `{other}`"), mend);
            outcome = Err(reader.fail(fields.at_key(other), &fields.path(other), found));
        }
    }
    outcome
}

/// Kinds of backends as in a data centre of several generations.
fn default_kinds() -> Vec<BackendKind> {
    [(1.0, 4), (0.5, 8), (2.0, 4), (1.0, 8)].map(|(speed, cores)| BackendKind { speed, cores }).to_vec()
}

fn pool(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<Pool> {
    let default = Pool { kinds: default_kinds(), discipline: Discipline::Sharing, backlog: 1_024, network: 300e-6 };
    let Some(fields) = section(reader, root, "pool", &POOL)? else {
        return Ok(default);
    };
    let kinds = match fields.get("backends") {
        None => Ok(default.kinds),
        Some(_) => reader.items(&fields, "backends", "backends: [{ speed: 1, cores: 4 }]").and_then(|nodes| {
            let read = |(index, node)| backend_kind(reader, node, &format!("{}[{index}]", fields.path("backends")));
            nodes.iter().enumerate().map(read).collect()
        }),
    };
    let discipline = reader.choice(&fields, "discipline", Discipline::NAMES, default.discipline);
    let backlog = reader.optional(&fields, "backlog", default.backlog as u64, |text| number(text, &(1..=1_000_000)));
    let network = time(reader, &fields, "network", Some(default.network), &ANY_TIME);
    Ok(Pool { kinds: kinds?, discipline: discipline?, backlog: backlog? as usize, network: network? })
}

fn backend_kind(reader: &mut Reader<'_>, node: &Node, path: &str) -> Read<BackendKind> {
    let fields = reader.fields(node, path, &KIND)?;
    let speed = decimal(reader, &fields, "speed", Some(1.0), &FACTORS);
    let cores = reader.required(&fields, "cores", "cores: 4", |text| number(text, &(1..=1_024)));
    Ok(BackendKind { speed: speed?, cores: cores? as u32 })
}

fn load(reader: &mut Reader<'_>, root: &Fields<'_>, directory: &Path) -> Read<Load> {
    let Some(fields) = section(reader, root, "load", &LOAD)? else {
        return Err(reader.missing(root, "load", "load: { kind: constant, load: 0.75 }"));
    };
    let chosen = kind(reader, &fields, "kind", LOAD_KINDS, None, &[])?;
    let mut part = |key, default| decimal(reader, &fields, key, default, &LOADS);
    match chosen {
        "steps" => steps(reader, &fields),
        "flash" => {
            let (base, peak) = (part("base", None), part("peak", None));
            let mut time = |key, default| time(reader, &fields, key, default, &SOME_TIME);
            let (at, rise, hold, decay) =
                (time("at", None), time("rise", None), time("hold", None), time("decay", None));
            Ok(Load::Flash { base: base?, peak: peak?, at: at?, rise: rise?, hold: hold?, decay: decay? })
        }
        "bursty" => {
            let (low, high) = (part("low", None), part("high", None));
            let mut time = |key| time(reader, &fields, key, None, &SOME_TIME);
            let (low_for, high_for) = (time("low_for"), time("high_for"));
            Ok(Load::Bursty { low: low?, high: high?, low_for: low_for?, high_for: high_for? })
        }
        "diurnal" => {
            let (middle, swing) = (part("middle", None), part("swing", None));
            let period = time(reader, &fields, "period", None, &SOME_TIME);
            let (middle, swing) = (middle?, swing?);
            if swing > middle {
                let found = fault("the load would fall below nothing", format!("use a swing of up to {middle}"));
                return Err(reader.fail(fields.at_value("swing"), &fields.path("swing"), found));
            }
            Ok(Load::Diurnal { middle, swing, period: period? })
        }
        "replay" => {
            let load = part("load", None);
            let path = reader.required(&fields, "file", "file: arrivals.txt", |text| Ok(directory.join(text)))?;
            match arrivals(&path) {
                Ok(times) => Ok(Load::Replay { file: path, load: load?, times }),
                Err(found) => Err(reader.fail(fields.at_value("file"), &fields.path("file"), found)),
            }
        }
        _ => part("load", None).map(Load::Constant),
    }
}

fn steps(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Read<Load> {
    const EXAMPLE: &str = "steps: [[0s, 0.4], [12s, 0.8]]";
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for (index, node) in reader.items(fields, "steps", EXAMPLE)?.iter().enumerate() {
        let path = format!("{}[{index}]", fields.path("steps"));
        let Value::List(pair) = &node.value else {
            return Err(reader.fail(
                node.at,
                &path,
                fault("not a pair of time and load", format!("write `{EXAMPLE}`")),
            ));
        };
        let [at, load] = pair.as_slice() else {
            return Err(reader.fail(
                node.at,
                &path,
                fault("not a pair of time and load", format!("write `{EXAMPLE}`")),
            ));
        };
        let at = reader.scalar(at, &path, |text| values::duration(text, &ANY_TIME).map(|value| value.as_secs_f64()));
        let load = reader.scalar(load, &path, |text| decimal_text(text, &LOADS));
        let at = at?;
        let follows = if index == 0 { at == 0.0 } else { steps.last().is_some_and(|(before, _)| *before < at) };
        if !follows {
            let found = fault("times must begin at 0s and rise", format!("write `{EXAMPLE}`"));
            return Err(reader.fail(node.at, &path, found));
        }
        steps.push((at, load?));
    }
    Ok(Load::Steps(steps))
}

/// Arrival times from a file: one number of seconds a line; empty lines and those that begin with `#` are skipped.
fn arrivals(path: &Path) -> Parsed<Vec<f64>> {
    let mend = "give a file with one arrival time in seconds a line, rising";
    let text = std::fs::metadata(path)
        .and_then(|found| {
            if found.len() > 20 * MOST_REPLAYED as u64 {
                return Err(std::io::Error::other("it is too large"));
            }
            std::fs::read_to_string(path)
        })
        .map_err(|error| fault(format!("{} cannot be read ({error})", shown(&path.display().to_string())), mend))?;
    let mut times: Vec<f64> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.parse::<f64>() {
            Ok(at) if at.is_finite() && at >= times.last().copied().unwrap_or(0.0) => times.push(at),
            _ => return Err(fault(format!("line {} of it, {}, is no later time", index + 1, shown(line)), mend)),
        }
        if times.len() > MOST_REPLAYED {
            return Err(fault(format!("more than {MOST_REPLAYED} arrivals"), "use a shorter recording"));
        }
    }
    if times.len() < 2 { Err(fault("fewer than two arrivals", mend)) } else { Ok(times) }
}

fn work(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<Work> {
    let default = Work { mean: 0.01, distribution: Distribution::Lognormal { sigma: 1.0 } };
    let Some(fields) = section(reader, root, "work", &WORK)? else {
        return Ok(default);
    };
    let chosen = kind(reader, &fields, "distribution", DISTRIBUTIONS, Some("lognormal"), &[])?;
    let mean = time(reader, &fields, "mean", Some(default.mean), &SOME_TIME);
    let mut number = |key, default, range| decimal(reader, &fields, key, default, &range);
    let distribution = match chosen {
        "pareto" => {
            let (alpha, ratio) = (number("alpha", Some(1.5), 1.01..=10.0), number("ratio", Some(1_000.0), 2.0..=1e6));
            Distribution::Pareto { alpha: alpha?, ratio: ratio? }
        }
        "bimodal" => {
            let (part, ratio) = (number("part", Some(0.05), PARTS), number("ratio", Some(20.0), 1.0..=1e4));
            Distribution::Bimodal { part: part?, ratio: ratio? }
        }
        "exponential" => Distribution::Exponential,
        "fixed" => Distribution::Fixed,
        _ => Distribution::Lognormal { sigma: number("sigma", Some(1.0), 0.0..=3.0)? },
    };
    Ok(Work { mean: mean?, distribution })
}

fn measurement(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<Measurement> {
    let default = Measurement { interval: 0.25, delay: 0.1, noise: 0.1, load_noise: 0.03 };
    let Some(fields) = section(reader, root, "measurement", &MEASUREMENT)? else {
        return Ok(default);
    };
    let bounds = Duration::from_millis(50)..=Duration::from_secs(10);
    let interval = time(reader, &fields, "interval", Some(default.interval), &bounds);
    let delay = time(reader, &fields, "delay", Some(default.delay), &ANY_TIME);
    let noise = decimal(reader, &fields, "noise", Some(default.noise), &(0.0..=3.0));
    let load_noise = decimal(reader, &fields, "load_noise", Some(default.load_noise), &PARTS);
    Ok(Measurement { interval: interval?, delay: delay?, noise: noise?, load_noise: load_noise? })
}

fn health(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<HealthChecks> {
    let default = HealthChecks { interval: 1.0, timeout: 0.2, rise: 2, fall: 2 };
    let Some(fields) = section(reader, root, "health", &HEALTH)? else {
        return Ok(default);
    };
    let count = |text: &str| number(text, &limits::HEALTH_COUNT).and_then(values::narrow);
    let interval = time(reader, &fields, "interval", Some(default.interval), &limits::HEALTH_INTERVAL);
    let timeout = time(reader, &fields, "timeout", Some(default.timeout), &SOME_TIME);
    let rise = reader.optional(&fields, "rise", default.rise, count);
    let fall = reader.optional(&fields, "fall", default.fall, count);
    Ok(HealthChecks { interval: interval?, timeout: timeout?, rise: rise?, fall: fall? })
}

fn failures(reader: &mut Reader<'_>, root: &Fields<'_>) -> Read<Failures> {
    let default = Failures { seen: 1.0, error_latency: 0.001, hang_timeout: 1.0, timeout: 5.0 };
    let Some(fields) = section(reader, root, "failures", &FAILURES)? else {
        return Ok(default);
    };
    let seen = decimal(reader, &fields, "seen", Some(default.seen), &PARTS);
    let mut time = |key, default| time(reader, &fields, key, Some(default), &SOME_TIME);
    let (error_latency, hang_timeout) =
        (time("error_latency", default.error_latency), time("hang_timeout", default.hang_timeout));
    let timeout = time("timeout", default.timeout);
    Ok(Failures { seen: seen?, error_latency: error_latency?, hang_timeout: hang_timeout?, timeout: timeout? })
}
