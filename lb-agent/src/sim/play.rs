//! Plays a world with one contender: discrete events in virtual time. The agent's side is the agent's own code, called each
//! interval with what the simulated kernel counted, and in force after the delay of measurement.

use std::collections::VecDeque;

use lb_common::price::{BUCKETS, bucket};
use rand::SeedableRng as _;
use rand_pcg::Pcg64;

use super::balancer::Balancer;
use super::calendar::{Timers, Tournament};
use super::chance::{hash, lognormal_error, normal};
use super::choice::{Dice, millis, oracle};
use super::record::Recording;
use super::server::{Job, Mode, Server};
use super::trace::Trace;
use super::world::{Change, World};
use crate::model::pool::ReportedLoad;
use crate::model::scenario::Visibility;
use crate::policy::math::ln;
use crate::policy::{Chooser, Configured, Controller, Observation, PolicyKind};

/// Simulated time after the end in which flows may finish.
const DRAIN: f64 = 3.0;

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    Policy(PolicyKind),
    /// Sees what nobody can: the bound that others are measured against.
    Oracle,
}

impl std::fmt::Display for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Policy(kind) => kind.fmt(f),
            Self::Oracle => f.pad("oracle"),
        }
    }
}

/// A flow that is open.
#[derive(Debug, Clone, Copy)]
struct Flow {
    id: u32,
    backend: u32,
    balancer: u32,
    /// Requests that it has had, and will have.
    request: u32,
    requests: u32,
    /// When the request under way began, the bucket of occupancy that it met, and how many were in the backend.
    began: f64,
    met: u8,
    present: u32,
}

/// What a timer is for, in the lowest bit beside the number of the flow.
const FAIL: u32 = 1;

struct Play<'w> {
    world: &'w World,
    contender: Contender,
    servers: Vec<Server>,
    balancers: Vec<Balancer>,
    /// Health checks: results in a row, and when a failing one is known.
    probes: Vec<(bool, u32)>,
    flows: Vec<Flow>,
    free: Vec<u32>,
    completions: Tournament,
    timers: Timers,
    next_arrival: usize,
    next_happening: usize,
    now: f64,
    dice: Dice,
    /// Prequal: what backends say of their latency by requests present.
    latencies: Vec<[f64; BUCKETS]>,
    uses_prequal: bool,
    uses_peaks: bool,
    visible: bool,
    recording: Recording,
}

/// Plays it to the end.
pub fn play(world: &World, contender: Contender, traced: bool) -> (Recording, Option<Trace>) {
    let scenario = &world.scenario;
    let mut play = Play::new(world, contender);
    let configured: Vec<Configured> =
        (0..world.backends()).map(|index| Configured { name: format!("b{index}"), weight: 1.0 }).collect();
    let kind = match contender {
        Contender::Policy(kind) => kind,
        Contender::Oracle => PolicyKind::Static,
    };
    let seed = |balancer: u64| hash(world.seed ^ 0xa6e7, balancer);
    let mut agents: Vec<Controller> =
        (0..scenario.balancers).map(|balancer| Controller::new(kind, &configured, seed(balancer as u64))).collect();
    for (balancer, agent) in play.balancers.iter_mut().zip(&agents) {
        balancer.apply(agent.plan());
    }
    play.uses_prequal = agents.iter().any(|agent| agent.plan().chooser == Chooser::Prequal);
    play.uses_peaks = agents.iter().any(|agent| agent.plan().chooser == Chooser::PeakEwma);
    let mut trace = traced.then(Trace::default);
    let mut errors = Pcg64::seed_from_u64(hash(world.seed, 0x0b5e));
    let measurement = scenario.measurement;
    let (mut intervals, mut checks) = (1_u64, 1_u64);
    let mut pending: VecDeque<(f64, Vec<Observation>)> = VecDeque::new();
    let mut busy = vec![0.0; world.backends()];
    loop {
        let ends = (intervals as f64 * measurement.interval).min(scenario.duration);
        let decides = pending.front().map_or(f64::INFINITY, |(at, _)| *at);
        let check = checks as f64 * scenario.health.interval;
        let until = ends.min(decides).min(check);
        play.advance(until);
        if until == check {
            checks += 1;
            play.check_health();
        } else if until == decides {
            let observations = pending.pop_front().map(|(_, observations)| observations).unwrap_or_default();
            for ((agent, balancer), observation) in agents.iter_mut().zip(&mut play.balancers).zip(observations) {
                balancer.apply(agent.step(observation));
            }
            if let Some(trace) = &mut trace {
                trace.decided(until, &agents[0]);
            }
        } else {
            let last = until >= scenario.duration;
            pending.push_back((until + measurement.delay, play.observe(until, &mut busy, &mut errors)));
            intervals += 1;
            if last {
                break;
            }
        }
    }
    play.advance(scenario.duration + DRAIN);
    play.recording.unfinished = play.flows.len() - play.free.len();
    if let Some(trace) = &mut trace {
        trace.finish(&agents[0]);
    }
    (play.recording, trace)
}

impl<'w> Play<'w> {
    fn new(world: &'w World, contender: Contender) -> Self {
        let servers: Vec<_> = world.kinds.iter().map(|(kind, discipline)| Server::new(*kind, *discipline)).collect();
        let backends = servers.len();
        Self {
            world,
            contender,
            servers,
            balancers: (0..world.scenario.balancers).map(|_| Balancer::new(&world.absent)).collect(),
            probes: world.absent.iter().map(|absent| (!absent, 0)).collect(),
            flows: Vec::new(),
            free: Vec::new(),
            completions: Tournament::new(backends),
            timers: Timers::default(),
            next_arrival: 0,
            next_happening: 0,
            now: 0.0,
            // Another stream for each contender would make differences of luck.
            dice: Dice::new(hash(world.seed, 0xd1ce)),
            latencies: vec![[0.0; BUCKETS]; backends],
            uses_prequal: false,
            uses_peaks: false,
            visible: world.scenario.visibility == Visibility::Requests,
            recording: Recording::with_room(world.arrivals.len()),
        }
    }

    fn advance(&mut self, until: f64) {
        loop {
            let arrival = self.world.arrivals.get(self.next_arrival).copied().unwrap_or(f64::INFINITY);
            let happening = self.world.happenings.get(self.next_happening).map_or(f64::INFINITY, |next| next.at);
            let (timer, completion) = (self.timers.earliest(), self.completions.earliest());
            let next = arrival.min(happening).min(timer).min(completion);
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next;
            if next == completion {
                self.complete(self.completions.winner());
            } else if next == arrival {
                self.arrive();
            } else if next == timer {
                match self.timers.take() {
                    Some(what) if what & FAIL != 0 => self.end(what >> 1, true),
                    Some(what) => self.begin(what >> 1),
                    None => return,
                }
            } else {
                self.happen();
            }
        }
    }

    fn arrive(&mut self) {
        let id = self.next_arrival as u32;
        self.next_arrival += 1;
        let balancer = self.world.balancer_of(id);
        let backend = match self.contender {
            Contender::Oracle => {
                let scenario = &self.world.scenario;
                oracle(&self.servers, scenario.work.mean, scenario.pool.network, &mut self.dice)
            }
            Contender::Policy(_) => {
                self.balancers[balancer].choose(self.now, &mut self.dice, &self.servers, &self.latencies)
            }
        };
        let lane = &mut self.balancers[balancer].lanes[backend];
        lane.seen.picks += 1;
        lane.live.picked(&lane.terms, millis(self.now));
        lane.live.open += 1;
        if !self.visible {
            lane.pass(self.now);
            lane.live.began(millis(self.now));
        }
        let flow = Flow {
            id,
            backend: backend as u32,
            balancer: balancer as u32,
            request: 0,
            requests: self.world.requests_of(id),
            began: self.now,
            met: 0,
            present: 0,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.flows[number as usize] = flow;
                number
            }
            None => {
                self.flows.push(flow);
                self.flows.len() as u32 - 1
            }
        };
        self.begin(number);
    }

    /// A request of a flow.
    fn begin(&mut self, number: u32) {
        let now = self.now;
        let flow = &mut self.flows[number as usize];
        let backend = flow.backend as usize;
        let lane = &mut self.balancers[flow.balancer as usize].lanes[backend];
        let server = &mut self.servers[backend];
        flow.began = now;
        flow.present = server.present() as u32;
        let met = if self.visible {
            lane.pass(now);
            lane.live.began(millis(now));
            lane.live.in_flight - 1
        } else {
            lane.live.open - 1
        };
        flow.met = bucket(met) as u8;
        let failures = &self.world.scenario.failures;
        let fails_after = match server.mode {
            Mode::Erring(probability) if self.dice.unit() < probability => Some(failures.error_latency),
            Mode::Hung => Some(failures.hang_timeout),
            _ if server.present() >= self.world.scenario.pool.backlog => Some(1.0),
            _ => None,
        };
        if let Some(after) = fails_after {
            self.timers.add(now + after, number << 1 | FAIL);
            return;
        }
        let work = self.world.work_of(flow.id, flow.request);
        server.advance(now);
        server.add(Job { flow: number, work });
        self.completions.set(backend, server.next_done(now));
    }

    fn complete(&mut self, backend: usize) {
        let server = &mut self.servers[backend];
        server.advance(self.now);
        let done = server.finish();
        self.completions.set(backend, server.next_done(self.now));
        if let Some(number) = done {
            self.end(number, false);
        }
    }

    /// The request under way of a flow is over.
    fn end(&mut self, number: u32, failed: bool) {
        let (now, now_ms) = (self.now, millis(self.now));
        let scenario = &self.world.scenario;
        let flow = self.flows[number as usize];
        let backend = flow.backend as usize;
        let latency = now - flow.began + scenario.pool.network;
        let failed = failed || latency > scenario.failures.timeout;
        self.recording.add(flow.began, latency, flow.backend, failed);
        let failure_is_seen = failed && (scenario.failures.seen >= 1.0 || self.dice.unit() < scenario.failures.seen);
        let lane = &mut self.balancers[flow.balancer as usize].lanes[backend];
        if failure_is_seen {
            lane.seen.failures += 1;
        } else {
            lane.answered(flow.met, latency);
        }
        if self.uses_peaks {
            lane.hear_peak(if failure_is_seen { latency.max(1.0) } else { latency }, now);
        }
        if self.uses_prequal {
            let known = &mut self.latencies[backend][bucket(flow.present)];
            let latency = if failure_is_seen { latency.max(1.0) } else { latency };
            *known = if *known > 0.0 { *known + 0.1 * (latency - *known) } else { latency };
        }
        let last = flow.request + 1 >= flow.requests || failed;
        if self.visible || last {
            lane.pass(now);
            if failure_is_seen {
                lane.live.failed(now_ms);
            } else {
                lane.seen.departures[bucket(lane.live.in_flight)] += 1;
                lane.live.succeeded(&lane.terms, now_ms, (latency * 1e6) as u32);
            }
        }
        if last {
            lane.live.open -= 1;
            self.free.push(number);
        } else {
            let flow = &mut self.flows[number as usize];
            flow.request += 1;
            self.timers.add(now + self.world.think_of(flow.id, flow.request), number << 1);
        }
    }

    fn happen(&mut self) {
        let happening = self.world.happenings[self.next_happening];
        self.next_happening += 1;
        let server = &mut self.servers[happening.backend];
        server.advance(self.now);
        match happening.change {
            Change::Factor(factor) => server.factor = factor,
            Change::Mode(mode) => server.mode = mode,
        }
        self.completions.set(happening.backend, server.next_done(self.now));
    }

    /// A round of health checks. They see that a backend hangs, and nothing finer.
    fn check_health(&mut self) {
        let health = self.world.scenario.health;
        for (backend, (up, in_a_row)) in self.probes.iter_mut().enumerate() {
            let answers = self.servers[backend].mode != Mode::Hung;
            if answers == *up {
                *in_a_row = 0;
                continue;
            }
            *in_a_row += 1;
            if *in_a_row >= if answers { health.rise } else { health.fall } {
                (*up, *in_a_row) = (answers, 0);
                self.balancers.iter_mut().for_each(|balancer| balancer.set_up(backend, answers));
            }
        }
    }

    /// What the kernels counted since the last time, with errors of measurement.
    fn observe(&mut self, now: f64, busy: &mut [f64], errors: &mut Pcg64) -> Vec<Observation> {
        let measurement = self.world.scenario.measurement;
        let mut cpu = Vec::with_capacity(busy.len());
        for (server, before) in self.servers.iter_mut().zip(busy) {
            server.advance(now);
            let used = (server.busy - *before) / measurement.interval;
            *before = server.busy;
            cpu.push((used + measurement.load_noise * normal(errors)).clamp(0.0, 1.0));
        }
        let mut observations = Vec::with_capacity(self.balancers.len());
        for balancer in &mut self.balancers {
            let mut backends = Vec::with_capacity(balancer.lanes.len());
            for (backend, lane) in balancer.lanes.iter_mut().enumerate() {
                lane.pass(now);
                let mut seen = std::mem::take(&mut lane.seen);
                seen.up = lane.up;
                (seen.in_flight, seen.open) = (lane.live.in_flight, lane.live.open);
                let error = lognormal_error(errors, measurement.noise);
                seen.latency *= error;
                for (sum, count) in seen.log_latency.iter_mut().zip(&seen.answers) {
                    *sum += f64::from(*count) * ln(error);
                }
                seen.load = Some(ReportedLoad {
                    cpu_percent: Some(100.0 * cpu[backend]),
                    active_requests: Some(self.servers[backend].present() as u64),
                    response_time_ms: seen.mean_latency().map(|latency| latency * 1e3),
                    status: None,
                });
                backends.push(seen);
            }
            observations.push(Observation {
                now,
                interval: measurement.interval,
                requests_visible: self.visible,
                backends,
            });
        }
        observations
    }
}
