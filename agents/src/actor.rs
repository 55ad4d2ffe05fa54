//! A stochastic policy as a shape: a network whose outputs, beside the log standard deviations, are a distribution.
//!
//! Parameters are a slice, first the network's, then the log standard deviations that are free. Any slice of that length is
//! a policy: the current one, a candidate of a line search and a look-ahead point are evaluated by the same code.

use std::ops::Range;

use bregman_envs::EnvSpec;
use bregman_envs::rng::NumpyRng;

use crate::dist::Dist;
use crate::nn::{Activation, Device, Init, Mlp, Workspace};

/// How networks look.
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
    /// Where passes over batches are computed.
    pub device: Device,
}

impl NetworkShape {
    /// A network of this shape.
    pub(crate) fn network(&self, inputs: usize, outputs: usize) -> Mlp {
        Mlp::new(&[&[inputs], &self.hidden_sizes[..], &[outputs]].concat(), self.activation).on(self.device)
    }

    /// How its weights start, with this gain of the last layer.
    pub(crate) fn init(&self, output: f64) -> Init {
        match self.orthogonal_init {
            true => Init::Orthogonal { hidden: std::f64::consts::SQRT_2, output },
            false => Init::Uniform,
        }
    }
}

/// A policy without its parameters.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The family of action distributions.
    pub dist: Dist,
    pub(crate) net: Mlp,
    /// Length of the part of an output row that is the policy's; a value may stand behind it.
    width: usize,
    log_std: Range<usize>,
    state_dependent_std: bool,
}

/// Room for the activations of a batch of rows and the gradient in its outputs.
pub struct ActorPass {
    pub(crate) net: Workspace<f32>,
    pub(crate) d_output: Vec<f32>,
}

impl Actor {
    /// For an environment; unless the shape says `separate`, an output row ends with a value.
    pub fn new(spec: &EnvSpec, shape: &NetworkShape) -> Actor {
        let dist = Dist::of(&spec.action_space);
        let state_dependent_std = shape.state_dependent_std && dist.num_log_stds() > 0;
        let width = dist.num_outputs() + if state_dependent_std { dist.num_log_stds() } else { 0 };
        let net = shape.network(spec.obs_dim, width + usize::from(!shape.separate));
        let free = if state_dependent_std { 0 } else { dist.num_log_stds() };
        Actor { log_std: net.num_params()..net.num_params() + free, dist, net, width, state_dependent_std }
    }

    /// Fresh parameters.
    pub fn init(&self, shape: &NetworkShape, rng: &mut NumpyRng) -> Vec<f32> {
        let mut params: Vec<f32> = self.net.init(shape.init(0.01), rng);
        if shape.orthogonal_init && !shape.separate {
            self.net.scale_output(&mut params, self.width, 100.0); // the value's gain is 1
        }
        if self.state_dependent_std {
            for column in self.dist.num_outputs()..self.width {
                self.net.shift_output(&mut params, column, shape.log_std_init);
            }
        }
        params.resize(self.log_std.end, shape.log_std_init as f32);
        params
    }

    /// Length of the parameter slice.
    pub fn num_params(&self) -> usize {
        self.log_std.end
    }

    /// Length of an observation.
    pub fn obs_dim(&self) -> usize {
        self.net.num_inputs()
    }

    /// Length of the policy's part of an output row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The log standard deviations that are free parameters; empty where there are none.
    pub fn log_std<'a>(&self, params: &'a [f32]) -> &'a [f32] {
        &params[self.log_std.clone()]
    }

    /// Splits a policy output row into the distribution's output and its log standard deviations, `free` where these are
    /// parameters.
    fn head<'a>(&self, row: &'a [f32], free: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        let (output, log_std) = row[..self.width].split_at(self.dist.num_outputs());
        (output, if self.state_dependent_std { log_std } else { free })
    }

    /// Room for up to `capacity` rows.
    pub fn pass(&self, capacity: usize) -> ActorPass {
        ActorPass { net: self.net.workspace(capacity), d_output: Vec::new() }
    }

    /// The distributions at `obs`, `[B, obs_dim]`.
    pub fn forward<'a>(&'a self, params: &'a [f32], obs: &[f32], pass: &'a mut ActorPass) -> PolicyRows<'a> {
        let output = self.net.forward(&params[..self.log_std.start], obs, &mut pass.net);
        PolicyRows { actor: self, output, log_std: self.log_std(params) }
    }

    /// Writes the gradient of a loss in the parameters into `grad`, `[num_params]`; the loss adds its gradient in the
    /// distributions at `obs`, `[B, obs_dim]`.
    pub fn gradient<A>(
        &self,
        params: &[f32],
        obs: &[f32],
        loss: impl FnOnce(PolicyGradient<'_>) -> A,
        pass: &mut ActorPass,
        grad: &mut [f32],
    ) -> A {
        let (d_net, d_log_std) = grad.split_at_mut(self.log_std.start);
        d_log_std.fill(0.0);
        let ActorPass { net, d_output } = pass;
        let (weights, log_std) = params.split_at(self.log_std.start);
        let output = self.net.forward(weights, obs, net);
        d_output.clear();
        d_output.resize(output.len(), 0.0);
        let rows = PolicyRows { actor: self, output, log_std };
        let result = loss(PolicyGradient { rows, d_output, d_log_std });
        self.net.backward(weights, net, d_output, d_net);
        result
    }

    /// What a loss says of the distributions at `obs`, its gradient left unused.
    pub fn look<A>(
        &self,
        params: &[f32],
        obs: &[f32],
        loss: impl FnOnce(PolicyGradient<'_>) -> A,
        pass: &mut ActorPass,
    ) -> A {
        let ActorPass { net, d_output } = pass;
        let (weights, log_std) = params.split_at(self.log_std.start);
        let output = self.net.forward(weights, obs, net);
        d_output.resize(output.len(), 0.0);
        let mut d_log_std = vec![0.0; log_std.len()];
        loss(PolicyGradient { rows: PolicyRows { actor: self, output, log_std }, d_output, d_log_std: &mut d_log_std })
    }

    /// Writes the sum over the rows of the last [`forward`](Actor::forward) or [`gradient`](Actor::gradient) of J^T M J v into
    /// `out`, `[num_params]`: J the Jacobian of outputs and log standard deviations in the parameters, M the Fisher
    /// information in these.
    pub fn fisher_product(&self, params: &[f32], v: &[f32], pass: &mut ActorPass, out: &mut [f32]) {
        let (weights, log_std) = params.split_at(self.log_std.start);
        let (v_net, v_log_std) = v.split_at(self.log_std.start);
        let (out_net, out_log_std) = out.split_at_mut(self.log_std.start);
        let ActorPass { net, d_output } = pass;
        d_output.clear();
        d_output.extend_from_slice(self.net.jvp(weights, v_net, net));
        let stride = self.net.num_outputs();
        let rows = d_output.len() / stride;
        let output = self.net.output(net);
        for (v, row) in d_output.chunks_exact_mut(stride).zip(output.chunks_exact(stride)) {
            let (output, log_std) = self.head(row, log_std);
            let (v_output, v_log_std) = v[..self.width].split_at_mut(self.dist.num_outputs());
            self.dist.fisher_product(output, log_std, v_output, v_log_std);
        }
        self.net.backward(weights, net, d_output, out_net);
        // Free log standard deviations are the same in every row.
        if !out_log_std.is_empty() {
            out_log_std.copy_from_slice(v_log_std);
            self.dist.fisher_product(&[], log_std, &mut [], out_log_std);
            out_log_std.iter_mut().for_each(|x| *x *= rows as f32);
        }
    }

    /// One row's distribution, with its sums in a fixed order; see [`Mlp::forward_row`].
    pub(crate) fn forward_row<'a>(
        &'a self,
        params: &'a [f32],
        seen: &[f32],
        scratch: &'a mut RowScratch,
    ) -> PolicyRows<'a> {
        scratch.output.resize(self.net.num_outputs(), 0.0);
        self.net.forward_row(&params[..self.log_std.start], seen, &mut scratch.layers, &mut scratch.output);
        PolicyRows { actor: self, output: &scratch.output, log_std: self.log_std(params) }
    }
}

/// Room for one row's activations and outputs.
#[derive(Default)]
pub struct RowScratch {
    layers: [Vec<f32>; 2],
    output: Vec<f32>,
}

/// The distributions of a batch.
#[derive(Clone, Copy)]
pub struct PolicyRows<'a> {
    actor: &'a Actor,
    output: &'a [f32],
    log_std: &'a [f32],
}

impl<'a> PolicyRows<'a> {
    /// Number of rows, `B`.
    pub fn len(&self) -> usize {
        self.output.len() / self.actor.net.num_outputs()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.output.is_empty()
    }

    /// The network's output rows, one behind the other.
    pub(crate) fn outputs(&self) -> &'a [f32] {
        self.output
    }

    /// Row `i` as the distribution's output and its log standard deviations.
    pub fn head(&self, i: usize) -> (&'a [f32], &'a [f32]) {
        self.actor.head(&self.output[i * self.actor.net.num_outputs()..], self.log_std)
    }

    /// ln π(a|s) of row `i`.
    pub fn log_prob(&self, i: usize, action: &[f32]) -> f32 {
        let (output, log_std) = self.head(i);
        self.actor.dist.log_prob(output, log_std, action)
    }

    /// Entropy of row `i`.
    pub fn entropy(&self, i: usize) -> f32 {
        let (output, log_std) = self.head(i);
        self.actor.dist.entropy(output, log_std)
    }

    /// Their family.
    pub fn dist(&self) -> &'a Dist {
        &self.actor.dist
    }

    /// A copy that outlives later passes.
    pub fn freeze(&self) -> FrozenPolicy {
        FrozenPolicy { actor: self.actor.clone(), output: self.output.to_vec(), log_std: self.log_std.to_vec() }
    }
}

/// What a policy was over a batch: all that ratios and divergences need of it.
#[derive(Clone, Debug)]
pub struct FrozenPolicy {
    actor: Actor,
    output: Vec<f32>,
    log_std: Vec<f32>,
}

impl FrozenPolicy {
    /// Its distributions.
    pub fn rows(&self) -> PolicyRows<'_> {
        PolicyRows { actor: &self.actor, output: &self.output, log_std: &self.log_std }
    }
}

/// The distributions of a batch, and where a loss puts its gradient.
pub struct PolicyGradient<'a> {
    /// The distributions.
    pub rows: PolicyRows<'a>,
    pub(crate) d_output: &'a mut [f32],
    pub(crate) d_log_std: &'a mut [f32],
}

impl PolicyGradient<'_> {
    /// Adds the gradient of `d_log_prob · ln π(a|s) + d_entropy · H` of row `i`.
    pub fn add(&mut self, i: usize, action: &[f32], d_log_prob: f32, d_entropy: f32) {
        let dist = &self.rows.actor.dist;
        let ((output, log_std), (d_output, d_log_std)) = self.row(i);
        dist.backward(output, log_std, action, d_log_prob, d_entropy, d_output, d_log_std);
    }

    /// Adds the gradient of `d_kl · KL(π ‖ old)` of row `i`: the new policy first. `old` is an output row and its log
    /// standard deviations.
    pub fn add_kl(&mut self, i: usize, old: (&[f32], &[f32]), d_kl: f32) {
        let dist = &self.rows.actor.dist;
        let (new, (d_output, d_log_std)) = self.row(i);
        dist.kl_backward(new, old, d_kl, d_output, d_log_std);
    }

    /// Adds the gradient of `d_kl · KL(old ‖ π)` of row `i`: the old policy first.
    pub fn add_forward_kl(&mut self, i: usize, old: (&[f32], &[f32]), d_kl: f32) {
        let dist = &self.rows.actor.dist;
        let (new, (d_output, d_log_std)) = self.row(i);
        dist.forward_kl_backward(old, new, d_kl, d_output, d_log_std);
    }

    /// Adds a gradient in the output of row `i`.
    pub fn add_raw(&mut self, i: usize, output: impl IntoIterator<Item = f32>) {
        let (_, (d_output, _)) = self.row(i);
        d_output.iter_mut().zip(output).for_each(|(d, x)| *d += x);
    }

    #[allow(clippy::type_complexity)] // a distribution, and the gradient in it
    fn row(&mut self, i: usize) -> ((&[f32], &[f32]), (&mut [f32], &mut [f32])) {
        let actor = self.rows.actor;
        let start = i * actor.net.num_outputs();
        let (d_output, d_log_std) = self.d_output[start..start + actor.width].split_at_mut(actor.dist.num_outputs());
        (self.rows.head(i), (d_output, if actor.state_dependent_std { d_log_std } else { &mut *self.d_log_std }))
    }
}
