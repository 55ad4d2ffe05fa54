//! FMA-PG: policy gradient as functional mirror ascent (Vaswani et al. 2022, arXiv:2108.05828), with its members sMDPO, also
//! known as SPMA (Asad et al. 2025, arXiv:2411.12042), and MDPO at a fixed step size.
//!
//! A policy may be represented by its probabilities (`direct`) or by its logits (`softmax`); each has its mirror map, and so its
//! surrogate around the policy that acted:
//!
//! ```text
//! direct    E[ratio · A]    − KL(π ‖ π_k)/η       tabular solution  π_k exp(ηA) / norm
//! softmax   E[A · ln ratio] − KL(π_k ‖ π)/η       tabular solution  π_k max(1 + ηA, 0) / norm
//! ```
//!
//! m full-batch steps increase the surrogate, by Adam or by gradient ascent with Armijo's line search. The divergence is exact,
//! or estimated from the actions taken as in SPMA's code. Beyond the papers: a time limit bootstraps.

use bregman_envs::rng::Seed;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::actor::PolicyRows;
use crate::check;
use crate::full_batch::Row;
use crate::inner::InnerConfig;
use crate::learner::{LearnError, Learner, Metrics, Setup, Snapshot};
use crate::mirror::{METRICS, MirrorStep};
use crate::on_policy::{Agent, Batch, OnPolicy, OnPolicyConfig, Update};
use crate::registry::{AgentConfig, AgentEntry, Part};
use crate::value::ValueConfig;

/// Settings of [`FmaPg`]; defaults from SPMA's code where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct FmaPgConfig {
    /// What on-policy agents share.
    #[serde(flatten)]
    pub common: OnPolicyConfig,
    /// The m steps on the surrogate.
    #[serde(flatten)]
    pub inner: InnerConfig,
    /// The value function.
    #[serde(flatten)]
    pub critic: ValueConfig,
    /// How a policy is represented, which decides the surrogate: `softmax` (sMDPO, SPMA) or `direct` (MDPO).
    pub representation: Representation,
    /// Functional step size η: the divergence has the weight 1/η. It is in units of advantages, standardised or not.
    pub eta: f64,
    /// The divergence in closed form (`exact`), or from the actions taken (`estimated`).
    pub divergence: Divergence,
}

/// What the mirror map is a function of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Representation {
    /// Logits, with the log-sum-exp mirror map.
    Softmax,
    /// Probabilities, with the negative entropy.
    Direct,
}

/// How the divergence is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// In closed form from the distributions.
    Exact,
    /// By the non-negative estimates ratio − 1 − ln ratio and ratio ln ratio − ratio + 1.
    Estimated,
}

impl Default for FmaPgConfig {
    fn default() -> FmaPgConfig {
        FmaPgConfig {
            common: OnPolicyConfig::default(),
            inner: InnerConfig::default(),
            critic: ValueConfig { vf_learning_rate: 3e-4, ..Default::default() },
            representation: Representation::Softmax,
            eta: 1.0,
            divergence: Divergence::Exact,
        }
    }
}

/// FMA-PG's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<FmaPgConfig>(
    "fma_pg",
    "functional mirror ascent: sMDPO/SPMA (softmax representation) or MDPO (direct) at a fixed step size",
    METRICS,
)
.console(&["train/kl", "train/explained_variance"]);

impl AgentConfig for FmaPgConfig {
    const PARTS: &'static [Part] =
        &[Part::of::<OnPolicyConfig>("common"), Part::of::<InnerConfig>("inner"), Part::of::<ValueConfig>("critic")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate_full_batch()?;
        self.inner.validate()?;
        self.critic.validate()?;
        check::positive("eta", self.eta, "1")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(FmaPg::learner(self, setup)?))
    }
}

/// Functional mirror ascent.
pub struct FmaPg {
    config: FmaPgConfig,
    mirror: MirrorStep,
}

impl FmaPg {
    /// Fresh networks in fresh environments.
    ///
    /// # Errors
    /// Settings out of range, or an environment that cannot be made.
    pub fn learner(config: FmaPgConfig, setup: &Setup) -> Result<OnPolicy<FmaPg>, LearnError> {
        config.validate()?;
        let rows = config.common.num_steps * setup.env.num_envs;
        OnPolicy::new(config.common.clone(), true, setup, |model| {
            let (inner, critic) = (config.inner.clone(), config.critic.clone());
            FmaPg { mirror: MirrorStep::new(inner, critic, model, rows, Seed(setup.seed)), config }
        })
    }
}

impl Update for FmaPg {
    fn update(&mut self, agent: &mut Agent, batch: &Batch) -> Result<Metrics, LearnError> {
        let FmaPgConfig { representation, divergence, eta, .. } = self.config;
        let surrogate = |row: &mut Row<'_, '_>, old: &PolicyRows<'_>| {
            surrogate(row, old, representation, divergence, (1.0 / eta) as f32)
        };
        self.mirror.update(agent, batch, eta, surrogate)
    }

    fn save(&self, snapshot: &mut Snapshot) {
        self.mirror.save(snapshot);
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.mirror.load(snapshot)
    }
}

/// A row's negative objective plus `weight` = 1/η times its divergence, to be minimised.
fn surrogate(
    row: &mut Row<'_, '_>,
    old: &PolicyRows<'_>,
    representation: Representation,
    divergence: Divergence,
    weight: f32,
) -> f32 {
    let (log_ratio, advantage) = (row.log_ratio(), row.advantage());
    let ratio = log_ratio.exp();
    let (objective, slope) = match representation {
        Representation::Softmax => (advantage * log_ratio, advantage),
        Representation::Direct => (advantage * ratio, advantage * ratio),
    };
    row.add(-slope, 0.0);
    let distance = match (representation, divergence) {
        (Representation::Softmax, Divergence::Exact) => {
            row.add_forward_kl(old, weight);
            row.forward_kl(old)
        }
        (Representation::Direct, Divergence::Exact) => {
            row.add_kl(old, weight);
            row.kl(old)
        }
        (Representation::Softmax, Divergence::Estimated) => {
            row.add(weight * (ratio - 1.0), 0.0);
            ratio - 1.0 - log_ratio
        }
        (Representation::Direct, Divergence::Estimated) => {
            row.add(weight * ratio * log_ratio, 0.0);
            ratio * log_ratio - ratio + 1.0
        }
    };
    -objective + weight * distance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::Actor;
    use crate::full_batch::FullBatch;
    use crate::full_batch::exact::{alone, categorical, close, gaussian, integral, softmax, sum};

    use Divergence::{Estimated, Exact};
    use Representation::{Direct, Softmax};

    /// `steps` steps of gradient ascent of the given length.
    fn ascended(
        (actor, mut params): (Actor, Vec<f32>),
        batch: &Batch,
        (representation, divergence): (Representation, Divergence),
        eta: f32,
        (steps, length): (usize, f32),
    ) -> Vec<f32> {
        let (mut room, workers) = (FullBatch::new(&actor, batch.steps.len()), alone());
        let mut policy = room.of(&actor, batch, &workers);
        let old = policy.freeze(&params);
        let mut grad = vec![0.0; params.len()];
        for _ in 0..steps {
            let term =
                |row: &mut Row<'_, '_>| [f64::from(surrogate(row, &old.rows(), representation, divergence, 1.0 / eta))];
            policy.mean(&params, term, Some(&mut grad));
            params.iter_mut().zip(&grad).for_each(|(p, g)| *p -= length * g);
        }
        params
    }

    const P: [f32; 3] = [0.5, 0.3, 0.2];
    const ADVANTAGE: [f32; 3] = [0.4, -0.6, -0.1];

    /// The three-armed bandit with exact expectations: over π for the direct representation, over π_k for the softmax.
    fn bandit(representation: Representation, eta: f32, steps: usize, length: f32) -> Vec<f32> {
        let weighted: Vec<f32> = ADVANTAGE.iter().zip(P).map(|(a, p)| a * p * 3.0).collect();
        let batch = match representation {
            Direct => sum(&ADVANTAGE),
            Softmax => sum(&weighted),
        };
        softmax(&ascended(categorical(&P), &batch, (representation, Exact), eta, (steps, length))[3..])
    }

    #[test]
    fn inner_steps_on_the_bandit() {
        close(&bandit(Softmax, 1.0, 1, 0.5), &[0.539_226, 0.267_551, 0.193_223], 1e-5);
        close(&bandit(Softmax, 1.0, 10, 0.5), &[0.672_252, 0.158_999, 0.168_749], 1e-5);
        close(&bandit(Softmax, 1.0, 100, 0.5), &[0.699_992, 0.120_037, 0.179_971], 1e-5);
        close(&bandit(Direct, 1.0, 1, 0.5), &[0.539_226, 0.267_551, 0.193_223], 1e-5);
        close(&bandit(Direct, 1.0, 10, 0.5), &[0.662_220, 0.173_571, 0.164_210], 1e-5);
        close(&bandit(Direct, 1.0, 100, 0.5), &[0.683_368, 0.150_845, 0.165_787], 1e-5);
    }

    #[test]
    fn closed_forms_of_the_bandit() {
        close(&bandit(Softmax, 0.5, 1000, 0.5), &[0.6, 0.21, 0.19], 1e-4);
        close(&bandit(Softmax, 1.0, 1000, 0.5), &[0.7, 0.12, 0.18], 1e-4);
        close(&bandit(Direct, 0.5, 1000, 0.5), &[0.596_859, 0.217_208, 0.185_934], 1e-4);
        close(&bandit(Direct, 1.0, 1000, 0.5), &[0.683_368, 0.150_838, 0.165_794], 1e-4);
    }

    #[test]
    fn closed_forms_of_the_gaussian_bandit() {
        // π_k = N(1/2, 1/4), A = −((a − c)² − (δ² + σ²)) with c = 2 and δ = −3/2, η = 0.1.
        let advantage = |a: f32| -(a - 2.0).powi(2) + 2.5;
        let density = |a: f32| 20.0 * (-(a - 0.5).powi(2) * 2.0).exp() / (0.5 * std::f32::consts::TAU.sqrt());
        let (actor, params) = gaussian(0.5, 0.5);
        let weighted = integral(|a| advantage(a) * density(a));
        let p = ascended((actor, params), &weighted, (Softmax, Exact), 0.1, (2000, 0.02));
        close(&[p[1], (2.0 * p[2]).exp()], &[0.575, 0.231_875], 1e-4);
        let p = ascended(gaussian(0.5, 0.5), &integral(advantage), (Direct, Exact), 0.1, (2000, 0.02));
        close(&[p[1], (2.0 * p[2]).exp()], &[0.571_428_6, 0.238_095_2], 1e-4);
    }

    #[test]
    fn estimated_divergences_are_the_exact_ones_on_average() {
        // Every action once for each twentieth of its probability: means over rows are expectations under π_k.
        let actions: Vec<f32> = [0.0; 10].into_iter().chain([1.0; 6]).chain([2.0; 4]).collect();
        let mut batch = crate::full_batch::exact::rollout(&actions, 0.0, |a| ADVANTAGE[a as usize]);
        batch.steps.log_prob = actions.iter().map(|&a| P[a as usize].ln()).collect();
        for representation in [Softmax, Direct] {
            let moved = |divergence| ascended(categorical(&P), &batch, (representation, divergence), 1.0, (10, 0.5));
            close(&moved(Estimated), &moved(Exact), 1e-5);
        }
    }

    #[test]
    fn surrogates_have_their_values() {
        // p_k = (½, ½), p = (¾, ¼), the first action with A = 2: the ratio is 3/2, KL(p_k ‖ p) = ½ ln (4/3) and KL(p ‖ p_k)
        // = ¾ ln (3/2) + ¼ ln ½.
        let (actor, params) = categorical(&[0.5, 0.5]);
        let mut batch = crate::full_batch::exact::rollout(&[0.0], 0.5f32.ln(), |_| 2.0);
        batch.steps.log_prob = vec![0.5f32.ln()];
        let (mut room, workers) = (FullBatch::new(&actor, 1), alone());
        let mut policy = room.of(&actor, &batch, &workers);
        let old = policy.freeze(&params);
        let there = categorical(&[0.75, 0.25]).1;
        for (representation, divergence, eta, expected) in [
            (Softmax, Exact, 1.0, -0.667_089),
            (Softmax, Estimated, 1.0, -0.716_395),
            (Direct, Exact, 1.0, -2.869_188),
            (Direct, Estimated, 1.0, -2.891_802),
            // Twice the divergence for half of η.
            (Direct, Exact, 0.5, -3.0 + 2.0 * 0.130_812),
        ] {
            let term =
                |row: &mut Row<'_, '_>| [f64::from(surrogate(row, &old.rows(), representation, divergence, 1.0 / eta))];
            let found = policy.mean(&there, term, None)[0];
            assert!((found - expected).abs() < 1e-5, "{representation:?} {divergence:?}: {found} is not {expected}");
        }
    }
}
