//! How a service's backends are checked.

use std::time::Duration;

use super::limits;
use super::names;
use super::reader::{Fields, HEALTH, Read, Reader};
use super::report::fault;
use super::values::{self, duration_text, narrow, number};
use crate::model::config::{Health, HealthKind, Protocol};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const DEFAULT_PATH: &str = "/";

/// A connection says whether a TCP service is there. What a UDP service answers to, only its owner knows.
fn default_kind(protocol: Option<Protocol>) -> HealthKind {
    match protocol {
        Some(Protocol::Udp) => HealthKind::None,
        Some(Protocol::Tcp) | None => HealthKind::Tcp,
    }
}

fn default_health(kind: HealthKind) -> Health {
    Health {
        kind,
        path: DEFAULT_PATH.to_owned(),
        port: None,
        interval: DEFAULT_INTERVAL,
        timeout: DEFAULT_TIMEOUT,
        rise: DEFAULT_RISE,
        fall: DEFAULT_FALL,
        send: String::new(),
        expect: None,
    }
}

/// `protocol` is the service's, if it could be read.
pub(super) fn health(reader: &mut Reader<'_>, service: &Fields<'_>, protocol: Option<Protocol>) -> Read<Health> {
    let default = default_health(default_kind(protocol));
    let Some(node) = service.get("health") else {
        return Ok(default);
    };
    let fields = reader.fields(node, &service.path("health"), &HEALTH)?;
    let count = |text: &str| number(text, &limits::HEALTH_COUNT).and_then(narrow);
    let kind = reader.choice(&fields, "kind", HealthKind::NAMES, default.kind);
    let path = reader.optional(&fields, "path", default.path, names::health_path);
    let port = reader.maybe(&fields, "port", values::port);
    let interval =
        reader.optional(&fields, "interval", default.interval, |text| values::duration(text, &limits::HEALTH_INTERVAL));
    let timeout = timeout(reader, &fields, interval);
    let rise = reader.optional(&fields, "rise", default.rise, count);
    let fall = reader.optional(&fields, "fall", default.fall, count);
    let send = reader.optional(&fields, "send", default.send, names::datagram);
    let expect = reader.maybe(&fields, "expect", names::datagram);
    let fitting = kind.and_then(|kind| keys_fit_kind(reader, &fields, kind));
    fitting?;
    Ok(Health {
        kind: kind?,
        path: path?,
        port: port?,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        send: send?,
        expect: expect?,
    })
}

/// Probes of one backend do not overlap, so an answer must be in before the next one is due.
fn timeout(reader: &mut Reader<'_>, fields: &Fields<'_>, interval: Read<Duration>) -> Read<Duration> {
    let default = DEFAULT_TIMEOUT.min(interval.unwrap_or(DEFAULT_INTERVAL));
    reader.optional(fields, "timeout", default, |text| {
        let value = values::duration(text, &(limits::MIN_HEALTH_TIMEOUT..=*limits::HEALTH_INTERVAL.end()))?;
        match interval {
            Ok(interval) if value > interval => Err(fault(
                format!("{} is longer than the interval of {}", duration_text(value), duration_text(interval)),
                format!("use {} to {}", duration_text(limits::MIN_HEALTH_TIMEOUT), duration_text(interval)),
            )),
            _ => Ok(value),
        }
    })
}

/// A key that the kind of check has no use for was meant for another kind. With `none` all of them may stay,
/// so that checks can be switched off and on again by one word.
fn keys_fit_kind(reader: &mut Reader<'_>, fields: &Fields<'_>, kind: HealthKind) -> Read<()> {
    let of_http = matches!(kind, HealthKind::Http | HealthKind::Https | HealthKind::None);
    let of_udp = matches!(kind, HealthKind::Udp | HealthKind::None);
    let mut outcome = Ok(());
    for (key, fits, home) in [("path", of_http, "http"), ("send", of_udp, "udp"), ("expect", of_udp, "udp")] {
        if !fits && fields.get(key).is_some() {
            let found = fault(
                format!("a check of kind `{kind}` has no `{key}`"),
                format!("set `kind: {home}` or remove `{key}`"),
            );
            outcome = Err(reader.fail(fields.at_key(key), &fields.path(key), found));
        }
    }
    outcome
}
