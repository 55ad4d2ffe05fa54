//! What training has come across, and the row of the log that says so.

use std::collections::HashSet;
use std::sync::Arc;

use bregman_envs::Episode;
use bregman_envs::world::{World, state_hash};

use super::sampler::{Sampler, Trajectories};
use crate::learner::{Array, LearnError, Metrics, Progress, Report, Snapshot};

/// How many of the best objects the log averages over.
const TOP: usize = 100;

/// The modes, and the best different objects, of all objects drawn in training.
pub struct Discoveries {
    world: Arc<dyn World>,
    modes: HashSet<u64>,
    /// ln R and hash, best first.
    best: Vec<(f64, u64)>,
}

impl Discoveries {
    /// None yet.
    pub fn new(world: Arc<dyn World>) -> Discoveries {
        Discoveries { world, modes: HashSet::new(), best: Vec::with_capacity(TOP + 1) }
    }

    /// Takes note of an object.
    pub fn add(&mut self, object: &[i32], log_reward: f64) {
        self.modes.extend(self.world.mode(object));
        let (best, hash) = (&mut self.best, state_hash(object));
        let full = best.len() == TOP && best.last().is_some_and(|(least, _)| log_reward <= *least);
        if !full && best.iter().all(|(_, other)| *other != hash) {
            let place = best.partition_point(|(other, _)| *other >= log_reward);
            best.insert(place, (log_reward, hash));
            best.truncate(TOP);
        }
    }

    /// Puts all of it into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        let mut modes: Vec<u64> = self.modes.iter().copied().collect();
        modes.sort_unstable();
        let bytes = |numbers: &mut dyn Iterator<Item = u64>| Array::U8(numbers.flat_map(u64::to_le_bytes).collect());
        snapshot.put("modes", bytes(&mut modes.into_iter()));
        snapshot.put("best/log_reward", Array::F64(self.best.iter().map(|(r, _)| *r).collect()));
        snapshot.put("best/hash", bytes(&mut self.best.iter().map(|(_, hash)| *hash)));
    }

    /// Takes all of it from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        let numbers = |name: &str| match snapshot.arrays.get(name) {
            Some(Array::U8(bytes)) => Ok(bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))),
            _ => Err(LearnError::Snapshot(format!("`{name}` is missing"))),
        };
        self.modes = numbers("modes")?.collect();
        let mut rewards = vec![0.0; numbers("best/hash")?.len()];
        snapshot.f64_into("best/log_reward", &mut rewards)?;
        self.best = rewards.into_iter().zip(numbers("best/hash")?).collect();
        Ok(())
    }
}

/// Sums over a row of the log.
#[derive(Default)]
pub struct Sums {
    steps: f64,
    loss: f64,
    grad_norm: f64,
    batches: f64,
    states: f64,
    log_reward: f64,
    objects: f64,
    /// Of the last batch.
    fresh: usize,
}

impl Sums {
    /// Counts the first `fresh` trajectories of a batch.
    pub fn count(&mut self, sampler: &Sampler<f32>, fresh: usize, progress: &mut Progress) {
        let batch = &sampler.batch;
        self.fresh = fresh;
        for b in 0..fresh {
            progress.env_steps += batch.len[b] as u64;
            progress.episodes += 1;
            if let Some(log_reward) = batch.reward_of(b) {
                self.log_reward += log_reward;
                self.objects += 1.0;
            }
        }
    }

    /// Counts the states that a batch put before the networks, still in its pass.
    pub fn look(&mut self, sampler: &Sampler<f32>) {
        self.batches += 1.0;
        self.states += sampler.pass.rows() as f64 / sampler.batch.transitions().max(1) as f64;
    }

    /// Counts an optimiser step.
    pub fn step(&mut self, loss: f64, grad_norm: f64) {
        self.steps += 1.0;
        self.loss += loss;
        self.grad_norm += grad_norm;
    }

    /// The row, with Adam's step size and ε.
    pub fn report(
        &self,
        batch: &Trajectories,
        discoveries: &Discoveries,
        log_z: f64,
        [learning_rate, epsilon]: [f64; 2],
        progress: &Progress,
    ) -> Report {
        let finished = (0..self.fresh).filter_map(|b| {
            let (reward, length) = (batch.reward_of(b)?.exp(), batch.len[b] as u32);
            Some(Episode { lane: b, reward, length })
        });
        let episodes = finished.collect();
        let mut metrics = Metrics::default();
        metrics.add("train/loss", self.loss / self.steps);
        metrics.add("train/log_z", log_z);
        if self.objects > 0.0 {
            metrics.add("train/log_reward", self.log_reward / self.objects);
        }
        let Discoveries { world, modes, best } = discoveries;
        if !best.is_empty() {
            metrics.add("train/log_reward_best", best.iter().map(|(r, _)| r).sum::<f64>() / best.len() as f64);
        }
        if world.num_modes().is_some() {
            metrics.add("train/modes", modes.len() as f64);
        }
        metrics.add("train/states", self.states / self.batches);
        metrics.add("train/grad_norm", self.grad_norm / self.steps);
        metrics.add("train/learning_rate", learning_rate);
        metrics.add("train/epsilon", epsilon);
        metrics.add("train/n_updates", progress.grad_steps as f64);
        Report { metrics, episodes, ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use bregman_envs::world::{HyperGrid, HyperGridConfig};

    use super::*;

    #[test]
    fn the_hundred_best_different_objects_are_kept() {
        let grid = HyperGrid::new(HyperGridConfig { height: 200, ..Default::default() }).expect("a grid");
        let mut discoveries = Discoveries::new(Arc::new(grid));
        // ln R from 1 to 150, each twice, the best neither first nor last.
        for i in (75..150).chain(0..75).flat_map(|i| [i, i]) {
            discoveries.add(&[i, 0, 1], f64::from(i + 1));
        }
        let kept: Vec<f64> = discoveries.best.iter().map(|(log_reward, _)| *log_reward).collect();
        assert_eq!(kept, (51..=150).rev().map(f64::from).collect::<Vec<_>>());
    }
}
