//! The ways back through a network: to its parameters, to its input, and of two losses at once.

use super::super::Real;
use super::super::linalg::{Matrix, matmul, matmul_on, worth_sharing};
use super::{Mlp, Workspace};
use crate::workers::Workers;

impl Mlp {
    /// Writes the gradient of a loss in the parameters into `grad`, `[num_params]`, given its gradient in the outputs
    /// of the last [`forward`](Mlp::forward), `[rows, num_outputs]`.
    pub fn backward<T: Real>(&self, params: &[T], workspace: &mut Workspace<T>, d_output: &[T], grad: &mut [T]) {
        self.take_back(params, workspace, d_output, grad, None);
    }

    /// The same with large products shared among the run's workers; the numbers are the same for any number of them.
    pub fn backward_on<T: Real>(
        &self,
        params: &[T],
        workspace: &mut Workspace<T>,
        d_output: &[T],
        grad: &mut [T],
        workers: &Workers,
    ) {
        self.take_back(params, workspace, d_output, grad, Some(workers));
    }

    /// [`backward`](Mlp::backward) of two losses at once, for a network with one output: what a row hands back is then the same for
    /// both but for a factor, so that one way back will do.
    pub fn backward_two<T: Real>(
        &self,
        params: &[T],
        workspace: &mut Workspace<T>,
        d_outputs: [&[T]; 2],
        mut grads: [&mut [T]; 2],
    ) {
        let rows = workspace.rows;
        assert!(
            self.num_outputs() == 1 && d_outputs.iter().all(|d| d.len() == rows),
            "two gradients for each row's output"
        );
        if let Some(tensors) = &mut workspace.tensors {
            let losses = d_outputs.into_iter().zip(grads);
            return losses.for_each(|(d_output, grad)| tensors.backward(d_output, &mut grad[..self.num_params()]));
        }
        let [d_out, d_in] = &mut workspace.passed;
        d_out[..rows].fill(T::one());
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let (d, scaled) = (&mut d_out[..rows * layer.outputs], &mut d_in[..rows * layer.outputs]);
            if i + 1 < self.layers.len() {
                self.activation.multiply_by_slope(&workspace.values[i + 1], &workspace.slopes[i], d);
                if let (Some([gain, _]), Some(normalized)) = (&layer.norm, &workspace.normalized[i]) {
                    for (d_output, grad) in d_outputs.iter().zip(&mut grads) {
                        scale_rows(d, d_output, scaled);
                        let (d_gain, rest) = grad[gain.start..].split_at_mut(gain.len());
                        normalized.backward_parameters(scaled, d_gain, &mut rest[..gain.len()]);
                    }
                    for (row, d) in d.chunks_exact_mut(gain.len()).enumerate() {
                        normalized.backward_row(row, d, &params[gain.clone()]);
                    }
                }
            }
            for (d_output, grad) in d_outputs.iter().zip(&mut grads) {
                scale_rows(d, d_output, scaled);
                let input = Matrix::new(&workspace.values[i], rows, layer.inputs).t();
                let (d_weight, d_bias) = grad[layer.weight.start..layer.bias.end].split_at_mut(layer.weight.len());
                matmul(input, Matrix::new(scaled, rows, layer.outputs), d_weight, self.precision_of(i));
                add_up_rows(scaled, d_bias);
            }
            if i > 0 {
                self.to_layer_input(i, params, d, d_in);
                std::mem::swap(d_out, d_in);
            }
        }
    }

    fn take_back<T: Real>(
        &self,
        params: &[T],
        workspace: &mut Workspace<T>,
        d_output: &[T],
        grad: &mut [T],
        workers: Option<&Workers>,
    ) {
        let rows = workspace.rows;
        assert_eq!(d_output.len(), rows * self.num_outputs(), "a gradient for every output");
        if let Some(tensors) = &mut workspace.tensors {
            return tensors.backward(d_output, &mut grad[..self.num_params()]);
        }
        let [d_out, d_in] = &mut workspace.passed;
        d_out[..d_output.len()].copy_from_slice(d_output);
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let d = &mut d_out[..rows * layer.outputs];
            if i + 1 < self.layers.len() {
                self.activation.multiply_by_slope(&workspace.values[i + 1], &workspace.slopes[i], d);
                if let (Some([gain, _]), Some(normalized)) = (&layer.norm, &workspace.normalized[i]) {
                    let (d_gain, rest) = grad[gain.start..].split_at_mut(gain.len());
                    normalized.backward_parameters(d, d_gain, &mut rest[..gain.len()]);
                    for (row, d) in d.chunks_exact_mut(gain.len()).enumerate() {
                        normalized.backward_row(row, d, &params[gain.clone()]);
                    }
                }
            }
            let (d, input) = (&*d, Matrix::new(&workspace.values[i], rows, layer.inputs).t());
            let (d_weight, d_bias) = grad[layer.weight.start..layer.bias.end].split_at_mut(layer.weight.len());
            let d_out_rows = Matrix::new(d, rows, layer.outputs);
            match workers {
                // To the weights and to the input side by side; the first layer's input wants nothing.
                Some(workers) if i > 0 && worth_sharing(rows, layer.inputs, layer.outputs) => {
                    workers.join(
                        || matmul(input, d_out_rows, d_weight, self.precision_of(i)),
                        || self.to_layer_input(i, params, d, d_in),
                    );
                }
                Some(workers) if i == 0 => matmul_on(input, d_out_rows, d_weight, self.precision_of(i), workers),
                _ => {
                    matmul(input, d_out_rows, d_weight, self.precision_of(i));
                    if i > 0 {
                        self.to_layer_input(i, params, d, d_in);
                    }
                }
            }
            add_up_rows(d, d_bias);
            if i > 0 {
                std::mem::swap(d_out, d_in);
            }
        }
    }

    /// The gradient of a loss in the input, `[rows, num_inputs]`, given its gradient in the outputs of the last
    /// [`forward`](Mlp::forward), `[rows, num_outputs]`. Costs half of [`backward`](Mlp::backward), because parameters stay out,
    /// and nothing for rows whose gradient is zero.
    pub fn backward_input<'w, T: Real>(
        &self,
        params: &[T],
        workspace: &'w mut Workspace<T>,
        d_output: &[T],
    ) -> &'w [T] {
        let Workspace { values, slopes, normalized, passed: [d_out, d_in], live, rows, .. } = workspace;
        assert_eq!(d_output.len(), *rows * self.num_outputs(), "a gradient for every output");
        if let Some(tensors) = &mut workspace.tensors {
            tensors.backward_input(d_output, &mut d_out[..*rows * self.num_inputs()]);
            return workspace.d_input(self);
        }
        // Rows with a gradient move together, and apart again at the end.
        live.clear();
        for (row, d) in d_output.chunks_exact(self.num_outputs()).enumerate() {
            if d.iter().any(|d| !d.is_zero()) {
                d_out[live.len() * d.len()..][..d.len()].copy_from_slice(d);
                live.push(row);
            }
        }
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let d = &mut d_out[..live.len() * layer.outputs];
            if i + 1 < self.layers.len() {
                for (&row, d) in live.iter().zip(d.chunks_exact_mut(layer.outputs)) {
                    let place = row * layer.outputs..(row + 1) * layer.outputs;
                    let slopes = slopes[i].get(place.clone()).unwrap_or_default();
                    self.activation.multiply_by_slope(&values[i + 1][place], slopes, d);
                    if let (Some((gain, _)), Some(normalized)) = (layer.norm(params), &normalized[i]) {
                        normalized.backward_row(row, d, gain);
                    }
                }
            }
            self.to_layer_input(i, params, d, d_in);
            std::mem::swap(d_out, d_in);
        }
        let width = self.num_inputs();
        let mut live = live.iter().enumerate().rev().peekable();
        for row in (0..*rows).rev() {
            match live.next_if(|(_, to)| **to == row) {
                Some((from, _)) => d_out.copy_within(from * width..(from + 1) * width, row * width),
                None => d_out[row * width..(row + 1) * width].fill(T::zero()),
            }
        }
        workspace.d_input(self)
    }

    /// Takes the gradient `d` in what layer `i` puts out before its activation, `[rows, outputs]`, to the gradient in its input.
    fn to_layer_input<T: Real>(&self, i: usize, params: &[T], d: &[T], d_in: &mut [T]) {
        let layer = &self.layers[i];
        let rows = d.len() / layer.outputs;
        let weight = Matrix::new(&params[layer.weight.clone()], layer.inputs, layer.outputs);
        let d_in = &mut d_in[..rows * layer.inputs];
        matmul(Matrix::new(d, rows, layer.outputs), weight.t(), d_in, self.precision_of(i));
    }
}

/// The sum of all rows.
fn add_up_rows<T: Real>(rows: &[T], sum: &mut [T]) {
    sum.fill(T::zero());
    for row in rows.chunks_exact(sum.len()) {
        sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
    }
}

/// Every row times its factor, into `scaled`.
fn scale_rows<T: Real>(rows: &[T], factors: &[T], scaled: &mut [T]) {
    let width = rows.len() / factors.len();
    for ((row, scaled), &factor) in rows.chunks_exact(width).zip(scaled.chunks_exact_mut(width)).zip(factors) {
        scaled.iter_mut().zip(row).for_each(|(y, &x)| *y = factor * x);
    }
}
