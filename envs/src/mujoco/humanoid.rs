//! Humanoid-v5: walk forward on two legs in space (Tassa, Erez and Todorov 2012).

use super::{
    humanoid_body::{Body, ROOT, contact_cost, tendon_info},
    simulation::{Noise, Simulation},
    task::{Info, Mujoco, Rules, Writer},
    within,
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
pub const ENTRY: EnvEntry =
    EnvEntry { id: "Humanoid-v5", summary: "Walk forward on two legs, with arms, in space.", make };

struct Humanoid {
    body: Body,
    forward_reward_weight: f64,
    contact_cost_weight: f64,
    contact_cost_range: [f64; 2],
    healthy_reward: f64,
    terminate_when_unhealthy: bool,
    healthy_z_range: [f64; 2],
    reset_noise_scale: f64,
    total_mass: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "humanoid.xml", 5, ROOT)?;
    let masses = sim.model().body_mass();
    let rules = Humanoid {
        body: Body::new(&mut kwargs)?,
        forward_reward_weight: kwargs.number("forward_reward_weight", 1.25)?,
        contact_cost_weight: kwargs.number("contact_cost_weight", 5e-7)?,
        contact_cost_range: kwargs.range("contact_cost_range", [f64::NEG_INFINITY, 10.0])?,
        healthy_reward: kwargs.number("healthy_reward", 5.0)?,
        terminate_when_unhealthy: kwargs.flag("terminate_when_unhealthy", true)?,
        healthy_z_range: kwargs.range("healthy_z_range", [1.0, 2.0])?,
        reset_noise_scale: kwargs.scale("reset_noise_scale", 1e-2)?,
        total_mass: sum(masses.len(), |i| masses[i]),
    };
    let registration = Registration {
        obs_dim: rules.body.obs_dim(&sim),
        action_space: sim.action_space(),
        max_episode_steps: 1000,
        reward_threshold: None,
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Rules for Humanoid {
    const CONTACT_FORCES: bool = true;

    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_noisy(rng, self.reset_noise_scale, Noise::Uniform);
    }

    fn observe(&self, sim: &Simulation, obs: Writer) {
        self.body.observe(sim, obs);
    }

    /// The centre of mass on the ground.
    fn place(&self, sim: &Simulation) -> [f64; 2] {
        let bodies = sim.model().body_mass().iter().zip(sim.data().xipos());
        let [x, y] = bodies.fold([0.0; 2], |[x, y], (mass, place)| [x + mass * place[0], y + mass * place[1]]);
        [x / self.total_mass, y / self.total_mass]
    }

    fn place_info(&self, sim: &Simulation, info: &mut Info) {
        let (x, y) = (sim.qpos()[0], sim.qpos()[1]);
        info.extend([("x_position", x), ("y_position", y)]);
        tendon_info(sim, info);
        info.push(("distance_from_origin", norm([x, y])));
    }

    fn reward(&self, sim: &Simulation, _action: &[f32], velocity: [f64; 2], info: &mut Info) -> (f64, bool) {
        let [x_velocity, y_velocity] = velocity;
        let is_healthy = within(sim.qpos()[2], self.healthy_z_range);
        let forward = self.forward_reward_weight * x_velocity;
        let survive = f64::from(is_healthy) * self.healthy_reward;
        let ctrl = self.body.control_cost(sim);
        let contact = contact_cost(sim, self.contact_cost_weight, self.contact_cost_range);
        info.extend([
            ("x_velocity", x_velocity),
            ("y_velocity", y_velocity),
            ("reward_survive", survive),
            ("reward_forward", forward),
            ("reward_ctrl", -ctrl),
            ("reward_contact", -contact),
        ]);
        ((forward + survive) - (ctrl + contact), !is_healthy && self.terminate_when_unhealthy)
    }
}
