//! The dual objective of O-DICE: f and its conjugate, the residuals of a batch, and the three gradients of V's losses.

use serde::{Deserialize, Serialize};

use crate::nn::Real;

/// How V is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientRule {
    /// Through V(s), and through V(s') what is orthogonal to that.
    Orthogonal,
    /// Through V(s) alone.
    Semi,
    /// Through both.
    True,
}

/// The f of a divergence D_f(d ‖ dataset).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// Pearson's χ², f(x) = (x − 1)².
    ChiSquare,
    /// f(x) = x ln x.
    ReverseKl,
}

/// What weighs an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyWeight {
    /// As the authors' code has it.
    Official,
    /// The density ratio, f*'(δ).
    Exact,
}

impl Divergence {
    /// f*(y), the conjugate over x ≥ 0. With a cap, the reverse KL's goes on as its tangent there.
    pub fn conjugate<T: Real>(self, y: T, cap: Option<T>) -> T {
        let one = T::one();
        match (self, cap) {
            (Divergence::ChiSquare, _) => {
                let omega = (y / T::of(2.0) + one).max(T::zero());
                y * omega - (omega - one) * (omega - one)
            }
            (Divergence::ReverseKl, Some(cap)) if y > cap => (cap - one).exp() * (one + y - cap),
            (Divergence::ReverseKl, _) => (y - one).exp(),
        }
    }

    /// f*'(y), which is the density ratio at the optimum.
    pub fn ratio<T: Real>(self, y: T, cap: Option<T>) -> T {
        match self {
            Divergence::ChiSquare => (y / T::of(2.0) + T::one()).max(T::zero()),
            Divergence::ReverseKl => (cap.map_or(y, |cap| y.min(cap)) - T::one()).exp(),
        }
    }

    /// What an action with residual `y` weighs, `clip` at most.
    pub fn weight<T: Real>(self, y: T, rule: PolicyWeight, clip: T) -> T {
        let weight = match (self, rule) {
            (Divergence::ChiSquare, PolicyWeight::Official) => y.max(T::zero()),
            _ => self.ratio(y, None),
        };
        weight.min(clip)
    }
}

/// Where a value is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// At s.
    Here,
    /// At s'.
    Next,
    /// Anywhere, by the target network.
    Target,
}

/// A value function of one or more heads, as the learning of values sees it.
pub trait Values<T> {
    /// Number of heads.
    fn heads(&self) -> usize;

    /// Values `[heads, B]` at `obs`, `[B, obs_dim]`.
    fn forward(&mut self, params: &[T], obs: &[T], side: Side) -> &[T];

    /// Writes the gradient of a loss in the parameters, given its gradient in the values of the last forward on `side`.
    fn backward(&mut self, params: &[T], side: Side, d_values: &[T], grad: &mut [T]);

    /// The same for two losses.
    fn backward_two(&mut self, params: &[T], side: Side, d_values: [&[T]; 2], grads: [&mut [T]; 2]) {
        d_values.into_iter().zip(grads).for_each(|(d_values, grad)| self.backward(params, side, d_values, grad));
    }
}

/// What value learning is told.
#[derive(Clone, Copy, Debug)]
pub struct ValueRule<T> {
    /// Discount.
    pub gamma: T,
    /// λ.
    pub lambda: T,
    /// η.
    pub eta: T,
    /// How V is moved.
    pub gradient: GradientRule,
    /// f.
    pub divergence: Divergence,
    /// Where f* of the reverse KL becomes its tangent.
    pub cap: Option<T>,
}

/// Transitions as value learning needs them.
#[derive(Clone, Copy)]
pub struct ValueBatch<'a, T> {
    /// `[B, obs_dim]`.
    pub obs: &'a [T],
    /// `[B, obs_dim]`.
    pub next_obs: &'a [T],
    /// `[B]`.
    pub reward: &'a [T],
    /// 0 at absorbing successors, else 1, `[B]`.
    pub bootstraps: &'a [T],
}

/// The residuals of a batch and the gradients of V's losses, each `[num_params]`.
#[derive(Clone, Debug, Default)]
pub struct ValueStep<T> {
    /// V(s), `[heads, B]`.
    pub value: Vec<T>,
    /// δ with the gradient through V(s), `[heads, B]`: also what policy weights are made of.
    pub residual: Vec<T>,
    /// δ with the gradient through V(s'), `[heads, B]`; orthogonal only.
    pub backward_residual: Vec<T>,
    /// The whole gradient.
    pub grad: Vec<T>,
    linear: Vec<T>,
    through_next: Vec<T>,
    d_values: Vec<T>,
    d_linear: Vec<T>,
    /// The smaller head's value, `[B]`.
    least: Vec<T>,
}

impl<T: Real> ValueStep<T> {
    /// Room for gradients of `num_params` numbers.
    pub fn new(num_params: usize) -> ValueStep<T> {
        let room = || vec![T::zero(); num_params];
        let (grad, linear, through_next) = (room(), room(), room());
        ValueStep { grad, linear, through_next, ..Default::default() }
    }

    /// Values and residuals of a batch; the target network stands in for the side that no gradient goes through.
    pub fn look(
        &mut self,
        values: &mut impl Values<T>,
        params: &[T],
        target: &[T],
        batch: &ValueBatch<T>,
        rule: &ValueRule<T>,
    ) {
        let rows = batch.reward.len();
        let heads = values.heads();
        let residual = |i: usize, here: T, next: T| batch.reward[i] + rule.gamma * batch.bootstraps[i] * next - here;
        let smaller = |all: &[T], least: &mut Vec<T>| {
            least.clear();
            least.extend((0..rows).map(|i| (1..heads).fold(all[i], |least, h| least.min(all[h * rows + i]))));
        };
        self.value.clear();
        self.value.extend_from_slice(values.forward(params, batch.obs, Side::Here));
        self.residual.clear();
        self.backward_residual.clear();
        if rule.gradient == GradientRule::True {
            // Heads are paired, and no smaller one is taken.
            let next = values.forward(params, batch.next_obs, Side::Next);
            self.residual.extend((0..heads * rows).map(|k| residual(k % rows, self.value[k], next[k])));
            return;
        }
        let least = &mut self.least;
        smaller(values.forward(target, batch.next_obs, Side::Target), least);
        self.residual.extend((0..heads * rows).map(|k| residual(k % rows, self.value[k], least[k % rows])));
        if rule.gradient == GradientRule::Orthogonal {
            smaller(values.forward(target, batch.obs, Side::Target), least);
            let next = values.forward(params, batch.next_obs, Side::Next);
            self.backward_residual.extend((0..heads * rows).map(|k| residual(k % rows, least[k % rows], next[k])));
        }
    }

    /// Writes the gradient into `grad` after [`look`](ValueStep::look); returns the cosine between the gradients through
    /// V(s) and V(s') where both are taken, 0 elsewhere.
    pub fn gradient(
        &mut self,
        values: &mut impl Values<T>,
        params: &[T],
        batch: &ValueBatch<T>,
        rule: &ValueRule<T>,
    ) -> f64 {
        let (rows, count) = (batch.reward.len(), self.residual.len());
        let scale = T::one() / T::of(count as f64);
        let linear = (T::one() - rule.lambda) * scale;
        let slope = |delta: T| rule.lambda * scale * rule.divergence.ratio(delta, rule.cap);
        let through_next = |k: usize, delta: T, eta: T| eta * slope(delta) * rule.gamma * batch.bootstraps[k % rows];
        let ValueStep { residual, backward_residual, grad, d_values, .. } = self;
        let mut set = |d: &mut dyn FnMut(usize) -> T| {
            d_values.clear();
            d_values.extend((0..count).map(d));
        };
        match rule.gradient {
            GradientRule::Semi => {
                set(&mut |k| linear - slope(residual[k]));
                values.backward(params, Side::Here, &self.d_values, grad);
                0.0
            }
            GradientRule::True => {
                set(&mut |k| linear - slope(residual[k]));
                values.backward(params, Side::Here, d_values, grad);
                d_values.clear();
                d_values.extend((0..count).map(|k| through_next(k, residual[k], T::one())));
                values.backward(params, Side::Next, &self.d_values, &mut self.through_next);
                grad.iter_mut().zip(&self.through_next).for_each(|(g, &d)| *g += d);
                0.0
            }
            GradientRule::Orthogonal => {
                set(&mut |k| -slope(residual[k]));
                self.d_linear.clear();
                self.d_linear.resize(count, linear);
                let grads = [&mut self.linear[..], grad];
                values.backward_two(params, Side::Here, [&self.d_linear, d_values], grads);
                d_values.clear();
                d_values.extend((0..count).map(|k| through_next(k, backward_residual[k], rule.eta)));
                values.backward(params, Side::Next, &self.d_values, &mut self.through_next);
                orthogonal(grad, &self.through_next, &self.linear)
            }
        }
    }
}

/// Turns `forward`, the gradient through V(s), into the whole gradient: `linear` + `forward` + what of `backward` is orthogonal to
/// `forward`. All are one vector over all heads and layers, and the linear term's gradient stays out of the projection.
/// Returns the cosine between forward and backward.
pub fn orthogonal<T: Real>(forward: &mut [T], backward: &[T], linear: &[T]) -> f64 {
    let (along, square) = (dot(forward, backward), dot(forward, forward));
    let kept = T::of(1.0 - along / square.max(1e-10));
    for ((f, &b), &l) in forward.iter_mut().zip(backward).zip(linear) {
        *f = l + kept * *f + b;
    }
    let norms = (square * dot(backward, backward)).sqrt();
    if norms > 0.0 { along / norms } else { 0.0 }
}

/// Σ a b in double precision, as eight partial sums.
fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += Real::to_f64(*a) * Real::to_f64(*b));
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use bregman_envs::rng::NumpyRng;

    use super::*;
    use crate::nn::{Activation, Init, Mlp, Twins, TwinsWorkspace};
    use crate::workers::Workers;

    const OFFICIAL: PolicyWeight = PolicyWeight::Official;

    #[test]
    fn conjugates_ratios_and_weights_of_the_chi_square_divergence() {
        let deltas = [-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 10.0];
        let f = Divergence::ChiSquare;
        let conjugates = [-1.0, -1.0, -1.0, -0.9375, -0.75, -0.4375, 0.0, 0.5625, 1.25, 3.0, 8.0, 35.0];
        assert_eq!(deltas.map(|y| f.conjugate(y, None)), conjugates);
        assert_eq!(deltas.map(|y| f.ratio(y, None)), [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 6.0]);
        assert_eq!(
            deltas.map(|y| f.weight(y, OFFICIAL, 100.0)),
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 10.0]
        );
        assert_eq!(deltas.map(|y| f.weight(y, PolicyWeight::Exact, 100.0)), deltas.map(|y| f.ratio(y, None)));
        assert_eq!(f.weight(250.0, OFFICIAL, 100.0), 100.0);
    }

    #[test]
    fn the_reverse_kl_grows_as_an_exponential_and_from_its_cap_on_as_a_tangent() {
        let f = Divergence::ReverseKl;
        assert_eq!((f.conjugate(1.0, None), f.ratio(1.0, None)), (1.0, 1.0));
        // The bound on weights is met at 1 + ln 100.
        assert!((f.weight(1.0 + 100f64.ln(), OFFICIAL, 200.0) - 100.0).abs() < 1e-9);
        assert_eq!(f.weight(6.0, OFFICIAL, 100.0), 100.0);
        let e = 1f64.exp();
        assert_eq!((f.conjugate(4.0, Some(2.0)), f.ratio(4.0, Some(2.0))), (e * 3.0, e));
        assert_eq!(f.conjugate(2.0, Some(2.0)), f.conjugate(2.0, None), "it is continuous");
        // In single precision it overflows without a cap.
        assert!(f.conjugate(90.0f32, None).is_infinite() && f.conjugate(90.0f32, Some(5.0)).is_finite());
    }

    /// V(s) = θ · φ(s), where a row of `obs` is φ(s), or in a table an index.
    struct Linear {
        width: usize,
        table: bool,
        obs: [Vec<f64>; 2],
        values: Vec<f64>,
    }

    impl Linear {
        fn new(width: usize, table: bool) -> Linear {
            Linear { width, table, obs: Default::default(), values: Vec::new() }
        }
    }

    impl Values<f64> for Linear {
        fn heads(&self) -> usize {
            1
        }

        fn forward(&mut self, params: &[f64], obs: &[f64], side: Side) -> &[f64] {
            if side != Side::Target {
                self.obs[usize::from(side == Side::Next)] = obs.to_vec();
            }
            self.values = match self.table {
                true => obs.iter().map(|&state| params[state as usize]).collect(),
                false => obs.chunks(self.width).map(|phi| phi.iter().zip(params).map(|(x, w)| x * w).sum()).collect(),
            };
            &self.values
        }

        fn backward(&mut self, _: &[f64], side: Side, d_values: &[f64], grad: &mut [f64]) {
            grad.fill(0.0);
            let obs = &self.obs[usize::from(side == Side::Next)];
            match self.table {
                true => obs.iter().zip(d_values).for_each(|(&state, d)| grad[state as usize] += d),
                false => obs.chunks(self.width).zip(d_values).for_each(|(phi, d)| {
                    grad.iter_mut().zip(phi).for_each(|(g, x)| *g += d * x);
                }),
            }
        }
    }

    fn rule(gradient: GradientRule, lambda: f64, eta: f64) -> ValueRule<f64> {
        ValueRule { gamma: 0.9, lambda, eta, gradient, divergence: Divergence::ChiSquare, cap: None }
    }

    struct Case {
        gradient: GradientRule,
        eta: f64,
        theta: [f64; 2],
        bootstraps: f64,
    }

    /// The step at θ, with θ̄ = (1/2, 1), φ = (1, 0), φ' = (1, 1) and r = 1; its residuals and gradient.
    fn step(case: Case) -> (ValueStep<f64>, Vec<f64>) {
        let batch =
            ValueBatch { obs: &[1.0, 0.0], next_obs: &[1.0, 1.0], reward: &[1.0], bootstraps: &[case.bootstraps] };
        let (mut step, mut values) = (ValueStep::new(2), Linear::new(2, false));
        let rule = rule(case.gradient, 0.6, case.eta);
        step.look(&mut values, &case.theta, &[0.5, 1.0], &batch, &rule);
        step.gradient(&mut values, &case.theta, &batch, &rule);
        let grad = step.grad.clone();
        (step, grad)
    }

    fn close(found: &[f64], expected: &[f64]) {
        for (x, y) in found.iter().zip(expected) {
            assert!((x - y).abs() < 1e-6, "{found:?} is not {expected:?}");
        }
    }

    #[test]
    fn one_transition_by_hand() {
        use GradientRule::{Orthogonal, Semi, True};
        let theta = [1.0, 2.0];
        let at = |gradient, eta, bootstraps| step(Case { gradient, eta, theta, bootstraps });
        let (forward, grad) = at(Orthogonal, 1.0, 1.0);
        close(&forward.residual, &[1.35]);
        close(&forward.backward_residual, &[3.2]);
        close(&forward.through_next, &[1.404, 1.404]);
        close(&grad, &[-0.605, 1.404]);
        close(&at(Orthogonal, 0.5, 1.0).1, &[-0.605, 0.702]);
        close(&at(Semi, 1.0, 1.0).1, &[-0.605, 0.0]);
        let (both, grad) = at(True, 1.0, 1.0);
        close(&both.residual, &[2.7]);
        close(&grad, &[0.259, 1.269]);
        // No projection where the gradient through V(s) vanishes: δ = −7.65 is beyond the clamp.
        let (forward, grad) = step(Case { gradient: Orthogonal, eta: 1.0, theta: [10.0, 2.0], bootstraps: 1.0 });
        close(&[forward.residual[0], forward.backward_residual[0]], &[-7.65, 11.3]);
        close(&grad, &[3.991, 3.591]);
    }

    #[test]
    fn the_rules_agree_where_theory_says_so() {
        use GradientRule::{Orthogonal, Semi, True};
        let at = |gradient, eta, bootstraps| step(Case { gradient, eta, theta: [1.0, 2.0], bootstraps }).1;
        assert_eq!(at(Orthogonal, 0.0, 1.0), at(Semi, 0.0, 1.0), "without the backward gradient");
        for gradient in [Orthogonal, Semi, True] {
            close(&at(gradient, 1.0, 0.0), &[-0.2, 0.0]); // a terminal row
        }
    }

    #[test]
    fn what_is_added_is_orthogonal_and_the_linear_term_is_no_part_of_it() {
        // c = <f, b>/<f, f> = −11/25.
        let (forward, backward) = ([3.0, 4.0], [-1.0, -2.0]);
        let added = |linear: [f64; 2]| {
            let mut grad = forward;
            orthogonal(&mut grad, &backward, &linear);
            [grad[0] - linear[0] - forward[0], grad[1] - linear[1] - forward[1]]
        };
        close(&added([0.0, 0.0]), &[-1.0 + 1.32, -2.0 + 1.76]);
        close(&added([5.0, -7.0]), &added([0.0, 0.0]));
        assert!(dot(&added([5.0, -7.0]), &forward).abs() < 1e-12);
        // Opposite gradients: nothing is left of the backward one.
        let mut grad = [1.0, 0.0];
        assert_eq!(orthogonal(&mut grad, &[-3.0, 0.0], &[0.0, 0.0]), -1.0);
        assert_eq!(grad, [1.0, 0.0]);
        // The floor 1e-10 is on the squared norm: c = 1e-6/1e-10 = 1e4.
        let mut grad = [1e-6, 0.0];
        orthogonal(&mut grad, &[1.0, 1.0], &[0.0, 0.0]);
        close(&grad, &[0.990_001, 1.0]);
        let mut grad = [0.0, 0.0];
        assert_eq!(orthogonal(&mut grad, &[1.0, 2.0], &[3.0, 3.0]), 0.0);
        assert_eq!(grad, [4.0, 5.0]);
    }

    /// Rows `(s, r, s')`; there is no value at a successor that is no state.
    type Row = (usize, f64, Option<usize>);

    /// V after `steps` steps of gradient descent on all rows, with the target copied after each, and the last residuals.
    fn descend(
        rows: &[Row],
        states: usize,
        rule: ValueRule<f64>,
        step_size: f64,
        steps: usize,
    ) -> (Vec<f64>, Vec<f64>) {
        let obs: Vec<f64> = rows.iter().map(|row| row.0 as f64).collect();
        let next_obs: Vec<f64> = rows.iter().map(|row| row.2.unwrap_or(states) as f64).collect();
        let reward: Vec<f64> = rows.iter().map(|row| row.1).collect();
        let bootstraps: Vec<f64> = rows.iter().map(|row| if row.2.is_some() { 1.0 } else { 0.0 }).collect();
        let batch = ValueBatch { obs: &obs, next_obs: &next_obs, reward: &reward, bootstraps: &bootstraps };
        // One place more, for successors that do not count.
        let mut params = vec![0.0; states + 1];
        let (mut step, mut values) = (ValueStep::new(states + 1), Linear::new(1, true));
        for _ in 0..steps {
            let target = params.clone();
            step.look(&mut values, &params, &target, &batch, &rule);
            step.gradient(&mut values, &params, &batch, &rule);
            params.iter_mut().zip(&step.grad).for_each(|(p, g)| *p -= step_size * g);
        }
        let target = params.clone();
        step.look(&mut values, &params, &target, &batch, &rule);
        assert_eq!(params[states], 0.0, "what is masked is never trained");
        (params, step.residual.clone())
    }

    fn near(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() < tolerance, "{found} is not {expected}");
    }

    #[test]
    fn lambda_lifts_the_value_above_the_mean_reward() {
        // One state and terminal rewards 0, 1, 2: V* = mean + 2(2λ − 1)/λ while no residual is below −2. At λ = 0.8 to 0.95 it is
        // that of the k largest: V* = their mean + 2 − 2(n/k)(1 − λ)/λ.
        let rows = [(0, 0.0, None), (0, 1.0, None), (0, 2.0, None)];
        let expected = [
            (0.3, -1.666_667),
            (0.4, 0.0),
            (0.5, 1.0),
            (0.6, 1.666_667),
            (0.8, 2.75),
            (0.9, 3.333_333),
            (0.95, 3.684_211),
        ];
        for (lambda, value) in expected {
            for gradient in [GradientRule::Semi, GradientRule::Orthogonal, GradientRule::True] {
                near(descend(&rows, 1, rule(gradient, lambda, 1.0), 0.5, 3000).0[0], value, 1e-3);
            }
        }
    }

    #[test]
    fn a_state_that_leads_to_itself() {
        use GradientRule::{Orthogonal, Semi, True};
        let rows = [(0, 1.0, Some(0))];
        for (lambda, fixed, of_true) in [(0.5, 10.0, -170.0), (0.6, 16.666_667, -103.333_333)] {
            for gradient in [Semi, Orthogonal] {
                near(descend(&rows, 1, rule(gradient, lambda, 1.0), 0.5, 4000).0[0], fixed, 1e-3);
            }
            near(descend(&rows, 1, rule(True, lambda, 1.0), 5.0, 20_000).0[0], of_true, 1e-3);
        }
        // One step from 1 on either side with r = 1/2 by hand: −0.72 forward, 0.648 backward, all of it taken away.
        let moved = |gradient| {
            let batch = ValueBatch { obs: &[0.0], next_obs: &[0.0], reward: &[0.5], bootstraps: &[1.0] };
            let (mut step, mut values) = (ValueStep::new(1), Linear::new(1, true));
            let rule = rule(gradient, 0.6, 1.0);
            step.look(&mut values, &[1.0], &[1.0], &batch, &rule);
            step.gradient(&mut values, &[1.0], &batch, &rule);
            step.grad[0]
        };
        close(&[moved(Orthogonal), moved(Semi), moved(True)], &[-0.32, -0.32, 0.328]);
    }

    #[test]
    fn a_chain_of_two_states() {
        use GradientRule::{Orthogonal, Semi, True};
        let rows = [(0, 0.0, Some(1)), (1, 1.0, None)];
        let expected = [
            (0.5, Semi, 1.0, [0.9, 1.0]),
            (0.5, Orthogonal, 0.0, [0.9, 1.0]),
            (0.5, Orthogonal, 0.5, [1.021_173, 0.742_511]),
            (0.5, Orthogonal, 1.0, [1.158_276, 0.652_383]),
            (0.5, True, 1.0, [-0.72, -0.8]),
            (0.6, Semi, 1.0, [2.166_667, 1.666_667]),
            (0.6, Orthogonal, 0.5, [2.247_449, 1.495_007]),
            (0.6, Orthogonal, 1.0, [2.338_851, 1.434_922]),
            (0.6, True, 1.0, [1.086_667, 0.466_667]),
        ];
        for (lambda, gradient, eta, [first, second]) in expected {
            let (v, _) = descend(&rows, 2, rule(gradient, lambda, eta), 0.5, 5000);
            near(v[0], first, 1e-3);
            near(v[1], second, 1e-3);
        }
    }

    #[test]
    fn minibatches_whose_states_and_successors_differ_make_orthogonal_the_true_gradient() {
        // Two states that lead to each other. The gradients of both rows at once are parallel, and the backward one is taken
        // away; those of a single row lie in different cells, nothing is, and V ends where the true gradient does.
        let rows: [Row; 2] = [(0, 1.0, Some(1)), (1, 1.0, Some(0))];
        let rule = rule(GradientRule::Orthogonal, 0.6, 1.0);
        near(descend(&rows, 2, rule, 0.5, 4000).0[0], 16.666_667, 1e-3);

        let (mut params, mut step, mut values) = (vec![0.0; 2], ValueStep::new(2), Linear::new(1, true));
        for _ in 0..20_000 {
            let at = params.clone();
            for (obs, next_obs) in [([0.0], [1.0]), ([1.0], [0.0])] {
                let batch = ValueBatch { obs: &obs, next_obs: &next_obs, reward: &[1.0], bootstraps: &[1.0] };
                step.look(&mut values, &at, &at, &batch, &rule);
                assert_eq!(step.gradient(&mut values, &at, &batch, &rule), 0.0, "orthogonal as they are");
                params.iter_mut().zip(&step.grad).for_each(|(p, g)| *p -= 0.5 * g);
            }
        }
        params.iter().for_each(|&v| near(v, -103.333_333, 1e-3));
    }

    /// Every move from every state of a 5 x 5 grid but the goal, with the rewards of a move and of a move into the goal.
    fn grid(step: f64, goal: f64) -> Vec<Row> {
        let mut rows = Vec::new();
        for state in 0..24usize {
            let (row, column) = (state / 5, state % 5);
            let up = (row.saturating_sub(1), column);
            let moves = [up, ((row + 1).min(4), column), (row, column.saturating_sub(1)), (row, (column + 1).min(4))];
            for (row, column) in moves {
                let next = 5 * row + column;
                rows.push(if next == 24 { (state, goal, None) } else { (state, step, Some(next)) });
            }
        }
        rows
    }

    /// Moves from the start to the goal, each along the largest residual; none if there are 50.
    fn path(rows: &[Row], residual: &[f64]) -> Option<usize> {
        let mut state = 0;
        for moves in 1..=50 {
            let choices = (0..rows.len()).filter(|&i| rows[i].0 == state);
            let best = choices.fold(None, |best: Option<usize>, i| match best {
                Some(b) if residual[b] >= residual[i] => Some(b),
                _ => Some(i),
            });
            match rows[best?].2 {
                Some(next) => state = next,
                None => return Some(moves),
            }
        }
        None
    }

    #[test]
    fn a_grid_world_where_small_rewards_leave_no_weight() {
        use GradientRule::{Orthogonal, Semi, True};
        let run = |rewards: (f64, f64), lambda, gradient| {
            let rows = grid(rewards.0, rewards.1);
            let (v, residual) = descend(&rows, 24, rule(gradient, lambda, 1.0), 2.0, 40_000);
            let largest = residual.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let active = residual.iter().filter(|&&delta| delta > 0.0).count() as f64 / 96.0;
            ([v[0], v[23], largest, active], path(&rows, &residual))
        };
        let (moves, arrival) = ((-1.0, 0.0), (0.0, 1.0));
        let expected = [
            (moves, 0.5, Semi, [-9.7036, -4.5455, 4.5455, 0.4167], Some(8)),
            (moves, 0.5, Orthogonal, [-9.9048, -5.1414, 5.1414, 0.4167], Some(8)),
            (moves, 0.5, True, [-90.0733, -49.4084, 49.4084, 0.9167], Some(8)),
            (arrival, 0.5, Orthogonal, [-0.1512, 0.7225, 0.3674, 0.5417], Some(8)),
            (arrival, 0.6, Semi, [6.6044, 5.5213, 0.0182, 0.0208], None),
            (arrival, 0.6, Orthogonal, [6.5351, 6.0295, -0.3737, 0.0], None),
        ];
        for (rewards, lambda, gradient, numbers, steps) in expected {
            let (found, taken) = run(rewards, lambda, gradient);
            found.iter().zip(numbers).for_each(|(&x, y)| near(x, y, 1e-3));
            assert_eq!(taken, steps, "{rewards:?} {lambda} {gradient:?}");
        }
        // A hundredfold reward, and the same λ works again.
        let (found, taken) = run((0.0, 100.0), 0.6, Orthogonal);
        near(found[0], 42.271, 1e-2);
        near(found[3], 0.271, 1e-3);
        assert_eq!(taken, Some(8));
    }

    /// Twin networks of two hidden layers in double precision.
    struct Heads {
        twins: Twins,
        rooms: [TwinsWorkspace<f64>; 3],
        workers: Workers,
    }

    impl Values<f64> for Heads {
        fn heads(&self) -> usize {
            self.twins.count()
        }

        fn forward(&mut self, params: &[f64], obs: &[f64], side: Side) -> &[f64] {
            self.twins.forward(params, obs, &mut self.rooms[side as usize], &self.workers)
        }

        fn backward(&mut self, params: &[f64], side: Side, d_values: &[f64], grad: &mut [f64]) {
            self.twins.backward(params, &mut self.rooms[side as usize], d_values, grad, &self.workers);
        }

        fn backward_two(&mut self, params: &[f64], side: Side, d_values: [&[f64]; 2], grads: [&mut [f64]; 2]) {
            self.twins.backward_two(params, &mut self.rooms[side as usize], d_values, grads, &self.workers);
        }
    }

    #[test]
    fn the_projection_is_over_both_heads_and_all_layers_at_once() {
        let mut rng = NumpyRng::new(8);
        let twins = Twins::new(Mlp::normalized(&[3, 7, 5, 1], Activation::Relu), 2);
        let params: Vec<f64> = twins.init(Init::Uniform, &mut rng);
        let target: Vec<f64> = twins.init(Init::Uniform, &mut rng);
        let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal()).collect::<Vec<f64>>();
        let (obs, next_obs, reward) = (draw(15), draw(15), draw(5));
        let bootstraps = [1.0, 0.0, 1.0, 1.0, 1.0];
        let batch = ValueBatch { obs: &obs, next_obs: &next_obs, reward: &reward, bootstraps: &bootstraps };
        let rooms = [0; 3].map(|_| twins.workspace(5));
        let mut heads = Heads { twins, rooms, workers: Workers::new(1).expect("one thread") };
        let rule = rule(GradientRule::Orthogonal, 0.6, 0.7);
        let mut step = ValueStep::new(params.len());
        step.look(&mut heads, &params, &target, &batch, &rule);
        assert_eq!((step.residual.len(), step.backward_residual.len()), (10, 10));

        // The residuals by definition: targets take the smaller head, the network itself never does.
        let mut values = |params: &[f64], obs: &[f64]| heads.forward(params, obs, Side::Target).to_vec();
        let (here, next) = (values(&params, &obs), values(&params, &next_obs));
        let (bar_here, bar_next) = (values(&target, &obs), values(&target, &next_obs));
        let least = |all: &[f64], i: usize| all[i].min(all[5 + i]);
        for k in 0..10 {
            let i = k % 5;
            near(step.residual[k], reward[i] + 0.9 * bootstraps[i] * least(&bar_next, i) - here[k], 1e-12);
            near(step.backward_residual[k], reward[i] + 0.9 * bootstraps[i] * next[k] - least(&bar_here, i), 1e-12);
        }

        // Each loss's gradient by differences, then the formula on the whole vector.
        let mut slope = |loss: &dyn Fn(&[f64], &[f64]) -> f64| -> Vec<f64> {
            let moved = |i: usize, h: f64, heads: &mut Heads| {
                let mut params = params.clone();
                params[i] += h;
                let here = heads.forward(&params, &obs, Side::Target).to_vec();
                loss(&here, heads.forward(&params, &next_obs, Side::Target))
            };
            (0..params.len()).map(|i| (moved(i, 1e-5, &mut heads) - moved(i, -1e-5, &mut heads)) / 2e-5).collect()
        };
        let f = |y: f64| rule.divergence.conjugate(y, None);
        let mean = |term: &dyn Fn(usize) -> f64| (0..10).map(term).sum::<f64>() / 10.0;
        let target_next = |k: usize| reward[k % 5] + 0.9 * bootstraps[k % 5] * least(&bar_next, k % 5);
        let linear = slope(&|here, _| 0.4 * mean(&|k| here[k]));
        let forward = slope(&|here, _| 0.6 * mean(&|k| f(target_next(k) - here[k])));
        let backward = slope(&|_, next| {
            0.6 * 0.7 * mean(&|k| f(reward[k % 5] + 0.9 * bootstraps[k % 5] * next[k] - least(&bar_here, k % 5)))
        });
        step.gradient(&mut heads, &params, &batch, &rule);
        let c = dot(&forward, &backward) / dot(&forward, &forward);
        assert!(c.abs() > 1e-2, "there is something to take away: {c}");
        for (i, grad) in step.grad.iter().enumerate() {
            near(*grad, linear[i] + forward[i] + backward[i] - c * forward[i], 1e-7);
        }
    }
}
