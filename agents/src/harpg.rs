//! HARPG and N-HARPG: Hessian-aided recursive policy gradient (Fatkhullin, Barakat, Kireeva, He 2023, arXiv:2302.01734,
//! Algorithm 2).
//!
//! ```text
//! q_t ~ U[0, 1],  y_t = q_t θ_t + (1 − q_t) θ_{t−1}        a point between the iterates
//! v_t     = B(τ̂_t, y_t) (θ_t − θ_{t−1}),  τ̂_t ~ π at y_t    the change of ∇J, in the mean
//! d_t     = (1 − η_t) (d_{t−1} + v_t) + η_t g(τ_t, θ_t)    τ_t ~ π at θ_t
//! θ_{t+1} = θ_t + γ_t d_t (HARPG)  or  θ_t + γ_t d_t/|d_t| (N-HARPG)
//! ```
//!
//! The mean over q of the Hessian along a segment times the segment is exactly the difference of gradients, so d_{t−1} + v_t
//! is carried from one iterate to the next without bias, and without importance weights.

use bregman_envs::rng::NumpyRng;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::learner::{LearnError, Learner, Metrics, Setup};
use crate::nn::Activation;
use crate::registry::{AgentConfig, AgentEntry, EstimateGradients, Part};
use crate::score::HessianEstimator;
use crate::trajectory_gradient::{
    Curvature, Direction, Estimate, Estimates, Iterates, Method, MomentumConfig, Oracle, Sampler, TrajectoryConfig,
    TrajectoryGradient, combine, metrics, norm,
};

/// Settings of the Hessian-vector products.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct CurvatureConfig {
    /// Their estimator: `paper`, or `causal`, which has less noise and needs `discount_state_weighting`.
    pub hessian_estimator: HessianEstimator,
    /// Whole episodes behind every product; they count as those of the gradient do.
    pub hessian_trajectories: usize,
}

impl Default for CurvatureConfig {
    fn default() -> CurvatureConfig {
        CurvatureConfig { hessian_estimator: HessianEstimator::Paper, hessian_trajectories: 10 }
    }
}

/// What both validate.
fn validate(
    common: &TrajectoryConfig,
    momentum: &MomentumConfig,
    curvature: &CurvatureConfig,
) -> Result<(), LearnError> {
    common.validate()?;
    momentum.validate()?;
    check::count("hessian_trajectories", curvature.hessian_trajectories)?;
    let rule = "`paper`: without discount_state_weighting the field of gradients has a Jacobian that is not symmetric, and the \
                causal estimator's mean is another matrix";
    let right = curvature.hessian_estimator == HessianEstimator::Paper || common.discount_state_weighting;
    check::rule(right, "hessian_estimator", "causal", rule)?;
    let rule = "a smooth one, as `tanh`: a rectifier's gradient jumps where its second derivative sees nothing";
    check::rule(common.activation != Activation::Relu || common.hidden_sizes.is_empty(), "activation", "relu", rule)
}

fn sampler(common: TrajectoryConfig, curvature: &CurvatureConfig, setup: &Setup) -> Result<Sampler, LearnError> {
    Ok(with_curvature(Sampler::new(common, setup)?, curvature))
}

fn with_curvature(sampler: Sampler, config: &CurvatureConfig) -> Sampler {
    let CurvatureConfig { hessian_estimator: estimator, hessian_trajectories: trajectories } = *config;
    sampler.with_curvature(Curvature { estimator, trajectories })
}

const ESTIMATES: &[Estimate] = &[Estimate::Gradient, Estimate::HessianProduct];

/// Settings of HARPG; decays from the theory: γ_t = γ₀ (2/(t+2))^(1/2), η_t = 2/(t+2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct HarpgConfig {
    /// What agents that learn from whole trajectories share.
    #[serde(flatten)]
    pub common: TrajectoryConfig,
    /// The running mean of gradients.
    #[serde(flatten)]
    pub momentum: MomentumConfig,
    /// The Hessian-vector products.
    #[serde(flatten)]
    pub curvature: CurvatureConfig,
}

impl Default for HarpgConfig {
    fn default() -> HarpgConfig {
        HarpgConfig {
            common: TrajectoryConfig { step_size: 0.01, step_decay: 0.5, ..Default::default() },
            momentum: MomentumConfig { momentum_decay: 1.0, ..Default::default() },
            curvature: CurvatureConfig::default(),
        }
    }
}

/// HARPG's line in the registry.
pub const HARPG: AgentEntry = AgentEntry::of::<HarpgConfig>(
    "harpg",
    "Hessian-aided recursive policy gradient: a running mean corrected by Hessian-vector products",
    metrics!(
        ("train/momentum", "weight of the newest gradient"),
        ("train/hv_norm", "norm of the Hessian-vector product, the correction of the running mean")
    ),
)
.console(&["train/grad_norm", "train/cosine"])
.estimating::<HarpgConfig>();

impl AgentConfig for HarpgConfig {
    const PARTS: &'static [Part] = &[
        Part::of::<TrajectoryConfig>("common"),
        Part::of::<MomentumConfig>("momentum"),
        Part::of::<CurvatureConfig>("curvature"),
    ];

    fn validate(&self) -> Result<(), LearnError> {
        validate(&self.common, &self.momentum, &self.curvature)
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let method = Harpg { momentum: self.momentum, normalized: false };
        Ok(Box::new(TrajectoryGradient::new(sampler(self.common, &self.curvature, setup)?, method, setup)))
    }
}

impl EstimateGradients for HarpgConfig {
    fn estimates(self, setup: &Setup) -> Result<Estimates, LearnError> {
        Estimates::of_linear_policy(self.common, ESTIMATES, setup, |sampler| with_curvature(sampler, &self.curvature))
    }
}

/// Settings of N-HARPG; decays from the theory: γ_t = γ₀ 2/(t+2), η_t = 2/(t+2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct NHarpgConfig {
    /// What agents that learn from whole trajectories share.
    #[serde(flatten)]
    pub common: TrajectoryConfig,
    /// The running mean of gradients.
    #[serde(flatten)]
    pub momentum: MomentumConfig,
    /// The Hessian-vector products.
    #[serde(flatten)]
    pub curvature: CurvatureConfig,
}

impl Default for NHarpgConfig {
    fn default() -> NHarpgConfig {
        NHarpgConfig {
            common: TrajectoryConfig::default(),
            momentum: MomentumConfig { momentum_decay: 1.0, ..Default::default() },
            curvature: CurvatureConfig::default(),
        }
    }
}

/// N-HARPG's line in the registry.
pub const N_HARPG: AgentEntry = AgentEntry::of::<NHarpgConfig>(
    "n_harpg",
    "normalised HARPG: Hessian-aided recursive policy gradient with steps of a given length",
    HARPG.metrics,
)
.console(&["train/grad_norm", "train/cosine"])
.estimating::<NHarpgConfig>();

impl AgentConfig for NHarpgConfig {
    const PARTS: &'static [Part] = HarpgConfig::PARTS;

    fn validate(&self) -> Result<(), LearnError> {
        validate(&self.common, &self.momentum, &self.curvature)
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let method = Harpg { momentum: self.momentum, normalized: true };
        Ok(Box::new(TrajectoryGradient::new(sampler(self.common, &self.curvature, setup)?, method, setup)))
    }
}

impl EstimateGradients for NHarpgConfig {
    fn estimates(self, setup: &Setup) -> Result<Estimates, LearnError> {
        Estimates::of_linear_policy(self.common, ESTIMATES, setup, |sampler| with_curvature(sampler, &self.curvature))
    }
}

/// Hessian-aided recursive policy gradient.
pub struct Harpg {
    /// The weights η_t.
    pub momentum: MomentumConfig,
    /// Steps of a given length: N-HARPG.
    pub normalized: bool,
}

impl Method for Harpg {
    fn direction(
        &self,
        oracle: &mut dyn Oracle,
        at: &Iterates,
        rng: &mut NumpyRng,
        metrics: &mut Metrics,
    ) -> Result<Direction, LearnError> {
        let eta = self.momentum.at(at.t);
        metrics.add("train/momentum", eta);
        let gradient = oracle.gradient(&at.theta)?;
        if at.t == 0 {
            return Ok(Direction { direction: gradient.clone(), gradient });
        }
        let q = rng.double();
        let between = combine(&at.theta, q, &at.previous, 1.0 - q);
        let correction = oracle.hessian_product(&between, &at.last_step())?;
        metrics.add("train/hv_norm", norm(&correction));
        let carried = combine(&at.direction, 1.0, &correction, 1.0);
        let direction = combine(&carried, 1.0 - eta, &gradient, eta);
        Ok(Direction { gradient, direction })
    }

    fn normalized(&self) -> bool {
        self.normalized
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory_gradient::decayed;
    use crate::trajectory_gradient::exact::Quadratic;

    #[test]
    fn on_a_quadratic_the_direction_is_the_gradient_where_it_stands() {
        for normalized in [false, true] {
            let method = Harpg { momentum: MomentumConfig { momentum: 0.7, momentum_decay: 0.3 }, normalized };
            let (mut at, mut oracle) = (Iterates::new(vec![2.0, -1.0]), Quadratic::new(&[1.0, 3.0]));
            let mut rng = NumpyRng::new(5);
            for _ in 0..20 {
                let found = method.direction(&mut oracle, &at, &mut rng, &mut Metrics::default());
                let direction = found.expect("it cannot fail").direction;
                assert!((direction[0] + at.theta[0]).abs() < 1e-13 && (direction[1] + 3.0 * at.theta[1]).abs() < 1e-13);
                let before = at.theta.clone();
                at.advance(direction, decayed(0.2, 0.5, at.t), method.normalized());
                let length = norm(&combine(&at.theta, 1.0, &before, -1.0));
                assert!(!normalized || (length - decayed(0.2, 0.5, at.t - 1)).abs() < 1e-14);
            }
        }
    }

    /// J = −θ⁴/4, whose Hessian −3θ² is no line along a segment.
    struct Quartic;

    impl Oracle for Quartic {
        fn gradient(&mut self, x: &[f64]) -> Result<Vec<f64>, LearnError> {
            Ok(vec![-x[0].powi(3)])
        }

        fn hessian_product(&mut self, y: &[f64], v: &[f64]) -> Result<Vec<f64>, LearnError> {
            Ok(vec![-3.0 * y[0] * y[0] * v[0]])
        }

        fn gradients(&mut self, x: &[f64], old: &[f64]) -> Result<[Vec<f64>; 2], LearnError> {
            Ok([self.gradient(x)?, self.gradient(old)?])
        }
    }

    #[test]
    fn corrections_are_the_change_of_the_gradient_on_average() {
        // From 1 to 2 the gradient moves by −7. At the ends of the segment the correction is −3 and −12, in its middle −6.75;
        // its deviation is 2.69, so a mean of 40,000 has the standard error 0.013.
        let method = Harpg { momentum: MomentumConfig { momentum: 0.5, momentum_decay: 0.0 }, normalized: false };
        let at = Iterates { t: 1, theta: vec![2.0], previous: vec![1.0], direction: vec![-1.0] };
        let mut rng = NumpyRng::new(3);
        let mut sum = 0.0;
        for _ in 0..40_000 {
            let found = method.direction(&mut Quartic, &at, &mut rng, &mut Metrics::default()).expect("it cannot fail");
            sum += found.direction[0] / 40_000.0;
        }
        // d = (−1 + v)/2 − 8/2, −8 in the mean.
        assert!((sum + 8.0).abs() < 0.03, "{sum}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let mut config = NHarpgConfig::default();
        config.curvature.hessian_estimator = HessianEstimator::Causal;
        assert!(config.validate().is_ok());
        config.common.discount_state_weighting = false;
        let refusal = config.validate().expect_err("refused").to_string();
        assert!(
            refusal.starts_with("`hessian_estimator = causal`: `paper`: without discount_state_weighting"),
            "{refusal}"
        );
        let mut config = HarpgConfig::default();
        config.common.activation = Activation::Relu;
        let refusal = config.validate().expect_err("refused").to_string();
        assert!(refusal.starts_with("`activation = relu`: a smooth one"), "{refusal}");
    }
}
