//! Environments: what an agent acts in, and the lanes that step many of them.
//!
//! An [`Env`] is one Markov decision process; a [`Lane`] is one environment with its place in an episode, the only
//! part of the library that knows that environments restart. Environments come from a [`Registry`] by id, native where
//! there is a Rust version, through Python's Gymnasium otherwise. A [`World`](world::World) is what a GFlowNet builds objects in.
//!
//! [`hdf5`] reads and writes the files of datasets, since it shares the interpreter with Gymnasium.
//!
//! Deliberately absent: tensors, learning, clocks and the console.

mod arithmetic;
mod classic;
pub mod closed_form;
mod env;
mod error;
pub mod gymnasium;
pub mod hdf5;
mod kwargs;
mod lane;
mod mujoco;
mod native;
mod registry;
pub mod rng;
mod space;
mod time_limit;
pub mod world;

pub use env::{Argument, Env, EnvSpec, Outcome};
pub use error::EnvError;
pub use lane::{Episode, Lane, LaneState, LaneStep, lanes};
pub use registry::{Backend, EnvConfig, EnvEntry, Registry};
pub use space::ActionSpace;
pub use time_limit::TimeLimit;
