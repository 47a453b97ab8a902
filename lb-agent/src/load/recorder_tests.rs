use proptest::prelude::*;

use super::*;

fn options() -> LoadOptions {
    LoadOptions::new("http://192.0.2.10/").expect("a URL")
}

fn ending() -> Ending {
    Ending {
        started_at_unix_ms: 1,
        elapsed: Duration::from_secs(2),
        interrupted: false,
        unfinished: 0,
        connections_opened: 1,
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn answer(status: u16, backend: Option<&[u8]>) -> Outcome<'_> {
    Outcome::Answer { status, backend, body_bytes: 10 }
}

fn timing(intended: u64, sent: u64, finished: u64) -> Timing {
    Timing { intended: ms(intended), sent: ms(sent), finished: ms(finished) }
}

#[test]
fn latency_counts_from_the_intended_time_and_service_time_from_the_send() {
    let mut recorder = Recorder::new(ms(2_000));
    recorder.record(timing(100, 600, 700), answer(200, Some(b"b1")));
    let report = recorder.report(&options(), ending());
    let near = |value: f64, expected: f64| assert!((value / expected - 1.0).abs() < 0.002, "{value} {expected}");
    near(report.latency.expect("one").p50_ms, 600.0);
    near(report.service_time.expect("one").p50_ms, 100.0);
}

#[test]
fn errors_have_no_latency_and_5xx_belongs_to_its_backend() {
    let mut recorder = Recorder::new(ms(2_000));
    recorder.record(timing(0, 0, 1), answer(503, Some(b"b1")));
    recorder.record(timing(0, 0, 1), answer(404, Some(b"b2")));
    recorder.record(timing(0, 0, 1), Outcome::Failure { kind: ErrorKind::Other, detail: Some("first\x1b[31m") });
    recorder.record(timing(0, 0, 1), Outcome::Failure { kind: ErrorKind::Other, detail: Some("second") });
    let report = recorder.report(&options(), ending());
    assert_eq!((report.requests, report.ok, report.errors), (4, 1, 3));
    assert_eq!(report.errors_by_kind, ErrorCounts { status_5xx: 1, other: 2, ..ErrorCounts::default() });
    assert_eq!(report.error_example.as_deref(), Some("first?[31m"));
    assert_eq!(report.statuses, BTreeMap::from([(404, 1), (503, 1)]));
    let shown: Vec<_> = report.backends.iter().map(|b| (b.name.as_str(), b.ok, b.errors, b.p50_ms.is_some())).collect();
    assert_eq!(shown, [("b1", 0, 1, false), ("b2", 1, 0, true)]);
}

#[test]
fn backend_names_are_bounded_in_number_and_length() {
    let mut recorder = Recorder::new(ms(2_000));
    for i in 0..3_000 {
        let name = format!("{i:-<500}");
        recorder.record(timing(0, 0, 1), answer(200, Some(name.as_bytes())));
    }
    let report = recorder.report(&options(), ending());
    assert_eq!(report.backends.len(), MAX_BACKENDS + 1);
    assert!(report.backends.iter().all(|backend| backend.name.len() <= MAX_NAME_CHARS));
    let others = report.backends.iter().find(|backend| backend.name == OTHERS).expect("the rest");
    assert_eq!(others.requests, 2_000);
}

#[test]
fn backend_names_are_safe_to_print() {
    let check = |header: Option<&[u8]>, name: &str| assert_eq!(backend_name(header), name);
    check(Some(b"web-1"), "web-1");
    check(Some(b" nginx/1.22 (Debian) "), "nginx/1.22 (Debian)");
    check(Some(b"\x1b[2J"), "?[2J");
    check(Some("a\u{202e}b".as_bytes()), "a?b");
    check(Some(b"\xff\xfe"), "(not text)");
    check(Some(b"  "), "(unnamed)");
    check(None, "(unnamed)");
}

#[test]
fn a_snapshot_covers_the_time_since_the_one_before() {
    let mut recorder = Recorder::new(ms(2_000));
    recorder.record(timing(0, 0, 100), answer(200, None));
    recorder.record(timing(0, 0, 100), answer(200, None));
    let first = recorder.snapshot(ms(1_000), 3, 4);
    assert_eq!((first.requests, first.requests_per_second, first.in_flight, first.queued), (2, 2.0, 3, 4));
    assert!(first.p99_ms.is_some());
    let second = recorder.snapshot(ms(2_000), 0, 0);
    assert_eq!((second.requests, second.requests_per_second, second.p99_ms), (2, 0.0, None));
}

#[test]
fn a_day_of_seconds_keeps_few_histograms_and_gaps_have_rows() {
    let mut timeline = Timeline::new(ms(2_000));
    timeline.record(ms(500), Some(ms(1)));
    timeline.record(Duration::from_secs(86_399), None);
    assert!(timeline.open.len() <= 4);
    // Far too late for its row's histogram; the count must not be lost.
    timeline.record(ms(700), Some(ms(1)));
    let rows = timeline.finish();
    assert_eq!(rows.len(), 86_400);
    assert_eq!((rows[0].requests, rows[0].errors), (2, 0));
    assert_eq!((rows[5].requests, rows[5].p50_ms), (0, None));
    assert_eq!((rows[86_399].requests, rows[86_399].errors), (1, 1));
    assert!(rows.iter().enumerate().all(|(i, row)| row.second == i as u64));
}

#[test]
fn the_keys_of_the_report_are_stable_and_it_reads_back() {
    let mut recorder = Recorder::new(ms(2_000));
    recorder.due(ms(1));
    recorder.record(timing(0, 0, 1), answer(200, Some(b"b1")));
    let report = recorder.report(&options(), ending());
    let json = serde_json::to_value(&report).expect("JSON");
    let keys: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        keys.join(" "),
        "arrivals backends body_bytes connections connections_opened distribution elapsed_seconds error_example \
         errors errors_by_kind generator_lag interrupted latency new_connections ok requests requests_per_second seed \
         service_time started_at_unix_ms statuses success_percent target_rate timeline timeout_ms unfinished url"
    );
    assert_eq!(serde_json::from_value::<Report>(json).expect("reads back"), report);
}

#[derive(Debug, Clone)]
struct Case {
    intended: u64,
    wait: u64,
    work: u64,
    /// A status, or the index of an error kind.
    result: Result<(u16, u8), usize>,
}

fn case() -> impl Strategy<Value = Case> {
    let result = prop_oneof![(200_u16..600, 0_u8..5).prop_map(Ok), (0_usize..5).prop_map(Err)];
    (0_u64..20_000, 0_u64..3_000, 0_u64..3_000, result).prop_map(|(intended, wait, work, result)| Case {
        intended,
        wait,
        work,
        result,
    })
}

proptest! {
    #[test]
    fn every_account_sums_to_the_requests(cases in proptest::collection::vec(case(), 0..300)) {
        const KINDS: [ErrorKind; 5] =
            [ErrorKind::Refused, ErrorKind::Reset, ErrorKind::Timeout, ErrorKind::QueueFull, ErrorKind::Other];
        let mut recorder = Recorder::new(ms(2_000));
        for case in &cases {
            let sent = case.intended + case.wait;
            let name = [b'a' + case.result.map_or(0, |(_, name)| name)];
            let outcome = match case.result {
                Ok((status, _)) => answer(status, Some(&name)),
                Err(kind) => Outcome::Failure { kind: KINDS[kind], detail: None },
            };
            recorder.record(timing(case.intended, sent, sent + case.work), outcome);
        }
        let report = recorder.report(&options(), ending());
        let answered = report.ok + report.errors_by_kind.status_5xx;
        prop_assert_eq!(report.requests, cases.len() as u64);
        prop_assert_eq!(report.ok + report.errors, report.requests);
        prop_assert_eq!(report.errors_by_kind.total(), report.errors);
        prop_assert_eq!(report.backends.iter().map(|b| b.requests).sum::<u64>(), answered);
        prop_assert_eq!(report.statuses.values().sum::<u64>(), answered);
        prop_assert_eq!(report.timeline.iter().map(|row| row.requests).sum::<u64>(), report.requests);
        prop_assert_eq!(report.timeline.iter().map(|row| row.errors).sum::<u64>(), report.errors);
        prop_assert!(report.distribution.is_sorted_by(|a, b| a.latency_ms <= b.latency_ms));
        if let Some(l) = report.latency {
            let order = [l.p50_ms, l.p90_ms, l.p95_ms, l.p99_ms, l.p999_ms, l.max_ms];
            prop_assert!(order.is_sorted(), "{:?}", l);
        }
    }
}
