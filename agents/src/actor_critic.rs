//! A policy and a value function over normalised observations, on one flat parameter vector.

use std::ops::Range;

use bregman_envs::rng::NumpyRng;
use bregman_envs::{ActionSpace, EnvSpec};

use crate::dist::Dist;
use crate::learner::{Array, LearnError, Snapshot};
use crate::nn::{Activation, Init, Mlp, Workspace};
use crate::normalize::ObsNormalizer;
use crate::policy::{PolicyChain, PolicyOp};
use crate::rollout::Act;
use crate::workers::Workers;

/// How the networks look.
#[derive(Clone, Debug)]
pub struct NetworkShape {
    /// Widths of the hidden layers.
    pub hidden_sizes: Vec<usize>,
    /// What stands between linear layers.
    pub activation: Activation,
    /// Two networks, or one with a value output beside the policy's.
    pub separate: bool,
    /// Orthogonal weights (hidden gain √2, policy output 0.01, value output 1), or PyTorch's uniform ones.
    pub orthogonal_init: bool,
    /// ln σ at the start.
    pub log_std_init: f64,
    /// ln σ as outputs of the policy network, which start around `log_std_init`, rather than free parameters.
    pub state_dependent_std: bool,
}

/// Policy and value function. Parameters lie in the order actor, log standard deviations, critic.
#[derive(Clone, Debug)]
pub struct ActorCritic {
    /// All parameters.
    pub params: Vec<f32>,
    /// What turns raw observations into network inputs.
    pub normalizer: ObsNormalizer,
    /// The family of action distributions.
    pub dist: Dist,
    actor: Mlp,
    /// `None` where the actor's last output is the value.
    critic: Option<Mlp>,
    log_std: Range<usize>,
    state_dependent_std: bool,
    action_space: ActionSpace,
    clip_actions: bool,
}

/// Room for the activations of a batch of rows and the gradients in its outputs.
pub struct Pass {
    actor: Workspace<f32>,
    critic: Option<Workspace<f32>>,
    d_output: Vec<f32>,
    d_value: Vec<f32>,
    capacity: usize,
}

/// A batch of the policy's output rows, and where a loss puts its gradient.
pub struct PolicyRows<'a> {
    model: &'a ActorCritic,
    output: &'a [f32],
    d_output: &'a mut [f32],
    d_log_std: &'a mut [f32],
}

impl PolicyRows<'_> {
    /// ln π(a|s) of row `i`.
    pub fn log_prob(&self, i: usize, action: &[f32]) -> f32 {
        let (output, log_std) = self.model.head(self.row(i));
        self.model.dist.log_prob(output, log_std, action)
    }

    /// Entropy of row `i`.
    pub fn entropy(&self, i: usize) -> f32 {
        let (output, log_std) = self.model.head(self.row(i));
        self.model.dist.entropy(output, log_std)
    }

    /// Adds the gradient of `d_log_prob · ln π(a|s) + d_entropy · H` of row `i`.
    pub fn add_gradient(&mut self, i: usize, action: &[f32], d_log_prob: f32, d_entropy: f32) {
        let model = self.model;
        let (output, log_std) = model.head(&self.output[i * model.actor.num_outputs()..]);
        let start = i * model.actor.num_outputs();
        let row = &mut self.d_output[start..start + model.policy_width()];
        let (d_out, d_std) = row.split_at_mut(model.dist.num_outputs());
        let d_std = if model.state_dependent_std { d_std } else { &mut *self.d_log_std };
        model.dist.backward(output, log_std, action, d_log_prob, d_entropy, d_out, d_std);
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.output[i * self.model.actor.num_outputs()..]
    }
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
        let dist = Dist::of(&spec.action_space);
        let state_dependent_std = shape.state_dependent_std && dist.num_log_stds() > 0;
        let policy_width = dist.num_outputs() + if state_dependent_std { dist.num_log_stds() } else { 0 };
        let widths = |outputs: usize| [&[spec.obs_dim], &shape.hidden_sizes[..], &[outputs]].concat();
        let actor = Mlp::new(&widths(policy_width + usize::from(!shape.separate)), shape.activation);
        let critic = shape.separate.then(|| Mlp::new(&widths(1), shape.activation));

        let init = |output| match shape.orthogonal_init {
            true => Init::Orthogonal { hidden: std::f64::consts::SQRT_2, output },
            false => Init::Uniform,
        };
        let mut params: Vec<f32> = actor.init(init(0.01), rng);
        if shape.orthogonal_init && !shape.separate {
            actor.scale_output(&mut params, policy_width, 100.0); // the value's gain is 1
        }
        if state_dependent_std {
            for column in dist.num_outputs()..policy_width {
                actor.shift_output(&mut params, column, shape.log_std_init);
            }
        }
        let log_stds = if state_dependent_std { 0 } else { dist.num_log_stds() };
        let log_std = params.len()..params.len() + log_stds;
        params.resize(log_std.end, shape.log_std_init as f32);
        if let Some(critic) = &critic {
            params.extend(critic.init::<f32>(init(1.0), rng));
        }
        ActorCritic {
            params,
            normalizer,
            dist,
            actor,
            critic,
            log_std,
            state_dependent_std,
            action_space: spec.action_space.clone(),
            clip_actions,
        }
    }

    /// Length of a policy output row.
    pub fn policy_width(&self) -> usize {
        self.actor.num_outputs() - usize::from(self.critic.is_none())
    }

    /// Splits a policy output row into the distribution's output and its log standard deviations.
    pub fn head<'a>(&'a self, row: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        if self.state_dependent_std {
            row[..self.policy_width()].split_at(self.dist.num_outputs())
        } else {
            (&row[..self.policy_width()], &self.params[self.log_std.clone()])
        }
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
        let mut ops: Vec<PolicyOp> = self.normalizer.op().into_iter().collect();
        let count = self.actor.layers(&self.params).count();
        for (i, (weight, bias)) in self.actor.layers(&self.params).enumerate() {
            let last = i + 1 == count;
            // Of the last layer only what the action is read from: no standard deviations, no value.
            let kept = if last { self.dist.num_outputs() } else { bias.len() };
            let weight = weight.chunks_exact(bias.len()).flat_map(|row| &row[..kept]).copied().collect();
            ops.push(PolicyOp::Linear { weight, bias: bias[..kept].to_vec() });
            if !last {
                ops.push(PolicyOp::Activation(self.actor.activation()));
            }
        }
        match &self.dist {
            Dist::Categorical { nvec } => ops.push(PolicyOp::ArgMax { nvec: nvec.clone() }),
            Dist::Gaussian { .. } => match &self.action_space {
                ActionSpace::Box { low, high } if self.clip_actions => {
                    ops.push(PolicyOp::Clip { low: low.clone(), high: high.clone() });
                }
                _ => {}
            },
        }
        PolicyChain { obs_dim: self.actor.num_inputs(), ops }
    }

    /// The log standard deviations that are free parameters; empty where there are none.
    pub fn log_std(&self) -> &[f32] {
        &self.params[self.log_std.clone()]
    }

    /// Mean standard deviation of the state-independent case; `None` otherwise.
    pub fn mean_std(&self) -> Option<f64> {
        let log_std = self.log_std();
        let sum: f64 = log_std.iter().map(|&s| f64::from(s).exp()).sum();
        (!log_std.is_empty()).then(|| sum / log_std.len() as f64)
    }

    /// Room for up to `capacity` rows.
    pub fn pass(&self, capacity: usize) -> Pass {
        Pass {
            actor: self.actor.workspace(capacity),
            critic: self.critic.as_ref().map(|critic| critic.workspace(capacity)),
            d_output: Vec::new(),
            d_value: Vec::new(),
            capacity,
        }
    }

    /// Values of `obs`, `[B, obs_dim]`, in slices of the pass's capacity.
    pub fn values(&self, obs: &[f32], pass: &mut Pass) -> Vec<f32> {
        let inputs = self.actor.num_inputs();
        let mut values = Vec::with_capacity(obs.len() / inputs);
        for rows in obs.chunks(pass.capacity * inputs) {
            match (&self.critic, &mut pass.critic) {
                (Some(network), Some(critic)) => {
                    values.extend_from_slice(network.forward(&self.params[self.log_std.end..], rows, critic));
                }
                _ => {
                    let output = self.actor.forward(&self.params[..self.log_std.start], rows, &mut pass.actor);
                    let stride = self.actor.num_outputs();
                    values.extend(output.chunks_exact(stride).map(|row| row[self.policy_width()]));
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
        policy_loss: impl FnOnce(PolicyRows<'_>) -> A + Send,
        value_loss: impl FnOnce(&[f32], &mut [f32]) -> B + Send,
        pass: &mut Pass,
        grad: &mut [f32],
        workers: &Workers,
    ) -> (A, B) {
        let (d_actor, rest) = grad.split_at_mut(self.log_std.start);
        let (d_log_std, d_critic) = rest.split_at_mut(self.log_std.len());
        d_log_std.fill(0.0);
        let Pass { actor, critic, d_output, d_value, .. } = pass;
        let actor_params = &self.params[..self.log_std.start];
        let rows = obs.len() / self.actor.num_inputs();
        d_output.clear();
        d_output.resize(rows * self.actor.num_outputs(), 0.0);
        d_value.clear();
        d_value.resize(rows, 0.0);
        match (&self.critic, critic) {
            (Some(network), Some(critic)) => workers.join(
                || {
                    let output = self.actor.forward(actor_params, obs, actor);
                    let loss = policy_loss(PolicyRows { model: self, output, d_output, d_log_std });
                    self.actor.backward(actor_params, actor, d_output, d_actor);
                    loss
                },
                || {
                    let params = &self.params[self.log_std.end..];
                    let loss = value_loss(network.forward(params, obs, critic), d_value);
                    network.backward(params, critic, d_value, d_critic);
                    loss
                },
            ),
            _ => {
                let (width, stride) = (self.policy_width(), self.actor.num_outputs());
                let output = self.actor.forward(actor_params, obs, actor);
                let values: Vec<f32> = output.chunks_exact(stride).map(|row| row[width]).collect();
                let losses = (
                    policy_loss(PolicyRows { model: self, output, d_output, d_log_std }),
                    value_loss(&values, d_value),
                );
                d_output.chunks_exact_mut(stride).zip(d_value).for_each(|(row, &mut d)| row[width] = d);
                self.actor.backward(actor_params, actor, d_output, d_actor);
                losses
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
}

/// Room for one row's activations and outputs.
#[derive(Default)]
pub struct RowScratch {
    layers: [Vec<f32>; 2],
    output: Vec<f32>,
}

impl ActorCritic {
    fn forward_row(&self, seen: &[f32], scratch: &mut RowScratch) {
        scratch.output.resize(self.actor.num_outputs(), 0.0);
        let params = &self.params[..self.log_std.start];
        self.actor.forward_row(params, seen, &mut scratch.layers, &mut scratch.output);
    }
}

impl Act for ActorCritic {
    type Scratch = RowScratch;

    fn see(&self, obs: &[f64], seen: &mut [f32]) {
        self.normalizer.normalize(obs, seen);
    }

    fn sample(&self, seen: &[f32], rng: &mut NumpyRng, scratch: &mut RowScratch, action: &mut [f32]) -> f32 {
        self.forward_row(seen, scratch);
        let (output, log_std) = self.head(&scratch.output);
        self.dist.sample(output, log_std, rng, action)
    }

    fn mode(&self, seen: &[f32], scratch: &mut RowScratch, action: &mut [f32]) {
        self.forward_row(seen, scratch);
        self.dist.mode(self.head(&scratch.output).0, action);
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
}
