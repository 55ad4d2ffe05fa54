//! Learning, resuming and repeating on small tasks in Rust.

use bregman_agents::learner::{Budget, EvalRequest, Learner, Setup, Snapshot};
use bregman_agents::ppo::{Ppo, PpoConfig};
use bregman_envs::{EnvConfig, Registry};

fn setup(id: &str, num_envs: usize, env_steps: u64) -> Setup {
    Setup {
        seed: 1,
        threads: 2,
        env: EnvConfig { num_envs, ..EnvConfig::new(id) },
        envs: Registry::default(),
        budget: Budget::EnvSteps(env_steps),
        histograms: false,
    }
}

fn mean_reward(learner: &mut dyn Learner) -> f64 {
    let request = EvalRequest { episodes: 10, stochastic: false, seed: 10_001, max_episode_steps: None };
    learner.evaluate(&request).expect("it evaluates").mean_reward()
}

#[test]
fn ppo_balances_the_pole() {
    let config = PpoConfig {
        num_steps: 32,
        batch_size: 256,
        num_epochs: 20,
        learning_rate: 1e-3,
        anneal_lr: true,
        anneal_clip: true,
        gamma: 0.98,
        gae_lambda: 0.8,
        normalize_obs: false,
        normalize_reward: false,
        ..Default::default()
    };
    let mut ppo = Ppo::new(config, &setup("CartPole-v1", 8, 50_000)).expect("the settings fit");
    assert!(mean_reward(&mut ppo) < 100.0);
    while ppo.progress().env_steps < 50_000 {
        ppo.step().expect("finite numbers");
    }
    let reward = mean_reward(&mut ppo);
    assert!(reward >= 475.0, "{reward}");
}

/// Pendulum with everything that has state: both normalisers, annealing, several environments, episodes in the middle.
fn pendulum() -> Ppo {
    let config = PpoConfig { num_steps: 100, anneal_lr: true, ..Default::default() };
    Ppo::new(config, &setup("Pendulum-v1", 3, 3_000)).expect("the settings fit")
}

fn after(mut ppo: Ppo, iterations: usize) -> (Snapshot, Vec<f64>) {
    let mut logged = Vec::new();
    for _ in 0..iterations {
        logged.extend(ppo.step().expect("finite numbers").metrics.iter().map(|(_, value)| value));
    }
    (ppo.save(), logged)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert!(after(pendulum(), 4) == after(pendulum(), 4));
}

#[test]
fn a_resumed_run_equals_an_unbroken_one() {
    let (whole, logged) = after(pendulum(), 7);
    for pause in 0..7 {
        let (snapshot, before) = after(pendulum(), pause);
        let mut resumed = pendulum();
        assert_eq!(resumed.load(&snapshot).expect("its own snapshot"), Vec::<String>::new());
        let (end, rest) = after(resumed, 7 - pause);
        assert!(end == whole && [before, rest].concat() == logged, "resumed after {pause}");
    }
}

#[test]
fn a_foreign_snapshot_is_refused() {
    let mut snapshot = pendulum().save();
    snapshot.arrays.remove("adam/first");
    let error = pendulum().load(&snapshot).expect_err("refused").to_string();
    assert_eq!(error, "the saved state does not fit: `adam/first` should be 8963 of f32 and is nothing");
}
