//! What the kernel does for a new flow, by each of its rules, and the two that only a simulator can follow: Prequal's probes, which
//! answer at once here, and the oracle, which looks into the backends.

use lb_common::price::{BUCKETS, CANDIDATES, Cheapest, SMALL_POOL, bucket, lot};

use super::balancer::Balancer;
use super::chance::{hash, unit};
use super::server::{Mode, Server};
use crate::policy::Chooser;

/// A stream of chance that costs a few cycles a number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice {
    seed: u64,
    drawn: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    #[inline]
    pub(super) fn roll(&mut self) -> u64 {
        self.drawn += 1;
        hash(self.seed, self.drawn)
    }

    #[inline]
    pub(super) fn unit(&mut self) -> f64 {
        unit(self.roll())
    }

    /// Evenly below a bound, by multiply and shift.
    #[inline]
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.roll()) * bound as u128) >> 64) as usize
    }
}

/// Draws of a usable backend that may fail before any is taken.
const MOST_DRAWS: u32 = 8;

impl Balancer {
    /// The backend for a new flow.
    pub(super) fn choose(
        &mut self,
        now: f64,
        dice: &mut Dice,
        servers: &[Server],
        latencies: &[[f64; BUCKETS]],
    ) -> usize {
        let now_ms = millis(now);
        let chosen = match self.chooser {
            Chooser::Draw => None,
            Chooser::RoundRobin => self.round_robin(now_ms),
            Chooser::LeastConnections => self.least(now_ms, dice),
            Chooser::TwoChoices => {
                self.of_two(now_ms, dice, |lane| (f64::from(lane.live.in_flight) + 1.0) / lane.weight)
            }
            Chooser::PeakEwma => self.of_two(now_ms, dice, |lane| lane.peak_cost(now)),
            Chooser::Prequal => self.prequal(now, dice, servers, latencies),
            Chooser::Price => self.cheapest(now_ms, dice),
        };
        chosen.unwrap_or_else(|| self.draw_usable(now_ms, dice))
    }

    /// By the slot table.
    #[inline]
    fn draw(&self, dice: &mut Dice) -> usize {
        let sum = self.cumulative[self.cumulative.len() - 1];
        let at = dice.unit() * sum;
        self.cumulative.partition_point(|cumulative| *cumulative <= at).min(self.cumulative.len() - 1)
    }

    fn draw_usable(&self, now_ms: u32, dice: &mut Dice) -> usize {
        let mut drawn = self.draw(dice);
        for _ in 1..MOST_DRAWS {
            if self.lanes[drawn].is_usable(now_ms) {
                break;
            }
            drawn = self.draw(dice);
        }
        drawn
    }

    fn round_robin(&mut self, now_ms: u32) -> Option<usize> {
        let (mut best, mut sum) = (None, 0.0);
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            if !lane.is_usable(now_ms) {
                continue;
            }
            self.credit[index] += lane.weight;
            sum += lane.weight;
            if best.is_none_or(|best: usize| self.credit[index] > self.credit[best]) {
                best = Some(index);
            }
        }
        self.credit[best?] -= sum;
        best
    }

    fn least(&self, now_ms: u32, dice: &mut Dice) -> Option<usize> {
        let first = dice.below(self.lanes.len());
        let mut best: Option<(f64, usize)> = None;
        for step in 0..self.lanes.len() {
            let index = if first + step < self.lanes.len() { first + step } else { first + step - self.lanes.len() };
            let lane = &self.lanes[index];
            if !lane.is_usable(now_ms) {
                continue;
            }
            let cost = (f64::from(lane.live.in_flight) + 1.0) / lane.weight;
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, index));
            }
        }
        best.map(|(_, index)| index)
    }

    fn of_two(&self, now_ms: u32, dice: &mut Dice, cost: impl Fn(&super::balancer::Lane) -> f64) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for _ in 0..2 {
            // A few draws for each, as a program would have it.
            for _ in 0..6 {
                let index = dice.below(self.lanes.len());
                let lane = &self.lanes[index];
                if best.is_none_or(|(_, other)| other != index) && lane.is_usable(now_ms) {
                    let cost = cost(lane);
                    if best.is_none_or(|(least, _)| cost < least) {
                        best = Some((cost, index));
                    }
                    break;
                }
            }
        }
        best.map(|(_, index)| index)
    }

    /// The cheapest price: of all in a small pool, else of four from the slot table.
    fn cheapest(&self, now_ms: u32, dice: &mut Dice) -> Option<usize> {
        let flow = dice.roll();
        let mut cheapest = Cheapest::NONE;
        let mut ask = |index: usize| {
            let lane = &self.lanes[index];
            if lane.eligible
                && lane.up
                && let Some(price) = lane.live.offer(&lane.prices, &lane.terms, now_ms)
            {
                cheapest.hear(index as u32, price, lot(flow, index as u32));
            }
        };
        if self.lanes.len() <= SMALL_POOL {
            (0..self.lanes.len()).for_each(&mut ask);
        } else {
            (0..CANDIDATES).for_each(|_| ask(self.draw(dice)));
        }
        cheapest.backend().map(|index| index as usize)
    }

    /// Hot-cold lexicographic rule over a pool of probes (Prequal, section 4).
    fn prequal(
        &mut self,
        now: f64,
        dice: &mut Dice,
        servers: &[Server],
        latencies: &[[f64; BUCKETS]],
    ) -> Option<usize> {
        let Self { probes, lanes, .. } = self;
        let now_ms = millis(now);
        let capacity = lanes.len().min(SMALL_POOL);
        probes.0.retain(|probe| now - probe.at <= 1.0 && probe.uses > 0 && lanes[probe.backend].is_usable(now_ms));
        let chosen = probes.take(dice, capacity);
        for _ in 0..3 {
            let backend = dice.below(lanes.len());
            if servers[backend].mode == Mode::Hung {
                continue;
            }
            let in_flight = servers[backend].present();
            let at = bucket(u32::try_from(in_flight).unwrap_or(u32::MAX));
            let latency = nearest_known(&latencies[backend], at);
            probes.put(Probe { backend, in_flight: in_flight as f64, latency, at: now, uses: 4 }, capacity);
        }
        chosen
    }
}

/// The estimate at an occupancy, or the nearest one that there is.
fn nearest_known(row: &[f64; BUCKETS], at: usize) -> f64 {
    (0..BUCKETS)
        .flat_map(|distance| [at.checked_sub(distance), Some(at + distance)])
        .flatten()
        .find_map(|bucket| row.get(bucket).copied().filter(|latency| *latency > 0.0))
        .unwrap_or(0.0)
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    backend: usize,
    in_flight: f64,
    latency: f64,
    at: f64,
    uses: u32,
}

/// Prequal's pool of answered probes.
#[derive(Debug, Default)]
pub(super) struct Probes(Vec<Probe>);

/// Probes above this quantile of requests in flight are hot.
const HOT_QUANTILE: f64 = 0.84;

impl Probes {
    fn take(&mut self, dice: &mut Dice, capacity: usize) -> Option<usize> {
        let mut in_flight: Vec<f64> = self.0.iter().map(|probe| probe.in_flight).collect();
        in_flight.sort_unstable_by(f64::total_cmp);
        let hot = *in_flight.get((HOT_QUANTILE * in_flight.len().saturating_sub(1) as f64) as usize)?;
        let cold = (0..self.0.len()).filter(|index| self.0[*index].in_flight <= hot);
        let best = cold.min_by(|a, b| self.0[*a].latency.total_cmp(&self.0[*b].latency))?;
        let probe = &mut self.0[best];
        probe.in_flight += 1.0;
        probe.uses -= 1;
        let backend = probe.backend;
        if self.0.len() >= capacity {
            // The oldest and the worst go in turn.
            let order = |a: &Probe, b: &Probe| (a.in_flight, a.latency).partial_cmp(&(b.in_flight, b.latency));
            let indexes = 0..self.0.len();
            let gone = if dice.unit() < 0.5 {
                indexes.min_by(|a, b| self.0[*a].at.total_cmp(&self.0[*b].at))
            } else {
                indexes.max_by(|a, b| order(&self.0[*a], &self.0[*b]).unwrap_or(std::cmp::Ordering::Equal))
            };
            gone.map(|index| self.0.swap_remove(index));
        }
        Some(backend)
    }

    fn put(&mut self, probe: Probe, capacity: usize) {
        // One entry a backend is enough in a small pool.
        self.0.retain(|other| other.backend != probe.backend);
        if self.0.len() >= capacity
            && let Some(oldest) = (0..self.0.len()).min_by(|a, b| self.0[*a].at.total_cmp(&self.0[*b].at))
        {
            self.0.swap_remove(oldest);
        }
        self.0.push(probe);
    }
}

/// Knows every queue, speed and failure, and takes the least marginal cost: delay of the new request and what it adds to the others.
pub(super) fn oracle(servers: &[Server], work: f64, network: f64, dice: &mut Dice) -> usize {
    let first = dice.below(servers.len());
    let mut best: Option<(f64, usize)> = None;
    for step in 0..servers.len() {
        let index = if first + step < servers.len() { first + step } else { first + step - servers.len() };
        let server = &servers[index];
        if matches!(server.mode, Mode::Hung) || matches!(server.mode, Mode::Erring(part) if part > 0.02) {
            continue;
        }
        let (present, cores) = (server.present() as f64, f64::from(server.kind.cores));
        let alone = work / server.speed();
        let mut cost = network + if present < cores { alone } else { alone * (present + 1.0) / cores };
        if present >= cores && server.shares() {
            cost += present * alone / cores;
        }
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, index));
        }
    }
    best.map_or(first, |(_, index)| index)
}

/// The kernel's clock.
pub(super) fn millis(now: f64) -> u32 {
    (now * 1e3) as u32
}
