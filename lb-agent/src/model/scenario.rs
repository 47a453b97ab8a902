//! What the simulator is to play: backends, load, work, failures and how well the balancer sees. Read by `config` from YAML,
//! played by `sim`. Times are seconds from the start.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::choice;

#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub name: String,
    pub about: String,
    pub duration: f64,
    pub pool: Pool,
    pub load: Load,
    pub work: Work,
    /// Balancers in front of the same pool; each sees its own flows only.
    pub balancers: usize,
    /// Mean number of requests that a flow carries (geometric), and the mean pause between them (exponential).
    pub requests_per_flow: f64,
    pub think: f64,
    pub visibility: Visibility,
    pub measurement: Measurement,
    pub health: HealthChecks,
    pub failures: Failures,
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Repeated in turn until there are as many backends as asked for.
    pub kinds: Vec<BackendKind>,
    pub discipline: Discipline,
    /// Requests that a backend holds; more are refused after a second.
    pub backlog: usize,
    /// Network time of each request.
    pub network: f64,
}

/// A backend's processors: how many, and how fast against one that does a second's work in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackendKind {
    pub speed: f64,
    pub cores: u32,
}

choice!(
    /// Who is served first.
    Discipline {
        /// All at once, each by its part of the processors.
        Sharing = "sharing",
        Fifo = "fifo",
        Lifo = "lifo",
        /// Every other pair of backends is `fifo`, the rest `sharing`.
        Mixed = "mixed",
    }
);

choice!(
    /// What the balancer sees.
    Visibility {
        /// Requests and answers, as under `nat`.
        Requests = "requests",
        /// The opening and closing of flows only, as under `dsr`.
        Flows = "flows",
    }
);

/// Arrivals, as a part of the whole pool's capacity.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    Constant(f64),
    /// From each time on, so much.
    Steps(Vec<(f64, f64)>),
    Flash {
        base: f64,
        peak: f64,
        at: f64,
        rise: f64,
        hold: f64,
        decay: f64,
    },
    /// A Poisson process that is modulated by two states (MMPP): loads and mean times in each.
    Bursty {
        low: f64,
        high: f64,
        low_for: f64,
        high_for: f64,
    },
    Diurnal {
        middle: f64,
        swing: f64,
        period: f64,
    },
    /// Arrival times, one a line, of a file; seconds, stretched so that the mean load is `load`.
    Replay {
        file: PathBuf,
        load: f64,
        times: Vec<f64>,
    },
}

/// The work of one request, in seconds on a core of speed 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    pub mean: f64,
    pub distribution: Distribution,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    Lognormal {
        sigma: f64,
    },
    /// Bounded Pareto: exponent, and highest against lowest.
    Pareto {
        alpha: f64,
        ratio: f64,
    },
    Exponential,
    /// A few that are so many times the others.
    Bimodal {
        part: f64,
        ratio: f64,
    },
    Fixed,
}

/// How well the agent sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurement {
    pub interval: f64,
    /// From the end of an interval until its decision is in force.
    pub delay: f64,
    /// Lognormal error of latencies, and normal error of reported load.
    pub noise: f64,
    pub load_noise: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HealthChecks {
    pub interval: f64,
    pub timeout: f64,
    pub rise: u32,
    pub fall: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failures {
    /// The part of failures that the balancer sees as such; the others look like answers.
    pub seen: f64,
    /// How fast an erring backend answers, when a request to a hung one is given up, and when any is.
    pub error_latency: f64,
    pub hang_timeout: f64,
    pub timeout: f64,
}

/// Something that happens to some backends.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub who: Who,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Who {
    /// One of a small pool, about one in sixteen of a large one.
    Some,
    Half,
    All,
    /// Those with these numbers, counted from 0; numbers that the pool does not have are nobody.
    These(Vec<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// Another speed, by this factor.
    Slow { at: f64, until: f64, factor: f64 },
    /// No answers; then a cold return at another speed.
    Hang { at: f64, until: f64, cold: f64, cold_for: f64 },
    /// Instant errors with this probability.
    Errors { at: f64, until: f64, probability: f64 },
    /// Others use the machine now and then: factor of the speed, mean times with and without, part of the backends.
    Antagonist { factor: f64, on: f64, off: f64, part: f64 },
    /// Slower step by step, held for a while.
    Slide { at: f64, until: f64, factor: f64, hold: f64 },
    /// One after another is down and comes back cold.
    Rolling { at: f64, every: f64, down: f64, cold: f64, cold_for: f64, most: usize },
    /// Not there before; starts cold.
    Join { at: f64, cold: f64, cold_for: f64 },
}

impl What {
    /// When the pool has to find a new balance because of it; none of what happens all the time.
    pub fn marks(&self) -> Vec<f64> {
        match *self {
            Self::Slow { at, until, .. } | Self::Hang { at, until, .. } | Self::Errors { at, until, .. } => {
                vec![at, until]
            }
            Self::Slide { at, until, hold, .. } => vec![at, until + hold],
            Self::Rolling { at, .. } | Self::Join { at, .. } => vec![at],
            Self::Antagonist { .. } => Vec::new(),
        }
    }
}

impl Load {
    pub fn marks(&self) -> Vec<f64> {
        match self {
            Self::Steps(steps) => steps.iter().map(|(at, _)| *at).filter(|at| *at > 0.0).collect(),
            Self::Flash { at, .. } => vec![*at],
            _ => Vec::new(),
        }
    }
}

impl Scenario {
    /// Times that pictures mark.
    pub fn marks(&self) -> Vec<f64> {
        let mut marks = self.load.marks();
        marks.extend(self.events.iter().flat_map(|event| event.what.marks()));
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        marks
    }
}
