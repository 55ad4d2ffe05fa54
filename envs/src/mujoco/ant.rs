//! Ant-v5: run forward on four legs (Schulman et al. 2016).

use super::{
    control_cost,
    simulation::{Noise, Simulation},
    task::{Info, Mujoco, Rules, Writer},
};
use crate::{
    Env, EnvEntry, EnvError,
    arithmetic::{norm, sum},
    kwargs::Kwargs,
    native::Registration,
    registry::EnvConfig,
    rng::NumpyRng,
};

/// Its line in the registry.
pub const ENTRY: EnvEntry = EnvEntry { id: "Ant-v5", summary: "Run forward on four legs.", make };

struct Ant {
    forward_reward_weight: f64,
    ctrl_cost_weight: f64,
    contact_cost_weight: f64,
    healthy_reward: f64,
    /// The body whose speed is rewarded.
    main_body: usize,
    terminate_when_unhealthy: bool,
    healthy_z_range: [f64; 2],
    contact_force_range: [f64; 2],
    reset_noise_scale: f64,
    /// How many positions the observation leaves out: the two on the ground by default.
    skip: usize,
    include_cfrc_ext: bool,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "ant.xml", 5, 3)?;
    let rules = Ant {
        forward_reward_weight: kwargs.number("forward_reward_weight", 1.0)?,
        ctrl_cost_weight: kwargs.number("ctrl_cost_weight", 0.5)?,
        contact_cost_weight: kwargs.number("contact_cost_weight", 5e-4)?,
        healthy_reward: kwargs.number("healthy_reward", 1.0)?,
        main_body: main_body(&mut kwargs, &sim)?,
        terminate_when_unhealthy: kwargs.flag("terminate_when_unhealthy", true)?,
        healthy_z_range: kwargs.range("healthy_z_range", [0.2, 1.0])?,
        contact_force_range: kwargs.range("contact_force_range", [-1.0, 1.0])?,
        reset_noise_scale: kwargs.scale("reset_noise_scale", 0.1)?,
        skip: 2 * usize::from(kwargs.flag("exclude_current_positions_from_observation", true)?),
        include_cfrc_ext: kwargs.flag("include_cfrc_ext_in_observation", true)?,
    };
    let observed_forces = if rules.include_cfrc_ext { forces(&sim)[6..].len() } else { 0 };
    let registration = Registration {
        obs_dim: sim.qpos().len() - rules.skip + sim.qvel().len() + observed_forces,
        action_space: sim.action_space(),
        max_episode_steps: 1000,
        reward_threshold: Some(6000.0),
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

/// The body given by index or by name; body 1 by default.
fn main_body(kwargs: &mut Kwargs, sim: &Simulation) -> Result<usize, EnvError> {
    let Some(value) = kwargs.any("main_body", Some(1.into())) else { return Ok(1) };
    let bodies = sim.data().xpos().len();
    match (value.as_str(), value.as_integer().map(usize::try_from)) {
        (Some(name), _) => sim.body(kwargs, name),
        (_, Some(Ok(index))) if index < bodies => Ok(index),
        _ => Err(kwargs.wrong("main_body", value, &format!("a body's name or an index from 0 to {}", bodies - 1))),
    }
}

/// Contact forces and torques on all bodies, `[nbody * 6]`; the first six belong to the world.
fn forces(sim: &Simulation) -> &[f64] {
    sim.data().cfrc_ext().as_flattened()
}

impl Ant {
    /// The whole state finite and the height within its range, bounds included.
    fn is_healthy(&self, sim: &Simulation) -> bool {
        let [low, high] = self.healthy_z_range;
        let height = sim.qpos()[2];
        sim.qpos().iter().chain(sim.qvel()).all(|x| x.is_finite()) && low <= height && height <= high
    }

    fn contact_cost(&self, sim: &Simulation) -> f64 {
        let (forces, [low, high]) = (forces(sim), self.contact_force_range);
        let square = |i: usize| {
            let force = forces[i].clamp(low, high);
            force * force
        };
        self.contact_cost_weight * sum(forces.len(), square)
    }
}

impl Rules for Ant {
    const CONTACT_FORCES: bool = true;

    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_noisy(rng, self.reset_noise_scale, Noise::Normal);
    }

    fn observe(&self, sim: &Simulation, mut obs: Writer) {
        obs.copy(&sim.qpos()[self.skip..]);
        obs.copy(sim.qvel());
        if self.include_cfrc_ext {
            obs.clip(&forces(sim)[6..], self.contact_force_range);
        }
    }

    fn place(&self, sim: &Simulation) -> [f64; 2] {
        let [x, y, _] = sim.data().xpos()[self.main_body];
        [x, y]
    }

    fn place_info(&self, sim: &Simulation, info: &mut Info) {
        let (x, y) = (sim.qpos()[0], sim.qpos()[1]);
        info.extend([("x_position", x), ("y_position", y), ("distance_from_origin", norm([x, y]))]);
    }

    fn reward(&self, sim: &Simulation, action: &[f32], velocity: [f64; 2], info: &mut Info) -> (f64, bool) {
        let [x_velocity, y_velocity] = velocity;
        let is_healthy = self.is_healthy(sim);
        let forward = x_velocity * self.forward_reward_weight;
        let survive = f64::from(is_healthy) * self.healthy_reward;
        let ctrl = control_cost(self.ctrl_cost_weight, action);
        let contact = self.contact_cost(sim);
        info.extend([
            ("x_velocity", x_velocity),
            ("y_velocity", y_velocity),
            ("reward_forward", forward),
            ("reward_ctrl", -ctrl),
            ("reward_contact", -contact),
            ("reward_survive", survive),
        ]);
        ((forward + survive) - (ctrl + contact), !is_healthy && self.terminate_when_unhealthy)
    }
}
