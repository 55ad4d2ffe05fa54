//! The policy of offline agents: a network that gives the mean of a Gaussian over a box, with free deviations or none.
//!
//! A batch goes through the network in two halves, on as many threads as there are, so that the sums are the same on any
//! number of them.

use bregman_envs::rng::NumpyRng;
use bregman_envs::{ActionSpace, EnvSpec};

use crate::learner::{Array, LearnError, Snapshot};
use crate::nn::{Activation, Device, Halves, Init, Mlp, Precision};
use crate::normalize::ObsNormalizer;
use crate::policy::{PolicyChain, PolicyOp};
use crate::rollout::Act;
use crate::workers::Workers;

/// Bounds of ln σ, inside which it is learned; the gradient vanishes outside.
pub const LOG_STD: (f32, f32) = (-5.0, 2.0);

/// ln(2π)/2.
const HALF_LN_TAU: f32 = 0.918_938_5;

/// A policy over real actions within bounds.
#[derive(Clone, Debug)]
pub struct BoxPolicy {
    /// The network's parameters, then ln σ of each action component where there is one.
    pub params: Vec<f32>,
    /// What turns raw observations into network inputs.
    pub normalizer: ObsNormalizer,
    net: Mlp,
    space: ActionSpace,
    /// Middle and half-width of the box, where the mean is squashed into it.
    squash: Option<(Vec<f32>, Vec<f32>)>,
}

/// What a policy is like.
#[derive(Clone, Debug)]
pub struct BoxPolicyShape<'a> {
    /// Widths of the hidden layers.
    pub hidden_sizes: &'a [usize],
    /// Whether tanh takes the mean into the box.
    pub squash: bool,
    /// Whether there are deviations.
    pub stochastic: bool,
    /// Of the products between hidden layers.
    pub precision: Precision,
    /// Where passes over batches are computed.
    pub device: Device,
}

/// Room for a batch on its way through a policy.
pub struct BoxPolicyPass {
    halves: Halves<f32>,
    /// `[B, act_dim]`.
    mean: Vec<f32>,
    /// The gradient in the network's output, `[B, act_dim]`.
    d_output: Vec<f32>,
}

/// Room for cloning a batch's actions by weights.
pub struct CloningPass {
    pass: BoxPolicyPass,
    /// What has a weight: `[N, obs_dim]`, `[N, act_dim]` and `[N]`.
    obs: Vec<f32>,
    action: Vec<f32>,
    weight: Vec<f32>,
    d_mean: Vec<f32>,
    d_log_std: Vec<f32>,
}

impl CloningPass {
    /// For batches of up to `batch_size`.
    pub fn new(policy: &BoxPolicy, batch_size: usize) -> CloningPass {
        let room = |width: usize| Vec::with_capacity(batch_size * width);
        let (obs_dim, act_dim) = (policy.obs_dim(), policy.act_dim());
        CloningPass {
            pass: policy.pass(batch_size),
            obs: room(obs_dim),
            action: room(act_dim),
            weight: room(1),
            d_mean: room(act_dim),
            d_log_std: Vec::with_capacity(act_dim),
        }
    }

    /// −mean over rows of w ln π(a|s); its gradient in all parameters goes into `grad`. Rows of weight 0 move nothing and do not
    /// go through the network.
    ///
    /// `obs` are `[B, obs_dim]`, as the network sees them, `action` `[B, act_dim]` and `weight` `[B]`.
    pub fn gradient(
        &mut self,
        policy: &BoxPolicy,
        obs: &[f32],
        action: &[f32],
        weight: &[f32],
        grad: &mut [f32],
        workers: &Workers,
    ) -> f64 {
        let CloningPass { pass, obs: seen, action: taken, weight: kept, d_mean, d_log_std } = self;
        [&mut *seen, taken, kept].into_iter().for_each(Vec::clear);
        // The mean over rows that are kept counts by their share.
        let share = weight.iter().filter(|w| **w != 0.0).count() as f32 / weight.len() as f32;
        let rows = obs.chunks_exact(policy.obs_dim()).zip(action.chunks_exact(policy.act_dim()));
        for ((obs, action), weight) in rows.zip(weight).filter(|(_, weight)| **weight != 0.0) {
            seen.extend_from_slice(obs);
            taken.extend_from_slice(action);
            kept.push(weight * share);
        }
        if kept.is_empty() {
            grad.fill(0.0);
            return 0.0;
        }
        let mean = policy.means(&policy.params, seen, pass, workers);
        let loss = policy.cloning_loss(mean, taken, kept, d_mean, d_log_std);
        policy.backward(d_mean, d_log_std, pass, grad, workers);
        loss
    }
}

impl BoxPolicy {
    /// A fresh policy.
    ///
    /// # Errors
    /// An environment whose actions are choices, or without bounds where the mean is to be squashed.
    pub fn new(
        spec: &EnvSpec,
        shape: &BoxPolicyShape,
        normalizer: ObsNormalizer,
        rng: &mut NumpyRng,
    ) -> Result<BoxPolicy, LearnError> {
        let unsuitable = |what: &str| Err(LearnError::Unsuitable(format!("{} has {what}", spec.id)));
        let ActionSpace::Box { low, high } = &spec.action_space else {
            return unsuitable("actions that are choices, and offline agents learn real ones");
        };
        let finite = low.iter().chain(high).all(|x| x.is_finite());
        if shape.squash && !finite {
            return unsuitable("actions without bounds, into which no mean can be squashed");
        }
        let squash = shape.squash.then(|| {
            let both = || low.iter().zip(high);
            (both().map(|(l, h)| (l + h) / 2.0).collect(), both().map(|(l, h)| (h - l) / 2.0).collect())
        });
        let widths = [&[spec.obs_dim], shape.hidden_sizes, &[low.len()]].concat();
        let net = Mlp::new(&widths, Activation::Relu).on(shape.device).with_precision(shape.precision);
        let mut params: Vec<f32> = net.init(Init::Uniform, rng);
        params.resize(net.num_params() + if shape.stochastic { low.len() } else { 0 }, 0.0);
        Ok(BoxPolicy { params, normalizer, net, space: spec.action_space.clone(), squash })
    }

    /// Length of an observation.
    pub fn obs_dim(&self) -> usize {
        self.net.num_inputs()
    }

    /// Length of an action.
    pub fn act_dim(&self) -> usize {
        self.net.num_outputs()
    }

    /// Bounds of the actions.
    pub fn bounds(&self) -> (&[f32], &[f32]) {
        match &self.space {
            ActionSpace::Box { low, high } => (low, high),
            _ => (&[], &[]),
        }
    }

    /// ln σ, before it is clamped to [`LOG_STD`]; empty where there are no deviations.
    pub fn log_std(&self) -> &[f32] {
        &self.params[self.net.num_params()..]
    }

    /// Mean standard deviation; 0 where there are none.
    pub fn mean_std(&self) -> f64 {
        let log_std = self.log_std();
        let sum: f64 = log_std.iter().map(|s| f64::from(s.clamp(LOG_STD.0, LOG_STD.1)).exp()).sum();
        sum / log_std.len().max(1) as f64
    }

    /// Room for batches of `batch_size`.
    pub fn pass(&self, batch_size: usize) -> BoxPolicyPass {
        BoxPolicyPass { halves: Halves::new(&self.net, batch_size), mean: Vec::new(), d_output: Vec::new() }
    }

    /// Mean actions for `obs`, `[B, obs_dim]`, as the networks see them: `[B, act_dim]`.
    pub fn means<'a>(&self, params: &[f32], obs: &[f32], pass: &'a mut BoxPolicyPass, workers: &Workers) -> &'a [f32] {
        let BoxPolicyPass { halves, mean, .. } = pass;
        mean.clear();
        mean.extend_from_slice(halves.forward(&self.net, &params[..self.net.num_params()], obs, workers));
        self.squash_rows(mean);
        mean
    }

    fn squash_rows(&self, means: &mut [f32]) {
        if let Some((middle, width)) = &self.squash {
            for row in means.chunks_exact_mut(middle.len()) {
                row.iter_mut().zip(middle.iter().zip(width)).for_each(|(u, (c, w))| *u = c + w * u.tanh());
            }
        }
    }

    /// Writes the gradient of a loss in all parameters into `grad`, given its gradient in the last means, `[B, act_dim]`, and
    /// in ln σ.
    pub fn backward(
        &self,
        d_mean: &[f32],
        d_log_std: &[f32],
        pass: &mut BoxPolicyPass,
        grad: &mut [f32],
        workers: &Workers,
    ) {
        let (d_net, d_rest) = grad.split_at_mut(self.net.num_params());
        d_rest.copy_from_slice(d_log_std);
        let BoxPolicyPass { halves, mean, d_output } = pass;
        d_output.clear();
        d_output.extend_from_slice(d_mean);
        if let Some((middle, width)) = &self.squash {
            for (i, (d, y)) in d_output.iter_mut().zip(mean).enumerate() {
                // y = c + w tanh u, so that dy/du = w (1 − tanh² u).
                let (c, w) = (middle[i % middle.len()], width[i % width.len()]);
                // A component whose bounds are one number does not move.
                let t = if w == 0.0 { 0.0 } else { (*y - c) / w };
                *d *= w * (1.0 - t * t);
            }
        }
        halves.backward(&self.net, &self.params[..self.net.num_params()], d_output, d_net, workers);
    }

    /// −mean over rows of w ln π(a|s), with its gradients in means and ln σ.
    fn cloning_loss(
        &self,
        mean: &[f32],
        action: &[f32],
        weight: &[f32],
        d_mean: &mut Vec<f32>,
        d_log_std: &mut Vec<f32>,
    ) -> f64 {
        let act_dim = self.act_dim();
        let rows = mean.len() / act_dim;
        let log_std = self.log_std();
        d_mean.clear();
        d_log_std.clear();
        d_log_std.resize(act_dim, 0.0);
        let mut loss = 0.0;
        for (i, (mean, action)) in mean.chunks_exact(act_dim).zip(action.chunks_exact(act_dim)).enumerate() {
            let scale = weight[i] / rows as f32;
            for (j, (m, a)) in mean.iter().zip(action).enumerate() {
                let s = log_std[j].clamp(LOG_STD.0, LOG_STD.1);
                let z = (a - m) * (-s).exp();
                loss += f64::from(scale * (z * z / 2.0 + s + HALF_LN_TAU));
                d_mean.push(-scale * z * (-s).exp());
                if (LOG_STD.0..=LOG_STD.1).contains(&log_std[j]) {
                    d_log_std[j] += scale * (1.0 - z * z);
                }
            }
        }
        loss
    }

    /// Mean over rows and components of the squared distance to `action`, with its gradient in the means.
    pub fn squared_loss(&self, mean: &[f32], action: &[f32], d_mean: &mut Vec<f32>) -> f64 {
        let scale = 1.0 / mean.len() as f32;
        d_mean.clear();
        d_mean.extend(mean.iter().zip(action).map(|(m, a)| 2.0 * scale * (m - a)));
        mean.iter().zip(action).map(|(m, a)| f64::from((m - a).powi(2) * scale)).sum()
    }

    /// Normalises rows of raw observations, `[B, obs_dim]`, in place.
    pub fn see_rows(&self, rows: &mut [f32]) {
        self.normalizer.normalize_rows(rows);
    }

    /// The deterministic policy as plain operations.
    pub fn chain(&self) -> PolicyChain {
        let mut ops: Vec<PolicyOp> = self.normalizer.op().into_iter().collect();
        ops.extend(PolicyOp::network(&self.net, &self.params, self.act_dim()));
        if let Some((middle, width)) = &self.squash {
            ops.push(PolicyOp::Activation(Activation::Tanh));
            if middle.iter().any(|&c| c != 0.0) || width.iter().any(|&w| w != 1.0) {
                let n = width.len();
                let weight = (0..n * n).map(|i| if i / n == i % n { width[i / n] } else { 0.0 }).collect();
                ops.push(PolicyOp::Linear { weight, bias: middle.clone() });
            }
        }
        let (low, high) = self.bounds();
        ops.push(PolicyOp::Clip { low: low.to_vec(), high: high.to_vec() });
        PolicyChain { obs_dim: self.net.num_inputs(), ops }
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

impl Act for BoxPolicy {
    type Scratch = [Vec<f32>; 2];

    fn see(&self, obs: &[f64], seen: &mut [f32]) {
        self.normalizer.normalize(obs, seen);
    }

    fn sample(&self, seen: &[f32], rng: &mut NumpyRng, scratch: &mut [Vec<f32>; 2], action: &mut [f32]) -> f32 {
        self.mode(seen, scratch, action);
        let mut log_prob = 0.0;
        for (a, s) in action.iter_mut().zip(self.log_std()) {
            let (s, z) = (s.clamp(LOG_STD.0, LOG_STD.1), rng.standard_normal() as f32);
            *a += s.exp() * z;
            log_prob -= z * z / 2.0 + s + HALF_LN_TAU;
        }
        log_prob
    }

    fn mode(&self, seen: &[f32], scratch: &mut [Vec<f32>; 2], action: &mut [f32]) {
        self.net.forward_row(&self.params[..self.net.num_params()], seen, scratch, action);
        self.squash_rows(action);
    }

    fn bound(&self, action: &mut [f32]) {
        self.space.clip(action);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(squash: bool, hidden_sizes: &[usize]) -> BoxPolicy {
        let spec = EnvSpec {
            id: "test".into(),
            obs_dim: 3,
            action_space: ActionSpace::Box { low: vec![-1.0, 0.0], high: vec![1.0, 4.0] },
            max_episode_steps: None,
            reward_threshold: None,
            backend: "native",
            parallel: true,
        };
        let shape =
            BoxPolicyShape { hidden_sizes, squash, stochastic: true, precision: Precision::F32, device: Device::Cpu };
        let normalizer = ObsNormalizer::fixed(&[1.0, 0.0, -2.0], &[2.0, 1.0, 0.5]);
        BoxPolicy::new(&spec, &shape, normalizer, &mut NumpyRng::new(4)).expect("a box")
    }

    #[test]
    fn the_log_likelihood_of_an_action_by_hand() {
        // Mean 0 and σ 1: 2 · ln(2π)/2 + (0.5² + 1²)/2.
        let policy = policy(false, &[4]);
        let (mut d_mean, mut d_log_std) = (Vec::new(), Vec::new());
        let loss = policy.cloning_loss(&[0.0, 0.0], &[0.5, -1.0], &[1.0], &mut d_mean, &mut d_log_std);
        assert!((loss - 2.462_877_066_4).abs() < 1e-6, "{loss}");
        assert_eq!((d_mean, d_log_std), (vec![-0.5, 1.0], vec![0.75, 0.0]));
    }

    #[test]
    fn the_squared_distance_by_hand() {
        // Means of 0 and actions 1 to 4: (1 + 4 + 9 + 16)/4 over both rows and components, with slopes −2 a/4.
        let mut d_mean = Vec::new();
        let loss = policy(false, &[4]).squared_loss(&[0.0; 4], &[1.0, 2.0, 3.0, 4.0], &mut d_mean);
        assert_eq!((loss, d_mean), (7.5, vec![-0.5, -1.0, -1.5, -2.0]));
    }

    #[test]
    fn a_batch_without_weight_has_no_loss_and_no_gradient() {
        let policy = policy(false, &[4]);
        let (mut grad, workers) = (vec![f32::NAN; policy.params.len()], Workers::new(1).expect("a thread"));
        let mut pass = CloningPass::new(&policy, 2);
        let loss = pass.gradient(&policy, &[1.0; 6], &[1.0; 4], &[0.0, 0.0], &mut grad, &workers);
        assert_eq!((loss, grad), (0.0, vec![0.0; policy.params.len()]));
    }

    #[test]
    fn gradients_agree_with_differences_on_any_number_of_threads() {
        for squash in [false, true] {
            let mut policy = policy(squash, &[8]);
            let n = policy.params.len();
            policy.params[n - 2..].copy_from_slice(&[0.3, -0.4]);
            let mut rng = NumpyRng::new(2);
            let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal() as f32).collect::<Vec<f32>>();
            let (obs, action) = (draw(5 * 3), draw(5 * 2));
            let weight = [0.5, 0.0, 2.0, 1.0, 3.0];
            let gradient = |policy: &BoxPolicy, threads| {
                let workers = Workers::new(threads).expect("threads start");
                let (mut pass, mut grad) = (CloningPass::new(policy, 5), vec![0.0; n]);
                let loss = workers.run(|| pass.gradient(policy, &obs, &action, &weight, &mut grad, &workers));
                (loss, grad)
            };
            let (loss, grad) = gradient(&policy, 1);
            assert_eq!((loss, &grad), (gradient(&policy, 2).0, &gradient(&policy, 2).1));
            // By all rows, those without weight too.
            let mut pass = policy.pass(5);
            let mean = policy.means(&policy.params, &obs, &mut pass, &Workers::new(1).expect("a thread"));
            let whole = policy.cloning_loss(mean, &action, &weight, &mut Vec::new(), &mut Vec::new());
            assert!((loss - whole).abs() < 1e-5, "{loss} is not {whole}");
            for (i, &grad) in grad.iter().enumerate() {
                let moved = |h: f32| {
                    let mut policy = policy.clone();
                    policy.params[i] += h;
                    gradient(&policy, 1).0
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((f64::from(grad) - slope).abs() < 2e-2 * slope.abs().max(0.5), "{i}: {grad} {slope}");
            }
        }
    }

    #[test]
    fn a_component_between_equal_bounds_has_no_gradient() {
        let mut policy = policy(true, &[8]);
        policy.squash.as_mut().expect("it squashes").1[1] = 0.0;
        let (mut pass, workers) = (CloningPass::new(&policy, 2), Workers::new(1).expect("a thread"));
        let mut grad = vec![0.0; policy.params.len()];
        let loss = pass.gradient(&policy, &[1.0; 6], &[0.5; 4], &[1.0; 2], &mut grad, &workers);
        assert!(loss.is_finite() && grad.iter().all(|g| g.is_finite()), "{grad:?}");
        assert!(grad.iter().any(|&g| g != 0.0));
    }

    #[test]
    fn deviations_outside_their_bounds_have_no_gradient() {
        let mut policy = policy(false, &[4]);
        let n = policy.params.len();
        policy.params[n - 2..].copy_from_slice(&[3.0, -6.0]);
        let (mut d_mean, mut d_log_std) = (Vec::new(), Vec::new());
        let loss = policy.cloning_loss(&[0.0, 0.0], &[0.0, 0.0], &[1.0], &mut d_mean, &mut d_log_std);
        assert!((loss - f64::from(2.0 - 5.0 + 2.0 * HALF_LN_TAU)).abs() < 1e-5);
        assert_eq!(d_log_std, [0.0, 0.0]);
    }

    #[test]
    fn the_chain_acts_as_the_policy_does() {
        for squash in [false, true] {
            let policy = policy(squash, &[8, 5]);
            let chain = policy.chain();
            let mut rng = NumpyRng::new(1);
            for _ in 0..50 {
                let obs = [0, 1, 2].map(|_| 2.0 * rng.standard_normal());
                let (mut seen, mut action) = ([0.0; 3], [0.0; 2]);
                policy.see(&obs, &mut seen);
                policy.mode(&seen, &mut Default::default(), &mut action);
                policy.bound(&mut action);
                chain.act(&obs).iter().zip(action).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
                let mut rows: Vec<f32> = obs.iter().map(|&x| x as f32).collect();
                policy.see_rows(&mut rows);
                rows.iter().zip(seen).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
            }
        }
    }
}
