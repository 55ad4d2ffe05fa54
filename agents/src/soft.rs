//! What actor-critics over squashed Gaussians share: fresh actions, the soft target of twin critics, and how the critics' slope in
//! an action reaches the actor.

use bregman_envs::rng::NumpyRng;

use crate::critics::{CriticLosses, Judge, TwinCritics, join, smaller};
use crate::learner::{LearnError, Snapshot};
use crate::nn::Halves;
use crate::off_policy::Agent;
use crate::optim::Adam;
use crate::replay::ReplayBatch;
use crate::squashed::Draws;

/// Twin critics, the actor's optimiser, and room for a gradient step.
pub struct SoftActorCritic {
    /// Q₁ and Q₂.
    pub critics: TwinCritics,
    /// The actions last taken.
    pub draws: Draws,
    /// The slope of the mean value of these actions in them, `[B, act_dim]`; see [`judge`](SoftActorCritic::judge).
    pub d_action: Vec<f32>,
    /// The gradient of the actor's loss in its outputs, `[B, 2 · act_dim]`.
    pub d_output: Vec<f32>,
    /// The same in its parameters.
    pub grad: Vec<f32>,
    /// Targets of the critics, `[B]`.
    pub target: Vec<f32>,
    adam: Adam,
    pass: Halves<f32>,
    /// Joined observations and actions.
    input: Vec<f32>,
}

impl SoftActorCritic {
    /// Fresh critics for an agent's actor.
    pub fn new(agent: &Agent, rng: &mut NumpyRng) -> SoftActorCritic {
        let (config, actor) = (&agent.config, &agent.actor);
        let (rows, inputs) = (config.batch_size, actor.obs_dim() + actor.act_dim());
        let critic = config.network(inputs, 1, agent.setup.device);
        SoftActorCritic {
            critics: TwinCritics::new(critic, rows, config.adam_eps, rng),
            draws: Draws::new(rows, actor.act_dim()),
            d_action: vec![0.0; rows * actor.act_dim()],
            d_output: vec![0.0; rows * 2 * actor.act_dim()],
            grad: vec![0.0; actor.params.len()],
            target: vec![0.0; rows],
            adam: Adam::new(actor.params.len(), config.adam_eps),
            pass: actor.pass(rows),
            input: Vec::with_capacity(rows * inputs),
        }
    }

    /// Draws fresh noise.
    pub fn draw_noise(&mut self, agent: &mut Agent) {
        self.draws.draw_noise(&mut agent.stream);
    }

    /// Takes the actions that the noise gives at `obs`, `[B, obs_dim]`.
    pub fn act(&mut self, agent: &Agent, obs: &[f32]) {
        agent.actor.act(obs, &mut self.pass, &mut self.draws, &agent.workers);
        let rows = obs.len() / agent.actor.obs_dim();
        join(obs, &self.draws.action, rows, &mut self.input);
    }

    /// One step of the critics to y = r + γ (min Q̄(s', a') − cost), for the actions last taken, at `next_obs`; `cost` is what the
    /// entropy of a row costs.
    ///
    /// # Errors
    /// The loss is not finite.
    pub fn fit_soft(
        &mut self,
        agent: &Agent,
        batch: &ReplayBatch,
        cost: impl Fn(&Draws, usize) -> f32,
    ) -> Result<CriticLosses, LearnError> {
        let next_q = self.critics.target_values(&self.input, &agent.workers);
        for (i, (y, next_q)) in self.target.iter_mut().zip(smaller(next_q)).enumerate() {
            *y = soft_target(batch.reward[i], batch.discount[i], next_q - cost(&self.draws, i));
        }
        self.fit(agent, batch)
    }

    /// One step of the critics to [`target`](SoftActorCritic::target).
    ///
    /// # Errors
    /// The loss is not finite.
    pub fn fit(&mut self, agent: &Agent, batch: &ReplayBatch) -> Result<CriticLosses, LearnError> {
        join(&batch.obs, &batch.action, batch.len(), &mut self.input);
        let losses = self.critics.fit_weighted(
            &self.input,
            (&self.target, &batch.weight),
            agent.config.q_learning_rate,
            &agent.workers,
        );
        match losses.loss.is_finite() {
            true => Ok(losses),
            false => Err(agent.non_finite("the critics' loss", losses.loss)),
        }
    }

    /// The values, `[2, B]`, of the actions last taken; leaves the slope of the mean value in them.
    pub fn judge(&mut self, agent: &Agent, judge: Judge) -> &[f32] {
        let (obs_dim, act_dim) = (agent.actor.obs_dim(), agent.actor.act_dim());
        self.critics.values(&self.input, &agent.workers);
        let slope = self.critics.slope(judge, &agent.workers);
        let rows = self.d_action.chunks_exact_mut(act_dim).zip(slope.chunks_exact(obs_dim + act_dim));
        rows.for_each(|(d_action, slope)| d_action.copy_from_slice(&slope[obs_dim..]));
        self.critics.last_values()
    }

    /// Takes the gradient in the outputs, at the states of the actions last taken, back to the actor's parameters.
    pub fn pull_back(&mut self, agent: &Agent) {
        agent.actor.backward(&self.d_output, &mut self.pass, &mut self.grad, &agent.workers);
    }

    /// One step of the actor along the gradient.
    ///
    /// # Errors
    /// `loss`, the loss it is the gradient of, is not finite.
    pub fn actor_step(&mut self, agent: &mut Agent, loss: f64) -> Result<(), LearnError> {
        if !loss.is_finite() {
            return Err(agent.non_finite("the actor's loss", loss));
        }
        self.adam.step_on(&mut agent.actor.params, &self.grad, agent.config.learning_rate, &agent.workers);
        Ok(())
    }

    /// Puts critics and optimisers into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        self.critics.save(snapshot);
        self.adam.save("adam", snapshot);
    }

    /// Takes them from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.critics.load(snapshot)?;
        self.adam.load("adam", snapshot)
    }
}

/// y = r + discount · V(s'), the discount 0 where s' is absorbing.
pub fn soft_target(reward: f32, discount: f32, next_value: f32) -> f32 {
    reward + discount * next_value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_by_hand() {
        // r = 1, γ = 0.99, the smaller value 9, α = 0.2, ln π = −1: 1 + 0.99 (9 + 0.2) = 10.108, and 1 at an end.
        assert!((soft_target(1.0, 0.99, 9.0 + 0.2) - 10.108).abs() < 1e-5);
        assert_eq!(soft_target(1.0, 0.0, 9.0 + 0.2), 1.0);
    }
}
