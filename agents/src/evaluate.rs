//! Judging a policy on complete episodes of its own.

use bregman_envs::rng::Seed;
use bregman_envs::{Env, EnvError, Episode, Lane, Outcome};
use rayon::prelude::*;

use crate::learner::{EvalRequest, Evaluation, LearnError, Setup};
use crate::rollout::Act;
use crate::workers::Workers;

/// Where an episode is cut that nothing else ends: an evaluation must end.
const ENDLESS: u32 = 100_000;

/// Runs `request.episodes` episodes, episode `j` on a fresh stream from `request.seed + j`, on environments made for
/// the purpose. Without any time limit an episode is cut, with a warning, after 100,000 steps.
pub fn evaluate<P: Act>(
    policy: &P,
    setup: &Setup,
    request: &EvalRequest,
    workers: &Workers,
) -> Result<Evaluation, LearnError> {
    let mut config = setup.env.clone();
    config.max_episode_steps = request.max_episode_steps.or(config.max_episode_steps);
    let first = setup.envs.make(&config)?;
    let endless = first.spec().max_episode_steps.is_none();
    let limit = if endless { ENDLESS } else { u32::MAX };
    let indices = 0..u64::from(request.episodes);
    let episodes: Result<Vec<_>, EnvError> = if workers.parallel() && first.spec().parallel {
        let run = |j: u64| {
            let (episode, mut env) = episode(policy, setup.envs.make(&config)?, request, j, limit)?;
            Ok((episode, env.take_warning()))
        };
        workers.run(|| indices.into_par_iter().map(run).collect())
    } else {
        let mut env = Some(first);
        indices
            .map(|j| {
                let next = match env.take() {
                    Some(env) => env,
                    None => setup.envs.make(&config)?,
                };
                let (episode, mut used) = episode(policy, next, request, j, limit)?;
                let warning = used.take_warning();
                env = Some(used);
                Ok((episode, warning))
            })
            .collect()
    };
    let (episodes, warnings): (Vec<Episode>, Vec<_>) = episodes?.into_iter().unzip();
    // Only the first counts: an environment that plays several episodes warns once, as several that play one each do not.
    let warned = warnings.into_iter().enumerate().find_map(|(j, warning)| Some((j, warning?)));
    let cut = episodes.iter().position(|episode| episode.length == limit);
    let cut = cut.map(|j| {
        let id = &setup.env.id;
        (j, format!("cut after {ENDLESS} steps, because {id} has no time limit: `eval.max_episode_steps` sets one"))
    });
    let warning = warned.or(cut).map(|(j, warning)| format!("evaluation episode {j}: {warning}"));
    Ok(Evaluation { episodes, warning, ..Default::default() })
}

/// A step that was played.
#[derive(Clone, Debug, PartialEq)]
pub struct Played {
    /// What the environment showed, `[obs_dim]`.
    pub obs: Vec<f64>,
    /// What it was sent, `[action row]`.
    pub action: Vec<f32>,
    /// Reward and ends.
    pub outcome: Outcome,
    /// The true successor, `[obs_dim]`.
    pub next_obs: Vec<f64>,
}

/// Plays episodes one after the other, until there were `request.episodes` or `keep`, which is given every step, says no.
/// One environment is seeded once with `request.seed`.
pub fn play<P: Act>(
    policy: &P,
    setup: &Setup,
    request: &EvalRequest,
    keep: &mut dyn FnMut(&Played) -> Result<bool, LearnError>,
) -> Result<(), LearnError> {
    let mut config = setup.env.clone();
    config.max_episode_steps = request.max_episode_steps.or(config.max_episode_steps);
    let mut lane = Lane::new(0, setup.envs.make(&config)?, request.seed)?;
    let mut rng = Seed(request.seed).stream("play", 0);
    let mut scratch = P::Scratch::default();
    let (obs_dim, action_len) = (lane.obs().len(), lane.env().spec().action_space.row_len());
    let (mut seen, mut episodes) = (vec![0.0; obs_dim], 0);
    let mut played = Played {
        obs: Vec::new(),
        action: vec![0.0; action_len],
        outcome: Outcome { reward: 0.0, terminated: false, truncated: false },
        next_obs: vec![0.0; obs_dim],
    };
    while episodes < request.episodes {
        played.obs.clear();
        played.obs.extend_from_slice(lane.obs());
        policy.see(&played.obs, &mut seen);
        match request.stochastic {
            true => drop(policy.sample(&seen, &mut rng, &mut scratch, &mut played.action)),
            false => policy.mode(&seen, &mut scratch, &mut played.action),
        }
        policy.bound(&mut played.action);
        let step = lane.step(&played.action, &mut played.next_obs)?;
        played.outcome = step.outcome;
        episodes += u32::from(step.finished.is_some());
        if !keep(&played)? {
            return Ok(());
        }
    }
    Ok(())
}

/// One episode from its own seed, of at most `limit` steps; gives the environment back.
fn episode<P: Act>(
    policy: &P,
    env: Box<dyn Env>,
    request: &EvalRequest,
    index: u64,
    limit: u32,
) -> Result<(Episode, Box<dyn Env>), EnvError> {
    let mut lane = Lane::new(index as usize, env, request.seed.wrapping_add(index))?;
    let (obs_dim, action_len) = (lane.obs().len(), lane.env().spec().action_space.row_len());
    let (mut seen, mut next_obs, mut action) = (vec![0.0; obs_dim], vec![0.0; obs_dim], vec![0.0; action_len]);
    let mut rng = Seed(request.seed).stream("evaluation", index);
    let mut scratch = P::Scratch::default();
    let mut so_far = Episode { lane: index as usize, reward: 0.0, length: 0 };
    loop {
        policy.see(lane.obs(), &mut seen);
        if request.stochastic {
            policy.sample(&seen, &mut rng, &mut scratch, &mut action);
        } else {
            policy.mode(&seen, &mut scratch, &mut action);
        }
        policy.bound(&mut action);
        let step = lane.step(&action, &mut next_obs)?;
        so_far.reward += step.outcome.reward;
        so_far.length += 1;
        let cut = (so_far.length == limit).then_some(so_far);
        if let Some(episode) = step.finished.or(cut) {
            return Ok((episode, lane.into_env()));
        }
    }
}

#[cfg(test)]
mod tests {
    use bregman_envs::{EnvConfig, Registry};

    use super::*;
    use crate::learner::{Budget, Learner};
    use crate::off_policy::OffPolicyConfig;
    use crate::sac::{Sac, SacConfig};

    #[test]
    fn every_episode_has_its_own_seed_and_the_requests_limit() {
        let config =
            SacConfig { common: OffPolicyConfig { hidden_sizes: vec![8], ..Default::default() }, ..Default::default() };
        let setup = Setup {
            seed: 1,
            threads: 1,
            device: Default::default(),
            env: EnvConfig { max_episode_steps: Some(20), ..EnvConfig::new("Pendulum-v1") },
            envs: Registry::default(),
            dataset: None,
            budget: Budget::EnvSteps(1),
            histograms: false,
        };
        let mut agent = Sac::learner(config, &setup).expect("the settings fit");
        let mut rewards = |seed, stochastic, max_episode_steps| {
            let request = EvalRequest { episodes: 3, stochastic, seed, max_episode_steps };
            let episodes = agent.evaluate(&request).expect("it evaluates").episodes;
            let limit = max_episode_steps.unwrap_or(20);
            assert!(episodes.iter().enumerate().all(|(j, episode)| (episode.lane, episode.length) == (j, limit)));
            episodes.iter().map(|episode| episode.reward).collect::<Vec<f64>>()
        };
        let (seven, eight) = (rewards(7, false, None), rewards(8, false, None));
        assert_eq!(seven[1..], eight[..2]);
        assert!(seven[0] != seven[1] && seven[1] != seven[2], "{seven:?}");
        assert_ne!(rewards(7, true, None), seven);
        assert_ne!(rewards(7, false, Some(30)), rewards(7, false, Some(5)));
    }
}
