//! The native MuJoCo environments give the bits of Gymnasium 1.4.0: observations, rewards, flags and info.
//!
//! For each environment 20 seeds of 1,000 steps with restarts, actions up to 1.3 times the bounds; then settings other than
//! the default ones.

mod parity;

use parity::{Ends, compare};

/// The full comparison, and a short one with other arguments.
fn check(id: &str, kwargs: &str) -> Ends {
    compare(id, kwargs, 0..2, 300, 3);
    compare(id, "", 0..20, 1000, 1)
}

#[test]
fn half_cheetah() {
    let kwargs = "forward_reward_weight = 2
        ctrl_cost_weight = 0.3
        reset_noise_scale = 0.05
        frame_skip = 3
        exclude_current_positions_from_observation = false";
    assert_eq!(check("HalfCheetah-v5", kwargs), Ends { terminated: 0, truncated: 20 });
}

#[test]
fn hopper() {
    let kwargs = "healthy_reward = -0.5
        healthy_state_range = [-5.0, 5]
        healthy_z_range = [0.5, 50]
        healthy_angle_range = [-0.4, 0.3]
        exclude_current_positions_from_observation = false";
    assert!(check("Hopper-v5", kwargs).terminated > 500);
    let ends = compare("Hopper-v5", "terminate_when_unhealthy = false", 0..2, 1000, 1);
    assert_eq!(ends, Ends { terminated: 0, truncated: 2 });
}

#[test]
fn walker2d() {
    let kwargs = "healthy_z_range = [0.5, 1.9]
        healthy_angle_range = [-0.5, 0.5]
        ctrl_cost_weight = 0.01
        reset_noise_scale = 0.02
        exclude_current_positions_from_observation = false";
    assert!(check("Walker2d-v5", kwargs).terminated > 500);
}

#[test]
fn ant() {
    let kwargs = "main_body = 'aux_1'
        contact_force_range = [-0.5, 2.0]
        contact_cost_weight = 0.01
        healthy_z_range = [0.3, 0.9]
        exclude_current_positions_from_observation = false";
    assert!(check("Ant-v5", kwargs).terminated > 0);
    compare("Ant-v5", "include_cfrc_ext_in_observation = false\nmain_body = 3", 0..2, 300, 1);
}

#[test]
fn humanoid() {
    let kwargs = "contact_cost_weight = 1e-4
        contact_cost_range = [0.1, 0.2]
        forward_reward_weight = 1
        healthy_z_range = [0.8, 2.5]
        exclude_current_positions_from_observation = false
        include_cvel_in_observation = false
        include_cfrc_ext_in_observation = false";
    assert!(check("Humanoid-v5", kwargs).terminated > 500);
}

#[test]
fn humanoid_standup() {
    let kwargs = "impact_cost_weight = 1e-3
        impact_cost_range = [1, 20]
        uph_cost_weight = 7
        include_cinert_in_observation = false
        include_qfrc_actuator_in_observation = false";
    assert_eq!(check("HumanoidStandup-v5", kwargs), Ends { terminated: 0, truncated: 20 });
}

#[test]
fn swimmer() {
    let kwargs = "ctrl_cost_weight = 0.1
        exclude_current_positions_from_observation = false";
    assert_eq!(check("Swimmer-v5", kwargs), Ends { terminated: 0, truncated: 20 });
}

#[test]
fn reacher() {
    let kwargs = "reward_dist_weight = 0.7
        reward_control_weight = 0.1";
    assert_eq!(check("Reacher-v5", kwargs), Ends { terminated: 0, truncated: 400 });
}

#[test]
fn pusher() {
    let kwargs = "reward_near_weight = 0.3
        reward_dist_weight = 2
        reward_control_weight = 0.7";
    assert_eq!(check("Pusher-v5", kwargs), Ends { terminated: 0, truncated: 200 });
}

#[test]
fn inverted_pendulum() {
    assert!(check("InvertedPendulum-v5", "reset_noise_scale = 0.1").terminated > 500);
}

#[test]
fn inverted_double_pendulum() {
    let kwargs = "healthy_reward = 3
        reset_noise_scale = 0.05";
    assert!(check("InvertedDoublePendulum-v5", kwargs).terminated > 500);
}
