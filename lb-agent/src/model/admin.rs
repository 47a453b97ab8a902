//! What an operator can do to a backend at run time, and how such a request is written in JSON.
//! The API and the CLI share these types, so both refuse the same things in the same words.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::MAX_WEIGHT;
use super::duration::parse_duration;

/// One change to one backend. Where `undo_after` is given, the change takes itself back after that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// No new flows; those that exist may finish.
    Drain {
        undo_after: Option<Duration>,
    },
    Undrain,
    Weight {
        weight: u16,
        undo_after: Option<Duration>,
    },
    Enable,
    /// No new flows and no probes; those that exist may finish.
    Disable {
        undo_after: Option<Duration>,
    },
}

/// Every verb, in the order in which help and errors list them.
pub const VERBS: &[&str] = &["drain", "undrain", "weight", "enable", "disable"];

impl Action {
    /// The last segment of the API's path and the name of the CLI's command.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Drain { .. } => "drain",
            Self::Undrain => "undrain",
            Self::Weight { .. } => "weight",
            Self::Enable => "enable",
            Self::Disable { .. } => "disable",
        }
    }

    /// The JSON body that goes with [`Self::verb`].
    pub fn request(&self) -> ActionRequest {
        let (weight, undo_after) = match *self {
            Self::Weight { weight, undo_after } => (Some(weight), undo_after),
            Self::Drain { undo_after } | Self::Disable { undo_after } => (None, undo_after),
            Self::Undrain | Self::Enable => (None, None),
        };
        ActionRequest { weight, undo_after: undo_after.map(UndoAfter) }
    }

    /// Puts verb and body together. `None`: there is no such verb.
    pub fn from_request(verb: &str, request: ActionRequest) -> Option<Result<Self, RequestError>> {
        let undo_after = request.undo_after.map(|UndoAfter(time)| time);
        let action = match (verb, request.weight) {
            ("drain", None) => Self::Drain { undo_after },
            ("disable", None) => Self::Disable { undo_after },
            ("weight", Some(weight)) if weight > MAX_WEIGHT => return Some(Err(RequestError::WeightTooHigh(weight))),
            ("weight", Some(weight)) => Self::Weight { weight, undo_after },
            ("weight", None) => return Some(Err(RequestError::WeightMissing)),
            ("undrain" | "enable", _) if undo_after.is_some() => return Some(Err(RequestError::Permanent)),
            ("undrain", None) => Self::Undrain,
            ("enable", None) => Self::Enable,
            (verb, Some(_)) if VERBS.contains(&verb) => return Some(Err(RequestError::WeightUnused)),
            _ => return None,
        };
        Some(Ok(action))
    }
}

/// The body of `POST /api/v1/services/{name}/backends/{backend}/{verb}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub undo_after: Option<UndoAfter>,
}

/// Why verb and body do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("`weight` is missing; give a number from 0 to {MAX_WEIGHT}")]
    WeightMissing,
    #[error("`weight` {0} is out of range; give a number from 0 to {MAX_WEIGHT}")]
    WeightTooHigh(u16),
    #[error("`weight` has no meaning here; leave it out, or use the action `weight`")]
    WeightUnused,
    #[error("`for` has no meaning here; give it to the action that this one takes back")]
    Permanent,
}

/// The time of `--for` and `"for"`: `90s`, `10m`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UndoAfter(pub Duration);

impl UndoAfter {
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// Longer than any maintenance: whoever means "for good" leaves `for` out.
    pub const LONGEST: Duration = Duration::from_secs(30 * 86_400);
}

impl FromStr for UndoAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = parse_duration(text)?;
        if !(Self::SHORTEST..=Self::LONGEST).contains(&time) {
            return Err("out of range; give a time from 1s to 720h".to_owned());
        }
        // What is written back is what was understood.
        Ok(Self(Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))))
    }
}

impl fmt::Display for UndoAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        for (unit, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if millis.is_multiple_of(factor) {
                return write!(f, "{}{unit}", millis / factor);
            }
        }
        write!(f, "{millis}ms")
    }
}

impl TryFrom<String> for UndoAfter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<UndoAfter> for String {
    fn from(time: UndoAfter) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_action() -> impl Strategy<Value = Action> {
        let undo = prop::option::of((1_000u64..=2_592_000_000).prop_map(Duration::from_millis));
        (0usize..5, 0..=MAX_WEIGHT, undo).prop_map(|(which, weight, undo_after)| match which {
            0 => Action::Drain { undo_after },
            1 => Action::Undrain,
            2 => Action::Weight { weight, undo_after },
            3 => Action::Enable,
            _ => Action::Disable { undo_after },
        })
    }

    proptest! {
        #[test]
        fn an_action_survives_the_way_over_json(action in any_action()) {
            let body = serde_json::to_string(&action.request()).unwrap();
            let request = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(Action::from_request(action.verb(), request), Some(Ok(action)));
        }
    }

    #[test]
    fn times_are_bounded_and_written_back_in_the_largest_whole_unit() {
        for (text, expected) in [
            ("90s", Some("90s")),
            ("120m", Some("2h")),
            ("1.5s", Some("1500ms")),
            ("720h", Some("720h")),
            ("721h", None),
            ("999ms", None),
            ("soon", None),
        ] {
            let time = text.parse::<UndoAfter>().ok();
            assert_eq!(time.map(|time| time.to_string()).as_deref(), expected, "{text}");
            assert_eq!(time, time.map(|time| time.to_string().parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_body_that_does_not_fit_its_verb_is_refused() {
        let ten_minutes = Some(UndoAfter(Duration::from_secs(600)));
        let request = |weight, undo_after| ActionRequest { weight, undo_after };
        for (verb, body, expected) in [
            ("weight", request(None, None), Some(RequestError::WeightMissing)),
            ("weight", request(Some(1001), None), Some(RequestError::WeightTooHigh(1001))),
            ("drain", request(Some(1), None), Some(RequestError::WeightUnused)),
            ("enable", request(Some(1), None), Some(RequestError::WeightUnused)),
            ("enable", request(None, ten_minutes), Some(RequestError::Permanent)),
            ("undrain", request(None, ten_minutes), Some(RequestError::Permanent)),
            ("explode", request(None, None), None),
            ("explode", request(Some(1), ten_minutes), None),
        ] {
            assert_eq!(Action::from_request(verb, body), expected.map(Err), "{verb} {body:?}");
        }
    }
}
