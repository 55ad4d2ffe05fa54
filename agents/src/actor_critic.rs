//! A policy and a value function over normalised observations, on one flat parameter vector.

use bregman_envs::rng::NumpyRng;
use bregman_envs::{ActionSpace, EnvSpec};

use crate::actor::{Actor, ActorPass, NetworkShape, PolicyGradient, PolicyRows, RowScratch};
use crate::dist::Dist;
use crate::learner::{Array, LearnError, Snapshot};
use crate::nn::{Mlp, Workspace};
use crate::normalize::ObsNormalizer;
use crate::policy::{PolicyChain, PolicyOp};
use crate::rollout::Act;
use crate::workers::Workers;

/// Policy and value function. Parameters lie in the order actor, critic.
#[derive(Clone, Debug)]
pub struct ActorCritic {
    /// All parameters.
    pub params: Vec<f32>,
    /// What turns raw observations into network inputs.
    pub normalizer: ObsNormalizer,
    /// The policy's shape.
    pub actor: Actor,
    /// The value function's shape, `[obs_dim]` to one number; `None` where the actor's last output is the value.
    pub critic: Option<Mlp>,
    action_space: ActionSpace,
    clip_actions: bool,
}

/// Room for the activations of a batch of rows and the gradients in its outputs.
pub struct Pass {
    actor: ActorPass,
    critic: Option<Workspace<f32>>,
    d_value: Vec<f32>,
    capacity: usize,
}

/// Policy and value function apart.
pub struct Parts<'a> {
    /// The policy's shape.
    pub actor: &'a Actor,
    /// Its parameters.
    pub actor_params: &'a mut [f32],
    /// The value function's shape.
    pub critic: &'a Mlp,
    /// Its parameters.
    pub critic_params: &'a mut [f32],
}

impl ActorCritic {
    /// Fresh networks for an environment.
    pub fn new(
        spec: &EnvSpec,
        shape: &NetworkShape,
        normalizer: ObsNormalizer,
        clip_actions: bool,
        rng: &mut NumpyRng,
    ) -> ActorCritic {
        let actor = Actor::new(spec, shape);
        let critic = shape.separate.then(|| shape.network(spec.obs_dim, 1));
        let mut params = actor.init(shape, rng);
        if let Some(critic) = &critic {
            params.extend(critic.init::<f32>(shape.init(1.0), rng));
        }
        ActorCritic { params, normalizer, actor, critic, action_space: spec.action_space.clone(), clip_actions }
    }

    /// The policy's parameters.
    pub fn actor_params(&self) -> &[f32] {
        &self.params[..self.actor.num_params()]
    }

    /// The value function's own parameters; empty where it shares the policy's network.
    pub fn critic_params(&self) -> &[f32] {
        &self.params[self.actor.num_params()..]
    }

    /// Policy and value function apart, shapes and parameters, for algorithms that train them by optimisers of their own;
    /// `None` where they share one network.
    pub fn parts(&mut self) -> Option<Parts<'_>> {
        let (actor_params, critic_params) = self.params.split_at_mut(self.actor.num_params());
        let critic = self.critic.as_ref()?;
        Some(Parts { actor: &self.actor, actor_params, critic, critic_params })
    }

    /// The value of one raw observation, `[obs_dim]`.
    pub fn value_of(&self, obs: &[f64]) -> f32 {
        let mut seen = vec![0.0; obs.len()];
        self.see(obs, &mut seen);
        self.values(&seen, &mut self.pass(1))[0]
    }

    /// The most probable action for one raw observation, as the environment would be sent it.
    pub fn best_action(&self, obs: &[f64]) -> Vec<f32> {
        let (mut seen, mut action) = (vec![0.0; obs.len()], vec![0.0; self.action_space.row_len()]);
        self.see(obs, &mut seen);
        self.mode(&seen, &mut RowScratch::default(), &mut action);
        self.bound(&mut action);
        action
    }

    /// The deterministic policy, [`best_action`](ActorCritic::best_action), as plain operations.
    pub fn chain(&self) -> PolicyChain {
        let bounds = self.clip_actions.then_some(&self.action_space);
        chain(&self.actor, &self.params, self.normalizer.op(), bounds)
    }

    /// Mean standard deviation of the state-independent case; `None` otherwise.
    pub fn mean_std(&self) -> Option<f64> {
        let log_std = self.actor.log_std(&self.params);
        let sum: f64 = log_std.iter().map(|&s| f64::from(s).exp()).sum();
        (!log_std.is_empty()).then(|| sum / log_std.len() as f64)
    }

    /// Room for up to `capacity` rows.
    pub fn pass(&self, capacity: usize) -> Pass {
        Pass {
            actor: self.actor.pass(capacity),
            critic: self.critic.as_ref().map(|critic| critic.workspace(capacity)),
            d_value: Vec::new(),
            capacity,
        }
    }

    /// Values of `obs`, `[B, obs_dim]`, in slices of the pass's capacity.
    pub fn values(&self, obs: &[f32], pass: &mut Pass) -> Vec<f32> {
        let net = &self.actor.net;
        let mut values = Vec::with_capacity(obs.len() / net.num_inputs());
        for rows in obs.chunks(pass.capacity * net.num_inputs()) {
            match (&self.critic, &mut pass.critic) {
                (Some(critic), Some(workspace)) => {
                    values.extend_from_slice(critic.forward(self.critic_params(), rows, workspace));
                }
                _ => {
                    let output = net.forward(&self.params, rows, &mut pass.actor.net);
                    values.extend(output.chunks_exact(net.num_outputs()).map(|row| row[self.actor.width()]));
                }
            }
        }
        values
    }

    /// Writes the gradient of a loss in all parameters into `grad`. The loss is given in two independent parts: `policy_loss`
    /// reads the policy's output rows and adds its gradient in them and in the log standard deviations; `value_loss` reads
    /// the values, `[B]`, and adds its gradient. With two networks both parts run side by side.
    pub fn gradient<A: Send, B: Send>(
        &self,
        obs: &[f32],
        policy_loss: impl FnOnce(PolicyGradient<'_>) -> A + Send,
        value_loss: impl FnOnce(&[f32], &mut [f32]) -> B + Send,
        pass: &mut Pass,
        grad: &mut [f32],
        workers: &Workers,
    ) -> (A, B) {
        let actor = &self.actor;
        let (actor_params, critic_params) = self.params.split_at(actor.num_params());
        let (d_actor, d_critic) = grad.split_at_mut(actor.num_params());
        let Pass { actor: pass, critic: workspace, d_value, .. } = pass;
        d_value.clear();
        d_value.resize(obs.len() / actor.net.num_inputs(), 0.0);
        match (&self.critic, workspace) {
            (Some(critic), Some(workspace)) => workers.join(
                || actor.gradient(actor_params, obs, policy_loss, pass, d_actor),
                || {
                    let loss = value_loss(critic.forward(critic_params, obs, workspace), d_value);
                    critic.backward(critic_params, workspace, d_value, d_critic);
                    loss
                },
            ),
            _ => {
                let (width, stride) = (actor.width(), actor.net.num_outputs());
                let both = |policy: PolicyGradient<'_>| {
                    let values: Vec<f32> = policy.rows.outputs().chunks_exact(stride).map(|row| row[width]).collect();
                    let value = value_loss(&values, d_value);
                    policy.d_output.chunks_exact_mut(stride).zip(d_value).for_each(|(row, &mut d)| row[width] = d);
                    (policy_loss(policy), value)
                };
                actor.gradient(actor_params, obs, both, pass, d_actor)
            }
        }
    }

    /// The policy and its normaliser, in a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("params", Array::F32(self.params.clone()));
        self.normalizer.save(snapshot);
    }

    /// Takes parameters and normaliser from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into("params", &mut self.params)?;
        self.normalizer.load(snapshot)
    }

    fn row<'a>(&'a self, seen: &[f32], scratch: &'a mut RowScratch) -> PolicyRows<'a> {
        self.actor.forward_row(self.actor_params(), seen, scratch)
    }
}

/// The most probable action of an actor as plain operations, behind a first one and clipped to the bounds of a box if there are
/// such.
pub(crate) fn chain(
    actor: &Actor,
    params: &[f32],
    first: Option<PolicyOp>,
    bounds: Option<&ActionSpace>,
) -> PolicyChain {
    let mut ops: Vec<PolicyOp> = first.into_iter().collect();
    let net = &actor.net;
    // Of the last layer only what the action is read from: no standard deviations, no value.
    ops.extend(PolicyOp::network(net, params, actor.dist.num_outputs()));
    match (&actor.dist, bounds) {
        (Dist::Categorical { nvec }, _) => ops.push(PolicyOp::ArgMax { nvec: nvec.clone() }),
        (Dist::Gaussian { .. }, Some(ActionSpace::Box { low, high })) => {
            ops.push(PolicyOp::Clip { low: low.clone(), high: high.clone() });
        }
        (Dist::Gaussian { .. }, _) => {}
    }
    PolicyChain { obs_dim: net.num_inputs(), ops }
}

impl Act for ActorCritic {
    type Scratch = RowScratch;

    fn see(&self, obs: &[f64], seen: &mut [f32]) {
        self.normalizer.normalize(obs, seen);
    }

    fn sample(&self, seen: &[f32], rng: &mut NumpyRng, scratch: &mut RowScratch, action: &mut [f32]) -> f32 {
        let (output, log_std) = self.row(seen, scratch).head(0);
        self.actor.dist.sample(output, log_std, rng, action)
    }

    fn mode(&self, seen: &[f32], scratch: &mut RowScratch, action: &mut [f32]) {
        self.actor.dist.mode(self.row(seen, scratch).head(0).0, action);
    }

    fn bound(&self, action: &mut [f32]) {
        if self.clip_actions {
            self.action_space.clip(action);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Activation;

    #[test]
    fn the_chain_acts_as_the_policy_does() {
        let bounded = ActionSpace::Box { low: vec![-0.4, -1.0], high: vec![0.4, f32::INFINITY] };
        for action_space in [bounded, ActionSpace::Discrete { n: 3 }, ActionSpace::MultiDiscrete { nvec: vec![2, 4] }] {
            for (separate, normalized) in [(true, true), (false, true), (true, false)] {
                let mut rng = NumpyRng::new(5);
                let spec = EnvSpec {
                    id: "test".into(),
                    obs_dim: 3,
                    action_space: action_space.clone(),
                    max_episode_steps: None,
                    reward_threshold: None,
                    backend: "native",
                    parallel: true,
                };
                let mut normalizer = ObsNormalizer::new(3, 2.0, normalized);
                normalizer.update(&[1.0, 200.0, 0.1, 3.0, 300.0, 0.1]);
                let shape = NetworkShape {
                    hidden_sizes: vec![8, 5],
                    activation: if separate { Activation::Tanh } else { Activation::Relu },
                    separate,
                    orthogonal_init: false,
                    log_std_init: 0.0,
                    state_dependent_std: separate,
                    device: Default::default(),
                };
                let model = ActorCritic::new(&spec, &shape, normalizer, true, &mut rng);
                let chain = model.chain();
                assert_eq!((chain.obs_dim, chain.action_len()), (3, action_space.row_len()));
                for _ in 0..100 {
                    let obs = [rng.uniform(0.0, 4.0), rng.uniform(150.0, 350.0), rng.uniform(0.0, 0.2)];
                    let pairs = model.best_action(&obs).into_iter().zip(chain.act(&obs));
                    // The policy's tanh is its own.
                    pairs.for_each(|(ours, chained)| assert!((ours - chained).abs() < 1e-5, "{ours} {chained}"));
                }
            }
        }
    }

    #[test]
    fn networks_start_as_the_settings_say() {
        let model = |separate, state_dependent_std| {
            let spec = EnvSpec {
                id: "test".into(),
                obs_dim: 3,
                action_space: ActionSpace::Box { low: vec![-1.0], high: vec![1.0] },
                max_episode_steps: None,
                reward_threshold: None,
                backend: "native",
                parallel: true,
            };
            let shape = NetworkShape {
                hidden_sizes: vec![8],
                activation: Activation::Tanh,
                separate,
                orthogonal_init: true,
                log_std_init: -0.7,
                state_dependent_std,
                device: Default::default(),
            };
            ActorCritic::new(&spec, &shape, ObsNormalizer::new(3, 10.0, false), true, &mut NumpyRng::new(2))
        };
        let norm = |weights: &[f32], step: usize, from: usize| {
            weights.iter().skip(from).step_by(step).map(|w| w * w).sum::<f32>().sqrt()
        };
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-5 * b, "{a} is not {b}");
        // Behind the hidden layer's 32 parameters stand 8 weights and a bias for each output, then ln σ: gains 0.01 and 1.
        let apart = model(true, false);
        assert_eq!(apart.actor_params()[41..], [-0.7]);
        near(norm(&apart.actor_params()[32..40], 1, 0), 0.01);
        near(norm(&apart.critic_params()[32..40], 1, 0), 1.0);
        let shared = model(false, false);
        near(norm(&shared.params[32..48], 2, 0), 0.01);
        near(norm(&shared.params[32..48], 2, 1), 1.0);
        // At 0 an output is its bias.
        let mut scratch = RowScratch::default();
        assert_eq!(model(true, true).row(&[0.0; 3], &mut scratch).head(0).1, [-0.7]);
    }
}
