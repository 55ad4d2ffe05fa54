//! Vanilla policy gradient and its normalised form, N-PG: what N-PG-IGT and HARPG are measured against.
//!
//! ```text
//! pg      d_t = g(τ_t, θ_t)                                 θ_{t+1} = θ_t + γ_t d_t
//! n_pg    d_t = (1 − η_t) d_{t−1} + η_t g(τ_t, θ_t)         θ_{t+1} = θ_t + γ_t d_t/|d_t|
//! ```
//!
//! With η₀ = 1 and q = 0 `n_pg` has no momentum, as the code released with N-PG-IGT runs it under this name.

use bregman_envs::rng::NumpyRng;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::learner::{LearnError, Learner, Metrics, Setup};
use crate::registry::{AgentConfig, AgentEntry, EstimateGradients, Part};
use crate::trajectory_gradient::{
    Direction, Estimate, Estimates, Iterates, Method, MomentumConfig, Oracle, Sampler, TrajectoryConfig,
    TrajectoryGradient, combine, metrics,
};

/// Settings of [`Pg`]; the decay of the step size is the released code's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct PgConfig {
    /// What agents that learn from whole trajectories share.
    #[serde(flatten)]
    pub common: TrajectoryConfig,
}

impl Default for PgConfig {
    fn default() -> PgConfig {
        PgConfig { common: TrajectoryConfig { step_decay: 2.0 / 3.0, step_size: 0.01, ..Default::default() } }
    }
}

/// Vanilla policy gradient's line in the registry.
pub const PG: AgentEntry = AgentEntry::of::<PgConfig>(
    "pg",
    "vanilla policy gradient (GPOMDP): steps along the gradient of whole trajectories",
    metrics!(),
)
.console(&["train/grad_norm", "train/explained_variance"])
.estimating::<PgConfig>();

impl AgentConfig for PgConfig {
    const PARTS: &'static [Part] = &[Part::of::<TrajectoryConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(TrajectoryGradient::new(Sampler::new(self.common, setup)?, Pg, setup)))
    }
}

impl EstimateGradients for PgConfig {
    fn estimates(self, setup: &Setup) -> Result<Estimates, LearnError> {
        Estimates::of_linear_policy(self.common, &[Estimate::Gradient], setup, |sampler| sampler)
    }
}

/// Vanilla policy gradient.
pub struct Pg;

impl Method for Pg {
    fn direction(
        &self,
        oracle: &mut dyn Oracle,
        at: &Iterates,
        _: &mut NumpyRng,
        _: &mut Metrics,
    ) -> Result<Direction, LearnError> {
        let gradient = oracle.gradient(&at.theta)?;
        Ok(Direction { direction: gradient.clone(), gradient })
    }

    fn normalized(&self) -> bool {
        false
    }
}

/// Settings of [`NPg`]; decays for which momentum is known to converge (Cutkosky and Mehta 2020).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct NPgConfig {
    /// What agents that learn from whole trajectories share.
    #[serde(flatten)]
    pub common: TrajectoryConfig,
    /// The running mean of gradients.
    #[serde(flatten)]
    pub momentum: MomentumConfig,
}

impl Default for NPgConfig {
    fn default() -> NPgConfig {
        let momentum = MomentumConfig { momentum_decay: 2.0 / 3.0, ..Default::default() };
        NPgConfig { common: TrajectoryConfig::default(), momentum }
    }
}

/// N-PG's line in the registry.
pub const N_PG: AgentEntry = AgentEntry::of::<NPgConfig>(
    "n_pg",
    "normalised policy gradient, with momentum or without: steps of a given length along a running mean",
    metrics!(("train/momentum", "weight of the newest gradient")),
)
.console(&["train/grad_norm", "train/cosine"])
.estimating::<NPgConfig>();

impl AgentConfig for NPgConfig {
    const PARTS: &'static [Part] = &[Part::of::<TrajectoryConfig>("common"), Part::of::<MomentumConfig>("momentum")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        self.momentum.validate()
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let sampler = Sampler::new(self.common, setup)?;
        Ok(Box::new(TrajectoryGradient::new(sampler, NPg { momentum: self.momentum }, setup)))
    }
}

impl EstimateGradients for NPgConfig {
    fn estimates(self, setup: &Setup) -> Result<Estimates, LearnError> {
        Estimates::of_linear_policy(self.common, &[Estimate::Gradient], setup, |sampler| sampler)
    }
}

/// Normalised policy gradient with momentum.
pub struct NPg {
    /// The weights η_t.
    pub momentum: MomentumConfig,
}

impl Method for NPg {
    fn direction(
        &self,
        oracle: &mut dyn Oracle,
        at: &Iterates,
        _: &mut NumpyRng,
        metrics: &mut Metrics,
    ) -> Result<Direction, LearnError> {
        let eta = self.momentum.at(at.t);
        metrics.add("train/momentum", eta);
        let gradient = oracle.gradient(&at.theta)?;
        let direction = match at.t {
            0 => gradient.clone(),
            _ => combine(&at.direction, 1.0 - eta, &gradient, eta),
        };
        Ok(Direction { gradient, direction })
    }

    fn normalized(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory_gradient::exact::Quadratic;

    #[test]
    fn momentum_weighs_the_newest_gradient() {
        // 0.75 · (−1) + 0.25 · (−2).
        let method = NPg { momentum: MomentumConfig { momentum: 0.25, momentum_decay: 0.0 } };
        let at = Iterates { t: 1, theta: vec![2.0], previous: vec![1.0], direction: vec![-1.0] };
        let found = method.direction(&mut Quadratic::new(&[1.0]), &at, &mut NumpyRng::new(0), &mut Metrics::default());
        assert_eq!(found.expect("it cannot fail").direction, [-1.25]);
        assert!(method.normalized() && !Pg.normalized());
    }
}
