//! A GFlowNet in training: one iteration draws a batch of trajectories, some of them again, and takes one optimiser step.

use std::sync::Arc;

use bregman_envs::Backend;
use bregman_envs::rng::{NumpyRng, Seed};
use bregman_envs::world::{World, check_world};

use super::discoveries::{Discoveries, Sums};
use super::evaluate::Judge;
use super::exact::Graph;
use super::objective::{Objective, Scratch};
use super::pass::{FlowNetworks, NetworkShape};
use super::replay::{Replay, ReplayKind};
use super::sampler::{BackwardPolicy, Behaviour, Sampler};
use super::settings::GflownetConfig;
use crate::check;
use crate::learner::{Array, Drawn, EvalRequest, Evaluation, LearnError, Learner, Progress, Report, Setup, Snapshot};
use crate::on_policy::load_stream;
use crate::optim::{Adam, clip_grad_norm};
use crate::workers::Workers;

/// ln Z as a parameter of trajectory balance.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogZ {
    /// Adam's step size for it.
    pub learning_rate: f64,
    /// Where it starts; the first batch's mean ζ where it is not said.
    pub init: Option<f64>,
}

/// What every GFlowNet logs.
pub const METRICS: &[(&str, &str)] = &[
    ("train/loss", "the objective's loss, mean over the row's optimiser steps"),
    (
        "train/log_z",
        "ln Z as learned: a parameter, the initial state's log flow (its value in `soft_dqn`), or the batch's mean ζ",
    ),
    ("train/log_reward", "mean ln R of freshly drawn objects"),
    ("train/log_reward_best", "mean ln R of the 100 best different objects drawn in training so far"),
    ("train/modes", "different modes among all objects drawn in training so far, where the world has modes"),
    ("train/states", "different states per transition of a batch: what the networks evaluate"),
    ("train/grad_norm", "norm of the networks' gradient before clipping, mean over the row's optimiser steps"),
    ("train/learning_rate", "Adam's step size"),
    ("train/epsilon", "part of training actions that are uniform"),
    ("train/n_updates", "optimiser steps since the start"),
    ("eval/elbo", "mean ζ of objects drawn from the policy: at most ln Z in the mean"),
    (
        "eval/eubo",
        "mean ζ of objects drawn from the target, paths drawn backwards: at least ln Z in the mean; it sees missing modes",
    ),
    ("eval/log_z_is", "ln of the mean of exp ζ over objects drawn from the policy: ln Z by importance sampling"),
    (
        "eval/log_z_error",
        "distance of train/log_z from ln Z, where that is known; VarGrad's, which learns none, of eval/elbo",
    ),
    ("eval/l1", "sum over all objects of the distance of p from R/Z, p exact by pushing mass through the graph"),
    ("eval/tv", "total variation between p and R/Z, exact: half of l1"),
    ("eval/js", "Jensen-Shannon divergence between p and R/Z, exact, in nats"),
    ("eval/empirical_l1", "the same sum with the frequencies of the evaluation's objects in place of p"),
    ("eval/l1_floor", "what empirical_l1 is in the mean for as many objects from R/Z itself"),
    ("eval/modes", "different modes among the evaluation's objects"),
    (
        "eval/reward_error",
        "relative distance of the evaluation objects' mean R from that under R/Z, where that is known",
    ),
    (
        "eval/marginal_error",
        "root mean square z-score of how often each input is on, where the target's marginals are known; 1 for exact samples",
    ),
    ("eval/spearman", "rank correlation of ln p̂ and ln R over the test objects, p̂ by backward importance sampling"),
    ("eval/pearson", "correlation of ln p̂ and ln R over the test objects"),
];

/// A GFlowNet in training.
pub struct Gflownet {
    config: GflownetConfig,
    objective: Objective,
    log_z_settings: LogZ,
    setup: Setup,
    world: Arc<dyn World>,
    sampler: Sampler<f32>,
    params: Vec<f32>,
    grad: Vec<f32>,
    adam: Adam,
    /// ln Z: the parameter, or the last batch's mean ζ.
    log_z: [f32; 1],
    adam_log_z: Adam,
    rng: NumpyRng,
    replay: Replay,
    /// What replay and local search have drawn, as rows.
    drawn: Vec<i32>,
    actions: Vec<usize>,
    ends: Vec<usize>,
    discoveries: Discoveries,
    scratch: Scratch,
    judge: Judge,
    progress: Progress,
    workers: Arc<Workers>,
}

impl Gflownet {
    /// Fresh networks in a world; `log_z` where it is a parameter.
    ///
    /// # Errors
    /// Settings out of range or that do not fit the world, or a world that contradicts itself.
    pub fn new(
        config: GflownetConfig,
        objective: Objective,
        log_z: LogZ,
        setup: &Setup,
    ) -> Result<Gflownet, LearnError> {
        config.validate()?;
        setup.on_processor()?;
        let world = make_world(setup)?;
        suits(&config, objective, world.as_ref())?;
        check_world(world.as_ref(), 8, setup.seed)?;
        let seed = Seed(setup.seed);
        let learned = config.backward_policy == BackwardPolicy::Learned && objective.has_backward();
        let shape = NetworkShape {
            hidden_sizes: config.hidden_sizes.clone(),
            activation: config.activation,
            tied: config.tied,
            backward: learned,
            flow: objective.has_flow(),
        };
        let nets = FlowNetworks::new(world.spec(), &shape);
        let params: Vec<f32> = nets.init(&mut seed.stream("init", 0));
        let (spec, workers) = (world.spec(), Arc::new(Workers::new(setup.threads)?));
        let mut rows = Sampler::<f32>::rows_for(world.as_ref(), config.num_trajectories);
        if !objective.has_backward() {
            // Flow matching looks at every parent of every visited state.
            rows *= 1 + spec.num_backward;
        }
        if config.local_search > 0 {
            rows *= 2 + 2 * config.local_search;
        }
        let rows = spec.num_states.map_or(rows, |states| rows.min((states as usize).saturating_add(1)));
        // Flow matching has no backward policy; where paths are drawn backwards for it, they are drawn uniformly.
        let backward = if objective.has_backward() { config.backward_policy } else { BackwardPolicy::Uniform };
        let energies = objective.needs_energies();
        let (room, shared) = (config.num_trajectories, workers.clone());
        let sampler = Sampler::new(world.clone(), nets, backward, energies, room, rows, shared);
        Ok(Gflownet {
            objective,
            log_z_settings: log_z,
            grad: vec![0.0; params.len()],
            adam: Adam::new(params.len(), config.adam_eps),
            log_z: [log_z.init.unwrap_or_default() as f32],
            adam_log_z: Adam::new(1, config.adam_eps),
            rng: seed.stream("trajectories", 0),
            replay: Replay::new(config.replay, config.replay_capacity, spec.max_len, spec.state_len),
            drawn: Vec::new(),
            actions: Vec::new(),
            ends: Vec::new(),
            discoveries: Discoveries::new(world.clone()),
            scratch: Scratch::default(),
            judge: Judge::new(world.clone(), config.exact_states, config.test_objects, config.test_paths),
            progress: Progress::default(),
            workers,
            setup: setup.clone(),
            world,
            sampler,
            params,
            config,
        })
    }

    /// The exact distribution over objects, where the world can be enumerated: its graph and the probabilities.
    pub fn distribution(&mut self) -> Option<(&Graph, Vec<f64>)> {
        let graph = self.judge.graph()?;
        let p = graph.distribution(&mut self.sampler.pass, &self.params);
        Some((graph, p))
    }

    /// ln Z as it is learned: the parameter, what flows out of the initial state, or the last batch's mean ζ.
    pub fn log_z(&mut self) -> f64 {
        let mut initial = vec![0; self.world.spec().state_len];
        self.world.initial(&mut initial);
        let pass = &mut self.sampler.pass;
        let flow = |pass: &mut super::pass::Pass<f32>, params: &[f32]| {
            pass.clear();
            let row = pass.row_of(&initial);
            pass.evaluate(params);
            row
        };
        match self.objective {
            Objective::TrajectoryBalance | Objective::LogPartitionVariance => self.log_z[0].into(),
            Objective::FlowMatching => {
                let row = flow(pass, &self.params);
                pass.log_norm(row)
            }
            Objective::ModifiedDetailedBalance => {
                let row = flow(pass, &self.params);
                let exit = self.world.spec().exit.unwrap_or_default();
                -self.world.energy(&initial) - pass.log_pf(row, exit)
            }
            Objective::DetailedBalance { .. } | Objective::SubTrajectoryBalance { .. } => {
                let row = flow(pass, &self.params);
                let looks = self.objective.needs_energies();
                pass.log_flow(row) - if looks { self.world.energy(&initial) } else { 0.0 }
            }
        }
    }

    fn left(&self) -> f64 {
        1.0 - self.setup.budget.spent(&self.progress)
    }

    fn epsilon(&self) -> f64 {
        self.config.epsilon * if self.config.anneal_epsilon { self.left() } else { 1.0 }
    }

    fn behaviour(&self) -> Behaviour {
        Behaviour { epsilon: self.epsilon(), temperature: self.config.temperature }
    }

    fn learning_rate(&self) -> f64 {
        if self.config.anneal_lr { self.left() } else { 1.0 }
    }

    /// Draws the batch: replayed trajectories, then fresh ones, which explore and may be cut. Returns the number of fresh ones.
    fn draw(&mut self) -> Result<usize, LearnError> {
        let count = self.config.num_trajectories;
        let wanted = self.config.replayed();
        let again = if self.replay.len() >= wanted && !self.replay.is_empty() { wanted } else { 0 };
        let fresh = count - again;
        let behaviour = self.behaviour();
        let (sampler, params) = (&mut self.sampler, &self.params);
        sampler.begin(count);
        if self.config.replay == ReplayKind::Trajectories {
            self.actions.clear();
            self.ends.clear();
            for _ in 0..again {
                self.replay.draw_actions(&mut self.rng, &mut self.actions);
                self.ends.push(self.actions.len());
            }
            let (actions, ends) = (&self.actions, &self.ends);
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let rows = starts.zip(ends).map(|(start, &end)| &actions[start..end]);
            sampler.join(params, rows, fresh)?;
        } else if again > 0 {
            self.drawn.clear();
            for _ in 0..again {
                self.drawn.extend_from_slice(self.replay.draw(&mut self.rng));
            }
            sampler.join_backward(params, &self.drawn, fresh, &mut self.rng)?;
        }
        sampler.extend(params, behaviour, &mut self.rng)?;
        for _ in 0..self.config.local_search {
            let depth = self.config.local_search_depth;
            sampler.local_search(params, fresh, depth, &mut self.rng)?;
        }
        sampler.cut(fresh, self.config.cut_probability, &mut self.rng);
        sampler.finish(params)?;
        Ok(fresh)
    }

    /// One optimiser step.
    fn iterate(&mut self, sums: &mut Sums) -> Result<(), LearnError> {
        let fresh = self.draw()?;
        sums.count(&self.sampler, fresh, &mut self.progress);
        for b in 0..fresh {
            if let Some((object, log_reward)) = self.sampler.object(b) {
                self.discoveries.add(object, log_reward);
                self.replay.add(self.sampler.batch.actions(b), object, log_reward);
            }
        }
        if self.objective.needs_ends() {
            let zetas = (0..self.sampler.batch.count()).map(|b| self.sampler.batch.zeta(b));
            let mean = zetas.sum::<f64>() / self.sampler.batch.count() as f64;
            let starts = self.progress.grad_steps == 0 && self.log_z_settings.init.is_none();
            if starts || self.objective == Objective::LogPartitionVariance {
                self.log_z[0] = mean as f32;
            }
        }
        let log_z = self.log_z[0].into();
        let loss = self.objective.loss(&mut self.sampler, &self.params, log_z, &mut self.scratch);
        sums.look(&self.sampler);
        if !loss.loss.is_finite() {
            let Progress { grad_steps, env_steps, .. } = self.progress;
            let (what, iteration) = ("loss".into(), grad_steps + 1);
            return Err(LearnError::NonFinite { what, value: loss.loss, iteration, env_steps });
        }
        self.sampler.pass.backward(&self.params, &mut self.grad);
        let norm = clip_grad_norm(&mut self.grad, self.config.max_grad_norm);
        let part = self.learning_rate();
        self.adam.step_on(&mut self.params, &self.grad, part * self.config.learning_rate, &self.workers);
        if self.objective == Objective::TrajectoryBalance {
            let rate = part * self.log_z_settings.learning_rate;
            self.adam_log_z.step(&mut self.log_z, &[loss.d_log_z as f32], rate);
        }
        sums.step(loss.loss, norm);
        self.progress.grad_steps += 1;
        Ok(())
    }

    fn report(&mut self, sums: &Sums) -> Report {
        let rates = [self.learning_rate() * self.config.learning_rate, self.epsilon()];
        let log_z = self.log_z();
        sums.report(&self.sampler.batch, &self.discoveries, log_z, rates, &self.progress)
    }
}

/// The world of a run.
pub(crate) fn make_world(setup: &Setup) -> Result<Arc<dyn World>, LearnError> {
    if setup.env.backend != Backend::World {
        let id = &setup.env.id;
        let sentence =
            format!("a GFlowNet builds objects in a world and `{id}` is an environment: write [world.hyper_grid]");
        return Err(LearnError::Unsuitable(sentence));
    }
    Ok(Arc::from(setup.envs.world(&setup.env)?))
}

/// Refuses the maximum-entropy backward policy where the world does not count paths.
pub(super) fn counts_paths(policy: BackwardPolicy, world: &dyn World) -> Result<(), LearnError> {
    let mut initial = vec![0; world.spec().state_len];
    world.initial(&mut initial);
    if policy == BackwardPolicy::MaxEntropy && world.log_paths(&initial).is_none() {
        let sentence = "it does not count paths, so backward_policy is `learned` or `uniform`";
        return Err(LearnError::Unsuitable(format!("world `{}`: {sentence}", world.spec().name)));
    }
    Ok(())
}

/// Refuses an objective or a setting that the world has not what it takes for.
fn suits(config: &GflownetConfig, objective: Objective, world: &dyn World) -> Result<(), LearnError> {
    let spec = world.spec();
    let unsuitable = |sentence: String| Err(LearnError::Unsuitable(format!("world `{}`: {sentence}", spec.name)));
    if objective.needs_energies() && !spec.energies {
        return unsuitable(match objective {
            Objective::ModifiedDetailedBalance => "modified detailed balance needs a reward in every state".into(),
            _ => {
                "it has no energies on unfinished objects, so flows cannot look forward: forward_looking = false".into()
            }
        });
    }
    if objective == Objective::ModifiedDetailedBalance && spec.exit.is_none() {
        return unsuitable("modified detailed balance needs an exit from every state, as hyper_grid has".into());
    }
    counts_paths(config.backward_policy, world)?;
    if objective.needs_ends() {
        let rule = "0 here, since a loss on whole trajectories learns nothing from those that were cut";
        check::rule(config.cut_probability == 0.0, "cut_probability", config.cut_probability, rule)?;
    }
    if objective == Objective::LogPartitionVariance {
        let rule = "at least 2, since one trajectory has no variance";
        check::rule(config.num_trajectories > 1, "num_trajectories", config.num_trajectories, rule)?;
    }
    Ok(())
}

impl Learner for Gflownet {
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
            Ok(self.report(&sums))
        })
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError> {
        let learned = (self.objective != Objective::LogPartitionVariance).then(|| self.log_z());
        let Gflownet { judge, sampler, params, workers, .. } = self;
        workers.run(|| judge.evaluate(sampler, params, learned, request))
    }

    fn sample(&mut self, count: usize, seed: u64) -> Result<Option<Vec<Drawn>>, LearnError> {
        let Gflownet { judge, sampler, params, workers, .. } = self;
        workers.run(|| judge.draw(sampler, params, count, seed)).map(Some)
    }

    fn save(&self) -> Snapshot {
        let mut snapshot = self.policy();
        self.adam.save("adam", &mut snapshot);
        self.adam_log_z.save("adam_log_z", &mut snapshot);
        self.replay.save(&mut snapshot);
        self.discoveries.save(&mut snapshot);
        snapshot.state.insert("trajectories".into(), self.rng.save().into());
        snapshot.state.insert("progress".into(), serde_json::json!(self.progress));
        snapshot
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError> {
        snapshot.f32_into("params", &mut self.params)?;
        snapshot.f32_into("log_z", &mut self.log_z)?;
        self.adam.load("adam", snapshot)?;
        self.adam_log_z.load("adam_log_z", snapshot)?;
        self.replay.load(snapshot)?;
        self.discoveries.load(snapshot)?;
        self.rng = load_stream(snapshot, "trajectories")?;
        self.progress = snapshot.get("progress")?;
        Ok(Vec::new())
    }

    fn policy(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.put("params", Array::F32(self.params.clone()));
        snapshot.put("log_z", Array::F32(self.log_z.to_vec()));
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use bregman_envs::EnvConfig;

    use super::*;
    use crate::learner::Budget;

    const TB: Objective = Objective::TrajectoryBalance;

    fn setup() -> Setup {
        Setup {
            seed: 3,
            threads: 1,
            device: Default::default(),
            env: EnvConfig::world("hyper_grid", Default::default(), &[]),
            envs: Default::default(),
            dataset: None,
            budget: Budget::GradSteps(1000),
            histograms: false,
        }
    }

    fn small(objective: Objective, log_z: LogZ, change: impl FnOnce(&mut GflownetConfig)) -> Gflownet {
        let mut config = GflownetConfig { hidden_sizes: vec![8], log_every: 1, ..Default::default() };
        change(&mut config);
        Gflownet::new(config, objective, log_z, &setup()).expect("it suits")
    }

    #[test]
    fn log_z_of_networks_that_say_0() {
        // R(0, 0) = 0.6, and three ways lead on, of which one is the exit.
        for (objective, log_z) in [
            (Objective::DetailedBalance { forward_looking: false }, 0.0),
            (Objective::DetailedBalance { forward_looking: true }, 0.6f64.ln()),
            (Objective::SubTrajectoryBalance { lambda: 0.9, forward_looking: true }, 0.6f64.ln()),
            (Objective::ModifiedDetailedBalance, 1.8f64.ln()),
            (Objective::FlowMatching, 3f64.ln()),
        ] {
            let mut learner = small(objective, LogZ::default(), |_| ());
            learner.params.fill(0.0);
            let found = learner.log_z();
            assert!((found - log_z).abs() < 1e-6, "{objective:?}: {found} is not {log_z}");
        }
    }

    #[test]
    fn log_z_starts_where_it_is_said_or_at_the_mean_of_the_first_batch() {
        let after = |objective, init| {
            let mut learner = small(objective, LogZ { learning_rate: 0.1, init }, |_| ());
            learner.step().expect("finite numbers");
            learner.log_z()
        };
        // VarGrad says what the mean ζ is, where the loss has no slope in ln Z. From elsewhere Adam's first step is the step size.
        let (mean, from_7) = (after(Objective::LogPartitionVariance, None), after(TB, Some(7.0)));
        assert!(((from_7 - 7.0).abs() - 0.1).abs() < 1e-5, "{from_7}");
        assert!((after(TB, None) - mean).abs() < 0.101 && mean > 1.0, "{} {mean}", after(TB, None));
        assert_eq!(small(TB, LogZ { learning_rate: 0.1, init: Some(7.0) }, |_| ()).log_z(), 7.0);
    }

    #[test]
    fn exploration_follows_the_settings() {
        let behaviour = |anneal_epsilon| {
            let explore = |config: &mut GflownetConfig| {
                (config.epsilon, config.temperature, config.anneal_epsilon) = (0.4, 2.0, anneal_epsilon);
            };
            let mut learner = small(TB, LogZ::default(), explore);
            learner.progress.grad_steps = 500;
            let Behaviour { epsilon, temperature } = learner.behaviour();
            (epsilon, temperature)
        };
        assert_eq!((behaviour(false), behaviour(true)), ((0.4, 2.0), (0.2, 2.0)));
    }

    #[test]
    fn the_gradient_is_clipped_before_the_step() {
        let moved = |max_grad_norm| {
            // Adam's ε is far above a clipped gradient and far below another.
            let clip = |config: &mut GflownetConfig| (config.max_grad_norm, config.adam_eps) = (max_grad_norm, 1e-6);
            let mut learner = small(TB, LogZ::default(), clip);
            let before = learner.params.clone();
            learner.step().expect("finite numbers");
            let rate = learner.config.learning_rate as f32;
            before.iter().zip(&learner.params).map(|(a, b)| (a - b).abs() / rate).fold(0.0, f32::max)
        };
        assert!(moved(Some(1e-9)) < 0.01 && moved(None) > 0.9, "{} {}", moved(Some(1e-9)), moved(None));
    }
}
