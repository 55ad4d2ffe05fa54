//! The MuJoCo v5 environments, equal to Gymnasium 1.4.0 bit for bit when both load the same `libmujoco`, one task per file.
//!
//! What they share: [`Simulation`](simulation::Simulation) is Gymnasium's `MujocoEnv` on Gymnasium's own model files, and
//! [`Mujoco`](task::Mujoco) runs it under the [`Rules`](task::Rules) of a task. Every argument of Gymnasium's constructors is taken under the same name; those that concern drawing are
//! accepted and change nothing, since native environments do not draw.
//!
//! Two facts to keep in mind when reading a task. The control cost is a `float32` number where Gymnasium computes it from the
//! `float32` action. And after a step `qpos` and `qvel` are new, but whatever MuJoCo derives from them (`xpos`, `cvel`, …)
//! still belongs to the last evaluation of forces before the last integration, as in Gymnasium.

mod ant;
mod half_cheetah;
mod hopper;
mod humanoid;
mod humanoid_body;
mod humanoid_standup;
mod inverted_double_pendulum;
mod inverted_pendulum;
mod logging;
mod pusher;
mod reacher;
mod simulation;
mod swimmer;
mod task;
mod walker2d;

use crate::{EnvEntry, arithmetic::sum};

/// The MuJoCo environments.
pub(crate) const ENTRIES: [EnvEntry; 11] = [
    ant::ENTRY,
    half_cheetah::ENTRY,
    hopper::ENTRY,
    humanoid::ENTRY,
    humanoid_standup::ENTRY,
    inverted_double_pendulum::ENTRY,
    inverted_pendulum::ENTRY,
    pusher::ENTRY,
    reacher::ENTRY,
    swimmer::ENTRY,
    walker2d::ENTRY,
];

/// `weight * np.sum(np.square(action))` of a `float32` action: the weight, a Python number, becomes `float32` too.
fn control_cost(weight: f64, action: &[f32]) -> f64 {
    f64::from(weight as f32 * sum(action.len(), |i| action[i] * action[i]))
}

/// Strictly within a range; NaN is not.
fn within(x: f64, [low, high]: [f64; 2]) -> bool {
    low < x && x < high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_cost_is_rounded_to_single_precision() {
        // numpy: 0.1 * np.sum(np.square(np.array([0.3, -0.7], np.float32))) = np.float32(0.058)
        assert_eq!(control_cost(0.1, &[0.3, -0.7]), f64::from(0.1f32 * (0.3f32 * 0.3 + 0.7 * 0.7)));
        assert_ne!(control_cost(0.1, &[0.3, -0.7]), 0.1 * (0.3 * 0.3 + 0.7 * 0.7));
    }
}
