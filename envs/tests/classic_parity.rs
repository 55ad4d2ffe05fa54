//! Native classic control gives the bits of Gymnasium 1.4.0: observations, rewards and flags.

mod parity;

use parity::{Ends, compare};

#[test]
fn cart_pole() {
    let ends = compare("CartPole-v1", "", 0..20, 1000, 1);
    assert!(ends.terminated > 500, "{ends:?}");
    compare("CartPole-v1", "sutton_barto_reward = true", 0..3, 300, 1);
}

#[test]
fn pendulum() {
    assert_eq!(compare("Pendulum-v1", "", 0..20, 1000, 1), Ends { terminated: 0, truncated: 100 });
    compare("Pendulum-v1", "g = 9.81", 0..3, 300, 1);
}

#[test]
fn mountain_car_continuous() {
    compare("MountainCarContinuous-v0", "", 0..20, 1000, 1);
    // Pushes held for 40 steps climb the hill now and then, and hit the left wall and the speed limit.
    let ends = compare("MountainCarContinuous-v0", "", 0..20, 1000, 40);
    assert!(ends.terminated > 20, "{ends:?}");
    let ends = compare("MountainCarContinuous-v0", "goal_velocity = 0.04", 0..10, 1000, 40);
    assert!(ends.terminated > 0, "{ends:?}");
}

#[test]
fn acrobot() {
    let ends = compare("Acrobot-v1", "", 0..20, 1000, 1);
    assert_eq!(ends.truncated, 40, "{ends:?}");
    // Torques held for 6 steps swing it up now and then.
    let ends = compare("Acrobot-v1", "", 0..20, 1000, 6);
    assert!(ends.terminated > 0, "{ends:?}");
}
