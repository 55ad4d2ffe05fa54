//! Trajectories side by side, forwards under the forward policy and backwards under the backward policy.
//!
//! The networks see every state once, with the policy's own parameters: exploration (ε, temperature) decides which action is
//! taken and nothing else, so that it cannot leak into ln P_F.

use std::sync::Arc;

use bregman_envs::EnvError;
use bregman_envs::rng::NumpyRng;
use bregman_envs::world::World;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::pass::{FlowNetworks, Pass};
use crate::nn::Real;
use crate::workers::Workers;

/// P_B, the policy that takes objects apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackwardPolicy {
    /// An output of the networks, trained by the same loss.
    #[default]
    Learned,
    /// The same probability for every edge that enters a state.
    Uniform,
    /// Every path to a state with the same probability: paths to the parent over paths to the state.
    MaxEntropy,
}

/// How training trajectories are drawn: (1 − ε) softmax(logits/temperature) + ε uniform.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behaviour {
    /// Part of the uniform distribution over legal actions.
    pub epsilon: f64,
    /// 1 is the policy; higher is flatter.
    pub temperature: f64,
}

impl Behaviour {
    /// The policy as it is.
    pub const POLICY: Behaviour = Behaviour { epsilon: 0.0, temperature: 1.0 };
}

/// A batch of trajectories, each in its own stretch of `max_len` transitions.
#[derive(Clone, Debug, Default)]
pub struct Trajectories {
    /// Longest trajectory there can be.
    pub max_len: usize,
    /// Transitions of each.
    pub len: Vec<usize>,
    /// Whether each ends in a terminal state; otherwise it was cut.
    pub complete: Vec<bool>,
    /// Forward action of each transition.
    pub action: Vec<usize>,
    /// The backward action that undoes it; none for the exit.
    pub backward: Vec<Option<usize>>,
    /// ln P_F of each transition, under the policy.
    pub log_pf: Vec<f64>,
    /// ln P_B of each transition.
    pub log_pb: Vec<f64>,
    /// Row of each state in the pass, `[count, max_len + 1]`; none where networks do not see it.
    pub row: Vec<Option<usize>>,
    /// Energy of each state that `row` counts, where the loss wants it.
    pub energy: Vec<f64>,
    /// ln R of the last state where it is terminal.
    pub log_reward: Vec<f64>,
    /// The last state of each.
    pub last: Vec<i32>,
}

impl Trajectories {
    fn new(max_len: usize, state_len: usize, capacity: usize) -> Trajectories {
        let transitions = capacity * max_len;
        Trajectories {
            max_len,
            len: Vec::with_capacity(capacity),
            complete: Vec::with_capacity(capacity),
            action: vec![0; transitions],
            backward: vec![None; transitions],
            log_pf: vec![0.0; transitions],
            log_pb: vec![0.0; transitions],
            row: vec![None; transitions + capacity],
            energy: vec![0.0; transitions + capacity],
            log_reward: vec![0.0; capacity],
            last: vec![0; capacity * state_len],
        }
    }

    /// Number of trajectories.
    pub fn count(&self) -> usize {
        self.len.len()
    }

    /// Number of transitions of all of them.
    pub fn transitions(&self) -> usize {
        self.len.iter().sum()
    }

    /// Where the transitions of trajectory `b` lie in the arrays over transitions.
    pub fn steps(&self, b: usize) -> std::ops::Range<usize> {
        b * self.max_len..b * self.max_len + self.len[b]
    }

    /// Where state `t` of trajectory `b` lies in the arrays over states.
    pub fn place(&self, b: usize, t: usize) -> usize {
        b * (self.max_len + 1) + t
    }

    /// ln R of trajectory `b`'s object, where it reached one.
    pub fn reward_of(&self, b: usize) -> Option<f64> {
        self.complete[b].then(|| self.log_reward[b])
    }

    /// The actions of trajectory `b`, in order.
    pub fn actions(&self, b: usize) -> &[usize] {
        &self.action[self.steps(b)]
    }

    /// ζ of trajectory `b`, which must be complete.
    pub fn zeta(&self, b: usize) -> f64 {
        let steps = self.steps(b);
        super::residual::zeta(&self.log_pf[steps.clone()], &self.log_pb[steps], self.log_reward[b])
    }
}

/// Draws trajectories; allocates nothing once it is made.
pub struct Sampler<T> {
    /// The world.
    pub world: Arc<dyn World>,
    /// The networks' pass over the states of the batch.
    pub pass: Pass<T>,
    /// The batch.
    pub batch: Trajectories,
    backward_policy: BackwardPolicy,
    /// Whether `finish` computes the energies of states on the way.
    energies: bool,
    live: Vec<usize>,
    legal: Vec<bool>,
    initial: Vec<i32>,
    parent: Vec<i32>,
    log_weight: Vec<f64>,
}

impl<T: Real> Sampler<T> {
    /// For up to `capacity` trajectories and as many as `rows` different states.
    pub fn new(
        world: Arc<dyn World>,
        nets: FlowNetworks,
        backward_policy: BackwardPolicy,
        energies: bool,
        capacity: usize,
        rows: usize,
        workers: Arc<Workers>,
    ) -> Sampler<T> {
        let spec = world.spec();
        let batch = Trajectories::new(spec.max_len, spec.state_len, capacity);
        Sampler {
            pass: Pass::new(world.clone(), nets, rows, workers),
            batch,
            backward_policy,
            energies,
            live: Vec::with_capacity(capacity),
            legal: vec![false; spec.num_backward],
            initial: {
                let mut state = vec![0; spec.state_len];
                world.initial(&mut state);
                state
            },
            parent: vec![0; spec.state_len],
            log_weight: vec![0.0; spec.num_backward],
            world,
        }
    }

    /// States that `capacity` trajectories can have.
    pub fn rows_for(world: &dyn World, capacity: usize) -> usize {
        capacity * (world.spec().max_len + 1)
    }

    /// The object that trajectory `b` ends in, where it reached one, and ln R.
    pub fn object(&self, b: usize) -> Option<(&[i32], f64)> {
        let state_len = self.world.spec().state_len;
        Some((&self.batch.last[b * state_len..(b + 1) * state_len], self.batch.reward_of(b)?))
    }

    /// How many trajectories there is room for.
    pub fn capacity(&self) -> usize {
        self.batch.log_reward.len()
    }

    /// Draws `count` trajectories from the initial state to terminal ones.
    ///
    /// # Errors
    /// A world that contradicts itself.
    pub fn sample(
        &mut self,
        params: &[T],
        count: usize,
        behaviour: Behaviour,
        rng: &mut NumpyRng,
    ) -> Result<(), EnvError> {
        self.begin(count);
        self.extend(params, behaviour, rng)
    }

    /// Forgets the batch and starts `count` trajectories at the initial state.
    pub fn begin(&mut self, count: usize) {
        assert!(count <= self.capacity(), "{count} trajectories in room for {}", self.capacity());
        self.pass.clear();
        self.batch.len.clear();
        self.batch.len.resize(count, 0);
        self.batch.complete.clear();
        self.batch.complete.resize(count, false);
        let state_len = self.world.spec().state_len;
        for state in self.batch.last.chunks_exact_mut(state_len).take(count) {
            self.world.initial(state);
        }
    }

    /// Takes every trajectory that has not ended to its end.
    pub fn extend(&mut self, params: &[T], behaviour: Behaviour, rng: &mut NumpyRng) -> Result<(), EnvError> {
        let Sampler { world, pass, batch, live, .. } = self;
        let state_len = world.spec().state_len;
        live.clear();
        live.extend((0..batch.count()).filter(|&b| !batch.complete[b]));
        while !live.is_empty() {
            for &b in live.iter() {
                let place = batch.place(b, batch.len[b]);
                batch.row[place] = Some(pass.row_of(&batch.last[b * state_len..(b + 1) * state_len]));
            }
            pass.evaluate(params);
            for &b in live.iter() {
                let t = batch.len[b];
                let state = &mut batch.last[b * state_len..(b + 1) * state_len];
                let row = batch.row[b * (batch.max_len + 1) + t].unwrap_or_default();
                let action = pass.choose(row, rng.double(), behaviour.epsilon, behaviour.temperature);
                let Some(action) = action.filter(|_| t < batch.max_len) else {
                    return Err(stuck(world.as_ref(), state, t));
                };
                let step = b * batch.max_len + t;
                batch.action[step] = action;
                batch.backward[step] = world.apply(state, action);
                batch.len[b] += 1;
                batch.complete[b] = world.is_terminal(state);
            }
            live.retain(|&b| !batch.complete[b]);
        }
        Ok(())
    }

    /// Replaces the batch by trajectories with the given actions.
    ///
    /// # Errors
    /// An action that is not legal there.
    pub fn replay<'a>(
        &mut self,
        params: &[T],
        actions: impl ExactSizeIterator<Item = &'a [usize]> + Clone,
    ) -> Result<(), EnvError> {
        self.begin(actions.len());
        self.join(params, actions, 0)
    }

    /// The same for trajectories that were begun, from number `first` on.
    pub fn join<'a>(
        &mut self,
        params: &[T],
        actions: impl Iterator<Item = &'a [usize]> + Clone,
        first: usize,
    ) -> Result<(), EnvError> {
        let Sampler { world, pass, batch, .. } = self;
        let state_len = world.spec().state_len;
        // Rows first, for one pass over all states.
        for (b, actions) in actions.clone().enumerate() {
            let b = first + b;
            let state = &mut batch.last[b * state_len..(b + 1) * state_len];
            for &action in actions {
                let t = batch.len[b];
                if world.is_terminal(state) || t == batch.max_len {
                    return Err(stuck(world.as_ref(), state, t));
                }
                batch.row[b * (batch.max_len + 1) + t] = Some(pass.row_of(state));
                batch.action[b * batch.max_len + t] = action;
                batch.backward[b * batch.max_len + t] = world.apply(state, action);
                batch.len[b] += 1;
            }
            batch.complete[b] = world.is_terminal(state);
            if !batch.complete[b] {
                batch.row[b * (batch.max_len + 1) + batch.len[b]] = Some(pass.row_of(state));
            }
        }
        pass.evaluate(params);
        Ok(())
    }

    /// Replaces the batch by trajectories that end in the given terminal objects, `[count, state_len]`, drawn backwards.
    pub fn sample_backward(&mut self, params: &[T], objects: &[i32], rng: &mut NumpyRng) -> Result<(), EnvError> {
        self.begin(objects.len() / self.world.spec().state_len);
        self.join_backward(params, objects, 0, rng)
    }

    /// The same for trajectories that were begun, from number `first` on.
    pub fn join_backward(
        &mut self,
        params: &[T],
        objects: &[i32],
        first: usize,
        rng: &mut NumpyRng,
    ) -> Result<(), EnvError> {
        let spec = self.world.spec();
        let (state_len, max_len) = (spec.state_len, spec.max_len);
        let count = objects.len() / state_len;
        self.batch.last[first * state_len..(first + count) * state_len].copy_from_slice(objects);
        // Walked from the end of each stretch towards its beginning, since lengths are not known before; moved afterwards.
        self.live.clear();
        self.live.extend(first..first + count);
        while !self.live.is_empty() {
            self.live.retain(|&b| self.batch.last[b * state_len..(b + 1) * state_len] != self.initial);
            for &b in &self.live {
                let place = self.batch.place(b, max_len - self.batch.len[b]);
                let state = &self.batch.last[b * state_len..(b + 1) * state_len];
                let seen = self.sees(state);
                self.batch.row[place] = seen.then(|| self.pass.row_of(state));
            }
            self.pass.evaluate(params);
            for i in 0..self.live.len() {
                let b = self.live[i];
                let t = self.batch.len[b];
                let row = self.batch.row[self.batch.place(b, max_len - t)];
                let backward = match t < max_len {
                    true => self.choose_backward(b, row, rng),
                    false => None,
                };
                let state = &mut self.batch.last[b * state_len..(b + 1) * state_len];
                let Some(backward) = backward else {
                    let state = self.world.describe(state);
                    return Err(spec_error(self.world.as_ref(), format!("no way leads back from state {state}")));
                };
                let step = b * max_len + max_len - 1 - t;
                self.batch.backward[step] = backward;
                self.batch.action[step] = self.world.undo(state, backward);
                self.batch.len[b] += 1;
            }
        }
        for b in first..first + count {
            let (len, start) = (self.batch.len[b], self.batch.place(b, 0));
            let row = self.pass.row_of(&self.initial);
            self.batch.row[start + max_len - len] = Some(row);
            let steps = b * max_len..(b + 1) * max_len;
            self.batch.action[steps.clone()].rotate_right(len);
            self.batch.backward[steps].rotate_right(len);
            self.batch.row[start..start + max_len + 1].rotate_right(len + 1);
            self.batch.complete[b] = true;
        }
        self.batch.last[first * state_len..(first + count) * state_len].copy_from_slice(objects);
        self.pass.evaluate(params);
        Ok(())
    }

    /// Whether networks are asked about a state: all but terminal ones, and these where the backward policy is learned and
    /// they are no copies.
    fn sees(&self, state: &[i32]) -> bool {
        !self.world.is_terminal(state) || (self.pass.nets().learns_backward() && self.world.spec().exit.is_none())
    }

    /// Draws the way back from the last state of trajectory `b`; none where there is none.
    fn choose_backward(&mut self, b: usize, row: Option<usize>, rng: &mut NumpyRng) -> Option<Option<usize>> {
        let state_len = self.world.spec().state_len;
        let state = &self.batch.last[b * state_len..(b + 1) * state_len];
        if self.world.spec().exit.is_some() && self.world.is_terminal(state) {
            return Some(None);
        }
        if self.backward_policy == BackwardPolicy::Learned {
            return self.pass.choose_backward(row?, rng.double()).map(Some);
        }
        self.legal.fill(false);
        self.world.backward_actions(state, &mut self.legal);
        let legal = self.legal.iter().enumerate().filter_map(|(i, &legal)| legal.then_some(i));
        if self.backward_policy == BackwardPolicy::Uniform {
            let count = legal.clone().count();
            return (count > 0).then(|| Some(legal.clone().nth(rng.below(count)))).flatten();
        }
        // In proportion to the paths that lead to each parent.
        self.log_weight.fill(f64::NEG_INFINITY);
        for backward in legal.clone() {
            self.parent.copy_from_slice(state);
            self.world.undo(&mut self.parent, Some(backward));
            self.log_weight[backward] = self.world.log_paths(&self.parent).unwrap_or(0.0);
        }
        let max = self.log_weight.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = self.log_weight.iter().map(|w| (w - max).exp()).sum();
        let mut left = rng.double() * total;
        let mut chosen = None;
        for backward in legal {
            chosen = Some(backward);
            left -= (self.log_weight[backward] - max).exp();
            if left < 0.0 {
                break;
            }
        }
        chosen.map(Some)
    }

    /// Takes trajectory `b` back to its state `t`, which becomes its last one.
    pub fn truncate(&mut self, b: usize, t: usize) {
        if t < self.batch.len[b] {
            let row = self.batch.row[self.batch.place(b, t)];
            let state_len = self.world.spec().state_len;
            self.batch.last[b * state_len..(b + 1) * state_len]
                .copy_from_slice(self.pass.state(row.unwrap_or_default()));
            (self.batch.len[b], self.batch.complete[b]) = (t, false);
        }
    }

    /// Cuts each of the first `count` trajectories with probability `p` after U{1 … T − 1} transitions; the rest and its reward
    /// are lost.
    pub fn cut(&mut self, count: usize, p: f64, rng: &mut NumpyRng) {
        if p > 0.0 {
            for b in 0..count {
                let len = self.batch.len[b];
                if rng.double() < p && len > 1 {
                    self.truncate(b, 1 + rng.below(len - 1));
                }
            }
        }
    }

    /// One round of local search on the first `count` trajectories: takes their objects apart by P_B, redoes the last part
    /// (`depth` of the length) by P_F, and keeps the new object with probability
    /// min(1, R(x′) p(x′→x) / (R(x) p(x→x′))), p(x→x′) = P_B(x→s) P_F(s→x′). An object of another length is taken only where
    /// its own last part begins at s too, since otherwise nothing leads back. The trajectories are new ones either way.
    pub fn local_search(&mut self, params: &[T], count: usize, depth: f64, rng: &mut NumpyRng) -> Result<(), EnvError> {
        let state_len = self.world.spec().state_len;
        let objects = self.batch.last[..count * state_len].to_vec();
        let kept = |len: usize| len - ((depth * len as f64).ceil() as usize).clamp(1, len);
        self.batch.len[..count].fill(0);
        self.join_backward(params, &objects, 0, rng)?;
        self.finish(params)?;
        let old: Vec<(Vec<usize>, f64, usize)> = (0..count)
            .map(|b| {
                let kept = kept(self.batch.len[b]);
                (self.batch.actions(b).to_vec(), self.log_exchange(b, kept), kept)
            })
            .collect();
        (0..count).for_each(|b| self.truncate(b, old[b].2));
        self.extend(params, Behaviour::POLICY, rng)?;
        self.finish(params)?;
        for (b, (actions, exchange, from)) in old.iter().enumerate() {
            let leads_back = kept(self.batch.len[b]) == *from;
            if rng.double().ln() >= self.log_exchange(b, *from) - exchange || !leads_back {
                self.batch.len[b] = 0;
                let state = &mut self.batch.last[b * state_len..(b + 1) * state_len];
                self.world.initial(state);
                self.join(params, std::iter::once(actions.as_slice()), b)?;
            }
        }
        Ok(())
    }

    /// ln R(x) + ln P_B(x→s) − ln P_F(s→x) of trajectory `b` from its state `from` on: the difference of two is the logarithm
    /// of Metropolis and Hastings's ratio.
    fn log_exchange(&self, b: usize, from: usize) -> f64 {
        let steps = self.batch.steps(b).skip(from);
        self.batch.log_reward[b] + steps.map(|i| self.batch.log_pb[i] - self.batch.log_pf[i]).sum::<f64>()
    }

    /// Log-probabilities under both policies, rewards, and energies where they are wanted.
    ///
    /// # Errors
    /// A reward or an energy that is not finite.
    pub fn finish(&mut self, params: &[T]) -> Result<(), EnvError> {
        self.terminal_rows(params);
        let (count, max_len) = (self.batch.count(), self.batch.max_len);
        for b in 0..count {
            for t in 0..self.batch.len[b] {
                let step = b * max_len + t;
                let (here, next) = (self.batch.row[self.batch.place(b, t)], self.batch.row[self.batch.place(b, t + 1)]);
                let here = here.unwrap_or_default();
                self.batch.log_pf[step] = self.pass.log_pf(here, self.batch.action[step]);
                self.batch.log_pb[step] = match self.batch.backward[step] {
                    // The exit's copy has one way back.
                    None => 0.0,
                    Some(backward) => match (self.backward_policy, next) {
                        (BackwardPolicy::Learned, Some(next)) => self.pass.log_pb(next, backward),
                        (policy, next) => self.fixed_log_pb(policy, b, t, here, next),
                    },
                };
            }
        }
        self.rewards()
    }

    /// Rows of the terminal states that a learned backward policy starts from.
    fn terminal_rows(&mut self, params: &[T]) {
        let state_len = self.world.spec().state_len;
        for b in 0..self.batch.count() {
            let state = &self.batch.last[b * state_len..(b + 1) * state_len];
            if self.batch.complete[b] {
                let place = self.batch.place(b, self.batch.len[b]);
                let seen = self.sees(state);
                self.batch.row[place] = seen.then(|| self.pass.row_of(state));
            }
        }
        self.pass.evaluate(params);
    }

    /// ln P_B of a fixed policy from state t + 1 of trajectory `b` to state t.
    fn fixed_log_pb(&mut self, policy: BackwardPolicy, b: usize, t: usize, here: usize, next: Option<usize>) -> f64 {
        let state_len = self.world.spec().state_len;
        let next = match next.filter(|_| t + 1 < self.batch.len[b]) {
            Some(row) => self.pass.state(row),
            None => &self.batch.last[b * state_len..(b + 1) * state_len],
        };
        if policy == BackwardPolicy::MaxEntropy {
            let paths = |state: &[i32]| self.world.log_paths(state).unwrap_or(0.0);
            return paths(self.pass.state(here)) - paths(next);
        }
        self.legal.fill(false);
        self.world.backward_actions(next, &mut self.legal);
        -(self.legal.iter().filter(|&&legal| legal).count() as f64).ln()
    }

    fn rewards(&mut self) -> Result<(), EnvError> {
        let Sampler { world, pass, batch, energies, .. } = self;
        let (spec, count, states) = (world.spec(), batch.count(), batch.max_len + 1);
        let Trajectories { len, complete, row, last, log_reward, energy, .. } = batch;
        let work = |b: usize, log_reward: &mut f64, energy: &mut [f64]| -> Result<(), EnvError> {
            let last = &last[b * spec.state_len..(b + 1) * spec.state_len];
            if complete[b] {
                *log_reward = world.log_reward(last);
                if !log_reward.is_finite() {
                    let state = world.describe(last);
                    return Err(
                        spec.error(format!("ln R is {log_reward} in state {state}: give rewards a positive floor"))
                    );
                }
            }
            if *energies {
                for (t, energy) in energy.iter_mut().enumerate().take(len[b] + usize::from(!complete[b])) {
                    let state = pass.state(row[b * states + t].unwrap_or_default());
                    *energy = world.energy(state);
                    if !energy.is_finite() {
                        return Err(spec.error(format!("the energy is {energy} in state {}", world.describe(state))));
                    }
                }
            }
            Ok(())
        };
        let workers = pass.workers();
        if spec.heavy && workers.parallel() {
            let each = log_reward[..count].par_iter_mut().zip(energy.par_chunks_mut(states)).enumerate();
            workers.run(|| each.try_for_each(|(b, (log_reward, energy))| work(b, log_reward, energy)))
        } else {
            let mut each = log_reward[..count].iter_mut().zip(energy.chunks_mut(states)).enumerate();
            each.try_for_each(|(b, (log_reward, energy))| work(b, log_reward, energy))
        }
    }
}

fn spec_error(world: &dyn World, message: String) -> EnvError {
    world.spec().error(message)
}

/// The error of a trajectory that cannot go on.
fn stuck(world: &dyn World, state: &[i32], t: usize) -> EnvError {
    let (state, max_len) = (world.describe(state), world.spec().max_len);
    world.spec().error(match t < max_len {
        true => format!("no action is legal in state {state}, which is not terminal"),
        false => format!("a trajectory goes on after {max_len} steps, its `max_len`, in state {state}"),
    })
}
