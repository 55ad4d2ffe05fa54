//! Spins: sites that are set to −1 or +1 one after another, rewarded for agreeing.
//!
//! ln R = α Σ s_i s_j over pairs: neighbours on a torus (the Ising model), or all pairs (i, j), i = j and both orders included,
//! α (Σ s)² (torchgfn's DiscreteEBM). Unset sites count as 0 in the energy of unfinished states.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::{World, WorldConfig, WorldSpec, ln_factorial, log_sum_exp};
use crate::EnvError;

/// Settings of [`Ising`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct IsingConfig {
    /// Sites; a square number on a torus.
    pub num_sites: usize,
    /// Which sites see each other: `torus` or `complete`.
    pub graph: Spins,
    /// α: positive where neighbours are to agree.
    pub coupling: f64,
}

/// Which sites see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spins {
    /// Four neighbours each, on a square without borders.
    Torus,
    /// All of them.
    Complete,
}

impl Default for IsingConfig {
    fn default() -> IsingConfig {
        IsingConfig { num_sites: 9, graph: Spins::Torus, coupling: 0.2 }
    }
}

impl WorldConfig for IsingConfig {
    fn make(self) -> Result<Box<dyn World>, EnvError> {
        Ok(Box::new(Ising::new(self)?))
    }
}

/// Spins; a state is each site's value, 0 where it is unset, and how many are set.
pub struct Ising {
    config: IsingConfig,
    side: usize,
    spec: WorldSpec,
}

impl Ising {
    /// A world of spins.
    ///
    /// # Errors
    /// A number of sites that the graph cannot have, or a coupling that is not finite.
    pub fn new(config: IsingConfig) -> Result<Ising, EnvError> {
        let (n, side) = (config.num_sites, config.num_sites.isqrt());
        let spec = WorldSpec {
            name: "ising".into(),
            state_len: n + 1,
            encoding_len: 2 * n,
            num_actions: 2 * n,
            num_backward: n,
            exit: None,
            max_len: n,
            num_states: 3u64.checked_pow(n as u32),
            energies: true,
            heavy: false,
        };
        let fits = match config.graph {
            // Two sites on a side would be neighbours twice.
            Spins::Torus => side >= 3 && side * side == n,
            Spins::Complete => n > 0,
        };
        if !fits || n > 1 << 16 {
            return Err(spec.error(format!(
                "`num_sites = {n}`: a square number from 9 on a torus, at least 1 otherwise, at most 65536"
            )));
        }
        if !config.coupling.is_finite() {
            return Err(spec.error(format!("`coupling = {}`: a finite number, 0.2 as a rule", config.coupling)));
        }
        Ok(Ising { config, side, spec })
    }
}

impl World for Ising {
    fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    fn initial(&self, state: &mut [i32]) {
        state.fill(0);
    }

    fn is_terminal(&self, state: &[i32]) -> bool {
        state[self.config.num_sites] as usize == self.config.num_sites
    }

    /// Action 2i sets site i to −1, action 2i + 1 to +1.
    fn actions(&self, state: &[i32], legal: &mut [bool]) {
        legal.chunks_exact_mut(2).zip(state).for_each(|(legal, &spin)| legal.fill(spin == 0));
    }

    fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
        legal.iter_mut().zip(state).for_each(|(legal, &spin)| *legal = spin != 0);
    }

    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
        state[action / 2] = 2 * (action % 2) as i32 - 1;
        state[self.config.num_sites] += 1;
        Some(action / 2)
    }

    fn undo(&self, state: &mut [i32], backward: Option<usize>) -> usize {
        let site = backward.unwrap_or_default();
        state[self.config.num_sites] -= 1;
        2 * site + usize::from(std::mem::take(&mut state[site]) == 1)
    }

    fn log_reward(&self, state: &[i32]) -> f64 {
        -self.energy(state)
    }

    fn energy(&self, state: &[i32]) -> f64 {
        let (n, side) = (self.config.num_sites, self.side);
        let spins = &state[..n];
        let agreement = match self.config.graph {
            Spins::Complete => f64::from(spins.iter().sum::<i32>()).powi(2),
            Spins::Torus => (0..n)
                .map(|i| {
                    let (right, below) = (i - i % side + (i + 1) % side, (i + side) % n);
                    f64::from(spins[i] * (spins[right] + spins[below]))
                })
                .sum(),
        };
        -self.config.coupling * agreement
    }

    /// Two numbers for a site: whether it is −1, whether it is +1.
    fn encode(&self, state: &[i32], row: &mut [f32]) {
        for (row, &spin) in row.chunks_exact_mut(2).zip(state) {
            row[usize::from(spin > 0)] = f32::from(spin != 0);
        }
    }

    fn log_paths(&self, state: &[i32]) -> Option<f64> {
        Some(ln_factorial(state[self.config.num_sites] as u64))
    }

    /// On the complete graph: ln Σ_k C(n, k) exp(α (2k − n)²).
    fn log_z(&self) -> Option<f64> {
        let n = self.config.num_sites as u64;
        let term = |k: u64| {
            let sum = 2.0 * k as f64 - n as f64;
            ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k) + self.config.coupling * sum * sum
        };
        (self.config.graph == Spins::Complete).then(|| log_sum_exp((0..=n).map(term)))
    }

    fn describe(&self, state: &[i32]) -> String {
        state[..self.config.num_sites].iter().map(|&spin| ['-', '0', '+'][(spin + 1) as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::check_world;

    fn spins(num_sites: usize, graph: Spins, coupling: f64) -> Ising {
        Ising::new(IsingConfig { num_sites, graph, coupling }).expect("a world")
    }

    #[test]
    fn partition_functions_of_the_complete_graph() {
        for (n, coupling, log_z) in
            [(2, 0.1, 1.6061624330), (2, 1.0, 4.7112971085), (4, 0.1, 3.3264976294), (4, 1.0, 16.6931720947)]
        {
            let exact = spins(n, Spins::Complete, coupling).log_z().expect("a closed form");
            assert!((exact - log_z).abs() < 1e-9, "{n} {coupling}: {exact}");
        }
    }

    #[test]
    fn many_equal_spins_have_a_large_reward() {
        let world = spins(50_000, Spins::Complete, 1.0);
        assert_eq!(world.log_reward(&vec![1; 50_001]), 2.5e9);
    }

    #[test]
    fn a_torus_counts_every_bond_once() {
        // Nine sites have 18 bonds; one that disagrees with its four neighbours turns four of them.
        let world = spins(9, Spins::Torus, 0.5);
        let mut state = [1; 10];
        assert_eq!(world.energy(&state), -9.0);
        state[4] = -1;
        assert_eq!(world.energy(&state), -5.0);
        assert_eq!(world.describe(&state), "++++-++++");
    }

    #[test]
    fn masks_inverses_and_rewards_are_consistent() {
        check_world(&spins(9, Spins::Torus, 0.4), 20, 1).expect("a sound world");
        check_world(&spins(5, Spins::Complete, 0.4), 20, 1).expect("a sound world");
    }
}
