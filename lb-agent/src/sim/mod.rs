//! The simulator: scenarios played with the agent's own policies in virtual time, so that a study of days takes seconds.

mod balancer;
mod calendar;
mod chance;
mod choice;
mod command;
mod pictures;
mod play;
mod record;
mod report;
mod server;
mod study;
mod trace;
mod world;

#[cfg(test)]
mod proof_tests;
#[cfg(test)]
mod tests;

pub use command::{SimulateArgs, run};
pub use play::{Contender, play};
pub use record::{Recording, Sample, Summary, WARM_UP, WINDOW, quantile};
pub use study::{Outcome, Study};
pub use trace::{Point, Trace};
pub use world::World;
