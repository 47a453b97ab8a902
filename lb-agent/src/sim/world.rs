//! A scenario made concrete for a number of backends and a seed: each arrival, its work, and everything that happens. The same
//! for every contender, so that they differ in their decisions alone.

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64;

use super::chance::{exponential, hash, hash_of, normal, normal_of, unit};
use super::server::Mode;
use crate::model::scenario::{BackendKind, Discipline, Distribution, Load, Scenario, What, Who, Work};
use crate::policy::math::{exp, ln};

/// A change of one backend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    Factor(f64),
    Mode(Mode),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Happening {
    pub(super) at: f64,
    pub(super) backend: usize,
    pub(super) change: Change,
}

#[derive(Debug)]
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) kinds: Vec<(BackendKind, Discipline)>,
    /// Times of arrival, rising, and the work of each first request.
    pub(super) arrivals: Vec<f64>,
    pub(super) work: Vec<f32>,
    pub(super) happenings: Vec<Happening>,
    /// Those that are not there at the start.
    pub(super) absent: Vec<bool>,
    pub(super) seed: u64,
}

impl World {
    pub fn new(scenario: &Scenario, backends: usize, seed: u64) -> Self {
        let seed = hash(hash(seed, backends as u64), hash_of(&scenario.name));
        let mut chance = Pcg64::seed_from_u64(seed);
        let kinds: Vec<_> = (0..backends)
            .map(|index| {
                let kind = scenario.pool.kinds[index % scenario.pool.kinds.len()];
                let discipline = match scenario.pool.discipline {
                    Discipline::Mixed if (index / 2) % 2 == 1 => Discipline::Fifo,
                    Discipline::Mixed => Discipline::Sharing,
                    other => other,
                };
                (kind, discipline)
            })
            .collect();
        let capacity =
            kinds.iter().map(|(kind, _)| kind.speed * f64::from(kind.cores)).sum::<f64>() / scenario.work.mean;
        let arrivals = arrivals(scenario, capacity / scenario.requests_per_flow, &mut chance);
        let work = (0..arrivals.len() as u64).map(|flow| work_of(&scenario.work, seed, flow, 0) as f32).collect();
        let mut happenings = Vec::new();
        let mut absent = vec![false; backends];
        for event in &scenario.events {
            let who = who(&event.who, backends);
            happen(event.what, &who, scenario.duration, &mut chance, &mut happenings);
            if let What::Join { .. } = event.what {
                who.iter().for_each(|backend| absent[*backend] = true);
            }
        }
        happenings.sort_by(|a, b| a.at.total_cmp(&b.at));
        Self { scenario: scenario.clone(), kinds, arrivals, work, happenings, absent, seed }
    }

    pub fn backends(&self) -> usize {
        self.kinds.len()
    }

    /// The balancer that a flow meets.
    pub(super) fn balancer_of(&self, flow: u32) -> usize {
        match self.scenario.balancers {
            1 => 0,
            balancers => (hash(self.seed ^ 0xba1a, u64::from(flow)) % balancers as u64) as usize,
        }
    }

    /// How many requests a flow carries: geometric.
    pub(super) fn requests_of(&self, flow: u32) -> u32 {
        if self.scenario.requests_per_flow <= 1.0 {
            return 1;
        }
        let go_on = 1.0 - 1.0 / self.scenario.requests_per_flow;
        (1.0 + ln(unit(hash(self.seed ^ 0x4e9, u64::from(flow)))) / ln(go_on)).min(1e6) as u32
    }

    /// The work of a flow's request; the first is 0.
    pub(super) fn work_of(&self, flow: u32, request: u32) -> f64 {
        if request == 0 {
            return f64::from(self.work[flow as usize]);
        }
        work_of(&self.scenario.work, self.seed, u64::from(flow), u64::from(request))
    }

    /// The pause before a flow's request.
    pub(super) fn think_of(&self, flow: u32, request: u32) -> f64 {
        let chance = unit(hash(hash(self.seed ^ 0x7814, u64::from(flow)), u64::from(request)));
        -self.scenario.think * ln(chance)
    }
}

fn work_of(work: &Work, seed: u64, flow: u64, request: u64) -> f64 {
    let first = hash(hash(seed ^ 0x3042, flow), request);
    let chance = unit(first);
    work.mean
        * match work.distribution {
            Distribution::Lognormal { sigma } => {
                exp(sigma * normal_of(chance, unit(hash(first, 1))) - 0.5 * sigma * sigma)
            }
            Distribution::Exponential => -ln(chance),
            Distribution::Pareto { alpha, ratio } => {
                let bound = libm::pow(ratio, -alpha);
                let value = libm::pow(1.0 - chance * (1.0 - bound), -1.0 / alpha);
                let mean = alpha / (alpha - 1.0) * (1.0 - libm::pow(ratio, 1.0 - alpha)) / (1.0 - bound);
                value / mean
            }
            Distribution::Bimodal { part, ratio } => {
                (if chance < part { ratio } else { 1.0 }) / (1.0 - part + part * ratio)
            }
            Distribution::Fixed => 1.0,
        }
}

/// Poisson arrivals by thinning; `capacity` in flows a second.
fn arrivals(scenario: &Scenario, capacity: f64, chance: &mut Pcg64) -> Vec<f64> {
    if let Load::Replay { load, times, .. } = &scenario.load {
        return replay(times, *load, capacity, scenario.duration);
    }
    let (rate, most) = rate(&scenario.load, scenario.duration, chance);
    let mut times = Vec::with_capacity((most * capacity * scenario.duration * 1.1) as usize + 64);
    let mut now = 0.0;
    loop {
        now += exponential(chance, 1.0 / (most * capacity));
        if now >= scenario.duration {
            return times;
        }
        if unit(chance.random()) * most < rate(now) {
            times.push(now);
        }
    }
}

/// The recording over and over, at a pace that gives the wanted mean load.
fn replay(times: &[f64], load: f64, capacity: f64, duration: f64) -> Vec<f64> {
    let first = times[0];
    let span = (times[times.len() - 1] - first).max(1e-9) * times.len() as f64 / (times.len() - 1) as f64;
    let pace = times.len() as f64 / span / (load * capacity);
    let mut out = Vec::new();
    for round in 0.. {
        for time in times {
            let at = (f64::from(round) * span + time - first) * pace;
            if at >= duration {
                return out;
            }
            out.push(at);
        }
    }
    out
}

type Rate = Box<dyn Fn(f64) -> f64>;

/// Load by time and its highest value.
fn rate(load: &Load, duration: f64, chance: &mut Pcg64) -> (Rate, f64) {
    match load.clone() {
        Load::Constant(load) => (Box::new(move |_| load), load),
        Load::Steps(steps) => {
            let most = steps.iter().map(|(_, load)| *load).fold(0.0, f64::max);
            (Box::new(move |now| step_at(&steps, now)), most)
        }
        Load::Flash { base, peak, at, rise, hold, decay } => {
            let rate = move |now: f64| {
                let up = ((now - at) / rise).clamp(0.0, 1.0);
                let down = exp(-(now - at - rise - hold).max(0.0) / decay);
                base + (peak - base) * up * down
            };
            (Box::new(rate), base.max(peak))
        }
        Load::Bursty { low, high, low_for, high_for } => {
            let (mut steps, mut now, mut busy) = (vec![(0.0, low)], 0.0, false);
            while now < duration {
                now += exponential(chance, if busy { high_for } else { low_for });
                busy = !busy;
                steps.push((now, if busy { high } else { low }));
            }
            (Box::new(move |now| step_at(&steps, now)), low.max(high))
        }
        Load::Diurnal { middle, swing, period } => {
            let turn = std::f64::consts::TAU / period;
            (Box::new(move |now| middle + swing * libm::sin(turn * now)), middle + swing)
        }
        // Its times are in the file.
        Load::Replay { load, .. } => (Box::new(move |_| load), load),
    }
}

fn step_at(steps: &[(f64, f64)], now: f64) -> f64 {
    let after = steps.partition_point(|(at, _)| *at <= now);
    steps[after.saturating_sub(1)].1
}

fn who(who: &Who, backends: usize) -> Vec<usize> {
    match who {
        // The first of a small pool is a quarter of its capacity; in larger ones it is those with the fastest cores.
        Who::Some if backends <= 4 => vec![0],
        Who::Some => {
            let count = if backends > 8 { ((backends as f64 / 16.0).round() as usize).max(1) } else { 1 };
            (0..count).map(|index| (2 + 4 * index) % backends).collect()
        }
        Who::Half => (0..backends).step_by(2).collect(),
        Who::All => (0..backends).collect(),
        Who::These(these) => these.iter().copied().filter(|backend| *backend < backends).collect(),
    }
}

fn happen(what: What, who: &[usize], duration: f64, chance: &mut Pcg64, out: &mut Vec<Happening>) {
    let mut add = |at: f64, backend: usize, change: Change| out.push(Happening { at, backend, change });
    let down =
        |at: f64, until: f64, cold: f64, cold_for: f64, backend: usize, add: &mut dyn FnMut(f64, usize, Change)| {
            add(at, backend, Change::Mode(Mode::Hung));
            add(until, backend, Change::Mode(Mode::Well));
            add(until, backend, Change::Factor(cold));
            add(until + cold_for, backend, Change::Factor(1.0));
        };
    for (turn, &backend) in who.iter().enumerate() {
        match what {
            What::Slow { at, until, factor } => {
                add(at, backend, Change::Factor(factor));
                add(until, backend, Change::Factor(1.0));
            }
            What::Hang { at, until, cold, cold_for } => down(at, until, cold, cold_for, backend, &mut add),
            What::Join { at, cold, cold_for } => down(0.0, at, cold, cold_for, backend, &mut add),
            What::Errors { at, until, probability } => {
                add(at, backend, Change::Mode(Mode::Erring(probability)));
                add(until, backend, Change::Mode(Mode::Well));
            }
            What::Antagonist { factor, on, off, part } => {
                if unit(chance.random()) > part {
                    continue;
                }
                let mut now = exponential(chance, off);
                while now < duration {
                    add(now, backend, Change::Factor(factor * exp(0.2 * normal(chance))));
                    now += exponential(chance, on);
                    add(now, backend, Change::Factor(1.0));
                    now += exponential(chance, off);
                }
            }
            What::Slide { at, until, factor, hold } => {
                for step in 0..=50 {
                    let way = f64::from(step) / 50.0;
                    add(at + (until - at) * way, backend, Change::Factor(1.0 + (factor - 1.0) * way));
                }
                add(until + hold, backend, Change::Factor(1.0));
            }
            What::Rolling { at, every, down: down_for, cold, cold_for, most } => {
                let at = at + turn as f64 * every;
                if turn < most && at + down_for + cold_for < duration {
                    down(at, at + down_for, cold, cold_for, backend, &mut add);
                }
            }
        }
    }
}
