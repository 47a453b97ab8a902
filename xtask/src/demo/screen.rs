//! What the demo prints: steps and what they mean, one line for each second of traffic, and facts. Colour and bars are
//! for terminals; elsewhere the same lines are plain.

use std::io::IsTerminal as _;
use std::time::Instant;

use anyhow::Result;
use lb_agent::load::Snapshot;
use lb_agent::model::view::Service;

use crate::out::say;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
/// Cells of a bar that stands for all traffic.
const BAR_CELLS: f64 = 12.0;

/// Standard output. Colours are written always, and taken out on the way where nobody can see them.
#[derive(Debug)]
pub(super) struct Screen {
    bars: bool,
    began: Instant,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { bars: std::io::stdout().is_terminal(), began: Instant::now() }
    }

    pub(super) fn line(&self, text: &str) -> Result<()> {
        say(text)
    }

    /// What happens next, and why.
    pub(super) fn step(&self, title: &str, why: &str) -> Result<()> {
        self.line(&format!("\n{BOLD}{title}{PLAIN}\n{DIM}{why}{PLAIN}"))
    }

    /// Something that was promised and has been seen.
    pub(super) fn kept(&self, text: &str) -> Result<()> {
        self.line(&format!("  {GREEN}ok{PLAIN}  {text}"))
    }

    /// Something worth knowing that was not promised.
    pub(super) fn note(&self, text: &str) -> Result<()> {
        self.line(&format!("      {text}"))
    }

    /// One second of traffic; `failed` is what has failed in it.
    pub(super) fn second(&self, seen: &Snapshot, failed: u64, service: &Service) -> Result<()> {
        let colour = if failed == 0 { "" } else { RED };
        let all: f64 = service.backends.iter().map(|one| one.traffic.new_flows_per_second).sum();
        let backends = service.backends.iter().map(|one| {
            let share = if all > 0.0 { one.traffic.new_flows_per_second / all } else { 0.0 };
            self.backend(&one.name, &one.state, share)
        });
        self.line(&format!(
            "  {:4.1} s  {:4.0} req/s  p50 {:>5} ms  p99 {:>5} ms  {colour}{failed:3} failed{PLAIN}   {}",
            self.began.elapsed().as_secs_f64(),
            seen.requests_per_second,
            millis(seen.p50_ms),
            millis(seen.p99_ms),
            backends.collect::<Vec<_>>().join("  ")
        ))
    }

    fn backend(&self, name: &str, state: &str, share: f64) -> String {
        let colour = if state == "up" { GREEN } else { RED };
        let bar = if self.bars { format!(" {:6}", bar(share)) } else { String::new() };
        format!("{name} {colour}{state:4}{PLAIN} {:3.0}%{bar}", share * 100.0)
    }
}

/// One decimal, and a dash where nothing was answered.
pub(super) fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn bar(share: f64) -> String {
    "█".repeat((share * BAR_CELLS).round() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_its_share() {
        for (share, cells) in [(0.0, 0), (0.04, 0), (0.33, 4), (0.5, 6), (1.0, 12)] {
            assert_eq!(bar(share).chars().count(), cells, "{share}");
        }
    }

    #[test]
    fn where_there_is_no_terminal_there_is_no_bar() {
        let screen = Screen { bars: false, began: Instant::now() };
        assert_eq!(anstream::adapter::strip_str(&screen.backend("b1", "up", 0.334)).to_string(), "b1 up    33%");
        let screen = Screen { bars: true, ..screen };
        assert_eq!(anstream::adapter::strip_str(&screen.backend("b2", "down", 0.0)).to_string(), "b2 down   0%       ");
    }
}
