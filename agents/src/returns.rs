//! Targets from rewards: generalised advantage estimation.

/// How the steps of a trajectory are joined.
///
/// A step whose successor's value does not stand in the next row says so and brings that value: there is no way to
/// forget the bootstrap at a time limit, or to take it from the first observation of the next episode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// The next row is the successor.
    Open,
    /// The successor is absorbing and worth nothing.
    Terminated,
    /// The trajectory is cut here, by a time limit or by the end of the rollout; the successor is worth this much.
    Cut(f32),
}

/// Generalised advantage estimation (Schulman et al. 2016, Eq. 16) over one trajectory, latest step last:
/// δ_t = r_t + γ V(s_{t+1}) − V(s_t) and A_t = δ_t + γλ A_{t+1}, where an end cuts the recursion.
///
/// All slices are `[T]`, and the last end is not `Open`. Returns for the value function are `advantage + value`.
pub fn gae(rewards: &[f32], values: &[f32], ends: &[End], gamma: f32, gae_lambda: f32, advantages: &mut [f32]) {
    assert!(!matches!(ends.last(), Some(End::Open)), "the last step needs its successor's value");
    let mut later = 0.0;
    for t in (0..rewards.len()).rev() {
        let (next_value, carried) = match ends[t] {
            End::Open => (values[t + 1], later),
            End::Terminated => (0.0, 0.0),
            End::Cut(value) => (value, 0.0),
        };
        later = rewards[t] + gamma * next_value - values[t] + gamma * gae_lambda * carried;
        advantages[t] = later;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gamma 0.99, lambda 0.95, rewards 1, values 1/2, the last successor worth 1/2.
    fn advantages(middle: End) -> [f32; 3] {
        let mut out = [0.0; 3];
        gae(&[1.0; 3], &[0.5; 3], &[End::Open, middle, End::Cut(0.5)], 0.99, 0.95, &mut out);
        out
    }

    fn close(a: [f32; 3], b: [f32; 3]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} is not {b:?}");
    }

    #[test]
    fn an_episode_that_goes_on() {
        close(advantages(End::Open), [2.810_915, 1.930_797_5, 0.995]);
    }

    #[test]
    fn termination_is_worth_nothing_and_cuts() {
        close(advantages(End::Terminated), [1.465_25, 0.5, 0.995]);
    }

    #[test]
    fn truncation_bootstraps_from_its_own_successor_and_cuts() {
        close(advantages(End::Cut(2.0)), [3.327_44, 2.48, 0.995]);
    }

    #[test]
    fn truncation_bootstraps_and_termination_does_not() {
        // gamma = 1/2, lambda = 1, rewards [1, 1], values 0, the state cut off worth 10:
        // truncated A1 = 1 + 10/2 = 6, A0 = 1 + 6/2 = 4;  terminated A1 = 1, A0 = 1 + 1/2.
        let mut out = [0.0; 2];
        gae(&[1.0; 2], &[0.0; 2], &[End::Open, End::Cut(10.0)], 0.5, 1.0, &mut out);
        assert_eq!(out, [4.0, 6.0]);
        gae(&[1.0; 2], &[0.0; 2], &[End::Open, End::Terminated], 0.5, 1.0, &mut out);
        assert_eq!(out, [1.5, 1.0]);
    }
}
