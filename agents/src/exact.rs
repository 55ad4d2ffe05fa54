//! Returns of linear policies in closed form, with gradient and Hessian: what estimators are checked against.
//!
//! A return is written once, over any kind of number; dual numbers, a + bε with ε² = 0, then give its derivatives to rounding.

use std::ops::{Add, Div, Mul, Neg, Sub};

use bregman_envs::closed_form::{Lqr, TwoState};
use bregman_envs::{EnvConfig, Registry};

use crate::learner::LearnError;

/// An environment of [`closed_form`](bregman_envs::closed_form) with a discount and a horizon: J = E[Σ_{t<H} γᵗ r_t].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// The discount γ.
    pub gamma: f64,
    /// The horizon H.
    pub horizon: u32,
    env: ClosedForm,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ClosedForm {
    /// Parameters w, b, ln σ of a ~ N(w s + b, σ²).
    Lqr(Lqr),
    /// A row of two logits for each state, then a shift of both.
    TwoState,
}

impl Exact {
    /// Of an environment with closed forms, with its time limit as horizon.
    ///
    /// # Errors
    /// Another environment, or one whose arguments are refused.
    pub fn of(config: &EnvConfig, envs: &Registry, gamma: f64) -> Result<Exact, LearnError> {
        let spec = envs.make(config)?.spec().clone();
        let env = match config.id.as_str() {
            "lqr" => ClosedForm::Lqr(Lqr::of(config)?),
            "two_state" => ClosedForm::TwoState,
            other => {
                let message = format!("the gradient in `{other}` is no closed form; it is in lqr and two_state");
                return Err(LearnError::Unsuitable(message));
            }
        };
        Ok(Exact { gamma, horizon: spec.max_episode_steps.unwrap_or(1), env })
    }

    /// J at `params`.
    pub fn value(&self, params: &[f64]) -> f64 {
        self.value_over(params)
    }

    /// ∇J.
    pub fn gradient(&self, params: &[f64]) -> Vec<f64> {
        let axis = |i: usize| {
            params.iter().enumerate().map(move |(j, &p)| Dual { value: p, slope: f64::from(u8::from(i == j)) })
        };
        (0..params.len()).map(|i| self.value_over(&axis(i).collect::<Vec<_>>()).slope).collect()
    }

    /// ∇²J v.
    pub fn hessian_product(&self, params: &[f64], v: &[f64]) -> Vec<f64> {
        let along = |(&value, &slope): (&f64, &f64)| Dual { value, slope };
        let one = |i: usize, j: usize| Dual { value: f64::from(u8::from(i == j)), slope: 0.0 };
        let axis = |i: usize| {
            params.iter().zip(v).enumerate().map(move |(j, pair)| Dual { value: along(pair), slope: one(i, j) })
        };
        (0..params.len()).map(|i| self.value_over(&axis(i).collect::<Vec<_>>()).slope.slope).collect()
    }

    /// A point in parameter space and a direction to look along.
    pub fn example(&self) -> (Vec<f64>, Vec<f64>) {
        match self.env {
            ClosedForm::Lqr(_) => (vec![-0.3, 0.5, 0.5f64.ln()], vec![0.2, -0.3, 0.1]),
            ClosedForm::TwoState => (vec![0.2, -0.1, 0.0, 0.5, 0.0, 0.0], vec![0.3, -0.2, 0.1, 0.4, 0.0, 0.0]),
        }
    }

    /// What the parameters are called.
    pub fn names(&self) -> &'static [&'static str] {
        match self.env {
            ClosedForm::Lqr(_) => &["w", "b", "ln σ"],
            ClosedForm::TwoState => &["logit 00", "logit 01", "logit 10", "logit 11", "shift 0", "shift 1"],
        }
    }

    fn value_over<N: Number>(&self, params: &[N]) -> N {
        match self.env {
            ClosedForm::Lqr(system) => self.regulator(system, params),
            ClosedForm::TwoState => self.process(params),
        }
    }

    /// The first two moments of the state, step by step: s' = (A + B w) s + B b + B σ z.
    fn regulator<N: Number>(&self, system: Lqr, params: &[N]) -> N {
        let (n, two) = (N::of, N::of(2.0));
        let (w, b, variance) = (params[0], params[1], (two * params[2]).exp());
        let mut mean = n(system.start_mean);
        let mut square = n(system.start_mean.powi(2) + system.start_std.powi(2));
        let (mut value, mut power) = (n(0.0), 1.0);
        for _ in 0..self.horizon {
            let action_square = w * w * square + two * w * b * mean + b * b + variance;
            value = value - n(power) * (n(system.q) * square + n(system.r) * action_square);
            let (factor, shift) = (n(system.a) + n(system.b) * w, n(system.b) * b);
            square = factor * factor * square
                + two * factor * shift * mean
                + shift * shift
                + n(system.b * system.b) * variance;
            mean = factor * mean + shift;
            power *= self.gamma;
        }
        value
    }

    /// Values by the steps that are left.
    fn process<N: Number>(&self, params: &[N]) -> N {
        let policy = |state: usize| {
            let odds = [0, 1].map(|action| (params[2 * state + action] + params[4 + action]).exp());
            odds.map(|o| o / (odds[0] + odds[1]))
        };
        let mut value = [N::of(0.0); 2];
        for _ in 0..self.horizon {
            value = [0, 1].map(|state| {
                let worth = [0, 1].map(|action| {
                    let [stay, go] = TwoState::NEXT[state][action].map(|p| N::of(self.gamma * p));
                    N::of(TwoState::REWARD[state][action]) + stay * value[0] + go * value[1]
                });
                let pi = policy(state);
                pi[0] * worth[0] + pi[1] * worth[1]
            });
        }
        value[0]
    }
}

/// What a return is written in.
trait Number:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    fn of(x: f64) -> Self;
    fn exp(self) -> Self;
}

impl Number for f64 {
    fn of(x: f64) -> f64 {
        x
    }

    fn exp(self) -> f64 {
        self.exp()
    }
}

/// value + slope ε.
#[derive(Clone, Copy)]
struct Dual<N> {
    value: N,
    slope: N,
}

impl<N: Number> Number for Dual<N> {
    fn of(x: f64) -> Self {
        Dual { value: N::of(x), slope: N::of(0.0) }
    }

    fn exp(self) -> Self {
        let value = self.value.exp();
        Dual { value, slope: value * self.slope }
    }
}

impl<N: Number> Add for Dual<N> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Dual { value: self.value + other.value, slope: self.slope + other.slope }
    }
}

impl<N: Number> Sub for Dual<N> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Dual { value: self.value - other.value, slope: self.slope - other.slope }
    }
}

impl<N: Number> Neg for Dual<N> {
    type Output = Self;

    fn neg(self) -> Self {
        Dual { value: -self.value, slope: -self.slope }
    }
}

impl<N: Number> Mul for Dual<N> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Dual { value: self.value * other.value, slope: self.slope * other.value + self.value * other.slope }
    }
}

impl<N: Number> Div for Dual<N> {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        Dual { value, slope: (self.slope - value * other.slope) / other.value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(ours: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(ours.len(), expected.len());
        let pairs = ours.iter().zip(expected);
        pairs.for_each(|(a, b)| assert!((a - b).abs() < tolerance, "{ours:?} is not {expected:?}"));
    }

    fn exact(id: &str, kwargs: &str, horizon: u32) -> Exact {
        let kwargs = toml::from_str(kwargs).expect("TOML");
        let config = EnvConfig { kwargs, max_episode_steps: Some(horizon), ..EnvConfig::new(id) };
        Exact::of(&config, &Registry::default(), 0.9).expect("it has closed forms")
    }

    #[test]
    fn the_regulator_from_one_state() {
        // s₀ = 1, a = −0.3 s + z/2, four steps; slopes in k are those in w with the sign changed.
        let (exact, params) = (exact("lqr", "start_std = 0", 4), [-0.3, 0.0, 0.5f64.ln()]);
        close(&[exact.value(&params)], &[-2.703_052_543_3], 1e-9);
        close(&exact.gradient(&params)[..1], &[-2.738_175_385_6], 1e-9);
        close(&exact.hessian_product(&params, &[1.0, 0.0, 0.0])[..1], &[-5.428_042_275_9], 1e-9);
    }

    #[test]
    fn the_regulator_comes_near_its_infinite_horizon() {
        let (exact, params) = (exact("lqr", "start_std = 0", 400), [-0.3, 0.0, 0.5f64.ln()]);
        close(&[exact.value(&params), -exact.gradient(&params)[0]], &[-4.757_684_060_0, 9.591_503_376_5], 1e-9);
        close(&exact.hessian_product(&params, &[1.0, 0.0, 0.0])[..1], &[-48.651_774_1], 1e-6);
        // No gradient where the Riccati equation says the best gain is; V = −P s² but for the noise.
        let (p, k) = Lqr::default().riccati(0.9);
        let best = [-k, 0.0, -20.0];
        close(&exact.gradient(&best)[..2], &[0.0, 0.0], 1e-9);
        close(&[exact.value(&best)], &[-p], 1e-9);
    }

    #[test]
    fn the_regulator_from_many_states() {
        let exact = exact("lqr", "", 10);
        let (params, _) = exact.example();
        close(&[exact.value(&params)], &[-12.2635], 5e-5);
        close(&exact.gradient(&params)[..2], &[-31.0085, -23.3677], 5e-5);
    }

    #[test]
    fn the_process_of_two_states() {
        let exact = exact("two_state", "", 3);
        let (params, v) = exact.example();
        close(&[exact.value(&params)], &[0.943_057_410_4], 1e-9);
        let (a, b) = (0.412_818_041_4, 0.499_242_788_9);
        close(&exact.gradient(&params)[..4], &[-a, a, b, -b], 1e-9);
        let (a, b) = (0.026_801_444_4, 0.131_430_235_3);
        close(&exact.hessian_product(&params, &v)[..4], &[a, -a, -b, b], 1e-9);
        let there: Vec<f64> = params.iter().zip(&v).map(|(p, v)| p + v).collect();
        close(&[exact.value(&there)], &[0.617_028_173_4], 1e-9);
        let (a, b) = (0.363_280_896_9, 0.370_621_325_6);
        close(&exact.gradient(&there)[..4], &[-a, a, b, -b], 1e-9);
    }
}
