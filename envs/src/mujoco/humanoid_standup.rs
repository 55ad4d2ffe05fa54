//! HumanoidStandup-v5: stand up from lying on the ground (Tassa, Erez and Todorov 2012).

use super::{
    humanoid_body::{Body, ROOT, contact_cost, tendon_info},
    simulation::{Noise, Simulation},
    task::{Info, Mujoco, Rules, Writer},
};
use crate::{Env, EnvEntry, EnvError, kwargs::Kwargs, native::Registration, registry::EnvConfig, rng::NumpyRng};

/// Its line in the registry.
pub const ENTRY: EnvEntry = EnvEntry { id: "HumanoidStandup-v5", summary: "Stand up from lying on the ground.", make };

struct HumanoidStandup {
    body: Body,
    impact_cost_weight: f64,
    impact_cost_range: [f64; 2],
    reset_noise_scale: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "humanoidstandup.xml", 5, ROOT)?;
    let rules = HumanoidStandup {
        body: Body::new(&mut kwargs)?,
        impact_cost_weight: kwargs.number("impact_cost_weight", 0.5e-6)?,
        impact_cost_range: kwargs.range("impact_cost_range", [f64::NEG_INFINITY, 10.0])?,
        reset_noise_scale: kwargs.scale("reset_noise_scale", 1e-2)?,
    };
    // Gymnasium takes this weight and never uses it.
    kwargs.number("uph_cost_weight", 1.0)?;
    let registration = Registration {
        obs_dim: rules.body.obs_dim(&sim),
        action_space: sim.action_space(),
        max_episode_steps: 1000,
        reward_threshold: None,
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Rules for HumanoidStandup {
    const CONTACT_FORCES: bool = true;

    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_noisy(rng, self.reset_noise_scale, Noise::Uniform);
    }

    fn observe(&self, sim: &Simulation, obs: Writer) {
        self.body.observe(sim, obs);
    }

    fn place_info(&self, sim: &Simulation, info: &mut Info) {
        let qpos = sim.qpos();
        info.extend([
            ("x_position", qpos[0]),
            ("y_position", qpos[1]),
            ("z_distance_from_origin", qpos[2] - sim.init_qpos[2]),
        ]);
        tendon_info(sim, info);
    }

    fn reward(&self, sim: &Simulation, _action: &[f32], _velocity: [f64; 2], info: &mut Info) -> (f64, bool) {
        // The height over MuJoCo's own time step, not over the environment's.
        let up = sim.qpos()[2] / sim.model().opt().timestep;
        let ctrl = self.body.control_cost(sim);
        let impact = contact_cost(sim, self.impact_cost_weight, self.impact_cost_range);
        info.extend([("reward_linup", up), ("reward_quadctrl", -ctrl), ("reward_impact", -impact)]);
        (up - ctrl - impact + 1.0, false)
    }
}
