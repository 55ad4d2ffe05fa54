//! A policy and a value function over normalised observations, on one flat parameter vector.

use std::ops::Range;

use bregman_envs::rng::NumpyRng;
use bregman_envs::{ActionSpace, EnvSpec};

use crate::dist::Dist;
use crate::learner::{Array, LearnError, Snapshot};
use crate::nn::{Activation, Init, Mlp, Workspace};
use crate::normalize::ObsNormalizer;
use crate::rollout::Act;

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
    /// ln σ as outputs of the policy network (added to `log_std_init`) rather than free parameters.
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
    log_std_init: f32,
    state_dependent_std: bool,
    action_space: ActionSpace,
    clip_actions: bool,
}

/// Activations and outputs of a batch of rows.
pub struct Pass {
    actor: Workspace<f32>,
    critic: Option<Workspace<f32>>,
    /// The gradient in the actor's outputs.
    d_output: Vec<f32>,
    /// Output rows of the policy, `[B, policy_width]`, of which [`ActorCritic::head`] makes sense.
    pub output: Vec<f32>,
    /// Values, `[B]`.
    pub value: Vec<f32>,
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
            log_std_init: shape.log_std_init as f32,
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
        let mut pass = self.pass(1);
        self.forward(&seen, &mut pass);
        pass.value[0]
    }

    /// The most probable action for one raw observation, as the environment would be sent it.
    pub fn best_action(&self, obs: &[f64]) -> Vec<f32> {
        let (mut seen, mut action) = (vec![0.0; obs.len()], vec![0.0; self.action_space.row_len()]);
        self.see(obs, &mut seen);
        self.mode(&seen, &mut RowScratch::default(), &mut action);
        self.bound(&mut action);
        action
    }

    /// Mean standard deviation of the state-independent case; `None` otherwise.
    pub fn mean_std(&self) -> Option<f64> {
        let log_std = &self.params[self.log_std.clone()];
        let sum: f64 = log_std.iter().map(|&s| f64::from(s).exp()).sum();
        (!log_std.is_empty()).then(|| sum / log_std.len() as f64)
    }

    /// Room for up to `capacity` rows.
    pub fn pass(&self, capacity: usize) -> Pass {
        Pass {
            actor: self.actor.workspace(capacity),
            critic: self.critic.as_ref().map(|critic| critic.workspace(capacity)),
            d_output: Vec::new(),
            output: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Policy outputs and values of `obs`, `[B, obs_dim]`, into `pass`.
    pub fn forward(&self, obs: &[f32], pass: &mut Pass) {
        let output = self.actor.forward(&self.params[..self.log_std.start], obs, &mut pass.actor);
        pass.output.clear();
        pass.value.clear();
        match (&self.critic, &mut pass.critic) {
            (Some(critic), Some(workspace)) => {
                pass.output.extend_from_slice(output);
                pass.value.extend_from_slice(critic.forward(&self.params[self.log_std.end..], obs, workspace));
            }
            _ => {
                for row in output.chunks_exact(self.actor.num_outputs()) {
                    pass.output.extend_from_slice(&row[..self.policy_width()]);
                    pass.value.push(row[self.policy_width()]);
                }
            }
        }
        if self.state_dependent_std {
            for row in pass.output.chunks_exact_mut(self.policy_width()) {
                row[self.dist.num_outputs()..].iter_mut().for_each(|s| *s += self.log_std_init);
            }
        }
    }

    /// Values of `obs`, `[B, obs_dim]`, in slices of the pass's capacity.
    pub fn values(&self, obs: &[f32], capacity: usize, pass: &mut Pass) -> Vec<f32> {
        let mut values = Vec::with_capacity(obs.len() / self.actor.num_inputs());
        for rows in obs.chunks(capacity * self.actor.num_inputs()) {
            match (&self.critic, &mut pass.critic) {
                (Some(critic), Some(workspace)) => {
                    values.extend_from_slice(critic.forward(&self.params[self.log_std.end..], rows, workspace));
                }
                _ => {
                    self.forward(rows, pass);
                    values.extend_from_slice(&pass.value);
                }
            }
        }
        values
    }

    /// Writes the gradient of a loss in all parameters into `grad`, given `d_log_prob`, `d_entropy` and `d_value`, `[B]`
    /// each: its derivatives in the log-probabilities of `action`, `[B, action row]`, in the entropies and in the values
    /// of the last [`forward`](ActorCritic::forward).
    pub fn backward(
        &self,
        action: &[f32],
        d_log_prob: &[f32],
        d_entropy: &[f32],
        d_value: &[f32],
        pass: &mut Pass,
        grad: &mut [f32],
    ) {
        let (rows, width) = (d_log_prob.len(), self.policy_width());
        let (d_actor, rest) = grad.split_at_mut(self.log_std.start);
        let (d_log_std, d_critic) = rest.split_at_mut(self.log_std.len());
        d_log_std.fill(0.0);
        let stride = self.actor.num_outputs();
        pass.d_output.clear();
        pass.d_output.resize(rows * stride, 0.0);
        let action_len = self.action_space.row_len();
        for i in 0..rows {
            let (output, log_std) = self.head(&pass.output[i * width..(i + 1) * width]);
            let row = &mut pass.d_output[i * stride..(i + 1) * stride];
            if self.critic.is_none() {
                row[width] = d_value[i];
            }
            let (d_out, d_std) = row[..width].split_at_mut(self.dist.num_outputs());
            let d_std = if self.state_dependent_std { d_std } else { &mut *d_log_std };
            let action = &action[i * action_len..(i + 1) * action_len];
            self.dist.backward(output, log_std, action, d_log_prob[i], d_entropy[i], d_out, d_std);
        }
        self.actor.backward(&self.params[..self.log_std.start], &mut pass.actor, &pass.d_output, d_actor);
        if let (Some(critic), Some(workspace)) = (&self.critic, &mut pass.critic) {
            critic.backward(&self.params[self.log_std.end..], workspace, d_value, d_critic);
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
        if self.state_dependent_std {
            let stds = self.dist.num_outputs()..self.policy_width();
            scratch.output[stds].iter_mut().for_each(|s| *s += self.log_std_init);
        }
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
