//! Reacher-v5: bring the tip of a two-link arm to a target.

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
    EnvEntry { id: "Reacher-v5", summary: "Bring the tip of a two-link arm to a target.", make };

struct Reacher {
    fingertip: usize,
    target: usize,
    reward_dist_weight: f64,
    reward_control_weight: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sim = Simulation::new(&mut kwargs, "reacher.xml", 2, 2)?;
    let rules = Reacher {
        fingertip: sim.body(&kwargs, "fingertip")?,
        target: sim.body(&kwargs, "target")?,
        reward_dist_weight: kwargs.number("reward_dist_weight", 1.0)?,
        reward_control_weight: kwargs.number("reward_control_weight", 1.0)?,
    };
    let registration = Registration {
        obs_dim: 4 + (sim.qpos().len() - 2) + 4,
        action_space: sim.action_space(),
        max_episode_steps: 50,
        reward_threshold: Some(-3.75),
    };
    registration.env(kwargs, Mujoco::new(sim, rules))
}

impl Reacher {
    /// From the target to the fingertip.
    fn gap(&self, sim: &Simulation) -> [f64; 3] {
        let places = sim.data().xpos();
        std::array::from_fn(|i| places[self.fingertip][i] - places[self.target][i])
    }
}

impl Rules for Reacher {
    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng) {
        sim.reset_placed(|qpos, qvel| {
            // The noise of all positions comes first, then the goal within a disc, then the noise of the velocities.
            for q in qpos.iter_mut() {
                *q += rng.uniform(-0.1, 0.1);
            }
            let goal = loop {
                let goal = [rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)];
                if norm(goal) < 0.2 {
                    break goal;
                }
            };
            let target = qpos.len() - 2;
            qpos[target..].copy_from_slice(&goal);
            for v in qvel.iter_mut() {
                *v += rng.uniform(-0.005, 0.005);
            }
            let target = qvel.len() - 2;
            qvel[target..].fill(0.0);
        });
    }

    fn observe(&self, sim: &Simulation, mut obs: Writer) {
        let (arm, goal) = sim.qpos().split_at(2);
        obs.map(arm, f64::cos);
        obs.map(arm, f64::sin);
        obs.copy(goal);
        obs.copy(&sim.qvel()[..2]);
        obs.copy(&self.gap(sim)[..2]);
    }

    fn reward(&self, sim: &Simulation, action: &[f32], _velocity: [f64; 2], info: &mut Info) -> (f64, bool) {
        let dist = -norm(self.gap(sim)) * self.reward_dist_weight;
        let ctrl = -control_cost(self.reward_control_weight, action);
        info.extend([("reward_dist", dist), ("reward_ctrl", ctrl)]);
        (dist + ctrl, false)
    }
}
