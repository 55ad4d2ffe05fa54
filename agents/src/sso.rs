//! Target-based surrogate optimisation for policies, after Lavington et al. 2023 (arXiv:2302.02607), who state it for supervised
//! and imitation learning.
//!
//! The loss is a function of targets z, here means or logits. Its gradient in z is taken once a rollout, g = A ∂ln π/∂z, and m
//! full-batch steps then fit the network to z_k + η g in the least-squares sense: they decrease −⟨g, z − z_k⟩ + |z − z_k|²/(2η),
//! summed over the components of z and averaged over the rollout. A Gaussian's standard deviations are no targets and stay
//! what they are: g is in units of 1/σ, and a fixed η would overshoot as they shrink.

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

/// Settings of [`Sso`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct SsoConfig {
    /// What on-policy agents share.
    #[serde(flatten)]
    pub common: OnPolicyConfig,
    /// The m steps on the surrogate.
    #[serde(flatten)]
    pub inner: InnerConfig,
    /// The value function.
    #[serde(flatten)]
    pub critic: ValueConfig,
    /// Step size η in the space of targets.
    pub eta: f64,
}

impl Default for SsoConfig {
    fn default() -> SsoConfig {
        SsoConfig {
            common: OnPolicyConfig::default(),
            inner: InnerConfig::default(),
            critic: ValueConfig { vf_learning_rate: 3e-4, ..Default::default() },
            eta: 0.05,
        }
    }
}

/// SSO's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<SsoConfig>(
    "sso",
    "target-based surrogate: m least-squares steps towards a gradient step in the space of means or logits",
    METRICS,
)
.console(&["train/kl", "train/explained_variance"]);

impl AgentConfig for SsoConfig {
    const PARTS: &'static [Part] =
        &[Part::of::<OnPolicyConfig>("common"), Part::of::<InnerConfig>("inner"), Part::of::<ValueConfig>("critic")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate_full_batch()?;
        self.inner.validate()?;
        self.critic.validate()?;
        let rule = "targets are means, whose standard deviations stay: false";
        check::rule(!self.common.state_dependent_std, "state_dependent_std", true, rule)?;
        check::positive("eta", self.eta, "0.05")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Sso::learner(self, setup)?))
    }
}

/// Target-based surrogate optimisation.
pub struct Sso {
    config: SsoConfig,
    mirror: MirrorStep,
}

impl Sso {
    /// Fresh networks in fresh environments.
    ///
    /// # Errors
    /// Settings out of range, or an environment that cannot be made.
    pub fn learner(config: SsoConfig, setup: &Setup) -> Result<OnPolicy<Sso>, LearnError> {
        config.validate()?;
        let rows = config.common.num_steps * setup.env.num_envs;
        OnPolicy::new(config.common.clone(), true, setup, |model| {
            let (inner, critic) = (config.inner.clone(), config.critic.clone());
            Sso { mirror: MirrorStep::new(inner, critic, model, rows, Seed(setup.seed)), config }
        })
    }
}

impl Update for Sso {
    fn update(&mut self, agent: &mut Agent, batch: &Batch) -> Result<Metrics, LearnError> {
        let inverse_eta = (1.0 / self.config.eta) as f32;
        self.mirror.update(agent, batch, self.config.eta, |row, old| surrogate(row, old, inverse_eta))
    }

    fn save(&self, snapshot: &mut Snapshot) {
        self.mirror.save(snapshot);
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.mirror.load(snapshot)
    }
}

/// A row's −⟨g, z − z_k⟩ + |z − z_k|²/(2η), to be minimised.
fn surrogate(row: &mut Row<'_, '_>, old: &PolicyRows<'_>, inverse_eta: f32) -> f32 {
    let (old_z, old_log_std) = old.head(row.index);
    let (mut g, mut unused) = (vec![0.0; old_z.len()], vec![0.0; old_log_std.len()]);
    old.dist().backward(old_z, old_log_std, row.action(), row.advantage(), 0.0, &mut g, &mut unused);
    let moved: Vec<f32> = row.head().0.iter().zip(old_z).map(|(z, old)| z - old).collect();
    row.add_raw(moved.iter().zip(&g).map(|(d, g)| d * inverse_eta - g));
    moved.iter().zip(&g).map(|(d, g)| d * d * inverse_eta / 2.0 - d * g).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::Actor;
    use crate::full_batch::FullBatch;
    use crate::full_batch::exact::{alone, categorical, close, gaussian, rollout};
    use crate::inner::{InnerLoop, InnerOptimizer};

    fn solved((actor, params): (Actor, Vec<f32>), batch: &Batch, eta: f32) -> Vec<f32> {
        let config = InnerConfig { inner_steps: 200, inner_optimizer: InnerOptimizer::Armijo, ..Default::default() };
        let (mut room, workers, mut solution) = (FullBatch::new(&actor, batch.steps.len()), alone(), params.clone());
        let mut policy = room.of(&actor, batch, &workers);
        let old = policy.freeze(&params);
        InnerLoop::new(config, params.len()).minimize(&mut solution, 1.0, |params, grad| {
            policy.mean(params, |row| [f64::from(surrogate(row, &old.rows(), 1.0 / eta))], grad)[0]
        });
        solution
    }

    #[test]
    fn targets_are_a_gradient_step_away() {
        // One action a = 1 with A = 2 under N(0, 1/4): g = 2 · (1 − 0)/σ² = 8; the deviation stays.
        let solution = solved(gaussian(0.0, 0.5), &rollout(&[1.0], 0.0, |_| 2.0), 0.05);
        close(&solution[1..], &[0.4, 0.5f32.ln()], 1e-4);
        // Action 0 with A = 1 under (0.5, 0.5): g = (1 − 0.5, −0.5).
        let start = 0.5f32.ln();
        let solution = solved(categorical(&[0.5, 0.5]), &rollout(&[0.0], 0.0, |_| 1.0), 0.5);
        close(&solution[2..], &[start + 0.25, start - 0.25], 1e-4);
        // Rows that ask for different things meet at the mean of their targets.
        let solution = solved(gaussian(0.0, 1.0), &rollout(&[1.0, 3.0], 0.0, |_| 1.0), 0.1);
        close(&solution[1..], &[0.2, 0.0], 1e-4);
    }
}
