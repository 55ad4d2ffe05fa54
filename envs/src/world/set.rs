//! Set generation (Pan et al. 2023, arXiv:2302.01687): choose K of U elements whose energies add up.
//!
//! Everything about it has a closed form by elementary symmetric polynomials e_k of the weights w = exp(−energy), even where
//! there are 10²⁰ objects: Z = e_K(w), and under the uniform backward policy, with |s| = m,
//! F(s) = R(s) e_{K−m}(U∖s) / C(K, m). Energies, sizes and thresholds are those of the authors' released code.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::{World, WorldConfig, WorldSpec, ln_factorial, state_hash};
use crate::EnvError;
use crate::rng::NumpyRng;

/// Settings of [`SetWorld`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct SetConfig {
    /// `small` (20 of 30 elements), `medium` (60 of 80) or `large` (80 of 100).
    pub size: SetSize,
}

/// The three sizes with their energies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetSize {
    /// 20 of 30; modes have R above 0.25.
    #[default]
    Small,
    /// 60 of 80; modes have R above 7e5.
    Medium,
    /// 80 of 100; modes have R above 7e5.
    Large,
}

impl WorldConfig for SetConfig {
    fn make(self) -> Result<Box<dyn World>, EnvError> {
        Ok(Box::new(SetWorld::sized(self.size)))
    }
}

/// Ten energies, and for each element which of them it has.
type Energies = ([f64; 10], &'static str);

const SMALL: Energies = (
    [
        0.6961474461702144,
        0.883494921538938,
        -0.2745059751263419,
        0.7442282139370466,
        -0.40046449111789073,
        0.6261749162235306,
        -0.4381397850674522,
        0.4110535720923896,
        0.8206350287761408,
        0.013149744911117978,
    ],
    "012133456768090794613255848279",
);
const MEDIUM: Energies = (
    [
        -0.5230497555411129,
        0.5731802451199923,
        0.6881812517688572,
        -0.7866830411595669,
        -0.41860806745880197,
        0.7396350970666805,
        0.6009291618806774,
        -0.7837872949891345,
        -0.3855205729595568,
        0.2961218224370139,
    ],
    "01234515362077436480049267931984075464909207292112880197452856736153936615853887",
);
const LARGE: Energies = (
    [
        -0.15382957507887518,
        -0.8596854107736154,
        0.13832182722858843,
        -0.4589997720511263,
        0.9244538380742333,
        -0.5938789622812419,
        0.7326989860019331,
        0.3925029176153736,
        0.7231982581431591,
        -0.5596177369051512,
    ],
    "0011234356786145529691248005424707331219212648283065594881637567439075052691094731683997782088956374",
);

/// Sets of a fixed size; a state is which elements are in, and how many.
pub struct SetWorld {
    energies: Vec<f64>,
    choose: usize,
    /// ln R above which an object is a mode, and how many such objects there are, where that is known.
    mode_above: Option<(f64, u64)>,
    /// e_k of the weights from element `i` on, at `i (choose + 1) + k`.
    symmetric: Vec<f64>,
    spec: WorldSpec,
}

impl SetWorld {
    /// One of the three published sizes.
    pub fn sized(size: SetSize) -> SetWorld {
        // How many objects lie above the threshold was counted by enumerating compositions over the ten energies.
        let ((values, index), choose, threshold, modes) = match size {
            SetSize::Small => (SMALL, 20, 0.25f64, 90),
            SetSize::Medium => (MEDIUM, 60, 7e5, 1_310_386),
            SetSize::Large => (LARGE, 80, 7e5, 1_805_756),
        };
        let energies = index.bytes().map(|digit| values[usize::from(digit - b'0')]).collect();
        SetWorld { mode_above: Some((threshold.ln(), modes)), ..SetWorld::new(energies, choose) }
    }

    /// Sets of `choose` of the elements, at least 1 and at most all.
    pub fn new(energies: Vec<f64>, choose: usize) -> SetWorld {
        let n = energies.len();
        assert!(0 < choose && choose <= n, "{choose} of {n}");
        let spec = WorldSpec {
            name: "set".into(),
            state_len: n + 1,
            encoding_len: n,
            num_actions: n,
            num_backward: n,
            exit: None,
            max_len: choose,
            num_states: (n < 40).then(|| (0..=choose).map(|m| choices(n, m)).sum()),
            energies: true,
            heavy: false,
        };
        let width = choose + 1;
        let mut symmetric = vec![0.0; (n + 1) * width];
        symmetric[n * width] = 1.0;
        for i in (0..n).rev() {
            let weight = (-energies[i]).exp();
            for k in 0..width {
                let with = if k > 0 { weight * symmetric[(i + 1) * width + k - 1] } else { 0.0 };
                symmetric[i * width + k] = symmetric[(i + 1) * width + k] + with;
            }
        }
        SetWorld { energies, choose, mode_above: None, symmetric, spec }
    }

    /// Energy of each element.
    pub fn energies(&self) -> &[f64] {
        &self.energies
    }

    /// Elements of a finished set.
    pub fn choose(&self) -> usize {
        self.choose
    }

    /// e_k of the weights of the elements that are not in the state.
    pub fn symmetric_of_rest(&self, state: &[i32], k: usize) -> f64 {
        let mut e = vec![0.0; k + 1];
        e[0] = 1.0;
        for (energy, _) in self.energies.iter().zip(state).filter(|&(_, &there)| there == 0) {
            let weight = (-energy).exp();
            for j in (1..=k).rev() {
                e[j] += weight * e[j - 1];
            }
        }
        e[k]
    }

    /// Probability under the target that each element is in: wᵢ e_{K−1}(U∖i)/Z.
    pub fn inclusion(&self) -> Vec<f64> {
        let n = self.energies.len();
        let z = self.symmetric[self.choose];
        let with = |i: usize| {
            let mut only = vec![0; n + 1];
            only[i] = 1;
            (-self.energies[i]).exp() * self.symmetric_of_rest(&only, self.choose - 1) / z
        };
        (0..n).map(with).collect()
    }
}

/// n over k, for numbers that fit.
fn choices(n: usize, k: usize) -> u64 {
    (0..k.min(n - k)).fold(1, |c, i| c * (n - i) as u64 / (i as u64 + 1))
}

impl World for SetWorld {
    fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    fn initial(&self, state: &mut [i32]) {
        state.fill(0);
    }

    fn is_terminal(&self, state: &[i32]) -> bool {
        state[self.energies.len()] as usize == self.choose
    }

    fn actions(&self, state: &[i32], legal: &mut [bool]) {
        legal.iter_mut().zip(state).for_each(|(legal, &there)| *legal = there == 0);
    }

    fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
        legal.iter_mut().zip(state).for_each(|(legal, &there)| *legal = there == 1);
    }

    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
        state[action] = 1;
        state[self.energies.len()] += 1;
        Some(action)
    }

    fn undo(&self, state: &mut [i32], backward: Option<usize>) -> usize {
        let element = backward.unwrap_or_default();
        state[element] = 0;
        state[self.energies.len()] -= 1;
        element
    }

    fn log_reward(&self, state: &[i32]) -> f64 {
        -self.energy(state)
    }

    fn energy(&self, state: &[i32]) -> f64 {
        self.energies.iter().zip(state).map(|(energy, &there)| energy * f64::from(there)).sum()
    }

    fn encode(&self, state: &[i32], row: &mut [f32]) {
        row.iter_mut().zip(state).for_each(|(x, &there)| *x = there as f32);
    }

    /// m!: the elements may have come in any order.
    fn log_paths(&self, state: &[i32]) -> Option<f64> {
        Some(ln_factorial(state[self.energies.len()] as u64))
    }

    fn log_z(&self) -> Option<f64> {
        Some(self.symmetric[self.choose].ln())
    }

    /// Element by element: in with probability wᵢ e_{k−1}(later) / e_k(this and later), k the places left.
    fn sample_target(&self, rng: &mut NumpyRng, state: &mut [i32]) -> bool {
        let (n, width) = (self.energies.len(), self.choose + 1);
        let mut left = self.choose;
        for (i, there) in state[..n].iter_mut().enumerate() {
            let with = match left {
                0 => 0.0,
                _ => (-self.energies[i]).exp() * self.symmetric[(i + 1) * width + left - 1],
            };
            let inside = with > 0.0 && rng.double() * self.symmetric[i * width + left] < with;
            *there = inside.into();
            left -= usize::from(inside);
        }
        state[n] = self.choose as i32;
        true
    }

    fn marginals(&self) -> Option<Vec<f64>> {
        Some(self.inclusion())
    }

    fn mode(&self, state: &[i32]) -> Option<u64> {
        let (threshold, _) = self.mode_above?;
        (self.log_reward(state) > threshold).then(|| state_hash(state))
    }

    fn num_modes(&self) -> Option<u64> {
        self.mode_above.map(|(_, modes)| modes)
    }

    fn describe(&self, state: &[i32]) -> String {
        let there = (0..self.energies.len()).filter(|&i| state[i] == 1).map(|i| i as i32);
        super::join(&there.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::check_world;

    #[test]
    fn partition_functions_of_the_three_sizes() {
        for (size, log_z) in [(SetSize::Small, 11.892389), (SetSize::Medium, 45.378950), (SetSize::Large, 48.391947)] {
            let exact = SetWorld::sized(size).log_z().expect("a closed form");
            assert!((exact - log_z).abs() < 5e-7, "{size:?}: {exact}");
        }
        // Four elements of weights 1 to 4: the pairs weigh 2 + 3 + 4 + 6 + 8 + 12 = 35.
        let four = SetWorld::new([1.0, 2.0, 3.0, 4.0].map(|w: f64| -w.ln()).to_vec(), 2);
        assert!((four.log_z().expect("a closed form") - 35f64.ln()).abs() < 1e-14);
        assert_eq!(four.spec().num_states, Some(1 + 4 + 6));
    }

    #[test]
    fn elements_of_lower_energy_are_in_more_often() {
        // By distinct energy, lowest first; computed from the same polynomials in Python.
        for (size, expected) in [
            (
                SetSize::Small,
                [0.819262, 0.813480, 0.793091, 0.740342, 0.653892, 0.601759, 0.584200, 0.572001, 0.552434, 0.536206],
            ),
            (
                SetSize::Medium,
                [0.879470, 0.879161, 0.848334, 0.834265, 0.829593, 0.709420, 0.648204, 0.641745, 0.621100, 0.608708],
            ),
            (
                SetSize::Large,
                [0.916391, 0.893498, 0.890172, 0.879871, 0.843385, 0.800375, 0.756120, 0.689202, 0.687134, 0.643853],
            ),
        ] {
            let world = SetWorld::sized(size);
            let mut pairs: Vec<(f64, f64)> = world.energies().iter().copied().zip(world.inclusion()).collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            pairs.dedup_by(|a, b| a.0 == b.0);
            assert_eq!(pairs.len(), 10);
            for ((_, inclusion), expected) in pairs.iter().zip(expected) {
                assert!((inclusion - expected).abs() < 1e-6, "{size:?}: {inclusion} is not {expected}");
            }
        }
    }

    #[test]
    fn target_samples_include_elements_as_often_as_they_should() {
        let (world, mut rng, mut state) = (SetWorld::sized(SetSize::Small), NumpyRng::new(3), vec![0; 31]);
        let mut counts = [0.0; 30];
        for _ in 0..4000 {
            assert!(world.sample_target(&mut rng, &mut state) && world.is_terminal(&state));
            assert_eq!(state[..30].iter().sum::<i32>(), 20);
            counts.iter_mut().zip(&state).for_each(|(count, &there)| *count += f64::from(there));
        }
        for (count, p) in counts.iter().zip(world.inclusion()) {
            let error = (p * (1.0 - p) / 4000.0).sqrt();
            assert!((count / 4000.0 - p).abs() < 4.5 * error, "{} is not {p}", count / 4000.0);
        }
    }

    #[test]
    fn masks_inverses_and_rewards_are_consistent() {
        for size in [SetSize::Small, SetSize::Medium, SetSize::Large] {
            check_world(&SetWorld::sized(size), 3, 1).expect("a sound world");
        }
    }

    /// The objects whose log-reward is above `threshold`: those that complete `sum` by `left` elements of these energies, each
    /// with the number of elements that have it, lowest first. Elements of one energy are alike.
    fn count_above(threshold: f64, energies: &[(f64, usize)], left: usize, sum: f64) -> u64 {
        let Some((&(energy, count), rest)) = energies.split_first() else {
            return u64::from(left == 0 && -sum > threshold);
        };
        // Even the lowest of them may be too few, or too high.
        let all = energies.iter().flat_map(|&(energy, count)| std::iter::repeat_n(energy, count));
        let lowest: Vec<f64> = all.take(left).collect();
        if lowest.len() < left || -(sum + lowest.iter().sum::<f64>()) < threshold - 1e-9 {
            return 0;
        }
        let with = |k: usize| choices(count, k) * count_above(threshold, rest, left - k, sum + k as f64 * energy);
        (0..=count.min(left)).map(with).sum()
    }

    #[test]
    fn modes_are_the_objects_above_the_threshold() {
        for (size, reward, modes) in
            [(SetSize::Small, 0.25f64, 90), (SetSize::Medium, 7e5, 1_310_386), (SetSize::Large, 7e5, 1_805_756)]
        {
            let world = SetWorld::sized(size);
            let n = world.energies().len();
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&i, &j| world.energies()[i].total_cmp(&world.energies()[j]));
            let mut energies: Vec<(f64, usize)> = Vec::new();
            for &i in &order {
                match energies.last_mut() {
                    Some((energy, count)) if *energy == world.energies()[i] => *count += 1,
                    _ => energies.push((world.energies()[i], 1)),
                }
            }
            assert!(energies.len() == 10 && energies.iter().all(|&(_, count)| count == n / 10), "{size:?}");
            assert_eq!(count_above(reward.ln(), &energies, world.choose(), 0.0), modes, "{size:?}");
            assert_eq!((world.mode_above, world.num_modes()), (Some((reward.ln(), modes)), Some(modes)), "{size:?}");

            let set = |elements: &[usize]| {
                let mut state = vec![0; n + 1];
                elements.iter().for_each(|&i| state[i] = 1);
                state[n] = elements.len() as i32;
                state
            };
            let (best, worst) = (set(&order[..world.choose()]), set(&order[n - world.choose()..]));
            assert!(world.mode(&best).is_some() && world.mode(&worst).is_none(), "{size:?}");
        }
    }
}
