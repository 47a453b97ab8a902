//! What a run is asked to do: the flags of `lb-agent load`, and the same as a plain value for callers inside the
//! program. Bounds are checked here, so that the generator works with values that make sense.

use std::time::Duration;

use clap::Args;

use super::arrivals::Arrivals;
use super::target::{Target, TargetError};
use crate::model::duration::parse_duration;

/// One request in a quarter of an hour.
pub const MIN_RATE: f64 = 0.001;
/// More than this no generator on one machine reaches; it bounds what a typing error can ask for.
pub const MAX_RATE: f64 = 1_000_000.0;
/// One source address has about 28,000 ephemeral ports towards one server.
pub const MAX_CONNECTIONS: u32 = 20_000;
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// Bounds the report's timeline to 86,400 rows.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3_600);
/// Requests that may wait for a connection, whatever rate and time-out would allow.
const MAX_QUEUE: usize = 1_000_000;
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// Send requests at a set rate, whatever the server does, and measure latency from the intended send time
///
/// A request that finds every connection busy waits its turn, and the wait counts: this is what a user of a slow
/// server sees, and what a generator that waits for answers before it sends hides.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  lb-agent load http://192.0.2.10/ --rate 500 --duration 30s
  lb-agent load http://[2001:db8::10]:8080/x --new-connections --arrivals poisson --json
  lb-agent load http://192.0.2.10/ --requests 1000 --max-error-percent 0.1")]
pub struct LoadArgs {
    /// Where to send requests: http://host:port/path
    #[arg(value_name = "URL")]
    pub target: Target,

    /// Requests per second
    #[arg(long, default_value = "100", value_parser = parse_rate)]
    pub rate: f64,

    /// Connections open at the same time, at most; each is opened when it is first needed
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CONNECTIONS)))]
    pub connections: u32,

    /// How long to send [default: 10s, or as long as --requests takes]
    #[arg(long, value_parser = parse_run_duration)]
    pub duration: Option<Duration>,

    /// Stop after this many requests
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,

    /// A request without a complete answer this long after its intended send time has failed
    #[arg(long, default_value = "2s", value_parser = parse_timeout)]
    pub timeout: Duration,

    /// Open a connection for each request instead of keeping connections alive
    #[arg(long)]
    pub new_connections: bool,

    /// How requests are spaced
    #[arg(long, value_enum, default_value_t = Arrivals::Constant)]
    pub arrivals: Arrivals,

    /// Seed of the random spacing; the same seed gives the same schedule
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Requests that may wait for a connection; one more is an error [default: rate × timeout]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=MAX_QUEUE as i64))]
    pub queue: Option<u32>,

    /// How often the progress line on a terminal is renewed
    #[arg(long, default_value = "1s", value_parser = parse_interval)]
    pub interval: Duration,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,

    /// Exit with code 1 when more than this share of requests failed
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub max_error_percent: Option<f64>,
}

/// A run of the generator. [`LoadOptions::new`] has the command's defaults; [`super::generate`] checks the bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    pub target: Target,
    /// Requests per second.
    pub rate: f64,
    pub connections: u32,
    /// The run ends with the first of `duration` and `requests` that is reached.
    pub duration: Option<Duration>,
    pub requests: Option<u64>,
    /// Counted from the intended send time.
    pub timeout: Duration,
    pub new_connections: bool,
    pub arrivals: Arrivals,
    pub seed: u64,
    /// Requests that may wait for a connection; none: as many as arrive within the time-out.
    pub queue: Option<u32>,
    /// How often progress is reported.
    pub interval: Duration,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OptionsError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("{0}")]
    Range(String),
}

impl LoadOptions {
    pub fn new(url: &str) -> Result<Self, OptionsError> {
        Ok(Self {
            target: url.parse()?,
            rate: 100.0,
            connections: 64,
            duration: None,
            requests: None,
            timeout: Duration::from_secs(2),
            new_connections: false,
            arrivals: Arrivals::Constant,
            seed: 1,
            queue: None,
            interval: Duration::from_secs(1),
        })
    }

    /// When the last request is scheduled at the latest.
    pub fn run_duration(&self) -> Duration {
        match (self.duration, self.requests) {
            (Some(duration), _) => duration,
            (None, Some(_)) => MAX_DURATION,
            (None, None) => DEFAULT_DURATION,
        }
    }

    /// How long the schedule lasts: to its end, or until a request after the last one would be due.
    pub fn planned(&self) -> Duration {
        let duration = self.run_duration();
        let requests = self.requests.map_or(f64::INFINITY, |requests| requests as f64 / self.rate);
        Duration::try_from_secs_f64(requests).map_or(duration, |requests| requests.min(duration))
    }

    /// How many requests may wait for a connection.
    pub fn queue_limit(&self) -> usize {
        match self.queue {
            Some(limit) => limit as usize,
            None => ((self.rate * self.timeout.as_secs_f64()).ceil() as usize).clamp(1, MAX_QUEUE),
        }
    }

    pub(super) fn validate(&self) -> Result<(), OptionsError> {
        check_rate(self.rate).map_err(OptionsError::Range)?;
        check_within("timeout", self.timeout, Duration::from_millis(1), MAX_TIMEOUT).map_err(OptionsError::Range)?;
        check_within("interval", self.interval, SHORTEST_INTERVAL, MAX_TIMEOUT).map_err(OptionsError::Range)?;
        check_within("duration", self.run_duration(), Duration::from_millis(1), MAX_DURATION)
            .map_err(OptionsError::Range)?;
        if self.connections == 0 || self.connections > MAX_CONNECTIONS {
            return Err(OptionsError::Range(format!("connections must be within 1 and {MAX_CONNECTIONS}")));
        }
        Ok(())
    }
}

impl From<&LoadArgs> for LoadOptions {
    fn from(args: &LoadArgs) -> Self {
        Self {
            target: args.target.clone(),
            rate: args.rate,
            connections: args.connections,
            duration: args.duration,
            requests: args.requests,
            timeout: args.timeout,
            new_connections: args.new_connections,
            arrivals: args.arrivals,
            seed: args.seed,
            queue: args.queue,
            interval: args.interval,
        }
    }
}

fn check_rate(rate: f64) -> Result<f64, String> {
    // A range holds no NaN, so that is refused with the rest.
    if (MIN_RATE..=MAX_RATE).contains(&rate) {
        Ok(rate)
    } else {
        Err(format!("the rate must be within {MIN_RATE} and {MAX_RATE} requests per second"))
    }
}

fn check_within(name: &str, value: Duration, low: Duration, high: Duration) -> Result<Duration, String> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(format!("the {name} must be within {low:?} and {high:?}"))
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    check_rate(text.parse::<f64>().map_err(|_| "write a number of requests per second, as in 100 or 0.5")?)
}

fn parse_run_duration(text: &str) -> Result<Duration, String> {
    check_within("duration", parse_duration(text)?, Duration::from_millis(1), MAX_DURATION)
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    check_within("timeout", parse_duration(text)?, Duration::from_millis(1), MAX_TIMEOUT)
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    check_within("interval", parse_duration(text)?, SHORTEST_INTERVAL, MAX_TIMEOUT)
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("write a percentage within 0 and 100".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(line: &str) -> Result<LoadArgs, String> {
        Cli::try_parse_from(std::iter::once("load").chain(line.split_whitespace()))
            .map(|cli| cli.load)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_have_the_same_defaults_as_the_library() {
        let args = parse("http://192.0.2.10/").expect("only the URL is required");
        assert_eq!(LoadOptions::from(&args), LoadOptions::new("http://192.0.2.10/").expect("a URL"));
        assert_eq!(LoadOptions::from(&args).run_duration(), DEFAULT_DURATION);
        assert_eq!(LoadOptions::from(&args).queue_limit(), 200);
    }

    #[test]
    fn the_examples_of_the_help_parse() {
        use clap::CommandFactory as _;
        let help = Cli::command().render_help().to_string();
        let examples: Vec<&str> = help.lines().filter_map(|line| line.trim().strip_prefix("lb-agent load ")).collect();
        assert_eq!(examples.len(), 3, "{help}");
        for example in examples {
            parse(example).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
    }

    #[test]
    fn flags_out_of_range_are_refused() {
        let check = |line: &str, part: &str| {
            let error = parse(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        };
        check("", "URL");
        check("https://h/", "https is not supported");
        check("http://h/ --rate 0", "within 0.001 and 1000000");
        check("http://h/ --rate NaN", "within 0.001 and 1000000");
        check("http://h/ --rate inf", "within 0.001 and 1000000");
        check("http://h/ --rate fast", "write a number");
        check("http://h/ --connections 0", "1..=20000");
        check("http://h/ --duration 10", "has no unit");
        check("http://h/ --duration 25h", "within 1ms and 86400s");
        check("http://h/ --timeout 0s", "within 1ms and 300s");
        check("http://h/ --interval 1ms", "within 50ms");
        check("http://h/ --requests 0", "requests");
        check("http://h/ --max-error-percent 101", "within 0 and 100");
    }

    #[test]
    fn a_number_of_requests_lifts_the_default_duration() {
        let args = parse("http://h/ --requests 5 --rate 0.01").expect("valid");
        assert_eq!(LoadOptions::from(&args).run_duration(), MAX_DURATION);
        assert_eq!(LoadOptions::from(&args).planned(), Duration::from_secs(500));
        let args = parse("http://h/ --requests 500 --duration 3s").expect("valid");
        assert_eq!(LoadOptions::from(&args).run_duration(), Duration::from_secs(3));
        assert_eq!(LoadOptions::from(&args).planned(), Duration::from_secs(3));
    }
}
