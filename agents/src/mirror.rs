//! The outer loop of mirror-descent agents: freeze the policy that acted, take m full-batch steps on a surrogate built around
//! it, and fit the value function beside them.

use bregman_envs::rng::Seed;

use crate::actor::PolicyRows;
use crate::actor_critic::ActorCritic;
use crate::full_batch::{FullBatch, Row};
use crate::inner::{InnerConfig, InnerLoop};
use crate::learner::{LearnError, Metrics, Snapshot};
use crate::on_policy::{Agent, Batch, explained_variance};
use crate::value::{ValueConfig, ValueFit};

/// What every agent of the family logs.
pub const METRICS: &[(&str, &str)] = &[
    ("train/surrogate", "what the policy's inner steps minimise, divergence included, after the last of them"),
    ("train/surrogate_before", "the same before the first of them"),
    ("train/kl", "KL(new ‖ old), exact, mean over the rollout, after the update"),
    ("train/forward_kl", "KL(old ‖ new), exact, mean over the rollout, after the update"),
    ("train/entropy", "entropy of the policy, mean over the rollout, after the update"),
    ("train/step_size", "step size of the mirror step: the divergence's weight is its inverse"),
    ("train/inner_step_size", "Adam's step size, or the last step that the line search accepted (0: none)"),
    ("train/policy_grad_norm", "norm of the policy's gradient before clipping, mean over its steps"),
    ("train/value_loss", "squared error of the value function in scaled units, mean over minibatches"),
    ("train/explained_variance", "1 − Var(returns − values) / Var(returns) of the rollout, before the update"),
    ("train/std", "mean standard deviation of the policy, where it is a free parameter"),
    ("train/n_updates", "optimiser steps since the start"),
];

/// Inner loop, value function and room of an agent of the family.
pub struct MirrorStep {
    inner: InnerLoop,
    value_fit: ValueFit,
    full_batch: FullBatch,
}

impl MirrorStep {
    /// For rollouts of `rows` rows.
    ///
    /// # Panics
    /// Where policy and value function share one network.
    pub fn new(inner: InnerConfig, critic: ValueConfig, model: &ActorCritic, rows: usize, seed: Seed) -> MirrorStep {
        let network = model.critic.as_ref().expect("agents of this family have a value network of its own");
        MirrorStep {
            inner: InnerLoop::new(inner, model.actor.num_params()),
            value_fit: ValueFit::new(critic, network, rows, seed),
            full_batch: FullBatch::new(&model.actor, rows),
        }
    }

    /// Optimiser steps on the policy per iteration.
    pub fn inner_steps(&self) -> usize {
        self.inner.steps()
    }

    /// One iteration's update. `surrogate` returns a row's part of what the policy is to minimise and adds its gradient; it is
    /// given the row and the policy that acted. `step_size` is for the log.
    ///
    /// # Errors
    /// The surrogate's gradient or the value loss stops being finite.
    pub fn update(
        &mut self,
        agent: &mut Agent,
        batch: &Batch,
        step_size: f64,
        surrogate: impl Fn(&mut Row<'_, '_>, &PolicyRows<'_>) -> f32 + Sync,
    ) -> Result<Metrics, LearnError> {
        let (left, workers) = (agent.left(), agent.workers.clone());
        let parts = agent.model.parts().expect("a value network of its own");
        let MirrorStep { inner, value_fit, full_batch } = self;
        let mut policy = full_batch.of(parts.actor, batch, &workers);
        let old = policy.freeze(parts.actor_params);
        let old = old.rows();

        let policy_steps = || {
            let report = inner.minimize(parts.actor_params, left, |params, grad| {
                policy.mean(params, |row| [f64::from(surrogate(row, &old))], grad)[0]
            });
            let after = |row: &mut Row<'_, '_>| {
                [surrogate(row, &old), row.kl(&old), row.forward_kl(&old), row.entropy()].map(f64::from)
            };
            (report, policy.mean(parts.actor_params, after, None))
        };
        let value_steps = || value_fit.fit(parts.critic, parts.critic_params, batch, left);
        let ((report, [after, kl, forward_kl, entropy]), value_loss) = workers.join(policy_steps, value_steps);

        if !report.grad_norm.is_finite() {
            return Err(agent.non_finite("the norm of the policy's gradient", report.grad_norm));
        }
        if !value_loss.is_finite() {
            return Err(agent.non_finite("the value loss", value_loss));
        }
        agent.progress.grad_steps += self.inner.steps() as u64;
        let mut metrics = Metrics::default();
        metrics.add("train/surrogate", after);
        metrics.add("train/surrogate_before", report.before);
        metrics.add("train/kl", kl);
        metrics.add("train/forward_kl", forward_kl);
        metrics.add("train/entropy", entropy);
        metrics.add("train/step_size", step_size);
        metrics.add("train/inner_step_size", report.step);
        metrics.add("train/policy_grad_norm", report.grad_norm);
        metrics.add("train/value_loss", value_loss);
        metrics.add("train/explained_variance", explained_variance(&batch.value, &batch.returns));
        if let Some(std) = agent.model.mean_std() {
            metrics.add("train/std", std);
        }
        metrics.add("train/n_updates", agent.progress.grad_steps as f64);
        Ok(metrics)
    }

    /// Puts optimisers and streams into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        self.inner.save(snapshot);
        self.value_fit.save(snapshot);
    }

    /// Takes them from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.inner.load(snapshot)?;
        self.value_fit.load(snapshot)
    }
}
