//! The body that Humanoid-v5 and HumanoidStandup-v5 share: its observation, and costs of effort and of contact.

use super::{
    simulation::Simulation,
    task::{Info, Writer},
};
use crate::{EnvError, arithmetic::sum_of_squares, kwargs::Kwargs};

/// Velocities of the free root joint, which no actuator moves.
pub const ROOT: usize = 6;

/// What is observed of the body, and what its effort costs.
pub struct Body {
    ctrl_cost_weight: f64,
    /// How many positions the observation leaves out: the two on the ground by default.
    skip: usize,
    include_cinert: bool,
    include_cvel: bool,
    include_qfrc_actuator: bool,
    include_cfrc_ext: bool,
}

impl Body {
    /// Reads the arguments that both tasks take.
    pub fn new(kwargs: &mut Kwargs) -> Result<Body, EnvError> {
        Ok(Body {
            ctrl_cost_weight: kwargs.number("ctrl_cost_weight", 0.1)?,
            skip: 2 * usize::from(kwargs.flag("exclude_current_positions_from_observation", true)?),
            include_cinert: kwargs.flag("include_cinert_in_observation", true)?,
            include_cvel: kwargs.flag("include_cvel_in_observation", true)?,
            include_qfrc_actuator: kwargs.flag("include_qfrc_actuator_in_observation", true)?,
            include_cfrc_ext: kwargs.flag("include_cfrc_ext_in_observation", true)?,
        })
    }

    /// The parts of an observation, in order; what belongs to the world and to the root's actuation is left out.
    fn parts<'a>(&self, sim: &'a Simulation) -> [&'a [f64]; 6] {
        let data = sim.data();
        let if_included = |include: bool, part| if include { part } else { [].as_slice() };
        [
            &data.qpos()[self.skip..],
            data.qvel(),
            if_included(self.include_cinert, data.cinert()[1..].as_flattened()),
            if_included(self.include_cvel, data.cvel()[1..].as_flattened()),
            if_included(self.include_qfrc_actuator, &data.qfrc_actuator()[ROOT..]),
            if_included(self.include_cfrc_ext, data.cfrc_ext()[1..].as_flattened()),
        ]
    }

    /// Length of an observation.
    pub fn obs_dim(&self, sim: &Simulation) -> usize {
        self.parts(sim).iter().map(|part| part.len()).sum()
    }

    /// Writes an observation.
    pub fn observe(&self, sim: &Simulation, mut obs: Writer) {
        for part in self.parts(sim) {
            obs.copy(part);
        }
    }

    /// The cost of the controls, which MuJoCo keeps as `float64`, so unlike in the other tasks it is not `float32`.
    pub fn control_cost(&self, sim: &Simulation) -> f64 {
        self.ctrl_cost_weight * sum_of_squares(sim.data().ctrl())
    }
}

/// The weighted contact forces on all bodies, limited to a range.
pub fn contact_cost(sim: &Simulation, weight: f64, [low, high]: [f64; 2]) -> f64 {
    (weight * sum_of_squares(sim.data().cfrc_ext().as_flattened())).clamp(low, high)
}

/// Adds length and velocity of the tendons between hips and knees.
pub fn tendon_info(sim: &Simulation, info: &mut Info) {
    info.extend(sim.data().ten_length().iter().map(|&x| ("tendon_length", x)));
    info.extend(sim.data().ten_velocity().iter().map(|&x| ("tendon_velocity", x)));
}
