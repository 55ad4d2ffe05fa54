//! What agents that learn from whole trajectories promise of a step.

use bregman_agents::harpg::{HarpgConfig, NHarpgConfig};
use bregman_agents::learner::{Budget, EvalRequest, LearnError, Learner, Setup, Snapshot};
use bregman_agents::nn::Device;
use bregman_agents::registry::AgentRegistry;
use bregman_agents::trajectory_gradient::{combine, decayed, norm};
use bregman_envs::{ActionSpace, Env, EnvConfig, EnvEntry, EnvError, EnvSpec, Outcome, Registry};

const ALL: [&str; 6] = ["pg", "n_pg", "n_pg_igt", "harpg", "n_harpg", "storm_pg"];

/// `agent` with small batches on an environment, its arguments as TOML.
fn agent(agent: &str, settings: &str, id: &str, kwargs: &str) -> Box<dyn Learner> {
    on_threads(agent, settings, id, kwargs, 1)
}

#[test]
fn a_gpu_is_refused_where_none_is_used() {
    let envs = Registry::default();
    let (env, device) = (EnvConfig::new("CartPole-v1"), Device::Cuda(0));
    let budget = Budget::EnvSteps(1);
    let setup = Setup { seed: 1, threads: 1, device, env, envs, dataset: None, budget, histograms: false };
    let agents = AgentRegistry::default();
    for name in ["pg", "n_pg_igt", "harpg", "storm_pg"] {
        let entry = agents.get(name).expect("it is registered");
        let error = (entry.build)(&toml::Table::new(), &setup).err().expect("a refusal").to_string();
        assert!(error.contains("`device = \"cuda:0\"`") && error.contains("processor"), "{error}");
    }
}

fn on_threads(agent: &str, settings: &str, id: &str, kwargs: &str, threads: usize) -> Box<dyn Learner> {
    within(Budget::EnvSteps(1), agent, settings, id, kwargs, threads)
}

fn within(budget: Budget, agent: &str, settings: &str, id: &str, kwargs: &str, threads: usize) -> Box<dyn Learner> {
    let mut envs = Registry::default();
    envs.add(EnvEntry { id: "rewarded", summary: "the same reward at every step", make: |c| Probe::make(c, f64::MAX) });
    envs.add(EnvEntry { id: "failing", summary: "fails in its third episode", make: |c| Probe::make(c, 3.0) });
    let env = EnvConfig { num_envs: 2, kwargs: toml::from_str(kwargs).expect("TOML"), ..EnvConfig::new(id) };
    let setup =
        Setup { seed: 3, threads, device: Default::default(), env, envs, dataset: None, budget, histograms: false };
    let mut table: toml::Table = toml::from_str(settings).expect("TOML");
    table.insert("trajectories".into(), 3.into());
    table.insert("hidden_sizes".into(), vec![4i64].into());
    let registry = AgentRegistry::default();
    (registry.get(agent).expect("it is known").build)(&table, &setup).expect("the settings fit")
}

/// Five steps of reward `kwargs.reward`, or an error in episode `fails`.
struct Probe {
    spec: EnvSpec,
    reward: f64,
    fails: f64,
    episode: f64,
    step: u32,
}

impl Probe {
    fn make(config: &EnvConfig, fails: f64) -> Result<Box<dyn Env>, EnvError> {
        let spec = EnvSpec {
            id: config.id.clone(),
            obs_dim: 1,
            action_space: ActionSpace::Box { low: vec![-1.0], high: vec![1.0] },
            max_episode_steps: Some(5),
            reward_threshold: None,
            backend: "native",
            parallel: true,
        };
        let reward = config.kwargs.get("reward").and_then(toml::Value::as_float).unwrap_or(1.0);
        Ok(Box::new(Probe { spec, reward, fails, episode: 0.0, step: 0 }))
    }

    fn endless(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
        let spec = EnvSpec { max_episode_steps: None, ..Probe::make(config, 0.0)?.spec().clone() };
        Ok(Box::new(Probe { spec, reward: 1.0, fails: 0.0, episode: 0.0, step: 0 }))
    }
}

impl Env for Probe {
    fn spec(&self) -> &EnvSpec {
        &self.spec
    }

    fn reset(&mut self, _: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError> {
        (self.episode, self.step, obs[0]) = (self.episode + 1.0, 0, 1.0);
        Ok(())
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
        if self.episode >= self.fails {
            return Err(EnvError::Invalid { id: self.spec.id.clone(), message: "it broke".into() });
        }
        self.step += 1;
        next_obs[0] = 1.0;
        let reward = if self.reward == 1.0 { f64::from(action[0]) } else { self.reward };
        Ok(Outcome { reward, terminated: false, truncated: self.step == 5 })
    }
}

fn theta(learner: &dyn Learner) -> Vec<f64> {
    let (saved, mut theta) = (learner.save(), Vec::new());
    if let Some(bregman_agents::learner::Array::F64(x)) = saved.arrays.get("theta") {
        theta.clone_from(x);
    }
    theta
}

#[test]
fn normalised_methods_do_not_see_the_scale_of_rewards_and_the_others_do() {
    for (name, blind) in ALL.into_iter().zip([false, true, true, false, true, false]) {
        // Costs four times as high: exact in floating point.
        let mut one = agent(name, "step_size = 1e-3", "lqr", "q = 1.0\nr = 0.1");
        let mut four = agent(name, "step_size = 1e-3", "lqr", "q = 4.0\nr = 0.4");
        for _ in 0..4 {
            one.step().expect("finite numbers");
            four.step().expect("finite numbers");
        }
        assert_eq!(theta(one.as_ref()) == theta(four.as_ref()), blind, "{name}");
    }
}

#[test]
fn normalised_steps_are_as_long_as_the_step_size() {
    for name in ["n_pg", "n_pg_igt", "n_harpg"] {
        let mut learner = agent(name, "step_size = 0.3", "lqr", "");
        for t in 0..5 {
            let before = theta(learner.as_ref());
            let report = learner.step().expect("finite numbers");
            let length = norm(&combine(&theta(learner.as_ref()), 1.0, &before, -1.0));
            assert!((length - decayed(0.3, 1.0, t)).abs() < 1e-12, "{name}: {length} at {t}");
            assert_eq!(report.metrics.get("train/step_size"), Some(decayed(0.3, 1.0, t)));
        }
    }
}

#[test]
fn n_pg_igt_balances_the_pole() {
    let settings = toml::from_str("hidden_sizes = [32, 32]\nstep_size = 0.3").expect("TOML");
    let env = EnvConfig { num_envs: 10, max_episode_steps: Some(200), ..EnvConfig::new("CartPole-v1") };
    let (envs, budget) = (Registry::default(), Budget::EnvSteps(50_000));
    let setup =
        Setup { seed: 1, threads: 1, device: Default::default(), env, envs, dataset: None, budget, histograms: false };
    let build = AgentRegistry::default().get("n_pg_igt").expect("it is known").build;
    let mut learner = build(&settings, &setup).expect("the settings fit");
    // Of an iteration's ten episodes, at most 200 each.
    let mut iterate = || {
        let episodes = learner.step().expect("finite numbers").episodes;
        (learner.progress().env_steps, episodes.iter().map(|episode| episode.reward).sum::<f64>() / 10.0)
    };
    let (mut steps, first) = iterate();
    let mut last = first;
    while steps < 50_000 {
        (steps, last) = iterate();
    }
    assert!(first < 40.0 && last > 150.0, "{first} to {last}");
}

#[test]
fn deviations_stay_above_their_bound() {
    let mut learner = agent("n_pg", "log_std_init = 0.0\nmin_log_std = 0.0\nstep_size = 0.3", "lqr", "");
    let last: Vec<f64> = (0..8)
        .map(|_| {
            learner.step().expect("finite numbers");
            theta(learner.as_ref()).pop().expect("a deviation")
        })
        .collect();
    assert!(last.iter().all(|&s| s >= 0.0) && last.contains(&0.0), "{last:?}");
}

#[test]
fn importance_ratios_are_bounded_from_above() {
    // Small steps, so that the earlier policy is near and its ratios are about 1.
    let moved = |settings: &str| after(agent("storm_pg", &format!("step_size = 1e-5\n{settings}"), "lqr", ""), 3).0;
    assert!(moved("max_ratio = 1e9") == moved(""));
    assert!(moved("max_ratio = 0.5") != moved(""));
}

#[test]
fn both_batches_of_a_hessian_aided_method_are_counted() {
    // Ten steps an episode; three for the gradient, and from the second iteration on ten for the product.
    for (name, episodes) in [("n_pg_igt", [3, 6]), ("n_harpg", [3, 16]), ("harpg", [3, 16])] {
        let mut learner = agent(name, "", "lqr", "");
        for expected in episodes {
            learner.step().expect("finite numbers");
            let progress = learner.progress();
            assert_eq!((progress.episodes, progress.env_steps), (expected, 10 * expected), "{name}");
        }
    }
    let mut learner = agent("storm_pg", "", "lqr", "");
    learner.step().expect("finite numbers");
    assert_eq!(learner.progress().episodes, 30, "the first batch is ten times as large");
}

fn after(mut learner: Box<dyn Learner>, iterations: usize) -> (Snapshot, Vec<f64>) {
    let mut logged = Vec::new();
    for _ in 0..iterations {
        logged.extend(learner.step().expect("finite numbers").metrics.iter().map(|(_, value)| value));
    }
    (learner.save(), logged)
}

#[test]
fn a_resumed_run_equals_an_unbroken_one() {
    for name in ALL {
        for baseline in ["time", "linear"] {
            let settings = format!("step_size = 1e-3\nbaseline = \"{baseline}\"");
            let fresh = || agent(name, &settings, "lqr", "");
            let (whole, logged) = after(fresh(), 5);
            for pause in 0..5 {
                let (snapshot, before) = after(fresh(), pause);
                let mut resumed = fresh();
                assert_eq!(resumed.load(&snapshot).expect("its own snapshot"), Vec::<String>::new());
                let (end, rest) = after(resumed, 5 - pause);
                assert!(end == whole && [before, rest].concat() == logged, "{name} resumed after {pause}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for name in ALL {
        for id in ["Pendulum-v1", "CartPole-v1"] {
            let run = |threads| after(on_threads(name, "step_size = 1e-3", id, "", threads), 3);
            assert!(run(1) == run(3), "{name} in {id}");
        }
    }
}

#[test]
fn a_failing_environment_leaves_the_parameters_as_they_were() {
    for name in ALL {
        let mut learner = agent(name, "first_batch = 1", "failing", "");
        let mut before = theta(learner.as_ref());
        let mut policy = learner.policy();
        let error = loop {
            match learner.step() {
                Ok(_) => (before, policy) = (theta(learner.as_ref()), learner.policy()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, LearnError::Env(_)), "{error}");
        assert!(theta(learner.as_ref()) == before && learner.policy() == policy, "{name}");
    }
}

#[test]
fn without_a_direction_nothing_moves_and_that_is_said_once() {
    let mut learner = agent("n_pg_igt", "", "rewarded", "reward = 0.0");
    let before = theta(learner.as_ref());
    let first = learner.step().expect("a step without a direction is no failure");
    assert_eq!(first.warnings, ["iteration 1 made no step: the direction's length is 0"]);
    let second = learner.step().expect("nor is a second");
    assert_eq!((second.warnings.len(), second.metrics.get("train/skipped")), (0, Some(2.0)));
    assert!(theta(learner.as_ref()) == before && learner.progress().grad_steps == 0);

    // Where only steps count, it would go on for ever.
    let mut learner = within(Budget::GradSteps(100), "n_pg_igt", "", "rewarded", "reward = 0.0", 1);
    for _ in 0..19 {
        learner.step().expect("it is patient");
    }
    let error = learner.step().expect_err("it gives up").to_string();
    assert!(error.contains("the direction has been 0 for 20 iterations"), "{error}");

    // Rewards beyond single precision: the gradient is not finite, and no part of it stays.
    let mut learner = agent("n_harpg", "baseline = \"none\"", "rewarded", "reward = 1e300");
    let before = theta(learner.as_ref());
    for _ in 0..19 {
        learner.step().expect("it is patient");
    }
    let error = learner.step().expect_err("it is not patient for ever").to_string();
    assert!(error.starts_with("the direction's length is"), "{error}");
    assert!(theta(learner.as_ref()) == before);
}

#[test]
fn what_an_environment_lacks_is_said() {
    let mut envs = Registry::default();
    envs.add(EnvEntry { id: "endless", summary: "no time limit", make: Probe::endless });
    let setup = Setup {
        seed: 1,
        threads: 1,
        device: Default::default(),
        env: EnvConfig::new("endless"),
        envs,
        dataset: None,
        budget: Budget::EnvSteps(1),
        histograms: false,
    };
    let build = AgentRegistry::default().get("pg").expect("it is known").build;
    let error = build(&toml::Table::new(), &setup).err().expect("refused").to_string();
    assert_eq!(error, "`endless` has no time limit, and whole episodes are asked for: set env.max_episode_steps");
}

#[test]
fn the_error_of_a_direction_is_measured_without_touching_the_run() {
    let mut plain = agent("n_pg", "", "lqr", "");
    let mut probed = agent("n_pg", "probe_trajectories = 400\nprobe_every = 2", "lqr", "");
    let evaluation = EvalRequest { episodes: 2, stochastic: true, seed: 5, max_episode_steps: None };
    for iteration in 0..4 {
        plain.step().expect("finite numbers");
        let report = probed.step().expect("finite numbers");
        assert!(theta(plain.as_ref()) == theta(probed.as_ref()));
        let measured = ["train/direction_error", "train/true_grad_square", "train/true_grad_along"];
        let measured: Vec<f64> = measured.iter().filter_map(|name| report.metrics.get(name)).collect();
        assert_eq!(measured.len(), if iteration % 2 == 0 { 3 } else { 0 });
        // |d − g|² = |d|² − 2⟨d, g⟩ + |g|².
        if let [error, square, along] = measured[..] {
            let length = report.metrics.get("train/direction_norm").expect("it is logged");
            assert!((error - (length * length - 2.0 * along + square)).abs() < 1e-6 * length * length);
        }
    }
    let saved: [Snapshot; 2] = [plain.save(), probed.save()];
    assert!(saved[0] == saved[1]);
    assert_eq!(plain.evaluate(&evaluation).ok(), probed.evaluate(&evaluation).ok());
}

#[test]
fn the_two_halves_of_a_measurement_are_independent() {
    // Of few episodes: their inner product estimates |∇J|² without bias, and is negative now and then; a square never is.
    let mut probed = agent("pg", "probe_trajectories = 4\nprobe_every = 1\nstep_size = 1e-9", "lqr", "");
    let mut squares = Vec::new();
    for _ in 0..100 {
        squares.extend(probed.step().expect("finite numbers").metrics.get("train/true_grad_square"));
    }
    assert!(
        squares.len() == 100 && squares.iter().any(|&s| s < 0.0) && squares.iter().any(|&s| s > 0.0),
        "{squares:?}"
    );
}

#[test]
fn parameter_counts_of_the_usual_policies() {
    // Means and log standard deviations, [64, 64]: 17·64+64 + 64·64+64 + 64·6+6 + 6.
    let count = |id: &str, hidden: &str| {
        let settings: toml::Table = toml::from_str(&format!("hidden_sizes = {hidden}")).expect("TOML");
        let setup = Setup {
            seed: 1,
            threads: 1,
            device: Default::default(),
            env: EnvConfig::new(id),
            envs: Registry::default(),
            dataset: None,
            budget: Budget::EnvSteps(1),
            histograms: false,
        };
        let build = AgentRegistry::default().get("n_pg_igt").expect("it is known").build;
        theta(build(&settings, &setup).expect("the settings fit").as_ref()).len()
    };
    for (id, expected) in [
        ("HalfCheetah-v5", 5708),
        ("Walker2d-v5", 5708),
        ("Hopper-v5", 5126),
        ("Swimmer-v5", 4868),
        ("Reacher-v5", 4996),
        ("Humanoid-v5", 27618),
    ] {
        assert_eq!(count(id, "[64, 64]"), expected, "{id}");
    }
    assert_eq!((count("CartPole-v1", "[32, 32]"), count("Acrobot-v1", "[32, 32]")), (1282, 1379));
}

#[test]
fn defaults_are_the_theorys_schedules() {
    let (harpg, n_harpg) = (HarpgConfig::default(), NHarpgConfig::default());
    assert_eq!((harpg.common.step_decay, harpg.momentum.momentum_decay), (0.5, 1.0));
    assert_eq!((n_harpg.common.step_decay, n_harpg.momentum.momentum_decay), (1.0, 1.0));
    assert_eq!(decayed(0.5, 0.5, 6), 0.25);
}
