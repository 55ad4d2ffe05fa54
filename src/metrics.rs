//! What the loop itself logs, beside what agents log.

use crate::Bregman;
use crate::agents::registry::AgentEntry;

/// The loop's counters: the first columns of `metrics.csv`.
pub const COUNTERS: [&str; 4] = ["iteration", "env_steps", "grad_steps", "episodes"];

/// Names and meanings of the loop's own numbers.
pub const LOOP: &[(&str, &str)] = &[
    ("rollout/ep_rew_mean", "mean return of the last 100 training episodes, from raw rewards"),
    ("rollout/ep_len_mean", "mean length of the last 100 training episodes"),
    ("eval/mean_reward", "mean return of the evaluation episodes, from raw rewards"),
    ("eval/std_reward", "population standard deviation of those returns"),
    ("eval/mean_ep_length", "mean length of the evaluation episodes"),
    ("eval/score", "mean return on the scale that `eval.score` names, on which a random policy is 0 and an expert 100"),
];

/// Names and meanings of the numbers that depend on the clock; they stand in `timing.csv` and TensorBoard only.
pub const TIMING: &[(&str, &str)] = &[
    ("time/seconds", "seconds since the run started, over all its sittings"),
    ("time/fps", "steps per second in the last iteration, in the budget's unit, evaluation left out"),
];

/// The columns of an agent's `metrics.csv`.
pub fn columns(agent: &AgentEntry) -> Vec<&'static str> {
    let named = LOOP.iter().chain(agent.metrics).map(|(name, _)| *name);
    COUNTERS.into_iter().chain(named).collect()
}

/// Every number that any agent logs, with its meaning.
pub fn all(bregman: &Bregman) -> Vec<(&'static str, &'static str)> {
    let agents = bregman.agents.entries().flat_map(|agent| agent.metrics);
    LOOP.iter().chain(TIMING).chain(agents).copied().collect()
}
