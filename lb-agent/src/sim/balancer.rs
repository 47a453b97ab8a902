//! One balancer: what the kernel counts of each backend, and what the agent has written for it. Updated on events of flows, as
//! the eBPF program will, with its code ([`lb_common::price`]) where there is any.

use lb_common::price::{BUCKETS, Live, Prices, Terms, bucket};

use super::choice::Probes;
use crate::policy::Chooser;
use crate::policy::math::{exp, ln};
use crate::policy::observation::Seen;
use crate::policy::plan::Plan;

/// How long the peak-sensitive mean of latency remembers, seconds (Finagle's default).
const PEAK_MEMORY: f64 = 10.0;

/// A backend as one balancer sees it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) live: Live,
    pub(super) seen: Seen,
    /// When the occupancy last changed.
    since: f64,
    /// Written by the agent.
    pub(super) prices: Prices,
    pub(super) terms: Terms,
    pub(super) weight: f64,
    pub(super) eligible: bool,
    /// What health checks say.
    pub(super) up: bool,
    peak: f64,
    peak_at: f64,
}

impl Lane {
    fn new(up: bool) -> Self {
        Self {
            live: Live::default(),
            seen: Seen::default(),
            since: 0.0,
            prices: Prices([0; BUCKETS]),
            terms: Terms::default(),
            weight: 1.0,
            eligible: true,
            up,
            peak: 0.0,
            peak_at: 0.0,
        }
    }

    /// Time that has passed at this occupancy.
    #[inline]
    pub(super) fn pass(&mut self, now: f64) {
        self.seen.time_at[bucket(self.live.in_flight)] += now - self.since;
        self.since = now;
    }

    #[inline]
    pub(super) fn is_usable(&self, now_ms: u32) -> bool {
        // The price is of no interest here, only whether there is an offer.
        self.eligible && self.up && self.weight > 0.0 && self.live.offer(&self.prices, &self.terms, now_ms).is_some()
    }

    /// An answer, or what looks like one; `met` is the bucket that its request met.
    #[inline]
    pub(super) fn answered(&mut self, met: u8, latency: f64) {
        let met = usize::from(met);
        self.seen.answers[met] += 1;
        self.seen.log_latency[met] += ln(latency + 1e-6);
        self.seen.latency += latency;
    }

    /// Peak-sensitive mean: rises at once, falls slowly.
    pub(super) fn hear_peak(&mut self, latency: f64, now: f64) {
        if latency > self.peak {
            self.peak = latency;
        } else {
            let kept = exp(-(now - self.peak_at) / PEAK_MEMORY);
            self.peak = self.peak * kept + latency * (1.0 - kept);
        }
        self.peak_at = now;
    }

    pub(super) fn peak_cost(&self, now: f64) -> f64 {
        let peak = self.peak * exp(-(now - self.peak_at) / PEAK_MEMORY);
        (peak + 1e-6) * (f64::from(self.live.in_flight) + 1.0)
    }
}

#[derive(Debug)]
pub(super) struct Balancer {
    pub(super) lanes: Vec<Lane>,
    pub(super) chooser: Chooser,
    /// Sums of the weights of those that take flows, for draws.
    pub(super) cumulative: Vec<f64>,
    /// Of smooth round robin.
    pub(super) credit: Vec<f64>,
    pub(super) probes: Probes,
}

impl Balancer {
    pub(super) fn new(absent: &[bool]) -> Self {
        Self {
            lanes: absent.iter().map(|absent| Lane::new(!absent)).collect(),
            chooser: Chooser::Draw,
            cumulative: vec![0.0; absent.len()],
            credit: vec![0.0; absent.len()],
            probes: Probes::default(),
        }
    }

    /// What the agent writes into the maps.
    pub(super) fn apply(&mut self, plan: &Plan) {
        self.chooser = plan.chooser;
        for (lane, backend) in self.lanes.iter_mut().zip(&plan.backends) {
            lane.weight = backend.weight;
            lane.eligible = backend.eligible;
            lane.prices = backend.encoded_prices();
            lane.terms = backend.encoded_terms(plan.trip);
        }
        self.refresh_draw();
    }

    pub(super) fn set_up(&mut self, backend: usize, up: bool) {
        self.lanes[backend].up = up;
        self.refresh_draw();
    }

    fn refresh_draw(&mut self) {
        let mut sum = 0.0;
        for (lane, cumulative) in self.lanes.iter().zip(&mut self.cumulative) {
            sum += if lane.eligible && lane.up { lane.weight } else { 0.0 };
            *cumulative = sum;
        }
        if sum <= 0.0 {
            // Nobody takes flows: everybody does.
            for (index, cumulative) in self.cumulative.iter_mut().enumerate() {
                *cumulative = index as f64 + 1.0;
            }
        }
    }
}
