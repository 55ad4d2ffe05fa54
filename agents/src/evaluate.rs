//! Judging a policy on complete episodes of its own.

use bregman_envs::rng::Seed;
use bregman_envs::{Env, EnvError, Episode, Lane};
use rayon::prelude::*;

use crate::learner::{EvalRequest, Evaluation, LearnError, Setup};
use crate::rollout::Act;
use crate::workers::Workers;

/// Runs `request.episodes` episodes, episode `j` on a fresh stream from `request.seed + j`, on environments made for
/// the purpose.
pub fn evaluate<P: Act>(
    policy: &P,
    setup: &Setup,
    request: &EvalRequest,
    workers: &Workers,
) -> Result<Evaluation, LearnError> {
    let mut config = setup.env.clone();
    config.max_episode_steps = request.max_episode_steps.or(config.max_episode_steps);
    let first = setup.envs.make(&config)?;
    let indices = 0..u64::from(request.episodes);
    let episodes: Result<Vec<_>, EnvError> = if workers.parallel() && first.spec().parallel {
        let run = |j: u64| {
            let (episode, mut env) = episode(policy, setup.envs.make(&config)?, request, j)?;
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
                let (episode, mut used) = episode(policy, next, request, j)?;
                let warning = used.take_warning();
                env = Some(used);
                Ok((episode, warning))
            })
            .collect()
    };
    let (episodes, warnings): (Vec<Episode>, Vec<_>) = episodes?.into_iter().unzip();
    // Only the first counts: an environment that plays several episodes warns once, as several that play one each do not.
    let warned = warnings.into_iter().enumerate().find_map(|(j, warning)| Some((j, warning?)));
    let warning = warned.map(|(j, warning)| format!("evaluation episode {j}: {warning}"));
    Ok(Evaluation { episodes, warning })
}

/// One episode from its own seed; gives the environment back.
fn episode<P: Act>(
    policy: &P,
    env: Box<dyn Env>,
    request: &EvalRequest,
    index: u64,
) -> Result<(Episode, Box<dyn Env>), EnvError> {
    let mut lane = Lane::new(index as usize, env, request.seed.wrapping_add(index))?;
    let (obs_dim, action_len) = (lane.obs().len(), lane.env().spec().action_space.row_len());
    let (mut seen, mut next_obs, mut action) = (vec![0.0; obs_dim], vec![0.0; obs_dim], vec![0.0; action_len]);
    let mut rng = Seed(request.seed).stream("evaluation", index);
    let mut scratch = P::Scratch::default();
    loop {
        policy.see(lane.obs(), &mut seen);
        if request.stochastic {
            policy.sample(&seen, &mut rng, &mut scratch, &mut action);
        } else {
            policy.mode(&seen, &mut scratch, &mut action);
        }
        policy.bound(&mut action);
        if let Some(episode) = lane.step(&action, &mut next_obs)?.finished {
            return Ok((episode, lane.into_env()));
        }
    }
}
