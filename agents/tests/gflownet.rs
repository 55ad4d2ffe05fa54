//! GFlowNets as learners: what they reach, what they save, and what they refuse.

use bregman_agents::gflownet::agents::SubtbConfig;
use bregman_agents::gflownet::learner::{Gflownet, LogZ};
use bregman_agents::gflownet::objective::Objective;
use bregman_agents::gflownet::replay::ReplayKind;
use bregman_agents::gflownet::sampler::BackwardPolicy;
use bregman_agents::gflownet::settings::GflownetConfig;
use bregman_agents::gflownet::soft_dqn::{SoftDqn, SoftDqnConfig};
use bregman_agents::learner::{Array, Budget, EvalRequest, LearnError, Learner, Setup};
use bregman_agents::registry::AgentConfig;
use bregman_envs::world::{World, WorldConfig, WorldEntry, WorldSpec};
use bregman_envs::{EnvConfig, EnvError, Registry};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

const DB: Objective = Objective::DetailedBalance { forward_looking: false };
const FL_DB: Objective = Objective::DetailedBalance { forward_looking: true };
const TB: Objective = Objective::TrajectoryBalance;
const LOG_Z: LogZ = LogZ { learning_rate: 0.1, init: None };

fn setup(world: &str, settings: &str) -> Setup {
    let mut envs = Registry::default();
    envs.worlds.add(WorldEntry::of::<StringsConfig>("strings_of_two", "two letters, appended"));
    Setup {
        seed: 3,
        threads: 1,
        device: Default::default(),
        env: EnvConfig::world(world, toml::from_str(settings).expect("a table"), &[]),
        envs,
        dataset: None,
        budget: Budget::GradSteps(1000),
        histograms: false,
    }
}

fn small() -> GflownetConfig {
    GflownetConfig { hidden_sizes: vec![32], num_trajectories: 8, log_every: 10, ..Default::default() }
}

fn request(episodes: u32) -> EvalRequest {
    EvalRequest { episodes, stochastic: false, seed: 11, max_episode_steps: None }
}

/// Two letters of `a` and `b`, rewards 1 to 4; what goes wrong is a setting.
#[derive(Clone, Debug, Default, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
struct StringsConfig {
    /// No action after `b`.
    stuck: bool,
    /// A reward of zero for `bb`.
    zero: bool,
}

struct Strings(StringsConfig, WorldSpec);

impl WorldConfig for StringsConfig {
    fn make(self) -> Result<Box<dyn World>, EnvError> {
        let spec = WorldSpec {
            name: "strings_of_two".into(),
            state_len: 3,
            encoding_len: 4,
            num_actions: 2,
            num_backward: 1,
            exit: None,
            max_len: 2,
            num_states: Some(7),
            energies: false,
            heavy: true,
        };
        Ok(Box::new(Strings(self, spec)))
    }
}

impl World for Strings {
    fn spec(&self) -> &WorldSpec {
        &self.1
    }
    fn initial(&self, state: &mut [i32]) {
        state.copy_from_slice(&[-1, -1, 0]);
    }
    fn is_terminal(&self, state: &[i32]) -> bool {
        state[2] == 2
    }
    fn actions(&self, state: &[i32], legal: &mut [bool]) {
        legal.fill(!(self.0.stuck && state[0] == 1));
    }
    fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
        legal[0] = state[2] > 0;
    }
    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
        state[state[2] as usize] = action as i32;
        state[2] += 1;
        Some(0)
    }
    fn undo(&self, state: &mut [i32], _: Option<usize>) -> usize {
        state[2] -= 1;
        std::mem::replace(&mut state[state[2] as usize], -1) as usize
    }
    fn log_reward(&self, state: &[i32]) -> f64 {
        let reward = f64::from(1 + state[0] + 2 * state[1]);
        if self.0.zero && reward == 4.0 { f64::NEG_INFINITY } else { reward.ln() }
    }
    fn encode(&self, state: &[i32], row: &mut [f32]) {
        (0..2).filter(|&i| state[i] >= 0).for_each(|i| row[2 * i + state[i] as usize] = 1.0);
    }
}

#[test]
fn trajectory_balance_reaches_the_distribution_of_a_grid() {
    let config = GflownetConfig {
        hidden_sizes: vec![64, 64],
        num_trajectories: 64,
        learning_rate: 3e-3,
        anneal_lr: true,
        log_every: 400,
        ..Default::default()
    };
    let setup = Setup { budget: Budget::GradSteps(400), ..setup("hyper_grid", "") };
    let mut learner = Gflownet::new(config, TB, LOG_Z, &setup).expect("it suits");
    learner.step().expect("finite numbers");
    let judged = learner.evaluate(&request(2000)).expect("it suits");
    let number = |name: &str| judged.metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
    assert!(number("eval/l1") < 0.06, "{:?}", judged.metrics);
    assert!(number("eval/log_z_error") < 0.05);
    assert_eq!(number("eval/tv"), 0.5 * number("eval/l1"));
    // 2000 samples of the target itself are 0.11 away.
    assert!((number("eval/empirical_l1") - number("eval/l1_floor")).abs() < 0.05, "{}", number("eval/empirical_l1"));
    assert!((number("eval/log_z_is") - 22.4f64.ln()).abs() < 0.02, "{}", number("eval/log_z_is"));
    assert!(number("eval/elbo") < 22.4f64.ln() + 0.02 && number("eval/eubo") > 22.4f64.ln() - 0.02);
    assert_eq!(number("eval/modes"), 4.0);
}

#[test]
fn small_sets_are_learned_from_cut_trajectories_by_flows_that_look_forward() {
    // 20 of 30 elements: ln Z is 11.892. Half of the trajectories lose their end and their reward.
    let config = GflownetConfig {
        hidden_sizes: vec![64],
        cut_probability: 0.5,
        epsilon: 0.5,
        log_every: 400,
        learning_rate: 3e-3,
        ..Default::default()
    };
    let mut learner = Gflownet::new(config, FL_DB, LogZ::default(), &setup("set", "")).expect("it suits");
    learner.step().expect("finite numbers");
    let judged = learner.evaluate(&request(500)).expect("it suits");
    let error = judged.metrics.get("eval/log_z_error").expect("ln Z is known");
    assert!(error < 0.5, "{error}");
}

/// The state after 40 optimiser steps, at once and with a save and a load after 20.
fn resumed<L: Learner>(make: impl Fn() -> L, what: &str) {
    let (mut whole, mut first, mut second) = (make(), make(), make());
    (0..4).for_each(|_| drop(whole.step().expect("finite numbers")));
    (0..2).for_each(|_| drop(first.step().expect("finite numbers")));
    first.evaluate(&request(20)).expect("it suits");
    let snapshot = first.save();
    assert_eq!(first.policy().arrays.keys().filter(|name| !snapshot.arrays.contains_key(*name)).count(), 0);
    second.load(&snapshot).expect("what was saved");
    (0..2).for_each(|_| drop(second.step().expect("finite numbers")));
    assert!(whole.save() == second.save(), "{what}");
}

fn gflownet(config: &GflownetConfig, objective: Objective, setup: &Setup) -> Gflownet {
    Gflownet::new(config.clone(), objective, LOG_Z, setup).expect("it suits")
}

#[test]
fn a_resumed_run_equals_an_unbroken_one() {
    let run = |config: &GflownetConfig, objective, world: Setup| {
        resumed(|| gflownet(config, objective, &world), &format!("{objective:?} {config:?}"));
    };
    for objective in [TB, DB, FL_DB, Objective::LogPartitionVariance, Objective::FlowMatching] {
        run(&small(), objective, setup("hyper_grid", "height = 5"));
    }
    for replay in [ReplayKind::Trajectories, ReplayKind::Objects, ReplayKind::Prioritised] {
        let config = GflownetConfig { replay, replay_capacity: 30, local_search: 1, epsilon: 0.1, ..small() };
        run(&config, TB, setup("set", ""));
        let cut =
            GflownetConfig { cut_probability: 0.5, tied: false, backward_policy: BackwardPolicy::MaxEntropy, ..config };
        run(&cut, FL_DB, setup("hyper_grid", "height = 5"));
    }
}

fn small_soft_dqn() -> SoftDqnConfig {
    let (hidden_sizes, num_trajectories) = (vec![32], 8);
    SoftDqnConfig { hidden_sizes, num_trajectories, batch_size: 32, log_every: 10, ..Default::default() }
}

#[test]
fn a_resumed_soft_dqn_equals_an_unbroken_one() {
    // States with negative integers; a buffer whose oldest rows give way; a target that is copied at every seventh step.
    for (priority, world) in [(0.5, setup("strings_of_two", "")), (0.0, setup("hyper_grid", "height = 5"))] {
        let config = SoftDqnConfig {
            priority,
            munchausen_alpha: 0.15,
            buffer_size: 200,
            tau: 1.0,
            target_every: 7,
            ..small_soft_dqn()
        };
        resumed(|| SoftDqn::new(config.clone(), &world).expect("it suits"), &format!("{config:?}"));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Networks so wide that products are shared.
    let hidden_sizes = vec![256, 256];
    let gflownet = |objective, tied| {
        let config = GflownetConfig { hidden_sizes: hidden_sizes.clone(), tied, num_trajectories: 16, ..small() };
        move |setup: &Setup| -> Box<dyn Learner> {
            Box::new(Gflownet::new(config.clone(), objective, LOG_Z, setup).expect("it suits"))
        }
    };
    let config = SoftDqnConfig { hidden_sizes: hidden_sizes.clone(), munchausen_alpha: 0.15, ..small_soft_dqn() };
    let soft_dqn =
        |setup: &Setup| -> Box<dyn Learner> { Box::new(SoftDqn::new(config.clone(), setup).expect("it suits")) };
    type Make<'a> = &'a dyn Fn(&Setup) -> Box<dyn Learner>;
    let makes: [Make; 3] = [&gflownet(TB, true), &gflownet(FL_DB, false), &soft_dqn];
    for make in makes {
        let [one, two, three] = [1, 2, 3].map(|threads| {
            let mut learner = make(&Setup { threads, ..setup("set", "") });
            learner.step().expect("finite numbers");
            let judged = learner.evaluate(&request(40)).expect("it suits");
            (learner.save(), judged)
        });
        assert!(one == two && one == three);
    }
}

#[test]
fn soft_dqn_reaches_the_distribution_of_a_grid() {
    for (munchausen_alpha, backward_policy, priority, target_every, tau) in
        [(0.0, BackwardPolicy::Uniform, 0.5, 1, 0.25), (0.15, BackwardPolicy::MaxEntropy, 0.0, 5, 1.0)]
    {
        let config = SoftDqnConfig {
            munchausen_alpha,
            backward_policy,
            priority,
            target_every,
            tau,
            batch_size: 128,
            hidden_sizes: vec![64],
            learning_rate: 3e-3,
            anneal_lr: true,
            log_every: 1000,
            ..small_soft_dqn()
        };
        let setup = setup("hyper_grid", "height = 4");
        let mut learner = SoftDqn::new(config, &setup).expect("it suits");
        learner.step().expect("finite numbers");
        let judged = learner.evaluate(&request(100)).expect("it suits").metrics;
        let number = |name: &str| judged.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(number("eval/l1") < 0.08 && number("eval/log_z_error") < 0.05, "{judged:?}");
    }
}

#[test]
fn replay_and_local_search_leave_the_target_where_it_is() {
    for replay in [ReplayKind::Trajectories, ReplayKind::Objects, ReplayKind::Prioritised] {
        let config = GflownetConfig {
            num_trajectories: 32,
            replay,
            replay_capacity: 500,
            local_search: 1,
            learning_rate: 3e-3,
            log_every: 300,
            hidden_sizes: vec![64],
            ..Default::default()
        };
        let mut learner = Gflownet::new(config, TB, LOG_Z, &setup("hyper_grid", "height = 4")).expect("it suits");
        let report = learner.step().expect("finite numbers");
        let l1 = learner.evaluate(&request(100)).expect("it suits").metrics.get("eval/l1").expect("exact");
        assert!(l1 < 0.08, "{replay:?}: {l1}");
        assert_eq!(report.episodes.len(), 16, "half of a batch is fresh");
    }
}

#[test]
fn samples_come_with_their_probability() {
    // In a tree one backward trajectory knows it exactly.
    for test_paths in [1, 10] {
        let config = GflownetConfig { test_paths, ..small() };
        let mut learner = Gflownet::new(config, TB, LOG_Z, &setup("strings_of_two", "")).expect("it suits");
        let exact = {
            let (graph, p) = learner.distribution().expect("seven states");
            let objects = graph.objects().map(|object| object.to_vec());
            objects.zip(p).map(|(object, p)| (format!("{} {} 2", object[0], object[1]), p)).collect::<Vec<_>>()
        };
        let drawn = learner.sample(50, 1).expect("finite").expect("it builds objects");
        assert_eq!(drawn.len(), 50);
        for object in &drawn {
            let (_, p) = exact.iter().find(|(text, _)| *text == object.object).expect("an object");
            assert!((object.log_prob - p.ln()).abs() < 1e-5, "{object:?} {p}");
        }
        assert_eq!(drawn, learner.sample(50, 1).expect("finite").expect("it builds objects"));
    }
}

#[test]
fn mean_rewards_are_compared_with_the_targets() {
    // Rewards 1 to 4: a uniform policy earns 2.5, R/Z earns 30/10.
    let mut learner = Gflownet::new(small(), TB, LOG_Z, &setup("strings_of_two", "")).expect("it suits");
    let mut snapshot = learner.save();
    let Some(Array::F32(params)) = snapshot.arrays.get_mut("params") else { panic!("no parameters") };
    params.fill(0.0);
    learner.load(&snapshot).expect("its own shapes");
    let judged = learner.evaluate(&request(20_000)).expect("it suits");
    let error = judged.metrics.get("eval/reward_error").expect("it is known");
    assert!((error - 0.5 / 3.0).abs() < 4.0 * 1.12 / 3.0 / 20_000f64.sqrt(), "{error}");
}

#[test]
fn sub_trajectories_weigh_as_the_setting_says() {
    let after = |mut learner: Box<dyn Learner>| {
        learner.step().expect("finite numbers");
        learner.policy()
    };
    let by_table = |lambda: f64| {
        let config = SubtbConfig { common: small(), lambda, forward_looking: false };
        after(config.build(&setup("strings_of_two", "")).expect("it suits"))
    };
    let objective = Objective::SubTrajectoryBalance { lambda: 2.0, forward_looking: false };
    let by_hand = Gflownet::new(small(), objective, LogZ::default(), &setup("strings_of_two", "")).expect("it suits");
    assert!(by_table(2.0) == after(Box::new(by_hand)) && by_table(2.0) != by_table(0.5));
}

#[test]
fn soft_q_learning_draws_by_errors_and_its_weights_rise_to_1() {
    let config =
        SoftDqnConfig { hidden_sizes: vec![8], priority: 0.6, importance: 0.4, log_every: 500, ..Default::default() };
    let mut learner = SoftDqn::new(config, &setup("strings_of_two", "")).expect("it suits");
    assert_eq!(learner.importance(), 0.4);
    learner.step().expect("finite numbers");
    assert!((learner.importance() - 0.7).abs() < 1e-12);
    let saved = learner.save();
    let Some(Array::F64(priorities)) = saved.arrays.get("replay_priorities") else { panic!("no priorities") };
    assert!(priorities[..100].iter().any(|&p| p != 1.0), "{:?}", &priorities[..100]);
}

#[test]
fn what_cannot_work_is_one_sentence() {
    let refusal = |config: GflownetConfig, objective, world: &str, settings: &str| -> String {
        match Gflownet::new(config, objective, LOG_Z, &setup(world, settings)) {
            Ok(_) => "accepted".into(),
            Err(error) => LearnError::to_string(&error),
        }
    };
    assert_eq!(
        refusal(small(), TB, "strings_of_two", "stuck = true"),
        "world `strings_of_two`: in state 1 -1 1 no action is legal and it is not terminal: a trajectory could not go on"
    );
    assert_eq!(
        refusal(small(), TB, "strings_of_two", "zero = true"),
        "world `strings_of_two`: in state 1 1 2 the log-reward is -inf: give rewards a positive floor"
    );
    assert_eq!(
        refusal(small(), FL_DB, "strings_of_two", ""),
        "world `strings_of_two`: it has no energies on unfinished objects, so flows cannot look forward: forward_looking = false"
    );
    let one = GflownetConfig { num_trajectories: 1, ..small() };
    assert_eq!(
        refusal(one, Objective::LogPartitionVariance, "hyper_grid", ""),
        "`num_trajectories = 1`: at least 2, since one trajectory has no variance"
    );
    let cut = GflownetConfig { cut_probability: 0.5, ..small() };
    assert!(refusal(cut, TB, "hyper_grid", "").contains("learns nothing from those that were cut"));
    let paths = GflownetConfig { backward_policy: BackwardPolicy::MaxEntropy, ..small() };
    assert!(refusal(paths, TB, "strings_of_two", "").contains("it does not count paths"));
    assert!(refusal(small(), Objective::ModifiedDetailedBalance, "set", "").contains("needs an exit from every state"));
    let learned = SoftDqnConfig { backward_policy: BackwardPolicy::Learned, ..small_soft_dqn() };
    let error = SoftDqn::new(learned, &setup("hyper_grid", "")).map(|_| ()).expect_err("refused").to_string();
    let rule = "rewards are made of it, so it stays as it is: `uniform` or `max_entropy`";
    assert_eq!(error, format!("`backward_policy = learned`: {rule}"));
    let mut env = setup("hyper_grid", "");
    env.env = EnvConfig::new("CartPole-v1");
    let error = Gflownet::new(small(), TB, LOG_Z, &env).map(|_| ()).expect_err("refused").to_string();
    assert!(error.ends_with("`CartPole-v1` is an environment: write [world.hyper_grid]"), "{error}");
}
