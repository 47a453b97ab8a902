//! Reads what a backend says about its own load: the JSON of its health answer, or the ORCA header
//! `endpoint-load-metrics`. Both are optional and untrusted, so a value that cannot be true is left out, and one that
//! cannot be read spoils neither its neighbours nor the probe.
//!
//! ORCA (Open Request Cost Aggregation, xDS `OrcaLoadReport`) in the text forms that Envoy reads, `JSON {..}` and
//! `TEXT name=value,..`. Of its fields the utilisation of the CPU is used; where a server gives only
//! `application_utilization`, that stands in for it, as gRPC's weighted round robin has it.

use hyper::HeaderMap;
use serde_json::{Map, Value};

use crate::model::pool::ReportedLoad;

/// The header that carries an ORCA report.
const ORCA_HEADER: &str = "endpoint-load-metrics";
/// Percentages may be summed over cores; nobody has more than 4,096 of them.
const MAX_CPU_PERCENT: f64 = 100.0 * 4096.0;
const MAX_ACTIVE_REQUESTS: f64 = 1e9;
/// An hour: longer than any request that a client still waits for.
const MAX_RESPONSE_TIME_MS: f64 = 3_600_000.0;
const MAX_STATUS_CHARS: usize = 32;

/// The load in an answer's body and head; the body, which is this project's own format, has precedence.
pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Option<ReportedLoad> {
    let mut load = parse_body(body).unwrap_or_default();
    if load.cpu_percent.is_none() {
        load.cpu_percent = headers.get(ORCA_HEADER).and_then(|value| parse_orca(value.to_str().ok()?));
    }
    (load != ReportedLoad::default()).then_some(load)
}

/// The backend says that it should get no traffic.
pub(super) fn is_unhealthy(load: &ReportedLoad) -> bool {
    load.status.as_deref().is_some_and(|status| status.eq_ignore_ascii_case("unhealthy"))
}

fn parse_body(body: &[u8]) -> Option<ReportedLoad> {
    let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    Some(ReportedLoad {
        cpu_percent: number(fields.get("cpu_percent"), MAX_CPU_PERCENT),
        // Bounded well below the point where the conversion would lose anything.
        active_requests: number(fields.get("active_requests"), MAX_ACTIVE_REQUESTS).map(|value| value as u64),
        response_time_ms: number(fields.get("response_time_ms"), MAX_RESPONSE_TIME_MS),
        status: fields.get("status").and_then(Value::as_str).map(plain_status).filter(|status| !status.is_empty()),
    })
}

fn parse_orca(header: &str) -> Option<f64> {
    let (form, report) = header.trim().split_once(' ')?;
    let field = |name: &str, camel: &str| -> Option<f64> {
        let fraction = match form {
            "JSON" => {
                let fields: Map<String, Value> = serde_json::from_str(report).ok()?;
                number(fields.get(name).or_else(|| fields.get(camel)), MAX_CPU_PERCENT / 100.0)
            }
            "TEXT" => {
                let mut pairs = report.split(',').filter_map(|pair| pair.split_once('='));
                let (_, value) = pairs.find(|(key, _)| key.trim() == name)?;
                within(value.trim().parse().ok()?, MAX_CPU_PERCENT / 100.0)
            }
            _ => None,
        };
        fraction.map(|fraction| fraction * 100.0)
    };
    field("cpu_utilization", "cpuUtilization").or_else(|| field("application_utilization", "applicationUtilization"))
}

/// A number, or a string that is one: what scripts that print JSON by hand tend to send.
fn number(value: Option<&Value>, max: f64) -> Option<f64> {
    let number = match value? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    within(number, max)
}

/// NaN is in no range, so it is left out here too.
fn within(number: f64, max: f64) -> Option<f64> {
    (0.0..=max).contains(&number).then_some(number)
}

/// The status ends up in logs and on terminals: printable ASCII, and not much of it.
fn plain_status(status: &str) -> String {
    let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    status.trim().chars().take(MAX_STATUS_CHARS).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn check_body(body: &str, expected: (Option<f64>, Option<u64>, Option<f64>, Option<&str>)) {
        let load = parse(&HeaderMap::new(), body.as_bytes());
        let (cpu_percent, active_requests, response_time_ms, status) = expected;
        let expected =
            ReportedLoad { cpu_percent, active_requests, response_time_ms, status: status.map(str::to_owned) };
        assert_eq!(load, (expected != ReportedLoad::default()).then_some(expected), "{body}");
    }

    #[test]
    fn bodies() {
        let full = r#"{"cpu_percent": 42.5, "active_requests": 7, "response_time_ms": 12, "status": "healthy"}"#;
        check_body(full, (Some(42.5), Some(7), Some(12.0), Some("healthy")));
        check_body(r#" { "cpu_percent": "17.5", "active_requests": 3.0 } "#, (Some(17.5), Some(3), None, None));
        check_body(r#"{"status": "degraded", "extra": [1, {}]}"#, (None, None, None, Some("degraded")));
        let wrong = r#"{"cpu_percent": -1, "active_requests": 1e30, "response_time_ms": "NaN", "status": 3}"#;
        check_body(wrong, (None, None, None, None));
        check_body(
            r#"{"cpu_percent": "inf", "active_requests": null, "response_time_ms": 5}"#,
            (None, None, Some(5.0), None),
        );
        check_body(r#"{"cpu_percent": 1, "cpu_percent": 2}"#, (Some(2.0), None, None, None));
        check_body("{\"status\": \"bad\\u001b[31m\\n\"}", (None, None, None, Some("bad?[31m")));
        for nothing in ["", "OK", "[]", "{", "3", "{\"cpu_percent\": NaN}", "\u{feff}{}"] {
            check_body(nothing, (None, None, None, None));
        }
        check_body(&"[".repeat(60_000), (None, None, None, None));
    }

    #[test]
    fn status_is_bounded() {
        let body = format!("{{\"status\": \"{}\"}}", "x".repeat(10_000));
        let status = parse(&HeaderMap::new(), body.as_bytes()).unwrap().status.unwrap();
        assert_eq!(status.len(), MAX_STATUS_CHARS);
    }

    #[test]
    fn unhealthy_in_any_case() {
        for (status, expected) in [("unhealthy", true), (" UnHealthy ", true), ("healthy", false), ("degraded", false)]
        {
            let body = format!("{{\"status\": \"{status}\"}}");
            assert_eq!(is_unhealthy(&parse(&HeaderMap::new(), body.as_bytes()).unwrap()), expected, "{status}");
        }
        assert!(!is_unhealthy(&ReportedLoad::default()));
    }

    fn check_orca(header: &str, expected: Option<f64>) {
        assert_eq!(parse_orca(header), expected, "{header}");
    }

    #[test]
    fn orca_headers() {
        check_orca("TEXT cpu_utilization=0.5,rps_fractional=100", Some(50.0));
        check_orca("TEXT rps_fractional=100, cpu_utilization = 0.25", Some(25.0));
        check_orca("TEXT application_utilization=0.75,mem_utilization=0.1", Some(75.0));
        check_orca("TEXT application_utilization=0.75,cpu_utilization=1.5", Some(150.0));
        check_orca(r#"JSON {"cpu_utilization": 0.5, "application_utilization": 0.25}"#, Some(50.0));
        check_orca(r#"JSON {"cpuUtilization": 0.25}"#, Some(25.0));
        check_orca("TEXT cpu_utilization=-1", None);
        check_orca("TEXT cpu_utilization=nan,application_utilization=0.5", Some(50.0));
        check_orca("TEXT cpu_utilization=1e300", None);
        for nothing in ["", "TEXT", "TEXT ", "TEXT =", "JSON {", "JSON []", "BIN CgQIBBAC", "cpu_utilization=0.5"] {
            check_orca(nothing, None);
        }
    }

    #[test]
    fn the_body_has_precedence_over_the_header() {
        let mut headers = HeaderMap::new();
        headers.insert(ORCA_HEADER, HeaderValue::from_static("TEXT cpu_utilization=0.5"));
        assert_eq!(parse(&headers, b"OK").unwrap().cpu_percent, Some(50.0));
        let load = parse(&headers, br#"{"active_requests": 2}"#).unwrap();
        assert_eq!((load.cpu_percent, load.active_requests), (Some(50.0), Some(2)));
        assert_eq!(parse(&headers, br#"{"cpu_percent": 9}"#).unwrap().cpu_percent, Some(9.0));
        headers.insert(ORCA_HEADER, HeaderValue::from_bytes(b"TEXT cpu_utilization=\xff").unwrap());
        assert_eq!(parse(&headers, b"OK"), None);
    }

    fn assert_plausible(load: &ReportedLoad) {
        assert!(load.cpu_percent.is_none_or(|value| (0.0..=MAX_CPU_PERCENT).contains(&value)), "{load:?}");
        assert!(load.response_time_ms.is_none_or(|value| (0.0..=MAX_RESPONSE_TIME_MS).contains(&value)), "{load:?}");
        assert!(load.active_requests.is_none_or(|value| value <= 1_000_000_000), "{load:?}");
        assert!(load.status.as_deref().is_none_or(|status| status.chars().all(|c| c == ' ' || c.is_ascii_graphic())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(body: Vec<u8>, header: Vec<u8>) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&header) {
                headers.insert(ORCA_HEADER, value);
            }
            parse(&headers, &body).iter().for_each(assert_plausible);
        }

        #[test]
        fn what_is_read_is_plausible(cpu: f64, active: f64, time: f64, utilisation: f64, status: String) {
            let fields = serde_json::json!({
                "cpu_percent": cpu.to_string(), "active_requests": active, "response_time_ms": time, "status": status,
            });
            let mut headers = HeaderMap::new();
            let orca = format!("TEXT cpu_utilization={utilisation}");
            headers.insert(ORCA_HEADER, HeaderValue::from_str(&orca).unwrap());
            parse(&headers, fields.to_string().as_bytes()).iter().for_each(assert_plausible);
        }
    }
}
