//! Running moments, and the two normalisers built on them: of observations, and of rewards.

use bregman_envs::Outcome;

use crate::learner::{Array, LearnError, Snapshot};
use crate::policy::PolicyOp;

/// Added to variances before the square root.
const EPSILON: f64 = 1e-8;

/// Mean and population variance of a stream of vectors, merged batch by batch (Chan et al. 1979).
///
/// Starts as 1e-4 samples of mean 0 and variance 1, as in the peers, so that the first batches do not divide by zero.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningMoments {
    /// Mean, `[dim]`.
    pub mean: Vec<f64>,
    /// Population variance, `[dim]`.
    pub var: Vec<f64>,
    /// Number of samples.
    pub count: f64,
}

impl RunningMoments {
    /// No samples yet, of vectors of length `dim`.
    pub fn new(dim: usize) -> RunningMoments {
        RunningMoments { mean: vec![0.0; dim], var: vec![1.0; dim], count: 1e-4 }
    }

    /// Takes in `batch`, `[n, dim]`, row by row.
    pub fn update(&mut self, batch: &[f64]) {
        let dim = self.mean.len();
        let n = (batch.len() / dim) as f64;
        if n == 0.0 {
            return;
        }
        let total = self.count + n;
        for i in 0..dim {
            let column = || batch.iter().skip(i).step_by(dim);
            let mean = column().sum::<f64>() / n;
            let var = column().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let delta = mean - self.mean[i];
            self.mean[i] += delta * n / total;
            self.var[i] = (self.var[i] * self.count + var * n + delta * delta * self.count * n / total) / total;
        }
        self.count = total;
    }

    fn save(&self, name: &str, snapshot: &mut Snapshot) {
        snapshot.put(&format!("{name}/mean"), Array::F64(self.mean.clone()));
        snapshot.put(&format!("{name}/var"), Array::F64(self.var.clone()));
        snapshot.put(&format!("{name}/count"), Array::F64(vec![self.count]));
    }

    fn load(&mut self, name: &str, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f64_into(&format!("{name}/mean"), &mut self.mean)?;
        snapshot.f64_into(&format!("{name}/var"), &mut self.var)?;
        snapshot.f64_into(&format!("{name}/count"), std::slice::from_mut(&mut self.count))
    }
}

/// Shifts and scales observations by running moments, clips them, and rounds them to `f32`.
///
/// The moments move only in [`update`](ObsNormalizer::update), which learners call between rollouts: the policy that acts
/// is one function for the whole rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct ObsNormalizer {
    moments: RunningMoments,
    clip: f64,
    enabled: bool,
}

impl ObsNormalizer {
    /// For observations of length `dim`, clipped to ±`clip`. Not `enabled`, it only rounds.
    pub fn new(dim: usize, clip: f64, enabled: bool) -> ObsNormalizer {
        ObsNormalizer { moments: RunningMoments::new(dim), clip, enabled }
    }

    /// Always `(x − mean) / divisor`, whatever comes.
    pub fn fixed(mean: &[f64], divisor: &[f64]) -> ObsNormalizer {
        // Its standard deviation is the root of the variance and ε.
        let var = divisor.iter().map(|d| d * d - EPSILON).collect();
        let moments = RunningMoments { mean: mean.to_vec(), var, count: 1.0 };
        ObsNormalizer { moments, clip: f64::INFINITY, enabled: true }
    }

    /// Normalises rows, `[n, obs_dim]`, in place.
    pub fn normalize_rows(&self, rows: &mut [f32]) {
        if !self.enabled {
            return;
        }
        let clip = self.clip;
        for row in rows.chunks_exact_mut(self.moments.mean.len()) {
            for ((x, &mean), &var) in row.iter_mut().zip(&self.moments.mean).zip(&self.moments.var) {
                *x = ((f64::from(*x) - mean) / (var + EPSILON).sqrt()).clamp(-clip, clip) as f32;
            }
        }
    }

    /// Writes the normalised observation, `[obs_dim]`.
    pub fn normalize(&self, obs: &[f64], out: &mut [f32]) {
        if !self.enabled {
            out.iter_mut().zip(obs).for_each(|(y, &x)| *y = x as f32);
            return;
        }
        let moments = self.moments.mean.iter().zip(&self.moments.var);
        for ((y, &x), (&mean, &var)) in out.iter_mut().zip(obs).zip(moments) {
            *y = ((x - mean) / (var + EPSILON).sqrt()).clamp(-self.clip, self.clip) as f32;
        }
    }

    /// What [`normalize`](ObsNormalizer::normalize) does, as an operation; `None` where it only rounds.
    pub fn op(&self) -> Option<PolicyOp> {
        let std = self.moments.var.iter().map(|var| (var + EPSILON).sqrt()).collect();
        self.enabled.then(|| PolicyOp::Normalize { mean: self.moments.mean.clone(), std, clip: self.clip })
    }

    /// Takes in raw observations, `[n, obs_dim]`.
    pub fn update(&mut self, obs: &[f64]) {
        if self.enabled {
            self.moments.update(obs);
        }
    }

    /// Puts the moments into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        self.moments.save("obs_norm", snapshot);
    }

    /// Takes the moments from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.moments.load("obs_norm", snapshot)
    }
}

/// Divides rewards by the running standard deviation of the discounted return; the mean stays.
///
/// The recursion is that of Stable-Baselines' `VecNormalize`: each environment's return restarts after any end of an
/// episode. (Gymnasium's `NormalizeReward` restarts one step early, and never at a time limit.)
#[derive(Clone, Debug, PartialEq)]
pub struct RewardScaler {
    returns: Vec<f64>,
    moments: RunningMoments,
    gamma: f64,
    clip: f64,
    enabled: bool,
}

impl RewardScaler {
    /// For `num_envs` environments; scaled rewards are clipped to ±`clip`. Not `enabled`, rewards stay as they are.
    pub fn new(num_envs: usize, gamma: f64, clip: f64, enabled: bool) -> RewardScaler {
        RewardScaler { returns: vec![0.0; num_envs], moments: RunningMoments::new(1), gamma, clip, enabled }
    }

    /// Takes in one step of every environment, `[num_envs]`, and scales its rewards in place.
    pub fn scale(&mut self, step: &mut [Outcome]) {
        if !self.enabled {
            return;
        }
        for (total, outcome) in self.returns.iter_mut().zip(step.iter()) {
            *total = *total * self.gamma + outcome.reward;
        }
        self.moments.update(&self.returns);
        let std = (self.moments.var[0] + EPSILON).sqrt();
        for (total, outcome) in self.returns.iter_mut().zip(step) {
            outcome.reward = (outcome.reward / std).clamp(-self.clip, self.clip);
            if outcome.ends_episode() {
                *total = 0.0;
            }
        }
    }

    /// Forgets the running returns: for environments that start anew.
    pub fn restart(&mut self) {
        self.returns.fill(0.0);
    }

    /// Puts statistics and running returns into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        self.moments.save("reward_norm", snapshot);
        snapshot.put("reward_norm/returns", Array::F64(self.returns.clone()));
    }

    /// Takes statistics and running returns from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.moments.load("reward_norm", snapshot)?;
        snapshot.f64_into("reward_norm/returns", &mut self.returns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6 * b.abs(), "{a} is not {b}");
    }

    #[test]
    fn moments_of_one_batch_and_of_singles() {
        let mut moments = RunningMoments::new(1);
        moments.update(&[1.0, 2.0, 3.0]);
        close(moments.mean[0], 1.999_933_335_6);
        close(moments.var[0], 0.666_811_101_9);

        let mut normalizer = ObsNormalizer::new(1, 10.0, true);
        let mut out = [0.0];
        normalizer.update(&[1.0]);
        close(normalizer.moments.mean[0], 0.999_900_01);
        assert!((normalizer.moments.var[0] - 1.9997e-4).abs() < 1e-8);
        normalizer.normalize(&[1.0], &mut out);
        close(out[0].into(), 0.007_070_71);
        normalizer.update(&[3.0]);
        close(normalizer.moments.mean[0], 1.999_900_005);
        // (1.9997e-4 · 1.0001 + 2.0001² · 1.0001/2.0001)/2.0001
        close(normalizer.moments.var[0], 1.000_199_98);
        normalizer.normalize(&[3.0], &mut out);
        close(out[0].into(), 1.000_000_005);
        normalizer.normalize(&[1e9], &mut out);
        assert_eq!(out, [10.0]);
    }

    #[test]
    fn columns_do_not_mix() {
        let mut moments = RunningMoments::new(2);
        moments.update(&[1.0, 10.0, 3.0, 30.0]);
        close(moments.mean[0] * 10.0, moments.mean[1]);
        assert!(moments.var[1] > 50.0 * moments.var[0]);
    }

    #[test]
    fn rewards_are_scaled_as_vec_normalize_does() {
        // Rewards 1, 1, 1, 1; the episode ends after the second.
        let mut scaler = RewardScaler::new(1, 0.99, 10.0, true);
        let expected = [10.0, 2.019_586_0, 2.142_329_6, 2.019_893_9];
        for (t, expected) in expected.into_iter().enumerate() {
            let mut step = [Outcome { reward: 1.0, terminated: false, truncated: t == 1 }];
            scaler.scale(&mut step);
            close(step[0].reward, expected);
        }
    }

    #[test]
    fn returns_start_anew_at_ends_of_either_kind_and_rewards_are_clipped_on_both_sides() {
        let mut scaler = RewardScaler::new(1, 0.99, 10.0, true);
        for (t, expected) in [10.0, 2.019_586_0, 2.142_329_6, 2.019_893_9].into_iter().enumerate() {
            let mut step = [Outcome { reward: 1.0, terminated: t == 1, truncated: false }];
            scaler.scale(&mut step);
            close(step[0].reward, expected);
        }
        let mut step = [Outcome { reward: -1.0, terminated: false, truncated: false }];
        RewardScaler::new(1, 0.99, 10.0, true).scale(&mut step);
        assert_eq!(step[0].reward, -10.0);
    }
}
