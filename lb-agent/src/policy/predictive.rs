//! Prepares for the load that comes: forecasts a service's rate with its seasons (MSTL with exponential smoothing, by
//! `augurs`), spreads that rate over the learned curves so that all marginal costs are equal, and recommends capacity.

use augurs::ets::AutoETS;
use augurs::mstl::MSTLModel;
use augurs::seasons::{Detector as _, PeriodogramDetector};
use augurs::{Fit as _, Predict as _};
use rand_pcg::Pcg64;

use super::estimator::Estimator;
use super::plan::{Chooser, Plan};
use super::{Configured, Policy, Sight};

/// The rate is kept in buckets of so many seconds, so many of them, and forecast anew so often.
const BUCKET: f64 = 1.0;
const REMEMBERED: usize = 900;
const EVERY: f64 = 5.0;
/// Fewer buckets say nothing of a trend; a season has to be seen twice.
const FEWEST: usize = 20;
/// Buckets ahead.
const HORIZON: usize = 30;
/// Capacity is recommended for this use of it at the forecast's peak.
const WANTED_USE: f64 = 0.7;

/// What an operator can do about it.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct CapacityAdvice {
    /// Requests a second: now, the highest of the next half minute, and what the pool can carry.
    pub rate: f64,
    pub peak: f64,
    pub capacity: f64,
    /// How many backends like the average one carry the peak at 70 % use.
    pub backends: u32,
}

#[derive(Debug)]
pub(super) struct Predictive {
    rates: Vec<f64>,
    /// The bucket that is being filled.
    count: f64,
    seconds: f64,
    due: f64,
    peak: Option<f64>,
    advice: Option<CapacityAdvice>,
}

impl Predictive {
    pub(super) fn new() -> Self {
        Self { rates: Vec::new(), count: 0.0, seconds: 0.0, due: 0.0, peak: None, advice: None }
    }

    fn count(&mut self, picks: f64, interval: f64) {
        self.count += picks;
        self.seconds += interval;
        if self.seconds >= BUCKET {
            self.rates.push(self.count / self.seconds);
            (self.count, self.seconds) = (0.0, 0.0);
            let old = self.rates.len().saturating_sub(REMEMBERED);
            self.rates.drain(..old);
        }
    }
}

/// The highest rate of the horizon; none where the history is too short or the model does not fit.
fn forecast(rates: &[f64]) -> Option<f64> {
    if rates.len() < FEWEST {
        return None;
    }
    let highest = rates.iter().copied().fold(0.0, f64::max);
    if highest <= 0.0 {
        return Some(0.0);
    }
    // A flat line has no model.
    let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    if highest - lowest < 1e-6 * highest {
        return Some(highest);
    }
    let most = u32::try_from(rates.len() / 2).unwrap_or(u32::MAX);
    let detector = PeriodogramDetector::builder().min_period(4).max_period(most.max(5)).build();
    let periods: Vec<usize> = detector.detect(rates).into_iter().map(|period| period as usize).collect();
    let periods: Vec<usize> = periods.into_iter().filter(|period| (2..=rates.len() / 2).contains(period)).collect();
    let points = if periods.is_empty() {
        AutoETS::non_seasonal().fit(rates).ok()?.predict(HORIZON, None).ok()?.point
    } else {
        let trend = AutoETS::non_seasonal().into_trend_model();
        MSTLModel::new(periods, trend).fit(rates).ok()?.predict(HORIZON, None).ok()?.point
    };
    let peak = points.into_iter().filter(|point| point.is_finite()).fold(0.0, f64::max);
    // The crate calls the platform's functions, whose last digits differ; three digits are all that a forecast means.
    Some(three_digits(peak.clamp(0.0, 3.0 * highest)))
}

fn three_digits(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let unit = libm::pow(10.0, libm::floor(libm::log10(value)) - 2.0);
    libm::round(value / unit) * unit
}

/// Requests in flight at each backend when all have the same marginal cost and carry `rate` together: the weights with which
/// least connections holds that state.
fn spread(estimator: &Estimator, rate: f64) -> Vec<f64> {
    let grid = &estimator.grid;
    let marginal: Vec<_> = estimator
        .models()
        .iter()
        .map(|model| {
            let (delay, before) = (model.delay(), grid.one_less(model.delay()));
            let cost = |bucket: usize| delay[bucket] + grid.centre[bucket] * (delay[bucket] - before[bucket]).max(0.0);
            std::array::from_fn::<f64, { lb_common::price::BUCKETS }, _>(cost)
        })
        .collect();
    // Occupancy and rate by price.
    let at = |price: f64| -> Vec<(f64, f64)> {
        let state = |(model, costs): (&super::estimator::Model, &[f64; lb_common::price::BUCKETS])| {
            let bucket = costs.iter().position(|cost| *cost > price).unwrap_or(costs.len()).saturating_sub(1);
            // Little's law, with a part of the way to the next bucket.
            let next = (bucket + 1).min(costs.len() - 1);
            let way = if costs[next] > costs[bucket] {
                ((price - costs[bucket]) / (costs[next] - costs[bucket])).clamp(0.0, 1.0)
            } else {
                0.0
            };
            let occupancy = grid.centre[bucket] + way * (grid.centre[next] - grid.centre[bucket]);
            (occupancy, (occupancy + 0.5) / model.delay()[bucket])
        };
        estimator.models().iter().zip(&marginal).map(state).collect()
    };
    let carried = |price: f64| at(price).iter().map(|(_, rate)| rate).sum::<f64>();
    let (mut low, mut high) = (1e-6_f64, 1e3_f64);
    for _ in 0..40 {
        let middle = (low * high).sqrt();
        if carried(middle) < rate { low = middle } else { high = middle }
    }
    at(high).into_iter().map(|(occupancy, _)| occupancy + 1.0).collect()
}

impl Policy for Predictive {
    fn start(&self, configured: &[Configured]) -> Plan {
        Plan::even(Chooser::LeastConnections, configured.len())
    }

    fn decide(&mut self, sight: &Sight<'_>, _: &mut Pcg64) -> Plan {
        let observation = sight.observation;
        let finished: f64 = observation.backends.iter().map(|seen| seen.finished()).sum();
        self.count(finished, observation.interval);
        if observation.now >= self.due {
            self.due = observation.now + EVERY;
            self.peak = forecast(&self.rates);
        }
        let rate = finished / observation.interval;
        let peak = self.peak.unwrap_or(rate).max(rate);
        let capacity: f64 = sight.estimator.capacities().iter().sum();
        let average = capacity / sight.backends().max(1) as f64;
        let backends = (peak / (WANTED_USE * average)).ceil().clamp(0.0, 1e6) as u32;
        self.advice = Some(CapacityAdvice { rate, peak, capacity, backends });
        Plan::with_weights(Chooser::LeastConnections, spread(sight.estimator, peak.min(0.95 * capacity)))
    }

    fn advice(&self) -> Option<CapacityAdvice> {
        self.advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_season_is_foreseen() {
        let wave = |second: usize| 500.0 + 400.0 * libm::sin(std::f64::consts::TAU * second as f64 / 60.0);
        // It ends in the trough, a quarter of a period before the mean.
        let rates: Vec<f64> = (0..225).map(wave).collect();
        let now = rates[rates.len() - 1];
        let peak = forecast(&rates).unwrap();
        assert!(now < 150.0 && (700.0..1_100.0).contains(&peak), "{now} now, {peak} to come");
    }

    #[test]
    fn too_little_or_nothing_is_said_as_such() {
        assert_eq!(forecast(&[5.0; 10]), None);
        assert_eq!(forecast(&[0.0; 100]), Some(0.0));
        assert_eq!(forecast(&[7.0; 100]), Some(7.0));
    }

    #[test]
    fn equal_backends_get_equal_weights_that_grow_with_the_rate() {
        let estimator = Estimator::new(4);
        let (low, high) = (spread(&estimator, 10.0), spread(&estimator, 100.0));
        assert!(low.windows(2).all(|pair| pair[0] == pair[1]) && low[0] < high[0], "{low:?} {high:?}");
    }
}
