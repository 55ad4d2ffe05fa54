//! Pusher-v5: push a cylinder to a goal with a seven-joint arm.

use super::{
    control_cost,
    simulation::Simulation,
    task::{Info, Mujoco, Rules, Writer},
};
use crate::{
    Env, EnvEntry, EnvError, arithmetic::norm, kwargs::Kwargs, native::Registration, registry::EnvConfig, rng::NumpyRng,
};

/// Its line in the registry.
pub const ENTRY: EnvEntry =
    EnvEntry { id: "Pusher-v5", summary: "Push a cylinder to a goal with a seven-joint arm.", make };

/// Joints of the arm.
const ARM: usize = 7;

struct Pusher {
    tips_arm: usize,
    object: usize,
    goal: usize,
    reward_near_weight: f64,
    reward_dist_weight: f64,
    reward_control_weight: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "pusher_v5.xml", 5, ARM)?;
    let rules = Pusher {
        tips_arm: sim.body(&kwargs, "tips_arm")?,
        object: sim.body(&kwargs, "object")?,
        goal: sim.body(&kwargs, "goal")?,
        reward_near_weight: kwargs.number("reward_near_weight", 0.5)?,
        reward_dist_weight: kwargs.number("reward_dist_weight", 1.0)?,
        reward_control_weight: kwargs.number("reward_control_weight", 0.1)?,
    };
    let registration = Registration {
        obs_dim: 2 * ARM + 9,
        action_space: sim.action_space(),
        max_episode_steps: 100,
        reward_threshold: Some(0.0),
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Pusher {
    /// From `body` to the object.
    fn gap(&self, sim: &Simulation, body: usize) -> [f64; 3] {
        let places = sim.data().xpos();
        std::array::from_fn(|i| places[self.object][i] - places[body][i])
    }
}

impl Rules for Pusher {
    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_placed(|qpos, qvel| {
            // The cylinder lies away from the goal, which stays at the origin; the arm starts without noise.
            let cylinder = loop {
                let cylinder = [rng.uniform(-0.3, 0.0), rng.uniform(-0.2, 0.2)];
                if norm(cylinder) > 0.17 {
                    break cylinder;
                }
            };
            let slides = qpos.len() - 4;
            qpos[slides..slides + 2].copy_from_slice(&cylinder);
            qpos[slides + 2..].fill(0.0);
            for v in qvel.iter_mut() {
                *v += rng.uniform(-0.005, 0.005);
            }
            let slides = qvel.len() - 4;
            qvel[slides..].fill(0.0);
        });
    }

    fn observe(&self, sim: &Simulation, mut obs: Writer) {
        obs.copy(&sim.qpos()[..ARM]);
        obs.copy(&sim.qvel()[..ARM]);
        for body in [self.tips_arm, self.object, self.goal] {
            obs.copy(&sim.data().xpos()[body]);
        }
    }

    fn reward(&self, sim: &Simulation, action: &[f32], _velocity: [f64; 2], info: &mut Info) -> (f64, bool) {
        let near = -norm(self.gap(sim, self.tips_arm)) * self.reward_near_weight;
        let dist = -norm(self.gap(sim, self.goal)) * self.reward_dist_weight;
        let ctrl = -control_cost(self.reward_control_weight, action);
        info.extend([("reward_dist", dist), ("reward_ctrl", ctrl), ("reward_near", near)]);
        (dist + ctrl + near, false)
    }
}
