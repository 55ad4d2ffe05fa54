//! `bregman`: the program and the facade over its crates.

pub use bregman_agents as agents;
pub use bregman_envs as envs;
