//! N-PG-IGT: normalised policy gradient with implicit gradient transport (Fatkhullin, Barakat, Kireeva, He 2023,
//! arXiv:2302.01734, Algorithm 1; after Cutkosky and Mehta 2020, arXiv:2002.03305).
//!
//! ```text
//! x_t     = θ_t + (1 − η_t)/η_t (θ_t − θ_{t−1})            the look-ahead point
//! τ_t     ~ π at x_t
//! d_t     = (1 − η_t) d_{t−1} + η_t g(τ_t, x_t)            the gradient there
//! θ_{t+1} = θ_t + γ_t d_t/|d_t|                            a step from here
//! ```
//!
//! Where ∇J is affine, d_t has no memory of where its gradients were taken: it is ∇J(θ_t) but for noise. Neither importance
//! weights nor second derivatives are asked for.

use bregman_envs::rng::NumpyRng;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::learner::{LearnError, Learner, Metrics, Setup};
use crate::registry::{AgentConfig, AgentEntry, EstimateGradients, Part};
use crate::trajectory_gradient::{
    Direction, Estimate, Estimates, Iterates, Method, MomentumConfig, Oracle, Sampler, TrajectoryConfig,
    TrajectoryGradient, combine, decayed, metrics, norm,
};

/// Settings of [`NPgIgt`]; decays from the theory: γ_t = γ₀ 2/(t+2), η_t = (2/(t+2))^(4/5).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct NPgIgtConfig {
    /// What agents that learn from whole trajectories share.
    #[serde(flatten)]
    pub common: TrajectoryConfig,
    /// The running mean of gradients.
    #[serde(flatten)]
    pub momentum: MomentumConfig,
    /// Look ahead by η_{t−1} rather than η_t, as the released code does: d_t is then off by a multiple of the last step.
    pub released_timing: bool,
    /// Allow schedules whose look-ahead points grow away from the iterates, such as a constant step size with a falling η.
    pub long_lookahead: bool,
}

/// N-PG-IGT's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<NPgIgtConfig>(
    "n_pg_igt",
    "normalised policy gradient with implicit gradient transport: gradients at look-ahead points",
    metrics!(
        ("train/momentum", "weight of the newest gradient"),
        ("train/lookahead", "distance from the iterate to the point where the policy acted")
    ),
)
.console(&["train/grad_norm", "train/cosine"])
.estimating::<NPgIgtConfig>();

/// The longest look-ahead, in units of γ₀, that passes without `long_lookahead`.
const FAR: f64 = 100.0;

impl AgentConfig for NPgIgtConfig {
    const PARTS: &'static [Part] = &[Part::of::<TrajectoryConfig>("common"), Part::of::<MomentumConfig>("momentum")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        self.momentum.validate()?;
        let rule = "at least momentum_decay, or look-ahead points run away from the iterates as η falls and steps do not; \
                    long_lookahead = true allows that";
        let decay = self.common.step_decay;
        let bounded = self.momentum.momentum_decay <= decay;
        check::rule(bounded || self.long_lookahead, "step_decay", decay, rule)?;
        let distance = |t: u64| decayed(1.0, decay, t - 1) * self.lookahead(t);
        let farthest = (1..10_000).map(distance).fold(0.0, f64::max);
        let rule = format!(
            "a larger one, since look-ahead points lie up to {farthest:.0} γ₀ away; long_lookahead = true allows that"
        );
        check::rule(farthest <= FAR || self.long_lookahead, "momentum", self.momentum.momentum, &rule)
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let sampler = Sampler::new(self.common.clone(), setup)?;
        Ok(Box::new(TrajectoryGradient::new(sampler, NPgIgt { config: self }, setup)))
    }
}

impl NPgIgtConfig {
    /// (1 − η_t)/η_t, by which x_t lies beyond θ_t.
    fn lookahead(&self, t: u64) -> f64 {
        let eta = self.momentum.at(if self.released_timing { t.saturating_sub(1) } else { t });
        (1.0 - eta) / eta
    }
}

impl EstimateGradients for NPgIgtConfig {
    fn estimates(self, setup: &Setup) -> Result<Estimates, LearnError> {
        Estimates::of_linear_policy(self.common, &[Estimate::Gradient], setup, |sampler| sampler)
    }
}

/// Normalised policy gradient with implicit gradient transport.
pub struct NPgIgt {
    /// Its settings.
    pub config: NPgIgtConfig,
}

impl Method for NPgIgt {
    fn direction(
        &self,
        oracle: &mut dyn Oracle,
        at: &Iterates,
        _: &mut NumpyRng,
        metrics: &mut Metrics,
    ) -> Result<Direction, LearnError> {
        let (eta, beyond) = (self.config.momentum.at(at.t), self.config.lookahead(at.t));
        metrics.add("train/momentum", eta);
        metrics.add("train/lookahead", beyond * norm(&at.last_step()));
        let gradient = oracle.gradient(&at.beyond(beyond))?;
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

    /// θ_t, x_t and d_t on J = −(θ₁² + 3θ₂²)/2 from (2, −1), γ_t = 0.5 · 2/(t+2).
    fn trace(released_timing: bool, steps: usize) -> Vec<[[f64; 2]; 3]> {
        let method = NPgIgt { config: NPgIgtConfig { released_timing, ..Default::default() } };
        let (mut at, mut oracle) = (Iterates::new(vec![2.0, -1.0]), Quadratic::new(&[1.0, 3.0]));
        let pair = |x: &[f64]| [x[0], x[1]];
        let row = |_| {
            let found = method.direction(&mut oracle, &at, &mut NumpyRng::new(0), &mut Metrics::default());
            let direction = found.expect("it cannot fail").direction;
            let row = [pair(&at.theta), pair(&oracle.asked), pair(&direction)];
            at.advance(direction, decayed(0.5, 1.0, at.t), method.normalized());
            row
        };
        (0..steps).map(row).collect()
    }

    fn close(ours: [f64; 2], expected: [f64; 2]) {
        let pairs = ours.iter().zip(expected);
        pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-8, "{ours:?} is not {expected:?}"));
    }

    #[test]
    fn on_a_quadratic_the_direction_is_the_gradient_where_it_stands() {
        let expected = [
            [[2.0, -1.0], [2.0, -1.0], [-2.0, 3.0]],
            [[1.72264990, -0.58397485], [1.61637992, -0.42456988], [-1.72264990, 1.75192456]],
            [[1.48894182, -0.34629514], [1.31574050, -0.17015044], [-1.48894182, 1.03888543]],
            [[1.28391582, -0.20324152], [1.06220419, -0.04854576], [-1.28391582, 0.60972456]],
            [[1.10325293, -0.11744571], [0.84883900, 0.00337407], [-1.10325293, 0.35233713]],
            [[0.94448620, -0.06674164], [0.67072522, 0.02068723], [-0.94448620, 0.20022492]],
        ];
        let trace = trace(false, 7);
        for (ours, expected) in trace.iter().zip(expected) {
            ours.iter().zip(expected).for_each(|(&ours, expected)| close(ours, expected));
            let [theta, _, direction] = ours;
            assert!((direction[0] + theta[0]).abs() < 1e-14 && (direction[1] + 3.0 * theta[1]).abs() < 1e-14);
        }
        close(trace[6][0], [0.80473485, -0.03711526]);
    }

    #[test]
    fn the_released_timing_is_off_by_a_multiple_of_the_last_step() {
        let trace = trace(true, 7);
        close(trace[1][2], [-1.7994811, 2.09766494]);
        close(trace[2][0], [1.50561638, -0.33097769]);
        close(trace[6][0], [0.83840007, 0.00360882]);
    }

    #[test]
    fn look_ahead_distances_of_the_theorys_schedules() {
        let config = NPgIgtConfig::default();
        let distance = |t: u64| decayed(1.0, 1.0, t - 1) * config.lookahead(t);
        for (t, expected) in [(1, 0.383), (2, 0.494), (8, 0.583), (100, 0.440), (1000, 0.287), (10_000, 0.182)] {
            assert!((distance(t) - expected).abs() < 6e-4, "{} at {t}", distance(t));
        }
        assert!((1..10_000).all(|t| distance(t) < 0.5835));
    }

    #[test]
    fn schedules_that_run_away_are_refused_unless_allowed() {
        let refusal = |change: &dyn Fn(&mut NPgIgtConfig)| {
            let mut config = NPgIgtConfig::default();
            change(&mut config);
            let refusal = config.validate().err().map(|error| error.to_string()).unwrap_or_default();
            config.long_lookahead = true;
            assert!(config.validate().is_ok() || !refusal.contains("long_lookahead"), "{refusal}");
            refusal
        };
        assert_eq!(refusal(&|_| ()), "");
        assert!(refusal(&|c| c.common.step_decay = 0.0).starts_with("`step_decay = 0`: at least momentum_decay"));
        // Both constant: γ (1 − η)/η is 99 γ at η = 0.01 and 999 γ at 0.001.
        let constant = |momentum| MomentumConfig { momentum, momentum_decay: 0.0 };
        assert_eq!(refusal(&|c| (c.common.step_decay, c.momentum) = (0.0, constant(0.01))), "");
        let refused = refusal(&|c| (c.common.step_decay, c.momentum) = (0.0, constant(0.001)));
        assert!(refused.contains("up to 999 γ₀ away"), "{refused}");
        assert!(refusal(&|c| c.momentum.momentum = 0.0).contains("above 0 and up to 1"));
        assert!(refusal(&|c| c.momentum.momentum = 1.5).contains("above 0 and up to 1"));
    }
}
