//! `bregman`: the program and the facade over its crates.
//!
//! [`Bregman`] holds the agents and environments that a program knows; [`cli::run`] is the whole command line over them, so
//! that a crate of your own can add one of either and get everything else.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod bench;
mod check_gradient;
pub mod checkpoint;
pub mod cli;
mod compare;
pub mod dataset;
pub mod doctor;
pub mod env_command;
mod error;
mod export;
pub mod metrics;
mod observe;
pub mod onnx;
mod report;
pub mod run_dir;
pub mod run_file;
mod sample;
pub mod stats;
mod sweep;
mod terminal;
pub mod train;

pub use bregman_agents as agents;
pub use bregman_envs as envs;
pub use error::BadInput;

/// The agents and environments that a program knows.
#[derive(Clone, Default)]
pub struct Bregman {
    /// Agents by name.
    pub agents: agents::registry::AgentRegistry,
    /// Environments by id.
    pub envs: envs::Registry,
}
