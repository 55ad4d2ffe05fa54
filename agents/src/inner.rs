//! The inner loop of mirror-descent agents: several full-batch steps on a surrogate that is rebuilt at each iteration.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::learner::{LearnError, Snapshot};
use crate::optim::{Adam, clip_grad_norm};
use crate::optional;

/// Settings of the inner loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct InnerConfig {
    /// Full-batch steps on the surrogate per iteration, m.
    pub inner_steps: usize,
    /// How a step is taken: `adam`, or `armijo`, gradient descent with a backtracking line search.
    pub inner_optimizer: InnerOptimizer,
    /// Adam's step size for the policy.
    pub learning_rate: f64,
    /// Let that step size fall linearly to 0 over the budget.
    pub anneal_lr: bool,
    /// Adam's ε.
    pub adam_eps: f64,
    /// Bound on the norm of Adam's gradient; "none" leaves it free.
    #[serde(with = "optional")]
    pub max_grad_norm: Option<f64>,
    /// Armijo: part of the predicted decrease that a step must reach, in (0, 1).
    pub armijo_c: f64,
    /// Armijo: factor on a refused step, in (0, 1).
    pub armijo_backtrack: f64,
    /// Armijo: first step tried, and the largest.
    pub armijo_max_step: f64,
    /// Armijo: the next search starts from the accepted step times this.
    pub armijo_grow: f64,
}

/// How an inner step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InnerOptimizer {
    /// Adam with its moments kept across iterations.
    Adam,
    /// Gradient descent with Armijo's backtracking line search.
    Armijo,
}

impl Default for InnerConfig {
    fn default() -> InnerConfig {
        InnerConfig {
            inner_steps: 10,
            inner_optimizer: InnerOptimizer::Adam,
            learning_rate: 3e-4,
            anneal_lr: false,
            adam_eps: 1e-5,
            max_grad_norm: Some(0.5),
            armijo_c: 0.1,
            armijo_backtrack: 0.9,
            armijo_max_step: 1.0,
            armijo_grow: 1.8,
        }
    }
}

impl InnerConfig {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), LearnError> {
        let inside =
            |key: &str, value: f64| check::rule(value > 0.0 && value < 1.0, key, value, "a number between 0 and 1");
        check::count("inner_steps", self.inner_steps)?;
        check::positive("learning_rate", self.learning_rate, "3e-4")?;
        check::positive("adam_eps", self.adam_eps, "1e-5")?;
        check::positive_or_none("max_grad_norm", self.max_grad_norm)?;
        inside("armijo_c", self.armijo_c)?;
        inside("armijo_backtrack", self.armijo_backtrack)?;
        check::positive("armijo_max_step", self.armijo_max_step, "1")?;
        check::rule(
            self.armijo_grow >= 1.0 && self.armijo_grow.is_finite(),
            "armijo_grow",
            self.armijo_grow,
            "at least 1",
        )
    }
}

/// Minimises one surrogate after another.
pub struct InnerLoop {
    config: InnerConfig,
    adam: Adam,
    /// The step from which Armijo's search starts.
    step: f64,
    grad: Vec<f32>,
    candidate: Vec<f32>,
}

/// What the inner loop has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InnerReport {
    /// The surrogate at the start, to be minimised.
    pub before: f64,
    /// Norm of the gradient before clipping, mean over the steps.
    pub grad_norm: f64,
    /// Adam's step size, or the last step that Armijo's search accepted; 0 where it found none.
    pub step: f64,
}

/// The step below which Armijo's search gives up, as a part of the largest, and the number of steps that it tries.
const SMALLEST: f64 = 1e-12;
const TRIALS: usize = 500;

impl InnerLoop {
    /// For `len` parameters.
    pub fn new(config: InnerConfig, len: usize) -> InnerLoop {
        InnerLoop {
            adam: Adam::new(len, config.adam_eps),
            step: config.armijo_max_step,
            grad: vec![0.0; len],
            candidate: vec![0.0; len],
            config,
        }
    }

    /// Steps per surrogate.
    pub fn steps(&self) -> usize {
        self.config.inner_steps
    }

    /// `inner_steps` steps from `params`. The surrogate returns its value and, where it is given room, writes its gradient;
    /// `left` is the part of the budget that is left. Stops early where a number is not finite: the report says so.
    pub fn minimize(
        &mut self,
        params: &mut [f32],
        left: f64,
        mut surrogate: impl FnMut(&[f32], Option<&mut [f32]>) -> f64,
    ) -> InnerReport {
        let learning_rate = self.config.learning_rate * if self.config.anneal_lr { left } else { 1.0 };
        let searches = self.config.inner_optimizer == InnerOptimizer::Armijo;
        let mut report = InnerReport { step: if searches { 0.0 } else { learning_rate }, ..Default::default() };
        let steps = self.config.inner_steps;
        for step in 0..steps {
            let value = surrogate(params, Some(&mut self.grad));
            if step == 0 {
                report.before = value;
            }
            let norm = clip_grad_norm(&mut self.grad, self.config.max_grad_norm.filter(|_| !searches));
            report.grad_norm += norm / steps as f64;
            if !norm.is_finite() {
                return report;
            }
            if !searches {
                self.adam.step(params, &self.grad, learning_rate);
                continue;
            }
            let first = self.step;
            let accepted = self.search(params, value, norm, &mut surrogate);
            if accepted > 0.0 {
                report.step = accepted;
            } else if first == self.config.armijo_max_step {
                // From the same place by the same steps: all that are left would find the same.
                report.grad_norm += norm * (steps - step - 1) as f64 / steps as f64;
                break;
            }
        }
        report
    }

    /// One step along the negative gradient: the first of a falling sequence that decreases the surrogate by at least
    /// `armijo_c · step · |gradient|²`. Where there is none, `params` stay and 0 is returned.
    fn search(
        &mut self,
        params: &mut [f32],
        value: f64,
        norm: f64,
        surrogate: &mut impl FnMut(&[f32], Option<&mut [f32]>) -> f64,
    ) -> f64 {
        let InnerConfig { armijo_c, armijo_backtrack, armijo_max_step, armijo_grow, .. } = self.config;
        let mut step = self.step;
        for _ in 0..TRIALS {
            if step <= SMALLEST * armijo_max_step {
                break;
            }
            for ((x, &p), &g) in self.candidate.iter_mut().zip(&*params).zip(&self.grad) {
                *x = p - step as f32 * g;
            }
            if surrogate(&self.candidate, None) <= value - armijo_c * step * norm * norm {
                params.copy_from_slice(&self.candidate);
                self.step = (step * armijo_grow).min(armijo_max_step);
                return step;
            }
            step *= armijo_backtrack;
        }
        self.step = armijo_max_step;
        0.0
    }

    /// Puts moments and the search's step into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        self.adam.save("adam", snapshot);
        snapshot.state.insert("armijo_step".into(), self.step.into());
    }

    /// Takes them from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.adam.load("adam", snapshot)?;
        self.step = snapshot.get("armijo_step")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (x² + 10 y²)/2.
    fn bowl(p: &[f32], grad: Option<&mut [f32]>) -> f64 {
        if let Some(grad) = grad {
            grad.copy_from_slice(&[p[0], 10.0 * p[1]]);
        }
        f64::from(p[0] * p[0] + 10.0 * p[1] * p[1]) / 2.0
    }

    #[test]
    fn armijo_takes_the_first_step_that_decreases_enough() {
        // From (0, 1): gradient (0, 10), value 5. Step s gives 5 (1 − 10 s)², which must be at most 5 − 0.1 s 100: s ≤ 0.18.
        // Halving from 1: 1, 0.5, 0.25, 0.125.
        let config = InnerConfig {
            inner_steps: 1,
            inner_optimizer: InnerOptimizer::Armijo,
            armijo_backtrack: 0.5,
            ..Default::default()
        };
        let mut inner = InnerLoop::new(config, 2);
        let mut p = [0.0, 1.0];
        let report = inner.minimize(&mut p, 1.0, bowl);
        assert_eq!((report.step, report.before, report.grad_norm), (0.125, 5.0, 10.0));
        assert_eq!(p, [0.0, -0.25]);
        // The next search starts from 1.8 × 0.125 and is content with half of it.
        assert_eq!(inner.minimize(&mut p, 1.0, bowl).step, 0.1125);
    }

    #[test]
    fn armijo_stays_where_nothing_decreases() {
        let mut inner =
            InnerLoop::new(InnerConfig { inner_optimizer: InnerOptimizer::Armijo, ..Default::default() }, 2);
        let mut p = [0.5, 0.5];
        let mut asked = 0;
        let report = inner.minimize(&mut p, 1.0, |p, grad| {
            asked += 1;
            if let Some(grad) = grad {
                grad.copy_from_slice(&[1.0, 0.0]);
            }
            if p == [0.5, 0.5] { 0.0 } else { 1.0 }
        });
        assert_eq!((report.step, report.grad_norm, p), (0.0, 1.0, [0.5, 0.5]));
        // ln 1e-12 / ln 0.9 = 262.2 steps and the gradient: once, not for each of the ten steps.
        assert_eq!(asked, 1 + 263);
    }

    #[test]
    fn adam_anneals_and_clips() {
        let config = InnerConfig { inner_steps: 1, learning_rate: 0.1, anneal_lr: true, ..Default::default() };
        let mut p = [0.0, 1.0];
        let report = InnerLoop::new(config, 2).minimize(&mut p, 0.5, bowl);
        assert_eq!((report.step, report.grad_norm), (0.05, 10.0));
        // Adam's first step has its length whatever the gradient's; ε = 1e-5 beside the clipped 0.5 takes 2e-5 of it.
        assert!((p[1] - (1.0 - 0.05)).abs() < 2e-6, "{p:?}");
    }

    #[test]
    fn armijo_asks_for_a_part_of_the_slope_and_never_goes_beyond_the_longest_step() {
        let search = |armijo_max_step| {
            let config = InnerConfig {
                inner_steps: 1,
                inner_optimizer: InnerOptimizer::Armijo,
                armijo_backtrack: 0.5,
                armijo_max_step,
                ..Default::default()
            };
            InnerLoop::new(config, 2)
        };
        // Of 0.38, 0.19 and 0.095 the second decreases the bowl too, by less than a tenth of its slope.
        assert_eq!(search(0.38).minimize(&mut [0.0, 1.0], 1.0, bowl).step, 0.095);
        // 0.05 is accepted at once, and 1.8 times that is too long.
        let (mut inner, mut p) = (search(0.05), [0.0, 1.0]);
        assert_eq!([inner.minimize(&mut p, 1.0, bowl).step, inner.minimize(&mut p, 1.0, bowl).step], [0.05, 0.05]);
    }

    #[test]
    fn gradients_are_clipped_for_adam_and_step_sizes_stay_unless_annealed() {
        // With ε = 1 the first step is 0.1 g/(|g| + 1), for the gradient of 10 or what is left of it.
        for (max_grad_norm, moved) in [(Some(0.5), 0.1 / 3.0), (None, 1.0 / 11.0)] {
            let config =
                InnerConfig { inner_steps: 1, learning_rate: 0.1, adam_eps: 1.0, max_grad_norm, ..Default::default() };
            let mut p = [0.0, 1.0];
            let report = InnerLoop::new(config, 2).minimize(&mut p, 0.5, bowl);
            assert_eq!(report.step, 0.1);
            assert!((1.0 - p[1] - moved).abs() < 1e-6, "{p:?}");
        }
    }
}
