//! The squashed Gaussian of soft actor-critic (Haarnoja et al. 2018, Appendix C): a = tanh(u), u normal, in units of [−1, 1].
//!
//! The pre-image u is kept beside the action: log-probabilities never go back through atanh. ln(1 − tanh² u) is
//! 2 (ln 2 − |u| − ln(1 + e^(−2|u|))), finite for every u, where the usual ln(1 − a² + 1e-6) is off by several nats from |u| = 9
//! on. Log-probabilities are those of actions in [−1, 1], whatever the bounds of the environment: scaling would shift them by a
//! constant that a target entropy knows nothing of.

use bregman_envs::rng::NumpyRng;
use bregman_envs::{ActionSpace, EnvSpec};
use serde::{Deserialize, Serialize};

use crate::learner::{Array, LearnError, Snapshot};
use crate::nn::{Activation, Halves, Init, Mlp, Real};
use crate::policy::{PolicyChain, PolicyOp};
use crate::rollout::Act;
use crate::workers::Workers;

/// ln(2π)/2.
const HALF_LN_TAU: f32 = 0.918_938_5;

/// How an output of the network becomes ln σ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogStd {
    /// Least ln σ.
    pub min: f32,
    /// Largest ln σ.
    pub max: f32,
    /// How outputs are kept between them.
    pub bound: LogStdBound,
}

/// How ln σ is kept in its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStdBound {
    /// The output itself, moved to the nearest bound; beyond a bound the gradient is 0.
    Clamp,
    /// tanh of the output, stretched from [−1, 1].
    Tanh,
}

impl LogStd {
    /// ln σ, and its derivative in the output.
    #[inline(always)]
    fn of(self, output: f32) -> (f32, f32) {
        match self.bound {
            LogStdBound::Clamp => {
                let log_std = output.clamp(self.min, self.max);
                (log_std, if log_std == output { 1.0 } else { 0.0 })
            }
            LogStdBound::Tanh => {
                let (t, half) = (squash(output).0, (self.max - self.min) / 2.0);
                (self.min + half * (t + 1.0), half * (1.0 - t * t))
            }
        }
    }
}

/// tanh u and ln(1 − tanh² u), right to single precision for every u and without calls, so that the compiler vectorises loops
/// over it.
#[inline(always)]
pub fn squash(u: f32) -> (f32, f32) {
    let e = (-2.0 * u.abs()).exp_fast();
    let tanh = ((1.0 - e) / (1.0 + e)).copysign(u);
    (tanh, 2.0 * (std::f32::consts::LN_2 - u.abs() - ln_1p(e)))
}

/// ln(1 + e) for e in [0, 1]: 2 artanh s = 2 (s + s³/3 + s⁵/5 + …) with s = e/(2 + e), at most 1/3; what is left out is below 1e-8.
#[inline(always)]
fn ln_1p(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let terms = [11.0, 9.0, 7.0, 5.0, 3.0, 1.0].iter().fold(1.0 / 13.0, |sum, &n: &f32| sum * s * s + 1.0 / n);
    2.0 * s * terms
}

/// ln N(u; μ, σ) − ln(1 − tanh² u), of one component; z = (u − μ)/σ.
#[inline(always)]
pub fn log_prob(u: f32, z: f32, log_std: f32) -> f32 {
    -z * z / 2.0 - log_std - HALF_LN_TAU - squash(u).1
}

/// A policy: a network from raw observations to squashed Gaussians over a bounded box. An output row holds the means of u, then
/// what ln σ is made from.
#[derive(Clone, Debug)]
pub struct SquashedActor {
    /// The network's parameters.
    pub params: Vec<f32>,
    net: Mlp,
    log_std: LogStd,
    low: Vec<f32>,
    high: Vec<f32>,
}

/// Actions drawn at a batch of states, component by component, `[B, act_dim]`: all that gradients need.
#[derive(Clone, Debug, Default)]
pub struct Draws {
    /// Standard normal noise.
    pub noise: Vec<f32>,
    /// Means of u.
    pub mean: Vec<f32>,
    /// σ.
    pub std: Vec<f32>,
    /// Derivative of ln σ in the network's output.
    pub d_log_std: Vec<f32>,
    /// The pre-image, μ + σ · noise.
    pub u: Vec<f32>,
    /// tanh(u).
    pub action: Vec<f32>,
    /// ln π of each component.
    pub log_prob: Vec<f32>,
}

impl Draws {
    /// For `rows` actions of `act_dim` components.
    pub fn new(rows: usize, act_dim: usize) -> Draws {
        let room = || vec![0.0; rows * act_dim];
        Draws {
            noise: room(),
            mean: room(),
            std: room(),
            d_log_std: room(),
            u: room(),
            action: room(),
            log_prob: room(),
        }
    }

    /// Draws fresh noise.
    pub fn draw_noise(&mut self, rng: &mut NumpyRng) {
        self.noise.iter_mut().for_each(|noise| *noise = rng.standard_normal() as f32);
    }

    /// Takes the actions that the noise gives under a network's outputs, `[B, 2 · act_dim]`.
    fn take(&mut self, output: &[f32], log_std: LogStd, act_dim: usize) {
        let Draws { noise, mean, std, d_log_std, u, action, log_prob } = self;
        split_outputs(output, act_dim, mean, std);
        // Few vectors a loop: the compiler vectorises where it need not compare many of their places.
        for (((std, d_log_std), log_prob), &noise) in std.iter_mut().zip(d_log_std).zip(&mut *log_prob).zip(&*noise) {
            let (log_std, slope) = log_std.of(*std);
            (*std, *d_log_std) = (log_std.exp_fast(), slope);
            *log_prob = -noise * noise / 2.0 - log_std - HALF_LN_TAU;
        }
        for (((u, &mean), &std), &noise) in u.iter_mut().zip(&*mean).zip(&*std).zip(&*noise) {
            *u = mean + std * noise;
        }
        for ((&u, action), log_prob) in u.iter().zip(action).zip(log_prob) {
            let (tanh, log_slope) = squash(u);
            *action = tanh;
            *log_prob -= log_slope;
        }
    }

    /// The gradient of a loss in the network's outputs, written into `d_output`, `[B, 2 · act_dim]`. Of component `i` the loss
    /// holds `d_log_prob(i) · ln π`, and depends on the action besides, through which u moves it by `d_u(i)`.
    ///
    /// Along the noise ln π moves through u alone, by 2a, and by −1 in ln σ.
    pub fn backward(
        &self,
        act_dim: usize,
        d_log_prob: impl Fn(usize) -> f32,
        d_u: impl Fn(usize) -> f32,
        d_output: &mut [f32],
    ) {
        for (row, d_output) in d_output.chunks_exact_mut(2 * act_dim).enumerate() {
            let (d_mean, d_raw) = d_output.split_at_mut(act_dim);
            for j in 0..act_dim {
                let i = row * act_dim + j;
                let d_log_prob = d_log_prob(i);
                let d_u = d_log_prob * 2.0 * self.action[i] + d_u(i);
                d_mean[j] = d_u;
                d_raw[j] = (d_u * self.std[i] * self.noise[i] - d_log_prob) * self.d_log_std[i];
            }
        }
    }

    /// ln π of the action in row `row` as a whole.
    pub fn row_log_prob(&self, row: usize, act_dim: usize) -> f32 {
        self.log_prob[row * act_dim..(row + 1) * act_dim].iter().sum()
    }

    /// The derivative of the action in its pre-image, of component `i`.
    pub fn slope(&self, i: usize) -> f32 {
        1.0 - self.action[i] * self.action[i]
    }
}

/// Takes a network's output rows apart: means, `[B, act_dim]`, and what ln σ is made from.
fn split_outputs(output: &[f32], act_dim: usize, mean: &mut [f32], raw: &mut [f32]) {
    let parts = mean.chunks_exact_mut(act_dim).zip(raw.chunks_exact_mut(act_dim));
    for (output, (mean, raw)) in output.chunks_exact(2 * act_dim).zip(parts) {
        let (of_mean, of_raw) = output.split_at(act_dim);
        mean.copy_from_slice(of_mean);
        raw.copy_from_slice(of_raw);
    }
}

impl SquashedActor {
    /// Fresh parameters for an environment.
    ///
    /// # Errors
    /// Actions that are no bounded box; `agent` is the name of who asks. `network` makes a network with so many inputs and outputs.
    pub fn new(
        agent: &str,
        spec: &EnvSpec,
        network: impl FnOnce(usize, usize) -> Mlp,
        log_std: LogStd,
        rng: &mut NumpyRng,
    ) -> Result<SquashedActor, LearnError> {
        let id = &spec.id;
        let ActionSpace::Box { low, high } = &spec.action_space else {
            let sentence = format!("{agent} acts in boxes and `{id}` has choices: ppo, trpo and mdpo take those");
            return Err(LearnError::Unsuitable(sentence));
        };
        if low.iter().chain(high).any(|bound| !bound.is_finite()) {
            let sentence = format!(
                "{agent} spreads actions between their bounds and those of `{id}` are infinite: ppo, trpo and mdpo need none"
            );
            return Err(LearnError::Unsuitable(sentence));
        }
        let net = network(spec.obs_dim, 2 * low.len());
        Ok(SquashedActor { params: net.init(Init::Uniform, rng), net, log_std, low: low.clone(), high: high.clone() })
    }

    /// Multiplies the weights of the output layer by `factor`.
    pub fn scale_output(&mut self, factor: f64) {
        (0..self.net.num_outputs()).for_each(|column| self.net.scale_output(&mut self.params, column, factor));
    }

    /// Length of an observation.
    pub fn obs_dim(&self) -> usize {
        self.net.num_inputs()
    }

    /// Length of an action.
    pub fn act_dim(&self) -> usize {
        self.low.len()
    }

    /// Room for up to `capacity` rows.
    pub fn pass(&self, capacity: usize) -> Halves<f32> {
        Halves::new(&self.net, capacity)
    }

    /// The actions that the noise of `draws` gives at `obs`, `[B, obs_dim]`.
    pub fn act(&self, obs: &[f32], pass: &mut Halves<f32>, draws: &mut Draws, workers: &Workers) {
        let output = pass.forward(&self.net, &self.params, obs, workers);
        draws.take(output, self.log_std, self.act_dim());
    }

    /// ln π of each component of the actions in `draws`, taken at `obs` by this policy or by another, under `params`; and its
    /// derivative in u, the action's own part left out: −(u − μ)/σ², to which 2a belongs.
    pub fn score(
        &self,
        params: &[f32],
        obs: &[f32],
        draws: &Draws,
        pass: &mut Halves<f32>,
        (log_prob_of, d_u): (&mut [f32], &mut [f32]),
        workers: &Workers,
    ) {
        let act_dim = self.act_dim();
        let output = pass.forward(&self.net, params, obs, workers);
        split_outputs(output, act_dim, log_prob_of, d_u);
        // u − μ' from its parts, not from the sum, in which a narrow policy's noise is rounded away.
        let moved = draws.mean.iter().zip(&draws.std).zip(&draws.noise);
        let scores = log_prob_of.iter_mut().zip(d_u).zip(&draws.u);
        for (((log_prob_of, d_u), &u), ((&mean, &std), &noise)) in scores.zip(moved) {
            let (mean_of, log_std_of) = (*log_prob_of, self.log_std.of(*d_u).0);
            let inverse_std = (-log_std_of).exp_fast();
            let z = (mean - mean_of + std * noise) * inverse_std;
            *log_prob_of = log_prob(u, z, log_std_of);
            *d_u = -z * inverse_std;
        }
    }

    /// Writes the gradient of a loss in the parameters into `grad`, given its gradient in the outputs of the last
    /// [`act`](SquashedActor::act), `[B, 2 · act_dim]`.
    pub fn backward(&self, d_output: &[f32], pass: &mut Halves<f32>, grad: &mut [f32], workers: &Workers) {
        pass.backward(&self.net, &self.params, d_output, grad, workers);
    }

    /// The most probable pre-image's action for one raw observation, as the environment would be sent it.
    pub fn best_action(&self, obs: &[f64]) -> Vec<f32> {
        let (mut seen, mut action) = (vec![0.0; obs.len()], vec![0.0; self.act_dim()]);
        self.see(obs, &mut seen);
        self.mode(&seen, &mut RowScratch::default(), &mut action);
        self.bound(&mut action);
        action
    }

    /// The deterministic policy, [`best_action`](SquashedActor::best_action), as plain operations.
    pub fn chain(&self) -> PolicyChain {
        let act_dim = self.act_dim();
        let mut ops = PolicyOp::network(&self.net, &self.params, act_dim);
        ops.push(PolicyOp::Activation(Activation::Tanh));
        if self.bounds().any(|bounds| bounds != (-1.0, 1.0)) {
            // From [−1, 1] to the box: a diagonal matrix and a shift, then what rounding left outside.
            let mut weight = vec![0.0; act_dim * act_dim];
            let mut bias = Vec::new();
            for (j, (low, high)) in self.bounds().enumerate() {
                weight[j * act_dim + j] = (high - low) / 2.0;
                bias.push((high + low) / 2.0);
            }
            ops.push(PolicyOp::Linear { weight, bias });
            ops.push(PolicyOp::Clip { low: self.low.clone(), high: self.high.clone() });
        }
        PolicyChain { obs_dim: self.obs_dim(), ops }
    }

    fn bounds(&self) -> impl Iterator<Item = (f32, f32)> {
        self.low.iter().copied().zip(self.high.iter().copied())
    }

    /// The policy, in a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("params", Array::F32(self.params.clone()));
    }

    /// Takes the parameters from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into("params", &mut self.params)
    }
}

/// Room for one row.
#[derive(Default)]
pub struct RowScratch {
    layers: [Vec<f32>; 2],
    output: Vec<f32>,
}

impl Act for SquashedActor {
    type Scratch = RowScratch;

    fn see(&self, obs: &[f64], seen: &mut [f32]) {
        seen.iter_mut().zip(obs).for_each(|(y, &x)| *y = x as f32);
    }

    fn sample(&self, seen: &[f32], rng: &mut NumpyRng, scratch: &mut RowScratch, action: &mut [f32]) -> f32 {
        let RowScratch { layers, output } = scratch;
        output.resize(2 * action.len(), 0.0);
        self.net.forward_row(&self.params, seen, layers, output);
        let (means, raw) = output.split_at(action.len());
        let mut sum = 0.0;
        for ((a, &mean), &raw) in action.iter_mut().zip(means).zip(raw) {
            let (log_std, noise) = (self.log_std.of(raw).0, rng.standard_normal() as f32);
            let (tanh, log_slope) = squash(mean + log_std.exp_fast() * noise);
            *a = tanh;
            sum += -noise * noise / 2.0 - log_std - HALF_LN_TAU - log_slope;
        }
        sum
    }

    fn mode(&self, seen: &[f32], scratch: &mut RowScratch, action: &mut [f32]) {
        scratch.output.resize(2 * action.len(), 0.0);
        self.net.forward_row(&self.params, seen, &mut scratch.layers, &mut scratch.output);
        action.iter_mut().zip(&scratch.output).for_each(|(a, mean)| *a = mean.tanh());
    }

    /// From [−1, 1] to the box.
    fn bound(&self, action: &mut [f32]) {
        for (a, (low, high)) in action.iter_mut().zip(self.bounds()) {
            *a = ((high - low) / 2.0 * *a + (high + low) / 2.0).clamp(low, high);
        }
    }
}

/// Actions that are even over the box: what comes before a policy is worth following.
pub struct Even<'a>(pub &'a SquashedActor);

impl Act for Even<'_> {
    type Scratch = ();

    fn see(&self, obs: &[f64], seen: &mut [f32]) {
        self.0.see(obs, seen);
    }

    fn sample(&self, _: &[f32], rng: &mut NumpyRng, (): &mut (), action: &mut [f32]) -> f32 {
        action.iter_mut().for_each(|a| *a = rng.uniform(-1.0, 1.0) as f32);
        -(action.len() as f32) * std::f32::consts::LN_2
    }

    fn mode(&self, _: &[f32], (): &mut (), action: &mut [f32]) {
        action.fill(0.0);
    }

    fn bound(&self, action: &mut [f32]) {
        self.0.bound(action);
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    const CLAMP: LogStd = LogStd { min: -20.0, max: 2.0, bound: LogStdBound::Clamp };

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
    }

    fn spec(low: Vec<f32>, high: Vec<f32>) -> EnvSpec {
        EnvSpec {
            id: "test".into(),
            obs_dim: 3,
            action_space: ActionSpace::Box { low, high },
            max_episode_steps: None,
            reward_threshold: None,
            backend: "native",
            parallel: true,
        }
    }

    fn network(inputs: usize, outputs: usize) -> Mlp {
        Mlp::new(&[inputs, 8, 5, outputs], Activation::Relu)
    }

    fn actor(low: Vec<f32>, high: Vec<f32>) -> SquashedActor {
        SquashedActor::new("sac", &spec(low, high), network, CLAMP, &mut NumpyRng::new(1)).expect("a bounded box")
    }

    #[test]
    fn log_probabilities_by_hand() {
        for (u, slope, log_prob_of) in [
            (0.0, 0.0, -0.918_938_5),
            (0.5, -0.240_229_01, -0.803_709_5),
            (1.0, -0.867_561_66, -0.551_376_9),
            (-1.0, -0.867_561_66, -0.551_376_9),
            (3.0, -4.618_657, -0.800_281_5),
            (5.0, -8.613_796, -4.805_142),
            (10.0, -18.613_706, -32.305_233),
            (-20.0, -38.613_706, -162.305_23),
        ] {
            close(squash(u).1, slope);
            close(log_prob(u, u, 0.0), log_prob_of);
        }
        close(log_prob(1.0, 1.0, 0.5f32.ln()), 0.141_770_3);
        assert!(log_prob(50.0, 50.0, 0.0).is_finite() && log_prob(-50.0, -50.0, 0.0).is_finite());
    }

    #[test]
    fn squashing_is_right_to_single_precision() {
        for i in -40_000..=40_000 {
            let u = i as f32 * 5e-4;
            let (tanh, log_slope) = squash(u);
            let exact = f64::from(u);
            assert!((f64::from(tanh) - exact.tanh()).abs() < 1.5e-7, "tanh at {u}");
            let slope = 2.0 * (std::f64::consts::LN_2 - exact.abs() - (-2.0 * exact.abs()).exp().ln_1p());
            assert!((f64::from(log_slope) - slope).abs() < 3e-7 * slope.abs().max(1.0), "ln slope at {u}");
        }
        assert!(squash(f32::NAN).0.is_nan() && squash(f32::NAN).1.is_nan());
    }

    #[test]
    fn log_standard_deviations_stay_in_their_bounds() {
        assert_eq!((CLAMP.of(0.3), CLAMP.of(3.0), CLAMP.of(-21.0)), ((0.3, 1.0), (2.0, 0.0), (-20.0, 0.0)));
        // −5 to 2: the middle is −1.5, where an output moves ln σ by 3.5 of itself.
        let stretched = LogStd { min: -5.0, max: 2.0, bound: LogStdBound::Tanh };
        assert_eq!((stretched.of(0.0), stretched.of(50.0)), ((-1.5, 3.5), (2.0, 0.0)));
    }

    #[test]
    fn far_draws_have_finite_scores_and_gradients() {
        for mean in [-50.0, 50.0] {
            let mut draws = Draws::new(1, 1);
            draws.take(&[mean, 0.0], CLAMP, 1);
            assert!(draws.log_prob[0].is_finite());
            let mut d_output = [0.0; 2];
            draws.backward(1, |_| 1.0, |i| draws.slope(i), &mut d_output);
            // ln π = ... + 2 |u|: the slope in the mean is ±2, in ln σ −1 without noise.
            assert_eq!(d_output, [2.0 * mean.signum(), -1.0]);
        }
    }

    /// ln π of each component along the noise, and under fixed `other` outputs, by autograd, in double precision.
    fn by_autograd(output: &Tensor, other: &Tensor, noise: &Tensor, log_std: LogStd) -> [Tensor; 3] {
        let act_dim = noise.size()[1];
        let bounded = |raw: Tensor| match log_std.bound {
            LogStdBound::Clamp => raw.clamp(f64::from(log_std.min), f64::from(log_std.max)),
            LogStdBound::Tanh => {
                (raw.tanh() + 1.0) * (f64::from(log_std.max - log_std.min) / 2.0) + f64::from(log_std.min)
            }
        };
        let head = |x: &Tensor| (x.narrow(1, 0, act_dim), bounded(x.narrow(1, act_dim, act_dim)));
        let ((mean, log_std), (other_mean, other_log_std)) = (head(output), head(other));
        let u = &mean + log_std.exp() * noise;
        let correction = (u.tanh().square() * -1.0 + 1.0).log();
        let score = |mean: &Tensor, log_std: &Tensor| {
            ((&u - mean) / log_std.exp()).square() * -0.5 - log_std - 0.918_938_533_204_672_8 - &correction
        };
        [u.tanh(), score(&mean, &log_std), score(&other_mean, &other_log_std)]
    }

    #[test]
    fn gradients_agree_with_autograd() {
        let (rows, act_dim) = (6usize, 2usize);
        for bound in [LogStdBound::Clamp, LogStdBound::Tanh] {
            let log_std = LogStd { min: -1.2, max: 0.5, bound };
            let mut rng = NumpyRng::new(3);
            let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.standard_normal() as f32).collect() };
            let (output, other, weights) = (draw(rows * 2 * act_dim), draw(rows * 2 * act_dim), draw(rows * act_dim));
            let mut draws = Draws::new(rows, act_dim);
            draws.noise = draw(rows * act_dim);
            draws.take(&output, log_std, act_dim);

            let tensor =
                |x: &[f32], width: usize| Tensor::from_slice(x).to_kind(Kind::Double).view([rows as i64, width as i64]);
            let leaf = tensor(&output, 2 * act_dim).set_requires_grad(true);
            let [action, log_prob_of, other_log_prob] =
                by_autograd(&leaf, &tensor(&other, 2 * act_dim), &tensor(&draws.noise, act_dim), log_std);
            let weight = tensor(&weights, act_dim);
            // w ln π + w² ln π_other + sin(3a).
            let loss = &weight * &log_prob_of + weight.square() * &other_log_prob + (&action * 3.0).sin();
            let d_leaf = &Tensor::run_backward(&[loss.sum(Kind::Double)], &[&leaf], false, false)[0];

            // The other policy is the same network with outputs of its own: a linear layer without inputs that matter.
            let mut other_scores = (vec![0.0; rows * act_dim], vec![0.0; rows * act_dim]);
            for i in 0..rows * act_dim {
                let (row, j) = (i / act_dim, i % act_dim);
                let (mean, raw) = (other[row * 2 * act_dim + j], other[row * 2 * act_dim + act_dim + j]);
                let sigma = log_std.of(raw).0;
                other_scores.0[i] = log_prob(draws.u[i], (draws.u[i] - mean) * (-sigma).exp(), sigma);
                other_scores.1[i] = -(draws.u[i] - mean) * (-2.0 * sigma).exp();
            }
            let mut d_output = vec![0.0; output.len()];
            let d_u = |i: usize| {
                let through_other = weights[i] * weights[i] * (other_scores.1[i] + 2.0 * draws.action[i]);
                through_other + 3.0 * (3.0 * draws.action[i]).cos() * draws.slope(i)
            };
            draws.backward(act_dim, |i| weights[i], d_u, &mut d_output);

            let numbers = |t: &Tensor| Vec::<f64>::try_from(t.detach().flatten(0, -1)).expect("a flat tensor");
            let pairs = [(&draws.action, numbers(&action)), (&draws.log_prob, numbers(&log_prob_of))];
            for (ours, theirs) in pairs.into_iter().chain([(&other_scores.0, numbers(&other_log_prob))]) {
                ours.iter().zip(theirs).for_each(|(&a, b)| close(a, b as f32));
            }
            d_output.iter().zip(numbers(d_leaf)).for_each(|(&a, b)| {
                assert!((f64::from(a) - b).abs() <= 2e-5 * b.abs().max(1.0), "{a} is not {b}");
            });
        }
    }

    #[test]
    fn a_policy_scores_its_own_draws_as_it_drew_them() {
        let workers = Workers::new(1).expect("one thread");
        // The second is as narrow as they come: in single precision μ + σ · noise is μ and a few units of its last place.
        for shift in [0.0, -30.0] {
            let mut actor = actor(vec![-1.0; 2], vec![1.0; 2]);
            [2, 3].into_iter().for_each(|column| actor.net.shift_output(&mut actor.params, column, shift));
            let (mut pass, mut draws, mut rng) = (actor.pass(4), Draws::new(4, 2), NumpyRng::new(2));
            let obs: Vec<f32> = (0..12).map(|_| rng.standard_normal() as f32).collect();
            draws.draw_noise(&mut rng);
            actor.act(&obs, &mut pass, &mut draws, &workers);
            let (mut log_prob_of, mut d_u) = (vec![0.0; 8], vec![0.0; 8]);
            actor.score(&actor.params, &obs, &draws, &mut pass, (&mut log_prob_of, &mut d_u), &workers);
            for i in 0..8 {
                close(log_prob_of[i], draws.log_prob[i]);
                close(d_u[i], -draws.noise[i] / draws.std[i]);
            }
        }
    }

    #[test]
    fn a_row_is_as_probable_as_all_its_components_together() {
        let mut draws = Draws::new(2, 2);
        draws.log_prob = vec![-1.0, 0.5, 2.0, 0.0];
        assert_eq!([draws.row_log_prob(0, 2), draws.row_log_prob(1, 2)], [-0.5, 2.0]);
    }

    #[test]
    fn what_acts_is_what_learns() {
        let (workers, obs) = (Workers::new(1).expect("one thread"), [0.5, -1.0, 2.0]);
        // Outputs of 0: ln σ is 0, or the middle of −5 and 2.
        for (bound, std) in [(LogStdBound::Clamp, 1.0), (LogStdBound::Tanh, 0.223_130_16)] {
            let log_std = LogStd { min: -5.0, max: 2.0, bound };
            let spec = spec(vec![-1.0; 2], vec![1.0; 2]);
            let mut actor = SquashedActor::new("sac", &spec, network, log_std, &mut NumpyRng::new(1)).expect("a box");
            let look = |actor: &SquashedActor| {
                let (mut draws, mut action) = (Draws::new(1, 2), [0.0; 2]);
                draws.draw_noise(&mut NumpyRng::new(7));
                actor.act(&obs, &mut actor.pass(1), &mut draws, &workers);
                let log_prob = actor.sample(&obs, &mut NumpyRng::new(7), &mut Default::default(), &mut action);
                close(log_prob, draws.row_log_prob(0, 2));
                draws.action.iter().zip(action).for_each(|(&a, b)| close(a, b));
                draws
            };
            look(&actor);
            actor.params.fill(0.0);
            look(&actor).std.iter().for_each(|&found| close(found, std));
        }
    }

    #[test]
    fn actions_reach_the_bounds_and_the_chain_acts_as_the_policy_does() {
        for (low, high) in [(vec![-1.0, -1.0], vec![1.0, 1.0]), (vec![-0.4, 1.0], vec![0.4, 4.0])] {
            let mut actor = actor(low.clone(), high.clone());
            actor.params.iter_mut().for_each(|p| *p *= 3.0);
            let chain = actor.chain();
            let mut rng = NumpyRng::new(5);
            for _ in 0..100 {
                let obs = [rng.uniform(-2.0, 2.0), rng.uniform(-2.0, 2.0), rng.uniform(-2.0, 2.0)];
                let ours = actor.best_action(&obs);
                ours.iter().zip(chain.act(&obs)).for_each(|(&a, b)| close(a, b));
                assert!((0..2).all(|j| (low[j]..=high[j]).contains(&ours[j])), "{ours:?}");
            }
            let mut ends = [-1.0, 1.0];
            actor.bound(&mut ends);
            assert_eq!(ends, [low[0], high[1]]);
        }
    }

    #[test]
    fn what_is_no_bounded_box_is_refused() {
        let refusal = |action_space: ActionSpace| {
            let spec = EnvSpec { action_space, ..spec(vec![], vec![]) };
            let refused = SquashedActor::new("sac", &spec, network, CLAMP, &mut NumpyRng::new(1));
            refused.expect_err("refused").to_string()
        };
        assert_eq!(
            refusal(ActionSpace::Discrete { n: 2 }),
            "sac acts in boxes and `test` has choices: ppo, trpo and mdpo take those"
        );
        assert_eq!(
            refusal(ActionSpace::Box { low: vec![-1.0], high: vec![f32::INFINITY] }),
            "sac spreads actions between their bounds and those of `test` are infinite: ppo, trpo and mdpo need none"
        );
    }
}
