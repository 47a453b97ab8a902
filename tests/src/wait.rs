//! The one way in which tests wait: poll a condition until it holds or a limit passes, and then say why it did not.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);

/// Calls `attempt` until it succeeds and returns what it found; after `limit`, an error that names `what` and the
/// reason of the last attempt.
pub fn wait_until<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(reason) if start.elapsed() >= limit => {
                bail!("waited {limit:?} in vain until {what}: {reason:#}")
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_the_first_success_found() {
        let mut calls = 0;
        let found = wait_until("three calls", Duration::from_secs(5), || {
            calls += 1;
            if calls < 3 { bail!("only {calls}") } else { Ok(calls) }
        });
        assert_eq!(found.expect("the third call succeeds"), 3);
    }

    #[test]
    fn says_what_was_missing() {
        let error = wait_until::<()>("the moon is blue", Duration::ZERO, || bail!("it is white")).unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns in vain until the moon is blue: it is white");
    }
}
