//! Durations as people write them: `250ms`, `5s`, `1m`. Flags and files share this one reading, so that a value
//! that works in one place works in the other.

use std::time::Duration;

/// Units, and how many nanoseconds each has.
const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

/// Longer than any interval or deadline that makes sense, and far from overflowing arithmetic on instants.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Digits after the point that still matter: a nanosecond is the ninth digit of a second.
const FRACTION_DIGITS: usize = 9;

/// Reads a number with a unit: `250ms`, `1.5s`, `2m`, `1h`. A bare number is refused because nobody can tell
/// seconds from milliseconds by looking at it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let refuse = || format!("`{}` is not a duration; write a number and a unit, as in 250ms, 5s or 1m", shown(text));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > FRACTION_DIGITS || fraction.contains('.') {
        return Err(refuse());
    }
    if unit.is_empty() {
        return Err(format!("`{trimmed}` has no unit; write {trimmed}ms, {trimmed}s or {trimmed}m"));
    }
    let Some((_, unit_nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{}` has an unknown unit; use one of ns, us, ms, s, m, h", shown(text)));
    };
    let too_long = || format!("`{}` is too long; the longest duration is 8760h", shown(text));
    // All digits by now, so the only way to fail is a number with too many of them.
    let whole: u128 = whole.parse::<u64>().map_err(|_| too_long())?.into();
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let fraction: u128 = fraction.parse::<u64>().map_err(|_| refuse())?.into();
    let unit_nanos = u128::from(*unit_nanos);
    let nanos = whole * unit_nanos + fraction * unit_nanos / scale;
    if nanos > LONGEST.as_nanos() {
        return Err(too_long());
    }
    // The check above leaves at most 3.2e16 nanoseconds.
    Ok(Duration::from_nanos(u64::try_from(nanos).map_err(|_| too_long())?))
}

/// Input that is quoted in an error: short, and without anything that could disturb a terminal.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_the_contract_writes() {
        let check = |text: &str, millis: u64| {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        };
        check("250ms", 250);
        check("5s", 5_000);
        check("1m", 60_000);
        check("10m", 600_000);
        check("2h", 7_200_000);
        check("0s", 0);
        check("1.5s", 1_500);
        check("0.25m", 15_000);
        check(" 3s ", 3_000);
        check("5000us", 5);
        check("8760h", 365 * 24 * 3_600 * 1_000);
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        let check = |text: &str, part: &str| {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        };
        check("5", "has no unit");
        check("", "is not a duration");
        check("s", "is not a duration");
        check("-5s", "is not a duration");
        check("1.2.3s", "is not a duration");
        check("1.s", "is not a duration");
        check(".5s", "is not a duration");
        check("5 s", "unknown unit");
        check("5sec", "unknown unit");
        check("5S", "unknown unit");
        check("99999999999999999999s", "too long");
        check("8761h", "too long");
        check("NaNs", "is not a duration");
        check("1e3s", "unknown unit");
    }

    proptest! {
        #[test]
        fn every_count_of_every_unit_reads_back(count in 0_u64..8_000, unit in 0_usize..6) {
            let (name, nanos) = UNITS[unit];
            prop_assert_eq!(parse_duration(&format!("{count}{name}")), Ok(Duration::from_nanos(count * nanos)));
        }

        #[test]
        fn no_input_panics_or_exceeds_the_bound(text in "\\PC{0,40}") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert!(duration <= LONGEST);
            }
        }

        #[test]
        fn a_fraction_equals_the_smaller_unit(millis in 0_u64..1_000_000) {
            let text = format!("{}.{:03}s", millis / 1_000, millis % 1_000);
            prop_assert_eq!(parse_duration(&text), Ok(Duration::from_millis(millis)));
        }
    }
}
