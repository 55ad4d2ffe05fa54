//! An agent from outside: the cross-entropy method on a linear policy, in one file, with the whole command line.
//!
//! ```text
//! cargo run --release --example custom_agent -- train examples/cross_entropy.toml
//! cargo run --release --example custom_agent -- show cross_entropy
//! ```

use std::process::ExitCode;

use bregman::agents::evaluate::evaluate;
use bregman::agents::learner::{
    Array, EvalRequest, Evaluation, LearnError, Learner, Metrics, Progress, Report, Setup, Snapshot,
};
use bregman::agents::registry::{AgentConfig, AgentEntry};
use bregman::agents::rollout::Act;
use bregman::agents::workers::Workers;
use bregman::envs::rng::{NumpyRng, Seed};
use bregman::envs::{ActionSpace, Episode};
use bregman::{Bregman, cli};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    let mut bregman = Bregman::default();
    bregman.agents.add(AgentEntry::of::<CrossEntropyConfig>(
        "cross_entropy",
        "cross-entropy method: refit a Gaussian over linear policies to the best of a population",
        &[
            ("train/elite_reward", "mean return of the elites"),
            ("train/spread", "mean standard deviation of the weights"),
        ],
    ));
    cli::run(bregman)
}

/// Settings of [`CrossEntropy`] (Rubinstein 1999; Szita & Lőrincz 2006 for the added noise).
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
struct CrossEntropyConfig {
    /// Policies tried per iteration, one episode each.
    population: u32,
    /// Policies that the Gaussian is refitted to.
    elites: usize,
    /// Added to the standard deviations after every refit.
    noise: f64,
}

impl Default for CrossEntropyConfig {
    fn default() -> CrossEntropyConfig {
        CrossEntropyConfig { population: 40, elites: 8, noise: 0.05 }
    }
}

impl AgentConfig for CrossEntropyConfig {
    fn validate(&self) -> Result<(), LearnError> {
        if self.elites == 0 || self.elites > self.population as usize {
            let rule = format!("between 1 and population = {}", self.population);
            return Err(LearnError::Config { key: "elites".into(), value: self.elites.to_string(), rule });
        }
        Ok(())
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let spec = setup.envs.make(&setup.env)?.spec().clone();
        let ActionSpace::Box { low, .. } = &spec.action_space else {
            return Err(LearnError::Unsuitable(
                "cross_entropy needs real-valued actions, as InvertedPendulum-v5 has".into(),
            ));
        };
        let weights = (spec.obs_dim + 1) * low.len();
        let policy = Linear { weights: vec![0.0; weights], space: spec.action_space.clone() };
        let rng = Seed(setup.seed).stream("population", 0);
        let progress = Progress::default();
        let (setup, workers) = (setup.clone(), Workers::new(setup.threads)?);
        Ok(Box::new(CrossEntropy { config: self, setup, policy, std: vec![1.0; weights], rng, progress, workers }))
    }
}

/// Actions are linear in the observation, with an offset: weights `[obs_dim + 1, act_dim]`.
#[derive(Clone)]
struct Linear {
    weights: Vec<f32>,
    space: ActionSpace,
}

impl Act for Linear {
    type Scratch = ();

    fn see(&self, obs: &[f64], seen: &mut [f32]) {
        seen.iter_mut().zip(obs).for_each(|(y, &x)| *y = x as f32);
    }

    fn sample(&self, seen: &[f32], _: &mut NumpyRng, scratch: &mut (), action: &mut [f32]) -> f32 {
        self.mode(seen, scratch, action);
        0.0
    }

    fn mode(&self, seen: &[f32], _: &mut (), action: &mut [f32]) {
        let (offset, weights) = self.weights.split_at(action.len());
        action.copy_from_slice(offset);
        for (x, row) in seen.iter().zip(weights.chunks_exact(action.len())) {
            action.iter_mut().zip(row).for_each(|(a, w)| *a += x * w);
        }
    }

    fn bound(&self, action: &mut [f32]) {
        self.space.clip(action);
    }
}

/// The mean of the Gaussian is the policy; `std` is its spread.
struct CrossEntropy {
    config: CrossEntropyConfig,
    setup: Setup,
    policy: Linear,
    std: Vec<f32>,
    rng: NumpyRng,
    progress: Progress,
    workers: Workers,
}

impl CrossEntropy {
    fn draw(&mut self) -> Linear {
        let mut drawn = self.policy.clone();
        for (w, std) in drawn.weights.iter_mut().zip(&self.std) {
            *w += std * self.rng.standard_normal() as f32;
        }
        drawn
    }

    /// Fits mean and spread to the best policies.
    fn refit(&mut self, elites: &[(Linear, Episode)]) {
        let n = elites.len() as f32;
        for i in 0..self.std.len() {
            let column = || elites.iter().map(|(policy, _)| policy.weights[i]);
            let mean = column().sum::<f32>() / n;
            let var = column().map(|w| (w - mean).powi(2)).sum::<f32>() / n;
            self.policy.weights[i] = mean;
            self.std[i] = var.sqrt() + self.config.noise as f32;
        }
    }
}

impl Learner for CrossEntropy {
    fn step(&mut self) -> Result<Report, LearnError> {
        let mut tried = Vec::new();
        for _ in 0..self.config.population {
            let policy = self.draw();
            let seed = self.setup.seed + self.progress.episodes + tried.len() as u64;
            let request = EvalRequest { episodes: 1, stochastic: false, seed, max_episode_steps: None };
            let episode = evaluate(&policy, &self.setup, &request, &self.workers)?.episodes[0];
            tried.push((policy, episode));
        }
        let episodes: Vec<Episode> = tried.iter().map(|(_, episode)| *episode).collect();
        tried.sort_by(|a, b| b.1.reward.total_cmp(&a.1.reward));
        tried.truncate(self.config.elites);
        self.refit(&tried);

        self.progress.iterations += 1;
        self.progress.episodes += episodes.len() as u64;
        self.progress.env_steps += episodes.iter().map(|e| u64::from(e.length)).sum::<u64>();
        let mut metrics = Metrics::default();
        metrics.add("train/elite_reward", tried.iter().map(|(_, e)| e.reward).sum::<f64>() / tried.len() as f64);
        metrics.add("train/spread", f64::from(self.std.iter().sum::<f32>()) / self.std.len() as f64);
        Ok(Report { metrics, episodes, ..Default::default() })
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError> {
        evaluate(&self.policy, &self.setup, request, &self.workers)
    }

    fn save(&self) -> Snapshot {
        let mut snapshot = self.policy();
        snapshot.put("std", Array::F32(self.std.clone()));
        snapshot.state.insert("population".into(), self.rng.save().into());
        snapshot.state.insert("progress".into(), serde_json::json!(self.progress));
        snapshot
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError> {
        snapshot.f32_into("weights", &mut self.policy.weights)?;
        snapshot.f32_into("std", &mut self.std)?;
        self.progress = snapshot.get("progress")?;
        let text: String = snapshot.get("population")?;
        self.rng = NumpyRng::load(&text).ok_or_else(|| LearnError::Snapshot("`population` is no stream".into()))?;
        Ok(Vec::new())
    }

    fn policy(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.put("weights", Array::F32(self.policy.weights.clone()));
        snapshot
    }
}
