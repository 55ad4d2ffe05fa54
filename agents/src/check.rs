//! Rules for settings, for [`AgentConfig::validate`](crate::registry::AgentConfig::validate).

use crate::learner::LearnError;

/// Refuses `key = value` by a rule, unless `ok`.
pub fn rule(ok: bool, key: &str, value: impl ToString, rule: &str) -> Result<(), LearnError> {
    match ok {
        true => Ok(()),
        false => Err(LearnError::Config { key: key.into(), value: value.to_string(), rule: rule.into() }),
    }
}

/// A count of at least 1.
pub fn count(key: &str, value: usize) -> Result<(), LearnError> {
    rule(value > 0, key, value, "at least 1")
}

/// A finite number above 0.
pub fn positive(key: &str, value: f64, usual: &str) -> Result<(), LearnError> {
    rule(value > 0.0 && value.is_finite(), key, value, &format!("a positive number, {usual} as a rule"))
}

/// A finite number, at least 0.
pub fn weight(key: &str, value: f64, usual: &str) -> Result<(), LearnError> {
    rule(value >= 0.0 && value.is_finite(), key, value, &format!("at least 0, {usual} as a rule"))
}

/// A number in [0, 1]; `what` says of what kind: `a discount lies`.
pub fn fraction(key: &str, value: f64, what: &str) -> Result<(), LearnError> {
    rule((0.0..=1.0).contains(&value), key, value, &format!("{what} lies in [0, 1]"))
}

/// A finite number.
pub fn finite(key: &str, value: f64, usual: &str) -> Result<(), LearnError> {
    rule(value.is_finite(), key, value, &format!("a finite number, {usual} as a rule"))
}

/// A finite number above 0, or none.
pub fn positive_or_none(key: &str, value: Option<f64>) -> Result<(), LearnError> {
    let ok = value.is_none_or(|value| value > 0.0 && value.is_finite());
    rule(ok, key, value.unwrap_or_default(), "a positive number, or \"none\"")
}

/// Widths of hidden layers.
pub fn widths(key: &str, value: &[usize]) -> Result<(), LearnError> {
    rule(value.iter().all(|&w| w > 0), key, format!("{value:?}"), "widths of at least 1, as [256, 256]")
}
