//! One backend: processors that serve requests by their discipline, at a speed that may change at any time.
//!
//! Processor sharing runs on a virtual clock: service that each request in the machine has had. A request is done when the clock
//! has moved by its work, so a heap of those readings is all there is, however many share.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::model::scenario::{BackendKind, Discipline};

/// A request by its number in the table of flows, and its work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) flow: u32,
    pub(super) work: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mode {
    Well,
    /// Takes requests and never answers.
    Hung,
    /// Answers at once with an error, with this probability.
    Erring(f64),
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) kind: BackendKind,
    pub(super) factor: f64,
    pub(super) mode: Mode,
    discipline: Discipline,
    /// Service that each running request has had since the start, and how fast that grows.
    clock: f64,
    rate: f64,
    last: f64,
    /// Readings of the clock at which requests are done.
    running: BinaryHeap<Reverse<(u64, u32)>>,
    waiting: VecDeque<Job>,
    /// Integral of the part of processors that is in use.
    pub(super) busy: f64,
}

impl Server {
    pub(super) fn new(kind: BackendKind, discipline: Discipline) -> Self {
        Self {
            kind,
            factor: 1.0,
            mode: Mode::Well,
            discipline,
            clock: 0.0,
            rate: 0.0,
            last: 0.0,
            running: BinaryHeap::new(),
            waiting: VecDeque::new(),
            busy: 0.0,
        }
    }

    /// Requests in the machine.
    #[inline]
    pub(super) fn present(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    pub(super) fn shares(&self) -> bool {
        self.discipline == Discipline::Sharing
    }

    /// Work that one processor does in a second.
    pub(super) fn speed(&self) -> f64 {
        self.kind.speed * self.factor
    }

    /// Lets time pass.
    #[inline]
    pub(super) fn advance(&mut self, now: f64) {
        let passed = now - self.last;
        if passed > 0.0 {
            self.clock += self.rate * passed;
            let cores = f64::from(self.kind.cores);
            self.busy += passed * (self.present() as f64 / cores).min(1.0);
            self.last = now;
        }
    }

    /// After a change: how fast requests are served now, and when the first of them is done.
    #[inline]
    pub(super) fn next_done(&mut self, now: f64) -> f64 {
        let (running, cores) = (self.running.len() as f64, f64::from(self.kind.cores));
        let part = if self.shares() && running > cores { cores / running } else { 1.0 };
        self.rate = if self.mode == Mode::Hung { 0.0 } else { self.speed() * part };
        match self.running.peek() {
            Some(Reverse((reading, _))) if self.rate > 0.0 => {
                now + (f64::from_bits(*reading) - self.clock).max(0.0) / self.rate
            }
            _ => f64::INFINITY,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, job: Job) {
        if self.shares() || self.running.len() < self.kind.cores as usize {
            self.run(job);
        } else {
            self.waiting.push_back(job);
        }
    }

    fn run(&mut self, job: Job) {
        self.running.push(Reverse(((self.clock + job.work).to_bits(), job.flow)));
    }

    /// Takes out the request that is done, and lets the next one run.
    #[inline]
    pub(super) fn finish(&mut self) -> Option<u32> {
        let Reverse((_, flow)) = self.running.pop()?;
        let next = if self.discipline == Discipline::Lifo { self.waiting.pop_back() } else { self.waiting.pop_front() };
        if let Some(job) = next {
            self.run(job);
        }
        Some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves the jobs (arrival, work) and gives when each is done.
    fn serve(kind: BackendKind, discipline: Discipline, jobs: &[(f64, f64)]) -> Vec<f64> {
        let mut server = Server::new(kind, discipline);
        let mut done = vec![0.0; jobs.len()];
        let (mut next, mut due) = (0, f64::INFINITY);
        while next < jobs.len() || due.is_finite() {
            let arrival = jobs.get(next).map_or(f64::INFINITY, |(at, _)| *at);
            let now = arrival.min(due);
            server.advance(now);
            if arrival <= due {
                server.add(Job { flow: next as u32, work: jobs[next].1 });
                next += 1;
            } else {
                let flow = server.finish().expect("one is due");
                done[flow as usize] = now;
            }
            due = server.next_done(now);
        }
        done
    }

    fn check(kind: (f64, u32), discipline: Discipline, jobs: &[(f64, f64)], expected: &[f64]) {
        let done = serve(BackendKind { speed: kind.0, cores: kind.1 }, discipline, jobs);
        for (done, expected) in done.iter().zip(expected) {
            assert!((done - expected).abs() < 1e-9, "{discipline}: {done} instead of {expected}");
        }
    }

    #[test]
    fn disciplines_serve_as_their_names_say() {
        let jobs = [(0.0, 1.0), (0.0, 1.0), (0.5, 1.0)];
        check((1.0, 1), Discipline::Fifo, &jobs, &[1.0, 2.0, 3.0]);
        check((1.0, 1), Discipline::Lifo, &jobs, &[1.0, 3.0, 2.0]);
        // Half a second shared by two leaves 0.75 each; three take 2.25 s for it; the last has 0.25 left.
        check((1.0, 1), Discipline::Sharing, &jobs, &[2.75, 2.75, 3.0]);
        check((1.0, 2), Discipline::Sharing, &jobs[..2], &[1.0, 1.0]);
        check((2.0, 2), Discipline::Fifo, &jobs, &[0.5, 0.5, 1.0]);
    }
}
