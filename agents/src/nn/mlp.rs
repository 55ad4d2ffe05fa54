//! Multi-layer perceptrons: linear layers with an activation, and possibly a normalisation, between them.

mod backward;
mod second_order;

use std::ops::Range;

use bregman_envs::rng::NumpyRng;

use super::activation::add_bias;
use super::layer_norm::{self, Normalized};
use super::linalg::{Matrix, matmul, matmul_add, matmul_on};
use super::tensors::{Place, TensorPass};
use super::{Activation, Device, Precision, Real};
use crate::workers::Workers;

pub use second_order::Tangents;

/// How weights start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Orthogonal matrices times a gain, biases zero (Saxe et al. 2014).
    Orthogonal {
        /// Gain of the hidden layers, √2 as a rule.
        hidden: f64,
        /// Gain of the output layer.
        output: f64,
    },
    /// Weights and biases uniform in ±1/√inputs: PyTorch's default for linear layers.
    Uniform,
}

/// One linear layer's place in the parameter vector: the weight as `[inputs, outputs]`, row by row, then the bias, then
/// the normalisation's gain and shift.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) weight: Range<usize>,
    pub(super) bias: Range<usize>,
    pub(super) norm: Option<[Range<usize>; 2]>,
}

impl Layer {
    /// Gain and shift of the normalisation after it, in the parameters or in a direction.
    fn norm<'a, T>(&self, params: &'a [T]) -> Option<(&'a [T], &'a [T])> {
        self.norm.as_ref().map(|[gain, shift]| (&params[gain.clone()], &params[shift.clone()]))
    }
}

/// The shape of a multi-layer perceptron. Parameters are a slice of [`num_params`](Mlp::num_params) numbers.
#[derive(Clone, Debug)]
pub struct Mlp {
    pub(super) layers: Vec<Layer>,
    activation: Activation,
    precision: Precision,
    /// Where passes are computed, if not here.
    place: Option<Place>,
}

/// Room for the activations of up to `capacity` rows, and for their gradients.
#[derive(Clone, Debug)]
pub struct Workspace<T> {
    /// `values[0]` is the input, `values[i]` the output of layer `i`, activation included: `[rows, width]`.
    values: Vec<Vec<T>>,
    /// Of every hidden layer: the activation's derivatives, where they are kept, and what its normalisation needs.
    slopes: Vec<Vec<T>>,
    normalized: Vec<Option<Normalized<T>>>,
    /// What passes from layer to layer: gradients at the output of the layer at hand and at its input, or tangents the
    /// other way round.
    passed: [Vec<T>; 2],
    /// Rows with a gradient.
    live: Vec<usize>,
    rows: usize,
    capacity: usize,
    /// Where tensors compute: then hidden layers are there, and of the rest what comes from them is here.
    tensors: Option<TensorPass>,
}

impl<T> Workspace<T> {
    /// Forgets the rows of earlier passes.
    pub fn clear(&mut self) {
        self.rows = 0;
    }

    /// The result of the last [`Mlp::backward_input`].
    pub(super) fn d_input(&self, mlp: &Mlp) -> &[T] {
        &self.passed[0][..self.rows * mlp.num_inputs()]
    }
}

impl Mlp {
    /// A network of the given widths, inputs first and outputs last; the last layer is linear.
    pub fn new(widths: &[usize], activation: Activation) -> Mlp {
        Mlp::with_norm(widths, activation, false)
    }

    /// The same with layer normalisation (Ba et al. 2016; ε = 1e-5) between every hidden layer and its activation.
    pub fn normalized(widths: &[usize], activation: Activation) -> Mlp {
        Mlp::with_norm(widths, activation, true)
    }

    fn with_norm(widths: &[usize], activation: Activation, norm: bool) -> Mlp {
        assert!(widths.len() >= 2 && widths.iter().all(|&w| w > 0), "widths {widths:?}");
        let mut end = 0;
        let mut take = |len: usize| {
            end += len;
            end - len..end
        };
        let layers = widths.windows(2).enumerate().map(|(i, pair)| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let (weight, bias) = (take(inputs * outputs), take(outputs));
            let norm = (norm && i + 2 < widths.len()).then(|| [take(outputs), take(outputs)]);
            Layer { inputs, outputs, weight, bias, norm }
        });
        Mlp { layers: layers.collect(), activation, precision: Precision::F32, place: None }
    }

    /// The same with products between hidden layers in `precision`, or in single precision where it is not
    /// [`available`](Precision::available_on).
    pub fn with_precision(self, precision: Precision) -> Mlp {
        let precision = if self.place.is_some() { precision } else { precision.available().0 };
        Mlp { precision, ..self }
    }

    /// The same with its passes computed on `device`; [`forward_row`](Mlp::forward_row) and second derivatives stay here. To be called
    /// before [`with_precision`](Mlp::with_precision).
    ///
    /// # Panics
    /// If there is no such device; [`Device::available`] says so beforehand.
    pub fn on(self, device: Device) -> Mlp {
        Mlp { place: device.place(), ..self }
    }

    /// The same by tensors on the processor.
    #[cfg(test)]
    pub(super) fn by_tensors(self) -> Mlp {
        Mlp { place: Some(Place::cpu()), ..self }
    }

    /// Whether passes are computed elsewhere, where a thread of ours is no help.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.place.is_some()
    }

    /// The precision of the products of layer `i`. Rounding would take from the inputs what tells one state from the next: of a
    /// length between 1 and 2 it leaves steps of 0.008.
    pub(super) fn precision_of(&self, i: usize) -> Precision {
        if i > 0 && i + 1 < self.layers.len() { self.precision } else { Precision::F32 }
    }

    /// Length of the parameter vector.
    pub fn num_params(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.bias.end)
    }

    /// Width of the input.
    pub fn num_inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.inputs)
    }

    /// Width of the output.
    pub fn num_outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// The function between layers.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Weight, `[inputs, outputs]` row by row, and bias, `[outputs]`, of every layer, first to last.
    pub fn layers<'a, T>(&'a self, params: &'a [T]) -> impl Iterator<Item = (&'a [T], &'a [T])> {
        self.layers.iter().map(|layer| (&params[layer.weight.clone()], &params[layer.bias.clone()]))
    }

    /// Draws fresh parameters.
    pub fn init<T: Real>(&self, init: Init, rng: &mut NumpyRng) -> Vec<T> {
        let mut params = vec![T::zero(); self.num_params()];
        for (i, layer) in self.layers.iter().enumerate() {
            if let Some([gain, _]) = &layer.norm {
                params[gain.clone()].fill(T::one());
            }
            match init {
                Init::Orthogonal { hidden, output } => {
                    let gain = if i + 1 == self.layers.len() { output } else { hidden };
                    orthogonal(layer.inputs, layer.outputs, gain, rng, &mut params[layer.weight.clone()]);
                }
                Init::Uniform => {
                    let bound = 1.0 / (layer.inputs as f64).sqrt();
                    for p in &mut params[layer.weight.start..layer.bias.end] {
                        *p = T::of(rng.uniform(-bound, bound));
                    }
                }
            }
        }
        params
    }

    /// Multiplies the weights into output `column` by `factor`.
    pub fn scale_output<T: Real>(&self, params: &mut [T], column: usize, factor: f64) {
        if let Some(layer) = self.layers.last() {
            for row in params[layer.weight.clone()].chunks_exact_mut(layer.outputs) {
                row[column] *= T::of(factor);
            }
        }
    }

    /// Adds `shift` to output `column`.
    pub fn shift_output<T: Real>(&self, params: &mut [T], column: usize, shift: f64) {
        if let Some(layer) = self.layers.last() {
            params[layer.bias.start + column] += T::of(shift);
        }
    }

    /// Room for up to `capacity` rows.
    pub fn workspace<T: Real>(&self, capacity: usize) -> Workspace<T> {
        if let Some(place) = self.place {
            return self.workspace_elsewhere(place, capacity);
        }
        let widths = || std::iter::once(self.num_inputs()).chain(self.layers.iter().map(|layer| layer.outputs));
        let widest = widths().max().unwrap_or(0);
        let room = |width: usize| vec![T::zero(); capacity * width];
        let hidden = &self.layers[..self.layers.len() - 1];
        let kept = |layer: &Layer| if self.activation.keeps_slope() { layer.outputs } else { 0 };
        Workspace {
            values: widths().map(room).collect(),
            slopes: hidden.iter().map(|layer| room(kept(layer))).collect(),
            normalized: hidden
                .iter()
                .map(|layer| layer.norm.is_some().then(|| Normalized::new(capacity, layer.outputs)))
                .collect(),
            passed: [room(widest), room(widest)],
            live: Vec::with_capacity(capacity),
            rows: 0,
            capacity,
            tensors: None,
        }
    }

    /// Room for outputs, and for what [`backward_input`](Mlp::backward_input) and [`jvp`](Mlp::jvp) return.
    fn workspace_elsewhere<T: Real>(&self, place: Place, capacity: usize) -> Workspace<T> {
        let room = |width: usize| vec![T::zero(); capacity * width];
        let mut values: Vec<_> = self.layers.iter().map(|_| Vec::new()).collect();
        values.push(room(self.num_outputs()));
        Workspace {
            values,
            slopes: Vec::new(),
            normalized: Vec::new(),
            passed: [room(self.num_inputs().max(self.num_outputs())), Vec::new()],
            live: Vec::new(),
            rows: 0,
            capacity,
            tensors: Some(TensorPass::new::<T>(self, place)),
        }
    }

    /// Outputs `[rows, num_outputs]` for `input`, `[rows, num_inputs]`; activations stay in the workspace for
    /// [`backward`](Mlp::backward).
    pub fn forward<'w, T: Real>(&self, params: &[T], input: &[T], workspace: &'w mut Workspace<T>) -> &'w [T] {
        workspace.rows = 0;
        self.take_forward(params, input, workspace, None)
    }

    /// The same for rows that join those already in the workspace, under the same parameters: [`backward`](Mlp::backward) then
    /// goes over all of them. Returns the outputs of the new ones. Large products are shared among the run's workers; the
    /// numbers are the same for any number of them.
    pub fn forward_more<'w, T: Real>(
        &self,
        params: &[T],
        input: &[T],
        workspace: &'w mut Workspace<T>,
        workers: &Workers,
    ) -> &'w [T] {
        self.take_forward(params, input, workspace, Some(workers))
    }

    fn take_forward<'w, T: Real>(
        &self,
        params: &[T],
        input: &[T],
        workspace: &'w mut Workspace<T>,
        workers: Option<&Workers>,
    ) -> &'w [T] {
        let (before, new) = (workspace.rows, input.len() / self.num_inputs());
        let rows = before + new;
        assert!(rows <= workspace.capacity, "{rows} rows in a workspace for {}", workspace.capacity);
        assert_eq!(input.len(), new * self.num_inputs(), "whole rows");
        workspace.rows = rows;
        if let Some(tensors) = &mut workspace.tensors {
            let output = &mut workspace.values[self.layers.len()];
            let output = &mut output[before * self.num_outputs()..rows * self.num_outputs()];
            tensors.forward(&params[..self.num_params()], input, before, output);
            return output;
        }
        workspace.values[0][before * self.num_inputs()..][..input.len()].copy_from_slice(input);
        for (i, layer) in self.layers.iter().enumerate() {
            let (inputs, outputs) = workspace.values.split_at_mut(i + 1);
            let input = &inputs[i][before * layer.inputs..];
            let out = &mut outputs[0][before * layer.outputs..rows * layer.outputs];
            let weight = Matrix::new(&params[layer.weight.clone()], layer.inputs, layer.outputs);
            let (input, precision) = (Matrix::new(input, new, layer.inputs), self.precision_of(i));
            match workers {
                Some(workers) => matmul_on(input, weight, out, precision, workers),
                None => matmul(input, weight, out, precision),
            }
            let (bias, hidden) = (&params[layer.bias.clone()], i + 1 < self.layers.len());
            if hidden && layer.norm.is_none() && !self.activation.keeps_slope() {
                self.activation.apply_with_bias(out, bias);
                continue;
            }
            add_bias(out, bias, |x| x);
            if hidden {
                if let (Some((gain, shift)), Some(normalized)) = (layer.norm(params), &mut workspace.normalized[i]) {
                    normalized.forward(out, gain, shift, before);
                }
                let slopes = &mut workspace.slopes[i];
                let kept = if slopes.is_empty() { 0 } else { before * layer.outputs };
                self.activation.apply_keeping(out, &mut slopes[kept..]);
            }
        }
        let last = self.layers.len();
        &workspace.values[last][before * self.num_outputs()..rows * self.num_outputs()]
    }

    /// How the outputs of the last [`forward`](Mlp::forward) move with the parameters along `direction`, `[num_params]`:
    /// the Jacobian-vector product, `[rows, num_outputs]`.
    pub fn jvp<'w, T: Real>(&self, params: &[T], direction: &[T], workspace: &'w mut Workspace<T>) -> &'w [T] {
        let rows = workspace.rows;
        assert_eq!(direction.len(), self.num_params(), "a direction for every parameter");
        if let Some(tensors) = &mut workspace.tensors {
            let moved = &mut workspace.passed[0][..rows * self.num_outputs()];
            tensors.jvp(direction, moved);
            return moved;
        }
        let [t_in, t_out] = &mut workspace.passed;
        for (i, layer) in self.layers.iter().enumerate() {
            let t = &mut t_out[..rows * layer.outputs];
            let t_in_rows = (i > 0).then_some(&t_in[..rows * layer.inputs]);
            self.linear_tangent(i, params, direction, &workspace.values[i], t_in_rows, t);
            if i + 1 < self.layers.len() {
                if let (Some((gain, _)), Some((d_gain, d_shift)), Some(normalized)) =
                    (layer.norm(params), layer.norm(direction), &workspace.normalized[i])
                {
                    normalized.tangent(t, gain, d_gain, d_shift);
                }
                self.activation.multiply_by_slope(&workspace.values[i + 1], &workspace.slopes[i], t);
            }
            std::mem::swap(t_in, t_out);
        }
        &workspace.passed[0][..rows * self.num_outputs()]
    }

    /// d(x W + b) = x dW + db + dx W of layer `i` into `t`, where x is `input` and dx is `t_in`; the input of the first layer
    /// does not move.
    fn linear_tangent<T: Real>(
        &self,
        i: usize,
        params: &[T],
        direction: &[T],
        input: &[T],
        t_in: Option<&[T]>,
        t: &mut [T],
    ) {
        let layer = &self.layers[i];
        let rows = t.len() / layer.outputs;
        for row in t.chunks_exact_mut(layer.outputs) {
            row.copy_from_slice(&direction[layer.bias.clone()]);
        }
        let d_weight = Matrix::new(&direction[layer.weight.clone()], layer.inputs, layer.outputs);
        matmul_add(Matrix::new(input, rows, layer.inputs), d_weight, t, self.precision_of(i));
        if let Some(t_in) = t_in {
            let weight = Matrix::new(&params[layer.weight.clone()], layer.inputs, layer.outputs);
            matmul_add(Matrix::new(t_in, rows, layer.inputs), weight, t, self.precision_of(i));
        }
    }

    /// The outputs of the last [`forward`](Mlp::forward), `[rows, num_outputs]`.
    pub fn output<'w, T: Real>(&self, workspace: &'w Workspace<T>) -> &'w [T] {
        &workspace.values[self.layers.len()][..workspace.rows * self.num_outputs()]
    }

    /// Outputs for one row, written into `output`, `[num_outputs]`; `scratch` needs no contents.
    ///
    /// Every output is a sum in a fixed order, whatever the processor and whatever else is computed beside it: actions
    /// taken on several threads are the same bits as on one.
    pub fn forward_row<T: Real>(&self, params: &[T], input: &[T], scratch: &mut [Vec<T>; 2], output: &mut [T]) {
        let [current, next] = scratch;
        current.clear();
        current.extend_from_slice(input);
        for (i, layer) in self.layers.iter().enumerate() {
            next.clear();
            next.extend_from_slice(&params[layer.bias.clone()]);
            let weight = &params[layer.weight.clone()];
            for (&x, row) in current.iter().zip(weight.chunks_exact(layer.outputs)) {
                next.iter_mut().zip(row).for_each(|(y, &w)| *y += x * w);
            }
            if let Some((gain, shift)) = layer.norm(params) {
                layer_norm::forward_row(next, gain, shift);
            }
            if i + 1 < self.layers.len() {
                self.activation.apply(next);
            }
            std::mem::swap(current, next);
        }
        output.copy_from_slice(current);
    }
}

/// Fills an `[inputs, outputs]` matrix with orthonormal rows or columns, whichever are fewer, times `gain`: Gram-Schmidt
/// on Gaussian vectors, uniform over orthogonal frames.
fn orthogonal<T: Real>(inputs: usize, outputs: usize, gain: f64, rng: &mut NumpyRng, weight: &mut [T]) {
    let (count, len) = (inputs.min(outputs), inputs.max(outputs));
    let mut frame: Vec<Vec<f64>> = Vec::with_capacity(count);
    while frame.len() < count {
        let mut v: Vec<f64> = (0..len).map(|_| rng.standard_normal()).collect();
        // Twice, because one pass loses orthogonality to rounding.
        for _ in 0..2 {
            for u in &frame {
                let dot: f64 = u.iter().zip(&v).map(|(a, b)| a * b).sum();
                v.iter_mut().zip(u).for_each(|(v, u)| *v -= dot * u);
            }
        }
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 1e-6 {
            v.iter_mut().for_each(|x| *x /= norm);
            frame.push(v);
        }
    }
    for i in 0..inputs {
        for o in 0..outputs {
            let value = if inputs <= outputs { frame[i][o] } else { frame[o][i] };
            weight[i * outputs + o] = T::of(gain * value);
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    /// The same network in tch, from the same flat parameters, as a leaf that autograd differentiates.
    fn oracle(mlp: &Mlp, params: &Tensor, input: &Tensor) -> Tensor {
        let mut x = input.shallow_clone();
        for (i, layer) in mlp.layers.iter().enumerate() {
            let part = |range: &Range<usize>| params.narrow(0, range.start as i64, range.len() as i64);
            let weight = part(&layer.weight).view([layer.inputs as i64, layer.outputs as i64]);
            x = x.matmul(&weight) + part(&layer.bias);
            if i + 1 < mlp.layers.len() {
                if let Some([gain, shift]) = &layer.norm {
                    x = x.layer_norm([layer.outputs as i64], Some(part(gain)), Some(part(shift)), 1e-5, false);
                }
                x = match mlp.activation {
                    Activation::Tanh => x.tanh(),
                    Activation::Relu => x.relu(),
                    Activation::Elu => x.elu(),
                    Activation::Silu => x.silu(),
                };
            }
        }
        x
    }

    /// By our own products, by tensors here, and on the GPU where there is one.
    fn everywhere(mlp: &Mlp) -> Vec<Mlp> {
        let places = [None, Some(Place::cpu())].into_iter().chain(Place::cuda(0).ok().map(Some));
        places.map(|place| Mlp { place, ..mlp.clone() }).collect()
    }

    fn agrees_with_autograd<T: Real + tch::kind::Element>(kind: Kind, tolerance: f64) {
        tch::set_num_threads(1);
        let mut rng = NumpyRng::new(7);
        let activations = [Activation::Tanh, Activation::Relu, Activation::Elu, Activation::Silu];
        for (activation, norm) in activations.into_iter().flat_map(|a| [(a, false), (a, true)]) {
            for (widths, rows) in [
                (vec![3, 2], 5),
                (vec![17, 64, 64, 6], 64),
                (vec![5, 12, 7, 1], 10),
                (vec![4, 33, 1], 1),
                (vec![4, 130, 1], 9),
            ] {
                let mlp = Mlp::with_norm(&widths, activation, norm);
                let mut params: Vec<T> = mlp.init(Init::Uniform, &mut rng);
                // Gains and shifts start as 1 and 0, which would hide them.
                params.iter_mut().for_each(|p| *p += T::of(0.1 * rng.standard_normal()));
                let input: Vec<T> = (0..rows * widths[0]).map(|_| T::of(rng.standard_normal())).collect();
                // Every third row has no gradient.
                let outputs = (0..rows * mlp.num_outputs()).map(|i| (i / mlp.num_outputs()) % 3 != 1);
                let d_output: Vec<T> =
                    outputs.map(|has| T::of(if has { rng.standard_normal() } else { 0.0 })).collect();

                let leaf = Tensor::from_slice(&params).set_requires_grad(true);
                let x = Tensor::from_slice(&input).view([rows as i64, widths[0] as i64]).set_requires_grad(true);
                let expected = oracle(&mlp, &leaf, &x);
                let d = Tensor::from_slice(&d_output).view_as(&expected);
                let [d_params, d_input] = &grads(&(&expected * d).sum(kind), &[&leaf, &x])[..] else {
                    panic!("two gradients")
                };
                let direction: Vec<T> = params.iter().map(|_| T::of(rng.standard_normal())).collect();
                let tangent = forward_mode(&expected, &leaf, &Tensor::from_slice(&direction));

                // A policy's log standard deviations stand behind its network's parameters.
                params.push(T::of(7.0));
                for mlp in everywhere(&mlp) {
                    let mut workspace = mlp.workspace(rows + 1);
                    let output = mlp.forward(&params, &input, &mut workspace).to_vec();
                    let mut grad = vec![T::of(9.0); params.len()];
                    mlp.backward(&params, &mut workspace, &d_output, &mut grad);
                    assert_eq!(grad.pop(), Some(T::of(9.0)));
                    close(&output, &expected.detach(), tolerance);
                    close(&grad, d_params, tolerance);
                    close(mlp.backward_input(&params, &mut workspace, &d_output), d_input, tolerance);
                    close(mlp.jvp(&params, &direction, &mut workspace.clone()), &tangent, tolerance);
                    assert_eq!(output, mlp.output(&workspace));
                    if mlp.num_outputs() == 1 {
                        let twice: Vec<T> = d_output.iter().map(|&d| d + d).collect();
                        let mut grads = [(); 2].map(|()| vec![T::of(9.0); mlp.num_params()]);
                        let [one, other] = &mut grads;
                        mlp.backward_two(&params, &mut workspace, [&twice, &d_output], [one, other]);
                        close(&grads[0], &(d_params * 2.0), tolerance);
                        close(&grads[1], d_params, tolerance);
                    }
                }

                let mut row = vec![T::zero(); mlp.num_outputs()];
                mlp.forward_row(&params, &input[..widths[0]], &mut Default::default(), &mut row);
                close(&row, &expected.detach().get(0), tolerance);
            }
        }
    }

    /// Gradients of a scalar, through a graph that can be differentiated again.
    fn grads(y: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
        Tensor::run_backward(&[y], leaves, true, true)
    }

    /// The Jacobian of `y` in `leaf` times `direction`, by autograd alone: the vector-Jacobian product is linear in the
    /// vector, and its derivative there, along `direction`, is the Jacobian-vector product.
    fn forward_mode(y: &Tensor, leaf: &Tensor, direction: &Tensor) -> Tensor {
        let v = y.zeros_like().set_requires_grad(true);
        let pulled = &grads(&(y * &v).sum(y.kind()), &[leaf])[0];
        grads(&pulled.dot(direction), &[&v]).remove(0)
    }

    fn close<T: Real>(ours: &[T], theirs: &Tensor, tolerance: f64) {
        let theirs = Vec::<f64>::try_from(theirs.flatten(0, -1).to_kind(Kind::Double)).expect("a flat tensor");
        let scale = theirs.iter().fold(1.0, |m: f64, x: &f64| m.max(x.abs()));
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((Real::to_f64(*a) - b).abs() <= tolerance * scale, "{a:?} is not {b}");
        }
    }

    #[test]
    fn forward_backward_and_tangents_agree_with_autograd() {
        agrees_with_autograd::<f32>(Kind::Float, 1e-5);
        agrees_with_autograd::<f64>(Kind::Double, 1e-12);
    }

    #[test]
    fn rows_that_join_others_give_what_all_give_at_once() {
        let (mut rng, workers) = (NumpyRng::new(4), Workers::new(1).expect("one"));
        let shapes = [Mlp::new(&[5, 9, 3], Activation::Tanh), Mlp::normalized(&[5, 9, 9, 3], Activation::Silu)];
        for mlp in shapes.iter().flat_map(everywhere) {
            let params: Vec<f64> = mlp.init(Init::Uniform, &mut rng);
            let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.standard_normal()).collect() };
            let (input, d_output) = (draw(7 * 5), draw(7 * 3));
            let [(at_once, grad), (in_parts, same)] = [[0, 7].as_slice(), &[0, 2, 3, 7]].map(|ends| {
                let (mut workspace, mut grad) = (mlp.workspace(7), vec![0.0; mlp.num_params()]);
                for part in ends.windows(2) {
                    mlp.forward_more(&params, &input[part[0] * 5..part[1] * 5], &mut workspace, &workers);
                }
                mlp.backward(&params, &mut workspace, &d_output, &mut grad);
                (mlp.output(&workspace).to_vec(), grad)
            });
            let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(near(&at_once, &in_parts) && near(&grad, &same));
        }
    }

    #[test]
    fn bf16_rounds_the_products_between_hidden_layers_alone() {
        let mut rng = NumpyRng::new(2);
        let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal() as f32).collect::<Vec<f32>>();
        let shapes = [(vec![30, 4], false), (vec![30, 32, 4], false), (vec![30, 32, 32, 4], true)]
            .map(|(w, rounded)| (Mlp::new(&w, Activation::Tanh), rounded));
        for (single, rounded) in
            shapes.iter().flat_map(|(mlp, rounded)| everywhere(mlp).into_iter().map(move |mlp| (mlp, *rounded)))
        {
            // As `with_precision` makes it where the processor has bf16; it is computed anywhere, slowly on most.
            let half = Mlp { precision: Precision::Bf16, ..single.clone() };
            let params: Vec<f32> = draw(single.num_params()).iter().map(|w| 0.2 * w).collect();
            let (input, d_output, direction) = (draw(50 * 30), draw(50 * 4), draw(params.len()));
            let results = [&single, &half].map(|mlp| {
                let (mut workspace, mut grad) = (mlp.workspace(50), vec![0.0; mlp.num_params()]);
                let output = mlp.forward(&params, &input, &mut workspace).to_vec();
                mlp.backward(&params, &mut workspace, &d_output, &mut grad);
                let d_input = mlp.backward_input(&params, &mut workspace, &d_output).to_vec();
                let tangent = mlp.jvp(&params, &direction, &mut workspace).to_vec();
                [output, grad, d_input, tangent]
            });
            let [exact, rough] = results;
            for (exact, rough) in exact.iter().zip(&rough) {
                let square = |x: &dyn Fn(usize) -> f32| (0..exact.len()).map(|i| x(i).powi(2)).sum::<f32>();
                let off = (square(&|i| rough[i] - exact[i]) / square(&|i| exact[i])).sqrt();
                assert!(if rounded { (2e-4..2e-2).contains(&off) } else { off == 0.0 }, "{single:?}: {off}");
            }
        }
    }

    #[test]
    fn orthogonal_weights_have_orthogonal_rows_or_columns() {
        let mut rng = NumpyRng::new(1);
        for (inputs, outputs) in [(3, 5), (5, 3), (4, 4)] {
            let mut w = vec![0.0f64; inputs * outputs];
            orthogonal(inputs, outputs, 2.0, &mut rng, &mut w);
            let w = Tensor::from_slice(&w).view([inputs as i64, outputs as i64]);
            let gram = if inputs <= outputs { w.matmul(&w.tr()) } else { w.tr().matmul(&w) };
            let expected = Tensor::eye(inputs.min(outputs) as i64, (Kind::Double, tch::Device::Cpu)) * 4.0;
            assert!((gram - expected).abs().max().double_value(&[]) < 1e-12);
        }
    }

    #[test]
    fn parameter_counts_of_the_usual_networks() {
        // 17 inputs, two hidden layers of 64: 17*64+64 + 64*64+64 + 64*6+6.
        assert_eq!(Mlp::new(&[17, 64, 64, 6], Activation::Tanh).num_params(), 5702);
        assert_eq!(Mlp::new(&[4, 32, 32, 2], Activation::Tanh).num_params(), 1282);
        // Two normalised layers of 32: as many gains and shifts.
        assert_eq!(Mlp::normalized(&[4, 32, 32, 2], Activation::Tanh).num_params(), 1282 + 4 * 32);
    }
}
