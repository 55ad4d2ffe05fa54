//! Hopper-v5: hop forward on one leg in a plane (Erez, Tassa and Todorov 2011).

use super::{
    control_cost,
    simulation::{Noise, Simulation},
    task::{Info, Mujoco, Rules, Writer},
    within,
};
use crate::{Env, EnvEntry, EnvError, kwargs::Kwargs, native::Registration, registry::EnvConfig, rng::NumpyRng};

/// Its line in the registry.
pub const ENTRY: EnvEntry = EnvEntry { id: "Hopper-v5", summary: "Hop forward on one leg in a plane.", make };

struct Hopper {
    forward_reward_weight: f64,
    ctrl_cost_weight: f64,
    healthy_reward: f64,
    terminate_when_unhealthy: bool,
    healthy_state_range: [f64; 2],
    healthy_z_range: [f64; 2],
    healthy_angle_range: [f64; 2],
    reset_noise_scale: f64,
    /// How many positions the observation leaves out: the first, along the track, by default.
    skip: usize,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "hopper.xml", 4, 3)?;
    let rules = Hopper {
        forward_reward_weight: kwargs.number("forward_reward_weight", 1.0)?,
        ctrl_cost_weight: kwargs.number("ctrl_cost_weight", 1e-3)?,
        healthy_reward: kwargs.number("healthy_reward", 1.0)?,
        terminate_when_unhealthy: kwargs.flag("terminate_when_unhealthy", true)?,
        healthy_state_range: kwargs.range("healthy_state_range", [-100.0, 100.0])?,
        healthy_z_range: kwargs.range("healthy_z_range", [0.7, f64::INFINITY])?,
        healthy_angle_range: kwargs.range("healthy_angle_range", [-0.2, 0.2])?,
        reset_noise_scale: kwargs.scale("reset_noise_scale", 5e-3)?,
        skip: kwargs.flag("exclude_current_positions_from_observation", true)?.into(),
    };
    let registration = Registration {
        obs_dim: sim.qpos().len() - rules.skip + sim.qvel().len(),
        action_space: sim.action_space(),
        max_episode_steps: 1000,
        reward_threshold: Some(3800.0),
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Hopper {
    /// All of the state but the place on the track strictly within its ranges.
    fn is_healthy(&self, sim: &Simulation) -> bool {
        let qpos = sim.qpos();
        qpos[2..].iter().chain(sim.qvel()).all(|&x| within(x, self.healthy_state_range))
            && within(qpos[1], self.healthy_z_range)
            && within(qpos[2], self.healthy_angle_range)
    }
}

impl Rules for Hopper {
    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_noisy(rng, self.reset_noise_scale, Noise::Uniform);
    }

    fn observe(&self, sim: &Simulation, mut obs: Writer) {
        obs.copy(&sim.qpos()[self.skip..]);
        obs.clip(sim.qvel(), [-10.0, 10.0]);
    }

    fn place_info(&self, sim: &Simulation, info: &mut Info) {
        let qpos = sim.qpos();
        info.extend([("x_position", qpos[0]), ("z_distance_from_origin", qpos[1] - sim.init_qpos[1])]);
    }

    fn reward(&self, sim: &Simulation, action: &[f32], [x_velocity, _]: [f64; 2], info: &mut Info) -> (f64, bool) {
        let is_healthy = self.is_healthy(sim);
        let forward = self.forward_reward_weight * x_velocity;
        let survive = f64::from(is_healthy) * self.healthy_reward;
        let ctrl = control_cost(self.ctrl_cost_weight, action);
        info.extend([
            ("x_velocity", x_velocity),
            ("reward_forward", forward),
            ("reward_ctrl", -ctrl),
            ("reward_survive", survive),
        ]);
        (forward + survive - ctrl, !is_healthy && self.terminate_when_unhealthy)
    }
}
