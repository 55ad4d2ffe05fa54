//! Every learner finds the known value and the known best action of the probe environments.

mod common;

use bregman_agents::learner::{Budget, Learner};
use bregman_agents::ppo::{Ppo, PpoConfig};
use common::setup;

/// A small PPO without normalisers, after `iterations`.
fn trained(id: &str, gamma: f64, iterations: usize, change: fn(&mut PpoConfig)) -> Ppo {
    let mut config = PpoConfig {
        num_steps: 64,
        batch_size: 32,
        learning_rate: 3e-3,
        gamma,
        normalize_obs: false,
        normalize_reward: false,
        max_grad_norm: None,
        anneal_lr: true,
        ..Default::default()
    };
    change(&mut config);
    let mut setup = setup(id);
    setup.budget = Budget::EnvSteps(2 * 64 * iterations as u64);
    let mut ppo = Ppo::new(config, &setup).expect("the settings fit");
    for _ in 0..iterations {
        ppo.step().expect("finite numbers");
    }
    ppo
}

fn value(ppo: &Ppo, obs: f64, expected: f32) {
    let value = ppo.model().value_of(&[obs]);
    assert!((value - expected).abs() < 0.05 * expected.abs().max(1.0), "V({obs}) = {value}, not {expected}");
}

#[test]
fn ppo_learns_a_constant_value() {
    value(&trained("constant", 0.99, 20, |_| ()), 0.0, 1.0);
}

#[test]
fn ppo_tells_observations_apart() {
    let ppo = trained("observed", 0.99, 20, |_| ());
    value(&ppo, -1.0, -1.0);
    value(&ppo, 1.0, 1.0);
}

#[test]
fn ppo_discounts() {
    let ppo = trained("delayed", 0.9, 30, |_| ());
    value(&ppo, 0.0, 0.9);
    value(&ppo, 1.0, 1.0);
}

#[test]
fn ppo_prefers_the_better_action() {
    let ppo = trained("action", 0.99, 20, |_| ());
    assert_eq!(ppo.model().best_action(&[0.0]), [1.0]);
    value(&ppo, 0.0, 1.0);
}

#[test]
fn ppo_chooses_by_observation() {
    let ppo = trained("product", 0.99, 30, |_| ());
    assert_eq!(ppo.model().best_action(&[-1.0]), [0.0]);
    assert_eq!(ppo.model().best_action(&[1.0]), [1.0]);
}

#[test]
fn ppo_finds_a_real_action_for_each_observation() {
    let ppo = trained("target", 0.99, 50, |_| ());
    for obs in [-1.0, 1.0] {
        let action = ppo.model().best_action(&[obs])[0];
        assert!((f64::from(action) - obs).abs() < 0.15, "{action} at {obs}");
    }
}

#[test]
fn ppo_finds_the_top_of_a_quadratic() {
    let action = trained("bandit", 0.99, 30, |_| ()).model().best_action(&[0.0])[0];
    assert!((action - 1.0).abs() < 0.1, "{action}");
}

#[test]
fn one_network_for_both_learns_too() {
    let ppo = trained("product", 0.99, 30, |config| config.separate_networks = false);
    assert_eq!(ppo.model().best_action(&[-1.0]), [0.0]);
    assert_eq!(ppo.model().best_action(&[1.0]), [1.0]);
}

#[test]
fn a_deviation_from_the_network_learns_too() {
    // On whole rollouts: from quarters of them the deviation falls faster than the mean arrives, on most seeds.
    let change = |config: &mut PpoConfig| (config.state_dependent_std, config.batch_size) = (true, 128);
    let action = trained("bandit", 0.99, 60, change).model().best_action(&[0.0])[0];
    assert!((action - 1.0).abs() < 0.1, "{action}");
}

#[test]
fn a_time_limit_does_not_end_the_world() {
    // Reward 1 for ever is worth 1/(1 − 0.9) = 10, although every episode is cut after 5 steps.
    value(&trained("endless", 0.9, 120, |_| ()), 0.0, 10.0);
    // Counted as an end, the same state is worth the mean over its place in the episode of (1 − 0.9^left)/(1 − 0.9).
    let mean = (1..=5).map(|left| (1.0 - 0.9f32.powi(left)) / 0.1).sum::<f32>() / 5.0;
    value(&trained("endless", 0.9, 120, |config| config.bootstrap_truncated = false), 0.0, mean);
}

#[test]
fn termination_wins_over_truncation() {
    // Two steps of reward 1: 1 + 0.9 from the first state, 1 from the second.
    let ppo = trained("both", 0.9, 40, |_| ());
    value(&ppo, 0.0, 1.9);
    value(&ppo, 1.0, 1.0);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let run = |threads| {
        let mut setup = setup("target");
        (setup.threads, setup.env.num_envs) = (threads, 5);
        let config = PpoConfig { num_steps: 32, ..Default::default() };
        let mut ppo = Ppo::new(config, &setup).expect("the settings fit");
        for _ in 0..3 {
            ppo.step().expect("finite numbers");
        }
        ppo.save()
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(8));
}
