//! Agents: networks, distributions, buffers, optimisers, and one file per algorithm.
//!
//! Deliberately absent: clocks, the console, budgets' bookkeeping on disk, and paths outside dataset and checkpoint code.

pub mod actor_critic;
pub mod dist;
pub mod evaluate;
pub mod learner;
pub mod nn;
pub mod normalize;
pub mod optim;
pub mod policy;
pub mod ppo;
pub mod registry;
pub mod returns;
pub mod rollout;
pub mod workers;
