//! What one MuJoCo task adds to its simulation, and the frame in which all of them run.

use super::simulation::Simulation;
use crate::{native::Task, rng::NumpyRng};

/// Values of Gymnasium's `info`.
pub type Info = Vec<(&'static str, f64)>;

/// The rules of a task: how it starts, what it shows, what it pays.
pub trait Rules: Send + 'static {
    /// Whether observation or reward reads the contact forces (`cfrc_ext`), which MuJoCo computes on request only.
    const CONTACT_FORCES: bool = false;

    /// Draws a first state.
    fn reset(&self, sim: &mut Simulation, rng: &mut NumpyRng);

    /// Writes the observation of the simulation as it stands.
    fn observe(&self, sim: &Simulation, obs: Writer);

    /// The place on the ground whose velocity may be rewarded: the first two positions, as a rule.
    fn place(&self, sim: &Simulation) -> [f64; 2] {
        [sim.qpos()[0], sim.qpos()[1]]
    }

    /// Adds the values of `info` that there are after a reset; after a step they come first.
    fn place_info(&self, _sim: &Simulation, _info: &mut Info) {}

    /// The reward of the step just taken and whether it terminated the episode; adds the step's own values of `info`.
    ///
    /// `velocity` is that of [`place`](Rules::place) over the step.
    fn reward(&self, sim: &Simulation, action: &[f32], velocity: [f64; 2], info: &mut Info) -> (f64, bool);
}

/// A task in its simulation.
pub struct Mujoco<R> {
    sim: Simulation,
    rules: R,
    info: Info,
    /// Where the task's place was after the last step. MuJoCo derives some places one sub-step late, so that it does not
    /// follow from the physical state alone.
    place: [f64; 2],
}

impl<R: Rules> Mujoco<R> {
    /// Puts a simulation under a task's rules.
    pub fn new(sim: Simulation, rules: R) -> Mujoco<R> {
        Mujoco { place: rules.place(&sim), sim, rules, info: Info::new() }
    }
}

impl<R: Rules> Task for Mujoco<R> {
    fn reset(&mut self, rng: &mut NumpyRng, obs: &mut [f64]) {
        self.rules.reset(&mut self.sim, rng);
        self.place = self.rules.place(&self.sim);
        self.rules.observe(&self.sim, Writer(obs));
        self.info.clear();
        self.rules.place_info(&self.sim, &mut self.info);
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> (f64, bool) {
        let before = self.place;
        self.sim.step(action, R::CONTACT_FORCES);
        self.place = self.rules.place(&self.sim);
        let velocity = std::array::from_fn(|i| (self.place[i] - before[i]) / self.sim.dt);
        self.rules.observe(&self.sim, Writer(next_obs));
        self.info.clear();
        self.rules.place_info(&self.sim, &mut self.info);
        self.rules.reward(&self.sim, action, velocity, &mut self.info)
    }

    fn info(&self) -> &[(&'static str, f64)] {
        &self.info
    }

    fn step_physics(&mut self, action: &[f32]) -> bool {
        self.sim.integrate(action);
        true
    }

    fn take_warning(&mut self) -> Option<String> {
        self.sim.take_warning()
    }

    fn save(&self) -> Vec<f64> {
        let mut state = self.place.to_vec();
        state.extend(self.sim.state());
        state
    }

    fn load(&mut self, state: &[f64]) -> Option<()> {
        let (place, state) = state.split_first_chunk()?;
        self.sim.set_state(state)?;
        self.place = *place;
        self.info.clear();
        Some(())
    }
}

/// Writes the parts of an observation one after the other.
pub struct Writer<'a>(&'a mut [f64]);

impl<'a> Writer<'a> {
    /// Values as they are.
    pub fn copy(&mut self, part: &[f64]) {
        self.next(part.len()).copy_from_slice(part);
    }

    /// Each value changed by `change`.
    pub fn map(&mut self, part: &[f64], change: impl Fn(f64) -> f64) {
        for (cell, &x) in self.next(part.len()).iter_mut().zip(part) {
            *cell = change(x);
        }
    }

    /// Each value limited to a range, as by `np.clip`.
    pub fn clip(&mut self, part: &[f64], [low, high]: [f64; 2]) {
        self.map(part, |x| x.clamp(low, high));
    }

    fn next(&mut self, len: usize) -> &'a mut [f64] {
        let (part, rest) = std::mem::take(&mut self.0).split_at_mut(len);
        self.0 = rest;
        part
    }
}
