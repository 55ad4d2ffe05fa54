//! Probe environments: so small that the right value and the right action are known.

use bregman_agents::learner::{Budget, Setup};
use bregman_envs::{ActionSpace, Env, EnvConfig, EnvEntry, EnvError, EnvSpec, Outcome, Registry};

/// An environment given by two functions: the first observation of episode `n`, and what a step does with
/// (observation, action, step in the episode).
struct Probe {
    spec: EnvSpec,
    start: fn(u64) -> f64,
    rule: fn(f64, f32, u32) -> (f64, Outcome),
    obs: f64,
    step: u32,
    episode: u64,
}

impl Env for Probe {
    fn spec(&self) -> &EnvSpec {
        &self.spec
    }

    fn reset(&mut self, _seed: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError> {
        (self.obs, self.step, self.episode) = ((self.start)(self.episode), 0, self.episode + 1);
        obs[0] = self.obs;
        Ok(())
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
        self.step += 1;
        let (obs, outcome) = (self.rule)(self.obs, action[0], self.step);
        self.obs = obs;
        next_obs[0] = obs;
        Ok(outcome)
    }
}

fn probe(
    config: &EnvConfig,
    action_space: ActionSpace,
    start: fn(u64) -> f64,
    rule: fn(f64, f32, u32) -> (f64, Outcome),
) -> Box<dyn Env> {
    let spec = EnvSpec {
        id: config.id.clone(),
        obs_dim: 1,
        action_space,
        max_episode_steps: None,
        reward_threshold: None,
        backend: "native",
        parallel: true,
    };
    Box::new(Probe { spec, start, rule, obs: 0.0, step: 0, episode: 0 })
}

fn ends(reward: f64) -> Outcome {
    Outcome { reward, terminated: true, truncated: false }
}

fn choice() -> ActionSpace {
    ActionSpace::Discrete { n: 2 }
}

/// A choice, or real numbers in [−1, 1] for the probes called `…_box`.
fn either(config: &EnvConfig) -> ActionSpace {
    match config.id.ends_with("_box") {
        true => ActionSpace::Box { low: vec![-1.0], high: vec![1.0] },
        false => choice(),
    }
}

fn real() -> ActionSpace {
    ActionSpace::Box { low: vec![-10.0], high: vec![10.0] }
}

/// −1 and 1 in turn.
fn alternating(episode: u64) -> f64 {
    if episode.is_multiple_of(2) { -1.0 } else { 1.0 }
}

/// All probes, by name.
pub fn probes() -> Registry {
    let mut registry = Registry::default();
    let mut add = |id, summary, make| registry.add(EnvEntry { id, summary, make });
    // Where the action does not matter, with either kind.
    for [constant, observed, delayed, endless, both] in [
        ["constant", "observed", "delayed", "endless", "both"],
        ["constant_box", "observed_box", "delayed_box", "endless_box", "both_box"],
    ] {
        add(constant, "one step, reward 1", |c| Ok(probe(c, either(c), |_| 0.0, |_, _, _| (0.0, ends(1.0)))));
        add(observed, "one step, the reward is the observation", |c| {
            Ok(probe(c, either(c), alternating, |obs, _, _| (obs, ends(obs))))
        });
        add(delayed, "two steps, reward 1 at the end", |c| {
            Ok(probe(
                c,
                either(c),
                |_| 0.0,
                |_, _, step| match step {
                    1 => (1.0, Outcome { reward: 0.0, terminated: false, truncated: false }),
                    _ => (1.0, ends(1.0)),
                },
            ))
        });
        add(endless, "reward 1 for ever, cut after 5 steps", |c| {
            Ok(probe(
                c,
                either(c),
                |_| 0.0,
                |_, _, step| (0.0, Outcome { reward: 1.0, terminated: false, truncated: step == 5 }),
            ))
        });
        add(both, "reward 1, terminated and truncated at once after 2 steps", |c| {
            Ok(probe(
                c,
                either(c),
                |_| 0.0,
                |_, _, step| (f64::from(step), Outcome { reward: 1.0, terminated: step == 2, truncated: step == 2 }),
            ))
        });
    }
    add("action", "one step, reward 1 for action 1 and −1 for action 0", |c| {
        Ok(probe(c, choice(), |_| 0.0, |_, action, _| (0.0, ends(if action == 1.0 { 1.0 } else { -1.0 }))))
    });
    add("unending", "reward 1 for ever", |c| {
        Ok(probe(c, choice(), |_| 0.0, |_, _, _| (0.0, Outcome { reward: 1.0, terminated: false, truncated: false })))
    });
    add("product", "one step, the action's sign (−1 for 0) times the observation", |c| {
        Ok(probe(c, choice(), alternating, |obs, action, _| (obs, ends(if action == 1.0 { obs } else { -obs }))))
    });
    add("target", "one step, reward −(action − observation)²", |c| {
        Ok(probe(c, real(), alternating, |obs, action, _| (obs, ends(-(f64::from(action) - obs).powi(2)))))
    });
    add("bandit", "one step, reward −(action − 1)²/2", |c| {
        Ok(probe(c, real(), |_| 0.0, |_, action, _| (0.0, ends(-(f64::from(action) - 1.0).powi(2) / 2.0))))
    });
    registry
}

/// A run in a probe: two lanes, seed 1.
pub fn setup(id: &str) -> Setup {
    Setup {
        seed: 1,
        threads: 1,
        device: Default::default(),
        env: EnvConfig { num_envs: 2, ..EnvConfig::new(id) },
        envs: probes(),
        dataset: None,
        budget: Budget::EnvSteps(1 << 20),
        histograms: false,
    }
}
