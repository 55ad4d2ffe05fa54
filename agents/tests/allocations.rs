//! Nothing is allocated in steady state: not by networks and optimisers, and not by a minibatch update.

#![allow(unsafe_code)] // an allocator is an unsafe trait; this one counts and passes on

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bregman_agents::bc::{Bc, BcConfig};
use bregman_agents::dataset::{Block, D4rlWriter, DatasetConfig};
use bregman_agents::gflownet::learner::{Gflownet, LogZ};
use bregman_agents::gflownet::objective::Objective;
use bregman_agents::gflownet::settings::GflownetConfig;
use bregman_agents::gflownet::soft_dqn::{SoftDqn, SoftDqnConfig};
use bregman_agents::iql::{Iql, IqlConfig};
use bregman_agents::learner::{Budget, DataSource, Learner, Setup};
use bregman_agents::mdpo_off::{MdpoOff, MdpoOffConfig};
use bregman_agents::nn::{Activation, Init, Mlp, Real, Twins};
use bregman_agents::odice::{GradientRule, Odice, OdiceConfig};
use bregman_agents::off_policy::OffPolicyConfig;
use bregman_agents::offline::OfflineConfig;
use bregman_agents::optim::{Adam, clip_grad_norm};
use bregman_agents::ppo::{Ppo, PpoConfig};
use bregman_agents::sac::{Sac, SacConfig};
use bregman_agents::td3_bc::{Td3Bc, Td3BcConfig};
use bregman_agents::workers::Workers;
use bregman_envs::hdf5::Dtype;
use bregman_envs::rng::NumpyRng;
use common::setup;

/// The system's allocator, counting what all threads ask of it.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counting is for one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// How often `work` asks for memory.
fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.load(Ordering::Relaxed);
    work();
    COUNT.load(Ordering::Relaxed) - before
}

/// The least of several counts: each worker's scratch grows when it first has to, a pool's queue now and then, and the test
/// runner's threads write their lines whenever they like.
fn quietest(count: impl FnMut() -> usize) -> usize {
    std::iter::repeat_with(count).take(10).min().expect("ten counts")
}

#[test]
fn the_allocator_counts() {
    let _alone = ALONE.lock();
    // So short a piece of work can fall whole into a moment in which the test runner writes a line.
    let counts = (0..1000).map(|_| allocations(|| drop(std::hint::black_box(vec![1u8; 100]))));
    assert_eq!(counts.min(), Some(1));
}

#[test]
fn passes_through_networks_and_optimiser_steps_allocate_nothing() {
    let _alone = ALONE.lock();
    for threads in [1, 2] {
        let workers = Workers::new(threads).expect("threads start");
        for mlp in [Mlp::new(&[17, 64, 64, 6], Activation::Tanh), Mlp::normalized(&[23, 256, 256, 1], Activation::Silu)]
        {
            let mut rng = NumpyRng::new(1);
            let twins = Twins::new(mlp.clone(), 2);
            let mut params: Vec<f32> = twins.init(Init::Uniform, &mut rng);
            let mut draw = |n: usize| (0..n).map(|_| f32::of(rng.standard_normal())).collect::<Vec<f32>>();
            let (input, d_output) = (draw(64 * mlp.num_inputs()), draw(2 * 64 * mlp.num_outputs()));
            let (mut workspace, mut grad) = (twins.workspace(64), vec![0.0; twins.num_params()]);
            let mut single = mlp.workspace::<f32>(64);
            let (mut scratch, mut row) = (Default::default(), vec![0.0; mlp.num_outputs()]);
            let mut adam = Adam::new(params.len(), 1e-5);
            let mut update = || {
                workers.run(|| {
                    for _ in 0..2 {
                        twins.forward(&params, &input, &mut workspace, &workers);
                        twins.backward(&params, &mut workspace, &d_output, &mut grad, &workers);
                        twins.backward_input(&params, &mut workspace, &d_output, &workers);
                        mlp.forward(twins.part(&params, 0), &input, &mut single);
                        mlp.jvp(twins.part(&params, 0), twins.part(&grad, 0), &mut single);
                        mlp.forward_row(twins.part(&params, 0), &input[..mlp.num_inputs()], &mut scratch, &mut row);
                        clip_grad_norm(&mut grad, Some(0.5));
                        adam.step(&mut params, &grad, 1e-3);
                    }
                });
            };
            assert_eq!(quietest(|| allocations(&mut update)), 0, "{threads} threads");
        }
    }
}

#[test]
fn ppo_minibatches_allocate_nothing() {
    let _alone = ALONE.lock();
    for threads in [1, 2] {
        // Iterations that differ in the number of minibatches alone: 8 per epoch.
        let per_iteration = [1, 11].map(|num_epochs| {
            let mut config = PpoConfig { batch_size: 32, num_epochs, ..Default::default() };
            config.common.num_steps = 128;
            let mut setup = setup("action");
            setup.threads = threads;
            let mut ppo = Ppo::learner(config, &setup).expect("the settings fit");
            quietest(|| allocations(|| drop(ppo.step().expect("finite numbers"))))
        });
        assert_eq!(per_iteration[0], per_iteration[1], "{threads} threads");
    }
}

#[test]
fn off_policy_gradient_steps_allocate_nothing() {
    let _alone = ALONE.lock();
    for (threads, agent) in [1, 2].into_iter().flat_map(|threads| ["sac", "mdpo_off"].map(|agent| (threads, agent))) {
        // Iterations that differ in the number of gradient steps alone.
        let per_iteration = [1.0, 11.0].map(|utd_ratio| {
            let common = OffPolicyConfig {
                utd_ratio,
                num_steps: 10,
                learning_starts: 10,
                batch_size: 32,
                hidden_sizes: vec![64, 64],
                n_step: 2,
                ..Default::default()
            };
            let mut setup = setup("target");
            setup.threads = threads;
            let mut learner: Box<dyn Learner> = match agent {
                "sac" => Box::new(Sac::learner(SacConfig { common, ..Default::default() }, &setup).expect("they fit")),
                _ => Box::new(
                    MdpoOff::learner(MdpoOffConfig { common, ..Default::default() }, &setup).expect("they fit"),
                ),
            };
            drop(learner.step().expect("finite numbers")); // the random steps
            quietest(|| allocations(|| drop(learner.step().expect("finite numbers"))))
        });
        assert_eq!(per_iteration[0], per_iteration[1], "{agent}, {threads} threads");
    }
}

/// Forty episodes of one step for the environment `bandit`, in a file.
fn offline_setup(threads: usize) -> Setup {
    let path = std::env::temp_dir().join(format!("bregman-allocations-{}.hdf5", std::process::id()));
    let n = 40;
    let numbers = |scale: f64| (0..n).map(|i| scale * f64::from(i)).collect::<Vec<f64>>();
    let (zeros, yes, no) = (numbers(0.0), vec![true; n as usize], vec![false; n as usize]);
    let mut writer = D4rlWriter::create(&path, 1, 1, Dtype::F32).expect("a writable temporary folder");
    let block = Block {
        obs: zeros.clone(),
        next_obs: zeros,
        action: numbers(0.05),
        reward: numbers(1.0),
        known: yes.clone(),
        terminated: yes.clone(),
        truncated: no,
        last: yes,
    };
    writer.push(&block).expect("writable");
    writer.finish(None, &[]).expect("writable");
    let mut setup = setup("bandit");
    setup.threads = threads;
    setup.dataset = Some(DataSource::new(DatasetConfig::new(&path.display().to_string())));
    setup.budget = Budget::GradSteps(1_000_000);
    setup
}

#[test]
fn offline_updates_allocate_nothing() {
    let _alone = ALONE.lock();
    type Make = fn(OfflineConfig, &Setup) -> Box<dyn Learner>;
    const WIDTHS: [usize; 1] = [16];
    fn odice(common: OfflineConfig, gradient: GradientRule, setup: &Setup) -> Box<dyn Learner> {
        let (hidden_sizes, value_hidden_sizes) = (WIDTHS.into(), WIDTHS.into());
        let config = OdiceConfig { common, gradient, hidden_sizes, value_hidden_sizes, ..Default::default() };
        Box::new(Odice::learner(config, setup).expect("the settings fit"))
    }
    let agents: [(&str, Make); 6] = [
        ("odice", |common, setup| odice(common, GradientRule::Orthogonal, setup)),
        ("odice, semi", |common, setup| odice(common, GradientRule::Semi, setup)),
        ("odice, true", |common, setup| odice(common, GradientRule::True, setup)),
        ("bc", |common, setup| {
            let config = BcConfig { common, hidden_sizes: WIDTHS.into(), ..Default::default() };
            Box::new(Bc::learner(config, setup).expect("the settings fit"))
        }),
        ("td3_bc", |common, setup| {
            let config = Td3BcConfig { common, hidden_sizes: WIDTHS.into(), ..Default::default() };
            Box::new(Td3Bc::learner(config, setup).expect("the settings fit"))
        }),
        ("iql", |common, setup| {
            let config = IqlConfig { common, hidden_sizes: WIDTHS.into(), ..Default::default() };
            Box::new(Iql::learner(config, setup).expect("the settings fit"))
        }),
    ];
    for (threads, (name, make)) in [1, 2].into_iter().flat_map(|threads| agents.map(|agent| (threads, agent))) {
        // Iterations that differ in the number of updates alone.
        let setup = offline_setup(threads);
        let per_iteration = [2, 22].map(|updates_per_iteration| {
            let common = OfflineConfig { batch_size: 32, updates_per_iteration, ..Default::default() };
            let mut learner = make(common, &setup);
            drop(learner.step().expect("finite numbers"));
            quietest(|| allocations(|| drop(learner.step().expect("finite numbers"))))
        });
        assert_eq!(per_iteration[0], per_iteration[1], "{name}, {threads} threads");
    }
}

#[test]
fn gflownet_iterations_allocate_nothing() {
    let _alone = ALONE.lock();
    let forward_looking = true;
    let objectives = [
        Objective::TrajectoryBalance,
        Objective::DetailedBalance { forward_looking },
        Objective::SubTrajectoryBalance { lambda: 0.9, forward_looking },
        Objective::LogPartitionVariance,
        Objective::FlowMatching,
    ];
    for (threads, objective) in [1, 2].into_iter().flat_map(|threads| objectives.map(|o| (threads, o))) {
        // Rows of the log that differ in the number of optimiser steps alone; layers whose products are shared.
        let per_row = [1, 11].map(|log_every| {
            let config = GflownetConfig { hidden_sizes: vec![256, 256], log_every, ..Default::default() };
            let mut learner = Gflownet::new(config, objective, LogZ::default(), &grid(threads)).expect("it suits");
            quietest(|| allocations(|| drop(learner.step().expect("finite numbers"))))
        });
        assert_eq!(per_row[0], per_row[1], "{objective:?}, {threads} threads");
    }
}

#[test]
fn soft_dqn_iterations_allocate_nothing() {
    let _alone = ALONE.lock();
    for (threads, priority) in [(1, 0.0), (2, 0.5)] {
        let per_row = [1, 11].map(|log_every| {
            let (hidden_sizes, buffer_size) = (vec![256, 256], 64);
            let config = SoftDqnConfig { hidden_sizes, buffer_size, priority, log_every, ..Default::default() };
            let mut learner = SoftDqn::new(config, &grid(threads)).expect("it suits");
            quietest(|| allocations(|| drop(learner.step().expect("finite numbers"))))
        });
        assert_eq!(per_row[0], per_row[1], "priority {priority}, {threads} threads");
    }
}

fn grid(threads: usize) -> Setup {
    let env = bregman_envs::EnvConfig::world("hyper_grid", Default::default(), &[]);
    Setup { threads, env, ..setup("action") }
}
