//! STORM-PG: stochastic recursive momentum by importance weights (Yuan, Lian, Liu, Zhou 2020, arXiv:2003.04302).
//!
//! ```text
//! d_t     = g(τ_t, θ_t) + (1 − η_t) (d_{t−1} − g_w(τ_t, θ_{t−1})),   τ_t ~ π at θ_t
//! θ_{t+1} = θ_t + γ_t d_t
//! ```
//!
//! g_w is the earlier policy's gradient from this policy's episodes: every reward is weighed by Π_{k≤h} π_{t−1}(a_k)/π_t(a_k) up
//! to its own step h. The first direction is best made of more episodes than the others (`first_batch`).

use bregman_envs::rng::NumpyRng;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::learner::{LearnError, Learner, Metrics, Setup};
use crate::optional;
use crate::registry::{AgentConfig, AgentEntry, EstimateGradients, Part};
use crate::trajectory_gradient::{
    Direction, Estimate, Estimates, Iterates, Method, MomentumConfig, Oracle, Sampler, TrajectoryConfig,
    TrajectoryGradient, combine, metrics,
};

/// Settings of [`StormPg`]; constant weights η, a falling step size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct StormPgConfig {
    /// What agents that learn from whole trajectories share.
    #[serde(flatten)]
    pub common: TrajectoryConfig,
    /// The running mean of gradients.
    #[serde(flatten)]
    pub momentum: MomentumConfig,
    /// Bound on importance ratios, which biases where it binds; "none" leaves them free.
    #[serde(with = "optional")]
    pub max_ratio: Option<f64>,
}

impl Default for StormPgConfig {
    fn default() -> StormPgConfig {
        StormPgConfig {
            common: TrajectoryConfig { step_size: 0.01, step_decay: 1.0 / 3.0, first_batch: 10, ..Default::default() },
            momentum: MomentumConfig { momentum: 0.1, momentum_decay: 0.0 },
            max_ratio: None,
        }
    }
}

/// STORM-PG's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<StormPgConfig>(
    "storm_pg",
    "STORM-PG: a running mean of gradients corrected by importance weights",
    metrics!(
        ("train/momentum", "weight of the newest gradient"),
        ("train/max_ratio", "largest importance ratio of the iteration, before it is bounded")
    ),
)
.console(&["train/grad_norm", "train/cosine"])
.estimating::<StormPgConfig>();

impl AgentConfig for StormPgConfig {
    const PARTS: &'static [Part] = &[Part::of::<TrajectoryConfig>("common"), Part::of::<MomentumConfig>("momentum")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        self.momentum.validate()?;
        check::positive_or_none("max_ratio", self.max_ratio)
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let sampler = Sampler::new(self.common, setup)?.with_max_ratio(self.max_ratio);
        Ok(Box::new(TrajectoryGradient::new(sampler, StormPg { momentum: self.momentum }, setup)))
    }
}

impl EstimateGradients for StormPgConfig {
    fn estimates(self, setup: &Setup) -> Result<Estimates, LearnError> {
        let kinds = &[Estimate::Gradient, Estimate::Reweighted];
        Estimates::of_linear_policy(self.common, kinds, setup, |sampler| sampler.with_max_ratio(self.max_ratio))
    }
}

/// Stochastic recursive momentum.
pub struct StormPg {
    /// The weights η_t.
    pub momentum: MomentumConfig,
}

impl Method for StormPg {
    fn direction(
        &self,
        oracle: &mut dyn Oracle,
        at: &Iterates,
        _: &mut NumpyRng,
        metrics: &mut Metrics,
    ) -> Result<Direction, LearnError> {
        let eta = self.momentum.at(at.t);
        metrics.add("train/momentum", eta);
        if at.t == 0 {
            let gradient = oracle.gradient(&at.theta)?;
            return Ok(Direction { direction: gradient.clone(), gradient });
        }
        let [gradient, before] = oracle.gradients(&at.theta, &at.previous)?;
        let correction = combine(&at.direction, 1.0, &before, -1.0);
        let direction = combine(&gradient, 1.0, &correction, 1.0 - eta);
        Ok(Direction { gradient, direction })
    }

    fn normalized(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory_gradient::exact::Quadratic;

    #[test]
    fn with_exact_gradients_the_direction_is_the_gradient_where_it_stands() {
        let method = StormPg { momentum: MomentumConfig { momentum: 0.3, momentum_decay: 0.0 } };
        let (mut at, mut oracle) = (Iterates::new(vec![2.0, -1.0]), Quadratic::new(&[1.0, 3.0]));
        for _ in 0..10 {
            let found = method.direction(&mut oracle, &at, &mut NumpyRng::new(0), &mut Metrics::default());
            let direction = found.expect("it cannot fail").direction;
            assert!((direction[0] + at.theta[0]).abs() < 1e-14 && (direction[1] + 3.0 * at.theta[1]).abs() < 1e-14);
            at.advance(direction, 0.1, method.normalized());
        }
    }

    #[test]
    fn the_correction_weighs_what_momentum_leaves() {
        // −2 + (1 − 0.3)(−0.5 − (−1)), with θ 2 and 1 before on −θ²/2.
        let method = StormPg { momentum: MomentumConfig { momentum: 0.3, momentum_decay: 0.0 } };
        let at = Iterates { t: 1, theta: vec![2.0], previous: vec![1.0], direction: vec![-0.5] };
        let found = method.direction(&mut Quadratic::new(&[1.0]), &at, &mut NumpyRng::new(0), &mut Metrics::default());
        assert!((found.expect("it cannot fail").direction[0] + 1.65).abs() < 1e-12);
    }
}
