//! What one update costs: 1,000 backends in 50 services, each policy, in CPU time of one thread. The goal is 10 ms for all
//! services together (SPECIFICATION.md). `cargo bench -p lb-agent --bench policy`.

use std::time::Duration;

use lb_agent::policy::{Configured, Controller, Observation, PolicyKind, Seen};
use nix::time::{ClockId, clock_gettime};

const SERVICES: usize = 50;
const BACKENDS: usize = 20;
const ROUNDS: u32 = 60;

/// A busy backend: every occupancy from none to twenty was seen in the interval.
fn seen(service: usize, backend: usize, round: u32) -> Seen {
    let mut seen =
        Seen { in_flight: 7, open: 9, picks: 400, failures: u32::from(round.is_multiple_of(7)), ..Seen::default() };
    let speed = 1.0 + ((service * 7 + backend * 3) % 5) as f64;
    for occupancy in 0..20 {
        let count = 5 + (round + occupancy as u32) % 11;
        let latency = 0.004 * speed * (1.0 + occupancy as f64 / 4.0);
        seen.answers[occupancy] = count;
        seen.log_latency[occupancy] = f64::from(count) * libm::log(latency);
        seen.latency += f64::from(count) * latency;
        seen.departures[occupancy + 1] = count;
        seen.time_at[occupancy] = 0.25 / 20.0;
    }
    seen
}

/// Of this thread: a busy machine does not count.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}

fn main() {
    let pool: Vec<_> = (0..BACKENDS).map(|index| Configured { name: format!("b{index}"), weight: 1.0 }).collect();
    println!("one update of {SERVICES} services with {BACKENDS} backends each");
    for kind in PolicyKind::ALL {
        let mut controllers: Vec<_> = (0..SERVICES).map(|seed| Controller::new(*kind, &pool, seed as u64)).collect();
        let mut times = Vec::new();
        for round in 1..=ROUNDS {
            let now = f64::from(round) * 0.25;
            let observations: Vec<_> = (0..SERVICES)
                .map(|service| Observation {
                    now,
                    interval: 0.25,
                    requests_visible: true,
                    backends: (0..BACKENDS).map(|backend| seen(service, backend, round)).collect(),
                })
                .collect();
            let start = cpu_time();
            for (controller, observation) in controllers.iter_mut().zip(observations) {
                controller.step(observation);
            }
            times.push(cpu_time() - start);
        }
        times.sort();
        let shown = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        println!("  {:28} median {:>9}  worst {:>9}", kind.name(), shown(median), shown(worst));
    }
}
