//! Experience: how a policy acts in many environments, and what is kept of it.
//!
//! While a rollout runs the policy is frozen, so every lane walks its `T` steps alone, on whatever thread takes it, with
//! its own random stream: the same bits for any number of threads.

use bregman_envs::rng::{NumpyRng, Seed};
use bregman_envs::{EnvError, Episode, Lane, LaneState, Outcome, lanes};
use rayon::prelude::*;

use crate::learner::{Array, LearnError, Setup, Snapshot};
use crate::workers::Workers;

/// What a policy does with one observation. Rows throughout; see [`ActionSpace`](bregman_envs::ActionSpace) for actions.
pub trait Act: Sync {
    /// Room for intermediate results, one per thread.
    type Scratch: Default + Send;

    /// The observation as the networks see it: normalised, in single precision, `[obs_dim]`.
    fn see(&self, obs: &[f64], seen: &mut [f32]);

    /// Draws an action and returns its log-probability.
    fn sample(&self, seen: &[f32], rng: &mut NumpyRng, scratch: &mut Self::Scratch, action: &mut [f32]) -> f32;

    /// The most probable action.
    fn mode(&self, seen: &[f32], scratch: &mut Self::Scratch, action: &mut [f32]);

    /// Turns the policy's action into what the environment is sent.
    fn bound(&self, action: &mut [f32]);
}

/// Steps of `num_envs` lanes, lane after lane, each in the order of time: row `lane * num_steps + t`.
///
/// The successor of a row is the next row, except where an episode or the rollout ends. Where the successor's value
/// still counts there, the row stands in `cut_rows` and the successor in `cut_obs`.
#[derive(Clone, Debug, Default)]
pub struct Transitions {
    /// Steps of each lane, `T`.
    pub num_steps: usize,
    /// Observations as the policy saw them, `[B, obs_dim]`.
    pub obs: Vec<f32>,
    /// The same as the environment gave them, `[B, obs_dim]`.
    pub raw_obs: Vec<f64>,
    /// Actions as drawn, before they were bounded, `[B, action row]`.
    pub action: Vec<f32>,
    /// Their log-probabilities, `[B]`.
    pub log_prob: Vec<f32>,
    /// Rewards and ends, `[B]`.
    pub outcome: Vec<Outcome>,
    /// Rows that end a lane's steps or an episode without terminating it, ascending.
    pub cut_rows: Vec<usize>,
    /// Their true successors as the policy would see them, `[len(cut_rows), obs_dim]`.
    pub cut_obs: Vec<f32>,
}

impl Transitions {
    /// Number of rows, `B`.
    pub fn len(&self) -> usize {
        self.outcome.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.outcome.is_empty()
    }

    /// Appends the rows of another lane.
    fn append(&mut self, other: Transitions) {
        let start = self.len();
        self.obs.extend(other.obs);
        self.raw_obs.extend(other.raw_obs);
        self.action.extend(other.action);
        self.log_prob.extend(other.log_prob);
        self.outcome.extend(other.outcome);
        self.cut_rows.extend(other.cut_rows.iter().map(|row| start + row));
        self.cut_obs.extend(other.cut_obs);
    }
}

/// Lanes, and the streams from which their actions are drawn.
pub struct Runner {
    lanes: Vec<Lane>,
    noise: Vec<NumpyRng>,
    seed: Seed,
    /// Whether walking lanes on several threads is faster.
    parallel: bool,
}

impl Runner {
    /// Makes the environments of a run, lane `i` seeded with the run's seed + `i`.
    pub fn new(setup: &Setup) -> Result<Runner, LearnError> {
        let lanes = lanes(&setup.envs, &setup.env, setup.seed)?;
        let seed = Seed(setup.seed);
        let noise = (0..lanes.len()).map(|i| seed.stream("action", i as u64)).collect();
        let parallel = lanes.iter().all(|lane| lane.env().spec().parallel);
        Ok(Runner { lanes, noise, seed, parallel })
    }

    /// Number of environments.
    pub fn num_envs(&self) -> usize {
        self.lanes.len()
    }

    /// `num_steps` steps of every lane under one policy, with the episodes that ended, by lane and time.
    pub fn rollout<P: Act>(
        &mut self,
        policy: &P,
        num_steps: usize,
        workers: &Workers,
    ) -> Result<(Transitions, Vec<Episode>), EnvError> {
        let work = |(lane, rng): (&mut Lane, &mut NumpyRng)| walk(lane, rng, policy, num_steps);
        let walks: Result<Vec<_>, EnvError> = if self.parallel && workers.parallel() {
            workers.run(|| self.lanes.par_iter_mut().zip(&mut self.noise).map(work).collect())
        } else {
            self.lanes.iter_mut().zip(&mut self.noise).map(work).collect()
        };
        let mut all = Transitions { num_steps, ..Default::default() };
        let mut episodes = Vec::new();
        for (transitions, finished) in walks? {
            all.append(transitions);
            episodes.extend(finished);
        }
        Ok((all, episodes))
    }

    /// What the environments have to report, each once.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.lanes.iter_mut().filter_map(Lane::take_warning).collect()
    }

    /// Puts the lanes, where they can be saved, and the streams into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        let streams: Vec<String> = self.noise.iter().map(NumpyRng::save).collect();
        snapshot.state.insert("action_streams".into(), streams.into());
        let Some(states) = self.lanes.iter().map(Lane::save).collect::<Option<Vec<_>>>() else { return };
        let mut counters = Vec::new();
        for (i, state) in states.into_iter().enumerate() {
            snapshot.put(&format!("lane/{i}/env"), Array::U8(state.env));
            snapshot.put(&format!("lane/{i}/obs"), Array::F64(state.obs));
            snapshot.put(&format!("lane/{i}/reward"), Array::F64(vec![state.reward]));
            counters.push(serde_json::json!([state.episode, state.length]));
        }
        snapshot.state.insert("lanes".into(), counters.into());
    }

    /// Goes on from a snapshot; a sentence where the environments could not be saved and episodes start anew, on seeds
    /// drawn for `env_steps` so that the run's first episodes are not repeated.
    pub fn load(&mut self, snapshot: &Snapshot, env_steps: u64) -> Result<Option<String>, LearnError> {
        let streams: Vec<String> = snapshot.get("action_streams")?;
        let streams: Option<Vec<_>> = streams.iter().map(|text| NumpyRng::load(text)).collect();
        self.noise = streams
            .filter(|streams| streams.len() == self.lanes.len())
            .ok_or_else(|| LearnError::Snapshot("`action_streams` is not one stream per environment".into()))?;
        if !snapshot.state.contains_key("lanes") {
            let mut seeds = self.seed.stream("restart", env_steps);
            for lane in &mut self.lanes {
                lane.restart(Some(seeds.next_u64() >> 32))?;
            }
            let backend = self.lanes.first().map_or("", |lane| lane.env().spec().backend);
            return Ok(Some(format!("{backend} environments cannot be saved: their episodes start anew")));
        }
        let counters: Vec<(u64, u32)> = snapshot.get("lanes")?;
        for (i, (lane, (episode, length))) in self.lanes.iter_mut().zip(counters).enumerate() {
            let Some(Array::U8(env)) = snapshot.arrays.get(&format!("lane/{i}/env")) else {
                return Err(LearnError::Snapshot(format!("`lane/{i}/env` is missing")));
            };
            let (mut obs, mut reward) = (vec![0.0; lane.obs().len()], [0.0]);
            snapshot.f64_into(&format!("lane/{i}/obs"), &mut obs)?;
            snapshot.f64_into(&format!("lane/{i}/reward"), &mut reward)?;
            lane.load(&LaneState { env: env.clone(), obs, episode, length, reward: reward[0] })?;
        }
        Ok(None)
    }
}

/// `num_steps` steps of one lane.
fn walk<P: Act>(
    lane: &mut Lane,
    rng: &mut NumpyRng,
    policy: &P,
    num_steps: usize,
) -> Result<(Transitions, Vec<Episode>), EnvError> {
    let (obs_dim, action_len) = (lane.obs().len(), lane.env().spec().action_space.row_len());
    let mut steps = Transitions {
        num_steps,
        obs: vec![0.0; num_steps * obs_dim],
        raw_obs: Vec::with_capacity(num_steps * obs_dim),
        action: vec![0.0; num_steps * action_len],
        ..Default::default()
    };
    let mut episodes = Vec::new();
    let mut scratch = P::Scratch::default();
    let (mut sent, mut next_obs) = (vec![0.0; action_len], vec![0.0; obs_dim]);
    for t in 0..num_steps {
        let seen = &mut steps.obs[t * obs_dim..(t + 1) * obs_dim];
        let action = &mut steps.action[t * action_len..(t + 1) * action_len];
        policy.see(lane.obs(), seen);
        steps.raw_obs.extend_from_slice(lane.obs());
        steps.log_prob.push(policy.sample(seen, rng, &mut scratch, action));
        sent.copy_from_slice(action);
        policy.bound(&mut sent);
        let step = lane.step(&sent, &mut next_obs)?;
        steps.outcome.push(step.outcome);
        episodes.extend(step.finished);
        let last = t + 1 == num_steps;
        if step.outcome.bootstraps() && (last || step.outcome.ends_episode()) {
            steps.cut_rows.push(t);
            let start = steps.cut_obs.len();
            steps.cut_obs.resize(start + obs_dim, 0.0);
            policy.see(&next_obs, &mut steps.cut_obs[start..]);
        }
    }
    Ok((steps, episodes))
}
