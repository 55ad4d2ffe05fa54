//! What an agent may do: the action spaces.

use serde::{Deserialize, Serialize};

/// The actions an environment takes. An action is a row of `f32` throughout the library: real numbers for a box,
/// category indices (exact in `f32`) for the discrete spaces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionSpace {
    /// Real vectors between `low` and `high`, element by element; bounds may be infinite.
    Box {
        /// Lower bounds, `[act_dim]`.
        low: Vec<f32>,
        /// Upper bounds, `[act_dim]`.
        high: Vec<f32>,
    },
    /// One of `n` choices, `0..n`.
    Discrete {
        /// Number of choices.
        n: usize,
    },
    /// Several choices at once, choice `i` in `0..nvec[i]`.
    MultiDiscrete {
        /// Number of choices of each component.
        nvec: Vec<usize>,
    },
}

impl ActionSpace {
    /// Length of an action row: the dimension of a box, 1 for `Discrete`, the number of components for `MultiDiscrete`.
    pub fn row_len(&self) -> usize {
        match self {
            ActionSpace::Box { low, .. } => low.len(),
            ActionSpace::Discrete { .. } => 1,
            ActionSpace::MultiDiscrete { nvec } => nvec.len(),
        }
    }

    /// Whether a row is an action: its length, and that a choice is one of those there are. The bounds of a box are the
    /// environment's affair.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would do.
    pub fn check(&self, action: &[f32]) -> Result<(), String> {
        if action.len() != self.row_len() {
            return Err(format!("the action has {} numbers; it takes {}", action.len(), self.row_len()));
        }
        let one_of = |choice: f32, n: usize| (0..n).any(|known| known as f32 == choice);
        match self {
            ActionSpace::Discrete { n } if !one_of(action[0], *n) => {
                Err(format!("the action is {}; it must be one of 0 to {}", action[0], n - 1))
            }
            ActionSpace::MultiDiscrete { nvec } => match (0..nvec.len()).find(|&i| !one_of(action[i], nvec[i])) {
                Some(i) => Err(format!("choice {i} is {}; it must be one of 0 to {}", action[i], nvec[i] - 1)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Moves an action row into the bounds; discrete rows are left as they are.
    pub fn clip(&self, action: &mut [f32]) {
        if let ActionSpace::Box { low, high } = self {
            for ((a, &l), &h) in action.iter_mut().zip(low).zip(high) {
                *a = a.clamp(l, h);
            }
        }
    }

    /// Draws an action uniformly; where a bound is infinite, from a standard normal (both) or an exponential tail (one).
    pub fn sample(&self, rng: &mut crate::rng::NumpyRng, action: &mut [f32]) {
        match self {
            ActionSpace::Box { low, high } => {
                for ((a, &l), &h) in action.iter_mut().zip(low).zip(high) {
                    *a = match (l.is_finite(), h.is_finite()) {
                        (true, true) => rng.uniform(l.into(), h.into()) as f32,
                        (true, false) => l - (1.0 - rng.double()).ln() as f32,
                        (false, true) => h + (1.0 - rng.double()).ln() as f32,
                        (false, false) => rng.standard_normal() as f32,
                    };
                }
            }
            ActionSpace::Discrete { n } => action[0] = rng.below(*n) as f32,
            ActionSpace::MultiDiscrete { nvec } => {
                for (a, &n) in action.iter_mut().zip(nvec) {
                    *a = rng.below(n) as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_no_action_is_refused() {
        let check = |space: &ActionSpace, row: &[f32]| space.check(row).err().unwrap_or_default();
        let space = ActionSpace::Discrete { n: 2 };
        assert_eq!(check(&space, &[1.0]), "");
        assert_eq!(check(&space, &[2.0]), "the action is 2; it must be one of 0 to 1");
        assert_eq!(check(&space, &[0.5]), "the action is 0.5; it must be one of 0 to 1");
        assert_eq!(check(&space, &[0.0, 1.0]), "the action has 2 numbers; it takes 1");
        let space = ActionSpace::MultiDiscrete { nvec: vec![2, 3] };
        assert_eq!(check(&space, &[1.0, 2.0]), "");
        assert_eq!(check(&space, &[2.0, 2.0]), "choice 0 is 2; it must be one of 0 to 1");
        assert_eq!(check(&space, &[0.0, f32::NAN]), "choice 1 is NaN; it must be one of 0 to 2");
        let space = ActionSpace::Box { low: vec![-1.0], high: vec![1.0] };
        assert_eq!(check(&space, &[7.0]), "");
        assert_eq!(check(&space, &[]), "the action has 0 numbers; it takes 1");
    }

    #[test]
    fn a_box_with_one_bound_is_sampled_from_an_exponential_tail() {
        let space = ActionSpace::Box { low: vec![0.0, f32::NEG_INFINITY], high: vec![f32::INFINITY, 0.0] };
        let (mut rng, mut action, mut sums) = (crate::rng::NumpyRng::new(2), [0.0f32; 2], [0.0f64; 2]);
        for _ in 0..10_000 {
            space.sample(&mut rng, &mut action);
            assert!(action[0] >= 0.0 && action[1] <= 0.0, "{action:?}");
            sums.iter_mut().zip(action).for_each(|(sum, a)| *sum += f64::from(a));
        }
        // Means 1 and -1, each with an error of 0.01.
        assert!((sums[0] / 1e4 - 1.0).abs() < 0.04 && (sums[1] / 1e4 + 1.0).abs() < 0.04, "{sums:?}");
    }
}
