//! Agents: networks, distributions, buffers, optimisers, and one file per algorithm.
//!
//! Deliberately absent: clocks, the console, budgets' bookkeeping on disk, and paths outside dataset and checkpoint code.

pub mod learner;
pub mod registry;
