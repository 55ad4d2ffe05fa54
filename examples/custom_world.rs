//! A world from outside: balanced parentheses, rewarded for how deep they nest, in one file, with the whole command line and
//! every GFlowNet.
//!
//! ```text
//! cargo run --release --example custom_world -- train examples/parentheses.toml
//! cargo run --release --example custom_world -- sample runs/db-parentheses-s1 --n 20
//! ```

use std::process::ExitCode;

use bregman::envs::EnvError;
use bregman::envs::world::{World, WorldConfig, WorldEntry, WorldSpec};
use bregman::{Bregman, cli};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    let mut bregman = Bregman::default();
    bregman
        .envs
        .worlds
        .add(WorldEntry::of::<ParenthesesConfig>("parentheses", "balanced parentheses that nest deeply"));
    cli::run(bregman)
}

/// Settings of [`Parentheses`]: the run file's table `[world.parentheses]`.
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
struct ParenthesesConfig {
    /// Pairs of parentheses.
    pairs: usize,
    /// ln R for each level of depth.
    beta: f64,
}

impl Default for ParenthesesConfig {
    fn default() -> ParenthesesConfig {
        ParenthesesConfig { pairs: 6, beta: 1.0 }
    }
}

impl WorldConfig for ParenthesesConfig {
    fn make(self) -> Result<Box<dyn World>, EnvError> {
        let length = 2 * self.pairs;
        let spec = WorldSpec {
            name: "parentheses".into(),
            state_len: length + 1,
            encoding_len: 2 * length,
            num_actions: 2,
            num_backward: 1,
            exit: None,
            max_len: length,
            // An upper bound will do: with more than `exact_states` the evaluation does not enumerate.
            num_states: (length < 60).then(|| (2 << length) - 1),
            energies: true,
            heavy: false,
        };
        if self.pairs == 0 {
            return Err(spec.error("`pairs = 0`: at least 1"));
        }
        Ok(Box::new(Parentheses { config: self, spec }))
    }
}

/// Strings that are written from the left; a state is 1 for `(`, −1 for `)`, 0 behind them, and how many there are.
struct Parentheses {
    config: ParenthesesConfig,
    spec: WorldSpec,
}

impl Parentheses {
    fn written<'a>(&self, state: &'a [i32]) -> &'a [i32] {
        &state[..state[self.spec.max_len] as usize]
    }

    /// How many are open at the end, and the most that were ever open.
    fn depth(&self, state: &[i32]) -> (i32, i32) {
        self.written(state).iter().fold((0, 0), |(open, most), &step| (open + step, most.max(open + step)))
    }
}

impl World for Parentheses {
    fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    fn initial(&self, state: &mut [i32]) {
        state.fill(0);
    }

    fn is_terminal(&self, state: &[i32]) -> bool {
        self.written(state).len() == self.spec.max_len
    }

    /// Action 0 opens, action 1 closes.
    fn actions(&self, state: &[i32], legal: &mut [bool]) {
        let (open, _) = self.depth(state);
        let left = self.spec.max_len - self.written(state).len();
        legal[0] = (open as usize) < left;
        legal[1] = open > 0;
    }

    fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
        legal[0] = !self.written(state).is_empty();
    }

    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
        let end = self.written(state).len();
        state[end] = 1 - 2 * action as i32;
        state[self.spec.max_len] += 1;
        Some(0)
    }

    fn undo(&self, state: &mut [i32], _: Option<usize>) -> usize {
        state[self.spec.max_len] -= 1;
        let end = self.written(state).len();
        usize::from(std::mem::take(&mut state[end]) < 0)
    }

    fn log_reward(&self, state: &[i32]) -> f64 {
        -self.energy(state)
    }

    /// The same for unfinished strings: flows may look forward.
    fn energy(&self, state: &[i32]) -> f64 {
        -self.config.beta * f64::from(self.depth(state).1)
    }

    fn encode(&self, state: &[i32], row: &mut [f32]) {
        for (row, &step) in row.chunks_exact_mut(2).zip(self.written(state)) {
            row[usize::from(step < 0)] = 1.0;
        }
    }

    fn describe(&self, state: &[i32]) -> String {
        self.written(state).iter().map(|&step| if step > 0 { '(' } else { ')' }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_inverses_and_energies_are_consistent() {
        let world = ParenthesesConfig::default().make().expect("a world");
        bregman::envs::world::check_world(world.as_ref(), 50, 1).expect("a sound world");
    }
}
