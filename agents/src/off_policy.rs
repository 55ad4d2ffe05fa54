//! What off-policy agents share: one environment step and its gradient steps, around one [`Update`].
//!
//! Every step of every environment goes into the replay buffer. Before `learning_starts` steps actions are even over the box and
//! nothing is learnt; from then on `utd_ratio` gradient steps follow each environment step, on minibatches drawn from the
//! buffer. An episode cut by a time limit bootstraps from its last state. Observations and rewards are used as they come.

use std::sync::Arc;

use bregman_envs::rng::{NumpyRng, Seed};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::evaluate::{Played, evaluate, play};
use crate::learner::{
    Budget, EvalRequest, Evaluation, LearnError, Learner, Metrics, Progress, Report, Setup, Snapshot,
};
use crate::nn::{Activation, Device, Mlp, Precision};
use crate::on_policy::load_stream;
use crate::policy::PolicyChain;
use crate::replay::{ReplayBatch, ReplayBuffer, Returns};
use crate::rollout::{Act, Runner};
use crate::squashed::{Even, LogStd, LogStdBound, SquashedActor};
use crate::storage::Storage;
use crate::workers::Workers;

/// Settings of every off-policy agent; defaults after Haarnoja et al. 2018, Table 1, and RL-Zoo, which agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct OffPolicyConfig {
    /// Steps of each environment per iteration: how often numbers are logged, and where a run can be stopped.
    pub num_steps: usize,
    /// Environment steps, all environments together, before the first gradient step; actions are even over the box until then.
    pub learning_starts: usize,
    /// Gradient steps per environment step.
    pub utd_ratio: f64,
    /// Environment steps, all environments together, between rounds of gradient steps.
    pub train_freq: usize,
    /// Transitions that the replay buffer holds.
    pub buffer_size: usize,
    /// Where they are kept: `memory`, `disk`, or `auto`, on disk if all of them would take more than half of the free memory.
    pub buffer_storage: Storage,
    /// Transitions per gradient step.
    pub batch_size: usize,
    /// Rewards that a target adds up before it counts on the value of a state, n.
    pub n_step: usize,
    /// Exponent of the priorities that transitions are drawn by, made from their last errors, in [0, 1]; 0 draws evenly.
    pub priority: f64,
    /// Exponent of the weights that make up for priorities, as it starts; it rises to 1 over the budget.
    pub importance: f64,
    /// Discount per step, in [0, 1].
    pub gamma: f64,
    /// Weight of the new parameters in target networks, in [0, 1].
    pub tau: f64,
    /// Adam's step size for the policy.
    pub learning_rate: f64,
    /// Adam's step size for the critics.
    pub q_learning_rate: f64,
    /// Adam's ε.
    pub adam_eps: f64,
    /// Widths of the hidden layers, of policy and critics alike.
    pub hidden_sizes: Vec<usize>,
    /// Between the layers: `tanh`, `relu`, `elu` or `silu`.
    pub activation: Activation,
    /// Least ln σ of the policy.
    pub log_std_min: f64,
    /// Largest ln σ of the policy.
    pub log_std_max: f64,
    /// How ln σ is kept between them: `clamp`, or `tanh` of the network's output stretched over the interval.
    pub log_std_bound: LogStdBound,
    /// Products between hidden layers in gradient steps: `f32`, or `bf16` where the device multiplies such. Actions are in `f32`.
    pub precision: Precision,
}

impl Default for OffPolicyConfig {
    fn default() -> OffPolicyConfig {
        OffPolicyConfig {
            num_steps: 1000,
            learning_starts: 10_000,
            utd_ratio: 1.0,
            train_freq: 1,
            buffer_size: 1_000_000,
            buffer_storage: Storage::Auto,
            batch_size: 256,
            n_step: 1,
            priority: 0.0,
            importance: 0.4,
            gamma: 0.99,
            tau: 0.005,
            learning_rate: 3e-4,
            q_learning_rate: 3e-4,
            adam_eps: 1e-8,
            hidden_sizes: vec![256, 256],
            activation: Activation::Relu,
            log_std_min: -20.0,
            log_std_max: 2.0,
            log_std_bound: LogStdBound::Clamp,
            precision: Precision::F32,
        }
    }
}

impl OffPolicyConfig {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), LearnError> {
        check::count("num_steps", self.num_steps)?;
        check::positive("utd_ratio", self.utd_ratio, "1")?;
        check::count("train_freq", self.train_freq)?;
        check::count("buffer_size", self.buffer_size)?;
        check::count("batch_size", self.batch_size)?;
        check::count("n_step", self.n_step)?;
        check::fraction("priority", self.priority, "an exponent")?;
        check::fraction("importance", self.importance, "an exponent")?;
        check::fraction("gamma", self.gamma, "a discount")?;
        check::fraction("tau", self.tau, "a weight")?;
        check::positive("learning_rate", self.learning_rate, "3e-4")?;
        check::positive("q_learning_rate", self.q_learning_rate, "3e-4")?;
        check::positive("adam_eps", self.adam_eps, "1e-8")?;
        let widths = format!("{:?}", self.hidden_sizes);
        let rule = "widths of at least 1, as [256, 256]";
        check::rule(self.hidden_sizes.iter().all(|&w| w > 0), "hidden_sizes", widths, rule)?;
        check::finite("log_std_min", self.log_std_min, "-20")?;
        check::finite("log_std_max", self.log_std_max, "2")?;
        let rule = format!("below log_std_max = {}", self.log_std_max);
        check::rule(self.log_std_min < self.log_std_max, "log_std_min", self.log_std_min, &rule)
    }

    /// A network with these hidden layers, on `device`.
    pub fn network(&self, inputs: usize, outputs: usize, device: Device) -> Mlp {
        let widths = [&[inputs], &self.hidden_sizes[..], &[outputs]].concat();
        Mlp::new(&widths, self.activation).on(device).with_precision(self.precision)
    }

    /// The gradient steps that are due after so many environment steps.
    fn due(&self, env_steps: u64) -> u64 {
        let learning = env_steps.saturating_sub(self.learning_starts as u64);
        (self.utd_ratio * (learning - learning % self.train_freq as u64) as f64) as u64
    }
}

/// How an algorithm turns minibatches into a better policy.
pub trait Update: Send {
    /// Whether actions are drawn while learning, rather than the most probable ones taken.
    fn draws_actions(&self) -> bool {
        true
    }

    /// One gradient step.
    ///
    /// # Errors
    /// A number stops being finite.
    fn update(&mut self, agent: &mut Agent, batch: &ReplayBatch) -> Result<(), LearnError>;

    /// How far each row of the last minibatch was from its target, `[B]`: what priorities are made from.
    fn errors(&self) -> &[f32];

    /// Adds what to log of the gradient steps since it was last asked; there may have been none.
    fn report(&mut self, metrics: &mut Metrics);

    /// Puts everything but the policy into a snapshot.
    fn save(&self, snapshot: &mut Snapshot);

    /// Takes it from a snapshot.
    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError>;
}

/// What an update may read and change.
pub struct Agent {
    /// Settings.
    pub config: OffPolicyConfig,
    /// The policy.
    pub actor: SquashedActor,
    /// Draws minibatches and what updates need besides.
    pub stream: NumpyRng,
    /// Counters.
    pub progress: Progress,
    /// What the run is built from.
    pub setup: Setup,
    /// The run's threads. Updates run on them, so that [`Workers::join`] uses them.
    pub workers: Arc<Workers>,
}

/// An off-policy agent in training, whose algorithm is `U`.
pub struct OffPolicy<U> {
    agent: Agent,
    update: U,
    replay: ReplayBuffer,
    runner: Runner,
    batch: ReplayBatch,
    /// What should be said with the first report.
    warnings: Vec<String>,
    repeated: Option<Repeated>,
}

/// Where a repeated update starts from.
struct Repeated {
    /// Policy and algorithm.
    start: Snapshot,
    stream: NumpyRng,
    replay: ReplayBuffer,
    grad_steps: u64,
}

/// Gradient steps of a repeated update.
const REPEATED: u64 = 16;

impl<U: Update> OffPolicy<U> {
    /// Fresh networks in fresh environments; `name` is the agent's.
    ///
    /// # Errors
    /// Settings out of range, actions that are no bounded box, or an environment that cannot be made.
    pub fn new(
        name: &str,
        config: OffPolicyConfig,
        setup: &Setup,
        update: impl FnOnce(&mut Agent, &mut NumpyRng) -> U,
    ) -> Result<OffPolicy<U>, LearnError> {
        config.validate()?;
        let seed = Seed(setup.seed);
        let runner = Runner::new(setup)?;
        let env = setup.envs.make(&setup.env)?;
        let bound = config.log_std_bound;
        let log_std = LogStd { min: config.log_std_min as f32, max: config.log_std_max as f32, bound };
        let mut init = seed.stream("init", 0);
        let network = |inputs, outputs| config.network(inputs, outputs, setup.device);
        let actor = SquashedActor::new(name, env.spec(), network, log_std, &mut init)?;
        let returns = Returns { gamma: config.gamma as f32, steps: config.n_step, num_envs: runner.num_envs() };
        let replay = ReplayBuffer::new(config.buffer_size, actor.obs_dim(), actor.act_dim(), returns)
            .kept(config.buffer_storage)
            .prioritized(config.priority);
        let mut warnings: Vec<String> =
            config.precision.available_on(setup.device).1.map(str::to_string).into_iter().collect();
        if let Budget::EnvSteps(steps) = setup.budget
            && config.due(steps) == 0
        {
            let starts = config.learning_starts;
            warnings.push(format!(
                "no gradient step falls due within {steps} environment steps, of which `learning_starts = {starts}` are \
                 random: the policy stays as it starts"
            ));
        }
        let mut agent = Agent {
            actor,
            stream: seed.stream("update", 0),
            progress: Progress::default(),
            workers: Arc::new(Workers::new(setup.threads)?),
            setup: setup.clone(),
            config,
        };
        let update = update(&mut agent, &mut init);
        Ok(OffPolicy { update, agent, replay, runner, batch: ReplayBatch::default(), warnings, repeated: None })
    }

    /// The same with a sentence for the first report.
    pub fn warn(mut self, sentence: Option<String>) -> OffPolicy<U> {
        self.warnings.extend(sentence);
        self
    }

    /// The policy as it is now.
    pub fn actor(&self) -> &SquashedActor {
        &self.agent.actor
    }

    /// The algorithm's own state.
    pub fn update(&self) -> &U {
        &self.update
    }

    /// Agent and algorithm by themselves, and a minibatch of random transitions.
    #[cfg(test)]
    pub(crate) fn apart(self) -> (Agent, U, ReplayBatch) {
        let (rows, mut rng) = (self.agent.config.batch_size, NumpyRng::new(8));
        let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal() as f32).collect::<Vec<f32>>();
        let (obs_dim, act_dim) = (self.agent.actor.obs_dim(), self.agent.actor.act_dim());
        let batch = ReplayBatch {
            obs: draw(rows * obs_dim),
            action: draw(rows * act_dim).into_iter().map(f32::tanh).collect(),
            reward: draw(rows),
            next_obs: draw(rows * obs_dim),
            discount: (0..rows).map(|i| if i == 0 { 0.0 } else { 0.9 }).collect(),
            weight: vec![1.0; rows],
            rows: vec![0; rows],
        };
        (self.agent, self.update, batch)
    }

    /// One step of every environment, then the gradient steps that are due.
    fn advance(&mut self, report: &mut Report) -> Result<(), LearnError> {
        let OffPolicy { agent, update, replay, runner, batch, .. } = self;
        let learning = agent.progress.env_steps >= agent.config.learning_starts as u64;
        let mut steps = match (learning, update.draws_actions()) {
            (false, _) => runner.step(&Even(&agent.actor), &agent.workers)?,
            (true, true) => runner.step(&agent.actor, &agent.workers)?,
            (true, false) => runner.step(&Greedy(&agent.actor), &agent.workers)?,
        };
        replay.add(&steps)?;
        agent.progress.env_steps += runner.num_envs() as u64;
        agent.progress.episodes += steps.episodes.len() as u64;
        report.episodes.append(&mut steps.episodes);
        if let Some((_, actions)) = report.histograms.first_mut() {
            actions.append(&mut steps.action);
        }
        while agent.progress.grad_steps < agent.config.due(agent.progress.env_steps) {
            replay.sample(agent.config.batch_size, agent.importance(), &mut agent.stream, batch);
            update.update(agent, batch)?;
            replay.reprioritize(batch, update.errors());
            agent.progress.grad_steps += 1;
        }
        Ok(())
    }
}

impl<U: Update> Learner for OffPolicy<U> {
    fn step(&mut self) -> Result<Report, LearnError> {
        let workers = self.agent.workers.clone();
        let mut report = Report { warnings: std::mem::take(&mut self.warnings), ..Default::default() };
        if self.agent.setup.histograms {
            report.histograms.push(("rollout/action".into(), Vec::new()));
        }
        workers.run(|| (0..self.agent.config.num_steps).try_for_each(|_| self.advance(&mut report)))?;
        self.agent.progress.iterations += 1;
        self.update.report(&mut report.metrics);
        report.metrics.add("train/buffer_size", self.replay.len() as f64);
        report.metrics.add("train/n_updates", self.agent.progress.grad_steps as f64);
        report.warnings.extend(self.runner.take_warnings());
        // By environment and time, as all agents list them.
        report.episodes.sort_by_key(|episode| episode.lane);
        Ok(report)
    }

    fn repeat_update(&mut self) -> Result<bool, LearnError> {
        let workers = self.agent.workers.clone();
        let repeated = match self.repeated.take() {
            Some(repeated) => {
                self.agent.actor.load(&repeated.start)?;
                self.update.load(&repeated.start)?;
                repeated
            }
            None => {
                let mut replay = self.replay.clone();
                while replay.len() < self.agent.config.batch_size.min(self.agent.config.buffer_size) {
                    replay.add(&self.runner.step(&Even(&self.agent.actor), &workers)?)?;
                }
                let mut start = self.policy();
                self.update.save(&mut start);
                let (stream, grad_steps) = (self.agent.stream.clone(), self.agent.progress.grad_steps);
                Repeated { start, stream, replay, grad_steps }
            }
        };
        let OffPolicy { agent, update, batch, .. } = self;
        agent.stream = repeated.stream.clone();
        // What is due every so many gradient steps is due at the same ones each time.
        let before = std::mem::replace(&mut agent.progress.grad_steps, repeated.grad_steps);
        workers.run(|| {
            (0..REPEATED).try_for_each(|_| {
                repeated.replay.sample(agent.config.batch_size, agent.config.importance, &mut agent.stream, batch);
                update.update(agent, batch)?;
                agent.progress.grad_steps += 1;
                Ok::<(), LearnError>(())
            })
        })?;
        agent.progress.grad_steps = before + REPEATED;
        self.repeated = Some(repeated);
        Ok(true)
    }

    fn progress(&self) -> Progress {
        self.agent.progress
    }

    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError> {
        evaluate(&self.agent.actor, &self.agent.setup, request, &self.agent.workers)
    }

    fn play(
        &mut self,
        request: &EvalRequest,
        keep: &mut dyn FnMut(&Played) -> Result<bool, LearnError>,
    ) -> Result<(), LearnError> {
        play(&self.agent.actor, &self.agent.setup, request, keep)
    }

    fn replay(&self, keep: &mut dyn FnMut(usize, &Played) -> Result<bool, LearnError>) -> Result<(), LearnError> {
        for (lane, mut played) in self.replay.rows() {
            self.agent.actor.bound(&mut played.action);
            if !keep(lane, &played)? {
                break;
            }
        }
        Ok(())
    }

    fn save(&self) -> Snapshot {
        let mut snapshot = self.policy();
        self.update.save(&mut snapshot);
        self.replay.save(&mut snapshot);
        self.runner.save(&mut snapshot);
        snapshot.state.insert("update_stream".into(), self.agent.stream.save().into());
        snapshot.state.insert("progress".into(), serde_json::json!(self.agent.progress));
        snapshot
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError> {
        self.agent.actor.load(snapshot)?;
        self.update.load(snapshot)?;
        self.replay.load(snapshot)?;
        self.agent.stream = load_stream(snapshot, "update_stream")?;
        self.agent.progress = snapshot.get("progress")?;
        let restarted = self.runner.load(snapshot, self.agent.progress.env_steps)?;
        if restarted.is_some() {
            self.replay.cut();
        }
        Ok(restarted.into_iter().collect())
    }

    fn policy(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.agent.actor.save(&mut snapshot);
        snapshot
    }

    fn policy_chain(&self) -> Option<PolicyChain> {
        Some(self.agent.actor.chain())
    }
}

impl Agent {
    /// From the setting to 1 over the budget.
    pub(crate) fn importance(&self) -> f64 {
        let first = self.config.importance;
        first + (1.0 - first) * self.setup.budget.spent(&self.progress)
    }

    /// The error of a number that stopped being finite.
    pub fn non_finite(&self, what: &str, value: f64) -> LearnError {
        let Progress { iterations, env_steps, .. } = self.progress;
        LearnError::NonFinite { what: what.into(), value, iteration: iterations + 1, env_steps }
    }
}

/// Takes the most probable action where others draw.
struct Greedy<'a>(&'a SquashedActor);

impl Act for Greedy<'_> {
    type Scratch = <SquashedActor as Act>::Scratch;

    fn see(&self, obs: &[f64], seen: &mut [f32]) {
        self.0.see(obs, seen);
    }

    /// There is no density to speak of: the log-probability is 0.
    fn sample(&self, seen: &[f32], _: &mut NumpyRng, scratch: &mut Self::Scratch, action: &mut [f32]) -> f32 {
        self.0.mode(seen, scratch, action);
        0.0
    }

    fn mode(&self, seen: &[f32], scratch: &mut Self::Scratch, action: &mut [f32]) {
        self.0.mode(seen, scratch, action);
    }

    fn bound(&self, action: &mut [f32]) {
        self.0.bound(action);
    }
}

/// Means of `N` numbers over gradient steps.
#[derive(Clone, Copy, Debug)]
pub struct Means<const N: usize> {
    names: [&'static str; N],
    sums: [f64; N],
    count: u64,
}

impl<const N: usize> Means<N> {
    /// Of numbers that are logged by these names.
    pub fn new(names: [&'static str; N]) -> Means<N> {
        Means { names, sums: [0.0; N], count: 0 }
    }

    /// Takes in the numbers of a gradient step.
    pub fn add(&mut self, numbers: [f64; N]) {
        self.sums.iter_mut().zip(numbers).for_each(|(sum, x)| *sum += x);
        self.count += 1;
    }

    /// Adds the means to `metrics`, where there are any, and starts anew.
    pub fn report(&mut self, metrics: &mut Metrics) {
        if self.count > 0 {
            self.names.iter().zip(self.sums).for_each(|(name, sum)| metrics.add(name, sum / self.count as f64));
        }
        *self = Means::new(self.names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradient_steps_fall_due_by_ratio_and_frequency() {
        let config = |utd_ratio, train_freq| OffPolicyConfig {
            learning_starts: 10,
            utd_ratio,
            train_freq,
            ..Default::default()
        };
        let due = |config: OffPolicyConfig| [9, 10, 11, 12, 13, 20].map(|steps| config.due(steps));
        assert_eq!(due(config(1.0, 1)), [0, 0, 1, 2, 3, 10]);
        assert_eq!(due(config(0.5, 1)), [0, 0, 0, 1, 1, 5]);
        assert_eq!(due(config(20.0, 1)), [0, 0, 20, 40, 60, 200]);
        assert_eq!(due(config(1.0, 3)), [0, 0, 0, 0, 3, 9]);
    }
}
