//! Strings over any alphabet, with rewards from a table of yours (append, or prepend and append as in Shen et al. 2023,
//! arXiv:2305.07170).
//!
//! R(x) = scale (max(v, floor)/v_max)^exponent, v the value of x in a CSV file of two columns, string and value, and v_max the
//! largest there. A string that the file does not have is worth the floor.

use std::collections::HashMap;
use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::{World, WorldConfig, WorldSpec};
use crate::EnvError;

/// Settings of [`Strings`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct StringsConfig {
    /// A CSV file: a string and its value in every line; the first line may be a header.
    pub file: PathBuf,
    /// The characters that strings are made of.
    pub alphabet: String,
    /// Characters of a finished string.
    pub length: usize,
    /// Characters go to either end; otherwise to the right one alone.
    pub prepend: bool,
    /// Least value, in the file's own unit; above 0, so that every logarithm is finite.
    pub floor: f64,
    /// Power that values are raised to.
    pub exponent: f64,
    /// The largest reward.
    pub scale: f64,
    /// Part of the largest reward from which a string is a mode.
    pub mode_above: f64,
}

impl Default for StringsConfig {
    fn default() -> StringsConfig {
        StringsConfig {
            file: PathBuf::new(),
            alphabet: "ACGT".into(),
            length: 8,
            prepend: false,
            floor: 1e-3,
            exponent: 3.0,
            scale: 10.0,
            mode_above: 0.9,
        }
    }
}

impl WorldConfig for StringsConfig {
    fn make(self) -> Result<Box<dyn World>, EnvError> {
        let wrong = |message: String| EnvError::World { name: "strings".into(), message };
        if self.file.as_os_str().is_empty() {
            return Err(wrong("`file` is missing: a CSV file with a string and its value in every line".into()));
        }
        let text = std::fs::read_to_string(&self.file).map_err(|e| wrong(format!("{}: {e}", self.file.display())))?;
        let place = self.file.display().to_string();
        let world = Strings::new(self, &text).map_err(|message| wrong(format!("{place}: {message}")))?;
        Ok(Box::new(world))
    }
}

/// Strings; a state is the characters' numbers from the left, −1 behind them, and how many there are.
pub struct Strings {
    config: StringsConfig,
    alphabet: Vec<char>,
    /// ln R of the strings of the table.
    log_reward: HashMap<Vec<i32>, f64>,
    log_floor: f64,
    spec: WorldSpec,
}

impl Strings {
    /// Strings with the values of a table in CSV.
    ///
    /// # Errors
    /// A line or a setting that does not fit, in a sentence.
    pub fn new(config: StringsConfig, table: &str) -> Result<Strings, String> {
        let alphabet: Vec<char> = config.alphabet.chars().collect();
        let (a, length) = (alphabet.len(), config.length);
        if a == 0 || length == 0 || alphabet.iter().enumerate().any(|(i, c)| alphabet[..i].contains(c)) {
            return Err(format!(
                "`alphabet = \"{}\"`, `length = {length}`: different characters, and at least 1",
                config.alphabet
            ));
        }
        for (key, value) in [("floor", config.floor), ("exponent", config.exponent), ("scale", config.scale)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(format!("`{key} = {value}`: a positive number"));
            }
        }
        if !(config.mode_above > 0.0 && config.mode_above <= 1.0) {
            return Err(format!(
                "`mode_above = {}`: a part of the largest value, above 0 and at most 1",
                config.mode_above
            ));
        }
        let mut values: Vec<(Vec<i32>, f64)> = Vec::new();
        for (i, line) in table.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (text, value) = line.split_once(',').unwrap_or((line, ""));
            let value = match value.trim().parse::<f64>() {
                Ok(value) if value.is_finite() => value,
                Err(_) if i == 0 => continue,
                _ => return Err(format!("line {}: \"{line}\" is not a string, a comma and a finite number", i + 1)),
            };
            let number = |c: char| alphabet.iter().position(|&known| known == c).map(|i| i as i32);
            let characters: Option<Vec<i32>> = text.trim().trim_matches('"').chars().map(number).collect();
            match characters.filter(|characters| characters.len() == length) {
                Some(characters) => values.push((characters, value)),
                None => {
                    return Err(format!(
                        "line {}: \"{text}\" is not {length} characters of \"{}\"",
                        i + 1,
                        config.alphabet
                    ));
                }
            }
        }
        let highest = values.iter().map(|(_, value)| value.max(config.floor)).fold(config.floor, f64::max);
        let log = |value: f64| config.scale.ln() + config.exponent * (value.max(config.floor) / highest).ln();
        let log_floor = log(config.floor);
        let log_reward = values.into_iter().map(|(text, value)| (text, log(value))).collect();
        let states = (0..=length as u32).try_fold(0u64, |sum, m| sum.checked_add((a as u64).checked_pow(m)?));
        let spec = WorldSpec {
            name: "strings".into(),
            state_len: length + 1,
            encoding_len: length * a,
            num_actions: if config.prepend { 2 * a } else { a },
            num_backward: if config.prepend { 2 } else { 1 },
            exit: None,
            max_len: length,
            num_states: states,
            energies: false,
            heavy: false,
        };
        Ok(Strings { config, alphabet, log_reward, log_floor, spec })
    }

    fn length(&self, state: &[i32]) -> usize {
        state[self.config.length] as usize
    }
}

impl World for Strings {
    fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    fn initial(&self, state: &mut [i32]) {
        state.fill(-1);
        state[self.config.length] = 0;
    }

    fn is_terminal(&self, state: &[i32]) -> bool {
        self.length(state) == self.config.length
    }

    fn actions(&self, _: &[i32], legal: &mut [bool]) {
        legal.fill(true);
    }

    /// 0 drops the last character, 1 the first: two edges, also where they lead to the same string.
    fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
        legal.fill(self.length(state) > 0);
    }

    /// The alphabet's characters to the right, then the same to the left.
    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
        let (len, a) = (self.length(state), self.alphabet.len());
        if action < a {
            state[len] = action as i32;
        } else {
            state.copy_within(0..len, 1);
            state[0] = (action - a) as i32;
        }
        state[self.config.length] += 1;
        Some(usize::from(action >= a))
    }

    fn undo(&self, state: &mut [i32], backward: Option<usize>) -> usize {
        let (last, a) = (self.length(state) - 1, self.alphabet.len());
        state[self.config.length] -= 1;
        if backward == Some(1) {
            let first = state[0] as usize;
            state.copy_within(1..=last, 0);
            state[last] = -1;
            return a + first;
        }
        std::mem::replace(&mut state[last], -1) as usize
    }

    fn log_reward(&self, state: &[i32]) -> f64 {
        self.log_reward.get(&state[..self.config.length]).copied().unwrap_or(self.log_floor)
    }

    fn encode(&self, state: &[i32], row: &mut [f32]) {
        let a = self.alphabet.len();
        for (i, &character) in state[..self.length(state)].iter().enumerate() {
            row[i * a + character as usize] = 1.0;
        }
    }

    fn log_paths(&self, state: &[i32]) -> Option<f64> {
        Some(if self.config.prepend { self.length(state) as f64 * 2f64.ln() } else { 0.0 })
    }

    fn mode(&self, state: &[i32]) -> Option<u64> {
        let least = (self.config.mode_above * self.config.scale).ln();
        (self.log_reward(state) >= least).then(|| super::state_hash(state))
    }

    fn num_modes(&self) -> Option<u64> {
        let least = (self.config.mode_above * self.config.scale).ln();
        Some(self.log_reward.values().filter(|&&log_reward| log_reward >= least).count() as u64)
    }

    fn describe(&self, state: &[i32]) -> String {
        state[..self.length(state)].iter().map(|&i| self.alphabet[i as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::check_world;

    const TABLE: &str = "string,value\naa,1\nab,2\nbb,4\n";

    fn config(prepend: bool) -> StringsConfig {
        StringsConfig {
            alphabet: "ab".into(),
            length: 2,
            prepend,
            floor: 0.5,
            exponent: 2.0,
            scale: 100.0,
            ..Default::default()
        }
    }

    #[test]
    fn values_are_floored_then_raised_and_scaled() {
        let world = Strings::new(config(false), TABLE).expect("a world");
        // 100 (v/4)²: 6.25, 25, 100; `ba` is not there and worth 100 (0.5/4)².
        for (state, reward) in [([0, 0, 2], 6.25), ([0, 1, 2], 25.0), ([1, 1, 2], 100.0), ([1, 0, 2], 1.5625)] {
            assert!((world.log_reward(&state) - f64::ln(reward)).abs() < 1e-12);
            assert_eq!(world.mode(&state).is_some(), reward == 100.0);
        }
        assert_eq!((world.num_modes(), world.spec().num_states), (Some(1), Some(7)));
    }

    #[test]
    fn masks_inverses_and_rewards_are_consistent_at_both_ends() {
        for prepend in [false, true] {
            check_world(&Strings::new(config(prepend), TABLE).expect("a world"), 40, 1).expect("a sound world");
        }
    }

    #[test]
    fn wrong_lines_are_named() {
        let said = |table| Strings::new(config(false), table).map(|_| ()).expect_err("refused");
        assert_eq!(said("aa,1\nabc,2"), "line 2: \"abc\" is not 2 characters of \"ab\"");
        assert_eq!(said("aa,1\nab,inf"), "line 2: \"ab,inf\" is not a string, a comma and a finite number");
        assert_eq!(said("aa,1\nab;2"), "line 2: \"ab;2\" is not a string, a comma and a finite number");
        let missing = StringsConfig::default().make().map(|_| ()).expect_err("refused").to_string();
        assert_eq!(missing, "world `strings`: `file` is missing: a CSV file with a string and its value in every line");
    }
}
