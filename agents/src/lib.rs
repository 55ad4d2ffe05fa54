//! Agents: networks, distributions, buffers, optimisers, and one file per algorithm.
//!
//! Deliberately absent: clocks, the console, budgets' bookkeeping on disk, and paths outside dataset and checkpoint code.

pub mod actor;
pub mod actor_critic;
pub mod baseline;
pub mod check;
pub mod critics;
pub mod dataset;
pub mod dist;
pub mod evaluate;
pub mod exact;
pub mod fma_pg;
pub mod full_batch;
pub mod harpg;
pub mod inner;
pub mod learner;
pub mod mdpo;
pub mod mdpo_off;
pub mod mirror;
pub mod n_pg_igt;
pub mod nn;
pub mod normalize;
pub mod off_policy;
pub mod on_policy;
pub mod optim;
mod optional;
pub mod pg;
pub mod policy;
pub mod ppo;
pub mod registry;
pub mod replay;
pub mod returns;
pub mod rollout;
pub mod rows;
pub mod sac;
pub mod score;
pub mod soft;
pub mod squashed;
pub mod sso;
pub mod storm_pg;
pub mod trajectory_gradient;
pub mod trpo;
pub mod value;
pub mod workers;
