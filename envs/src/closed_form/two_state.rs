//! `two_state`: two states, two actions, three steps; an observation is the state's place, (1, 0) or (0, 1).

use crate::kwargs::Kwargs;
use crate::native::{Registration, Task};
use crate::rng::NumpyRng;
use crate::{ActionSpace, Env, EnvConfig, EnvEntry, EnvError};

/// Its line in the registry.
pub(super) const ENTRY: EnvEntry =
    EnvEntry { id: "two_state", summary: "Two states and two actions, whose returns are closed forms.", make };

/// The process, by state and action; it starts in state 0.
pub struct TwoState;

impl TwoState {
    /// Probability of each next state.
    pub const NEXT: [[[f64; 2]; 2]; 2] = [[[0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [0.6, 0.4]]];
    /// Reward.
    pub const REWARD: [[f64; 2]; 2] = [[0.0, 1.0], [2.0, -1.0]];
}

struct Process {
    state: usize,
    rng: NumpyRng,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let registration = Registration {
        obs_dim: 2,
        action_space: ActionSpace::Discrete { n: 2 },
        max_episode_steps: 3,
        reward_threshold: None,
    };
    registration.env(Kwargs::new(config), Process { state: 0, rng: NumpyRng::new(0) })
}

impl Process {
    fn observe(&self, obs: &mut [f64]) {
        obs.fill(0.0);
        obs[self.state] = 1.0;
    }
}

impl Task for Process {
    fn reset(&mut self, rng: &mut NumpyRng, obs: &mut [f64]) {
        self.state = 0;
        // The transitions of an episode come from a stream of its own, since a step is not given the environment's.
        self.rng = NumpyRng::new(rng.next_u64());
        self.observe(obs);
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> (f64, bool) {
        let action = usize::from(action[0] == 1.0);
        let reward = TwoState::REWARD[self.state][action];
        self.state = usize::from(self.rng.double() >= TwoState::NEXT[self.state][action][0]);
        self.observe(next_obs);
        (reward, false)
    }

    /// The state, and the stream's text in characters.
    fn save(&self) -> Vec<f64> {
        std::iter::once(self.state as f64).chain(self.rng.save().bytes().map(f64::from)).collect()
    }

    fn load(&mut self, state: &[f64]) -> Option<()> {
        let (&state, stream) = state.split_first()?;
        let text = String::from_utf8(stream.iter().map(|&byte| byte as u8).collect()).ok()?;
        // A stream reads back as the text it was, so a text cut short is told apart.
        let rng = NumpyRng::load(&text).filter(|rng| rng.save() == text)?;
        self.state = [0, 1].into_iter().find(|&known| known as f64 == state)?;
        self.rng = rng;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_have_their_probabilities() {
        let mut rng = NumpyRng::new(4);
        let (mut process, mut obs) = (Process { state: 0, rng: NumpyRng::new(0) }, [0.0; 2]);
        for (state, action) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut to_one = 0.0;
            for _ in 0..4000 {
                process.reset(&mut rng, &mut obs);
                assert_eq!(obs, [1.0, 0.0]);
                process.state = state;
                let (reward, terminated) = process.step(&[action as f32], &mut obs);
                assert_eq!((reward, terminated), (TwoState::REWARD[state][action], false));
                assert_eq!(obs[0] + obs[1], 1.0);
                to_one += obs[1] / 4000.0;
            }
            // Four standard errors of a mean of 4000: at most 0.032.
            let expected = TwoState::NEXT[state][action][1];
            assert!((to_one - expected).abs() < 0.032, "{to_one} is not {expected}");
        }
    }

    #[test]
    fn a_saved_process_goes_on_the_same_way() {
        let (mut process, mut obs) = (Process { state: 0, rng: NumpyRng::new(9) }, [0.0; 2]);
        process.step(&[1.0], &mut obs);
        let mut other = Process { state: 0, rng: NumpyRng::new(0) };
        assert_eq!(other.load(&process.save()), Some(()));
        for _ in 0..20 {
            assert_eq!(process.step(&[0.0], &mut obs), other.step(&[0.0], &mut obs));
            assert_eq!(process.state, other.state);
        }
        assert_eq!(other.load(&[2.0]), None);
    }
}
