//! HyperGrid (Bengio et al. 2021, arXiv:2106.04399): walks on a grid that may stop anywhere, with modes near the corners.
//!
//! As in torchgfn and gfnx every state may stop; in the paper's first code an episode ended where any coordinate reached its
//! end, which leaves states with two such coordinates out of reach.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::{World, WorldConfig, WorldSpec, ln_factorial};
use crate::EnvError;
use crate::rng::NumpyRng;

/// Settings of [`HyperGrid`]; rewards are those of Bengio et al. 2021. Tiapkin et al. 2024 call (0.001, 0.5, 2) standard and
/// (0.0001, 1, 3) hard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct HyperGridConfig {
    /// Dimensions.
    pub ndim: usize,
    /// Cells along each dimension.
    pub height: usize,
    /// R₀: reward everywhere.
    pub r0: f64,
    /// R₁: added in the outer parts of every dimension.
    pub r1: f64,
    /// R₂: added in the modes, the bands inside these.
    pub r2: f64,
}

impl Default for HyperGridConfig {
    fn default() -> HyperGridConfig {
        HyperGridConfig { ndim: 2, height: 8, r0: 0.1, r1: 0.5, r2: 2.0 }
    }
}

impl WorldConfig for HyperGridConfig {
    fn make(self) -> Result<Box<dyn World>, EnvError> {
        Ok(Box::new(HyperGrid::new(self)?))
    }
}

/// The grid; a state is its coordinates and whether it has stopped.
pub struct HyperGrid {
    config: HyperGridConfig,
    spec: WorldSpec,
}

/// Where a coordinate lies: in the middle, in the outer part, or in the band inside that.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Middle,
    Outer,
    Band,
}

impl HyperGrid {
    /// A grid.
    ///
    /// # Errors
    /// Sizes or rewards that leave nothing to do.
    pub fn new(config: HyperGridConfig) -> Result<HyperGrid, EnvError> {
        let (d, h) = (config.ndim, config.height);
        let spec = WorldSpec {
            name: "hyper_grid".into(),
            state_len: d + 1,
            encoding_len: d * h,
            num_actions: d + 1,
            num_backward: d,
            exit: Some(d),
            max_len: d * h.saturating_sub(1) + 1,
            num_states: (h as u64).checked_pow(d as u32),
            energies: true,
            heavy: false,
        };
        if d == 0 || h < 2 || d * h > 1 << 16 {
            return Err(spec.error(format!(
                "`ndim = {d}`, `height = {h}`: at least 1 dimension of at least 2 cells, and at most 65536 in all"
            )));
        }
        for (key, value) in [("r0", config.r0), ("r1", config.r1), ("r2", config.r2)] {
            let least = key == "r0" && value <= 0.0;
            if !value.is_finite() || value < 0.0 || least {
                let rule = if key == "r0" { "a positive number" } else { "at least 0" };
                return Err(spec.error(format!("`{key} = {value}`: {rule}, so that every logarithm is finite")));
            }
        }
        Ok(HyperGrid { config, spec })
    }

    /// |x/(H−1) − ½| above ¼ is outer, between 0.3 and 0.4 the band; in integers, where no rounding decides.
    fn part(&self, x: usize) -> Part {
        let n = self.config.height - 1;
        let twice = (2 * x).abs_diff(n);
        match () {
            _ if 3 * n < 5 * twice && 5 * twice < 4 * n => Part::Band,
            _ if 2 * twice > n => Part::Outer,
            _ => Part::Middle,
        }
    }

    fn coordinates<'a>(&self, state: &'a [i32]) -> impl Iterator<Item = usize> + Clone + 'a {
        state[..self.config.ndim].iter().map(|&x| x as usize)
    }

    /// R(s), of any state.
    pub fn reward(&self, state: &[i32]) -> f64 {
        let parts = || self.coordinates(state).map(|x| self.part(x));
        let HyperGridConfig { r0, r1, r2, .. } = self.config;
        let outer = parts().all(|part| part != Part::Middle);
        let band = parts().all(|part| part == Part::Band);
        r0 + if outer { r1 } else { 0.0 } + if band { r2 } else { 0.0 }
    }

    /// ln of what each term of the reward adds to Z; powers of many dimensions have no number of their own.
    fn log_masses(&self) -> [f64; 3] {
        let ((outer, band), d) = (self.counts(), self.config.ndim as f64);
        let HyperGridConfig { height, r0, r1, r2, .. } = self.config;
        [(height as f64, r0), (outer, r1), (band, r2)].map(|(cells, r)| d * cells.ln() + r.ln())
    }

    /// Coordinates of one dimension in the outer part, and in the band.
    fn counts(&self) -> (f64, f64) {
        let parts = (0..self.config.height).map(|x| self.part(x));
        let outer = parts.clone().filter(|&part| part != Part::Middle).count();
        (outer as f64, parts.filter(|&part| part == Part::Band).count() as f64)
    }
}

impl World for HyperGrid {
    fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    fn initial(&self, state: &mut [i32]) {
        state.fill(0);
    }

    fn is_terminal(&self, state: &[i32]) -> bool {
        state[self.config.ndim] == 1
    }

    fn actions(&self, state: &[i32], legal: &mut [bool]) {
        for (x, legal) in self.coordinates(state).zip(&mut *legal) {
            *legal = x + 1 < self.config.height;
        }
        legal[self.config.ndim] = true;
    }

    fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
        self.coordinates(state).zip(legal).for_each(|(x, legal)| *legal = x > 0);
    }

    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
        state[action] += 1;
        (action < self.config.ndim).then_some(action)
    }

    fn undo(&self, state: &mut [i32], backward: Option<usize>) -> usize {
        let action = backward.unwrap_or(self.config.ndim);
        state[action] -= 1;
        action
    }

    fn log_reward(&self, state: &[i32]) -> f64 {
        self.reward(state).ln()
    }

    fn encode(&self, state: &[i32], row: &mut [f32]) {
        self.coordinates(state).enumerate().for_each(|(i, x)| row[i * self.config.height + x] = 1.0);
    }

    fn energy(&self, state: &[i32]) -> f64 {
        -self.log_reward(state)
    }

    /// Multinomial: (Σ xᵢ)! / Π xᵢ!.
    fn log_paths(&self, state: &[i32]) -> Option<f64> {
        let x = self.coordinates(state);
        Some(ln_factorial(x.clone().sum::<usize>() as u64) - x.map(|x| ln_factorial(x as u64)).sum::<f64>())
    }

    fn log_z(&self) -> Option<f64> {
        Some(super::log_sum_exp(self.log_masses().into_iter()))
    }

    /// The reward is a mixture of three uniform distributions on boxes.
    fn sample_target(&self, rng: &mut NumpyRng, state: &mut [i32]) -> bool {
        let height = self.config.height;
        let log_mass = self.log_masses();
        let mass = log_mass.map(|log| (log - super::log_sum_exp(log_mass.into_iter())).exp());
        let mut u = rng.double() * mass.iter().sum::<f64>();
        let mut kind = 0;
        while kind < 2 && u >= mass[kind] {
            u -= mass[kind];
            kind += 1;
        }
        let fits = |x: usize| match kind {
            0 => true,
            1 => self.part(x) != Part::Middle,
            _ => self.part(x) == Part::Band,
        };
        for x in &mut state[..self.config.ndim] {
            *x = loop {
                let drawn = rng.below(height);
                if fits(drawn) {
                    break drawn as i32;
                }
            };
        }
        state[self.config.ndim] = 1;
        true
    }

    /// Cells of the bands, one by one.
    fn mode(&self, state: &[i32]) -> Option<u64> {
        let x = self.coordinates(state);
        let cell = || match self.spec.num_states {
            Some(_) => x.clone().fold(0u64, |cell, x| cell * self.config.height as u64 + x as u64),
            None => super::state_hash(&state[..self.config.ndim]),
        };
        x.clone().all(|x| self.part(x) == Part::Band).then(cell)
    }

    fn num_modes(&self) -> Option<u64> {
        (self.counts().1 as u64).checked_pow(self.config.ndim as u32)
    }

    fn describe(&self, state: &[i32]) -> String {
        super::join(&state[..self.config.ndim])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::check_world;

    fn grid(ndim: usize, height: usize, r0: f64, r1: f64, r2: f64) -> HyperGrid {
        HyperGrid::new(HyperGridConfig { ndim, height, r0, r1, r2 }).expect("a grid")
    }

    #[test]
    fn partition_functions_and_modes_of_the_usual_grids() {
        // Z = H^d R0 + n_outer^d R1 + n_band^d R2.
        for (d, h, rewards, z, modes) in [
            (2, 4, (0.1, 0.5, 2.0), 3.6, 0),
            (2, 8, (0.1, 0.5, 2.0), 22.4, 4),
            (2, 8, (1e-3, 0.5, 2.0), 16.064, 4),
            (2, 16, (0.1, 0.5, 2.0), 65.6, 4),
            (2, 32, (0.1, 0.5, 2.0), 302.4, 36),
            (2, 64, (0.1, 0.5, 2.0), 1209.6, 144),
            (4, 8, (0.1, 0.5, 2.0), 569.6, 16),
            (4, 20, (1e-3, 0.5, 2.0), 5672.0, 256),
            (4, 20, (1e-4, 1.0, 3.0), 10784.0, 256),
            (8, 10, (1e-3, 0.5, 2.0), 940_320.0, 256),
            // Cells exactly at ¼ are in the middle, and those exactly at 0.3 and at 0.4 in the outer part.
            (1, 9, (0.1, 0.5, 2.0), 0.9 + 4.0 * 0.5 + 2.0 * 2.0, 2),
            (1, 11, (0.1, 0.5, 2.0), 1.1 + 6.0 * 0.5, 0),
        ] {
            let world = grid(d, h, rewards.0, rewards.1, rewards.2);
            let log_z = world.log_z().expect("a closed form");
            assert!((log_z.exp() / z - 1.0).abs() < 1e-12, "{d} {h}: {}", log_z.exp());
            assert_eq!(world.num_modes(), Some(modes));
        }
    }

    #[test]
    fn grids_of_many_dimensions_have_a_partition_function_modes_and_target_samples() {
        // 8^400 has no number of its own, nor has a cell its index from 22 dimensions on.
        let world = grid(400, 8, 1e-3, 0.5, 2.0);
        let log_z = world.log_z().expect("a closed form");
        // Z/R0 = 8^400 + 500 · 4^400 + 2000 · 2^400: the rest is below 1e-100.
        assert!((log_z - (400.0 * 8f64.ln() + 1e-3f64.ln())).abs() < 1e-9, "{log_z}");
        let (mut rng, mut state) = (NumpyRng::new(1), vec![0; 401]);
        assert!(world.sample_target(&mut rng, &mut state));
        assert!(state[..400].iter().any(|&x| world.part(x as usize) == Part::Middle));
        let corner = |first: i32| {
            let mut state = vec![1; 401];
            state[0] = first;
            world.mode(&state).expect("a cell of the bands")
        };
        assert_ne!(corner(1), corner(6));
    }

    #[test]
    fn rewards_are_highest_in_the_bands_near_the_corners() {
        let world = grid(2, 8, 0.1, 0.5, 2.0);
        for ([x, y], reward) in
            [([0, 0], 0.6), ([1, 1], 2.6), ([1, 6], 2.6), ([1, 0], 0.6), ([2, 1], 0.1), ([3, 4], 0.1)]
        {
            assert!((world.reward(&[x, y, 0]) - reward).abs() < 1e-15, "{x} {y}");
            assert_eq!(world.mode(&[x, y, 1]).is_some(), reward > 2.0);
        }
    }

    #[test]
    fn masks_inverses_and_rewards_are_consistent() {
        for (d, h) in [(1, 2), (2, 4), (3, 5)] {
            check_world(&grid(d, h, 0.1, 0.5, 2.0), 50, 1).expect("a sound world");
        }
    }

    #[test]
    fn target_samples_have_the_right_mean_reward() {
        // E[R] = Σ R²/Z = 1.42143 on the 2 x 8 grid; one sample's deviation is below 1.3.
        let (world, mut rng, mut state) = (grid(2, 8, 0.1, 0.5, 2.0), NumpyRng::new(1), [0; 3]);
        let mut sum = 0.0;
        for _ in 0..10_000 {
            assert!(world.sample_target(&mut rng, &mut state));
            sum += world.reward(&state);
        }
        assert!((sum / 1e4 - 1.42143).abs() < 0.04, "{}", sum / 1e4);
    }

    #[test]
    fn rewards_that_have_no_logarithm_are_refused() {
        let refused = HyperGrid::new(HyperGridConfig { r0: 0.0, ..Default::default() }).map(|_| ());
        let said = refused.expect_err("refused").to_string();
        assert_eq!(said, "world `hyper_grid`: `r0 = 0`: a positive number, so that every logarithm is finite");
    }
}
