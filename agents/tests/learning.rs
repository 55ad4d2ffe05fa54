//! Learning, resuming and repeating on small tasks in Rust.

use bregman_agents::learner::{Budget, EvalRequest, Learner, Setup, Snapshot};
use bregman_agents::mdpo::{Mdpo, MdpoConfig};
use bregman_agents::off_policy::OffPolicyConfig;
use bregman_agents::on_policy::{OnPolicy, OnPolicyConfig, Update};
use bregman_agents::ppo::{Ppo, PpoConfig};
use bregman_agents::registry::AgentRegistry;
use bregman_agents::sac::{Sac, SacConfig};
use bregman_agents::trpo::{Trpo, TrpoConfig};
use bregman_envs::{EnvConfig, Registry};

fn setup(id: &str, num_envs: usize, env_steps: u64) -> Setup {
    Setup {
        seed: 1,
        threads: 2,
        device: Default::default(),
        env: EnvConfig { num_envs, ..EnvConfig::new(id) },
        envs: Registry::default(),
        dataset: None,
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
    let mut config = PpoConfig {
        batch_size: 256,
        num_epochs: 20,
        learning_rate: 1e-3,
        anneal_lr: true,
        anneal_clip: true,
        ..Default::default()
    };
    config.common = OnPolicyConfig {
        num_steps: 32,
        gamma: 0.98,
        gae_lambda: 0.8,
        normalize_obs: false,
        normalize_reward: false,
        ..config.common
    };
    balances(Ppo::learner(config, &setup("CartPole-v1", 8, 50_000)).expect("the settings fit"));
}

/// 50,000 steps take the pole from falling at once to standing.
fn balances<U: Update>(mut agent: OnPolicy<U>) {
    assert!(mean_reward(&mut agent) < 100.0);
    while agent.progress().env_steps < 50_000 {
        agent.step().expect("finite numbers");
    }
    let reward = mean_reward(&mut agent);
    assert!(reward >= 475.0, "{reward}");
}

#[test]
fn sac_swings_the_pendulum_up() {
    let common = OffPolicyConfig {
        learning_starts: 500,
        batch_size: 64,
        learning_rate: 2e-3,
        q_learning_rate: 2e-3,
        hidden_sizes: vec![64, 64],
        ..Default::default()
    };
    let config = SacConfig { common, alpha_learning_rate: 2e-3, ..Default::default() };
    let mut sac = Sac::learner(config, &setup("Pendulum-v1", 1, 5_000)).expect("the settings fit");
    assert!(mean_reward(&mut sac) < -800.0);
    while sac.progress().env_steps < 5_000 {
        sac.step().expect("finite numbers");
    }
    let reward = mean_reward(&mut sac);
    assert!(reward >= -250.0, "{reward}");
}

fn cart_pole() -> OnPolicyConfig {
    OnPolicyConfig { num_steps: 128, normalize_obs: false, normalize_reward: false, ..Default::default() }
}

#[test]
fn mdpo_balances_the_pole() {
    let mut config = MdpoConfig { common: cart_pole(), ..Default::default() };
    (config.inner.learning_rate, config.critic.vf_learning_rate) = (3e-3, 3e-3);
    balances(Mdpo::learner(config, &setup("CartPole-v1", 8, 50_000)).expect("the settings fit"));
}

#[test]
fn trpo_balances_the_pole() {
    let config = TrpoConfig { common: cart_pole(), ..Default::default() };
    balances(Trpo::learner(config, &setup("CartPole-v1", 8, 50_000)).expect("the settings fit"));
}

/// Agents on Pendulum with everything that has state: both normalisers, annealing, several environments, episodes in the middle,
/// replay buffers that are being filled and that are full.
const AGENTS: [(&str, &str); 12] = [
    ("ppo", "anneal_lr = true"),
    ("mdpo", "step_size_schedule = \"adaptive\"\nvf_anneal_lr = true"),
    ("mdpo", "anneal_lr = true\nvf_clip_coef = 0.2"),
    ("trpo", ""),
    ("fma_pg", "inner_optimizer = \"armijo\""),
    ("fma_pg", "representation = \"direct\"\ndivergence = \"estimated\""),
    ("sso", ""),
    ("sac", "learning_starts = 450\nbatch_size = 16\nhidden_sizes = [16]\nutd_ratio = 0.5"),
    (
        "sac",
        "learning_starts = 99\nbatch_size = 16\nhidden_sizes = [16]\nutd_ratio = 0.2\nauto_alpha = false\nn_step = 3\npriority = 0.6",
    ),
    (
        "sac",
        "learning_starts = 0\nbatch_size = 16\nhidden_sizes = [16]\nbuffer_size = 500\ntrain_freq = 6\nactor_interval = 2",
    ),
    ("mdpo_off", "learning_starts = 99\nbatch_size = 16\nhidden_sizes = [16]\nutd_ratio = 0.2\ninner_steps = 37"),
    (
        "mdpo_off",
        "learning_starts = 99\nbatch_size = 16\nhidden_sizes = [16]\nutd_ratio = 0.2\ninner_steps = 37\ntsallis_q = 1.5\n\
         critic = \"twin_target_q\"\nactor_q = \"min\"\ndeterministic_rollout = true",
    ),
];

fn pendulum((agent, settings): (&str, &str)) -> Box<dyn Learner> {
    let table = toml::from_str(&format!("num_steps = 100\n{settings}")).expect("TOML");
    let registry = AgentRegistry::default();
    let entry = registry.get(agent).expect("it is known");
    (entry.build)(&table, &setup("Pendulum-v1", 3, 3_000)).expect("the settings fit")
}

fn after(mut learner: Box<dyn Learner>, iterations: usize) -> (Snapshot, Vec<f64>) {
    let mut logged = Vec::new();
    for _ in 0..iterations {
        logged.extend(learner.step().expect("finite numbers").metrics.iter().map(|(_, value)| value));
    }
    (learner.save(), logged)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for agent in AGENTS {
        assert!(after(pendulum(agent), 3) == after(pendulum(agent), 3), "{agent:?}");
    }
}

#[test]
fn a_resumed_run_equals_an_unbroken_one() {
    for agent in AGENTS {
        let (whole, logged) = after(pendulum(agent), 5);
        for pause in 0..5 {
            let (snapshot, before) = after(pendulum(agent), pause);
            let mut resumed = pendulum(agent);
            assert_eq!(resumed.load(&snapshot).expect("its own snapshot"), Vec::<String>::new());
            let (end, rest) = after(resumed, 5 - pause);
            assert!(end == whole && [before, rest].concat() == logged, "{agent:?} resumed after {pause}");
        }
    }
}

#[test]
fn a_foreign_snapshot_is_refused() {
    let ppo = AGENTS[0];
    let mut snapshot = pendulum(ppo).save();
    snapshot.arrays.remove("adam/first");
    let error = pendulum(ppo).load(&snapshot).expect_err("refused").to_string();
    assert_eq!(error, "the saved state does not fit: `adam/first` should be 8963 of f32 and is nothing");
}

#[test]
fn unknown_and_wrong_settings_are_refused_wherever_they_belong() {
    let registry = AgentRegistry::default();
    let refusal = |agent: &str, settings: &str| {
        let table = toml::from_str(settings).expect("TOML");
        (registry.get(agent).expect("it is known").resolve)(&table).expect_err("refused").to_string()
    };
    assert!(refusal("trpo", "cg_iteration = 3").contains("unknown field `cg_iteration`, expected one of `num_steps`"));
    assert!(refusal("mdpo", "gamma = \"high\"").starts_with("`gamma`: "));
    assert!(refusal("mdpo", "vf_clip_coef = \"no\"").contains("a number or \"none\""));
    assert_eq!(
        refusal("mdpo", "advantage_norm = \"minibatch\""),
        "`advantage_norm = minibatch`: policy steps take the whole rollout here: `batch` or `none`"
    );
    assert_eq!(refusal("sso", "inner_steps = 0"), "`inner_steps = 0`: at least 1");
    assert_eq!(refusal("fma_pg", "armijo_c = 1.0"), "`armijo_c = 1`: a number between 0 and 1");
}

#[test]
fn a_repeated_update_starts_where_the_first_did() {
    let ppo = || {
        let config = PpoConfig { common: cart_pole(), ..Default::default() };
        Box::new(Ppo::learner(config, &setup("CartPole-v1", 2, 10_000)).expect("the settings fit")) as Box<dyn Learner>
    };
    for (repeats, mut agent) in [(2, ppo()), (3, ppo()), (2, pendulum(AGENTS[7])), (3, pendulum(AGENTS[10]))] {
        let mut after = |repeats: usize| {
            (0..repeats).for_each(|_| assert!(agent.repeat_update().expect("finite numbers")));
            agent.policy()
        };
        let once = after(1);
        assert_eq!(once, after(repeats));
        assert_eq!(agent.progress().env_steps, 0, "what was gathered for it does not count");
    }
}
