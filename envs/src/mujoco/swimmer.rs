//! Swimmer-v5: swim forward with three links in a viscous fluid (Coulom 2002).

use super::{
    control_cost,
    simulation::{Noise, Simulation},
    task::{Info, Mujoco, Rules, Writer},
};
use crate::{
    Env, EnvEntry, EnvError, arithmetic::norm, kwargs::Kwargs, native::Registration, registry::EnvConfig, rng::NumpyRng,
};

/// Its line in the registry.
pub const ENTRY: EnvEntry =
    EnvEntry { id: "Swimmer-v5", summary: "Swim forward with three links in a viscous fluid.", make };

struct Swimmer {
    forward_reward_weight: f64,
    ctrl_cost_weight: f64,
    reset_noise_scale: f64,
    /// How many positions the observation leaves out: the two in the plane by default.
    skip: usize,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "swimmer.xml", 4, 2)?;
    let rules = Swimmer {
        forward_reward_weight: kwargs.number("forward_reward_weight", 1.0)?,
        ctrl_cost_weight: kwargs.number("ctrl_cost_weight", 1e-4)?,
        reset_noise_scale: kwargs.scale("reset_noise_scale", 0.1)?,
        skip: 2 * usize::from(kwargs.flag("exclude_current_positions_from_observation", true)?),
    };
    let registration = Registration {
        obs_dim: sim.qpos().len() - rules.skip + sim.qvel().len(),
        action_space: sim.action_space(),
        max_episode_steps: 1000,
        reward_threshold: Some(360.0),
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Rules for Swimmer {
    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_noisy(rng, self.reset_noise_scale, Noise::Uniform);
    }

    fn observe(&self, sim: &Simulation, mut obs: Writer) {
        obs.copy(&sim.qpos()[self.skip..]);
        obs.copy(sim.qvel());
    }

    fn place_info(&self, sim: &Simulation, info: &mut Info) {
        let (x, y) = (sim.qpos()[0], sim.qpos()[1]);
        info.extend([("x_position", x), ("y_position", y), ("distance_from_origin", norm([x, y]))]);
    }

    fn reward(&self, _sim: &Simulation, action: &[f32], velocity: [f64; 2], info: &mut Info) -> (f64, bool) {
        let [x_velocity, y_velocity] = velocity;
        let forward = self.forward_reward_weight * x_velocity;
        let ctrl = control_cost(self.ctrl_cost_weight, action);
        info.extend([
            ("x_velocity", x_velocity),
            ("y_velocity", y_velocity),
            ("reward_forward", forward),
            ("reward_ctrl", -ctrl),
        ]);
        (forward - ctrl, false)
    }
}
