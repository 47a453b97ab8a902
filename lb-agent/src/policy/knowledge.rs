//! What was learned, as JSON that survives a restart and can be carried to another balancer. What comes in is held to what the
//! estimator could have learned itself; the rest is refused, backend by backend.

use std::collections::BTreeMap;

use lb_common::price::BUCKETS;
use serde::{Deserialize, Serialize};

use super::PolicyKind;
use super::estimator::Model;

/// Of the format.
const VERSION: u32 = 1;
/// Larger texts are not read.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// ln of seconds: from a tenth of a microsecond to six minutes.
const LEVELS: std::ops::RangeInclusive<f64> = -16.0..=6.0;
const SHAPES: std::ops::RangeInclusive<f64> = -12.0..=16.0;
const MASSES: std::ops::RangeInclusive<f64> = 0.0..=100.0;

/// Everything of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knowledge {
    pub version: u32,
    pub policy: PolicyKind,
    /// In the order of the pool.
    pub backends: Vec<String>,
    /// Delay by occupancy of those that are known, by name.
    pub learned: BTreeMap<String, Learned>,
    /// The policy's own, beside the estimator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<serde_json::Value>,
}

/// Of one backend: `ln Q(n) = level + shape(n)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learned {
    pub level: f64,
    pub shape: Vec<f64>,
    /// Evidence by bucket of occupancy.
    pub mass: Vec<f64>,
}

/// What came of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    pub backends: usize,
    /// Backends of other pools, values out of bounds, states that do not fit.
    pub refused: usize,
}

impl Knowledge {
    pub(super) fn new(
        policy: PolicyKind,
        names: Vec<String>,
        models: &[Model],
        own: Option<serde_json::Value>,
    ) -> Self {
        let known = names.iter().zip(models).filter(|(_, model)| model.known);
        let learned = known.map(|(name, model)| (name.clone(), Learned::of(model))).collect();
        Self { version: VERSION, policy, backends: names, learned, own }
    }

    /// Reads a text of any origin.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("the text has {} bytes: up to {MAX_BYTES} are read", text.len()));
        }
        let knowledge: Self = serde_json::from_str(text).map_err(|error| format!("not what was exported: {error}"))?;
        if knowledge.version != VERSION {
            return Err(format!("version {} is not known: export it again with this version", knowledge.version));
        }
        Ok(knowledge)
    }
}

impl Learned {
    fn of(model: &Model) -> Self {
        Self { level: model.level, shape: model.shape.to_vec(), mass: model.mass.to_vec() }
    }

    /// Puts it into a model if all of it can be true. It is older than what the model will see: the level may have moved, and
    /// the shape counts half.
    pub(super) fn teach(&self, model: &mut Model) -> bool {
        let all = |values: &[f64], range: &std::ops::RangeInclusive<f64>| {
            values.len() == BUCKETS && values.iter().all(|value| range.contains(value))
        };
        if !LEVELS.contains(&self.level) || !all(&self.shape, &SHAPES) || !all(&self.mass, &MASSES) {
            return false;
        }
        model.level = self.level;
        model.variance = 1.0;
        model.shape.copy_from_slice(&self.shape);
        for (mass, saved) in model.mass.iter_mut().zip(&self.mass) {
            *mass = 0.5 * saved;
        }
        model.known = true;
        true
    }
}
