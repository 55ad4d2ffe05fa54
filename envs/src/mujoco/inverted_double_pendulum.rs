//! InvertedDoublePendulum-v5: keep two poles upright, one on the other, on a cart.

use super::{
    simulation::{Noise, Simulation},
    task::{Info, Mujoco, Rules, Writer},
};
use crate::{
    Env, EnvEntry, EnvError, arithmetic::square, kwargs::Kwargs, native::Registration, registry::EnvConfig,
    rng::NumpyRng,
};

/// Its line in the registry.
pub const ENTRY: EnvEntry =
    EnvEntry { id: "InvertedDoublePendulum-v5", summary: "Keep two poles upright, one on the other, on a cart.", make };

/// The range that velocities and constraint forces are shown in.
const SHOWN: [f64; 2] = [-10.0, 10.0];

struct InvertedDoublePendulum {
    healthy_reward: f64,
    reset_noise_scale: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "inverted_double_pendulum.xml", 5, 3)?;
    let rules = InvertedDoublePendulum {
        healthy_reward: kwargs.number("healthy_reward", 10.0)?,
        reset_noise_scale: kwargs.scale("reset_noise_scale", 0.1)?,
    };
    if sim.data().site_xpos().is_empty() {
        return Err(kwargs.invalid("the model has no site; the task reads the place of the first, the tip".into()));
    }
    let registration = Registration {
        obs_dim: 1 + 2 * (sim.qpos().len() - 1) + sim.qvel().len() + 1,
        action_space: sim.action_space(),
        max_episode_steps: 1000,
        reward_threshold: Some(9100.0),
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Rules for InvertedDoublePendulum {
    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_noisy(rng, self.reset_noise_scale, Noise::Normal);
    }

    fn observe(&self, sim: &Simulation, mut obs: Writer) {
        let (cart, poles) = sim.qpos().split_at(1);
        obs.copy(cart);
        obs.map(poles, f64::sin);
        obs.map(poles, f64::cos);
        obs.clip(sim.qvel(), SHOWN);
        obs.clip(&sim.data().qfrc_constraint()[..1], SHOWN);
    }

    fn reward(&self, sim: &Simulation, _action: &[f32], _velocity: [f64; 2], info: &mut Info) -> (f64, bool) {
        let [x, _, height] = sim.data().site_xpos()[0];
        let qvel = sim.qvel();
        let terminated = height <= 1.0;
        let dist = 0.01 * square(x) + square(height - 2.0);
        let vel = 1e-3 * square(qvel[1]) + 5e-3 * square(qvel[2]);
        let survive = self.healthy_reward * f64::from(!terminated);
        info.extend([("reward_survive", survive), ("distance_penalty", -dist), ("velocity_penalty", -vel)]);
        (survive - dist - vel, terminated)
    }
}
