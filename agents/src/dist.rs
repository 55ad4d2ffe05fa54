//! Action distributions: diagonal Gaussians for boxes, categoricals for discrete spaces.
//!
//! A [`Dist`] is a shape; its numbers are an output row of a network, and for Gaussians the logarithms of the standard
//! deviations beside it. Every function is per row, in natural logarithms; an action of several components has
//! independent components, so log-probabilities, entropies and divergences are sums over them.

use bregman_envs::{ActionSpace, rng::NumpyRng};

use crate::nn::Real;

/// ln(2π)/2.
const HALF_LN_TAU: f64 = 0.918_938_533_204_672_7;

/// The family of distributions over the actions of a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dist {
    /// Independent choices; an output row holds the logits of component 0, then of component 1, and so on.
    Categorical {
        /// Number of choices of each component.
        nvec: Vec<usize>,
    },
    /// Independent normals; an output row holds the means.
    Gaussian {
        /// Length of an action.
        dim: usize,
    },
}

impl Dist {
    /// The family that fits a space.
    pub fn of(space: &ActionSpace) -> Dist {
        match space {
            ActionSpace::Box { low, .. } => Dist::Gaussian { dim: low.len() },
            ActionSpace::Discrete { n } => Dist::Categorical { nvec: vec![*n] },
            ActionSpace::MultiDiscrete { nvec } => Dist::Categorical { nvec: nvec.clone() },
        }
    }

    /// Width of an output row.
    pub fn num_outputs(&self) -> usize {
        match self {
            Dist::Categorical { nvec } => nvec.iter().sum(),
            Dist::Gaussian { dim } => *dim,
        }
    }

    /// Number of standard deviations: the action's length for Gaussians, 0 for categoricals.
    pub fn num_log_stds(&self) -> usize {
        match self {
            Dist::Categorical { .. } => 0,
            Dist::Gaussian { dim } => *dim,
        }
    }

    /// Draws an action and returns its log-probability.
    pub fn sample<T: Real>(&self, output: &[T], log_std: &[T], rng: &mut NumpyRng, action: &mut [T]) -> T {
        match self {
            Dist::Categorical { nvec } => {
                for ((logits, _), a) in components(nvec, output).zip(action.iter_mut()) {
                    *a = T::of(draw(logits, rng) as f64);
                }
            }
            Dist::Gaussian { .. } => {
                for ((a, &mean), &log_std) in action.iter_mut().zip(output).zip(log_std) {
                    *a = mean + log_std.exp() * T::of(rng.standard_normal());
                }
            }
        }
        self.log_prob(output, log_std, action)
    }

    /// The most probable action.
    pub fn mode<T: Real>(&self, output: &[T], action: &mut [T]) {
        match self {
            Dist::Categorical { nvec } => {
                for ((logits, _), a) in components(nvec, output).zip(action.iter_mut()) {
                    let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
                    *a = T::of(best as f64);
                }
            }
            Dist::Gaussian { .. } => action.copy_from_slice(output),
        }
    }

    /// ln π(a|s), of the density for Gaussians.
    pub fn log_prob<T: Real>(&self, output: &[T], log_std: &[T], action: &[T]) -> T {
        match self {
            Dist::Categorical { nvec } => components(nvec, output)
                .zip(action)
                .map(|((logits, _), &a)| logits[index(a)] - log_sum_exp(logits))
                .sum(),
            Dist::Gaussian { .. } => gaussian(output, log_std, action)
                .map(|(mean, log_std, a)| {
                    let z = (a - mean) * (-log_std).exp();
                    -(z * z) / T::of(2.0) - log_std - T::of(HALF_LN_TAU)
                })
                .sum(),
        }
    }

    /// −E[ln π].
    pub fn entropy<T: Real>(&self, output: &[T], log_std: &[T]) -> T {
        match self {
            Dist::Categorical { nvec } => {
                let entropy_of = |logits: &[T]| {
                    let lse = log_sum_exp(logits);
                    -logits.iter().map(|&x| (x - lse).exp() * (x - lse)).sum::<T>()
                };
                components(nvec, output).map(|(logits, _)| entropy_of(logits)).sum()
            }
            Dist::Gaussian { .. } => log_std.iter().map(|&s| s + T::of(HALF_LN_TAU + 0.5)).sum(),
        }
    }

    /// KL(p ‖ q) = E_p[ln p − ln q], of the distribution in the first pair of rows from the one in the second.
    pub fn kl<T: Real>(&self, p: (&[T], &[T]), q: (&[T], &[T])) -> T {
        match self {
            Dist::Categorical { nvec } => components(nvec, p.0)
                .zip(components(nvec, q.0))
                .map(|((p, _), (q, _))| {
                    let (lse_p, lse_q) = (log_sum_exp(p), log_sum_exp(q));
                    p.iter().zip(q).map(|(&p, &q)| (p - lse_p).exp() * ((p - lse_p) - (q - lse_q))).sum::<T>()
                })
                .sum(),
            Dist::Gaussian { .. } => gaussian(p.0, p.1, q.0)
                .zip(q.1)
                .map(|((mean_p, log_std_p, mean_q), &log_std_q)| {
                    let two = T::of(2.0);
                    let (ratio, z) = ((two * (log_std_p - log_std_q)).exp(), (mean_p - mean_q) * (-log_std_q).exp());
                    log_std_q - log_std_p + (ratio + z * z) / two - T::of(0.5)
                })
                .sum(),
        }
    }

    /// Adds the gradient of `d_log_prob · ln π(a|s) + d_entropy · H` in the output row and in the log standard
    /// deviations.
    #[allow(clippy::too_many_arguments)]
    pub fn backward<T: Real>(
        &self,
        output: &[T],
        log_std: &[T],
        action: &[T],
        d_log_prob: T,
        d_entropy: T,
        d_output: &mut [T],
        d_log_std: &mut [T],
    ) {
        match self {
            Dist::Categorical { nvec } => {
                for ((logits, range), &a) in components(nvec, output).zip(action) {
                    let lse = log_sum_exp(logits);
                    let entropy = -logits.iter().map(|&x| (x - lse).exp() * (x - lse)).sum::<T>();
                    for (i, (d, &x)) in d_output[range].iter_mut().zip(logits).enumerate() {
                        let (p, log_p) = ((x - lse).exp(), x - lse);
                        let chosen = if i == index(a) { T::one() } else { T::zero() };
                        *d += d_log_prob * (chosen - p) - d_entropy * p * (log_p + entropy);
                    }
                }
            }
            Dist::Gaussian { .. } => {
                let rows = gaussian(output, log_std, action).zip(d_output).zip(d_log_std);
                for (((mean, log_std, a), d_mean), d_log_std) in rows {
                    let inverse_std = (-log_std).exp();
                    let z = (a - mean) * inverse_std;
                    *d_mean += d_log_prob * z * inverse_std;
                    *d_log_std += d_log_prob * (z * z - T::one()) + d_entropy;
                }
            }
        }
    }

    /// Adds `d_kl` times the gradient of KL(p ‖ q) in p's output row and log standard deviations; q is held fixed.
    pub fn kl_backward<T: Real>(
        &self,
        p: (&[T], &[T]),
        q: (&[T], &[T]),
        d_kl: T,
        d_output: &mut [T],
        d_log_std: &mut [T],
    ) {
        match self {
            Dist::Categorical { nvec } => {
                for ((p, range), (q, _)) in components(nvec, p.0).zip(components(nvec, q.0)) {
                    let (lse_p, lse_q) = (log_sum_exp(p), log_sum_exp(q));
                    let terms = || p.iter().zip(q).map(|(&p, &q)| ((p - lse_p).exp(), (p - lse_p) - (q - lse_q)));
                    let kl = terms().map(|(p, log_ratio)| p * log_ratio).sum::<T>();
                    let rows = d_output[range].iter_mut().zip(terms());
                    rows.for_each(|(d, (p, log_ratio))| *d += d_kl * p * (log_ratio - kl));
                }
            }
            Dist::Gaussian { .. } => {
                let rows = gaussian(p.0, p.1, q.0).zip(q.1).zip(d_output).zip(d_log_std);
                for ((((mean_p, log_std_p, mean_q), &log_std_q), d_mean), d_log_std) in rows {
                    let two = T::of(2.0);
                    *d_mean += d_kl * (mean_p - mean_q) * (-two * log_std_q).exp();
                    *d_log_std += d_kl * ((two * (log_std_p - log_std_q)).exp() - T::one());
                }
            }
        }
    }

    /// Adds `d_kl` times the gradient of KL(p ‖ q) in q's output row and log standard deviations; p is held fixed.
    pub fn forward_kl_backward<T: Real>(
        &self,
        p: (&[T], &[T]),
        q: (&[T], &[T]),
        d_kl: T,
        d_output: &mut [T],
        d_log_std: &mut [T],
    ) {
        match self {
            Dist::Categorical { nvec } => {
                for ((p, range), (q, _)) in components(nvec, p.0).zip(components(nvec, q.0)) {
                    let (lse_p, lse_q) = (log_sum_exp(p), log_sum_exp(q));
                    for ((d, &p), &q) in d_output[range].iter_mut().zip(p).zip(q) {
                        *d += d_kl * ((q - lse_q).exp() - (p - lse_p).exp());
                    }
                }
            }
            Dist::Gaussian { .. } => {
                let rows = gaussian(p.0, p.1, q.0).zip(q.1).zip(d_output).zip(d_log_std);
                for ((((mean_p, log_std_p, mean_q), &log_std_q), d_mean), d_log_std) in rows {
                    let two = T::of(2.0);
                    let (inverse_var, z) = ((-two * log_std_q).exp(), (mean_q - mean_p) * (-log_std_q).exp());
                    *d_mean += d_kl * (mean_q - mean_p) * inverse_var;
                    *d_log_std += d_kl * (T::one() - (two * (log_std_p - log_std_q)).exp() - z * z);
                }
            }
        }
    }

    /// Multiplies a tangent of the output row and of the log standard deviations by the Fisher information, in place: the
    /// Hessian of both KL(p ‖ q) and KL(q ‖ p) at p = q. Gaussian: 1/σ² for means and 2 for log standard deviations;
    /// categorical: diag(p) − p pᵀ.
    pub fn fisher_product<T: Real>(&self, output: &[T], log_std: &[T], v_output: &mut [T], v_log_std: &mut [T]) {
        match self {
            Dist::Categorical { nvec } => {
                for (logits, range) in components(nvec, output) {
                    let lse = log_sum_exp(logits);
                    let v = &mut v_output[range];
                    let mean = logits.iter().zip(&*v).map(|(&x, &v)| (x - lse).exp() * v).sum::<T>();
                    v.iter_mut().zip(logits).for_each(|(v, &x)| *v = (x - lse).exp() * (*v - mean));
                }
            }
            Dist::Gaussian { .. } => {
                v_output.iter_mut().zip(log_std).for_each(|(v, &s)| *v *= (T::of(-2.0) * s).exp());
                v_log_std.iter_mut().for_each(|v| *v *= T::of(2.0));
            }
        }
    }

    /// Multiplies a tangent of the output row and of the log standard deviations by the Hessian of ln π(a|s), in place.
    /// Gaussian, with z = (a − μ)/σ: [[−1/σ², −2z/σ], [−2z/σ, −2z²]] for each component's mean and log standard deviation;
    /// categorical: p pᵀ − diag(p), whatever the action.
    pub fn log_prob_hessian_product<T: Real>(
        &self,
        output: &[T],
        log_std: &[T],
        action: &[T],
        v_output: &mut [T],
        v_log_std: &mut [T],
    ) {
        match self {
            Dist::Categorical { .. } => {
                self.fisher_product(output, log_std, v_output, v_log_std);
                v_output.iter_mut().for_each(|v| *v = -*v);
            }
            Dist::Gaussian { .. } => {
                let rows = gaussian(output, log_std, action).zip(v_output).zip(v_log_std);
                for (((mean, log_std, a), v_mean), v_log_std) in rows {
                    let (two, inverse_std) = (T::of(2.0), (-log_std).exp());
                    let z = (a - mean) * inverse_std;
                    let (v, w) = (*v_mean * inverse_std, *v_log_std);
                    *v_mean = -inverse_std * (v + two * z * w);
                    *v_log_std = -two * z * (v + z * w);
                }
            }
        }
    }
}

/// The logits of each component, with their place in the row.
fn components<'a, T>(nvec: &'a [usize], row: &'a [T]) -> impl Iterator<Item = (&'a [T], std::ops::Range<usize>)> {
    nvec.iter().scan(0, |start, &n| {
        let range = *start..*start + n;
        *start = range.end;
        Some((&row[range.clone()], range))
    })
}

fn gaussian<'a, T: Real>(mean: &'a [T], log_std: &'a [T], x: &'a [T]) -> impl Iterator<Item = (T, T, T)> + 'a {
    mean.iter().zip(log_std).zip(x).map(|((&mean, &log_std), &x)| (mean, log_std, x))
}

fn index<T: Real>(action: T) -> usize {
    action.to_f64() as usize
}

fn log_sum_exp<T: Real>(logits: &[T]) -> T {
    let max = logits.iter().fold(T::neg_infinity(), |m, &x| m.max(x));
    max + logits.iter().map(|&x| (x - max).exp()).sum::<T>().ln()
}

/// Inverts the cumulative distribution at a uniform number.
fn draw<T: Real>(logits: &[T], rng: &mut NumpyRng) -> usize {
    let lse = log_sum_exp(logits);
    let mut left = rng.double();
    for (i, &x) in logits.iter().enumerate() {
        left -= (x - lse).exp().to_f64();
        if left < 0.0 {
            return i;
        }
    }
    logits.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAUSSIAN: Dist = Dist::Gaussian { dim: 1 };

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9 * b.abs().max(1.0), "{a} is not {b}");
    }

    fn kl_gaussian(mean: f64, std: f64, old_mean: f64, old_std: f64) -> f64 {
        GAUSSIAN.kl((&[mean], &[std.ln()]), (&[old_mean], &[old_std.ln()]))
    }

    #[test]
    fn kl_closed_forms_of_gaussians() {
        close(kl_gaussian(0.0, 1.0, 1.0, 1.0), 0.5);
        close(kl_gaussian(0.0, 1.0, 0.0, 2.0), 0.318_147_180_559_945_3);
        close(kl_gaussian(0.0, 2.0, 0.0, 1.0), 0.806_852_819_440_054_7);
        close(kl_gaussian(1.0, 0.5, 0.0, 1.0), 0.818_147_180_559_945_3);
        close(kl_gaussian(0.0, 1.0, 1.0, 0.5), 2.806_852_819_440_054_7);
        let (new, old) = ((&[0.3, -0.2][..], &[-0.5, 0.25][..]), (&[0.0, 0.1][..], &[0.0, -0.1][..]));
        assert!((Dist::Gaussian { dim: 2 }.kl::<f64>(new, old) - 0.440_779_198_4).abs() < 1e-10);
        assert!((Dist::Gaussian { dim: 2 }.kl::<f64>(old, new) - 0.607_050_128_1).abs() < 1e-10);
        assert_eq!(kl_gaussian(0.3, 0.7, 0.3, 0.7), 0.0);
    }

    #[test]
    fn kl_closed_forms_of_categoricals() {
        let dist = Dist::Categorical { nvec: vec![2] };
        let (even, skewed) = ([0.5f64.ln(), 0.5f64.ln()], [0.9f64.ln(), 0.1f64.ln()]);
        assert!((dist.kl((&even, &[]), (&skewed, &[])) - 0.510_825_623_8).abs() < 1e-10);
        assert!((dist.kl((&skewed, &[]), (&even, &[])) - 0.368_064_207_2).abs() < 1e-10);
    }

    #[test]
    fn log_prob_and_entropy_of_a_normal() {
        close(GAUSSIAN.log_prob(&[0.5], &[0.5f64.ln()], &[1.0]), -0.725_791_352_644_727_4);
        close(GAUSSIAN.log_prob(&[0.0], &[0.0], &[3.0]), -5.418_938_533_204_673);
        close(GAUSSIAN.entropy(&[0.0], &[0.0]), 1.418_938_533_204_672_7);
    }

    #[test]
    fn several_choices_add_up() {
        // Components with probabilities (1/4, 3/4) and (1/2, 1/2): ln p(1, 0) = ln 3/8.
        let dist = Dist::Categorical { nvec: vec![2, 2] };
        let row = [0.25f64.ln(), 0.75f64.ln(), 3.0, 3.0];
        close(dist.log_prob(&row, &[], &[1.0, 0.0]), 0.375f64.ln());
        close(dist.entropy(&row, &[]), -(0.25 * 0.25f64.ln() + 0.75 * 0.75f64.ln()) + 2f64.ln());
        let mut mode = [9.0; 2];
        dist.mode(&row, &mut mode);
        assert_eq!(mode, [1.0, 0.0]);
    }

    #[test]
    fn samples_follow_the_distribution() {
        let mut rng = NumpyRng::new(3);
        let dist = Dist::Categorical { nvec: vec![3] };
        let row = [0.2, 0.5, 0.3].map(f64::ln);
        let mut counts = [0.0f64; 3];
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for _ in 0..20_000 {
            let mut a = [0.0];
            let log_prob = dist.sample(&row, &[], &mut rng, &mut a);
            counts[a[0] as usize] += 1.0 / 20_000.0;
            close(log_prob, row[a[0] as usize]);
            GAUSSIAN.sample(&[2.0], &[0.5f64.ln()], &mut rng, &mut a);
            sum += a[0] / 20_000.0;
            squares += a[0] * a[0] / 20_000.0;
        }
        for (count, p) in counts.iter().zip([0.2, 0.5, 0.3]) {
            assert!((count - p).abs() < 0.015, "{counts:?}");
        }
        assert!((sum - 2.0).abs() < 0.015 && (squares - 4.25).abs() < 0.06, "{sum} {squares}");
    }

    #[test]
    fn hessians_agree_with_differences_of_gradients() {
        let cases = [
            (Dist::Gaussian { dim: 2 }, vec![0.3, -0.4], vec![-0.2, 0.1], vec![1.0, -0.5]),
            (Dist::Categorical { nvec: vec![3, 2] }, vec![0.1, 0.7, -0.3, 0.2, 0.4], Vec::<f64>::new(), vec![2.0, 0.0]),
        ];
        for (dist, output, log_std, action) in cases {
            let v: Vec<f64> = (0..output.len()).map(|i| 0.7 - 0.4 * i as f64).collect();
            let w: Vec<f64> = (0..log_std.len()).map(|i| 0.3 + 0.5 * i as f64).collect();
            let gradient = |step: f64| {
                let moved = |x: &[f64], v: &[f64]| x.iter().zip(v).map(|(x, v)| x + step * v).collect::<Vec<f64>>();
                let (mut d_output, mut d_log_std) = (vec![0.0; v.len()], vec![0.0; w.len()]);
                let (output, log_std) = (moved(&output, &v), moved(&log_std, &w));
                dist.backward(&output, &log_std, &action, 1.0, 0.0, &mut d_output, &mut d_log_std);
                [d_output, d_log_std].concat()
            };
            let expected = gradient(1e-5).into_iter().zip(gradient(-1e-5)).map(|(up, down)| (up - down) / 2e-5);
            let (mut v, mut w) = (v.clone(), w.clone());
            dist.log_prob_hessian_product(&output, &log_std, &action, &mut v, &mut w);
            let pairs = v.iter().chain(&w).zip(expected);
            pairs.for_each(|(product, expected)| assert!((product - expected).abs() < 1e-8, "{product} {expected}"));
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        let cases = [
            (Dist::Gaussian { dim: 2 }, vec![0.3, -0.4], vec![-0.2, 0.1], vec![1.0, -0.5]),
            (Dist::Categorical { nvec: vec![3, 2] }, vec![0.1, 0.7, -0.3, 0.2, 0.4], Vec::<f64>::new(), vec![2.0, 0.0]),
        ];
        for (dist, output, log_std, action) in cases {
            let value = |output: &[f64], log_std: &[f64]| {
                1.5 * dist.log_prob(output, log_std, &action) - 0.7 * dist.entropy(output, log_std)
            };
            let (mut d_output, mut d_log_std) = (vec![0.0; output.len()], vec![0.0; log_std.len()]);
            dist.backward(&output, &log_std, &action, 1.5, -0.7, &mut d_output, &mut d_log_std);
            let slope = |change: &dyn Fn(f64) -> f64| (change(1e-5) - change(-1e-5)) / 2e-5;
            for i in 0..output.len() {
                let moved = |h: f64| {
                    let mut x = output.clone();
                    x[i] += h;
                    value(&x, &log_std)
                };
                assert!((d_output[i] - slope(&moved)).abs() < 1e-8);
            }
            for i in 0..log_std.len() {
                let moved = |h: f64| {
                    let mut x = log_std.clone();
                    x[i] += h;
                    value(&output, &x)
                };
                assert!((d_log_std[i] - slope(&moved)).abs() < 1e-8);
            }
        }
    }
}
