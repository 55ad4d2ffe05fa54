//! What the algorithms do on the linear-quadratic regulator, where J and its gradient are known: A = 1, B = 1/2, Q = 1, R = 1/10,
//! γ = 9/10, H = 10, s₀ ~ N(1, 1/4), a ~ N(w s + b, 1/4) from w = −0.3, b = 0.5. J is −12.2635 there and −2.23054 at best.

use bregman_envs::rng::Seed;
use bregman_envs::{EnvConfig, Registry};

use super::*;
use crate::baseline::BaselineKind;
use crate::exact::Exact;
use crate::harpg::Harpg;
use crate::learner::{Budget, Metrics};
use crate::n_pg_igt::{NPgIgt, NPgIgtConfig};
use crate::pg::NPg;
use crate::trajectory_gradient::{Iterates, Method, MomentumConfig, decayed};

/// What a Hessian-vector product is made of.
#[derive(Clone, Copy, PartialEq)]
enum Product {
    /// What it should be.
    Right,
    /// Nothing, for the same number of episodes.
    Nothing,
    /// The product of the means of both factors, rather than the mean of their products.
    OfMeans,
    /// The second term alone: all that remains of it in code that divides each factor by the number of steps.
    SecondTerm,
}

/// A sampler whose products are made so.
struct With(Sampler, Product);

impl Oracle for With {
    fn gradient(&mut self, x: &[f64]) -> Result<Vec<f64>, LearnError> {
        self.0.gradient(x)
    }

    fn hessian_product(&mut self, y: &[f64], v: &[f64]) -> Result<Vec<f64>, LearnError> {
        let With(sampler, product) = self;
        let (params, count) = (single(y), sampler.curvature.map_or(0, |curvature| curvature.trajectories));
        let Estimator { score, workers, .. } = &sampler.estimator;
        let batch = sampler.estimator.play(&mut sampler.runner, &params, count)?;
        let weights = sampler.estimator.weights(&batch.returns, &batch.predicted);
        let ones: Vec<Vec<f64>> = weights.iter().map(|w| vec![1.0; w.len()]).collect();
        let gradient = |w: &[Vec<f64>], m: &[Trajectory<f32>]| score.gradient(&params, m, w, workers);
        let right = sampler.estimator.hessian_product(HessianEstimator::Paper, &params, &single(v), &batch);
        // The mean of products g ⟨l, v⟩ is the right one's first term.
        let mut first = vec![0.0; v.len()];
        for (m, trajectory) in batch.trajectories.iter().enumerate() {
            let alone = std::slice::from_ref(trajectory);
            let slope = dot(&gradient(&ones[m..=m], alone), v) / count as f64;
            first = combine(&first, 1.0, &gradient(&weights[m..=m], alone), slope);
        }
        let second = combine(&right, 1.0, &first, -1.0);
        let slope = dot(&gradient(&ones, &batch.trajectories), v);
        let of_means = combine(&second, 1.0, &gradient(&weights, &batch.trajectories), slope);
        sampler.keep(batch);
        Ok(match product {
            Product::Right => right,
            Product::Nothing => vec![0.0; v.len()],
            Product::OfMeans => of_means,
            Product::SecondTerm => second,
        })
    }

    fn gradients(&mut self, x: &[f64], old: &[f64]) -> Result<[Vec<f64>; 2], LearnError> {
        self.0.gradients(x, old)
    }
}

/// J after 3000 episodes, and the mean of |d_t − ∇J(θ_t)|² over the second half of them; of one seed.
fn trained(method: &dyn Method, trajectories: usize, product: Product, seed: u64) -> (f64, f64) {
    let config = TrajectoryConfig {
        trajectories,
        gamma: 0.9,
        baseline: BaselineKind::Time,
        hidden_sizes: vec![],
        log_std_init: 0.5f64.ln(),
        learn_std: false,
        ..Default::default()
    };
    let setup = Setup {
        seed,
        threads: 1,
        device: Default::default(),
        env: EnvConfig::new("lqr"),
        envs: Registry::default(),
        dataset: None,
        budget: Budget::EnvSteps(1),
        histograms: false,
    };
    let exact = Exact::of(&setup.env, &setup.envs, 0.9).expect("it has closed forms");
    let curvature = Curvature { estimator: HessianEstimator::Paper, trajectories };
    let sampler = Sampler::new(config, &setup).expect("the settings fit").with_curvature(curvature);
    let (mut oracle, mut at) = (With(sampler, product), Iterates::new(vec![-0.3, 0.5, 0.5f64.ln()]));
    let mut rng = Seed(seed).stream("method", 0);
    // The baseline starts from a batch of its own: a first direction without one is so far off that many steps go by on it.
    oracle.gradient(&at.theta).expect("finite numbers");
    oracle.0.finish();
    let (mut played, mut errors, mut count) = (0, 0.0, 0.0);
    while played < 3000 {
        let found = method.direction(&mut oracle, &at, &mut rng, &mut Metrics::default()).expect("finite numbers");
        played += oracle.0.finish().episodes.len();
        if played > 1500 {
            let mut off = combine(&found.direction, 1.0, &exact.gradient(&at.theta), -1.0);
            off[2] = 0.0; // ln σ is not learnt
            errors += dot(&off, &off);
            count += 1.0;
        }
        at.advance(found.direction, decayed(0.2, 1.0, at.t), method.normalized());
    }
    (exact.value(&at.theta), errors / count)
}

/// Over 20 seeds: the mean of J, the mean of the error, and its median, since the error has a heavy tail under Hessian products.
fn over_seeds(method: &dyn Method, trajectories: usize, product: Product) -> [f64; 3] {
    let runs: Vec<(f64, f64)> = (1..=20).map(|seed| trained(method, trajectories, product, seed)).collect();
    let mut errors: Vec<f64> = runs.iter().map(|run| run.1).collect();
    errors.sort_by(f64::total_cmp);
    let mean = |x: fn(&(f64, f64)) -> f64| runs.iter().map(x).sum::<f64>() / 20.0;
    [mean(|run| run.0), mean(|run| run.1), 0.5 * (errors[9] + errors[10])]
}

fn momentum(momentum_decay: f64) -> MomentumConfig {
    MomentumConfig { momentum: 1.0, momentum_decay }
}

#[test]
fn transport_halves_the_error_of_momentum_and_learns() {
    let igt = NPgIgt { config: NPgIgtConfig::default() };
    let [value, error, _] = over_seeds(&igt, 1, Product::Right);
    assert!(value > -2.25, "J = {value}");
    let [_, plain, _] = over_seeds(&NPg { momentum: momentum(2.0 / 3.0) }, 1, Product::Right);
    assert!(error < 0.5 * plain, "{error} with transport, {plain} without");
}

#[test]
fn the_right_hessian_product_halves_the_error_and_wrong_ones_multiply_it() {
    // 10 episodes for the gradient and 10 for the product.
    let harpg = Harpg { momentum: momentum(1.0), normalized: true };
    let error = |product| over_seeds(&harpg, 10, product)[2];
    let (right, nothing) = (error(Product::Right), error(Product::Nothing));
    assert!(right < 0.5 * nothing, "{right} with the product, {nothing} without");
    for wrong in [Product::OfMeans, Product::SecondTerm] {
        let wrong = error(wrong);
        assert!(wrong > 5.0 * nothing, "{wrong} with a wrong product, {nothing} without");
    }
}
