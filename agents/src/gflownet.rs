//! Generative flow networks: samplers that build objects step by step with probability proportional to a reward.
//!
//! All balance objectives are losses on one residual vector ([`residual`]); trajectories are drawn side by side
//! ([`sampler`]) through networks that see every state once ([`pass`]).

pub mod agents;
pub mod discoveries;
pub mod evaluate;
pub mod exact;
pub mod learner;
pub mod objective;
pub mod pass;
pub mod replay;
pub mod residual;
pub mod sampler;
pub mod settings;
pub mod soft_dqn;

#[cfg(test)]
mod tests;
