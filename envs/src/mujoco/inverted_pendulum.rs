//! InvertedPendulum-v5: keep a pole upright on a cart (Barto, Sutton and Anderson 1983).

use super::{
    simulation::{Noise, Simulation},
    task::{Info, Mujoco, Rules, Writer},
};
use crate::{Env, EnvEntry, EnvError, kwargs::Kwargs, native::Registration, registry::EnvConfig, rng::NumpyRng};

/// Its line in the registry.
pub const ENTRY: EnvEntry = EnvEntry { id: "InvertedPendulum-v5", summary: "Keep a pole upright on a cart.", make };

/// The pole's angle from which it counts as fallen, in radians.
const MAX_ANGLE: f64 = 0.2;

struct InvertedPendulum {
    reset_noise_scale: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "inverted_pendulum.xml", 2, 2)?;
    let rules = InvertedPendulum { reset_noise_scale: kwargs.scale("reset_noise_scale", 0.01)? };
    let registration = Registration {
        obs_dim: sim.qpos().len() + sim.qvel().len(),
        action_space: sim.action_space(),
        max_episode_steps: 1000,
        reward_threshold: Some(950.0),
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Rules for InvertedPendulum {
    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_noisy(rng, self.reset_noise_scale, Noise::Uniform);
    }

    fn observe(&self, sim: &Simulation, mut obs: Writer) {
        obs.copy(sim.qpos());
        obs.copy(sim.qvel());
    }

    fn reward(&self, sim: &Simulation, _action: &[f32], _velocity: [f64; 2], info: &mut Info) -> (f64, bool) {
        let is_finite = sim.qpos().iter().chain(sim.qvel()).all(|x| x.is_finite());
        let terminated = !is_finite || sim.qpos()[1].abs() > MAX_ANGLE;
        let reward = f64::from(!terminated);
        info.push(("reward_survive", reward));
        (reward, terminated)
    }
}
