//! RNA strings, rewarded for folding: ln R(x) = β times the largest number of base pairs without crossings (Nussinov et al.
//! 1978), computed here.
//!
//! Pairs are A–U, C–G and G–U with at least three bases between. The same count of an unfinished string is its energy, so that
//! flows may look forward.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::{World, WorldConfig, WorldSpec};
use crate::EnvError;

/// Settings of [`Rna`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct RnaConfig {
    /// Bases of a finished string, up to 64.
    pub length: usize,
    /// β: ln R of one pair.
    pub beta: f64,
}

impl Default for RnaConfig {
    fn default() -> RnaConfig {
        RnaConfig { length: 8, beta: 2.0 }
    }
}

impl WorldConfig for RnaConfig {
    fn make(self) -> Result<Box<dyn World>, EnvError> {
        Ok(Box::new(Rna::new(self)?))
    }
}

const LONGEST: usize = 64;

/// Bases of a hairpin's loop.
const LOOP: usize = 3;

/// RNA strings, appended base by base; a state is the bases' numbers, −1 behind them, and how many there are.
pub struct Rna {
    config: RnaConfig,
    spec: WorldSpec,
}

impl Rna {
    /// Strings of a length.
    ///
    /// # Errors
    /// A length that is 0 or too long, or a β that is not finite.
    pub fn new(config: RnaConfig) -> Result<Rna, EnvError> {
        let n = config.length;
        let spec = WorldSpec {
            name: "rna".into(),
            state_len: n + 1,
            encoding_len: 4 * n,
            num_actions: 4,
            num_backward: 1,
            exit: None,
            max_len: n,
            num_states: 4u64.checked_pow(n as u32 + 1).map(|power| (power - 1) / 3),
            energies: true,
            // A fold of 24 bases takes some ten microseconds.
            heavy: n >= 24,
        };
        if n == 0 || n > LONGEST {
            return Err(spec.error(format!("`length = {n}`: between 1 and {LONGEST}")));
        }
        if !config.beta.is_finite() {
            return Err(spec.error(format!("`beta = {}`: a finite number, 2 as a rule", config.beta)));
        }
        Ok(Rna { config, spec })
    }

    fn length(&self, state: &[i32]) -> usize {
        state[self.config.length] as usize
    }
}

/// The largest number of pairs without crossings among bases 0 to 3, `ACGU`: N(i, j) is N(i + 1, j), or pairs i with some k and
/// adds what lies inside and behind.
fn pairs(bases: &[i32]) -> u8 {
    let n = bases.len();
    let mut best = [[0u8; LONGEST + 1]; LONGEST + 1];
    // `best[i][j]` is over bases i to j − 1.
    for i in (0..n).rev() {
        for j in i + 1..=n {
            let mut most = best[i + 1][j];
            for k in i + LOOP + 1..j {
                if matches!((bases[i], bases[k]), (0, 3) | (3, 0) | (1, 2) | (2, 1) | (2, 3) | (3, 2)) {
                    most = most.max(1 + best[i + 1][k] + best[k + 1][j]);
                }
            }
            best[i][j] = most;
        }
    }
    best[0][n]
}

impl World for Rna {
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

    fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
        legal[0] = self.length(state) > 0;
    }

    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
        state[self.length(state)] = action as i32;
        state[self.config.length] += 1;
        Some(0)
    }

    fn undo(&self, state: &mut [i32], _: Option<usize>) -> usize {
        state[self.config.length] -= 1;
        let last = self.length(state);
        std::mem::replace(&mut state[last], -1) as usize
    }

    fn log_reward(&self, state: &[i32]) -> f64 {
        -self.energy(state)
    }

    fn energy(&self, state: &[i32]) -> f64 {
        -self.config.beta * f64::from(pairs(&state[..self.length(state)]))
    }

    fn encode(&self, state: &[i32], row: &mut [f32]) {
        for (i, &base) in state[..self.length(state)].iter().enumerate() {
            row[4 * i + base as usize] = 1.0;
        }
    }

    fn log_paths(&self, _: &[i32]) -> Option<f64> {
        Some(0.0)
    }

    fn describe(&self, state: &[i32]) -> String {
        state[..self.length(state)].iter().map(|&base| ['A', 'C', 'G', 'U'][base as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::check_world;

    fn fold(text: &str) -> u8 {
        pairs(&text.chars().map(|c| "ACGU".find(c).expect("a base") as i32).collect::<Vec<_>>())
    }

    #[test]
    fn folds_by_hand() {
        // A loop of three is the least: AAAU has two between, AAAAU three.
        assert_eq!((fold("AAAU"), fold("AAAAU")), (0, 1));
        // Two nested pairs, (((...))), and two hairpins side by side.
        assert_eq!((fold("GGAAACC"), fold("GGGAAACCC"), fold("GAAACGAAAC")), (2, 3, 2));
        // G pairs with U too; a crossing is not counted.
        assert_eq!((fold("GAAAU"), fold("GAGAACAC"), fold("")), (1, 1, 0));
        // The same pairs the other way round, and two bases that are none.
        assert_eq!((fold("UAAAA"), fold("CAAAG"), fold("UAAAG"), fold("CAAAU")), (1, 1, 1, 0));
    }

    #[test]
    fn a_pair_is_worth_beta() {
        let world = Rna::new(RnaConfig { length: 5, beta: 2.0 }).expect("a world");
        let state = [2, 0, 0, 0, 1, 5];
        assert_eq!((world.describe(&state), world.log_reward(&state)), ("GAAAC".into(), 2.0));
    }

    #[test]
    fn masks_inverses_and_rewards_are_consistent() {
        for length in [1, 8, 30] {
            check_world(&Rna::new(RnaConfig { length, beta: 2.0 }).expect("a world"), 10, 1).expect("a sound world");
        }
    }
}
