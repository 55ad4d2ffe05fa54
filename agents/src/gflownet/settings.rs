//! Settings that GFlowNets share.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::replay::ReplayKind;
use super::sampler::BackwardPolicy;
use crate::check;
use crate::learner::LearnError;
use crate::nn::Activation;
use crate::optional;

/// Settings of every GFlowNet; defaults as in torchgfn's and gfnx's HyperGrid examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct GflownetConfig {
    /// Trajectories per optimiser step, replayed ones included.
    pub num_trajectories: usize,
    /// Widths of the hidden layers.
    pub hidden_sizes: Vec<usize>,
    /// Between the layers: `tanh`, `relu`, `elu` or `silu`.
    pub activation: Activation,
    /// One trunk for policies and flow; otherwise a network for each.
    pub tied: bool,
    /// P_B: `learned`, `uniform` over edges, or `max_entropy` (every path to a state alike).
    pub backward_policy: BackwardPolicy,
    /// Adam's step size at the start.
    pub learning_rate: f64,
    /// Let the step sizes fall linearly to 0 over the budget.
    pub anneal_lr: bool,
    /// Adam's ε.
    pub adam_eps: f64,
    /// Bound on the norm of the networks' gradient, ln Z left out; "none" leaves it free.
    #[serde(with = "optional")]
    pub max_grad_norm: Option<f64>,
    /// Part of training actions that are uniform over legal ones. The loss knows nothing of it.
    pub epsilon: f64,
    /// Let ε fall linearly to 0 over the budget.
    pub anneal_epsilon: bool,
    /// Training actions are drawn from softmax(logits/temperature). The loss knows nothing of it.
    pub temperature: f64,
    /// Probability with which a training trajectory is cut after U{1 … T − 1} transitions, its reward lost.
    pub cut_probability: f64,
    /// What is trained on again: `none`, `trajectories`, `objects` (with new paths to them, drawn backwards) or `prioritised`
    /// (objects, of which the best are kept).
    pub replay: ReplayKind,
    /// What the replay buffer holds.
    pub replay_capacity: usize,
    /// Part of a batch that is replayed, once the buffer holds as many.
    pub replay_fraction: f64,
    /// Rounds of local search on the fresh objects of a batch: undo, redo, keep by Metropolis-Hastings.
    pub local_search: usize,
    /// Part of a trajectory that a round undoes.
    pub local_search_depth: f64,
    /// Optimiser steps per row of the log.
    pub log_every: usize,
    /// States up to which evaluation enumerates the world.
    pub exact_states: usize,
    /// Objects on which evaluation correlates probability and reward; 0 leaves it out.
    pub test_objects: usize,
    /// Backward trajectories per such object.
    pub test_paths: usize,
}

impl Default for GflownetConfig {
    fn default() -> GflownetConfig {
        GflownetConfig {
            num_trajectories: 16,
            hidden_sizes: vec![256, 256],
            activation: Activation::Relu,
            tied: true,
            backward_policy: BackwardPolicy::Learned,
            learning_rate: 1e-3,
            anneal_lr: false,
            adam_eps: 1e-8,
            max_grad_norm: None,
            epsilon: 0.0,
            anneal_epsilon: false,
            temperature: 1.0,
            cut_probability: 0.0,
            replay: ReplayKind::None,
            replay_capacity: 10_000,
            replay_fraction: 0.5,
            local_search: 0,
            local_search_depth: 0.5,
            log_every: 100,
            exact_states: 200_000,
            test_objects: 0,
            test_paths: 10,
        }
    }
}

impl GflownetConfig {
    /// Trajectories of a batch that are replayed, once there are as many.
    pub fn replayed(&self) -> usize {
        (self.replay_fraction * self.num_trajectories as f64).round() as usize
    }

    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), LearnError> {
        check::count("num_trajectories", self.num_trajectories)?;
        let widths = format!("{:?}", self.hidden_sizes);
        let rule = "widths of at least 1, as [256, 256]";
        check::rule(self.hidden_sizes.iter().all(|&w| w > 0), "hidden_sizes", widths, rule)?;
        check::positive("learning_rate", self.learning_rate, "0.001")?;
        check::positive("adam_eps", self.adam_eps, "1e-8")?;
        check::positive_or_none("max_grad_norm", self.max_grad_norm)?;
        check::fraction("epsilon", self.epsilon, "a part of actions")?;
        check::positive("temperature", self.temperature, "1")?;
        check::rule(
            (0.0..1.0).contains(&self.cut_probability),
            "cut_probability",
            self.cut_probability,
            "at least 0 and below 1, since complete trajectories alone know the reward's scale",
        )?;
        check::count("replay_capacity", self.replay_capacity)?;
        check::fraction("replay_fraction", self.replay_fraction, "a part of the batch")?;
        if self.replay != ReplayKind::None {
            let rule = format!("a part of {} trajectories that leaves one to be drawn anew", self.num_trajectories);
            check::rule(self.replayed() < self.num_trajectories, "replay_fraction", self.replay_fraction, &rule)?;
            let rule = format!("at least {}, as many as a batch takes from it", self.replayed());
            check::rule(self.replay_capacity >= self.replayed(), "replay_capacity", self.replay_capacity, &rule)?;
        }
        check::rule(
            self.local_search_depth > 0.0 && self.local_search_depth <= 1.0,
            "local_search_depth",
            self.local_search_depth,
            "a part of a trajectory, above 0 and at most 1",
        )?;
        check::count("log_every", self.log_every)?;
        check::count("test_paths", self.test_paths)
    }
}
