//! The objectives: what a batch of trajectories costs, and the gradient of that.

use bregman_envs::world::log_sum_exp;

use super::residual::{
    detailed_balance, log_partition_variance, pull_back, residuals, sub_trajectory_balance, trajectory_balance,
};
use super::sampler::Sampler;
use crate::nn::Real;

/// What is made to balance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// What flows into a state is what flows out (Bengio et al. 2021).
    FlowMatching,
    /// Every transition, with a flow for every state; all transitions of the batch weigh the same.
    DetailedBalance {
        /// The flow is e^−E times a learned one.
        forward_looking: bool,
    },
    /// The same where every state may stop, with F(s) = R(s)/P_F(stop|s) (Deleu et al. 2022): forward-looking with
    /// ln F̃(s) = −ln P_F(stop|s).
    ModifiedDetailedBalance,
    /// Whole trajectories, with ln Z a parameter.
    TrajectoryBalance,
    /// Every stretch of a trajectory, in proportion to λ^length; all trajectories weigh the same.
    SubTrajectoryBalance {
        /// λ.
        lambda: f64,
        /// As in detailed balance.
        forward_looking: bool,
    },
    /// Whole trajectories, with ln Z their mean.
    LogPartitionVariance,
}

impl Objective {
    /// Whether the networks give a state's log flow.
    pub fn has_flow(&self) -> bool {
        matches!(self, Objective::DetailedBalance { .. } | Objective::SubTrajectoryBalance { .. })
    }

    /// Whether there is a backward policy.
    pub fn has_backward(&self) -> bool {
        !matches!(self, Objective::FlowMatching)
    }

    /// Whether the energies of states on the way are asked for.
    pub fn needs_energies(&self) -> bool {
        match *self {
            Objective::DetailedBalance { forward_looking } => forward_looking,
            Objective::SubTrajectoryBalance { forward_looking, .. } => forward_looking,
            Objective::ModifiedDetailedBalance => true,
            _ => false,
        }
    }

    /// Whether trajectories that were cut teach nothing.
    pub fn needs_ends(&self) -> bool {
        matches!(self, Objective::TrajectoryBalance | Objective::LogPartitionVariance)
    }
}

/// Room for the terms of one trajectory, and for what flow matching visits.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    log_flow: Vec<f64>,
    energy: Vec<f64>,
    u: Vec<f64>,
    d_u: Vec<f64>,
    d_log_pf: Vec<f64>,
    zeta: Vec<f64>,
    d_zeta: Vec<f64>,
    legal: Vec<bool>,
    state: Vec<i32>,
    parent: Vec<i32>,
    /// Edges into visited states, one visited state after the other: row of the parent and action.
    edges: Vec<(usize, usize)>,
    /// Trajectory, time, and where its edges end.
    visits: Vec<(usize, usize, usize)>,
}

/// A loss, and its derivative in ln Z.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Mean over what the objective weighs equally.
    pub loss: f64,
    /// Only trajectory balance has it.
    pub d_log_z: f64,
}

impl Objective {
    /// The loss of a finished batch; its gradients are left in the pass.
    pub fn loss<T: Real>(&self, sampler: &mut Sampler<T>, params: &[T], log_z: f64, scratch: &mut Scratch) -> Loss {
        match self {
            Objective::FlowMatching => Loss { loss: flow_matching(sampler, params, scratch), d_log_z: 0.0 },
            Objective::LogPartitionVariance => Loss { loss: vargrad(sampler, scratch), d_log_z: 0.0 },
            _ => self.balance(sampler, log_z, scratch),
        }
    }

    /// The objectives with a residual for every trajectory.
    fn balance<T: Real>(&self, sampler: &mut Sampler<T>, log_z: f64, scratch: &mut Scratch) -> Loss {
        let count = sampler.batch.count();
        let modified = *self == Objective::ModifiedDetailedBalance;
        // The exit has no part in modified detailed balance.
        let transitions = |sampler: &Sampler<T>, b: usize| match modified && sampler.batch.complete[b] {
            true => sampler.batch.len[b] - 1,
            false => sampler.batch.len[b],
        };
        let all: usize = (0..count).map(|b| transitions(sampler, b)).sum();
        let mut total = Loss::default();
        for b in 0..count {
            let (len, whole) = (transitions(sampler, b), sampler.batch.complete[b] && !modified);
            if len == 0 {
                continue;
            }
            self.terms(sampler, b, len, whole, log_z, scratch);
            let Scratch { u, d_u, d_log_pf, .. } = scratch;
            d_u.clear();
            d_u.resize(u.len(), 0.0);
            d_log_pf.clear();
            d_log_pf.resize(len, 0.0);
            total.loss += match *self {
                Objective::TrajectoryBalance => trajectory_balance(u, 1.0 / count as f64, d_u),
                Objective::SubTrajectoryBalance { lambda, .. } => {
                    sub_trajectory_balance(u, lambda, 1.0 / count as f64, d_u)
                }
                _ => detailed_balance(u, 1.0 / all as f64, d_u),
            };
            pull_back(d_u, d_log_pf);
            spread(sampler, b, d_log_pf);
            for (t, &d) in d_u.iter().enumerate().take(len + usize::from(!whole)) {
                let row = sampler.batch.row[sampler.batch.place(b, t)].unwrap_or_default();
                match (self, sampler.world.spec().exit) {
                    (Objective::TrajectoryBalance, _) => total.d_log_z += if t == 0 { d } else { 0.0 },
                    (Objective::ModifiedDetailedBalance, Some(exit)) => sampler.pass.add_log_pf(row, exit, -d),
                    _ => sampler.pass.add_log_flow(row, d),
                }
            }
        }
        total
    }

    /// Writes the residual vector of trajectory `b` over its first `len` transitions; `whole` where the last enters the
    /// terminal state.
    fn terms<T: Real>(
        &self,
        sampler: &Sampler<T>,
        b: usize,
        len: usize,
        whole: bool,
        log_z: f64,
        scratch: &mut Scratch,
    ) {
        let Scratch { log_flow, energy, u, .. } = scratch;
        let (batch, exit) = (&sampler.batch, sampler.world.spec().exit);
        log_flow.clear();
        energy.clear();
        for t in 0..len + usize::from(!whole) {
            let place = batch.place(b, t);
            let row = batch.row[place].unwrap_or_default();
            log_flow.push(match (self, exit) {
                (Objective::TrajectoryBalance, _) => log_z,
                (Objective::ModifiedDetailedBalance, Some(exit)) => -sampler.pass.log_pf(row, exit),
                _ => sampler.pass.log_flow(row),
            });
            if self.needs_energies() {
                energy.push(batch.energy[place]);
            }
        }
        let start = b * batch.max_len;
        let log_reward = whole.then(|| batch.log_reward[b]);
        residuals(
            log_flow,
            energy,
            &batch.log_pf[start..start + len],
            &batch.log_pb[start..start + len],
            log_reward,
            u,
        );
    }
}

/// Hands the gradient in ln P_F, and its negative in ln P_B, to the rows of trajectory `b`.
fn spread<T: Real>(sampler: &mut Sampler<T>, b: usize, d_log_pf: &[f64]) {
    let learned = sampler.pass.nets().learns_backward();
    for (t, &d) in d_log_pf.iter().enumerate() {
        let (step, place) = (b * sampler.batch.max_len + t, sampler.batch.place(b, t));
        let row = sampler.batch.row[place].unwrap_or_default();
        sampler.pass.add_log_pf(row, sampler.batch.action[step], d);
        // ln P_B belongs to the state that is left backwards: the next one.
        if let (true, Some(backward), Some(next)) =
            (learned, sampler.batch.backward[step], sampler.batch.row[place + 1])
        {
            sampler.pass.add_log_pb(next, backward, -d);
        }
    }
}

/// Variance of ζ over the complete trajectories of the batch.
fn vargrad<T: Real>(sampler: &mut Sampler<T>, scratch: &mut Scratch) -> f64 {
    let count = sampler.batch.count();
    scratch.zeta.clear();
    scratch.zeta.extend((0..count).map(|b| sampler.batch.zeta(b)));
    scratch.d_zeta.clear();
    scratch.d_zeta.resize(count, 0.0);
    let loss = log_partition_variance(&scratch.zeta, &mut scratch.d_zeta);
    for b in 0..count {
        scratch.d_log_pf.clear();
        // ∂ζ/∂ln P_F = −1 at every step.
        scratch.d_log_pf.resize(sampler.batch.len[b], -scratch.d_zeta[b]);
        spread(sampler, b, &scratch.d_log_pf);
    }
    loss
}

/// Flow matching: mean over visited states of (ln Σ flows in − ln Σ flows out)². The forward logits are the log edge flows; a
/// terminal object lets out its reward. Where states stop by an exit, that edge is among those that go out, and its flow is
/// matched to the reward: plus the mean over trajectories of (ln F(x → stop) − ln R(x))².
fn flow_matching<T: Real>(sampler: &mut Sampler<T>, params: &[T], scratch: &mut Scratch) -> f64 {
    let Scratch { legal, state, parent, edges, visits, .. } = scratch;
    let world = sampler.world.clone();
    let spec = world.spec();
    edges.clear();
    visits.clear();
    legal.resize(spec.num_backward, false);
    state.resize(spec.state_len, 0);
    parent.resize(spec.state_len, 0);
    for b in 0..sampler.batch.count() {
        for t in 1..=sampler.batch.len[b] {
            let end = t == sampler.batch.len[b] && sampler.batch.complete[b];
            if end && spec.exit.is_some() {
                continue;
            }
            let at = match end {
                true => &sampler.batch.last[b * spec.state_len..(b + 1) * spec.state_len],
                false => sampler.pass.state(sampler.batch.row[sampler.batch.place(b, t)].unwrap_or_default()),
            };
            state.copy_from_slice(at);
            legal.fill(false);
            world.backward_actions(state, legal);
            for backward in (0..legal.len()).filter(|&i| legal[i]) {
                parent.copy_from_slice(state);
                let action = world.undo(parent, Some(backward));
                edges.push((sampler.pass.row_of(parent), action));
            }
            visits.push((b, t, edges.len()));
        }
    }
    sampler.pass.evaluate(params);

    let (mut loss, mut first, scale) = (0.0, 0, 1.0 / visits.len().max(1) as f64);
    for &(b, t, last) in visits.iter() {
        let (pass, batch) = (&mut sampler.pass, &sampler.batch);
        let into = &edges[first..last];
        first = last;
        let flow_in = log_sum_exp(into.iter().map(|&(row, action)| pass.logit(row, action)));
        let end = t == batch.len[b] && batch.complete[b];
        let row = batch.row[batch.place(b, t)].filter(|_| !end);
        let flow_out = row.map_or(batch.log_reward[b], |row| pass.log_norm(row));
        let delta = flow_in - flow_out;
        loss += scale * delta * delta;
        let d = 2.0 * scale * delta;
        for &(row, action) in into {
            pass.add_logit(row, action, d * (pass.logit(row, action) - flow_in).exp());
        }
        if let Some(row) = row {
            pass.add_log_norm(row, -d);
        }
    }
    let Some(exit) = spec.exit else { return loss };
    let ends = sampler.batch.complete.iter().filter(|&&complete| complete).count();
    for b in (0..sampler.batch.count()).filter(|&b| sampler.batch.complete[b]) {
        let row = sampler.batch.row[sampler.batch.place(b, sampler.batch.len[b] - 1)].unwrap_or_default();
        let delta = sampler.pass.logit(row, exit) - sampler.batch.log_reward[b];
        loss += delta * delta / ends as f64;
        sampler.pass.add_logit(row, exit, 2.0 * delta / ends as f64);
    }
    loss
}
