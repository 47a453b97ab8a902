use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::*;
use crate::health::test_net::{LOCALHOST, PATIENCE, answer, health, read_request, target, tcp_server, write};
use crate::model::config::Health;

const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    prober: Prober,
    reports: mpsc::Receiver<ProbeReport>,
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        let (sender, reports) = mpsc::channel(1);
        Self { prober: Prober::spawn_with(limits, sender).unwrap(), reports }
    }

    async fn report(&mut self) -> ProbeReport {
        timeout(PATIENCE, self.reports.recv()).await.expect("a report in time").expect("a running prober")
    }

    /// The next report, which is a success of this backend.
    async fn success_of(&mut self, backend: &str) {
        let report = self.report().await;
        assert_eq!(report.key.backend, backend);
        assert!(matches!(report.outcome, ProbeOutcome::Success { .. }), "{report:?}");
    }
}

/// An HTTP server that counts its requests by path and answers when it is told to.
#[derive(Clone, Default)]
struct Hits(Arc<Mutex<HashMap<String, usize>>>);

impl Hits {
    fn of(&self, path: &str) -> usize {
        lock(&self.0).get(path).copied().unwrap_or(0)
    }

    async fn serve(&self) -> SocketAddr {
        let hits = self.clone();
        tcp_server(LOCALHOST, move |mut stream| {
            let hits = hits.clone();
            async move {
                let request = read_request(&mut stream).await;
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                *lock(&hits.0).entry(path).or_default() += 1;
                write(&mut stream, answer("200 OK", "OK").as_bytes()).await;
            }
        })
        .await
    }
}

fn http(path: &str, interval: Duration) -> Health {
    Health { path: path.to_owned(), interval, ..health(HealthKind::Http) }
}

#[tokio::test]
async fn reports_what_probes_give() {
    let good = Hits::default().serve().await;
    let bad = tcp_server(LOCALHOST, |mut stream| async move {
        read_request(&mut stream).await;
        write(&mut stream, answer("503 Service Unavailable", "").as_bytes()).await;
    })
    .await;
    let mut fixture = Fixture::new(LIMITS);
    let none = Health { kind: HealthKind::None, ..http("/", Duration::from_millis(1)) };
    fixture.prober.set_targets(vec![
        target("web", "good", good, http("/", HOUR)),
        target("web", "bad", bad, http("/", HOUR)),
        target("web", "unprobed", good, none),
    ]);
    let mut reports = [fixture.report().await, fixture.report().await];
    reports.sort_by(|a, b| a.key.cmp(&b.key));
    let [bad, good] = reports;
    assert_eq!((bad.key.backend.as_str(), good.key.backend.as_str()), ("bad", "good"));
    assert_eq!(bad.outcome, ProbeOutcome::Failure { reason: "HTTP status 503".to_owned() });
    assert!(matches!(good.outcome, ProbeOutcome::Success { .. }), "{good:?}");
    fixture.prober.stop().await;
    assert_eq!(fixture.reports.recv().await, None, "nothing is reported after the end");
}

#[tokio::test]
async fn dropping_the_prober_ends_it() {
    let address = Hits::default().serve().await;
    let Fixture { prober, mut reports } = Fixture::new(LIMITS);
    prober.set_targets(vec![target("web", "b1", address, http("/", Duration::from_millis(1)))]);
    reports.recv().await.unwrap();
    drop(prober);
    timeout(PATIENCE, async { while reports.recv().await.is_some() {} }).await.unwrap();
}

#[tokio::test]
async fn targets_change_at_run_time() {
    let hits = Hits::default();
    let address = hits.serve().await;
    let mut fixture = Fixture::new(LIMITS);
    let first = target("web", "first", address, http("/first", HOUR));
    fixture.prober.set_targets(vec![first.clone()]);
    fixture.success_of("first").await;

    // A new one starts; the one that stays keeps its schedule, by which it is due in an hour.
    let second = target("web", "second", address, http("/second", HOUR));
    fixture.prober.set_targets(vec![second.clone(), first.clone()]);
    fixture.success_of("second").await;
    assert_eq!((hits.of("/first"), hits.of("/second")), (1, 1));

    // Changed settings start anew, and only that target.
    let changed = target("web", "first", address, http("/changed", HOUR));
    fixture.prober.set_targets(vec![changed, second.clone()]);
    fixture.success_of("first").await;
    assert_eq!((hits.of("/first"), hits.of("/changed"), hits.of("/second")), (1, 1, 1));

    // One that comes back after it was gone is new.
    fixture.prober.set_targets(vec![first.clone()]);
    fixture.success_of("first").await;
    fixture.prober.set_targets(vec![second, first]);
    fixture.success_of("second").await;
    assert_eq!((hits.of("/first"), hits.of("/second")), (2, 2));
    fixture.prober.stop().await;
}

#[tokio::test]
async fn late_results_of_removed_targets_are_not_reported() {
    let (arrived, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = tcp_server(LOCALHOST, {
        let (arrived, release) = (Arc::clone(&arrived), Arc::clone(&release));
        move |mut stream| {
            let (arrived, release) = (Arc::clone(&arrived), Arc::clone(&release));
            async move {
                read_request(&mut stream).await;
                arrived.notify_one();
                release.notified().await;
                write(&mut stream, answer("200 OK", "").as_bytes()).await;
            }
        }
    })
    .await;
    let quick = Hits::default().serve().await;
    let mut fixture = Fixture::new(LIMITS);
    fixture.prober.set_targets(vec![target("web", "removed", slow, http("/", HOUR))]);
    arrived.notified().await;
    fixture.prober.set_targets(vec![target("web", "kept", quick, http("/", Duration::from_millis(1)))]);
    fixture.success_of("kept").await;
    release.notify_one();
    for _ in 0..20 {
        fixture.success_of("kept").await;
    }
    fixture.prober.stop().await;
}

#[tokio::test]
async fn a_target_is_never_probed_twice_at_a_time() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let slow = tcp_server(LOCALHOST, {
        let most = Arc::clone(&most);
        move |mut stream| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                read_request(&mut stream).await;
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(10)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                write(&mut stream, answer("200 OK", "").as_bytes()).await;
            }
        }
    })
    .await;
    let mut fixture = Fixture::new(LIMITS);
    fixture.prober.set_targets(vec![target("web", "b1", slow, http("/", Duration::from_millis(1)))]);
    for _ in 0..10 {
        fixture.success_of("b1").await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
    fixture.prober.stop().await;
}

/// Answers only when as many requests wait as may be under way, so the test hangs if there are fewer at a time, and
/// counts if there are more.
#[tokio::test]
async fn a_thousand_targets_stay_within_the_limit() {
    const LIMIT: usize = 40;
    let waiting = Arc::new(Mutex::new((Vec::new(), 0)));
    let address = tcp_server(LOCALHOST, {
        let waiting = Arc::clone(&waiting);
        move |mut stream| {
            let waiting = Arc::clone(&waiting);
            async move {
                read_request(&mut stream).await;
                let full = {
                    let (streams, most) = &mut *lock(&waiting);
                    streams.push(stream);
                    *most = (*most).max(streams.len());
                    streams.len() == LIMIT
                };
                if full {
                    // Time for one too many to show itself.
                    sleep(Duration::from_millis(5)).await;
                    let streams = std::mem::take(&mut lock(&waiting).0);
                    for mut stream in streams {
                        write(&mut stream, answer("200 OK", "").as_bytes()).await;
                    }
                }
            }
        }
    })
    .await;
    let mut fixture = Fixture::new(Limits { in_flight: LIMIT, per_service: LIMIT / 2 });
    let service = |n: usize| format!("service{}", n % 10);
    let targets = (0..1000).map(|n| target(&service(n), &format!("b{n}"), address, http("/", HOUR)));
    fixture.prober.set_targets(targets.collect());
    let mut seen = HashSet::new();
    for _ in 0..1000 {
        let report = fixture.report().await;
        assert!(matches!(report.outcome, ProbeOutcome::Success { .. }), "{report:?}");
        assert!(seen.insert(report.key), "each once");
    }
    assert_eq!(lock(&waiting).1, LIMIT);
    fixture.prober.stop().await;
}

#[tokio::test]
async fn a_pool_that_hangs_starves_no_other() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let black_hole = tcp_server(LOCALHOST, {
        let held = Arc::clone(&held);
        move |stream| {
            lock(&held).push(stream);
            async {}
        }
    })
    .await;
    let quick = Hits::default().serve().await;
    let mut fixture = Fixture::new(Limits { in_flight: 12, per_service: 8 });
    let patient = Health { timeout: HOUR, ..http("/", Duration::from_millis(1)) };
    let hang = |n| target("hangs", &format!("b{n}"), black_hole, patient.clone());
    let mut targets: Vec<Target> = (0..100).map(hang).collect();
    fixture.prober.set_targets(targets.clone());
    timeout(PATIENCE, async {
        while lock(&held).len() < 8 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the pool that hangs uses all of its share");
    targets.push(target("web", "b1", quick, http("/", Duration::from_millis(1))));
    fixture.prober.set_targets(targets);
    for _ in 0..20 {
        fixture.success_of("b1").await;
    }
    assert_eq!(lock(&held).len(), 8);
    fixture.prober.stop().await;
}

const CHILD_ADDRESS: &str = "LB_TEST_PROBE_ADDRESS";
const CHILD_TARGETS: usize = 20;
const STOPPED_FOR: Duration = Duration::from_secs(5);

/// Not a test by itself: the process that `a_stopped_agent_ejects_nobody` stops. Prints a line per outcome.
#[tokio::test]
#[ignore = "run by a_stopped_agent_ejects_nobody"]
async fn stopped_child() {
    let Ok(address) = std::env::var(CHILD_ADDRESS) else { return };
    let address: SocketAddr = address.parse().unwrap();
    let mut fixture = Fixture::new(LIMITS);
    let health = Health { timeout: STOPPED_FOR / 2, ..http("/", Duration::from_millis(300)) };
    let targets = (0..CHILD_TARGETS).map(|n| target("web", &format!("b{n}"), address, health.clone()));
    fixture.prober.set_targets(targets.collect());
    while let Some(report) = fixture.reports.recv().await {
        println!("\noutcome {:?}", report.outcome);
    }
}

/// Ends the child however the test ends.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("the child can be ended");
    }
}

/// Stops a real prober in the middle of its probes for longer than their time-out. Its backends answer late enough that
/// every moment finds probes under way, and hang up on who keeps them waiting.
#[tokio::test]
async fn a_stopped_agent_ejects_nobody() {
    let address = tcp_server(LOCALHOST, |mut stream| async move {
        read_request(&mut stream).await;
        sleep(Duration::from_millis(200)).await;
        write(&mut stream, answer("200 OK", "").as_bytes()).await;
    })
    .await;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "health::prober::tests::stopped_child", "--ignored", "--nocapture"])
        .env(CHILD_ADDRESS, address.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Reaped(child);
    let pid = Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    let (sender, mut outcomes) = mpsc::channel(1000);
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let reader = thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines
            .filter(|line| line.starts_with("outcome"))
            .take_while(|line| sender.blocking_send(line.clone()).is_ok())
            .count()
    });
    let mut successes = 0;
    for round in 0..2 {
        if round > 0 {
            kill(pid, Signal::SIGSTOP).unwrap();
            sleep(STOPPED_FOR).await;
            kill(pid, Signal::SIGCONT).unwrap();
        }
        for _ in 0..CHILD_TARGETS * 2 {
            let outcome = timeout(PATIENCE, outcomes.recv()).await.unwrap().unwrap();
            assert!(!outcome.contains("Failure"), "round {round}: {outcome}");
            successes += usize::from(outcome.contains("Success"));
        }
    }
    assert!(successes >= CHILD_TARGETS, "a prober that runs again finds its backends healthy");
    drop((child, outcomes));
    reader.join().unwrap();
}
