//! Several networks of one shape over the same rows, such as two critics: side by side on the run's workers.

use bregman_envs::rng::NumpyRng;

use super::{Init, Mlp, Real, Workspace};
use crate::workers::Workers;

/// `count` networks of one shape, their parameters one after the other in one vector.
#[derive(Clone, Debug)]
pub struct Twins {
    mlp: Mlp,
    count: usize,
}

/// Room for the networks' passes over up to `capacity` rows.
#[derive(Clone, Debug)]
pub struct TwinsWorkspace<T> {
    networks: Vec<Workspace<T>>,
    /// `[count, rows, num_outputs]`.
    outputs: Vec<T>,
    /// `[rows, num_inputs]`.
    d_input: Vec<T>,
    rows: usize,
}

impl Twins {
    /// `count` networks shaped as `mlp`.
    pub fn new(mlp: Mlp, count: usize) -> Twins {
        assert!(count > 0, "at least one network");
        Twins { mlp, count }
    }

    /// The shape that all share.
    pub fn mlp(&self) -> &Mlp {
        &self.mlp
    }

    /// How many networks there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Length of the parameter vector.
    pub fn num_params(&self) -> usize {
        self.count * self.mlp.num_params()
    }

    /// Draws fresh parameters, different in every network.
    pub fn init<T: Real>(&self, init: Init, rng: &mut NumpyRng) -> Vec<T> {
        (0..self.count).flat_map(|_| self.mlp.init(init, rng)).collect()
    }

    /// Room for up to `capacity` rows.
    pub fn workspace<T: Real>(&self, capacity: usize) -> TwinsWorkspace<T> {
        TwinsWorkspace {
            networks: (0..self.count).map(|_| self.mlp.workspace(capacity)).collect(),
            outputs: vec![T::zero(); self.count * capacity * self.mlp.num_outputs()],
            d_input: vec![T::zero(); capacity * self.mlp.num_inputs()],
            rows: 0,
        }
    }

    /// Outputs of every network, `[count, rows, num_outputs]`, for `input`, `[rows, num_inputs]`.
    ///
    /// Inside [`Workers::run`] the networks are evaluated side by side; the numbers are the same either way.
    pub fn forward<'w, T: Real>(
        &self,
        params: &[T],
        input: &[T],
        workspace: &'w mut TwinsWorkspace<T>,
        workers: &Workers,
    ) -> &'w [T] {
        assert_eq!(params.len(), self.num_params(), "parameters of all networks");
        workspace.rows = input.len() / self.mlp.num_inputs();
        let outputs = &mut workspace.outputs[..self.count * workspace.rows * self.mlp.num_outputs()];
        side_by_side(workers, &mut workspace.networks, &mut *outputs, 0, &|k, network, output: &mut [T]| {
            output.copy_from_slice(self.mlp.forward(self.part(params, k), input, network));
        });
        outputs
    }

    /// The outputs of the last [`forward`](Twins::forward), `[count, rows, num_outputs]`.
    pub fn output<'w, T: Real>(&self, workspace: &'w TwinsWorkspace<T>) -> &'w [T] {
        &workspace.outputs[..self.count * workspace.rows * self.mlp.num_outputs()]
    }

    /// Writes the gradient of a loss in all parameters into `grad`, `[num_params]`, given its gradient in the outputs of the
    /// last [`forward`](Twins::forward), `[count, rows, num_outputs]`.
    pub fn backward<T: Real>(
        &self,
        params: &[T],
        workspace: &mut TwinsWorkspace<T>,
        d_output: &[T],
        grad: &mut [T],
        workers: &Workers,
    ) {
        assert_eq!(grad.len(), self.num_params(), "a gradient for all networks");
        let len = workspace.rows * self.mlp.num_outputs();
        side_by_side(workers, &mut workspace.networks, grad, 0, &|k, network, grad| {
            self.mlp.backward(self.part(params, k), network, &d_output[k * len..(k + 1) * len], grad);
        });
    }

    /// [`backward`](Twins::backward) of two losses at once, for networks with one output each; see [`Mlp::backward_two`].
    pub fn backward_two<T: Real>(
        &self,
        params: &[T],
        workspace: &mut TwinsWorkspace<T>,
        d_outputs: [&[T]; 2],
        [grad, other]: [&mut [T]; 2],
        workers: &Workers,
    ) {
        assert!([&grad, &other].iter().all(|grad| grad.len() == self.num_params()), "gradients for all networks");
        let rows = workspace.rows;
        side_by_side(workers, &mut workspace.networks, (grad, other), 0, &|k, network, (grad, other)| {
            let d_outputs = d_outputs.map(|d| &d[k * rows..(k + 1) * rows]);
            self.mlp.backward_two(self.part(params, k), network, d_outputs, [grad, other]);
        });
    }

    /// The gradient of a loss in the input, `[rows, num_inputs]`: the sum of what comes through every network, given the
    /// loss's gradient in the outputs of the last [`forward`](Twins::forward), `[count, rows, num_outputs]`.
    pub fn backward_input<'w, T: Real>(
        &self,
        params: &[T],
        workspace: &'w mut TwinsWorkspace<T>,
        d_output: &[T],
        workers: &Workers,
    ) -> &'w [T] {
        let len = workspace.rows * self.mlp.num_outputs();
        side_by_side(workers, &mut workspace.networks, &mut [(); 0][..], 0, &|k, network, _: &mut [()]| {
            self.mlp.backward_input(self.part(params, k), network, &d_output[k * len..(k + 1) * len]);
        });
        let d_input = &mut workspace.d_input[..workspace.rows * self.mlp.num_inputs()];
        d_input.fill(T::zero());
        for network in &workspace.networks {
            d_input.iter_mut().zip(network.d_input(&self.mlp)).for_each(|(sum, &d)| *sum += d);
        }
        d_input
    }

    /// The parameters of network `k`.
    pub fn part<'a, T>(&self, params: &'a [T], k: usize) -> &'a [T] {
        &params[k * self.mlp.num_params()..(k + 1) * self.mlp.num_params()]
    }
}

/// Equal shares, one for each network.
trait Shares: Sized + Send {
    /// The first `part` of `count` shares, and the others.
    fn split(self, part: usize, count: usize) -> (Self, Self);
}

impl<O: Send> Shares for &mut [O] {
    fn split(self, part: usize, count: usize) -> (Self, Self) {
        let share = self.len() / count;
        self.split_at_mut(part * share)
    }
}

impl<A: Shares, B: Shares> Shares for (A, B) {
    fn split(self, part: usize, count: usize) -> (Self, Self) {
        let ((a, other_a), (b, other_b)) = (self.0.split(part, count), self.1.split(part, count));
        ((a, b), (other_a, other_b))
    }
}

/// Calls `work` with every network's number, its workspace and its share of `out`.
fn side_by_side<T: Real, O: Shares>(
    workers: &Workers,
    networks: &mut [Workspace<T>],
    out: O,
    first: usize,
    work: &(impl Fn(usize, &mut Workspace<T>, O) + Sync),
) {
    if let [network] = networks {
        return work(first, network, out);
    }
    let half = networks.len() / 2;
    let (left_out, right_out) = out.split(half, networks.len());
    let (left, right) = networks.split_at_mut(half);
    workers.join(
        || side_by_side(workers, left, left_out, first, work),
        || side_by_side(workers, right, right_out, first + half, work),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Activation;

    #[test]
    fn twins_are_their_networks_one_by_one_on_any_number_of_workers() {
        let mut rng = NumpyRng::new(3);
        let mlp = Mlp::normalized(&[5, 16, 2], Activation::Silu);
        for (count, threads) in [(1, 1), (2, 1), (2, 2), (3, 2)] {
            let twins = Twins::new(mlp.clone(), count);
            let workers = Workers::new(threads).expect("threads start");
            let params: Vec<f64> = twins.init(Init::Uniform, &mut rng);
            let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.standard_normal()).collect() };
            let (input, d_output) = (draw(7 * 5), draw(count * 7 * 2));
            let mut workspace = twins.workspace(9);
            let mut grad = vec![9.0; twins.num_params()];
            let (outputs, d_input) = workers.run(|| {
                let outputs = twins.forward(&params, &input, &mut workspace, &workers).to_vec();
                twins.backward(&params, &mut workspace, &d_output, &mut grad, &workers);
                (outputs, twins.backward_input(&params, &mut workspace, &d_output, &workers).to_vec())
            });

            let mut sum = [0.0; 7 * 5];
            for k in 0..count {
                let (mut alone, mut alone_grad) = (mlp.workspace(7), vec![0.0; mlp.num_params()]);
                let (d_output, params) = (&d_output[k * 14..(k + 1) * 14], twins.part(&params, k));
                assert_eq!(mlp.forward(params, &input, &mut alone), &outputs[k * 14..(k + 1) * 14]);
                mlp.backward(params, &mut alone, d_output, &mut alone_grad);
                assert_eq!(alone_grad, twins.part(&grad, k));
                let d_input = mlp.backward_input(params, &mut alone, d_output);
                sum.iter_mut().zip(d_input).for_each(|(sum, d)| *sum += d);
            }
            assert_eq!(d_input, sum);
        }
    }
}
