//! Policy losses over a whole rollout: means, gradients and Fisher products, in slices that the run's threads share.
//!
//! The slices are the same for any number of threads and their results are added in order, so are the bits.

use std::ops::Range;

use rayon::prelude::*;

use crate::actor::{Actor, ActorPass, FrozenPolicy, PolicyGradient, PolicyRows};
use crate::on_policy::Batch;
use crate::workers::Workers;

/// Rows per slice: enough for the products, few enough that activations stay in the cache.
const SLICE: usize = 256;

/// Room for a rollout's activations and gradients.
pub struct FullBatch {
    slices: Vec<Slice>,
}

struct Slice {
    rows: Range<usize>,
    pass: ActorPass,
    grad: Vec<f32>,
}

/// A policy over a rollout.
pub struct PolicyBatch<'a> {
    room: &'a mut FullBatch,
    actor: &'a Actor,
    batch: &'a Batch,
    workers: &'a Workers,
}

/// One row of a rollout: the distribution there, and where a loss puts its gradient.
pub struct Row<'a, 'b> {
    /// Its place in the rollout.
    pub index: usize,
    /// Its place in the slice.
    place: usize,
    policy: &'a mut PolicyGradient<'b>,
    batch: &'a Batch,
}

impl FullBatch {
    /// Room for `rows` rows.
    pub fn new(actor: &Actor, rows: usize) -> FullBatch {
        let slice = |start: usize| {
            let rows = start..rows.min(start + SLICE);
            Slice { pass: actor.pass(rows.len()), grad: vec![0.0; actor.num_params()], rows }
        };
        FullBatch { slices: (0..rows).step_by(SLICE).map(slice).collect() }
    }

    /// The policy over a rollout of that many rows.
    pub fn of<'a>(&'a mut self, actor: &'a Actor, batch: &'a Batch, workers: &'a Workers) -> PolicyBatch<'a> {
        assert_eq!(self.slices.last().map(|slice| slice.rows.end), Some(batch.steps.len()), "room for this rollout");
        PolicyBatch { room: self, actor, batch, workers }
    }
}

impl PolicyBatch<'_> {
    /// The policy as it is under `params`, to be held against later ones.
    pub fn freeze(&mut self, params: &[f32]) -> FrozenPolicy {
        self.actor.forward(params, &self.batch.steps.obs, &mut self.actor.pass(self.batch.steps.len())).freeze()
    }

    /// Means over the rows of what `term` says of each. With `grad`, `[num_params]`, also the gradient of the mean of the loss
    /// whose gradient `term` adds row by row.
    pub fn mean<const N: usize>(
        &mut self,
        params: &[f32],
        term: impl Fn(&mut Row<'_, '_>) -> [f64; N] + Sync,
        grad: Option<&mut [f32]>,
    ) -> [f64; N] {
        let (actor, batch, obs_dim) = (self.actor, self.batch, self.actor.obs_dim());
        let with_gradient = grad.is_some();
        let sums = self.each(|slice| {
            let Slice { rows, pass, grad } = slice;
            let obs = &batch.steps.obs[rows.start * obs_dim..rows.end * obs_dim];
            let sum = |mut policy: PolicyGradient<'_>| {
                let mut sums = [0.0; N];
                for (place, index) in rows.clone().enumerate() {
                    let values = term(&mut Row { index, place, policy: &mut policy, batch });
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
                sums
            };
            match with_gradient {
                true => actor.gradient(params, obs, sum, pass, grad),
                false => actor.look(params, obs, sum, pass),
            }
        });
        if let Some(grad) = grad {
            self.mean_gradient(grad);
        }
        let mut means = [0.0; N];
        for sums in sums {
            means.iter_mut().zip(sums).for_each(|(mean, sum)| *mean += sum);
        }
        means.map(|sum| sum / batch.steps.len() as f64)
    }

    /// Writes `F v` into `out`, where F is the mean Fisher information of the distributions at the rows of the last
    /// [`mean`](PolicyBatch::mean), under the parameters given there: J^T M J, with M the Fisher information in the network's
    /// outputs and the log standard deviations. No second derivative is taken.
    pub fn fisher_product(&mut self, params: &[f32], v: &[f32], out: &mut [f32]) {
        let actor = self.actor;
        self.each(|slice| actor.fisher_product(params, v, &mut slice.pass, &mut slice.grad));
        self.mean_gradient(out);
    }

    fn each<A: Send>(&mut self, work: impl Fn(&mut Slice) -> A + Sync) -> Vec<A> {
        let slices = &mut self.room.slices;
        match self.workers.parallel() {
            true => self.workers.run(|| slices.par_iter_mut().map(&work).collect()),
            false => slices.iter_mut().map(work).collect(),
        }
    }

    fn mean_gradient(&self, out: &mut [f32]) {
        out.fill(0.0);
        for slice in &self.room.slices {
            out.iter_mut().zip(&slice.grad).for_each(|(sum, g)| *sum += g);
        }
        let scale = 1.0 / self.batch.steps.len() as f32;
        out.iter_mut().for_each(|x| *x *= scale);
    }
}

impl Row<'_, '_> {
    /// The action taken.
    pub fn action(&self) -> &[f32] {
        let action = &self.batch.steps.action;
        let len = action.len() / self.batch.steps.len();
        &action[self.index * len..(self.index + 1) * len]
    }

    /// Its advantage.
    pub fn advantage(&self) -> f32 {
        self.batch.advantage[self.index]
    }

    /// ln π(a|s) − ln π_k(a|s), of the policy at hand over the one that acted.
    pub fn log_ratio(&self) -> f32 {
        self.policy.rows.log_prob(self.place, self.action()) - self.batch.steps.log_prob[self.index]
    }

    /// Entropy.
    pub fn entropy(&self) -> f32 {
        self.policy.rows.entropy(self.place)
    }

    /// The distribution's output row and its log standard deviations.
    pub fn head(&self) -> (&[f32], &[f32]) {
        self.policy.rows.head(self.place)
    }

    /// KL(π ‖ old): the policy at hand first.
    pub fn kl(&self, old: &PolicyRows<'_>) -> f32 {
        self.policy.rows.dist().kl(self.head(), old.head(self.index))
    }

    /// KL(old ‖ π): the old policy first.
    pub fn forward_kl(&self, old: &PolicyRows<'_>) -> f32 {
        self.policy.rows.dist().kl(old.head(self.index), self.head())
    }

    /// Adds the gradient of `d_log_prob · ln π(a|s) + d_entropy · H`.
    pub fn add(&mut self, d_log_prob: f32, d_entropy: f32) {
        let action = &self.batch.steps.action;
        let len = action.len() / self.batch.steps.len();
        let action = &action[self.index * len..(self.index + 1) * len];
        self.policy.add(self.place, action, d_log_prob, d_entropy);
    }

    /// Adds the gradient of `d_kl · KL(π ‖ old)`.
    pub fn add_kl(&mut self, old: &PolicyRows<'_>, d_kl: f32) {
        self.policy.add_kl(self.place, old.head(self.index), d_kl);
    }

    /// Adds the gradient of `d_kl · KL(old ‖ π)`.
    pub fn add_forward_kl(&mut self, old: &PolicyRows<'_>, d_kl: f32) {
        self.policy.add_forward_kl(self.place, old.head(self.index), d_kl);
    }

    /// Adds a gradient in the distribution's output row.
    pub fn add_raw(&mut self, d_output: impl IntoIterator<Item = f32>) {
        self.policy.add_raw(self.place, d_output);
    }
}

/// Exact expectations for the tests of the algorithms: a policy without an input that counts, and rollouts whose mean is an
/// integral or a sum.
#[cfg(test)]
pub(crate) mod exact {
    use bregman_envs::{ActionSpace, EnvSpec, Outcome};

    use super::*;
    use crate::actor::NetworkShape;
    use crate::nn::Activation;
    use crate::rollout::Transitions;

    pub const STEP: Outcome = Outcome { reward: 0.0, terminated: false, truncated: false };

    /// A policy that is the same everywhere, and its parameters: `[weights, means or logits, log standard deviations]`, where
    /// the weights multiply an observation that is 0.
    pub fn policy(space: ActionSpace, output: &[f32], log_std: &[f32]) -> (Actor, Vec<f32>) {
        let spec = EnvSpec {
            id: "test".into(),
            obs_dim: 1,
            action_space: space,
            max_episode_steps: None,
            reward_threshold: None,
            backend: "native",
            parallel: true,
        };
        let shape = NetworkShape {
            hidden_sizes: vec![],
            activation: Activation::Tanh,
            separate: true,
            orthogonal_init: false,
            log_std_init: 0.0,
            state_dependent_std: false,
            device: Default::default(),
        };
        (Actor::new(&spec, &shape), [&vec![0.0; output.len()], output, log_std].concat())
    }

    pub fn gaussian(mean: f32, std: f32) -> (Actor, Vec<f32>) {
        let space = ActionSpace::Box { low: vec![-1.0], high: vec![1.0] };
        policy(space, &[mean], &[std.ln()])
    }

    pub fn categorical(p: &[f32]) -> (Actor, Vec<f32>) {
        policy(ActionSpace::Discrete { n: p.len() }, &p.iter().map(|p| p.ln()).collect::<Vec<_>>(), &[])
    }

    /// Actions drawn evenly, with that density as what the policy that acted gave them: the mean of ratio · f(a) is then
    /// E_π[f], and the mean of f(a) · `weight` is E_{π_k}[f] where `weight` is π_k over that density.
    pub fn rollout(actions: &[f32], log_density: f32, advantage: impl Fn(f32) -> f32) -> Batch {
        let steps = Transitions {
            num_steps: actions.len(),
            obs: vec![0.0; actions.len()],
            action: actions.to_vec(),
            log_prob: vec![log_density; actions.len()],
            outcome: vec![STEP; actions.len()],
            ..Default::default()
        };
        let advantage = actions.iter().map(|&a| advantage(a)).collect();
        Batch { steps, advantage, value: vec![], returns: vec![] }
    }

    /// The trapezium rule on [−10, 10], which is exact to rounding for Gaussians.
    pub fn integral(advantage: impl Fn(f32) -> f32) -> Batch {
        let actions: Vec<f32> = (0..1000).map(|i| -10.0 + 0.02 * i as f32 + 0.01).collect();
        rollout(&actions, -(20.0f32.ln()), advantage)
    }

    /// Every action once.
    pub fn sum(advantage: &[f32]) -> Batch {
        let actions: Vec<f32> = (0..advantage.len()).map(|a| a as f32).collect();
        rollout(&actions, -(actions.len() as f32).ln(), |a| advantage[a as usize])
    }

    pub fn softmax(logits: &[f32]) -> Vec<f32> {
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        logits.iter().map(|x| x.exp() / total).collect()
    }

    pub fn close(a: &[f32], b: &[f32], tolerance: f32) {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance), "{a:?} is not {b:?}");
    }

    pub fn alone() -> Workers {
        Workers::new(1).expect("no thread to start")
    }

    #[test]
    fn means_are_expectations() {
        let (actor, params) = gaussian(0.5, 0.5);
        let batch = integral(|a| a * a);
        let (mut room, workers) = (FullBatch::new(&actor, 1000), alone());
        let mut policy = room.of(&actor, &batch, &workers);
        let mean = policy.mean(&params, |row| [f64::from(row.log_ratio().exp() * row.advantage())], None)[0];
        assert!((mean - 0.5).abs() < 1e-5, "{mean}"); // μ² + σ²
    }

    #[test]
    fn the_fisher_information_of_a_gaussian() {
        let (actor, params) = gaussian(0.0, 0.5);
        let batch = integral(|_| 0.0);
        let (mut room, workers) = (FullBatch::new(&actor, 1000), alone());
        let mut policy = room.of(&actor, &batch, &workers);
        policy.mean(&params, |_| [0.0], None);
        let mut out = [9.0; 3];
        policy.fisher_product(&params, &[1.0, 1.0, 1.0], &mut out);
        close(&out, &[0.0, 4.0, 2.0], 1e-5);
    }
}

#[cfg(test)]
mod tests {
    use bregman_envs::rng::NumpyRng;
    use bregman_envs::{ActionSpace, EnvSpec};

    use super::exact::close;
    use super::*;
    use crate::actor::NetworkShape;
    use crate::nn::Activation;
    use crate::rollout::Transitions;

    /// A policy network and a rollout of 300 random rows under it.
    fn random(space: &ActionSpace, state_dependent_std: bool) -> (Actor, Vec<f32>, Batch) {
        let spec = EnvSpec {
            id: "test".into(),
            obs_dim: 3,
            action_space: space.clone(),
            max_episode_steps: None,
            reward_threshold: None,
            backend: "native",
            parallel: true,
        };
        let shape = NetworkShape {
            hidden_sizes: vec![5, 4],
            activation: Activation::Tanh,
            separate: true,
            orthogonal_init: false,
            log_std_init: -0.3,
            state_dependent_std,
            device: Default::default(),
        };
        let mut rng = NumpyRng::new(3);
        let actor = Actor::new(&spec, &shape);
        let params = actor.init(&shape, &mut rng);
        let mut steps = Transitions { num_steps: 300, outcome: vec![exact::STEP; 300], ..Default::default() };
        steps.obs = (0..900).map(|_| rng.standard_normal() as f32).collect();
        let mut pass = actor.pass(300);
        let rows = actor.forward(&params, &steps.obs, &mut pass);
        for i in 0..300 {
            let mut action = vec![0.0; space.row_len()];
            let (output, log_std) = rows.head(i);
            steps.log_prob.push(actor.dist.sample(output, log_std, &mut rng, &mut action));
            steps.action.extend(action);
        }
        let advantage = (0..300).map(|_| rng.standard_normal() as f32).collect();
        (actor, params, Batch { steps, advantage, value: vec![], returns: vec![] })
    }

    fn spaces() -> [(ActionSpace, bool); 3] {
        let real = || ActionSpace::Box { low: vec![-1.0; 2], high: vec![1.0; 2] };
        [(real(), false), (real(), true), (ActionSpace::MultiDiscrete { nvec: vec![3, 2] }, false)]
    }

    /// The Fisher product is the slope of both KLs' gradients at the policy that acted.
    #[test]
    fn fisher_products_agree_with_differences_of_gradients() {
        for (space, state_dependent_std) in spaces() {
            let (actor, params, batch) = random(&space, state_dependent_std);
            let (mut room, workers) = (FullBatch::new(&actor, 300), Workers::new(2).expect("two threads"));
            let mut policy = room.of(&actor, &batch, &workers);
            let old = policy.freeze(&params);
            let mut rng = NumpyRng::new(8);
            let v: Vec<f32> = params.iter().map(|_| rng.standard_normal() as f32).collect();
            let moved = |h: f32| -> Vec<f32> { params.iter().zip(&v).map(|(p, v)| p + h * v).collect() };
            let mut slope = |forward: bool| {
                let mut gradient = |h: f32| {
                    let mut grad = vec![0.0; params.len()];
                    let term = |row: &mut Row<'_, '_>| {
                        match forward {
                            true => row.add_forward_kl(&old.rows(), 1.0),
                            false => row.add_kl(&old.rows(), 1.0),
                        }
                        [0.0]
                    };
                    policy.mean(&moved(h), term, Some(&mut grad));
                    grad
                };
                let (up, down) = (gradient(0.01), gradient(-0.01));
                up.iter().zip(&down).map(|(u, d)| (u - d) / 0.02).collect::<Vec<f32>>()
            };
            let slopes = [slope(false), slope(true)];
            policy.mean(&params, |_| [0.0], None);
            let mut product = vec![0.0; params.len()];
            policy.fisher_product(&params, &v, &mut product);
            let scale = product.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
            slopes.iter().for_each(|slope| close(&product, slope, 1e-2 * scale));
        }
    }

    #[test]
    fn divergences_vanish_with_their_gradients_where_the_policies_agree() {
        for (space, state_dependent_std) in spaces() {
            let (actor, params, batch) = random(&space, state_dependent_std);
            let (mut room, workers) = (FullBatch::new(&actor, 300), exact::alone());
            let mut policy = room.of(&actor, &batch, &workers);
            let old = policy.freeze(&params);
            let mut grad = vec![9.0; params.len()];
            let both = |row: &mut Row<'_, '_>| {
                row.add_kl(&old.rows(), 1.0);
                row.add_forward_kl(&old.rows(), 1.0);
                [row.kl(&old.rows()), row.forward_kl(&old.rows()), row.log_ratio()].map(|x| f64::from(x.abs()))
            };
            let means = policy.mean(&params, both, Some(&mut grad));
            assert!(means.iter().all(|&x| x < 1e-6), "{means:?}");
            close(&grad, &vec![0.0; params.len()], 1e-7);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (actor, params, batch) = random(&spaces()[0].0, false);
        let gradient = |threads| {
            let (mut room, workers) = (FullBatch::new(&actor, 300), Workers::new(threads).expect("threads"));
            let mut grad = vec![0.0; params.len()];
            let mut policy = room.of(&actor, &batch, &workers);
            policy.mean(
                &params,
                |row| {
                    row.add(row.advantage(), 0.1);
                    [0.0]
                },
                Some(&mut grad),
            );
            grad
        };
        assert_eq!(gradient(1), gradient(3));
    }
}
