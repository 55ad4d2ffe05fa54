//! Judging a sampler: exactly where the world can be enumerated, and by samples.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bregman_envs::Episode;
use bregman_envs::rng::{NumpyRng, Seed};
use bregman_envs::world::{World, log_sum_exp};

use super::exact::{Graph, distances, sampling_floor};
use super::sampler::{Behaviour, Sampler};
use crate::learner::{Criterion, Drawn, EvalRequest, Evaluation, LearnError, Metrics};

/// What evaluation needs of the world, made when it is first wanted.
pub struct Judge {
    world: Arc<dyn World>,
    exact_states: usize,
    test_objects: usize,
    test_paths: usize,
    graph: Option<Exact>,
    test_set: Option<Vec<i32>>,
}

/// The graph, R/Z, and where each object stands in it.
struct Exact {
    graph: Graph,
    target: Vec<f64>,
    place: HashMap<Vec<i32>, usize>,
}

/// Objects drawn from the policy.
struct Sample {
    objects: Vec<i32>,
    log_reward: Vec<f64>,
    zeta: Vec<f64>,
    len: Vec<usize>,
}

impl Judge {
    /// For a world that is enumerated if it has up to `exact_states` states.
    pub fn new(world: Arc<dyn World>, exact_states: usize, test_objects: usize, test_paths: usize) -> Judge {
        Judge { world, exact_states, test_objects, test_paths, graph: None, test_set: None }
    }

    /// All states of the world, if they are few enough.
    pub fn graph(&mut self) -> Option<&Graph> {
        self.exact().map(|exact| &exact.graph)
    }

    fn exact(&mut self) -> Option<&Exact> {
        let few = self.world.spec().num_states.is_some_and(|states| states <= self.exact_states as u64);
        if few && self.graph.is_none() {
            let graph = Graph::enumerate(self.world.as_ref());
            let place = graph.objects().enumerate().map(|(i, object)| (object.to_vec(), i)).collect();
            self.graph = Some(Exact { target: graph.target(), graph, place });
        }
        self.graph.as_ref()
    }

    /// Draws objects from the policy and compares them, and the policy's exact distribution where there is one, with R/Z.
    pub fn evaluate(
        &mut self,
        sampler: &mut Sampler<f32>,
        params: &[f32],
        log_z: Option<f64>,
        request: &EvalRequest,
    ) -> Result<Evaluation, LearnError> {
        let n = request.episodes as usize;
        let mut rng = Seed(request.seed).stream("evaluation", 0);
        let sample = self.sample(sampler, params, n, &mut rng)?;
        let mut metrics = Metrics::default();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let elbo = mean(&sample.zeta);
        metrics.add("eval/elbo", elbo);
        metrics.add("eval/log_z_is", log_sum_exp(sample.zeta.iter().copied()) - (n as f64).ln());
        if let Some(objects) = self.target_objects(n, &mut rng) {
            metrics.add("eval/eubo", mean(&self.backward_zetas(sampler, params, &objects, &mut rng)?));
        }
        let known = self.exact().map(|exact| exact.graph.log_z()).or_else(|| self.world.log_z());
        if let Some(known) = known {
            metrics.add("eval/log_z_error", (log_z.unwrap_or(elbo) - known).abs());
        }
        // The mean reward is highest for a sampler that knows one mode, so it is not what the best checkpoint is chosen by.
        let (mut name, mut metric) = ("ELBO", "eval/elbo");
        if let Some(exact) = self.exact() {
            let p = exact.graph.distribution(&mut sampler.pass, params);
            let apart = distances(&p, &exact.target);
            (name, metric) = ("L1", "eval/l1");
            metrics.add("eval/l1", apart.l1);
            metrics.add("eval/tv", 0.5 * apart.l1);
            metrics.add("eval/js", apart.js);
            let mut frequency = vec![0.0; p.len()];
            for object in sample.objects.chunks_exact(sample.objects.len() / n) {
                if let Some(&place) = exact.place.get(object) {
                    frequency[place] += 1.0 / n as f64;
                }
            }
            metrics.add("eval/empirical_l1", distances(&frequency, &exact.target).l1);
            metrics.add("eval/l1_floor", sampling_floor(&exact.target, n as u64));
            let expected: f64 = exact.target.iter().zip(exact.graph.log_reward()).map(|(p, r)| p * r.exp()).sum();
            let got = sample.log_reward.iter().map(|r| r.exp()).sum::<f64>() / n as f64;
            metrics.add("eval/reward_error", (got - expected).abs() / expected);
        }
        if self.world.num_modes().is_some() {
            let objects = sample.objects.chunks_exact(sample.objects.len() / n);
            let modes: HashSet<u64> = objects.filter_map(|object| self.world.mode(object)).collect();
            metrics.add("eval/modes", modes.len() as f64);
        }
        if let Some(marginals) = self.world.marginals() {
            metrics.add("eval/marginal_error", self.marginal_error(&marginals, &sample.objects, n));
        }
        if self.test_objects > 0 {
            let [spearman, pearson] = self.correlations(sampler, params)?;
            metrics.add("eval/spearman", spearman);
            metrics.add("eval/pearson", pearson);
        }
        let numbers = sample.log_reward.iter().zip(&sample.len);
        let episode = |(lane, (reward, &len)): (usize, (&f64, &usize))| Episode {
            lane,
            reward: reward.exp(),
            length: len as u32,
        };
        let episodes = numbers.enumerate().map(episode).collect();
        let criterion = Criterion { name: name.into(), metric: metric.into(), least: name == "L1" };
        Ok(Evaluation { episodes, warning: None, metrics, criterion: Some(criterion) })
    }

    /// Draws objects with what is known of them.
    pub fn draw(
        &mut self,
        sampler: &mut Sampler<f32>,
        params: &[f32],
        count: usize,
        seed: u64,
    ) -> Result<Vec<Drawn>, LearnError> {
        let mut rng = Seed(seed).stream("samples", 0);
        let sample = self.sample(sampler, params, count, &mut rng)?;
        let log_prob = self.log_probabilities(sampler, params, &sample.objects, &mut rng)?;
        let objects = sample.objects.chunks_exact(self.world.spec().state_len);
        let numbers = sample.log_reward.iter().zip(log_prob);
        let each = objects.zip(numbers);
        Ok(each
            .map(|(o, (&log_reward, log_prob))| Drawn { object: self.world.describe(o), log_reward, log_prob })
            .collect())
    }

    fn sample(
        &self,
        sampler: &mut Sampler<f32>,
        params: &[f32],
        n: usize,
        rng: &mut NumpyRng,
    ) -> Result<Sample, LearnError> {
        let state_len = self.world.spec().state_len;
        let mut all = Sample { objects: Vec::new(), log_reward: Vec::new(), zeta: Vec::new(), len: Vec::new() };
        while all.len.len() < n {
            let count = sampler.capacity().min(n - all.len.len());
            sampler.sample(params, count, Behaviour::POLICY, rng)?;
            sampler.finish(params)?;
            let batch = &sampler.batch;
            all.objects.extend_from_slice(&batch.last[..count * state_len]);
            all.log_reward.extend_from_slice(&batch.log_reward[..count]);
            all.len.extend_from_slice(&batch.len);
            all.zeta.extend((0..count).map(|b| batch.zeta(b)));
        }
        Ok(all)
    }

    /// Objects drawn from R/Z, where that can be done.
    fn target_objects(&mut self, n: usize, rng: &mut NumpyRng) -> Option<Vec<i32>> {
        let state_len = self.world.spec().state_len;
        let mut objects = vec![0; n * state_len];
        let world = self.world.clone();
        if objects.chunks_exact_mut(state_len).all(|object| world.sample_target(rng, object)) {
            return Some(objects);
        }
        let exact = self.exact()?;
        for object in objects.chunks_exact_mut(state_len) {
            let mut left = rng.double();
            let chosen = exact.target.iter().position(|p| {
                left -= p;
                left < 0.0
            });
            let chosen = chosen.unwrap_or(exact.target.len() - 1);
            object.copy_from_slice(exact.graph.objects().nth(chosen)?);
        }
        Some(objects)
    }

    /// ζ of one backward trajectory from each object.
    fn backward_zetas(
        &self,
        sampler: &mut Sampler<f32>,
        params: &[f32],
        objects: &[i32],
        rng: &mut NumpyRng,
    ) -> Result<Vec<f64>, LearnError> {
        let mut zetas = Vec::new();
        for objects in objects.chunks(sampler.capacity() * self.world.spec().state_len) {
            sampler.sample_backward(params, objects, rng)?;
            sampler.finish(params)?;
            zetas.extend((0..sampler.batch.count()).map(|b| sampler.batch.zeta(b)));
        }
        Ok(zetas)
    }

    /// ln p̂ of each object: ln of the mean of P_F/P_B over backward trajectories. Exact in a tree, low in the mean elsewhere.
    fn log_probabilities(
        &self,
        sampler: &mut Sampler<f32>,
        params: &[f32],
        objects: &[i32],
        rng: &mut NumpyRng,
    ) -> Result<Vec<f64>, LearnError> {
        let count = objects.len() / self.world.spec().state_len;
        let mut weights = vec![Vec::with_capacity(self.test_paths); count];
        for _ in 0..self.test_paths {
            let zetas = self.backward_zetas(sampler, params, objects, rng)?;
            weights.iter_mut().zip(zetas).for_each(|(all, zeta)| all.push(zeta));
        }
        let rewards = objects.chunks_exact(self.world.spec().state_len).map(|object| self.world.log_reward(object));
        let each = weights.iter().zip(rewards);
        // ζ = ln R + ln P_B − ln P_F.
        let log_prob = |(zetas, log_reward): (&Vec<f64>, f64)| {
            log_sum_exp(zetas.iter().map(|zeta| log_reward - zeta)) - (self.test_paths as f64).ln()
        };
        Ok(each.map(log_prob).collect())
    }

    /// Spearman's and Pearson's correlation of ln p̂ and ln R on the test objects: the world's own, evenly thinned by the first step
    /// at which their rewards differ, or objects of the uniform policy.
    fn correlations(&mut self, sampler: &mut Sampler<f32>, params: &[f32]) -> Result<[f64; 2], LearnError> {
        let state_len = self.world.spec().state_len;
        if self.test_set.is_none() {
            let own = self.world.test_set();
            let count = own.len() / state_len;
            let thinned = |every: usize| own.chunks_exact(state_len).step_by(every);
            let differ = |every: &usize| {
                let mut rewards = thinned(*every).map(|object| self.world.log_reward(object));
                let first = rewards.next();
                rewards.any(|reward| Some(reward) != first)
            };
            let least = count.div_ceil(self.test_objects).max(1);
            let every = (least..count).find(differ).unwrap_or(least);
            let mut set: Vec<i32> = thinned(every).flatten().copied().collect();
            let mut rng = NumpyRng::new(0);
            let uniform = Behaviour { epsilon: 1.0, temperature: 1.0 };
            while set.len() < self.test_objects * state_len && own.is_empty() {
                sampler.sample(params, sampler.capacity(), uniform, &mut rng)?;
                set.extend_from_slice(&sampler.batch.last);
                set.truncate(self.test_objects * state_len);
            }
            self.test_set = Some(set);
        }
        let Some(objects) = &self.test_set else { return Ok([0.0; 2]) };
        let log_prob = self.log_probabilities(sampler, params, objects, &mut NumpyRng::new(1))?;
        let log_reward: Vec<f64> =
            objects.chunks_exact(state_len).map(|object| self.world.log_reward(object)).collect();
        Ok([pearson(&ranks(&log_prob), &ranks(&log_reward)), pearson(&log_prob, &log_reward)])
    }

    /// Root mean square over inputs of (frequency − π)/√(π (1 − π)/n).
    fn marginal_error(&self, marginals: &[f64], objects: &[i32], n: usize) -> f64 {
        let spec = self.world.spec();
        let (mut on, mut row) = (vec![0.0; spec.encoding_len], vec![0.0f32; spec.encoding_len]);
        for object in objects.chunks_exact(spec.state_len) {
            row.fill(0.0);
            self.world.encode(object, &mut row);
            on.iter_mut().zip(&row).for_each(|(on, &x)| *on += f64::from(x) / n as f64);
        }
        let score = |(on, p): (&f64, &f64)| (on - p).powi(2) * n as f64 / (p * (1.0 - p));
        (on.iter().zip(marginals).map(score).sum::<f64>() / marginals.len() as f64).sqrt()
    }
}

/// Ranks from 1, the same for what is equal: the mean of its places.
fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
    let mut ranks = vec![0.0; x.len()];
    for group in order.chunk_by(|&a, &b| x[a] == x[b]) {
        let first = order.partition_point(|&i| x[i].total_cmp(&x[group[0]]).is_lt());
        group.iter().for_each(|&i| ranks[i] = first as f64 + (group.len() as f64 + 1.0) / 2.0);
    }
    ranks
}

/// Pearson's correlation; 0 where one side does not vary.
fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n;
    let (mx, my) = (mean(x), mean(y));
    let sum = |a: &[f64], ma: f64, b: &[f64], mb: f64| a.iter().zip(b).map(|(a, b)| (a - ma) * (b - mb)).sum::<f64>();
    let scale = (sum(x, mx, x, mx) * sum(y, my, y, my)).sqrt();
    if scale > 0.0 { sum(x, mx, y, my) / scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use bregman_envs::world::SetWorld;

    use super::*;

    #[test]
    fn marginals_are_off_by_a_deviation_of_exact_samples() {
        // 55 of 100 sets hold the first pair and 45 the second, where half of each is expected: z = ±1, and ±2 for 400.
        let world = Arc::new(SetWorld::new(vec![0.0; 4], 2));
        let judge = Judge::new(world.clone(), 0, 0, 1);
        let mut state = vec![0; world.spec().state_len];
        let mut pair = |elements: [usize; 2]| {
            world.initial(&mut state);
            for element in elements {
                world.apply(&mut state, element);
            }
            state.clone()
        };
        let (first, second) = (pair([0, 1]), pair([2, 3]));
        for (times, z) in [(1, 1.0), (4, 2.0)] {
            let objects = [first.repeat(55 * times), second.repeat(45 * times)].concat();
            let found = judge.marginal_error(&[0.5; 4], &objects, 100 * times);
            assert!((found - z).abs() < 1e-12, "{found}");
        }
    }

    #[test]
    fn ranks_and_correlations_by_hand() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert!((pearson(&[1.0, 2.0, 3.0], &[1.0, 2.0, 4.0]) - 0.981_980_506).abs() < 1e-9);
        assert_eq!(pearson(&[1.0, 2.0], &[5.0, 5.0]), 0.0);
    }
}
