//! Every learner finds the known value and the known best action of the probe environments.

mod common;

use bregman_agents::critics::{Judge, TwinCritics};
use bregman_agents::fma_pg::{Divergence, FmaPg, FmaPgConfig, Representation};
use bregman_agents::inner::{InnerConfig, InnerOptimizer};
use bregman_agents::learner::{Budget, EvalRequest, LearnError, Learner, Setup};
use bregman_agents::mdpo::{Mdpo, MdpoConfig, StepSizeSchedule};
use bregman_agents::mdpo_off::{CriticForm, MdpoOff, MdpoOffConfig};
use bregman_agents::off_policy::{self, OffPolicy, OffPolicyConfig};
use bregman_agents::on_policy::{OnPolicy, OnPolicyConfig, Update};
use bregman_agents::ppo::{Ppo, PpoConfig};
use bregman_agents::sac::{Sac, SacConfig};
use bregman_agents::sso::{Sso, SsoConfig};
use bregman_agents::trpo::{KlDirection, Trpo, TrpoConfig};
use bregman_agents::value::ValueConfig;
use common::setup;

/// A small PPO without normalisers, after `iterations`.
fn trained(id: &str, gamma: f64, iterations: usize, change: fn(&mut PpoConfig)) -> OnPolicy<Ppo> {
    let mut config =
        PpoConfig { batch_size: 32, learning_rate: 3e-3, max_grad_norm: None, anneal_lr: true, ..Default::default() };
    config.common =
        OnPolicyConfig { num_steps: 64, gamma, normalize_obs: false, normalize_reward: false, ..config.common };
    change(&mut config);
    let mut setup = setup(id);
    setup.budget = Budget::EnvSteps(2 * 64 * iterations as u64);
    let mut ppo = Ppo::learner(config, &setup).expect("the settings fit");
    for _ in 0..iterations {
        ppo.step().expect("finite numbers");
    }
    ppo
}

fn value<U: Update>(agent: &OnPolicy<U>, obs: f64, expected: f32) {
    let value = agent.model().value_of(&[obs]);
    assert!((value - expected).abs() < 0.05 * expected.abs().max(1.0), "V({obs}) = {value}, not {expected}");
}

#[test]
fn an_evaluation_ends_where_nothing_ends_its_episodes() {
    let request = EvalRequest { episodes: 2, stochastic: false, seed: 1, max_episode_steps: None };
    let evaluation = trained("unending", 0.9, 1, |_| ()).evaluate(&request).expect("it evaluates");
    let episodes: Vec<(f64, u32)> =
        evaluation.episodes.iter().map(|episode| (episode.reward, episode.length)).collect();
    assert_eq!(episodes, [(1e5, 100_000); 2]);
    let sentence = "evaluation episode 0: cut after 100000 steps, because unending has no time limit: \
                    `eval.max_episode_steps` sets one";
    assert_eq!(evaluation.warning.as_deref(), Some(sentence));
    let evaluation = trained("endless", 0.9, 1, |_| ()).evaluate(&request).expect("it evaluates");
    assert_eq!((evaluation.episodes[0].length, evaluation.warning), (5, None));
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
fn an_entropy_bonus_widens_ppos_policy() {
    let std = |ent_coef| {
        let mut config = PpoConfig { ent_coef, ..Default::default() };
        config.common.num_steps = 64;
        let mut ppo = Ppo::learner(config, &setup("target")).expect("the settings fit");
        (0..10).for_each(|_| drop(ppo.step().expect("finite numbers")));
        ppo.model().mean_std().expect("real actions")
    };
    let (wide, narrow) = (std(10.0), std(-10.0));
    assert!(wide > 1.01 && narrow < 0.99, "{wide}, {narrow}");
}

#[test]
fn ppo_stops_before_the_step_at_one_and_a_half_times_its_target_kl() {
    // Two minibatches: the first has a KL of 0, as its policy is the one that acted, the second some k.
    let stepped = |target_kl| {
        let mut config = PpoConfig { num_epochs: 1, target_kl, learning_rate: 1e-2, ..Default::default() };
        (config.common.num_steps, config.batch_size) = (64, 64);
        let mut ppo = Ppo::learner(config, &setup("target")).expect("the settings fit");
        let metrics = ppo.step().expect("finite numbers").metrics;
        let number = |name| metrics.get(name).expect("it is logged");
        (number("train/n_updates"), 2.0 * number("train/approx_kl"))
    };
    let (free, k) = stepped(None);
    assert!(free == 2.0 && k > 1e-6, "{free}, {k}");
    assert_eq!(stepped(Some(k / 1.4)).0, 2.0);
    assert_eq!(stepped(Some(k / 1.6)).0, 1.0);
}

#[test]
fn one_network_for_both_learns_too() {
    let ppo = trained("product", 0.99, 30, |config| config.separate_networks = false);
    assert_eq!(ppo.model().best_action(&[-1.0]), [0.0]);
    assert_eq!(ppo.model().best_action(&[1.0]), [1.0]);
    value(&ppo, -1.0, 1.0);
    value(&ppo, 1.0, 1.0);
}

#[test]
fn actions_are_sent_within_the_bounds_where_they_are_clipped() {
    // σ = e⁴ = 55 in bounds of ±10, where −(a − 1)²/2 is at least −60.5.
    let least = |clip_actions| {
        let common = OnPolicyConfig {
            num_steps: 64,
            normalize_obs: false,
            normalize_reward: false,
            log_std_init: 4.0,
            clip_actions,
            ..Default::default()
        };
        let config = PpoConfig { common, ..Default::default() };
        let setup = Setup { histograms: true, ..setup("bandit") };
        let report = Ppo::learner(config, &setup).expect("the settings fit").step().expect("finite numbers");
        let drawn = report.histograms.iter().find(|(name, _)| name == "rollout/action").expect("they are kept");
        assert!(drawn.1.iter().any(|a| a.abs() > 20.0));
        report.episodes.iter().map(|episode| episode.reward).fold(0.0, f64::min)
    };
    assert_eq!(least(true), -60.5);
    assert!(least(false) < -100.0, "{}", least(false));
}

/// A small agent on `id`, after as many iterations, with what each logged.
fn logged<U: Update>(mut agent: OnPolicy<U>, iterations: usize, name: &str) -> Vec<f64> {
    let mut step = || agent.step().expect("finite numbers").metrics.get(name).expect("it is logged");
    (0..iterations).map(|_| step()).collect()
}

/// MDPO on a probe in rollouts of 2 · 64 rows, nothing normalised.
fn mirror(id: &str, budget: Budget, change: impl FnOnce(&mut MdpoConfig)) -> OnPolicy<Mdpo> {
    let mut config = MdpoConfig::default();
    config.common =
        OnPolicyConfig { num_steps: 64, normalize_obs: false, normalize_reward: false, ..config.common.clone() };
    change(&mut config);
    Mdpo::learner(config, &Setup { budget, ..setup(id) }).expect("the settings fit")
}

#[test]
fn mdpos_step_size_falls_over_the_budget_or_follows_the_kl() {
    // Ten iterations of 128 steps, or of 10 optimiser steps: 0.5 · (1 − k/10).
    for budget in [Budget::EnvSteps(1280), Budget::GradSteps(100)] {
        let found = logged(mirror("constant", budget, |config| config.step_size = 0.5), 3, "train/step_size");
        assert!(found.iter().zip([0.5, 0.45, 0.4]).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
    }
    // No KL is near its target: t doubles up to a thousand times what it was.
    let adaptive = |config: &mut MdpoConfig| {
        (config.step_size_schedule, config.target_kl) = (StepSizeSchedule::Adaptive, 1e9);
    };
    let found = logged(mirror("constant", Budget::EnvSteps(1 << 20), adaptive), 12, "train/step_size");
    assert_eq!((found[0], found[1], found[9], found[10], found[11]), (1.0, 2.0, 512.0, 1000.0, 1000.0));
}

#[test]
fn mdpos_entropy_bonus_has_a_sign() {
    let std = |ent_coef| {
        let agent = mirror("constant_box", Budget::EnvSteps(1 << 20), |config| {
            (config.ent_coef, config.inner.learning_rate) = (ent_coef, 1e-2);
        });
        logged(agent, 1, "train/std")[0]
    };
    assert!(std(10.0) > 1.05 && std(-10.0) < 0.95, "{} {}", std(10.0), std(-10.0));
}

#[test]
fn full_batch_agents_count_their_steps_and_log_both_divergences() {
    // The observation is always 0, so that the policy is one Gaussian.
    fn check<U: Update>(mut agent: OnPolicy<U>, steps: u64) {
        let look = |agent: &OnPolicy<U>| {
            let std = agent.model().mean_std().expect("a free one");
            (f64::from(agent.model().best_action(&[0.0])[0]), std)
        };
        let (mean, std) = look(&agent);
        let metrics = agent.step().expect("finite numbers").metrics;
        let (new_mean, new_std) = look(&agent);
        assert!(((new_mean, new_std) != (mean, std)) && agent.progress().grad_steps == steps);
        let kl = |m: f64, s: f64, m0: f64, s0: f64| (s0 / s).ln() + (s * s + (m - m0).powi(2)) / (2.0 * s0 * s0) - 0.5;
        let (kl, forward_kl) = (kl(new_mean, new_std, mean, std), kl(mean, std, new_mean, new_std));
        let logged = |name| metrics.get(name).expect("it is logged");
        assert!((kl - forward_kl).abs() > 1e-2 * kl, "{kl} {forward_kl}");
        assert!((logged("train/kl") - kl).abs() < 1e-3 * kl, "{} is not {kl}", logged("train/kl"));
        assert!((logged("train/forward_kl") - forward_kl).abs() < 1e-3 * forward_kl);
    }
    let wide = |config: &mut OnPolicyConfig| {
        (config.normalize_obs, config.normalize_reward, config.num_steps) = (false, false, 64);
    };
    let mut trpo = TrpoConfig { target_kl: 0.3, ..Default::default() };
    wide(&mut trpo.common);
    check(Trpo::learner(trpo, &setup("bandit")).expect("the settings fit"), 1);
    let fast = |config: &mut MdpoConfig| (config.inner.learning_rate, config.step_size) = (3e-2, 10.0);
    check(mirror("bandit", Budget::EnvSteps(1 << 20), fast), 10);
}

#[test]
fn a_deviation_from_the_network_learns_too() {
    // On whole rollouts: from quarters of them the deviation falls faster than the mean arrives, on most seeds.
    let change = |config: &mut PpoConfig| (config.common.state_dependent_std, config.batch_size) = (true, 128);
    let action = trained("bandit", 0.99, 60, change).model().best_action(&[0.0])[0];
    assert!((action - 1.0).abs() < 0.1, "{action}");
}

#[test]
fn a_time_limit_does_not_end_the_world() {
    // Reward 1 for ever is worth 1/(1 − 0.9) = 10, although every episode is cut after 5 steps.
    value(&trained("endless", 0.9, 120, |_| ()), 0.0, 10.0);
    // Counted as an end, the same state is worth the mean over its place in the episode of (1 − 0.9^left)/(1 − 0.9).
    let mean = (1..=5).map(|left| (1.0 - 0.9f32.powi(left)) / 0.1).sum::<f32>() / 5.0;
    value(&trained("endless", 0.9, 120, |config| config.common.bootstrap_truncated = false), 0.0, mean);
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
        let mut config = PpoConfig::default();
        config.common.num_steps = 32;
        let mut ppo = Ppo::learner(config, &setup).expect("the settings fit");
        for _ in 0..3 {
            ppo.step().expect("finite numbers");
        }
        ppo.save()
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(8));
}

/// What the other on-policy agents share here.
fn small(gamma: f64) -> (OnPolicyConfig, InnerConfig, ValueConfig) {
    let common =
        OnPolicyConfig { num_steps: 64, gamma, normalize_obs: false, normalize_reward: false, ..Default::default() };
    let inner = InnerConfig { learning_rate: 3e-3, max_grad_norm: None, ..Default::default() };
    (common, inner, ValueConfig { vf_learning_rate: 3e-3, vf_batch_size: 32, vf_anneal_lr: true, ..Default::default() })
}

/// The probes that every on-policy agent solves, for one that is made from a discount.
fn solves_the_probes<U: Update>(make: impl Fn(f64, &Setup) -> Result<OnPolicy<U>, LearnError>) {
    let trained = |id: &str, gamma: f64, iterations: usize| {
        let mut setup = setup(id);
        setup.budget = Budget::EnvSteps(2 * 64 * iterations as u64);
        let mut agent = make(gamma, &setup).expect("the settings fit");
        for _ in 0..iterations {
            agent.step().expect("finite numbers");
        }
        agent
    };
    value(&trained("constant", 0.99, 20), 0.0, 1.0);
    let agent = trained("observed", 0.99, 30);
    value(&agent, -1.0, -1.0);
    value(&agent, 1.0, 1.0);
    let agent = trained("delayed", 0.9, 30);
    value(&agent, 0.0, 0.9);
    value(&agent, 1.0, 1.0);
    value(&trained("endless", 0.9, 120), 0.0, 10.0);
    let agent = trained("both", 0.9, 40);
    value(&agent, 0.0, 1.9);
    value(&agent, 1.0, 1.0);

    assert_eq!(trained("action", 0.99, 30).model().best_action(&[0.0]), [1.0]);
    let agent = trained("product", 0.99, 40);
    assert_eq!((agent.model().best_action(&[-1.0]), agent.model().best_action(&[1.0])), (vec![0.0], vec![1.0]));
    let action = trained("bandit", 0.99, 100).model().best_action(&[0.0])[0];
    assert!((action - 1.0).abs() < 0.1, "{action} in the bandit");
    let agent = trained("target", 0.99, 200);
    for obs in [-1.0, 1.0] {
        let action = agent.model().best_action(&[obs])[0];
        assert!((f64::from(action) - obs).abs() < 0.2, "{action} at {obs}");
    }
}

fn mdpo(gamma: f64, step_size_schedule: StepSizeSchedule, setup: &Setup) -> Result<OnPolicy<Mdpo>, LearnError> {
    let (common, inner, critic) = small(gamma);
    Mdpo::learner(
        MdpoConfig { common, inner, critic, step_size_schedule, target_kl: 0.03, ..Default::default() },
        setup,
    )
}

#[test]
fn mdpo_solves_the_probes() {
    solves_the_probes(|gamma, setup| mdpo(gamma, StepSizeSchedule::Linear, setup));
}

#[test]
fn mdpo_with_an_adaptive_step_size_solves_the_probes() {
    solves_the_probes(|gamma, setup| mdpo(gamma, StepSizeSchedule::Adaptive, setup));
}

fn trpo(gamma: f64, kl_direction: KlDirection, setup: &Setup) -> Result<OnPolicy<Trpo>, LearnError> {
    let (common, _, critic) = small(gamma);
    Trpo::learner(TrpoConfig { common, critic, kl_direction, target_kl: 0.02, ..Default::default() }, setup)
}

#[test]
fn trpo_solves_the_probes() {
    solves_the_probes(|gamma, setup| trpo(gamma, KlDirection::NewOld, setup));
}

#[test]
fn trpo_with_the_papers_direction_solves_the_probes() {
    solves_the_probes(|gamma, setup| trpo(gamma, KlDirection::OldNew, setup));
}

fn fma_pg(
    gamma: f64,
    (representation, divergence, inner_optimizer): (Representation, Divergence, InnerOptimizer),
    setup: &Setup,
) -> Result<OnPolicy<FmaPg>, LearnError> {
    let (common, inner, critic) = small(gamma);
    let inner = InnerConfig { inner_optimizer, ..inner };
    let config = FmaPgConfig { common, inner, critic, representation, divergence, eta: 0.3 };
    FmaPg::learner(config, setup)
}

#[test]
fn fma_pg_in_the_softmax_representation_solves_the_probes() {
    let kind = (Representation::Softmax, Divergence::Exact, InnerOptimizer::Adam);
    solves_the_probes(|gamma, setup| fma_pg(gamma, kind, setup));
}

#[test]
fn fma_pg_with_estimated_divergences_solves_the_probes() {
    let kind = (Representation::Softmax, Divergence::Estimated, InnerOptimizer::Adam);
    solves_the_probes(|gamma, setup| fma_pg(gamma, kind, setup));
}

#[test]
fn fma_pg_in_the_direct_representation_by_line_search_solves_the_probes() {
    let kind = (Representation::Direct, Divergence::Exact, InnerOptimizer::Armijo);
    solves_the_probes(|gamma, setup| fma_pg(gamma, kind, setup));
}

#[test]
fn sso_solves_the_probes() {
    solves_the_probes(|gamma, setup| {
        let (common, inner, critic) = small(gamma);
        Sso::learner(SsoConfig { common, inner, critic, eta: 0.2 }, setup)
    });
}

/// What off-policy agents share here: gradient steps of 32 rows after 100 random steps.
fn small_off_policy(gamma: f64) -> OffPolicyConfig {
    OffPolicyConfig {
        gamma,
        num_steps: 50,
        learning_starts: 100,
        buffer_size: 2000,
        batch_size: 32,
        tau: 0.05,
        learning_rate: 3e-3,
        q_learning_rate: 3e-3,
        hidden_sizes: vec![32, 32],
        ..Default::default()
    }
}

fn sac(id: &str, config: SacConfig, iterations: usize) -> OffPolicy<Sac> {
    let mut sac = Sac::learner(config, &setup(id)).expect("the settings fit");
    for _ in 0..iterations {
        sac.step().expect("finite numbers");
    }
    sac
}

fn q_value(critics: &TwinCritics, obs: f32, expected: f32) {
    for q in critics.values_of(&[obs], &[0.0]) {
        assert!((q - expected).abs() < 0.05 * expected.abs().max(1.0), "Q({obs}) = {q}, not {expected}");
    }
}

/// The probes that every off-policy agent solves, for one that is trained by environment, discount, temperature, n and
/// iterations.
fn solves_the_probes_off_policy<U: off_policy::Update>(
    trained: impl Fn(&str, (f64, usize), f64, usize) -> OffPolicy<U>,
    critics: impl Fn(&U) -> &TwinCritics,
) {
    let value = |id, returns, iterations, expected: &[(f32, f32)]| {
        let agent = trained(id, returns, 1e-3, iterations);
        expected.iter().for_each(|&(obs, value)| q_value(critics(agent.update()), obs, value));
    };
    value("constant_box", (0.99, 1), 10, &[(0.0, 1.0)]);
    value("observed_box", (0.99, 1), 10, &[(-1.0, -1.0), (1.0, 1.0)]);
    value("delayed_box", (0.9, 1), 15, &[(0.0, 0.9), (1.0, 1.0)]);
    // Reward 1 for ever is worth 10, although every episode is cut after 5 steps; an end that is also a time limit is an end.
    value("endless_box", (0.9, 1), 30, &[(0.0, 10.0)]);
    value("both_box", (0.9, 1), 20, &[(0.0, 1.9), (1.0, 1.0)]);
    value("endless_box", (0.9, 3), 20, &[(0.0, 10.0)]);
    value("both_box", (0.9, 3), 20, &[(0.0, 1.9), (1.0, 1.0)]);

    let action = trained("bandit", (0.99, 1), 0.5, 30).actor().best_action(&[0.0])[0];
    assert!((action - 1.0).abs() < 0.25, "{action} in the bandit");
    let agent = trained("target", (0.99, 1), 0.5, 100);
    for obs in [-1.0, 1.0] {
        let action = agent.actor().best_action(&[obs])[0];
        assert!((f64::from(action) - obs).abs() < 0.25, "{action} at {obs}");
    }
}

#[test]
fn sac_solves_the_probes() {
    let trained = |id: &str, (gamma, n_step): (f64, usize), alpha, iterations| {
        let common = OffPolicyConfig { n_step, ..small_off_policy(gamma) };
        sac(id, SacConfig { common, alpha, auto_alpha: false, ..Default::default() }, iterations)
    };
    solves_the_probes_off_policy(trained, Sac::critics);
}

fn mdpo_off(
    id: &str,
    (gamma, n_step): (f64, usize),
    lambda: f64,
    iterations: usize,
    change: fn(&mut MdpoOffConfig),
) -> OffPolicy<MdpoOff> {
    let common = OffPolicyConfig { n_step, ..small_off_policy(gamma) };
    let mut config =
        MdpoOffConfig { common, lambda, kl_coef: 2.0 * lambda, inner_steps: 50, policy_reg: 0.0, ..Default::default() };
    change(&mut config);
    let mut agent = MdpoOff::learner(config, &setup(id)).expect("the settings fit");
    for _ in 0..iterations {
        agent.step().expect("finite numbers");
    }
    agent
}

#[test]
fn off_policy_mdpo_solves_the_probes_with_v() {
    let trained = |id: &str, returns, lambda, iterations| mdpo_off(id, returns, lambda, iterations, |_| ());
    solves_the_probes_off_policy(trained, MdpoOff::critics);
}

#[test]
fn off_policy_mdpo_solves_the_probes_with_twin_target_q_and_tsallis_entropy() {
    let form = |c: &mut MdpoOffConfig| {
        (c.critic, c.actor_q, c.tsallis_q) = (CriticForm::TwinTargetQ, Judge::Min, 1.5);
    };
    let trained = |id: &str, returns, lambda, iterations| mdpo_off(id, returns, lambda, iterations, form);
    solves_the_probes_off_policy(trained, MdpoOff::critics);
}

#[test]
fn sac_brings_entropy_to_its_target_by_the_temperature() {
    // Q = −(10 a − 1)²/2 in units of [−1, 1], so the soft policy is normal with σ² = α/100. An entropy of −1 has
    // σ = exp(−1 − ln(2πe)/2) = 0.089, and so α = 0.79.
    let common = small_off_policy(0.99);
    let mut agent =
        sac("bandit", SacConfig { common, alpha: 3.0, alpha_learning_rate: 3e-3, ..Default::default() }, 60);
    let steps: Vec<_> = (0..10).map(|_| agent.step().expect("finite numbers").metrics).collect();
    let mean = |name: &str| steps.iter().filter_map(|metrics| metrics.get(name)).sum::<f64>() / 10.0;
    let (entropy, alpha) = (mean("train/entropy"), mean("train/ent_coef"));
    assert!((entropy + 1.0).abs() < 0.1 && (alpha - 0.79).abs() < 0.2, "{entropy} at {alpha}");
}

#[test]
fn the_number_of_threads_changes_no_bit_of_sac() {
    let run = |threads| {
        let mut setup = setup("target");
        (setup.threads, setup.env.num_envs) = (threads, 3);
        let common = OffPolicyConfig { num_steps: 60, ..small_off_policy(0.99) };
        let mut sac = Sac::learner(SacConfig { common, ..Default::default() }, &setup).expect("the settings fit");
        for _ in 0..3 {
            sac.step().expect("finite numbers");
        }
        sac.save()
    };
    assert!(run(1) == run(2) && run(1) == run(8));
}

#[test]
fn off_policy_mdpo_moves_at_its_step_size() {
    // Q = −(10 a − 1)²/2 in units of [−1, 1], near 0 almost a Gaussian mirror step: with λ = 0.5 every kl_coef ends at σ² = λ/100,
    // an entropy of ln(0.0707 √(2πe)) = −1.23, and one that weighs much is later there. An iteration of one that does is off by 0.1 and
    // more either way, so that the last half counts.
    let entropy = |kl_coef: f64, iterations: usize| {
        let change = |c: &mut MdpoOffConfig| (c.critic, c.actor_q) = (CriticForm::TwinTargetQ, Judge::Min);
        let common = small_off_policy(0.99);
        let mut config =
            MdpoOffConfig { common, lambda: 0.5, kl_coef, inner_steps: 50, policy_reg: 0.0, ..Default::default() };
        change(&mut config);
        let mut agent = MdpoOff::learner(config, &setup("bandit")).expect("the settings fit");
        let steps: Vec<_> = (0..iterations).map(|_| agent.step().expect("finite numbers").metrics).collect();
        let half = &steps[iterations / 2..];
        half.iter().map(|metrics| metrics.get("train/entropy").expect("it is logged")).sum::<f64>() / half.len() as f64
    };
    let ends = [0.5, 2.0].map(|kl_coef| entropy(kl_coef, 100));
    assert!(ends.iter().all(|end| (end + 1.23).abs() < 0.05), "{ends:?}");
    let early = [0.5, 200.0].map(|kl_coef| entropy(kl_coef, 10));
    assert!(early[1] > early[0] + 0.3, "{early:?}");
}

#[test]
fn stored_actions_are_in_units_of_their_bounds_from_the_first_one_on() {
    // Humanoid's torques are ±0.4.
    let mut setup = setup("Humanoid-v5");
    setup.env.num_envs = 1;
    let common = OffPolicyConfig {
        num_steps: 30,
        learning_starts: 20,
        batch_size: 4,
        hidden_sizes: vec![4],
        ..Default::default()
    };
    let mut sac = Sac::learner(SacConfig { common, ..Default::default() }, &setup).expect("the settings fit");
    sac.step().expect("finite numbers");
    let snapshot = sac.save();
    let rows = &snapshot.rows["replay"];
    let actions: Vec<f32> = rows.held().flat_map(|n| &rows.row(n)[348..348 + 17]).copied().collect();
    assert_eq!(actions.len(), 30 * 17);
    for actions in actions.chunks(10 * 17) {
        let largest = actions.iter().fold(0.0, |largest: f32, a| largest.max(a.abs()));
        assert!((0.9..=1.0).contains(&largest), "{largest}");
    }
}
