//! Soft DQN: a GFlowNet as entropy-regularised reinforcement learning (Tiapkin et al. 2024, arXiv:2310.12934).
//!
//! Building an object is an episode with reward ln P_B(s|s′) at every step and ln R(x) more at the last, discount 1, and entropy
//! coefficient 1. Its soft-optimal values are log flows: Q*(s, a) = ln F(s → s′), V*(s) = ln F(s), V*(s₀) = ln Z, and π* = P_F.
//!
//! Munchausen DQN (Vieillard et al. 2020, arXiv:2007.14430) also pays α κ ln π(a|s). With κ = 1/(1 − α) as its temperature the
//! effective one stays 1: π = softmax(Q/κ), V(s) = κ ln Σ exp(Q(s, a)/κ), and the solution Q = κ Q* − α κ V* has the policy and
//! V of α = 0. The networks give Q/κ, the policy's logits, so that sampling and judging know nothing of κ.

use std::sync::Arc;

use bregman_envs::rng::{NumpyRng, Seed};
use bregman_envs::world::{World, check_world};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::discoveries::{Discoveries, Sums};
use super::evaluate::Judge;
use super::learner::{counts_paths, make_world};
use super::pass::{FlowNetworks, NetworkShape, Pass};
use super::sampler::{BackwardPolicy, Behaviour, Sampler};
use crate::check;
use crate::learner::{Array, Drawn, EvalRequest, Evaluation, LearnError, Learner, Progress, Report, Setup, Snapshot};
use crate::nn::{Activation, Real};
use crate::on_policy::load_stream;
use crate::optim::{Adam, clip_grad_norm};
use crate::optional;
use crate::priorities::Drawing;
use crate::registry::AgentConfig;
use crate::rows::Rows;
use crate::workers::Workers;

/// Settings of soft DQN; defaults as in the authors' HyperGrid experiments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct SoftDqnConfig {
    /// Trajectories that are drawn before each optimiser step.
    pub num_trajectories: usize,
    /// As many times that is done before the first one.
    pub learning_starts: usize,
    /// Widths of the hidden layers.
    pub hidden_sizes: Vec<usize>,
    /// Between the layers: `tanh`, `relu`, `elu` or `silu`.
    pub activation: Activation,
    /// P_B, which rewards are made of: `uniform` over edges, or `max_entropy` (every path to a state alike).
    pub backward_policy: BackwardPolicy,
    /// Munchausen's α, in [0, 1): the part of κ ln π(a|s) that rewards are raised by; 0 is soft DQN.
    pub munchausen_alpha: f64,
    /// Least value of κ ln π(a|s) there, l₀.
    pub munchausen_clip: f64,
    /// Weight of transitions that end a trajectory; others weigh 1.
    pub leaf_coef: f64,
    /// Transitions that the replay buffer holds.
    pub buffer_size: usize,
    /// Transitions per optimiser step.
    pub batch_size: usize,
    /// Exponent of the priorities that transitions are drawn by, made from their last errors, in [0, 1]; 0 draws evenly.
    pub priority: f64,
    /// Exponent of the weights that make up for priorities, as it starts; it rises to 1 over the budget.
    pub importance: f64,
    /// Weight of the new parameters in the target network, in [0, 1]; 1 copies them.
    pub tau: f64,
    /// Optimiser steps from one change of the target network to the next.
    pub target_every: usize,
    /// Adam's step size at the start.
    pub learning_rate: f64,
    /// Let the step size fall linearly to 0 over the budget.
    pub anneal_lr: bool,
    /// Adam's ε.
    pub adam_eps: f64,
    /// Bound on the gradient's norm; "none" leaves it free.
    #[serde(with = "optional")]
    pub max_grad_norm: Option<f64>,
    /// Part of training actions that are uniform over legal ones.
    pub epsilon: f64,
    /// Let ε fall linearly to 0 over the budget.
    pub anneal_epsilon: bool,
    /// Optimiser steps per row of the log.
    pub log_every: usize,
    /// States up to which evaluation enumerates the world.
    pub exact_states: usize,
    /// Objects on which evaluation correlates probability and reward; 0 leaves it out.
    pub test_objects: usize,
    /// Backward trajectories per such object.
    pub test_paths: usize,
}

impl Default for SoftDqnConfig {
    fn default() -> SoftDqnConfig {
        SoftDqnConfig {
            num_trajectories: 16,
            learning_starts: 16,
            hidden_sizes: vec![256, 256],
            activation: Activation::Relu,
            backward_policy: BackwardPolicy::Uniform,
            munchausen_alpha: 0.0,
            munchausen_clip: -100.0,
            leaf_coef: 1.0,
            buffer_size: 100_000,
            batch_size: 256,
            priority: 0.5,
            importance: 0.0,
            tau: 0.25,
            target_every: 1,
            learning_rate: 1e-3,
            anneal_lr: false,
            adam_eps: 1e-8,
            max_grad_norm: None,
            epsilon: 0.0,
            anneal_epsilon: false,
            log_every: 100,
            exact_states: 200_000,
            test_objects: 0,
            test_paths: 10,
        }
    }
}

impl SoftDqnConfig {
    /// The equation that Q is fitted to.
    pub fn bellman(&self) -> SoftBellman {
        let alpha = self.munchausen_alpha;
        SoftBellman { kappa: 1.0 / (1.0 - alpha), alpha, clip: self.munchausen_clip, leaf_coef: self.leaf_coef }
    }
}

impl AgentConfig for SoftDqnConfig {
    fn validate(&self) -> Result<(), LearnError> {
        check::count("num_trajectories", self.num_trajectories)?;
        check::widths("hidden_sizes", &self.hidden_sizes)?;
        let rule = "rewards are made of it, so it stays as it is: `uniform` or `max_entropy`";
        check::rule(self.backward_policy != BackwardPolicy::Learned, "backward_policy", "learned", rule)?;
        let (alpha, rule) = (self.munchausen_alpha, "at least 0 and below 1");
        check::rule((0.0..1.0).contains(&alpha), "munchausen_alpha", alpha, rule)?;
        let (clip, rule) = (self.munchausen_clip, "a finite number of at most 0, -100 as a rule");
        check::rule(clip <= 0.0 && clip.is_finite(), "munchausen_clip", clip, rule)?;
        check::positive("leaf_coef", self.leaf_coef, "1")?;
        check::count("buffer_size", self.buffer_size)?;
        check::count("batch_size", self.batch_size)?;
        check::fraction("priority", self.priority, "an exponent")?;
        check::fraction("importance", self.importance, "an exponent")?;
        check::fraction("tau", self.tau, "a weight")?;
        check::count("target_every", self.target_every)?;
        check::positive("learning_rate", self.learning_rate, "0.001")?;
        check::positive("adam_eps", self.adam_eps, "1e-8")?;
        check::positive_or_none("max_grad_norm", self.max_grad_norm)?;
        check::fraction("epsilon", self.epsilon, "a part of actions")?;
        check::count("log_every", self.log_every)?;
        check::count("test_paths", self.test_paths)
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(SoftDqn::new(self, setup)?))
    }
}

/// Soft DQN in training: one iteration draws trajectories into the replay buffer and takes one optimiser step on a minibatch of
/// their transitions.
pub struct SoftDqn {
    config: SoftDqnConfig,
    setup: Setup,
    world: Arc<dyn World>,
    sampler: Sampler<f32>,
    /// The target network's pass.
    target_pass: Pass<f32>,
    params: Vec<f32>,
    target: Vec<f32>,
    grad: Vec<f32>,
    adam: Adam,
    rng: NumpyRng,
    replay: Transitions,
    batch: Minibatch,
    discoveries: Discoveries,
    judge: Judge,
    progress: Progress,
    workers: Arc<Workers>,
}

impl SoftDqn {
    /// Fresh networks in a world.
    ///
    /// # Errors
    /// Settings out of range or that do not fit the world, or a world that contradicts itself.
    pub fn new(config: SoftDqnConfig, setup: &Setup) -> Result<SoftDqn, LearnError> {
        config.validate()?;
        setup.on_processor()?;
        let world = make_world(setup)?;
        counts_paths(config.backward_policy, world.as_ref())?;
        check_world(world.as_ref(), 8, setup.seed)?;
        let seed = Seed(setup.seed);
        let shape = NetworkShape {
            hidden_sizes: config.hidden_sizes.clone(),
            activation: config.activation,
            tied: true,
            backward: false,
            flow: false,
        };
        let nets = FlowNetworks::new(world.spec(), &shape);
        let params: Vec<f32> = nets.init(&mut seed.stream("init", 0));
        let at_most =
            |rows: usize| world.spec().num_states.map_or(rows, |states| rows.min((states as usize).saturating_add(1)));
        let drawn = Sampler::<f32>::rows_for(world.as_ref(), config.num_trajectories);
        let rows = at_most(drawn.max(config.batch_size));
        let workers = Arc::new(Workers::new(setup.threads)?);
        let target_pass = Pass::new(world.clone(), nets.clone(), at_most(2 * config.batch_size), workers.clone());
        let (room, shared) = (config.num_trajectories, workers.clone());
        let sampler = Sampler::new(world.clone(), nets, config.backward_policy, false, room, rows, shared);
        Ok(SoftDqn {
            target: params.clone(),
            grad: vec![0.0; params.len()],
            adam: Adam::new(params.len(), config.adam_eps),
            rng: seed.stream("trajectories", 0),
            replay: Transitions::new(world.clone(), config.buffer_size, config.priority),
            batch: Minibatch::new(world.as_ref(), config.batch_size),
            discoveries: Discoveries::new(world.clone()),
            judge: Judge::new(world.clone(), config.exact_states, config.test_objects, config.test_paths),
            progress: Progress::default(),
            workers,
            setup: setup.clone(),
            world,
            sampler,
            target_pass,
            params,
            config,
        })
    }

    /// ln Z as it is learned: V(s₀) = κ ln Σ exp(Q(s₀, a)/κ).
    pub fn log_z(&mut self) -> f64 {
        let mut initial = vec![0; self.world.spec().state_len];
        self.world.initial(&mut initial);
        let pass = &mut self.sampler.pass;
        pass.clear();
        let row = pass.row_of(&initial);
        pass.evaluate(&self.params);
        self.config.bellman().value(pass, row)
    }

    fn left(&self) -> f64 {
        1.0 - self.setup.budget.spent(&self.progress)
    }

    fn epsilon(&self) -> f64 {
        self.config.epsilon * if self.config.anneal_epsilon { self.left() } else { 1.0 }
    }

    /// From the setting to 1 over the budget.
    pub fn importance(&self) -> f64 {
        self.config.importance + (1.0 - self.config.importance) * (1.0 - self.left())
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate * if self.config.anneal_lr { self.left() } else { 1.0 }
    }

    /// Draws trajectories into the replay buffer.
    fn collect(&mut self, sums: &mut Sums) -> Result<(), LearnError> {
        let behaviour = Behaviour { epsilon: self.epsilon(), temperature: 1.0 };
        self.sampler.sample(&self.params, self.config.num_trajectories, behaviour, &mut self.rng)?;
        self.sampler.finish(&self.params)?;
        self.replay.take(&self.sampler)?;
        sums.count(&self.sampler, self.config.num_trajectories, &mut self.progress);
        sums.look(&self.sampler);
        for b in 0..self.config.num_trajectories {
            if let Some((object, log_reward)) = self.sampler.object(b) {
                self.discoveries.add(object, log_reward);
            }
        }
        Ok(())
    }

    /// Trajectories, and one optimiser step.
    fn iterate(&mut self, sums: &mut Sums) -> Result<(), LearnError> {
        let before = (self.config.learning_starts * self.config.num_trajectories) as u64;
        self.collect(sums)?;
        while self.progress.episodes <= before {
            self.collect(sums)?;
        }
        self.update(sums)
    }

    /// One optimiser step on a minibatch.
    fn update(&mut self, sums: &mut Sums) -> Result<(), LearnError> {
        self.replay.draw(self.importance(), &mut self.rng, &mut self.batch);
        let bellman = self.config.bellman();
        let networks = [(&mut self.sampler.pass, &self.params[..]), (&mut self.target_pass, &self.target[..])];
        let loss = loss(networks, &bellman, &mut self.batch);
        if !loss.is_finite() {
            let Progress { grad_steps, env_steps, .. } = self.progress;
            let (what, iteration) = ("loss".into(), grad_steps + 1);
            return Err(LearnError::NonFinite { what, value: loss, iteration, env_steps });
        }
        self.replay.drawing.reprioritize(&self.batch.row, &self.batch.error);
        self.sampler.pass.backward(&self.params, &mut self.grad);
        let norm = clip_grad_norm(&mut self.grad, self.config.max_grad_norm);
        let learning_rate = self.learning_rate();
        self.adam.step_on(&mut self.params, &self.grad, learning_rate, &self.workers);
        self.progress.grad_steps += 1;
        if self.progress.grad_steps.is_multiple_of(self.config.target_every as u64) {
            let tau = self.config.tau as f32;
            self.target.iter_mut().zip(&self.params).for_each(|(old, &new)| *old += tau * (new - *old));
        }
        sums.step(loss, norm);
        Ok(())
    }
}

impl Learner for SoftDqn {
    fn step(&mut self) -> Result<Report, LearnError> {
        self.workers.clone().run(|| {
            let mut sums = Sums::default();
            loop {
                self.iterate(&mut sums)?;
                let due = self.progress.grad_steps.is_multiple_of(self.config.log_every as u64);
                if due || self.left() <= 0.0 {
                    break;
                }
            }
            self.progress.iterations += 1;
            let (log_z, rates) = (self.log_z(), [self.learning_rate(), self.epsilon()]);
            Ok(sums.report(&self.sampler.batch, &self.discoveries, log_z, rates, &self.progress))
        })
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError> {
        let log_z = self.log_z();
        let SoftDqn { judge, sampler, params, workers, .. } = self;
        workers.run(|| judge.evaluate(sampler, params, Some(log_z), request))
    }

    fn sample(&mut self, count: usize, seed: u64) -> Result<Option<Vec<Drawn>>, LearnError> {
        let SoftDqn { judge, sampler, params, workers, .. } = self;
        workers.run(|| judge.draw(sampler, params, count, seed)).map(Some)
    }

    fn save(&self) -> Snapshot {
        let mut snapshot = self.policy();
        snapshot.put("target", Array::F32(self.target.clone()));
        self.adam.save("adam", &mut snapshot);
        snapshot.rows.insert("replay".into(), self.replay.rows.clone());
        self.replay.drawing.save(&self.replay.rows, &mut snapshot);
        self.discoveries.save(&mut snapshot);
        snapshot.state.insert("trajectories".into(), self.rng.save().into());
        snapshot.state.insert("progress".into(), serde_json::json!(self.progress));
        snapshot
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError> {
        snapshot.f32_into("params", &mut self.params)?;
        snapshot.f32_into("target", &mut self.target)?;
        self.adam.load("adam", snapshot)?;
        self.replay.rows.load("replay", snapshot)?;
        self.replay.drawing.load(&self.replay.rows, snapshot)?;
        self.discoveries.load(snapshot)?;
        self.rng = load_stream(snapshot, "trajectories")?;
        self.progress = snapshot.get("progress")?;
        Ok(Vec::new())
    }

    fn policy(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.put("params", Array::F32(self.params.clone()));
        snapshot
    }
}

/// What Q is fitted to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftBellman {
    /// Temperature of policy and values, 1/(1 − α).
    pub kappa: f64,
    /// Munchausen's α.
    pub alpha: f64,
    /// l₀, the least value of κ ln π.
    pub clip: f64,
    /// Weight of transitions that end a trajectory.
    pub leaf_coef: f64,
}

impl SoftBellman {
    /// V(s) = κ ln Σ exp(Q(s, a)/κ) over legal actions, of an evaluated row.
    pub fn value<T: Real>(&self, pass: &Pass<T>, row: usize) -> f64 {
        self.kappa * pass.log_norm(row)
    }

    /// Q(s, a).
    pub fn q_value<T: Real>(&self, pass: &Pass<T>, row: usize, action: usize) -> f64 {
        self.kappa * pass.logit(row, action)
    }

    /// α max(κ ln π(a|s), l₀), by which Munchausen DQN raises rewards.
    pub fn bonus<T: Real>(&self, pass: &Pass<T>, row: usize, action: usize) -> f64 {
        self.alpha * (self.kappa * pass.log_pf(row, action)).max(self.clip)
    }
}

/// Transitions of a minibatch.
#[derive(Clone, Debug, Default)]
pub struct Minibatch {
    /// Numbers of the rows in the buffer, `[B]`.
    pub row: Vec<u64>,
    /// Weights that make up for priorities, `[B]`.
    pub weight: Vec<f32>,
    /// `[B, state_len]`.
    pub state: Vec<i32>,
    /// `[B]`.
    pub action: Vec<usize>,
    /// `[B, state_len]`.
    pub next: Vec<i32>,
    /// ln P_B(s|s′), and ln R(s′) more where s′ is terminal, `[B]`.
    pub reward: Vec<f64>,
    /// `[B]`.
    pub terminal: Vec<bool>,
    /// Q − y of the last loss, `[B]`.
    pub error: Vec<f32>,
}

impl Minibatch {
    /// Room for `batch_size` transitions.
    pub fn new(world: &dyn World, batch_size: usize) -> Minibatch {
        let states = vec![0; batch_size * world.spec().state_len];
        Minibatch {
            row: vec![0; batch_size],
            weight: vec![1.0; batch_size],
            state: states.clone(),
            action: vec![0; batch_size],
            next: states,
            reward: vec![0.0; batch_size],
            terminal: vec![false; batch_size],
            error: vec![0.0; batch_size],
        }
    }
}

/// The replay buffer. A row is the bits of a state's integers and of the action, and the reward; the world knows what follows.
pub struct Transitions {
    world: Arc<dyn World>,
    rows: Rows,
    drawing: Drawing,
}

impl Transitions {
    /// For the last `capacity` transitions, drawn by priorities to the power of `priority`.
    pub fn new(world: Arc<dyn World>, capacity: usize, priority: f64) -> Transitions {
        let rows = Rows::new(world.spec().state_len + 2, capacity);
        Transitions { drawing: Drawing::new(priority, capacity), rows, world }
    }

    /// Takes in the transitions of a finished batch.
    pub fn take<T: Real>(&mut self, sampler: &Sampler<T>) -> Result<(), LearnError> {
        let batch = &sampler.batch;
        for b in 0..batch.count() {
            for (t, step) in batch.steps(b).enumerate() {
                let last = t + 1 == batch.len[b];
                let log_reward = batch.reward_of(b).filter(|_| last).unwrap_or_default();
                let state = sampler.pass.state(batch.row[batch.place(b, t)].unwrap_or_default());
                let row = self.rows.push()?;
                row.iter_mut().zip(state).for_each(|(to, &x)| *to = f32::from_bits(x as u32));
                row[state.len()] = f32::from_bits(batch.action[step] as u32);
                row[state.len() + 1] = (batch.log_pb[step] + log_reward) as f32;
                self.drawing.add(self.rows.held().end - 1);
            }
        }
        Ok(())
    }

    /// Draws as many transitions as the minibatch has room for, with replacement.
    pub fn draw(&self, importance: f64, rng: &mut NumpyRng, batch: &mut Minibatch) {
        let len = self.world.spec().state_len;
        self.drawing.draw(self.rows.held(), importance, rng, &mut batch.row, &mut batch.weight);
        for (i, &number) in batch.row.iter().enumerate() {
            let row = self.rows.row(number);
            let state = &mut batch.state[i * len..(i + 1) * len];
            let next = &mut batch.next[i * len..(i + 1) * len];
            state.iter_mut().zip(row).for_each(|(to, x)| *to = x.to_bits() as i32);
            next.copy_from_slice(state);
            batch.action[i] = row[len].to_bits() as usize;
            batch.reward[i] = row[len + 1].into();
            self.world.apply(next, batch.action[i]);
            batch.terminal[i] = self.world.is_terminal(next);
        }
    }
}

/// Mean of w H(Q(s, a) − y) over a minibatch, with y = r + α max(κ ln π̄(a|s), l₀) + V̄(s′), V̄ = 0 on terminal states, bars for
/// the target network, and H Huber's function. Its gradient is left in the pass of the first network, the second being the
/// target, and Q − y in the minibatch.
pub fn loss<T: Real>(
    [(online, params), (target, target_params)]: [(&mut Pass<T>, &[T]); 2],
    bellman: &SoftBellman,
    batch: &mut Minibatch,
) -> f64 {
    let (count, len) = (batch.action.len(), batch.state.len() / batch.action.len());
    let at = |i: usize| i * len..(i + 1) * len;
    online.clear();
    target.clear();
    for i in 0..count {
        online.row_of(&batch.state[at(i)]);
        if bellman.alpha > 0.0 {
            target.row_of(&batch.state[at(i)]);
        }
        if !batch.terminal[i] {
            target.row_of(&batch.next[at(i)]);
        }
    }
    online.evaluate(params);
    target.evaluate(target_params);
    let mut sum = 0.0;
    for i in 0..count {
        let (row, action) = (online.row_of(&batch.state[at(i)]), batch.action[i]);
        let mut y = batch.reward[i];
        if bellman.alpha > 0.0 {
            let row = target.row_of(&batch.state[at(i)]);
            y += bellman.bonus(target, row, action);
        }
        if !batch.terminal[i] {
            let row = target.row_of(&batch.next[at(i)]);
            y += bellman.value(target, row);
        }
        let error = bellman.q_value(online, row, action) - y;
        let (h, slope) = huber(error);
        let leaf = if batch.terminal[i] { bellman.leaf_coef } else { 1.0 };
        let weight = leaf * f64::from(batch.weight[i]) / count as f64;
        sum += weight * h;
        online.add_logit(row, action, weight * slope * bellman.kappa);
        batch.error[i] = error as f32;
    }
    sum
}

/// Huber's function, e²/2 up to |e| = 1 and |e| − ½ beyond, and its slope.
pub fn huber(error: f64) -> (f64, f64) {
    match error.abs() <= 1.0 {
        true => (0.5 * error * error, error),
        false => (error.abs() - 0.5, error.signum()),
    }
}
