//! A world: the directed acyclic graph in which a GFlowNet builds objects, one action at a time.
//!
//! A world has no state of its own: a state is a row of integers that the caller keeps, so that thousands of trajectories are
//! built side by side. Two kinds of graph exist. In most worlds the last construction step enters the terminal object. In
//! worlds with an *exit* action every state may stop, which leads to a copy of it; the way back from the copy has probability 1.

mod bit_sequence;
mod check;
mod hyper_grid;
mod ising;
mod registry;
mod rna;
mod set;
mod strings;

pub use bit_sequence::{BitSequence, BitSequenceConfig};
pub use check::check_world;
pub use hyper_grid::{HyperGrid, HyperGridConfig};
pub use ising::{Ising, IsingConfig, Spins};
pub use registry::{WorldConfig, WorldConfigError, WorldEntry, WorldRegistry, WorldSetting};
pub use rna::{Rna, RnaConfig};
pub use set::{SetConfig, SetSize, SetWorld};
pub use strings::{Strings, StringsConfig};

use crate::EnvError;
use crate::rng::NumpyRng;

/// What a world looks like from outside; constant.
#[derive(Clone, Debug, PartialEq)]
pub struct WorldSpec {
    /// Its name in run files, `hyper_grid`.
    pub name: String,
    /// Integers of a state.
    pub state_len: usize,
    /// Numbers that a network sees of a state.
    pub encoding_len: usize,
    /// Forward actions, the exit included.
    pub num_actions: usize,
    /// Backward actions; undoing the exit is none of them.
    pub num_backward: usize,
    /// The forward action that stops, where there is one.
    pub exit: Option<usize>,
    /// Length of the longest trajectory, the exit included.
    pub max_len: usize,
    /// Number of non-copied states, where it is small enough to be told.
    pub num_states: Option<u64>,
    /// Whether every state has an [`energy`](World::energy).
    pub energies: bool,
    /// Whether rewards and energies cost more than handing them to another thread.
    pub heavy: bool,
}

/// A graph of states from an initial one to terminal objects, with rewards on these.
///
/// States are rows of [`state_len`](WorldSpec::state_len) integers. Masks come in cleared and are set where an action is legal.
pub trait World: Send + Sync {
    /// Its shape; constant.
    fn spec(&self) -> &WorldSpec;

    /// Writes the initial state.
    fn initial(&self, state: &mut [i32]);

    /// Whether the state is a terminal object.
    fn is_terminal(&self, state: &[i32]) -> bool;

    /// Marks the legal actions of a state that is not terminal, `[num_actions]`: at least one.
    fn actions(&self, state: &[i32], legal: &mut [bool]);

    /// Marks the legal backward actions, `[num_backward]`: one for every edge that enters the state, none in the initial one.
    /// Not asked of states that the exit entered.
    fn backward_actions(&self, state: &[i32], legal: &mut [bool]);

    /// Takes a legal action. Returns the backward action that undoes it, `None` for the exit.
    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize>;

    /// Takes a legal backward action, or undoes the exit (`None`). Returns the action that leads back.
    fn undo(&self, state: &mut [i32], backward: Option<usize>) -> usize;

    /// ln R(x) of a terminal object: finite.
    fn log_reward(&self, state: &[i32]) -> f64;

    /// Writes what a network sees of a state, `[encoding_len]`; the row comes in as zeros.
    fn encode(&self, state: &[i32], row: &mut [f32]);

    /// The energy E(s) of any state, with E(x) = −ln R(x) on terminal ones: asked only where [`WorldSpec::energies`] says so.
    fn energy(&self, _state: &[i32]) -> f64 {
        f64::NAN
    }

    /// Logarithm of the number of paths from the initial state, where it has a closed form: the maximum-entropy backward
    /// policy. Of a copy behind the exit it is that of the state.
    fn log_paths(&self, _state: &[i32]) -> Option<f64> {
        None
    }

    /// ln Z, where it has a closed form.
    fn log_z(&self) -> Option<f64> {
        None
    }

    /// Draws a terminal object with probability R(x)/Z, where that is cheap; returns whether it did.
    fn sample_target(&self, _rng: &mut NumpyRng, _state: &mut [i32]) -> bool {
        false
    }

    /// Probability under R/Z that each input of the encoding is 1, where it has a closed form.
    fn marginals(&self) -> Option<Vec<f64>> {
        None
    }

    /// The mode that a terminal object belongs to, if it belongs to one.
    fn mode(&self, _state: &[i32]) -> Option<u64> {
        None
    }

    /// Number of modes, where it is known.
    fn num_modes(&self) -> Option<u64> {
        None
    }

    /// Terminal objects on which probability and reward are compared, one after the other; empty where none are given.
    fn test_set(&self) -> Vec<i32> {
        Vec::new()
    }

    /// A terminal object as text.
    fn describe(&self, state: &[i32]) -> String {
        join(state)
    }
}

/// Numbers with spaces between.
fn join(numbers: &[i32]) -> String {
    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
}

impl WorldSpec {
    /// An error about this world.
    pub fn error(&self, message: impl Into<String>) -> EnvError {
        EnvError::World { name: self.name.clone(), message: message.into() }
    }
}

/// A number that tells states apart, as far as 64 bits do.
pub fn state_hash(state: &[i32]) -> u64 {
    let mut hash = 0x9e37_79b9_7f4a_7c15u64;
    for &x in state {
        hash = (hash ^ u64::from(x as u32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    }
    hash
}

/// ln n!.
pub fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    // Stirling's series; the first term left out is below 1e-15 from 32 on.
    let n = n as f64;
    let inverse = 1.0 / n;
    let series = inverse / 12.0 - inverse.powi(3) / 360.0 + inverse.powi(5) / 1260.0 - inverse.powi(7) / 1680.0;
    n * n.ln() - n + 0.5 * (2.0 * std::f64::consts::PI * n).ln() + series
}

/// ln Σ exp(x).
pub fn log_sum_exp(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = x.clone().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + x.map(|x| (x - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factorials_and_sums_by_hand() {
        assert!((ln_factorial(5) - 120f64.ln()).abs() < 1e-14);
        let long: f64 = (2..=40).map(|k| f64::from(k).ln()).sum();
        assert!((ln_factorial(40) - long).abs() < 1e-12);
        assert!((log_sum_exp([0.0, 3f64.ln()].into_iter()) - 4f64.ln()).abs() < 1e-15);
        assert_eq!(log_sum_exp(std::iter::empty::<f64>()), f64::NEG_INFINITY);
    }
}
