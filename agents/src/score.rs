//! A return's gradient and Hessian from whole trajectories (Fatkhullin et al. 2023, arXiv:2302.01734, Section 2).
//!
//! With s_t = ∇ ln π(a_t|s_t) and a weight w_t for every step, G_t = Σ_{h≥t} γʰ r_h less a baseline as a rule:
//!
//! ```text
//! g  = Σ_t w_t s_t                                             the gradient
//! Bv = [Σ_t w_t s_t] ⟨Σ_t s_t, v⟩ + Σ_t w_t ∇²ln π_t v          the Hessian times v
//! ```
//!
//! The factor beside g sums over the whole trajectory and has no weights. Both are sums over steps and means over
//! trajectories; of the second, the mean is taken of products. Generic in the number, so that tests are exact.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::actor::Actor;
use crate::dist::Dist;
use crate::nn::{Mlp, Real, Tangents, Workspace};
use crate::workers::Workers;

/// One episode, from its first observation to its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trajectory<T> {
    /// Observations as the policy saw them, `[H, obs_dim]`.
    pub obs: Vec<T>,
    /// Actions as drawn, `[H, action row]`.
    pub action: Vec<T>,
    /// Their log-probabilities under the policy that drew them, `[H]`.
    pub log_prob: Vec<T>,
    /// Rewards, `[H]`.
    pub reward: Vec<f64>,
}

impl<T> Trajectory<T> {
    /// Number of steps, `H`.
    pub fn len(&self) -> usize {
        self.reward.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.reward.is_empty()
    }
}

/// How the first term of the Hessian's product is estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HessianEstimator {
    /// As written above.
    Paper,
    /// Leaves out the products whose mean is 0: with u_t = s_0 + … + s_t, Σ_t w_t (u_t ⟨u_t, v⟩ − u_{t−1} ⟨u_{t−1}, v⟩). Less
    /// noise; right only where w_t discounts from the trajectory's start.
    Causal,
}

impl HessianEstimator {
    /// The first term as Σ_t c_t s_t: the factors c, `[H]`, from the weights w and the slopes ⟨s_t, v⟩.
    fn factors(self, weight: &[f64], slope: &[f64]) -> Vec<f64> {
        match self {
            HessianEstimator::Paper => {
                let whole: f64 = slope.iter().sum();
                weight.iter().map(|w| w * whole).collect()
            }
            // Step k's score meets the slopes up to k under w_k, and every later slope under that step's weight.
            HessianEstimator::Causal => {
                let mut later = 0.0;
                let mut upto: f64 = slope.iter().sum();
                let mut factors = vec![0.0; weight.len()];
                for k in (0..weight.len()).rev() {
                    factors[k] = weight[k] * upto + later;
                    upto -= slope[k];
                    later += weight[k] * slope[k];
                }
                factors
            }
        }
    }
}

/// Σ_{h≥t} γ^{h−t} r_h of every step.
pub fn returns_to_go(reward: &[f64], gamma: f64) -> Vec<f64> {
    let mut returns = reward.to_vec();
    for t in (1..returns.len()).rev() {
        returns[t - 1] += gamma * returns[t];
    }
    returns
}

/// w_t: returns to go less a baseline, times γᵗ where the weights discount from the trajectory's start as in the paper.
pub fn weights(returns: &[f64], baseline: &[f64], gamma: f64, from_start: bool) -> Vec<f64> {
    let factor = if from_start { gamma } else { 1.0 };
    let powers = std::iter::successors(Some(1.0), |power| Some(power * factor));
    returns.iter().zip(baseline).zip(powers).map(|((r, b), power)| power * (r - b)).collect()
}

/// w_t for another policy than the one that acted, whose probability of the steps up to t is `ratio[t]` times this one's: every
/// reward and every prediction of the baseline is weighed by the ratio of its own step.
pub fn reweighted(reward: &[f64], baseline: &[f64], ratio: &[f64], gamma: f64, from_start: bool) -> Vec<f64> {
    let times = |row: &[f64]| row.iter().zip(ratio).map(|(x, ratio)| x * ratio).collect::<Vec<f64>>();
    weights(&returns_to_go(&times(reward), gamma), &times(baseline), gamma, from_start)
}

/// The derivatives of ln π over a trajectory. Parameters are the network's, then the log standard deviations.
#[derive(Clone, Debug)]
pub struct Score {
    net: Mlp,
    dist: Dist,
    learn_std: bool,
}

/// Room for one trajectory; grows with the longest.
#[derive(Default)]
pub struct Room<T> {
    passes: Option<(Workspace<T>, Tangents<T>)>,
    capacity: usize,
    d_output: Vec<T>,
    moved: Vec<T>,
    grad: Vec<T>,
}

impl Score {
    /// Of an actor; without `learn_std` its standard deviations are constants.
    pub fn new(actor: &Actor, learn_std: bool) -> Score {
        assert!(actor.width() == actor.net.num_outputs(), "a policy alone");
        Score { net: actor.net.clone(), dist: actor.dist.clone(), learn_std }
    }

    /// Length of a parameter vector.
    pub fn num_params(&self) -> usize {
        self.net.num_params() + self.dist.num_log_stds()
    }

    /// Mean over trajectories of Σ_t w_t s_t; `weights` has a row for each.
    pub fn gradient<T: Real>(
        &self,
        params: &[T],
        trajectories: &[Trajectory<T>],
        weights: &[Vec<f64>],
        workers: &Workers,
    ) -> Vec<f64> {
        self.mean(trajectories, workers, |m, room| self.gradient_of(params, &trajectories[m], &weights[m], room))
    }

    /// Mean over trajectories of the Hessian's product with `v`.
    pub fn hessian_product<T: Real>(
        &self,
        estimator: HessianEstimator,
        params: &[T],
        v: &[T],
        trajectories: &[Trajectory<T>],
        weights: &[Vec<f64>],
        workers: &Workers,
    ) -> Vec<f64> {
        self.mean(trajectories, workers, |m, room| {
            self.hessian_product_of(estimator, params, v, &trajectories[m], &weights[m], room)
        })
    }

    /// The probability of each trajectory's first steps under `params` over that under the policy that drew it: for every step
    /// the product of the ratios up to and with its own.
    pub fn importance<T: Real>(
        &self,
        params: &[T],
        trajectories: &[Trajectory<T>],
        workers: &Workers,
    ) -> Vec<Vec<f64>> {
        each(trajectories.len(), workers, |m, room: &mut Room<T>| {
            let trajectory = &trajectories[m];
            let (weights, log_std) = params.split_at(self.net.num_params());
            let (workspace, _) = self.passes(trajectory.len(), room);
            let output = self.net.forward(weights, &trajectory.obs, workspace);
            let mut log_ratio = 0.0;
            let rows = self.rows(output, &trajectory.action).zip(&trajectory.log_prob);
            let ratios = rows.map(|((output, action), &before)| {
                log_ratio += (self.dist.log_prob(output, log_std, action) - before).to_f64();
                log_ratio.exp()
            });
            ratios.collect()
        })
    }

    /// The mean of what `work` gives for every trajectory, summed in their order on any number of threads.
    fn mean<T: Real>(
        &self,
        trajectories: &[Trajectory<T>],
        workers: &Workers,
        work: impl Fn(usize, &mut Room<T>) -> Vec<f64> + Sync,
    ) -> Vec<f64> {
        let mut mean = vec![0.0; self.num_params()];
        let scale = 1.0 / trajectories.len() as f64;
        for part in each(trajectories.len(), workers, work) {
            mean.iter_mut().zip(part).for_each(|(sum, x)| *sum += scale * x);
        }
        mean
    }

    /// Σ_t w_t s_t of one trajectory.
    fn gradient_of<T: Real>(
        &self,
        params: &[T],
        trajectory: &Trajectory<T>,
        weight: &[f64],
        room: &mut Room<T>,
    ) -> Vec<f64> {
        let (weights, log_std) = params.split_at(self.net.num_params());
        self.passes(trajectory.len(), room);
        let Room { passes: Some((workspace, _)), d_output, grad, .. } = room else { return Vec::new() };
        let output = self.net.forward(weights, &trajectory.obs, workspace);
        d_output.clear();
        d_output.resize(output.len(), T::zero());
        let mut d_log_std = vec![T::zero(); log_std.len()];
        let rows = self.rows(output, &trajectory.action).zip(d_output.chunks_exact_mut(self.dist.num_outputs()));
        for (((output, action), d), &w) in rows.zip(weight) {
            self.dist.backward(output, log_std, action, T::of(w), T::zero(), d, &mut d_log_std);
        }
        self.net.backward(weights, workspace, d_output, grad);
        self.joined(grad, &d_log_std)
    }

    /// The Hessian's product with `v` of one trajectory. Its first term is Σ_t c_t s_t and goes back through the network together
    /// with the second.
    fn hessian_product_of<T: Real>(
        &self,
        estimator: HessianEstimator,
        params: &[T],
        v: &[T],
        trajectory: &Trajectory<T>,
        weight: &[f64],
        room: &mut Room<T>,
    ) -> Vec<f64> {
        let (weights, log_std) = params.split_at(self.net.num_params());
        let (v_net, v_log_std) = v.split_at(self.net.num_params());
        let fixed = vec![T::zero(); log_std.len()];
        let v_log_std = if self.learn_std { v_log_std } else { &fixed };
        self.passes(trajectory.len(), room);
        let Room { passes: Some((workspace, tangents)), d_output, moved, grad, .. } = room else { return Vec::new() };
        let output = self.net.forward(weights, &trajectory.obs, workspace).to_vec();
        moved.clear();
        moved.extend_from_slice(self.net.forward_along(weights, v_net, workspace, tangents));
        d_output.clear();
        d_output.resize(output.len(), T::zero());
        let width = self.dist.num_outputs();

        // The scores in outputs and log standard deviations, and their slopes along v.
        let mut d_log_stds = vec![T::zero(); trajectory.len() * log_std.len()];
        let score_of = |t: usize| t * log_std.len()..(t + 1) * log_std.len();
        let mut slope = Vec::with_capacity(trajectory.len());
        let rows = self.rows(&output, &trajectory.action).zip(d_output.chunks_exact_mut(width));
        for (t, (((output, action), d), tangent)) in rows.zip(moved.chunks_exact(width)).enumerate() {
            let d_log_std = &mut d_log_stds[score_of(t)];
            self.dist.backward(output, log_std, action, T::one(), T::zero(), d, d_log_std);
            slope.push((dot(d, tangent) + dot(d_log_std, v_log_std)).to_f64());
        }
        let factor = estimator.factors(weight, &slope);

        // Gradients w_t s_t, and how they move: w_t ∇² v, and with it the first term's c_t s_t.
        let mut out_log_std = vec![T::zero(); log_std.len()];
        let rows = self.rows(&output, &trajectory.action).zip(d_output.chunks_exact_mut(width));
        for (t, (((output, action), d), tangent)) in rows.zip(moved.chunks_exact_mut(width)).enumerate() {
            let (w, c) = (T::of(weight[t]), T::of(factor[t]));
            let mut bent = v_log_std.to_vec();
            self.dist.log_prob_hessian_product(output, log_std, action, tangent, &mut bent);
            tangent.iter_mut().zip(&*d).for_each(|(m, &d)| *m = w * *m + c * d);
            d.iter_mut().for_each(|d| *d *= w);
            let scores = out_log_std.iter_mut().zip(&bent).zip(&d_log_stds[score_of(t)]);
            scores.for_each(|((sum, &bent), &d)| *sum += w * bent + c * d);
        }
        self.net.backward_along(weights, v_net, workspace, tangents, d_output, moved, grad);
        self.joined(grad, &out_log_std)
    }

    /// Room in `room` for a trajectory of `rows` steps.
    fn passes<'r, T: Real>(&self, rows: usize, room: &'r mut Room<T>) -> &'r mut (Workspace<T>, Tangents<T>) {
        if room.capacity < rows {
            (room.passes, room.capacity) = (None, rows);
        }
        let capacity = room.capacity;
        room.grad.resize(self.net.num_params(), T::zero());
        room.passes.get_or_insert_with(|| (self.net.workspace(capacity), self.net.tangents(capacity)))
    }

    /// Output rows beside their actions.
    fn rows<'a, T>(&self, output: &'a [T], action: &'a [T]) -> impl Iterator<Item = (&'a [T], &'a [T])> + use<'a, T> {
        let len = match &self.dist {
            Dist::Categorical { nvec } => nvec.len(),
            Dist::Gaussian { dim } => *dim,
        };
        output.chunks_exact(self.dist.num_outputs()).zip(action.chunks_exact(len))
    }

    fn joined<T: Real>(&self, net: &[T], log_std: &[T]) -> Vec<f64> {
        let free = if self.learn_std { 1.0 } else { 0.0 };
        net.iter().map(|&x| Real::to_f64(x)).chain(log_std.iter().map(|&x| free * Real::to_f64(x))).collect()
    }
}

/// What `work` gives for 0, 1, …, `count` − 1, side by side.
fn each<T: Real, R: Send>(count: usize, workers: &Workers, work: impl Fn(usize, &mut Room<T>) -> R + Sync) -> Vec<R> {
    if workers.parallel() {
        workers.run(|| (0..count).into_par_iter().map_init(Room::default, |room, m| work(m, room)).collect())
    } else {
        let mut room = Room::default();
        (0..count).map(|m| work(m, &mut room)).collect()
    }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use bregman_envs::closed_form::TwoState;
    use bregman_envs::{ActionSpace, EnvConfig, EnvSpec, Registry};

    use super::HessianEstimator::{Causal, Paper};
    use super::*;
    use crate::actor::NetworkShape;
    use crate::exact::Exact;
    use crate::nn::Activation;

    /// Every trajectory there is, with its probability.
    type All = Vec<(f64, Trajectory<f64>)>;
    type Baseline<'a> = &'a dyn Fn(usize, &Trajectory<f64>) -> f64;

    const NO_BASELINE: Baseline = &|_, _| 0.0;

    /// Nodes and weights of Gauss-Hermite quadrature, exact for polynomials of degree 9 in a standard normal.
    const NORMAL: [(f64, f64); 5] = [
        (0.0, 0.533_333_333_333_333_3),
        (1.355_626_179_974_266, 0.222_075_922_005_613),
        (-1.355_626_179_974_266, 0.222_075_922_005_613),
        (2.856_970_013_872_806, 0.011_257_411_327_721),
        (-2.856_970_013_872_806, 0.011_257_411_327_721),
    ];

    fn linear(obs_dim: usize, action_space: ActionSpace, learn_std: bool) -> Score {
        let spec = EnvSpec {
            id: "test".into(),
            obs_dim,
            action_space,
            max_episode_steps: None,
            reward_threshold: None,
            backend: "native",
            parallel: true,
        };
        let shape = NetworkShape {
            hidden_sizes: vec![],
            activation: Activation::Tanh,
            separate: true,
            orthogonal_init: true,
            log_std_init: 0.0,
            state_dependent_std: false,
            device: Default::default(),
        };
        Score::new(&Actor::new(&spec, &shape), learn_std)
    }

    fn gaussian(learn_std: bool) -> Score {
        linear(1, ActionSpace::Box { low: vec![-1.0], high: vec![1.0] }, learn_std)
    }

    fn alone() -> Workers {
        Workers::new(1).expect("no threads")
    }

    fn close(ours: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(ours.len(), expected.len());
        let pairs = ours.iter().zip(expected);
        pairs.for_each(|(a, b)| assert!((a - b).abs() < tolerance * b.abs().max(1.0), "{ours:?} is not {expected:?}"));
    }

    /// Weights G_t less a baseline of the same kind.
    fn weigh(trajectory: &Trajectory<f64>, gamma: f64, from_start: bool, baseline: Baseline) -> Vec<f64> {
        let returns = returns_to_go(&trajectory.reward, gamma);
        let baseline: Vec<f64> = (0..trajectory.len()).map(|t| baseline(t, trajectory)).collect();
        weights(&returns, &baseline, gamma, from_start)
    }

    /// Mean and trace of the variance of an estimate, over its first `len` components.
    fn moments(all: &All, len: usize, estimate: impl Fn(&Trajectory<f64>) -> Vec<f64>) -> (Vec<f64>, f64) {
        let (mut mean, mut squares) = (vec![0.0; len], 0.0);
        for (p, trajectory) in all {
            let x = estimate(trajectory);
            mean.iter_mut().zip(&x).for_each(|(sum, x)| *sum += p * x);
            squares += p * x[..len].iter().map(|x| x * x).sum::<f64>();
        }
        let variance = squares - mean.iter().map(|x| x * x).sum::<f64>();
        (mean, variance)
    }

    impl Score {
        fn one(&self, params: &[f64], trajectory: &Trajectory<f64>, weight: Vec<f64>) -> Vec<f64> {
            self.gradient(params, std::slice::from_ref(trajectory), &[weight], &alone())
        }

        fn one_product(
            &self,
            kind: HessianEstimator,
            params: &[f64],
            v: &[f64],
            trajectory: &Trajectory<f64>,
            weight: Vec<f64>,
        ) -> Vec<f64> {
            self.hessian_product(kind, params, v, std::slice::from_ref(trajectory), &[weight], &alone())
        }
    }

    /// a = μ + σz once, r = −(a − 2)²; the observation is 0, so that the mean is the bias.
    fn bandit(params: &[f64]) -> All {
        let (mean, std) = (params[1], params[2].exp());
        let draw = |(z, p): (f64, f64)| {
            let a = mean + std * z;
            (p, Trajectory { obs: vec![0.0], action: vec![a], log_prob: vec![0.0], reward: vec![-(a - 2.0).powi(2)] })
        };
        NORMAL.map(draw).to_vec()
    }

    #[test]
    fn a_gaussian_bandit() {
        let (score, params) = (gaussian(true), [0.0, 0.5, 0.5f64.ln()]);
        let all = bandit(&params);
        let weight = |trajectory: &_| weigh(trajectory, 1.0, true, NO_BASELINE);
        let (gradient, _) = moments(&all, 3, |t| score.one(&params, t, weight(t)));
        close(&gradient, &[0.0, 3.0, -0.5], 1e-9);
        for kind in [Paper, Causal] {
            for (v, expected) in [([0.0, 1.0, 0.0], [0.0, -2.0, 0.0]), ([0.0, 0.0, 1.0], [0.0, 0.0, -1.0])] {
                let (product, _) = moments(&all, 3, |t| score.one_product(kind, &params, &v, t, weight(t)));
                close(&product, &expected, 1e-9);
            }
            // z = 1: a = 1, r = −1, scores (2, 0), first term −(2, 0) · 2, second (12, 8).
            let single = Trajectory { obs: vec![0.0], action: vec![1.0], log_prob: vec![0.0], reward: vec![-1.0] };
            close(&score.one(&params, &single, weight(&single)), &[0.0, -2.0, 0.0], 1e-12);
            let product = score.one_product(kind, &params, &[0.0, 1.0, 2.0], &single, weight(&single));
            close(&product, &[0.0, 8.0, 8.0], 1e-12);
        }
    }

    #[test]
    fn what_a_baseline_does_to_the_variance_of_a_bandit() {
        let (score, params, v) = (gaussian(false), [0.0, 0.5, 0.5f64.ln()], [0.0, 1.0, 0.0]);
        let all = bandit(&params);
        for (baseline, variances) in [(0.0, [55.5, 776.0]), (-2.5, [20.5, 416.0])] {
            let weight = |trajectory: &_| weigh(trajectory, 1.0, true, &|_, _| baseline);
            let (gradient, variance) = moments(&all, 3, |t| score.one(&params, t, weight(t)));
            close(&gradient, &[0.0, 3.0, 0.0], 1e-9);
            close(&[variance], &variances[..1], 1e-9);
            let (product, variance) = moments(&all, 3, |t| score.one_product(Paper, &params, &v, t, weight(t)));
            close(&product, &[0.0, -2.0, 0.0], 1e-9);
            close(&[variance], &variances[1..], 1e-9);
        }
    }

    #[test]
    fn products_add_up_to_the_difference_of_gradients() {
        // From (0.5, ln 0.5) to (0.7, ln 0.8): ∇J moves from (3, −0.5) to (2.6, −1.28).
        let (from, to) = ([0.0, 0.5, 0.5f64.ln()], [0.0, 0.7, 0.8f64.ln()]);
        let v: Vec<f64> = to.iter().zip(&from).map(|(to, from)| to - from).collect();
        let score = gaussian(true);
        let product = |q: f64| {
            let y: Vec<f64> = from.iter().zip(&v).map(|(from, v)| from + q * v).collect();
            moments(&bandit(&y), 3, |t| score.one_product(Paper, &y, &v, t, weigh(t, 1.0, true, NO_BASELINE))).0
        };
        close(&over_segment(product), &[0.0, -0.4, -0.78], 1e-9);
    }

    /// ∫ over q in [0, 1], by Gauss-Legendre with five nodes on each of 4 parts.
    fn over_segment(f: impl Fn(f64) -> Vec<f64>) -> Vec<f64> {
        const NODES: [(f64, f64); 5] = [
            (0.0, 0.568_888_888_888_888_9),
            (0.538_469_310_105_683_1, 0.478_628_670_499_366_47),
            (-0.538_469_310_105_683_1, 0.478_628_670_499_366_47),
            (0.906_179_845_938_664, 0.236_926_885_056_189_1),
            (-0.906_179_845_938_664, 0.236_926_885_056_189_1),
        ];
        let mut sum: Vec<f64> = Vec::new();
        for part in 0..4 {
            for (x, weight) in NODES {
                let value = f((f64::from(part) + 0.5 + 0.5 * x) / 4.0);
                sum.resize(value.len(), 0.0);
                sum.iter_mut().zip(value).for_each(|(sum, x)| *sum += weight / 8.0 * x);
            }
        }
        sum
    }

    const TABLE: [f64; 6] = [0.2, -0.1, 0.0, 0.5, 0.0, 0.0];
    const V: [f64; 6] = [0.3, -0.2, 0.1, 0.4, 0.0, 0.0];

    fn table() -> Score {
        linear(2, ActionSpace::Discrete { n: 2 }, true)
    }

    /// The 32 trajectories of three steps; the last transition does not matter.
    fn process(params: &[f64]) -> All {
        let pi = |state: usize, action: usize| {
            let odds = [0, 1].map(|a| (params[2 * state + a] + params[4 + a]).exp());
            odds[action] / (odds[0] + odds[1])
        };
        let mut all = Vec::new();
        for code in 0..32 {
            let bit = |i: usize| code >> i & 1;
            let (states, actions) = ([0, bit(0), bit(1)], [bit(2), bit(3), bit(4)]);
            let (mut p, mut trajectory) = (1.0, Trajectory::default());
            for t in 0..3 {
                let (s, a) = (states[t], actions[t]);
                p *= pi(s, a) * if t < 2 { TwoState::NEXT[s][a][states[t + 1]] } else { 1.0 };
                trajectory.obs.extend([0, 1].map(|k| f64::from(u8::from(k == s))));
                trajectory.action.push(a as f64);
                trajectory.log_prob.push(pi(s, a).ln());
                trajectory.reward.push(TwoState::REWARD[s][a]);
            }
            all.push((p, trajectory));
        }
        all
    }

    fn pairs(a: f64, b: f64) -> [f64; 4] {
        [a, -a, b, -b]
    }

    #[test]
    fn one_trajectory_of_the_process() {
        // s = (0, 1, 1), a = (1, 0, 1).
        let (score, all) = (table(), process(&TABLE));
        let (p, trajectory) = all
            .iter()
            .find(|(_, t)| t.obs[2..] == [0.0, 1.0, 0.0, 1.0] && t.action == [1.0, 0.0, 1.0])
            .expect("it is one");
        close(&[*p], &[0.056_004_249_5], 1e-10);
        let weight = weigh(trajectory, 0.9, true, NO_BASELINE);
        close(&weight, &[1.99, 0.99, -0.81], 1e-12);
        let g = score.one(&TABLE, trajectory, weight.clone());
        close(&g[..4], &pairs(-1.143_140_608_5, 0.922_042_679_6), 1e-9);
        let l = score.one(&TABLE, trajectory, vec![1.0; 3]);
        close(&l[..4], &pairs(-0.574_442_516_8, 0.244_918_662_4), 1e-9);
        close(
            &score.one_product(Paper, &TABLE, &V, trajectory, weight)[..4],
            &pairs(0.169_091_204_6, -0.319_887_696_2),
            1e-9,
        );
    }

    #[test]
    fn means_and_variances_over_the_process() {
        const B: [[f64; 2]; 3] = [[0.9, 1.3], [0.5, 0.8], [0.2, 0.4]];
        let (score, all) = (table(), process(&TABLE));
        // The baseline is in units of G_t, discounted from the start; ours multiplies it by γᵗ.
        let baseline: Baseline =
            &|t, trajectory| B[t][usize::from(trajectory.obs[2 * t] == 0.0)] / 0.9f64.powi(t as i32);
        let cases = [(NO_BASELINE, [2.2919, 0.57796, 0.40723]), (baseline, [1.4790, 0.3547, 0.2618])];
        for (baseline, variances) in cases {
            let weight = |t: &_| weigh(t, 0.9, true, baseline);
            let (gradient, variance) = moments(&all, 4, |t| score.one(&TABLE, t, weight(t)));
            close(&gradient, &pairs(-0.412_818_041_4, 0.499_242_788_9), 1e-9);
            close(&[variance], &variances[..1], 1e-4);
            for (kind, expected) in [(Paper, variances[1]), (Causal, variances[2])] {
                let (product, variance) = moments(&all, 4, |t| score.one_product(kind, &TABLE, &V, t, weight(t)));
                close(&product, &pairs(0.026_801_444_4, -0.131_430_235_3), 1e-9);
                close(&[variance], &[expected], 1e-4);
            }
        }
    }

    #[test]
    fn without_discounting_from_the_start_the_field_is_another_and_only_the_papers_product_is_its_jacobian() {
        let (score, all) = (table(), process(&TABLE));
        let weight = |t: &_| weigh(t, 0.9, false, NO_BASELINE);
        let (field, _) = moments(&all, 4, |t| score.one(&TABLE, t, weight(t)));
        close(&field, &pairs(-0.450_654_788_6, 0.586_002_295_0), 1e-9);
        let product = |kind| moments(&all, 4, |t| score.one_product(kind, &TABLE, &V, t, weight(t))).0;
        close(&product(Paper), &pairs(0.025_498_184_7, -0.153_253_733_0), 1e-9);
        close(&product(Causal), &pairs(0.028_571_133_7, -0.153_504_163_2), 1e-9);
    }

    #[test]
    fn products_add_up_along_a_segment_of_the_process() {
        let score = table();
        let product = |q: f64| {
            let y: Vec<f64> = TABLE.iter().zip(&V).map(|(x, v)| x + q * v).collect();
            moments(&process(&y), 4, |t| score.one_product(Causal, &y, &V, t, weigh(t, 0.9, true, NO_BASELINE))).0
        };
        close(&over_segment(product), &pairs(0.049_537_144_5, -0.128_621_463_3), 1e-9);
    }

    #[test]
    fn of_several_trajectories_the_mean_is_taken_of_products() {
        // Every pair of trajectories with its probability; a product of means would be off by half of the first term.
        let (score, all, workers) = (table(), process(&TABLE), alone());
        let (mut product, mut gradient) = ([0.0; 4], [0.0; 4]);
        for (p, first) in &all {
            for (q, second) in &all {
                let both = [first.clone(), second.clone()];
                let weights: Vec<_> = both.iter().map(|t| weigh(t, 0.9, true, NO_BASELINE)).collect();
                let x = score.hessian_product(Paper, &TABLE, &V, &both, &weights, &workers);
                product.iter_mut().zip(x).for_each(|(sum, x)| *sum += p * q * x);
                let x = score.gradient(&TABLE, &both, &weights, &workers);
                gradient.iter_mut().zip(x).for_each(|(sum, x)| *sum += p * q * x);
            }
        }
        close(&gradient, &pairs(-0.412_818_041_4, 0.499_242_788_9), 1e-9);
        close(&product, &pairs(0.026_801_444_4, -0.131_430_235_3), 1e-9);
    }

    #[test]
    fn importance_makes_another_policys_gradient_of_a_trajectory() {
        let (score, all) = (table(), process(&TABLE));
        let there: Vec<f64> = TABLE.iter().zip(&V).map(|(x, v)| x + v).collect();
        let (gradient, _) = moments(&all, 4, |t| {
            let ratio = &score.importance(&there, std::slice::from_ref(t), &alone())[0];
            score.one(&there, t, reweighted(&t.reward, &[0.7, -0.4, 1.1], ratio, 0.9, true))
        });
        close(&gradient, &pairs(-0.363_280_896_9, 0.370_621_325_6), 1e-9);
    }

    /// Four steps of s' = s + a/2 from 1, a = −k s + σz, with every combination of nodes.
    fn regulator(k: f64, std: f64) -> All {
        let mut all = Vec::new();
        for code in 0..625usize {
            let (mut p, mut state, mut trajectory) = (1.0, 1.0, Trajectory::default());
            for t in 0..4 {
                let (z, weight) = NORMAL[code / 5usize.pow(t) % 5];
                let action = -k * state + std * z;
                p *= weight;
                trajectory.obs.push(state);
                trajectory.action.push(action);
                trajectory.log_prob.push(0.0);
                trajectory.reward.push(-(state * state + 0.1 * action * action));
                state += 0.5 * action;
            }
            all.push((p, trajectory));
        }
        all
    }

    #[test]
    fn the_linear_quadratic_regulator() {
        let (score, params, all) = (gaussian(false), [-0.3, 0.0, 0.5f64.ln()], regulator(0.3, 0.5));
        let v = [1.0, 0.0, 7.0]; // a standard deviation that is not learnt does not move
        let weight = |t: &_| weigh(t, 0.9, true, NO_BASELINE);
        let (gradient, variance) = moments(&all, 1, |t| score.one(&params, t, weight(t)));
        close(&gradient, &[-2.738_175_385_6], 1e-9);
        close(&[variance], &[96.645], 1e-5);
        let (product, variance) = moments(&all, 1, |t| score.one_product(Paper, &params, &v, t, weight(t)));
        close(&product, &[-5.428_042_275_9], 1e-9);
        close(&[variance], &[6672.28], 1e-5);
        let (product, _) = moments(&all, 1, |t| score.one_product(Causal, &params, &v, t, weight(t)));
        close(&product, &[-5.428_042_275_9], 1e-9);
        let single = score.one_product(Paper, &params, &v, &all[7].1, weight(&all[7].1));
        assert_eq!(single[2], 0.0);

        let weight = |t: &_| weigh(t, 0.9, false, NO_BASELINE);
        close(&moments(&all, 1, |t| score.one(&params, t, weight(t))).0, &[-2.9102], 1e-4);
        let product = moments(&all, 1, |t| score.one_product(Paper, &params, &v, t, weight(t))).0;
        close(&product, &[-5.8965], 1e-4);
    }

    #[test]
    fn a_learnt_deviation_of_the_regulator() {
        // All three parameters at once against the closed form.
        let config = EnvConfig {
            kwargs: toml::from_str("start_std = 0").expect("TOML"),
            max_episode_steps: Some(4),
            ..EnvConfig::new("lqr")
        };
        let exact = Exact::of(&config, &Registry::default(), 0.9).expect("it has closed forms");
        let (score, params, v) = (gaussian(true), [-0.3, 0.0, 0.5f64.ln()], [0.2, -0.3, 0.1]);
        let all = regulator(0.3, 0.5);
        let weight = |t: &_| weigh(t, 0.9, true, &|t, _| -1.0 - t as f64);
        let (gradient, _) = moments(&all, 3, |t| score.one(&params, t, weight(t)));
        close(&gradient, &exact.gradient(&params), 1e-9);
        for kind in [Paper, Causal] {
            let (product, _) = moments(&all, 3, |t| score.one_product(kind, &params, &v, t, weight(t)));
            close(&product, &exact.hessian_product(&params, &v), 1e-9);
        }
    }

    #[test]
    fn a_network_of_two_layers_agrees_with_differences_on_any_number_of_threads() {
        // The mean over trajectories of w ln π and its second derivative along v; the first term by its definition.
        let mut score = gaussian(true);
        score.net = Mlp::new(&[2, 5, 4, 1], Activation::Tanh);
        let mut rng = bregman_envs::rng::NumpyRng::new(8);
        let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal()).collect::<Vec<f64>>();
        let (params, v) = (draw(score.num_params()), draw(score.num_params()));
        let trajectories: Vec<Trajectory<f64>> = [3, 6, 1]
            .map(|h| Trajectory { obs: draw(2 * h), action: draw(h), log_prob: draw(h), reward: draw(h) })
            .to_vec();
        let weights: Vec<Vec<f64>> = trajectories.iter().map(|t| draw(t.len())).collect();
        let workers = Workers::new(3).expect("threads start");
        let product = score.hessian_product(Paper, &params, &v, &trajectories, &weights, &workers);
        assert_eq!(product, score.hessian_product(Paper, &params, &v, &trajectories, &weights, &alone()));

        let moved = |step: f64| params.iter().zip(&v).map(|(p, v)| p + step * v).collect::<Vec<f64>>();
        let [up, down] = [1e-5, -1e-5].map(|h| score.gradient(&moved(h), &trajectories, &weights, &workers));
        let mut expected: Vec<f64> = up.iter().zip(&down).map(|(up, down)| (up - down) / 2e-5).collect();
        for (trajectory, weight) in trajectories.iter().zip(&weights) {
            let g = score.one(&params, trajectory, weight.clone());
            let l = score.one(&params, trajectory, vec![1.0; trajectory.len()]);
            let slope = dot(&l, &v);
            expected.iter_mut().zip(g).for_each(|(sum, g)| *sum += g * slope / 3.0);
        }
        close(&product, &expected, 1e-7);
    }

    #[test]
    fn actions_of_several_components() {
        // Means of 0 and σ of 1 and ½ at a = (1, 1): a/σ² in the means, a²/σ² − 1 in ln σ.
        let score = linear(1, ActionSpace::Box { low: vec![-1.0; 2], high: vec![1.0; 2] }, true);
        let params = [0.0, 0.0, 0.0, 0.0, 0.0, 0.5f64.ln()];
        let single = Trajectory { obs: vec![0.0], action: vec![1.0; 2], log_prob: vec![0.0], reward: vec![1.0] };
        let gradient = score.one(&params, &single, vec![1.0]);
        close(&gradient, &[0.0, 0.0, 1.0, 4.0, 0.0, 3.0], 1e-12);
        // The product is s ⟨s, v⟩ and what the gradient moves by along v.
        let v = [0.3, -0.1, 0.2, 0.5, -0.4, 0.7];
        let moved = |h: f64| -> Vec<f64> {
            let there: Vec<f64> = params.iter().zip(&v).map(|(x, v)| x + h * v).collect();
            score.one(&there, &single, vec![1.0])
        };
        let along: f64 = gradient.iter().zip(&v).map(|(g, v)| g * v).sum();
        let bent = moved(1e-5).into_iter().zip(moved(-1e-5)).map(|(a, b)| (a - b) / 2e-5);
        let expected: Vec<f64> = bent.zip(&gradient).map(|(bent, g)| bent + g * along).collect();
        close(&score.one_product(Paper, &params, &v, &single, vec![1.0]), &expected, 1e-8);
    }
}
