//! HalfCheetah-v5: run forward on two legs in a plane (Wawrzyński 2009).

use super::{
    control_cost,
    simulation::{Noise, Simulation},
    task::{Info, Mujoco, Rules, Writer},
};
use crate::{Env, EnvEntry, EnvError, kwargs::Kwargs, native::Registration, registry::EnvConfig, rng::NumpyRng};

/// Its line in the registry.
pub const ENTRY: EnvEntry = EnvEntry { id: "HalfCheetah-v5", summary: "Run forward on two legs in a plane.", make };

struct HalfCheetah {
    forward_reward_weight: f64,
    ctrl_cost_weight: f64,
    reset_noise_scale: f64,
    /// How many positions the observation leaves out: the first, along the track, by default.
    skip: usize,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "half_cheetah.xml", 5, 2)?;
    let rules = HalfCheetah {
        forward_reward_weight: kwargs.number("forward_reward_weight", 1.0)?,
        ctrl_cost_weight: kwargs.number("ctrl_cost_weight", 0.1)?,
        reset_noise_scale: kwargs.scale("reset_noise_scale", 0.1)?,
        skip: kwargs.flag("exclude_current_positions_from_observation", true)?.into(),
    };
    let registration = Registration {
        obs_dim: sim.qpos().len() - rules.skip + sim.qvel().len(),
        action_space: sim.action_space(),
        max_episode_steps: 1000,
        reward_threshold: Some(4800.0),
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Rules for HalfCheetah {
    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_noisy(rng, self.reset_noise_scale, Noise::Normal);
    }

    fn observe(&self, sim: &Simulation, mut obs: Writer) {
        obs.copy(&sim.qpos()[self.skip..]);
        obs.copy(sim.qvel());
    }

    fn place_info(&self, sim: &Simulation, info: &mut Info) {
        info.push(("x_position", sim.qpos()[0]));
    }

    fn reward(&self, _sim: &Simulation, action: &[f32], [x_velocity, _]: [f64; 2], info: &mut Info) -> (f64, bool) {
        let forward = self.forward_reward_weight * x_velocity;
        let ctrl = control_cost(self.ctrl_cost_weight, action);
        info.extend([("x_velocity", x_velocity), ("reward_forward", forward), ("reward_ctrl", -ctrl)]);
        (forward - ctrl, false)
    }
}
