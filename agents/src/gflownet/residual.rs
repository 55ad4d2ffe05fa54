//! One vector that contains every balance objective.
//!
//! Let C₀ = 0 and C_{t+1} = C_t + ln P_F(s_{t+1}|s_t) − ln P_B(s_t|s_{t+1}) along a trajectory s₀ … s_T, and
//!
//! ```text
//! u_t = ln F(s_t) − C_t    (t < T),          u_T = ln R(x) − C_T
//! u_t = ln F̃(s_t) − E(s_t) − C_t  (t < T),  forward-looking (Pan et al. 2023): F = e^−E F̃
//! ```
//!
//! The residual of detailed balance over the stretch i … j is u_i − u_j, so that all losses are a few lines on `u`.
//!
//! *The boundary of the forward-looking flow*: ln F̃(x) = 0 on every terminal state, which is why u_T has no flow in it. The authors'
//! released code leaves it free, and then any g(x) = F̃(x) fits perfectly with p(x) proportional to R(x) g(x). There is no option
//! for that here.

/// Writes `u` of a trajectory.
///
/// `log_flow` and `energy` are those of the states before the last one, and of the last one too where the trajectory was cut
/// short of its terminal state (`log_reward` is then none); `energy` is empty unless the flow looks forward. `log_pf` and
/// `log_pb` are `[T]`.
pub fn residuals(
    log_flow: &[f64],
    energy: &[f64],
    log_pf: &[f64],
    log_pb: &[f64],
    log_reward: Option<f64>,
    u: &mut Vec<f64>,
) {
    u.clear();
    let mut c = 0.0;
    for (t, flow) in log_flow.iter().enumerate() {
        u.push(flow - energy.get(t).unwrap_or(&0.0) - c);
        if t < log_pf.len() {
            c += log_pf[t] - log_pb[t];
        }
    }
    u.extend(log_reward.map(|log_reward| log_reward - c));
}

/// ζ = ln R(x) − C_T = ln R(x) + Σ ln P_B − Σ ln P_F: ln Z where the policies are exact, its lower bound in the mean otherwise.
pub fn zeta(log_pf: &[f64], log_pb: &[f64], log_reward: f64) -> f64 {
    log_reward + log_pb.iter().sum::<f64>() - log_pf.iter().sum::<f64>()
}

/// From the gradient in `u` to that in ln P_F, `[T]`; in ln P_B it is minus that, and in ln F(s_t) it is `d_u[t]`.
pub fn pull_back(d_u: &[f64], d_log_pf: &mut [f64]) {
    let mut later = 0.0;
    for (t, d) in d_log_pf.iter_mut().enumerate().rev() {
        later += d_u[t + 1];
        *d = -later;
    }
}

/// Detailed balance (Bengio et al. 2021, arXiv:2111.09266): Σ (u_t − u_{t+1})², times `scale`. Adds its gradient to `d_u`.
pub fn detailed_balance(u: &[f64], scale: f64, d_u: &mut [f64]) -> f64 {
    let mut loss = 0.0;
    for t in 0..u.len() - 1 {
        let delta = u[t] - u[t + 1];
        loss += scale * delta * delta;
        d_u[t] += 2.0 * scale * delta;
        d_u[t + 1] -= 2.0 * scale * delta;
    }
    loss
}

/// Trajectory balance (Malkin et al. 2022): (u₀ − u_T)², with ln Z as the flow of s₀, times `scale`. Adds its gradient to `d_u`.
pub fn trajectory_balance(u: &[f64], scale: f64, d_u: &mut [f64]) -> f64 {
    let last = u.len() - 1;
    let delta = u[0] - u[last];
    d_u[0] += 2.0 * scale * delta;
    d_u[last] -= 2.0 * scale * delta;
    scale * delta * delta
}

/// Sub-trajectory balance (Madan et al. 2023): Σ_{i<j} λ^(j−i) (u_i − u_j)² / Σ_{i<j} λ^(j−i), times `scale`. Adds its gradient to
/// `d_u`.
pub fn sub_trajectory_balance(u: &[f64], lambda: f64, scale: f64, d_u: &mut [f64]) -> f64 {
    let last = u.len() - 1;
    // λ^length relative to the largest of them: λ above 1 and long trajectories overflow otherwise.
    let longest = if lambda > 1.0 { last } else { 1 };
    let weight = |length: usize| lambda.powi(length as i32 - longest as i32);
    let total: f64 = (1..=last).map(|length| (last + 1 - length) as f64 * weight(length)).sum();
    let mut loss = 0.0;
    for length in 1..=last {
        let w = scale * weight(length) / total;
        for i in 0..=last - length {
            let delta = u[i] - u[i + length];
            loss += w * delta * delta;
            d_u[i] += 2.0 * w * delta;
            d_u[i + length] -= 2.0 * w * delta;
        }
    }
    loss
}

/// Log-partition variance (Zhang et al. 2023, arXiv:2302.05446): the variance of ζ over the batch, and its gradient in ζ.
/// Differentiating the mean too changes nothing, since Σ (ζ − mean) = 0.
pub fn log_partition_variance(zeta: &[f64], d_zeta: &mut [f64]) -> f64 {
    let n = zeta.len() as f64;
    let mean = zeta.iter().sum::<f64>() / n;
    let mut loss = 0.0;
    for (zeta, d) in zeta.iter().zip(d_zeta) {
        loss += (zeta - mean).powi(2) / n;
        *d = 2.0 * (zeta - mean) / n;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u(values: &[f64]) -> (Vec<f64>, Vec<f64>) {
        (values.to_vec(), vec![0.0; values.len()])
    }

    #[test]
    fn the_residual_vector_by_hand() {
        let mut complete = Vec::new();
        // C = 0, 1 − 3 = −2, −2 + 2 − 5 = −5.
        residuals(&[10.0, 20.0], &[], &[1.0, 2.0], &[3.0, 5.0], Some(7.0), &mut complete);
        assert_eq!(complete, [10.0, 22.0, 12.0]);
        let mut forward_looking = Vec::new();
        residuals(&[10.0, 20.0], &[0.5, 0.25], &[1.0, 2.0], &[3.0, 5.0], Some(7.0), &mut forward_looking);
        assert_eq!(forward_looking, [9.5, 21.75, 12.0]);
        let mut cut = Vec::new();
        residuals(&[10.0, 20.0, 30.0], &[0.5, 0.25, 1.0], &[1.0, 2.0], &[3.0, 5.0], None, &mut cut);
        assert_eq!(cut, [9.5, 21.75, 34.0]);
        assert_eq!(zeta(&[1.0, 2.0], &[3.0, 5.0], 7.0), 12.0);
    }

    #[test]
    fn losses_by_hand() {
        // Differences 1, 3, and over both 4.
        let (u, mut d) = u(&[5.0, 4.0, 1.0]);
        assert_eq!(detailed_balance(&u, 0.5, &mut d), 5.0);
        assert_eq!(d, [1.0, 2.0, -3.0]);
        d.fill(0.0);
        assert_eq!(trajectory_balance(&u, 1.0, &mut d), 16.0);
        assert_eq!(d, [8.0, 0.0, -8.0]);
        d.fill(0.0);
        // λ = 1/2: (½ 1 + ½ 9 + ¼ 16) / (½ + ½ + ¼) = 9 / 1.25.
        assert!((sub_trajectory_balance(&u, 0.5, 1.0, &mut d) - 7.2).abs() < 1e-14);
        assert_eq!(log_partition_variance(&[1.0, 3.0], &mut d[..2]), 1.0);
        assert_eq!(d[..2], [-1.0, 1.0]);
    }

    #[test]
    fn lambda_goes_from_detailed_to_trajectory_balance() {
        let (u, mut d) = u(&[5.0, 4.0, 1.0, 2.5]);
        let at = |lambda, d: &mut [f64]| sub_trajectory_balance(&u, lambda, 1.0, d);
        assert!((at(1e-9, &mut d) - detailed_balance(&u, 1.0 / 3.0, &mut [0.0; 4])).abs() < 1e-7);
        assert!((at(1e9, &mut d) - trajectory_balance(&u, 1.0, &mut [0.0; 4])).abs() < 1e-7);
        // 1.9^1200 is no double.
        assert!(sub_trajectory_balance(&vec![0.5; 1200], 1.9, 1.0, &mut vec![0.0; 1200]).abs() < 1e-20);
    }

    #[test]
    fn gradients_are_those_of_small_changes() {
        let base = [5.0, 4.0, 1.0, 2.5];
        type Loss = fn(&[f64], &mut [f64]) -> f64;
        let losses: [Loss; 4] = [
            |u, d| detailed_balance(u, 0.3, d),
            |u, d| trajectory_balance(u, 0.3, d),
            |u, d| sub_trajectory_balance(u, 1.3, 0.3, d),
            log_partition_variance,
        ];
        for loss in losses {
            let mut d = [0.0; 4];
            loss(&base, &mut d);
            for i in 0..4 {
                let at = |h: f64| {
                    let mut u = base;
                    u[i] += h;
                    loss(&u, &mut [0.0; 4])
                };
                assert!(((at(1e-5) - at(-1e-5)) / 2e-5 - d[i]).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn policies_take_what_comes_after_them() {
        let mut d = [0.0; 2];
        pull_back(&[7.0, 1.0, 2.0], &mut d);
        assert_eq!(d, [-3.0, -2.0]);
    }
}
