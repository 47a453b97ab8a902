//! Active health checks. [`verdict`] decides from probe outcomes whether a backend is up; it is pure, and the engine
//! and the simulator use it as the agent does. [`Prober`] runs the probes of all backends on a thread of its own and
//! reports their outcomes; the modules beside it are its parts: the exchange with the backend, when to probe, what an
//! answer says about load, and whether a time-out was the backend's fault or the agent's.

mod load_report;
mod probe;
mod prober;
mod schedule;
mod starvation;
#[cfg(test)]
mod test_net;
pub mod verdict;

pub use probe::Target;
pub use prober::{ProbeReport, Prober};
pub use verdict::{HealthState, Transition, Verdict};
