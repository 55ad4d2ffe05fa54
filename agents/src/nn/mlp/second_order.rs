//! Second derivatives of a network: the derivative of the backward pass along a direction in parameter space (Pearlmutter
//! 1994, "Fast exact multiplication by the Hessian").

use super::super::Real;
use super::super::linalg::{Matrix, matmul, matmul_add};
use super::{Mlp, Workspace};

/// How every layer's values move with the parameters along a direction, for up to `capacity` rows.
#[derive(Clone, Debug)]
pub struct Tangents<T> {
    /// `values[i]`: the tangent of the output of layer `i`, activation included, `[rows, width]`.
    values: Vec<Vec<T>>,
    /// Of every hidden layer: the same before the activation.
    before: Vec<Vec<T>>,
    /// Gradients at the output of the layer at hand and at its input, and how these move.
    gradients: [Vec<T>; 2],
    moved: [Vec<T>; 2],
    /// What goes into an activation, where its second derivative wants it.
    preactivation: Vec<T>,
}

impl Mlp {
    /// Room for the tangents of up to `capacity` rows.
    pub fn tangents<T: Real>(&self, capacity: usize) -> Tangents<T> {
        assert!(self.layers.iter().all(|layer| layer.norm.is_none()), "second derivatives of plain layers alone");
        assert!(!self.is_elsewhere(), "second derivatives on the processor alone");
        let room = |width: usize| vec![T::zero(); capacity * width];
        let widest = self.layers.iter().map(|layer| layer.inputs.max(layer.outputs)).max().unwrap_or(0);
        let hidden = &self.layers[..self.layers.len() - 1];
        let wanted = if self.activation.keeps_slope() { widest } else { 0 };
        Tangents {
            values: self.layers.iter().map(|layer| room(layer.outputs)).collect(),
            before: hidden.iter().map(|layer| room(layer.outputs)).collect(),
            gradients: [room(widest), room(widest)],
            moved: [room(widest), room(widest)],
            preactivation: room(wanted),
        }
    }

    /// [`jvp`](Mlp::jvp) that keeps every layer's tangent for [`backward_along`](Mlp::backward_along).
    pub fn forward_along<'t, T: Real>(
        &self,
        params: &[T],
        direction: &[T],
        workspace: &Workspace<T>,
        tangents: &'t mut Tangents<T>,
    ) -> &'t [T] {
        let rows = workspace.rows;
        assert_eq!(direction.len(), self.num_params(), "a direction for every parameter");
        for (i, layer) in self.layers.iter().enumerate() {
            let (earlier, later) = tangents.values.split_at_mut(i);
            let t = &mut later[0][..rows * layer.outputs];
            let t_in = earlier.last().map(|t_in| &t_in[..rows * layer.inputs]);
            self.linear_tangent(i, params, direction, &workspace.values[i], t_in, t);
            if i + 1 < self.layers.len() {
                tangents.before[i][..t.len()].copy_from_slice(t);
                self.activation.multiply_by_slope(&workspace.values[i + 1], &workspace.slopes[i], t);
            }
        }
        &tangents.values[self.layers.len() - 1][..rows * self.num_outputs()]
    }

    /// How the result of [`backward`](Mlp::backward) moves with the parameters along `direction`: for a loss of the outputs with
    /// gradient `d_output` there and `moved_d_output` the derivative of that gradient along the tangents of the last
    /// [`forward_along`](Mlp::forward_along), both `[rows, num_outputs]`, writes the loss's Hessian in the parameters times
    /// `direction` into `out`, `[num_params]`.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_along<T: Real>(
        &self,
        params: &[T],
        direction: &[T],
        workspace: &Workspace<T>,
        tangents: &mut Tangents<T>,
        d_output: &[T],
        moved_d_output: &[T],
        out: &mut [T],
    ) {
        let rows = workspace.rows;
        let Tangents { values, before, gradients, moved, preactivation } = tangents;
        let [mut d_out, mut d_in] = gradients.each_mut();
        let [mut m_out, mut m_in] = moved.each_mut();
        d_out[..d_output.len()].copy_from_slice(d_output);
        m_out[..d_output.len()].copy_from_slice(moved_d_output);
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let len = rows * layer.outputs;
            let (d, m) = (&mut d_out[..len], &mut m_out[..len]);
            let weight = Matrix::new(&params[layer.weight.clone()], layer.inputs, layer.outputs);
            let d_weight = Matrix::new(&direction[layer.weight.clone()], layer.inputs, layer.outputs);
            let input = Matrix::new(&workspace.values[i], rows, layer.inputs);
            if i + 1 < self.layers.len() {
                // d(f'(z) e) = f'(z) de + f''(z) dz e.
                let (y, slopes) = (&workspace.values[i + 1][..len], &workspace.slopes[i]);
                if self.activation.keeps_slope() {
                    let z = &mut preactivation[..len];
                    matmul(input, weight, z, self.precision_of(i));
                    let bias = &params[layer.bias.clone()];
                    z.chunks_exact_mut(layer.outputs)
                        .for_each(|row| row.iter_mut().zip(bias).for_each(|(z, &b)| *z += b));
                }
                self.activation.multiply_by_slope(y, slopes, m);
                let bent = &mut before[i][..len];
                bent.iter_mut().zip(&*d).for_each(|(t, &d)| *t *= d);
                self.activation.multiply_by_second_slope(y, preactivation, bent);
                m.iter_mut().zip(&*bent).for_each(|(m, &x)| *m += x);
                self.activation.multiply_by_slope(y, slopes, d);
            }
            // d(xᵀ δ) = xᵀ dδ + dxᵀ δ; the input of the first layer does not move.
            let (d, m) = (Matrix::new(&*d, rows, layer.outputs), Matrix::new(&*m, rows, layer.outputs));
            let out_weight = &mut out[layer.weight.clone()];
            matmul(input.t(), m, out_weight, self.precision_of(i));
            if i > 0 {
                let t_in = Matrix::new(&values[i - 1], rows, layer.inputs);
                matmul_add(t_in.t(), d, out_weight, self.precision_of(i));
            }
            let out_bias = &mut out[layer.bias.clone()];
            out_bias.fill(T::zero());
            for row in m.data()[..len].chunks_exact(layer.outputs) {
                out_bias.iter_mut().zip(row).for_each(|(b, &m)| *b += m);
            }
            if i > 0 {
                // d(δ Wᵀ) = dδ Wᵀ + δ dWᵀ.
                let len = rows * layer.inputs;
                matmul(m, weight.t(), &mut m_in[..len], self.precision_of(i));
                matmul_add(d, d_weight.t(), &mut m_in[..len], self.precision_of(i));
                matmul(d, weight.t(), &mut d_in[..len], self.precision_of(i));
                std::mem::swap(&mut d_out, &mut d_in);
                std::mem::swap(&mut m_out, &mut m_in);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bregman_envs::rng::NumpyRng;

    use super::super::Init;
    use super::*;
    use crate::nn::Activation;

    #[test]
    fn the_hessian_product_is_the_difference_of_gradients() {
        // Loss Σ c y³/3 of the outputs y: gradient c y², whose derivative along the tangent is 2 c y dy. Central differences with
        // step 1e-5 in f64 are good to about 1e-10.
        let mut rng = NumpyRng::new(11);
        for activation in [Activation::Tanh, Activation::Silu, Activation::Elu, Activation::Relu] {
            for (widths, rows) in [(vec![3, 2], 4), (vec![3, 7, 2], 5), (vec![4, 6, 5, 3], 9)] {
                let mlp = Mlp::new(&widths, activation);
                let params: Vec<f64> = mlp.init(Init::Uniform, &mut rng);
                let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal()).collect::<Vec<f64>>();
                let (input, v, c) = (draw(rows * widths[0]), draw(params.len()), draw(rows * mlp.num_outputs()));
                let mut workspace = mlp.workspace(rows + 2);
                let mut gradient = |params: &[f64]| {
                    let mut grad = vec![9.0; params.len()];
                    let y = mlp.forward(params, &input, &mut workspace).to_vec();
                    let d: Vec<f64> = y.iter().zip(&c).map(|(y, c)| c * y * y).collect();
                    mlp.backward(params, &mut workspace, &d, &mut grad);
                    grad
                };
                let moved = |step: f64| params.iter().zip(&v).map(|(p, v)| p + step * v).collect::<Vec<f64>>();
                let (up, down) = (gradient(&moved(1e-5)), gradient(&moved(-1e-5)));

                let y = mlp.forward(&params, &input, &mut workspace).to_vec();
                let mut tangents = mlp.tangents(rows + 1);
                let dy = mlp.forward_along(&params, &v, &workspace, &mut tangents).to_vec();
                assert_eq!(dy, mlp.jvp(&params, &v, &mut workspace.clone()));
                let d: Vec<f64> = y.iter().zip(&c).map(|(y, c)| c * y * y).collect();
                let moved_d: Vec<f64> = y.iter().zip(&c).zip(&dy).map(|((y, c), dy)| 2.0 * c * y * dy).collect();
                let mut product = vec![9.0; params.len()];
                mlp.backward_along(&params, &v, &workspace, &mut tangents, &d, &moved_d, &mut product);
                for ((up, down), product) in up.iter().zip(&down).zip(&product) {
                    let expected = (up - down) / 2e-5;
                    // An ELU's second derivative jumps at 0, a rectifier's is 0 but there.
                    assert!(
                        (product - expected).abs() < 1e-6 * expected.abs().max(1.0),
                        "{activation:?} {product} {expected}"
                    );
                }
            }
        }
    }
}
