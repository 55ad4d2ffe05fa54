//! Fitting a value function of its own to a rollout's returns, and the value loss.

use bregman_envs::rng::{NumpyRng, Seed};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::learner::{LearnError, Snapshot};
use crate::nn::{Mlp, Workspace};
use crate::on_policy::{Batch, load_stream, shuffle, take_rows};
use crate::optim::Adam;
use crate::optional;

/// Settings of agents that train the value function beside the policy, by an optimiser of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct ValueConfig {
    /// Adam's step size for the value function.
    pub vf_learning_rate: f64,
    /// Let that step size fall linearly to 0 over the budget.
    pub vf_anneal_lr: bool,
    /// ε of the value function's Adam.
    pub vf_adam_eps: f64,
    /// Passes of the value function over a rollout.
    pub vf_epochs: usize,
    /// Transitions per step of the value function's optimiser.
    pub vf_batch_size: usize,
    /// Half-width of the interval around the old value that the new value is clipped to; "none" leaves it free.
    #[serde(with = "optional")]
    pub vf_clip_coef: Option<f64>,
}

impl Default for ValueConfig {
    fn default() -> ValueConfig {
        ValueConfig {
            vf_learning_rate: 1e-3,
            vf_anneal_lr: false,
            vf_adam_eps: 1e-5,
            vf_epochs: 10,
            vf_batch_size: 128,
            vf_clip_coef: None,
        }
    }
}

impl ValueConfig {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), LearnError> {
        check::positive("vf_learning_rate", self.vf_learning_rate, "1e-3")?;
        check::positive("vf_adam_eps", self.vf_adam_eps, "1e-5")?;
        check::count("vf_epochs", self.vf_epochs)?;
        check::count("vf_batch_size", self.vf_batch_size)?;
        check::positive_or_none("vf_clip_coef", self.vf_clip_coef)
    }
}

/// Minibatch steps of Adam on the squared error of a value network.
pub struct ValueFit {
    config: ValueConfig,
    optimizer: Adam,
    /// Draws the order of the minibatches.
    shuffle: NumpyRng,
    workspace: Workspace<f32>,
    grad: Vec<f32>,
    rows: Vec<usize>,
    minibatch: Minibatch,
    d_value: Vec<f32>,
}

/// Rows of a batch, gathered.
#[derive(Default)]
struct Minibatch {
    obs: Vec<f32>,
    value: Vec<f32>,
    returns: Vec<f32>,
}

impl ValueFit {
    /// For a network of this shape and rollouts of `rows` rows.
    pub fn new(config: ValueConfig, critic: &Mlp, rows: usize, seed: Seed) -> ValueFit {
        ValueFit {
            optimizer: Adam::new(critic.num_params(), config.vf_adam_eps),
            shuffle: seed.stream("shuffle", 0),
            workspace: critic.workspace(config.vf_batch_size.min(rows)),
            grad: vec![0.0; critic.num_params()],
            rows: Vec::new(),
            minibatch: Minibatch::default(),
            d_value: Vec::new(),
            config,
        }
    }

    /// Several epochs of minibatch steps on `params`; `left` is the part of the budget that is left. Returns the squared
    /// error, mean over the minibatches.
    pub fn fit(&mut self, critic: &Mlp, params: &mut [f32], batch: &Batch, left: f64) -> f64 {
        let learning_rate = self.config.vf_learning_rate * if self.config.vf_anneal_lr { left } else { 1.0 };
        let clip_coef = self.config.vf_clip_coef.map(|c| c as f32);
        let ValueFit { optimizer, workspace, grad, rows, minibatch, d_value, .. } = self;
        rows.clear();
        rows.extend(0..batch.steps.len());
        let (mut sum, mut count) = (0.0, 0.0);
        for _ in 0..self.config.vf_epochs {
            shuffle(rows, &mut self.shuffle);
            for rows in rows.chunks(self.config.vf_batch_size) {
                take_rows(&batch.steps.obs, critic.num_inputs(), rows, &mut minibatch.obs);
                take_rows(&batch.value, 1, rows, &mut minibatch.value);
                take_rows(&batch.returns, 1, rows, &mut minibatch.returns);
                let values = critic.forward(params, &minibatch.obs, workspace);
                let scale = 1.0 / rows.len() as f32;
                d_value.clear();
                for (i, &value) in values.iter().enumerate() {
                    let loss = value_loss(value, minibatch.value[i], minibatch.returns[i], clip_coef);
                    d_value.push(loss.slope * scale);
                    sum += f64::from(loss.loss * scale);
                }
                count += 1.0;
                critic.backward(params, workspace, d_value, grad);
                optimizer.step(params, grad, learning_rate);
            }
        }
        sum / count
    }

    /// Puts moments and stream into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        self.optimizer.save("vf_adam", snapshot);
        snapshot.state.insert("shuffle".into(), self.shuffle.save().into());
    }

    /// Takes moments and stream from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.optimizer.load("vf_adam", snapshot)?;
        self.shuffle = load_stream(snapshot, "shuffle")?;
        Ok(())
    }
}

/// A row's objective or loss and its derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sloped {
    /// The value.
    pub loss: f32,
    /// Its derivative in the log-probability or in the value.
    pub slope: f32,
}

/// Squared error of a value, and its derivative; with a clip, the larger one of the free and the clipped value's.
pub fn value_loss(value: f32, old_value: f32, returns: f32, clip_coef: Option<f32>) -> Sloped {
    let error = value - returns;
    let free = Sloped { loss: error * error, slope: 2.0 * error };
    // Within the interval the two are one, whatever their sums are rounded to.
    let Some(clip_coef) = clip_coef.filter(|&clip_coef| (value - old_value).abs() > clip_coef) else { return free };
    let clipped_error = old_value + (value - old_value).clamp(-clip_coef, clip_coef) - returns;
    if free.loss >= clipped_error * clipped_error {
        free
    } else {
        Sloped { loss: clipped_error * clipped_error, slope: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_loss_takes_the_larger_of_free_and_clipped() {
        assert!((value_loss(0.5, 0.0, 1.0, Some(0.2)).loss - 0.64).abs() < 1e-6);
        assert_eq!(value_loss(0.5, 0.0, 1.0, Some(0.2)).slope, 0.0);
        assert_eq!(value_loss(0.5, 0.0, 1.0, None), Sloped { loss: 0.25, slope: -1.0 });
        // Free inside the interval, though old + (value − old) is rounded away from the return.
        assert!((value_loss(0.02, -0.08, 0.5, Some(0.2)).slope + 0.96).abs() < 1e-6);
    }

    /// A network of one weight and a bias of ½ at observations of 0, after a fit to returns of 1 with old values of 0.
    fn fitted(rows: usize, change: impl FnOnce(&mut ValueConfig)) -> (f64, Vec<f32>, u64) {
        let mut config = ValueConfig { vf_learning_rate: 0.1, vf_epochs: 1, vf_batch_size: 2, ..Default::default() };
        change(&mut config);
        let critic = Mlp::new(&[1, 1], crate::nn::Activation::Tanh);
        let mut batch = crate::full_batch::exact::rollout(&vec![0.0; rows], 0.0, |_| 0.0);
        (batch.value, batch.returns) = (vec![0.0; rows], vec![1.0; rows]);
        let (mut fit, mut params) = (ValueFit::new(config, &critic, rows, Seed(1)), vec![0.0, 0.5]);
        let loss = fit.fit(&critic, &mut params, &batch, 0.5);
        let mut snapshot = Snapshot::default();
        fit.save(&mut snapshot);
        (loss, params, snapshot.u64("vf_adam/steps").expect("it is saved"))
    }

    #[test]
    fn every_row_is_fitted_in_every_epoch() {
        assert_eq!(fitted(3, |_| ()).2, 2);
        assert_eq!(fitted(3, |config| config.vf_epochs = 3).2, 6);
        // Adam's first step: the step size, or the half of it that half the budget leaves.
        for (vf_anneal_lr, bias) in [(false, 0.6), (true, 0.55)] {
            let (loss, params, _) = fitted(2, |config| config.vf_anneal_lr = vf_anneal_lr);
            assert!(loss == 0.25 && (params[1] - bias).abs() < 1e-5, "{loss} {params:?}");
        }
    }

    #[test]
    fn the_clip_reaches_the_fit() {
        // ½ is clipped to 0.2, whose error of 0.64 is the larger, and that has no slope.
        let (loss, params, _) = fitted(2, |config| config.vf_clip_coef = Some(0.2));
        assert!((loss - 0.64).abs() < 1e-6 && params == [0.0, 0.5], "{loss} {params:?}");
    }
}
