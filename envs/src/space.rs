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
