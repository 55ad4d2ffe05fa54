//! Adam on a flat parameter vector, and clipping by the global norm.

use crate::learner::{Array, LearnError, Snapshot};
use crate::workers::Workers;

/// Adam (Kingma & Ba 2015) with PyTorch's arithmetic: ε is added to the corrected root.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    first: Vec<f32>,
    second: Vec<f32>,
    steps: u64,
    eps: f64,
    weight_decay: f64,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;

impl Adam {
    /// For `len` parameters; decay rates are 0.9 and 0.999.
    pub fn new(len: usize, eps: f64) -> Adam {
        Adam { first: vec![0.0; len], second: vec![0.0; len], steps: 0, eps, weight_decay: 0.0 }
    }

    /// The same with L2 regularisation: `weight_decay` times the parameters is part of the gradient.
    pub fn with_weight_decay(self, weight_decay: f64) -> Adam {
        Adam { weight_decay, ..self }
    }

    /// One descent step along `grad`.
    pub fn step(&mut self, params: &mut [f32], grad: &[f32], learning_rate: f64) {
        let rates = self.rates(learning_rate);
        descend(params, grad, &mut self.first, &mut self.second, rates);
    }

    /// The same, shared among the run's workers; the numbers are the same.
    pub fn step_on(&mut self, params: &mut [f32], grad: &[f32], learning_rate: f64, workers: &Workers) {
        let (rates, half) = (self.rates(learning_rate), params.len() / 2);
        let (params, more_params) = params.split_at_mut(half);
        let (grad, more_grad) = grad.split_at(half);
        let (first, more_first) = self.first.split_at_mut(half);
        let (second, more_second) = self.second.split_at_mut(half);
        workers.join(
            || descend(params, grad, first, second, rates),
            || descend(more_params, more_grad, more_first, more_second, rates),
        );
    }

    /// Counts a step: its size, the inverse root of the second moments' correction, ε, and the regularisation.
    fn rates(&mut self, learning_rate: f64) -> [f32; 4] {
        self.steps += 1;
        let (correction1, correction2) = (1.0 - BETA1.powi(self.steps as i32), 1.0 - BETA2.powi(self.steps as i32));
        [learning_rate / correction1, 1.0 / correction2.sqrt(), self.eps, self.weight_decay].map(|x| x as f32)
    }

    /// Puts moments and step count into a snapshot under `name`.
    pub fn save(&self, name: &str, snapshot: &mut Snapshot) {
        snapshot.put(&format!("{name}/first"), Array::F32(self.first.clone()));
        snapshot.put(&format!("{name}/second"), Array::F32(self.second.clone()));
        snapshot.state.insert(format!("{name}/steps"), self.steps.into());
    }

    /// Takes moments and step count from a snapshot.
    pub fn load(&mut self, name: &str, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into(&format!("{name}/first"), &mut self.first)?;
        snapshot.f32_into(&format!("{name}/second"), &mut self.second)?;
        self.steps = snapshot.u64(&format!("{name}/steps"))?;
        Ok(())
    }
}

/// Moves parameters along their moments, which take `grad` in.
fn descend(
    params: &mut [f32],
    grad: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    [step_size, inverse_root, eps, decay]: [f32; 4],
) {
    let (beta1, beta2) = (BETA1 as f32, BETA2 as f32);
    let moments = first.iter_mut().zip(second);
    for ((p, &g), (m, v)) in params.iter_mut().zip(grad).zip(moments) {
        let g = g + decay * *p;
        *m += (1.0 - beta1) * (g - *m);
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        *p -= step_size * *m / (v.sqrt() * inverse_root + eps);
    }
}

/// Scales `grad` down to the norm `max`, if there is one and it is longer, as PyTorch does; returns the norm before.
pub fn clip_grad_norm(grad: &mut [f32], max: Option<f64>) -> f64 {
    let norm = grad_norm(grad);
    let scale = max.map_or(1.0, |max| max / (norm + 1e-6));
    if scale < 1.0 {
        grad.iter_mut().for_each(|g| *g *= scale as f32);
    }
    norm
}

/// Euclidean norm, summed in double precision.
pub fn grad_norm(grad: &[f32]) -> f64 {
    // Eight partial sums, so that the compiler can keep them side by side.
    let mut sums = [0.0f64; 8];
    let chunks = grad.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|&g| f64::from(g).powi(2)).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &g)| *sum += f64::from(g) * f64::from(g));
    }
    (sums.iter().sum::<f64>() + rest).sqrt()
}

#[cfg(test)]
mod tests {
    use bregman_envs::rng::NumpyRng;
    use tch::nn::{self, OptimizerConfig};
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_thousand_steps_agree_with_pytorch() {
        agrees_with_pytorch(0.0);
        agrees_with_pytorch(0.1);
    }

    fn agrees_with_pytorch(wd: f64) {
        let store = nn::VarStore::new(Device::Cpu);
        let theirs = store.root().var("p", &[5], nn::Init::Const(1.0));
        let mut optimizer = nn::Adam { eps: 1e-5, wd, ..Default::default() }.build(&store, 3e-3).expect("an optimiser");
        let (mut ours, mut adam) = (vec![1.0f32; 5], Adam::new(5, 1e-5).with_weight_decay(wd));
        let mut rng = NumpyRng::new(11);
        for _ in 0..1000 {
            let c: Vec<f32> = (0..5).map(|_| rng.standard_normal() as f32).collect();
            // Loss Σ (p − c)², gradient 2 (p − c).
            let grad: Vec<f32> = ours.iter().zip(&c).map(|(p, c)| 2.0 * (p - c)).collect();
            adam.step(&mut ours, &grad, 3e-3);
            optimizer.backward_step(&(&theirs - Tensor::from_slice(&c)).square().sum(Kind::Float));
        }
        let theirs = Vec::<f32>::try_from(&theirs).expect("five numbers");
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < 1e-5, "{a} is not {b}");
        }
    }

    #[test]
    fn shared_steps_are_the_same_steps() {
        let workers = Workers::new(2).expect("threads start");
        let (mut ours, mut shared) = (vec![1.0f32; 5], vec![1.0f32; 5]);
        let (mut adam, mut other) = (Adam::new(5, 1e-8), Adam::new(5, 1e-8));
        for i in 0..3 {
            let grad = [0.5, -1.0, 2.0, i as f32, 1e-3];
            adam.step(&mut ours, &grad, 3e-3);
            other.step_on(&mut shared, &grad, 3e-3, &workers);
        }
        assert_eq!((ours, adam), (shared, other));
    }

    #[test]
    fn long_gradients_are_cut_to_the_norm_and_short_ones_stay() {
        let mut grad = [3.0, 4.0];
        assert_eq!(clip_grad_norm(&mut grad, Some(0.5)), 5.0);
        assert!((grad_norm(&grad) - 0.5).abs() < 1e-6);
        let mut grad = [0.03, 0.04];
        clip_grad_norm(&mut grad, Some(0.5));
        assert_eq!(grad, [0.03, 0.04]);
        let mut grad = [3.0, 4.0];
        assert_eq!((clip_grad_norm(&mut grad, None), grad), (5.0, [3.0, 4.0]));
    }

    #[test]
    fn the_norm_of_many_numbers() {
        assert_eq!((grad_norm(&[1.0; 25]), grad_norm(&[3.0; 16]), grad_norm(&[])), (5.0, 12.0, 0.0));
    }
}
