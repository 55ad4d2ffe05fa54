//! One network over a batch whose halves are computed side by side on the run's workers.
//!
//! A batch is always cut at the same row, so that the sums, and with them every bit, are the same for any number of threads. It is
//! left whole where a GPU computes, and where it fits into one half.

use super::{Mlp, Real, Workspace};
use crate::workers::Workers;

/// Room for one network's passes over up to `capacity` rows, in two halves.
#[derive(Clone, Debug)]
pub struct Halves<T> {
    first: Workspace<T>,
    other: Workspace<T>,
    /// Rows that are left whole.
    whole: usize,
    /// The second half's part of a gradient.
    second: Vec<T>,
    /// `[rows, num_outputs]`.
    output: Vec<T>,
}

impl<T: Real> Halves<T> {
    /// For up to `capacity` rows through networks shaped as `mlp`.
    pub fn new(mlp: &Mlp, capacity: usize) -> Halves<T> {
        let elsewhere = mlp.is_elsewhere();
        let whole = if elsewhere { capacity } else { capacity.div_ceil(2) };
        Halves {
            first: mlp.workspace(whole),
            other: mlp.workspace(capacity - whole),
            whole,
            second: vec![T::zero(); if elsewhere { 0 } else { mlp.num_params() }],
            output: vec![T::zero(); capacity * mlp.num_outputs()],
        }
    }

    /// [`Mlp::forward`].
    pub fn forward(&mut self, mlp: &Mlp, params: &[T], input: &[T], workers: &Workers) -> &[T] {
        let Halves { first, other, whole, output, .. } = self;
        let rows = input.len() / mlp.num_inputs();
        if rows <= *whole {
            return mlp.forward(params, input, first);
        }
        let (input, second) = input.split_at(rows.div_ceil(2) * mlp.num_inputs());
        let output = &mut output[..rows * mlp.num_outputs()];
        let (first_out, second_out) = output.split_at_mut(rows.div_ceil(2) * mlp.num_outputs());
        workers.join(
            || first_out.copy_from_slice(mlp.forward(params, input, first)),
            || second_out.copy_from_slice(mlp.forward(params, second, other)),
        );
        output
    }

    /// [`Mlp::backward`].
    pub fn backward(&mut self, mlp: &Mlp, params: &[T], d_output: &[T], grad: &mut [T], workers: &Workers) {
        let Halves { first, other, whole, second: part, .. } = self;
        let rows = d_output.len() / mlp.num_outputs();
        if rows <= *whole {
            return mlp.backward(params, first, d_output, grad);
        }
        let (d_output, second) = d_output.split_at(rows.div_ceil(2) * mlp.num_outputs());
        workers.join(|| mlp.backward(params, first, d_output, grad), || mlp.backward(params, other, second, part));
        grad.iter_mut().zip(part).for_each(|(sum, part)| *sum += *part);
    }
}

#[cfg(test)]
mod tests {
    use bregman_envs::rng::NumpyRng;

    use super::*;
    use crate::nn::{Activation, Init};

    #[test]
    fn two_halves_are_the_whole_on_any_number_of_workers() {
        let here = Mlp::new(&[5, 16, 3], Activation::Tanh);
        let elsewhere = here.clone().by_tensors();
        let mut rng = NumpyRng::new(4);
        let params: Vec<f64> = here.init(Init::Uniform, &mut rng);
        for (mlp, rows, threads) in [
            (&here, 8, 1),
            (&here, 8, 2),
            (&here, 7, 2),
            (&here, 5, 2),
            (&here, 4, 2),
            (&here, 1, 2),
            (&elsewhere, 8, 2),
            (&elsewhere, 7, 1),
        ] {
            let workers = Workers::new(threads).expect("threads start");
            let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.standard_normal()).collect() };
            let (input, d_output) = (draw(rows * 5), draw(rows * 3));
            let (mut halves, mut grad) = (Halves::new(mlp, 8), vec![9.0; mlp.num_params()]);
            let output = workers.run(|| {
                let output = halves.forward(mlp, &params, &input, &workers).to_vec();
                halves.backward(mlp, &params, &d_output, &mut grad, &workers);
                output
            });
            let (mut workspace, mut whole) = (mlp.workspace(rows), vec![0.0; mlp.num_params()]);
            assert_eq!(output, mlp.forward(&params, &input, &mut workspace));
            mlp.backward(&params, &mut workspace, &d_output, &mut whole);
            grad.iter().zip(&whole).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{a} is not {b}"));
        }
    }
}
