//! Offline agents on datasets whose right policy is known.

mod common;

use std::path::PathBuf;
use std::sync::OnceLock;

use bregman_agents::bc::{Bc, BcConfig};
use bregman_agents::box_policy::BoxPolicyShape;
use bregman_agents::dataset::{Batch, Block, D4rlWriter, DatasetConfig, MinariInfo, MinariWriter};
use bregman_agents::iql::{Iql, IqlConfig};
use bregman_agents::learner::{Budget, DataSource, EvalRequest, LearnError, Learner, Setup, Snapshot};
use bregman_agents::nn::Precision;
use bregman_agents::odice::{GradientRule, Odice, OdiceConfig, PolicyWeight};
use bregman_agents::offline::{Means, Offline, OfflineAgent, OfflineConfig, OfflineUpdate, RewardScale};
use bregman_agents::registry::AgentRegistry;
use bregman_agents::td3_bc::{Td3Bc, Td3BcConfig};
use bregman_envs::EnvConfig;
use bregman_envs::hdf5::Dtype;
use bregman_envs::rng::NumpyRng;

/// Where this process keeps its files; each is written once.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("bregman-offline-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a writable temporary folder");
        let mut writer = D4rlWriter::create(&folder.join("bandit.hdf5"), 1, 1, Dtype::F64).expect("writable");
        writer.push(&bandit()).expect("writable");
        writer.finish(None, &[]).expect("writable");
        let mut writer = D4rlWriter::create(&folder.join("immense.hdf5"), 1, 1, Dtype::F64).expect("writable");
        writer.push(&Block { action: vec![1e30; 201], ..bandit() }).expect("writable");
        writer.finish(None, &[]).expect("writable");
        let mut writer = D4rlWriter::create(&folder.join("steps.hdf5"), 1, 1, Dtype::F64).expect("writable");
        writer.push(&steps()).expect("writable");
        writer.finish(None, &[]).expect("writable");
        let mut writer = MinariWriter::create(&folder.join("pendulum-v0"), 3, 1, Dtype::F64).expect("writable");
        writer.push(&pendulum()).expect("writable");
        writer.finish(&MinariInfo { dataset_id: "pendulum-v0".into(), ..Default::default() }).expect("writable");
        folder
    })
}

/// One step an episode, observation 0: 201 actions from 0 to 2, and the reward 3 − (action − 1.5)².
fn bandit() -> Block {
    let action: Vec<f64> = (0..=200).map(|i| f64::from(i) / 100.0).collect();
    let n = action.len();
    Block {
        obs: vec![0.0; n],
        next_obs: vec![0.0; n],
        reward: action.iter().map(|a| 3.0 - (a - 1.5).powi(2)).collect(),
        action,
        known: vec![true; n],
        terminated: vec![true; n],
        truncated: vec![false; n],
        last: vec![true; n],
    }
}

/// Three episodes of one step, from 0, 2 and 4 up by 2, with rewards 0, 2 and 5: the first is cut, the others end.
fn steps() -> Block {
    Block {
        obs: vec![0.0, 2.0, 4.0],
        next_obs: vec![2.0, 4.0, 6.0],
        action: vec![0.0; 3],
        reward: vec![0.0, 2.0, 5.0],
        known: vec![true; 3],
        terminated: vec![false, true, true],
        truncated: vec![true, false, false],
        last: vec![true; 3],
    }
}

/// Rows of Pendulum's shape with nothing to learn: noise, and episodes of 40 rows.
fn pendulum() -> Block {
    let (mut rng, n) = (NumpyRng::new(1), 400);
    let mut draw = |n: usize, scale: f64| (0..n).map(|_| scale * rng.standard_normal()).collect::<Vec<f64>>();
    let obs = draw(3 * n, 1.0);
    let mut next_obs = obs[3..].to_vec();
    next_obs.extend([0.0; 3]);
    Block {
        obs,
        next_obs,
        action: draw(n, 0.5),
        reward: draw(n, 2.0),
        known: vec![true; n],
        terminated: vec![false; n],
        truncated: (0..n).map(|i| i % 40 == 39).collect(),
        last: (0..n).map(|i| i % 40 == 39).collect(),
    }
}

fn setup(dataset: &str, env: &str, threads: usize, grad_steps: u64) -> Setup {
    let path = folder().join(dataset).display().to_string();
    Setup {
        threads,
        device: Default::default(),
        env: EnvConfig::new(env),
        dataset: Some(DataSource::new(DatasetConfig::new(&path))),
        budget: Budget::GradSteps(grad_steps),
        ..common::setup(env)
    }
}

/// The policy's mean action in the bandit after `updates` updates.
fn learned<U: OfflineUpdate>(make: impl FnOnce(&Setup) -> Offline<U>, updates: u64) -> f32 {
    let mut agent = make(&setup("bandit.hdf5", "bandit", 1, updates));
    while agent.progress().grad_steps < updates {
        agent.step().expect("finite numbers");
    }
    agent.policy().chain().act(&[0.0])[0]
}

/// Says what goes wrong in the first update on actions whose squares are beyond single precision, which leaves the policy as it was.
fn fails_at_once<U: OfflineUpdate>(make: impl FnOnce(&Setup) -> Offline<U>) -> String {
    let mut agent = make(&setup("immense.hdf5", "bandit", 1, 100));
    agent.prepare().expect("numbers that are finite");
    let before = agent.policy().params.clone();
    let error = agent.step().expect_err("a loss beyond single precision").to_string();
    assert!(agent.policy().params == before, "{error}");
    error
}

#[test]
fn a_loss_that_is_not_finite_leaves_the_policy_as_it_was() {
    let common = common_settings;
    let errors = [
        fails_at_once(|setup| {
            Bc::learner(BcConfig { common: common(), ..Default::default() }, setup).expect("it fits")
        }),
        fails_at_once(|setup| {
            Iql::learner(IqlConfig { common: common(), ..Default::default() }, setup).expect("it fits")
        }),
        fails_at_once(|setup| {
            Td3Bc::learner(Td3BcConfig { common: common(), ..Default::default() }, setup).expect("it fits")
        }),
        fails_at_once(|setup| Odice::learner(odice(|c| c.lambda = 0.5), setup).expect("it fits")),
    ];
    for (error, what) in
        errors.iter().zip(["the squared error", "the loss of V", "the critics' loss", "the policy's loss"])
    {
        assert!(error.contains(what), "{error}");
    }
}

fn common_settings() -> OfflineConfig {
    OfflineConfig { batch_size: 201, updates_per_iteration: 100, ..Default::default() }
}

fn odice(change: impl FnOnce(&mut OdiceConfig)) -> OdiceConfig {
    let mut config = OdiceConfig {
        common: common_settings(),
        value_hidden_sizes: vec![16],
        hidden_sizes: vec![16],
        vf_learning_rate: 3e-3,
        learning_rate: 3e-3,
        weight_decay: 0.0,
        tau: 0.05,
        ..Default::default()
    };
    change(&mut config);
    config
}

/// The mean of the bandit's actions with weights of their rewards.
fn weighted_mean(weight: impl Fn(f64) -> f64) -> f32 {
    let block = bandit();
    let weights: Vec<f64> = block.reward.iter().map(|&r| weight(r)).collect();
    let sum: f64 = weights.iter().zip(&block.action).map(|(w, a)| w * a).sum();
    (sum / weights.iter().sum::<f64>()) as f32
}

/// The mean reward of the bandit's rows.
fn mean_reward() -> f64 {
    bandit().reward.iter().sum::<f64>() / 201.0
}

#[test]
fn odice_clones_the_weighted_mean_of_the_actions() {
    // One terminal step: V* is the mean reward + 2(2λ − 1)/λ, which is the mean at λ = 0.5, and the weight max(r − V*, 0).
    let official = weighted_mean(|r| (r - mean_reward()).max(0.0));
    let exact = weighted_mean(|r| ((r - mean_reward()) / 2.0 + 1.0).max(0.0));
    assert!(
        (official - 1.5).abs() < 0.25 && (exact - 1.0).abs() < 0.25 && official > exact + 0.1,
        "{official} {exact}"
    );
    let run = |change: &dyn Fn(&mut OdiceConfig)| {
        learned(
            |setup| {
                Odice::learner(
                    odice(|c| {
                        c.lambda = 0.5;
                        change(c)
                    }),
                    setup,
                )
                .expect("it fits")
            },
            1500,
        )
    };
    for gradient in [GradientRule::Orthogonal, GradientRule::Semi, GradientRule::True] {
        let found = run(&|config| config.gradient = gradient);
        assert!((found - official).abs() < 0.05, "{gradient:?}: {found}, and {official} is right");
    }
    let found = run(&|config| config.policy_weight = PolicyWeight::Exact);
    assert!((found - exact).abs() < 0.05, "{found}, and {exact} is right");
}

#[test]
fn odice_says_when_no_weight_is_positive() {
    // λ = 0.9 lifts V by 1.8 above the mean of 2.41, past the largest reward of 3, until the clamp is met.
    let config = odice(|config| config.lambda = 0.9);
    let mut agent = Odice::learner(config, &setup("bandit.hdf5", "bandit", 1, 3000)).expect("it fits");
    let mut warnings = Vec::new();
    while agent.progress().grad_steps < 2000 {
        let report = agent.step().expect("finite numbers");
        warnings.extend(report.warnings);
    }
    assert_eq!(warnings.len(), 1, "once: {warnings:?}");
    assert!(warnings[0].starts_with("every policy weight of this iteration was 0"));
}

#[test]
fn imitation_leaves_rewards_out() {
    // Without rewards V* = 2(2λ − 1)/λ = −1 at λ = 0.4: every residual and weight is 1, and that is plain cloning. With them
    // the weights are max(r − mean + 1, 0).
    let run = |imitation| {
        let config = odice(|config| (config.imitation, config.lambda) = (imitation, 0.4));
        learned(|setup| Odice::learner(config, setup).expect("it fits"), 1500)
    };
    let weighted = weighted_mean(|r| (r - mean_reward() + 1.0).max(0.0));
    let (demonstrated, rewarded) = (run(true), run(false));
    assert!((demonstrated - 1.0).abs() < 0.05, "{demonstrated}");
    assert!((rewarded - weighted).abs() < 0.05 && weighted > 1.15, "{rewarded}, and {weighted} is right");
}

/// Keeps the minibatches that it is given.
#[derive(Default)]
struct Recorder(Vec<Batch>);

impl OfflineUpdate for Recorder {
    fn update(&mut self, _: &mut OfflineAgent, batch: &Batch, _: &mut Means) -> Result<(), LearnError> {
        self.0.push(batch.clone());
        Ok(())
    }

    fn save(&self, _: &mut Snapshot) {}

    fn load(&mut self, _: &Snapshot) -> Result<(), LearnError> {
        Ok(())
    }
}

/// What an algorithm sees of [`steps`]: observation, successor and reward of every row drawn, in the order of observations.
fn seen(reward_scale: RewardScale, normalize_obs: bool) -> Vec<[f32; 3]> {
    let common =
        OfflineConfig { batch_size: 50, updates_per_iteration: 2, reward_scale, normalize_obs, ..Default::default() };
    let (hidden_sizes, device): (&[usize], _) = (&[4], Default::default());
    let shape = BoxPolicyShape { hidden_sizes, squash: false, stochastic: false, precision: Precision::F32, device };
    let setup = setup("steps.hdf5", "bandit", 1, 2);
    let mut agent = Offline::new(common, &shape, &setup, |_, _, _, _| Recorder::default()).expect("it fits");
    agent.step().expect("there is nothing to go wrong");
    let batches = agent.algorithm().0.iter();
    let rows = batches.flat_map(|b| (0..b.len()).map(|i| [b.obs[i], b.next_obs[i], b.reward[i]]));
    let mut rows: Vec<[f32; 3]> = rows.collect();
    assert_eq!(rows.len(), 100);
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
    rows.dedup();
    rows
}

#[test]
fn observations_are_divided_by_the_deviation_and_a_thousandth() {
    assert_eq!(seen(RewardScale::None, false), [[0.0, 2.0, 0.0], [2.0, 4.0, 2.0], [4.0, 6.0, 5.0]]);
    // The mean is 2 and the deviation √(8/3) = 1.632993, of successors too.
    let expected = [[-1.223_995_3, 0.0, 0.0], [0.0, 1.223_995_3, 2.0], [1.223_995_3, 2.447_990_6, 5.0]];
    let found = seen(RewardScale::None, true);
    assert!(found.iter().flatten().zip(expected.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
}

#[test]
fn rewards_are_scaled_as_the_setting_says() {
    let rewards = |reward_scale| seen(reward_scale, false).iter().map(|row| row[2]).collect::<Vec<f32>>();
    // Episodes are worth 0, 2 and 5; users of D4RL, who go by terminal rows alone, find 0 + 2 and 5.
    assert_eq!(rewards(RewardScale::Range), [0.0, 400.0, 1000.0]);
    let by_d4rl = rewards(RewardScale::RangeD4rl);
    assert!(by_d4rl.iter().zip([0.0, 2000.0 / 3.0, 5000.0 / 3.0]).all(|(a, b)| (a - b).abs() < 1e-3), "{by_d4rl:?}");
    assert_eq!(rewards(RewardScale::Antmaze), [-3.0, 0.0, 0.0]);
    assert_eq!(rewards(RewardScale::AntmazeIql), [-1.0, 1.0, 4.0]);
}

#[test]
fn cloning_gives_the_mean_action_and_cloning_the_best_tenth_theirs() {
    let run = |keep_best| {
        let config = BcConfig { common: common_settings(), keep_best, hidden_sizes: vec![16], learning_rate: 3e-3 };
        learned(|setup| Bc::learner(config, setup).expect("it fits"), 600)
    };
    // The best 20 of 201 are those nearest to 1.5.
    let (all, best) = (run(1.0), run(0.1));
    assert!((all - 1.0).abs() < 0.03 && (best - 1.5).abs() < 0.03, "{all} {best}");
}

#[test]
fn td3_bc_goes_beyond_the_mean_action_as_far_as_alpha_says() {
    let run = |alpha| {
        let config = Td3BcConfig {
            common: common_settings(),
            alpha,
            hidden_sizes: vec![32],
            learning_rate: 3e-3,
            ..Default::default()
        };
        learned(|setup| Td3Bc::learner(config, setup).expect("it fits"), 2000)
    };
    // Without Q it clones. With it, d/da [λ Q(a) − (a − 1)² − Var] = 0 for Q(a) = 3 − (a − 1.5)² gives
    // a = (1 + 1.5 λ)/(1 + λ), where λ = α/Q(a) is 3.6 at α = 10.7: 1.39.
    let (cloned, moved) = (run(0.0), run(10.7));
    assert!((cloned - 1.0).abs() < 0.03, "{cloned}");
    assert!((moved - 1.39).abs() < 0.06, "{moved}");
}

#[test]
fn iql_clones_by_the_exponential_of_the_advantage() {
    let config = IqlConfig {
        common: common_settings(),
        expectile: 0.5,
        beta: 1.0,
        hidden_sizes: vec![64],
        learning_rate: 3e-3,
        tau: 0.05,
        ..Default::default()
    };
    let expected = weighted_mean(|r| (r - mean_reward()).exp());
    let found = learned(|setup| Iql::learner(config, setup).expect("it fits"), 2000);
    assert!((found - expected).abs() < 0.05 && expected > 1.15, "{found}, and {expected} is right");
}

/// Every offline agent with everything that has state.
const AGENTS: [(&str, &str); 8] = [
    ("bc", "keep_best = 0.5\nhidden_sizes = [8]"),
    ("odice", "hidden_sizes = [8]\nvalue_hidden_sizes = [8, 4]\nnormalize_obs = true"),
    ("odice", "hidden_sizes = [8]\ngradient = \"true\"\ntwin_values = false\nlayer_norm = false\nsquash_mean = true"),
    ("odice", "hidden_sizes = [8]\ngradient = \"semi\"\ndivergence = \"reverse_kl\"\nreward_scale = \"none\""),
    ("td3_bc", "hidden_sizes = [8]\npolicy_delay = 3"),
    ("iql", "hidden_sizes = [8]"),
    ("iql", "hidden_sizes = [8]\nreward_scale = \"antmaze_iql\""),
    ("odice", "hidden_sizes = [8]\nreward_scale = \"range_d4rl\"\nlambda = 0.9\nprecision = \"bf16\""),
];

fn agent((name, settings): (&str, &str), threads: usize) -> Box<dyn Learner> {
    let settings = format!("batch_size = 9\nupdates_per_iteration = 7\n{settings}");
    // A file of one episode without a terminal has no range by D4RL's rule.
    let settings = settings.replace("range_d4rl", "range");
    let table = toml::from_str(&settings).expect("TOML");
    let registry = AgentRegistry::default();
    let entry = registry.get(name).expect("it is known");
    assert!(entry.offline);
    (entry.build)(&table, &setup("pendulum-v0", "Pendulum-v1", threads, 32)).expect("the settings fit")
}

fn after(mut learner: Box<dyn Learner>, iterations: usize) -> (Snapshot, Vec<f64>) {
    let mut logged = Vec::new();
    for _ in 0..iterations {
        logged.extend(learner.step().expect("finite numbers").metrics.iter().map(|(_, value)| value));
    }
    (learner.save(), logged)
}

#[test]
fn runs_repeat_on_any_number_of_threads_and_resume_to_the_bit() {
    for case in AGENTS {
        let (whole, logged) = after(agent(case, 1), 5);
        assert!(after(agent(case, 2), 5) == (whole.clone(), logged.clone()), "{case:?} on two threads");
        // 32 updates: the fifth iteration has the last 4.
        assert_eq!(whole.state["progress"]["grad_steps"], 32);
        for pause in [1, 3] {
            let (snapshot, before) = after(agent(case, 1), pause);
            let mut resumed = agent(case, 1);
            assert_eq!(resumed.load(&snapshot).expect("its own snapshot"), Vec::<String>::new());
            let (end, rest) = after(resumed, 5 - pause);
            assert!(end == whole && [before, rest].concat() == logged, "{case:?} resumed after {pause}");
        }
    }
}

#[test]
fn the_first_report_says_where_bf16_is_not_to_be_had() {
    let mut learner = agent(AGENTS[7], 1);
    let mut said = || {
        let warnings = learner.step().expect("finite numbers").warnings;
        warnings.into_iter().find(|warning| warning.contains("bf16"))
    };
    assert_eq!([said(), said()], [Precision::Bf16.available().1.map(str::to_string), None]);
}

#[test]
fn evaluation_needs_no_data() {
    let mut learner = agent(AGENTS[1], 1);
    let trained = after(agent(AGENTS[1], 1), 1).0;
    learner.load(&trained).expect("its own snapshot");
    let request = EvalRequest { episodes: 1, stochastic: false, seed: 1, max_episode_steps: Some(5) };
    assert_eq!(learner.evaluate(&request).expect("it evaluates").episodes.len(), 1);
    // And the rows are the dataset's own: another one is noticed before a step is taken.
    let mut elsewhere = setup("pendulum-v0", "Pendulum-v1", 1, 32);
    if let Some(source) = &mut elsewhere.dataset {
        source.config.skip_episodes = 1;
    }
    let config = OdiceConfig {
        common: OfflineConfig {
            batch_size: 9,
            updates_per_iteration: 7,
            reward_scale: RewardScale::Range,
            ..OfflineConfig { normalize_obs: true, ..Default::default() }
        },
        hidden_sizes: vec![8],
        value_hidden_sizes: vec![8, 4],
        ..Default::default()
    };
    let mut other = Odice::learner(config, &elsewhere).expect("it fits");
    other.load(&trained).expect("its shapes fit");
    let error = other.prepare().expect_err("refused").to_string();
    assert!(error.ends_with("these are not the transitions that the run began with"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |setup: &Setup| {
        Odice::learner(odice(|_| {}), setup).and_then(|mut agent| agent.prepare()).expect_err("refused")
    };
    let error = refused(&setup("pendulum-v0", "bandit", 1, 10)).to_string();
    let end = "pendulum-v0: observations of 3 numbers and actions of 1, and bandit has 1 and 1";
    assert!(error.ends_with(end), "{error}");
    let mut by_steps = setup("bandit.hdf5", "bandit", 1, 10);
    by_steps.budget = Budget::EnvSteps(10);
    assert_eq!(refused(&by_steps).to_string(), "it takes no environment steps: give it `budget.grad_steps`");
    let choices = refused(&setup("bandit.hdf5", "constant", 1, 10)).to_string();
    assert_eq!(choices, "constant has actions that are choices, and offline agents learn real ones");
}
