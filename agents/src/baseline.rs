//! Baselines of whole trajectories: predictions of the return to go, fitted on earlier iterations' trajectories alone, so that
//! an estimate less its baseline keeps its mean.

use serde::{Deserialize, Serialize};

use crate::learner::{Array, LearnError, Snapshot};
use crate::score::Trajectory;

/// What predicts the return to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaselineKind {
    /// Nothing.
    None,
    /// A number for every step of an episode: 0.8 of what it was and 0.2 of the newest mean.
    Time,
    /// A linear function of features of observation and time, fitted anew every iteration (Duan et al. 2016).
    Linear,
}

/// A baseline with its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    kind: BaselineKind,
    /// A prediction for every step and then, for every step, 1 where it was seen; or the coefficients of the features.
    numbers: Vec<f64>,
}

/// Weight of the newest mean.
const NEW: f64 = 0.2;

/// Added to the diagonal of the normal equations.
const RIDGE: f64 = 1e-5;

impl Baseline {
    /// Predicts 0 until it is fitted. Episodes have at most `horizon` steps.
    pub fn new(kind: BaselineKind, obs_dim: usize, horizon: usize) -> Baseline {
        let len = match kind {
            BaselineKind::None => 0,
            BaselineKind::Time => 2 * horizon,
            BaselineKind::Linear => 2 * obs_dim + 4,
        };
        Baseline { kind, numbers: vec![0.0; len] }
    }

    /// The prediction at every step, `[H]`.
    pub fn predict(&self, trajectory: &Trajectory<f32>) -> Vec<f64> {
        match self.kind {
            BaselineKind::None => vec![0.0; trajectory.len()],
            BaselineKind::Time => self.numbers[..trajectory.len()].to_vec(),
            BaselineKind::Linear => {
                let mut features = vec![0.0; self.numbers.len()];
                let predicted = (0..trajectory.len()).map(|t| {
                    write_features(trajectory, t, &mut features);
                    features.iter().zip(&self.numbers).map(|(x, c)| x * c).sum()
                });
                predicted.collect()
            }
        }
    }

    /// Learns from trajectories and their returns to go.
    pub fn fit(&mut self, trajectories: &[Trajectory<f32>], returns: &[Vec<f64>]) {
        match self.kind {
            BaselineKind::None => {}
            BaselineKind::Time => self.fit_steps(returns),
            BaselineKind::Linear => self.fit_features(trajectories, returns),
        }
    }

    fn fit_steps(&mut self, returns: &[Vec<f64>]) {
        let horizon = self.numbers.len() / 2;
        let (predictions, seen) = self.numbers.split_at_mut(horizon);
        for (t, (prediction, seen)) in predictions.iter_mut().zip(seen).enumerate() {
            let there = || returns.iter().filter_map(|returns| returns.get(t));
            let count = there().count();
            if count > 0 {
                let mean = there().sum::<f64>() / count as f64;
                let weight = if *seen == 0.0 { 1.0 } else { NEW };
                *prediction += weight * (mean - *prediction);
                *seen = 1.0;
            }
        }
    }

    /// Least squares by the normal equations; where rounding makes them singular, with ten times the ridge, five times over.
    fn fit_features(&mut self, trajectories: &[Trajectory<f32>], returns: &[Vec<f64>]) {
        let n = self.numbers.len();
        let (mut gram, mut moments, mut x) = (vec![0.0; n * n], vec![0.0; n], vec![0.0; n]);
        for (trajectory, returns) in trajectories.iter().zip(returns) {
            for (t, y) in returns.iter().enumerate() {
                write_features(trajectory, t, &mut x);
                for i in 0..n {
                    moments[i] += x[i] * y;
                    let row = &mut gram[i * n..i * n + i + 1];
                    row.iter_mut().zip(&x).for_each(|(g, &x_j)| *g += x[i] * x_j);
                }
            }
        }
        let solved = (0..6).find_map(|k| solve(&gram, &moments, RIDGE * 10f64.powi(k)));
        if let Some(coefficients) = solved {
            self.numbers = coefficients;
        }
    }

    /// Puts the numbers into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("baseline", Array::F64(self.numbers.clone()));
    }

    /// Takes them from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f64_into("baseline", &mut self.numbers)
    }
}

/// Observations within ±10, their squares, t/100 with its square and cube, and 1.
fn write_features(trajectory: &Trajectory<f32>, t: usize, out: &mut [f64]) {
    let obs_dim = (out.len() - 4) / 2;
    for (i, &x) in trajectory.obs[t * obs_dim..(t + 1) * obs_dim].iter().enumerate() {
        let x = f64::from(x).clamp(-10.0, 10.0);
        (out[i], out[obs_dim + i]) = (x, x * x);
    }
    let time = t as f64 / 100.0;
    out[2 * obs_dim..].copy_from_slice(&[time, time * time, time * time * time, 1.0]);
}

/// Solves (G + ridge I) c = m by Cholesky's decomposition; of G, the lower triangle is read. `None` where G + ridge I is not
/// positive to rounding.
fn solve(gram: &[f64], moments: &[f64], ridge: f64) -> Option<Vec<f64>> {
    let n = moments.len();
    let mut l = gram.to_vec();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = l[i * n + j] - sum + if i == j { ridge } else { 0.0 };
            if i == j && !(rest > 0.0 && rest.is_finite()) {
                return None;
            }
            l[i * n + j] = if i == j { rest.sqrt() } else { rest / l[j * n + j] };
        }
    }
    let mut c = moments.to_vec();
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| l[i * n + k] * c[k]).sum();
        c[i] = (c[i] - sum) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| l[k * n + i] * c[k]).sum();
        c[i] = (c[i] - sum) / l[i * n + i];
    }
    c.iter().all(|c| c.is_finite()).then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trajectory(obs: &[f32]) -> Trajectory<f32> {
        Trajectory { obs: obs.to_vec(), reward: vec![0.0; obs.len()], ..Default::default() }
    }

    #[test]
    fn a_number_for_every_step_follows_the_means() {
        let mut baseline = Baseline::new(BaselineKind::Time, 1, 3);
        let two = [trajectory(&[0.0, 0.0]), trajectory(&[0.0])];
        assert_eq!(baseline.predict(&two[0]), [0.0, 0.0]);
        baseline.fit(&two, &[vec![3.0, 4.0], vec![5.0]]);
        assert_eq!(baseline.predict(&two[0]), [4.0, 4.0]);
        // 0.8 · 4 + 0.2 · 9; the second step was not seen again, the third is seen first.
        baseline.fit(&two[1..], &[vec![9.0]]);
        assert_eq!(baseline.predict(&two[0]), [5.0, 4.0]);
        baseline.fit(&two, &[vec![5.0, 4.0, 7.0]]);
        assert_eq!(baseline.predict(&trajectory(&[0.0; 3])), [5.0, 4.0, 7.0]);
    }

    #[test]
    fn features_fit_what_is_linear_in_them() {
        // Returns 2 − 3s + s² + t/50 at s = sin t; beyond ±10 an observation counts as ±10.
        let obs: Vec<f32> = (0..60).map(|t| (t as f32).sin()).chain([12.0, -40.0]).collect();
        let value = |t: usize, s: f32| {
            let s = f64::from(s).clamp(-10.0, 10.0);
            2.0 - 3.0 * s + s * s + t as f64 / 50.0
        };
        let returns: Vec<f64> = obs.iter().enumerate().map(|(t, &s)| value(t, s)).collect();
        let mut baseline = Baseline::new(BaselineKind::Linear, 1, 100);
        assert_eq!(baseline.predict(&trajectory(&obs)), vec![0.0; obs.len()]);
        baseline.fit(&[trajectory(&obs)], std::slice::from_ref(&returns));
        for (predicted, returns) in baseline.predict(&trajectory(&obs)).iter().zip(&returns) {
            assert!((predicted - returns).abs() < 1e-3, "{predicted} {returns}");
        }
        // Observations that never move leave equations that the ridge alone makes solvable.
        baseline.fit(&[trajectory(&[1.0; 20])], &[vec![5.0; 20]]);
        assert!((baseline.predict(&trajectory(&[1.0]))[0] - 5.0).abs() < 1e-2);
    }
}
