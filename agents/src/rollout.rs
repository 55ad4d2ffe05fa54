//! Experience: how a policy acts in many environments, and what is kept of it.
//!
//! While a rollout runs the policy is frozen, so every lane walks its `T` steps alone, on whatever thread takes it, with
//! its own random stream: the same bits for any number of threads.

use bregman_envs::rng::{NumpyRng, Seed};
use bregman_envs::{EnvError, Episode, Lane, LaneState, LaneStep, Outcome, lanes};
use rayon::prelude::*;

use crate::learner::{Array, LearnError, Setup, Snapshot};
use crate::score::Trajectory;
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

/// One step of every lane, in the order of lanes: what a learner keeps that acts and learns in turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// Observations as the environments gave them, `[N, obs_dim]`.
    pub obs: Vec<f32>,
    /// Actions as drawn, before they were bounded, `[N, action row]`.
    pub action: Vec<f32>,
    /// Rewards and ends, `[N]`.
    pub outcome: Vec<Outcome>,
    /// The true successors, `[N, obs_dim]`: after an end, not what the lane shows next.
    pub next_obs: Vec<f32>,
    /// Episodes that ended.
    pub episodes: Vec<Episode>,
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

    /// `count` whole episodes under one policy, number m on lane m modulo the number of lanes, which stand at the start of an
    /// episode before and after.
    pub fn trajectories<P: Act>(
        &mut self,
        policy: &P,
        count: usize,
        workers: &Workers,
    ) -> Result<(Vec<Trajectory<f32>>, Vec<Episode>), EnvError> {
        let lanes = self.lanes.len();
        let work = |(i, (lane, rng)): (usize, (&mut Lane, &mut NumpyRng))| {
            (i..count).step_by(lanes).map(|_| play(lane, rng, policy)).collect::<Result<Vec<_>, EnvError>>()
        };
        let played: Result<Vec<_>, EnvError> = if self.parallel && workers.parallel() && lanes > 1 {
            workers.run(|| self.lanes.par_iter_mut().zip(&mut self.noise).enumerate().map(work).collect())
        } else {
            self.lanes.iter_mut().zip(&mut self.noise).enumerate().map(work).collect()
        };
        let mut played: Vec<_> = played?.into_iter().map(Vec::into_iter).collect();
        Ok((0..count).filter_map(|m| played[m % lanes].next()).unzip())
    }

    /// One step of every lane under a policy, for learners that change it after every step. The same actions from the
    /// same streams as by [`rollout`](Runner::rollout).
    pub fn step<P: Act>(&mut self, policy: &P, workers: &Workers) -> Result<Steps, EnvError> {
        let work = |scratch: &mut P::Scratch, (lane, rng): (&mut Lane, &mut NumpyRng)| step(lane, rng, policy, scratch);
        let taken: Result<Vec<_>, EnvError> = if self.parallel && workers.parallel() && self.lanes.len() > 1 {
            let lanes = self.lanes.par_iter_mut().zip(&mut self.noise);
            workers.run(|| lanes.map_init(P::Scratch::default, work).collect())
        } else {
            let mut scratch = P::Scratch::default();
            self.lanes.iter_mut().zip(&mut self.noise).map(|lane| work(&mut scratch, lane)).collect()
        };
        let mut all = Steps::default();
        for mut lane in taken? {
            all.obs.append(&mut lane.obs);
            all.action.append(&mut lane.action);
            all.outcome.append(&mut lane.outcome);
            all.next_obs.append(&mut lane.next_obs);
            all.episodes.append(&mut lane.episodes);
        }
        Ok(all)
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

/// One episode of one lane, which stands at its start.
fn play<P: Act>(lane: &mut Lane, rng: &mut NumpyRng, policy: &P) -> Result<(Trajectory<f32>, Episode), EnvError> {
    let (obs_dim, action_len) = (lane.obs().len(), lane.env().spec().action_space.row_len());
    let mut trajectory = Trajectory::default();
    let mut scratch = P::Scratch::default();
    let (mut seen, mut action) = (vec![0.0; obs_dim], vec![0.0; action_len]);
    let mut next_obs = vec![0.0; obs_dim];
    loop {
        policy.see(lane.obs(), &mut seen);
        trajectory.log_prob.push(policy.sample(&seen, rng, &mut scratch, &mut action));
        trajectory.obs.extend_from_slice(&seen);
        trajectory.action.extend_from_slice(&action);
        policy.bound(&mut action);
        let step = lane.step(&action, &mut next_obs)?;
        trajectory.reward.push(step.outcome.reward);
        if let Some(episode) = step.finished {
            return Ok((trajectory, episode));
        }
    }
}

/// One step of one lane.
fn step<P: Act>(lane: &mut Lane, rng: &mut NumpyRng, policy: &P, scratch: &mut P::Scratch) -> Result<Steps, EnvError> {
    let single = |row: &[f64]| row.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let obs = single(lane.obs());
    let mut seen = vec![0.0; obs.len()];
    policy.see(lane.obs(), &mut seen);
    let mut action = vec![0.0; lane.env().spec().action_space.row_len()];
    policy.sample(&seen, rng, scratch, &mut action);
    let mut sent = action.clone();
    policy.bound(&mut sent);
    let mut next_obs = vec![0.0; obs.len()];
    let LaneStep { outcome, finished } = lane.step(&sent, &mut next_obs)?;
    let next_obs = single(&next_obs);
    Ok(Steps { obs, action, outcome: vec![outcome], next_obs, episodes: finished.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::Budget;
    use bregman_envs::{ActionSpace, EnvConfig, Registry};

    /// Draws actions evenly; sees 2 x + 1.
    struct Even(ActionSpace);

    impl Act for Even {
        type Scratch = ();

        fn see(&self, obs: &[f64], seen: &mut [f32]) {
            seen.iter_mut().zip(obs).for_each(|(y, &x)| *y = 2.0 * x as f32 + 1.0);
        }

        fn sample(&self, _: &[f32], rng: &mut NumpyRng, (): &mut (), action: &mut [f32]) -> f32 {
            self.0.sample(rng, action);
            0.0
        }

        fn mode(&self, _: &[f32], (): &mut (), action: &mut [f32]) {
            action.fill(0.0);
        }

        fn bound(&self, action: &mut [f32]) {
            self.0.clip(action);
        }
    }

    #[test]
    fn stepping_takes_the_steps_of_a_rollout_and_shows_true_successors() {
        // CartPole falls after some 20 random steps: 60 steps of 3 lanes see both ends and restarts.
        const T: usize = 60;
        let setup = Setup {
            seed: 5,
            threads: 1,
            device: Default::default(),
            env: EnvConfig { num_envs: 3, max_episode_steps: Some(25), ..EnvConfig::new("CartPole-v1") },
            envs: Registry::default(),
            dataset: None,
            budget: Budget::EnvSteps(1),
            histograms: false,
        };
        let policy = Even(ActionSpace::Discrete { n: 2 });
        let runner = || Runner::new(&setup).expect("it is made");
        let workers = |threads| Workers::new(threads).expect("threads start");
        let (rows, episodes) = runner().rollout(&policy, T, &workers(1)).expect("it runs");
        let (mut serial, mut parallel) = (runner(), runner());
        let (one, two) = (workers(1), workers(2));
        let mut finished = Vec::new();
        let (mut cut, mut ended) = (0, 0);
        let seen = |raw: &[f32]| raw.iter().map(|x| 2.0 * x + 1.0).collect::<Vec<f32>>();
        for t in 0..T {
            let steps = serial.step(&policy, &one).expect("it steps");
            assert_eq!(steps, parallel.step(&policy, &two).expect("it steps"));
            for lane in 0..3 {
                let row = lane * T + t;
                let next = &steps.next_obs[4 * lane..][..4];
                assert_eq!(seen(&steps.obs[4 * lane..][..4]), rows.obs[4 * row..][..4]);
                assert_eq!(steps.action[lane], rows.action[row]);
                assert_eq!(steps.outcome[lane], rows.outcome[row]);
                if let Ok(at) = rows.cut_rows.binary_search(&row) {
                    assert_eq!(seen(next), rows.cut_obs[4 * at..][..4]);
                    cut += 1;
                } else if steps.outcome[lane].terminated {
                    // Fallen: the cart is off the track or the pole past 12 degrees, as no first observation is.
                    assert!(next[0].abs() > 2.4 || next[2].abs() > 0.209, "{next:?}");
                    ended += 1;
                } else {
                    assert_eq!(seen(next), rows.obs[4 * (row + 1)..][..4]);
                }
            }
            finished.extend(steps.episodes);
        }
        assert!(cut > 3 && ended > 0, "{cut} cut, {ended} ended");
        finished.sort_by_key(|episode| episode.lane);
        assert_eq!(finished, episodes);
    }
}
