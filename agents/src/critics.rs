//! Two action-value functions that are trained side by side, each followed by a target network (Fujimoto et al. 2018; Mnih et
//! al. 2015).

use bregman_envs::rng::NumpyRng;

use crate::learner::{Array, LearnError, Snapshot};
use crate::nn::{Init, Mlp, Twins, TwinsWorkspace};
use crate::optim::Adam;
use crate::workers::Workers;

/// Q₁ and Q₂ over joined observations and actions, `[B, obs_dim + act_dim]`.
#[derive(Clone)]
pub struct TwinCritics {
    /// Parameters of both, one behind the other.
    pub params: Vec<f32>,
    /// Those of the target networks.
    pub target: Vec<f32>,
    nets: Twins,
    adam: Adam,
    workspace: TwinsWorkspace<f32>,
    /// Gradient in the values, `[2, B]`, and in the parameters.
    d_value: Vec<f32>,
    grad: Vec<f32>,
    /// |Q − y|, mean of both, `[B]`.
    errors: Vec<f32>,
}

/// Means over the rows of a minibatch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CriticLosses {
    /// ½ w (Q − y)², summed over both.
    pub loss: f64,
    /// The smaller value.
    pub q_value: f64,
}

impl TwinCritics {
    /// Fresh critics shaped as `mlp`, for minibatches of `batch_size` rows.
    pub fn new(mlp: Mlp, batch_size: usize, adam_eps: f64, rng: &mut NumpyRng) -> TwinCritics {
        let nets = Twins::new(mlp, 2);
        let params: Vec<f32> = nets.init(Init::Uniform, rng);
        TwinCritics {
            adam: Adam::new(params.len(), adam_eps),
            workspace: nets.workspace(batch_size),
            d_value: vec![0.0; 2 * batch_size],
            errors: vec![0.0; batch_size],
            grad: vec![0.0; params.len()],
            target: params.clone(),
            params,
            nets,
        }
    }

    /// The values that the target networks give, `[2, B]`.
    pub fn target_values(&mut self, input: &[f32], workers: &Workers) -> &[f32] {
        self.nets.forward(&self.target, input, &mut self.workspace, workers)
    }

    /// The values that the critics give, `[2, B]`.
    pub fn values(&mut self, input: &[f32], workers: &Workers) -> &[f32] {
        self.nets.forward(&self.params, input, &mut self.workspace, workers)
    }

    /// The values that were last computed, `[2, B]`.
    pub fn last_values(&self) -> &[f32] {
        self.nets.output(&self.workspace)
    }

    /// One step of each critic on ½ mean (Q − y)², for the targets `y`, `[B]`, of `input`.
    pub fn fit(&mut self, input: &[f32], y: &[f32], learning_rate: f64, workers: &Workers) -> CriticLosses {
        let losses = self.gradient(input, y, |_| 1.0, workers);
        self.adam.step_on(&mut self.params, &self.grad, learning_rate, workers);
        losses
    }

    /// The same on ½ mean w (Q − y)², for weights `w`, `[B]`.
    pub fn fit_weighted(
        &mut self,
        input: &[f32],
        (y, weight): (&[f32], &[f32]),
        learning_rate: f64,
        workers: &Workers,
    ) -> CriticLosses {
        let losses = self.gradient(input, y, |i| weight[i], workers);
        self.adam.step_on(&mut self.params, &self.grad, learning_rate, workers);
        losses
    }

    fn gradient(&mut self, input: &[f32], y: &[f32], weight: impl Fn(usize) -> f32, workers: &Workers) -> CriticLosses {
        let (rows, scale) = (y.len(), 1.0 / y.len() as f32);
        let values = self.nets.forward(&self.params, input, &mut self.workspace, workers);
        let mut losses = CriticLosses::default();
        for (i, (d, &q)) in self.d_value.iter_mut().zip(values).enumerate() {
            let (error, weight) = (q - y[i % rows], weight(i % rows) * scale);
            *d = weight * error;
            losses.loss += f64::from(weight * error * error / 2.0);
            self.errors[i % rows] = if i < rows { error.abs() } else { (self.errors[i % rows] + error.abs()) / 2.0 };
        }
        losses.q_value = smaller(values).map(|q| f64::from(q * scale)).sum();
        self.nets.backward(&self.params, &mut self.workspace, &self.d_value, &mut self.grad, workers);
        losses
    }

    /// The gradient of the mean over rows of the value that `judge` takes, in `input`, `[B, obs_dim + act_dim]`, after
    /// [`values`](TwinCritics::values).
    pub fn slope(&mut self, judge: Judge, workers: &Workers) -> &[f32] {
        let values = self.nets.output(&self.workspace);
        let rows = values.len() / 2;
        let scale = 1.0 / rows as f32;
        for i in 0..rows {
            let first = judge == Judge::First || values[i] <= values[rows + i];
            (self.d_value[i], self.d_value[rows + i]) = if first { (scale, 0.0) } else { (0.0, scale) };
        }
        self.nets.backward_input(&self.params, &mut self.workspace, &self.d_value, workers)
    }

    /// How far the values were from their targets in the last step, mean of both critics, `[B]`.
    pub fn errors(&self) -> &[f32] {
        &self.errors
    }

    /// Both critics' values of an action in [−1, 1] at an observation.
    pub fn values_of(&self, obs: &[f32], action: &[f32]) -> [f32; 2] {
        let input = [obs, action].concat();
        [0, 1].map(|k| {
            let mut value = [0.0];
            self.nets.mlp().forward_row(self.nets.part(&self.params, k), &input, &mut Default::default(), &mut value);
            value[0]
        })
    }

    /// Lets the target networks follow: they take on the part `tau` of the critics' parameters.
    pub fn follow(&mut self, tau: f64, workers: &Workers) {
        polyak(&mut self.target, &self.params, tau as f32, workers);
    }

    /// Puts critics, targets and optimiser into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("q_params", Array::F32(self.params.clone()));
        snapshot.put("q_target", Array::F32(self.target.clone()));
        self.adam.save("q_adam", snapshot);
    }

    /// Takes them from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into("q_params", &mut self.params)?;
        snapshot.f32_into("q_target", &mut self.target)?;
        self.adam.load("q_adam", snapshot)
    }
}

/// Which critic an actor listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// The one with the smaller value, action by action.
    Min,
    /// The first.
    First,
}

/// The smaller of two values, row by row; `values` is `[2, B]`.
pub fn smaller(values: &[f32]) -> impl Iterator<Item = f32> {
    let (first, second) = values.split_at(values.len() / 2);
    first.iter().zip(second).map(|(a, b)| a.min(*b))
}

/// Lets `target` follow `source` by the part `tau`.
pub fn polyak(target: &mut [f32], source: &[f32], tau: f32, workers: &Workers) {
    let follow = |target: &mut [f32], source: &[f32]| {
        target.iter_mut().zip(source).for_each(|(target, &source)| *target += tau * (source - *target));
    };
    let half = target.len() / 2;
    let (target, more_target) = target.split_at_mut(half);
    let (source, more_source) = source.split_at(half);
    workers.join(|| follow(target, source), || follow(more_target, more_source));
}

/// Observations and actions side by side, `[B, obs_dim + act_dim]`, into `out`.
pub fn join(obs: &[f32], action: &[f32], rows: usize, out: &mut Vec<f32>) {
    out.clear();
    for (obs, action) in obs.chunks_exact(obs.len() / rows).zip(action.chunks_exact(action.len() / rows)) {
        out.extend_from_slice(obs);
        out.extend_from_slice(action);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Activation;

    fn critics() -> (TwinCritics, Workers) {
        let mlp = Mlp::new(&[3, 8, 1], Activation::Tanh);
        (TwinCritics::new(mlp, 2, 1e-8, &mut NumpyRng::new(1)), Workers::new(1).expect("one thread"))
    }

    const INPUT: [f32; 6] = [0.5, -1.0, 2.0, 1.0, 0.3, -0.2];

    #[test]
    fn targets_follow_by_tau() {
        let workers = Workers::new(1).expect("one thread");
        let mut target = [0.0, 1.0, 3.0];
        polyak(&mut target, &[1.0, 1.0, 1.0], 0.005, &workers);
        assert_eq!(target, [0.005, 1.0, 2.99]);
    }

    #[test]
    fn the_gradient_is_that_of_half_the_squared_error_of_both() {
        let (mut critics, workers) = critics();
        let y = [0.7, -0.4];
        let weight = [1.0, 0.4];
        let losses = critics.gradient(&INPUT, &y, |i| weight[i], &workers);
        let (grad, errors) = (critics.grad.clone(), critics.errors().to_vec());
        let mut loss = |i: usize, by: f32| {
            critics.params[i] += by;
            let loss = critics.gradient(&INPUT, &y, |i| weight[i], &workers).loss;
            critics.params[i] -= by;
            loss
        };
        let h = 1e-2;
        for (i, &slope) in grad.iter().enumerate() {
            let difference = ((loss(i, h) - loss(i, -h)) / f64::from(2.0 * h)) as f32;
            assert!((slope - difference).abs() < 2e-4, "{slope} is not {difference} in parameter {i}");
        }
        let values = critics.values(&INPUT, &workers).to_vec();
        let by_hand: f32 = [(0, 0), (1, 1), (2, 0), (3, 1)]
            .map(|(q, i): (usize, usize)| weight[i] * (values[q] - y[i]).powi(2) / 4.0)
            .iter()
            .sum();
        assert!((losses.loss as f32 - by_hand).abs() < 1e-6);
        let error = ((values[1] - y[1]).abs() + (values[3] - y[1]).abs()) / 2.0;
        assert!((errors[1] - error).abs() < 1e-6);
        assert!((losses.q_value as f32 - smaller(&values).sum::<f32>() / 2.0).abs() < 1e-6);
    }

    #[test]
    fn the_actor_hears_the_smaller_critic_of_each_row_or_the_first() {
        let (mut critics, workers) = critics();
        for judge in [Judge::Min, Judge::First] {
            critics.values(&INPUT, &workers);
            let slope = critics.slope(judge, &workers).to_vec();
            let mut judged = |input: &[f32]| -> f32 {
                let values = critics.values(input, &workers);
                match judge {
                    Judge::Min => smaller(values).sum::<f32>() / 2.0,
                    Judge::First => (values[0] + values[1]) / 2.0,
                }
            };
            for i in 0..6 {
                let moved = |by: f32| {
                    let mut input = INPUT;
                    input[i] += by;
                    input
                };
                let difference = (judged(&moved(1e-2)) - judged(&moved(-1e-2))) / 2e-2;
                assert!((slope[i] - difference).abs() < 2e-4, "{} is not {difference}", slope[i]);
            }
        }
    }
}
