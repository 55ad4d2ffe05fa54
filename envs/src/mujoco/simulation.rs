//! A MuJoCo model with its state: Gymnasium's `MujocoEnv`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mujoco_rs::wrappers::{MjData, MjModel, MjtObjBase, MjtState, MjtWarning};

use super::logging;
use crate::{ActionSpace, EnvError, kwargs::Kwargs, rng::NumpyRng};

/// The version of MuJoCo that Gymnasium's numbers belong to here: another one gives other trajectories.
const MUJOCO_VERSION: &str = "3.17.0";

/// What a step starts from: physics, controls, warm start.
const STATE: u32 = MjtState::mjSTATE_INTEGRATION as u32;

/// A model with its state.
pub struct Simulation {
    data: MjData<Arc<MjModel>>,
    /// The model's initial state.
    pub init_qpos: Vec<f64>,
    init_qvel: Vec<f64>,
    frame_skip: u32,
    /// Seconds per step of the environment.
    pub dt: f64,
    warning: Warning,
}

/// Where the report of MuJoCo's warnings stands.
enum Warning {
    None,
    Pending(String),
    Taken,
}

/// How the initial velocities are drawn.
#[derive(Clone, Copy)]
pub enum Noise {
    /// Evenly within the scale.
    Uniform,
    /// Normally with the scale as standard deviation.
    Normal,
}

impl Simulation {
    /// Reads the arguments that all MuJoCo environments take and loads the model. `dof` is the least number of positions and
    /// of velocities that the task reads.
    pub fn new(
        kwargs: &mut Kwargs,
        xml_file: &'static str,
        frame_skip: u32,
        dof: usize,
    ) -> Result<Simulation, EnvError> {
        let xml_file = kwargs.text("xml_file", xml_file)?;
        let frame_skip = kwargs.count("frame_skip", frame_skip)?;
        for drawing in
            ["default_camera_config", "width", "height", "camera_id", "camera_name", "max_geom", "visual_options"]
        {
            kwargs.any(drawing, None);
        }
        check_version(mujoco_rs::mujoco_version()).map_err(|message| kwargs.invalid(message))?;
        let path = model_path(xml_file).map_err(|message| kwargs.invalid(message))?;
        let model = shared_model(&path).map_err(|message| kwargs.invalid(message))?;
        let data = MjData::try_new(model)
            .map_err(|error| kwargs.invalid(format!("MuJoCo could not start {}: {error}", path.display())))?;
        let least = data.qpos().len().min(data.qvel().len());
        if least < dof {
            return Err(kwargs.invalid(format!(
                "the model {} has {least} degrees of freedom; the task reads {dof}",
                path.display()
            )));
        }
        let ranges = data.model().actuator_ctrlrange();
        if ranges.is_empty() {
            return Err(
                kwargs.invalid(format!("the model {} has no actuators: there is nothing to act with", path.display()))
            );
        }
        if let Some(i) = ranges.iter().position(|range| range[0] > range[1]) {
            let [low, high] = ranges[i];
            let path = path.display();
            return Err(kwargs
                .invalid(format!("the model {path} has an actuator, number {i}, of controls from {low} to {high}")));
        }
        Ok(Simulation {
            init_qpos: data.qpos().to_vec(),
            init_qvel: data.qvel().to_vec(),
            frame_skip,
            dt: data.model().opt().timestep * f64::from(frame_skip),
            warning: Warning::None,
            data,
        })
    }

    /// The box of controls, from the actuators' ranges.
    pub fn action_space(&self) -> ActionSpace {
        let bound = |side: usize| self.model().actuator_ctrlrange().iter().map(|range| range[side] as f32).collect();
        ActionSpace::Box { low: bound(0), high: bound(1) }
    }

    /// The index of a body.
    pub fn body(&self, kwargs: &Kwargs, name: &str) -> Result<usize, EnvError> {
        self.model()
            .name_to_id(MjtObjBase::mjOBJ_BODY, name)
            .ok_or_else(|| kwargs.invalid(format!("the model has no body called `{name}`, which the task reads")))
    }

    /// The model's constants.
    pub fn model(&self) -> &MjModel {
        self.data.model()
    }

    /// MuJoCo's state and what it derived from it.
    pub fn data(&self) -> &MjData<Arc<MjModel>> {
        &self.data
    }

    /// Positions, `[nq]`.
    pub fn qpos(&self) -> &[f64] {
        self.data.qpos()
    }

    /// Velocities, `[nv]`.
    pub fn qvel(&self) -> &[f64] {
        self.data.qvel()
    }

    /// Starts anew from the initial state with noise: all positions are drawn first, then all velocities.
    pub fn reset_noisy(&mut self, rng: &mut NumpyRng, scale: f64, velocities: Noise) {
        let Simulation { init_qpos, init_qvel, .. } = self;
        self.data.reset();
        for (q, init) in self.data.qpos_mut().iter_mut().zip(init_qpos) {
            *q = *init + rng.uniform(-scale, scale);
        }
        for (v, init) in self.data.qvel_mut().iter_mut().zip(init_qvel) {
            *v = *init
                + match velocities {
                    Noise::Uniform => rng.uniform(-scale, scale),
                    Noise::Normal => scale * rng.standard_normal(),
                };
        }
        self.data.forward();
    }

    /// Starts anew from the initial state after `place` has changed positions and velocities. MuJoCo lends them one at a
    /// time, so both are copied.
    pub fn reset_placed(&mut self, place: impl FnOnce(&mut [f64], &mut [f64])) {
        self.data.reset();
        let (mut qpos, mut qvel) = (self.qpos().to_vec(), self.qvel().to_vec());
        place(&mut qpos, &mut qvel);
        self.data.qpos_mut().copy_from_slice(&qpos);
        self.data.qvel_mut().copy_from_slice(&qvel);
        self.data.forward();
    }

    /// Applies an action for one step of the environment, then has MuJoCo compute the contact forces, if they are read:
    /// nothing else depends on them.
    pub fn step(&mut self, action: &[f32], contact_forces: bool) {
        self.integrate(action);
        if contact_forces {
            self.data.rne_post_constraint();
        }
        if matches!(self.warning, Warning::None) {
            self.notice();
        }
    }

    /// Sets the controls and has MuJoCo take the sub-steps of one step.
    pub fn integrate(&mut self, action: &[f32]) {
        for (control, &a) in self.data.ctrl_mut().iter_mut().zip(action) {
            *control = a.into();
        }
        for _ in 0..self.frame_skip {
            self.data.step();
        }
    }

    /// What there is to report, once.
    pub fn take_warning(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.warning, Warning::Taken) {
            Warning::Pending(message) => Some(message),
            other => {
                self.warning = other;
                None
            }
        }
    }

    /// What the next step starts from.
    pub fn state(&self) -> Box<[f64]> {
        self.data.state(STATE)
    }

    /// Goes back to a state; `None` if it has another length. Nothing is recomputed: the next step derives everything from
    /// the state, and `mj_forward` would move the warm start.
    pub fn set_state(&mut self, state: &[f64]) -> Option<()> {
        if state.len() != self.model().state_size(STATE) {
            return None;
        }
        self.data.set_state(state, STATE).ok()
    }

    /// Looks at MuJoCo's warning counters.
    fn notice(&mut self) {
        let warnings = self.data.warning();
        let Some(which) = warnings.iter().position(|warning| warning.number > 0) else { return };
        const UNSTABLE: &str = "MuJoCo put the simulation back to its initial state, as it does under Gymnasium";
        let at = warnings[which].lastinfo;
        self.warning = Warning::Pending(match which {
            _ if which == MjtWarning::mjWARN_BADQPOS as usize => {
                format!("position {at} became NaN, infinite or huge; {UNSTABLE}")
            }
            _ if which == MjtWarning::mjWARN_BADQVEL as usize => {
                format!("velocity {at} became NaN, infinite or huge; {UNSTABLE}")
            }
            _ if which == MjtWarning::mjWARN_BADQACC as usize => {
                format!("acceleration {at} became NaN, infinite or huge; {UNSTABLE}")
            }
            _ if which == MjtWarning::mjWARN_BADCTRL as usize => {
                format!(
                    "action {at} was NaN, infinite or huge; MuJoCo took all actions as 0, as it does under Gymnasium"
                )
            }
            _ if which == MjtWarning::mjWARN_INERTIA as usize => {
                format!("the inertia matrix became singular at degree of freedom {at}; MuJoCo went on")
            }
            _ => format!("there were more contacts or constraints ({at}) than MuJoCo has room for; it dropped some"),
        });
    }
}

/// The model in a file, read once and shared by all environments that use it at the same time.
fn shared_model(path: &Path) -> Result<Arc<MjModel>, String> {
    static MODELS: Mutex<BTreeMap<PathBuf, Weak<MjModel>>> = Mutex::new(BTreeMap::new());
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = models.get(path).and_then(Weak::upgrade) {
        return Ok(model);
    }
    logging::turn_off();
    let model = MjModel::from_xml(path).map_err(|error| format!("MuJoCo cannot read {}: {error}", path.display()))?;
    let model = Arc::new(model);
    models.insert(path.into(), Arc::downgrade(&model));
    Ok(model)
}

/// Where a model file is: as it stands if it starts with `.`, `/` or `~`, among Gymnasium's otherwise.
fn model_path(xml_file: &str) -> Result<PathBuf, String> {
    let path = match (xml_file.as_bytes().first(), std::env::home_dir()) {
        (Some(b'.' | b'/'), _) => xml_file.into(),
        (Some(b'~'), Some(home)) => home.join(xml_file.trim_start_matches(['~', '/'])),
        _ => {
            let built_with = option_env!("BREGMAN_VENV").unwrap_or(".venv");
            let venv = std::env::var_os("BREGMAN_VENV").unwrap_or(built_with.into());
            assets(std::env::var_os("BREGMAN_MUJOCO_ASSETS"), venv.as_ref())?.join(xml_file)
        }
    };
    if !path.is_file() {
        return Err(format!(
            "there is no model file {}; `xml_file` starts with `.` or `/`, or names a file in the folder of Gymnasium's \
             models, which BREGMAN_MUJOCO_ASSETS overrides",
            path.display()
        ));
    }
    Ok(path)
}

/// The folder of Gymnasium's models: the one given, or the one in the virtual environment that set-up made.
fn assets(given: Option<OsString>, venv: &Path) -> Result<PathBuf, String> {
    if let Some(folder) = given {
        return Ok(folder.into());
    }
    let versions = venv.join("lib").read_dir().into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("site-packages/gymnasium/envs/mujoco/assets"))
        .find(|folder| folder.is_dir())
        .ok_or_else(|| {
            format!(
                "Gymnasium's MuJoCo models are not in {}; run scripts/setup, or set BREGMAN_MUJOCO_ASSETS to their folder",
                venv.display()
            )
        })
}

fn check_version(found: &str) -> Result<(), String> {
    if found == MUJOCO_VERSION {
        return Ok(());
    }
    Err(format!(
        "the MuJoCo library is version {found}, whose trajectories differ from those of {MUJOCO_VERSION}; run scripts/setup"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::EnvConfig;

    fn simulation(xml_file: &'static str) -> Simulation {
        Simulation::new(&mut Kwargs::new(&EnvConfig::new("Test")), xml_file, 1, 1).expect("Gymnasium's model")
    }

    #[test]
    fn the_models_are_the_expected_ones() {
        let masses = [
            ("half_cheetah.xml", 14.000000000000002),
            ("hopper.xml", 15.820013405927003),
            ("walker2d_v5.xml", 23.677136632555076),
            ("ant.xml", 0.9108800827073915),
            ("humanoid.xml", 42.11603049212989),
            ("humanoidstandup.xml", 42.11603049212989),
            ("swimmer.xml", 106.81415022205297),
            ("reacher.xml", 0.07845185174544432),
            ("pusher_v5.xml", 13.673004480969936),
            ("inverted_pendulum.xml", 15.490567153329286),
            ("inverted_double_pendulum.xml", 18.869452675011495),
        ];
        for (xml_file, mass) in masses {
            let found = simulation(xml_file).model().totalmass();
            assert!((found - mass).abs() < 1e-12 * mass, "{xml_file}: {found}");
        }
    }

    #[test]
    fn environments_of_one_model_share_it() {
        let (a, b) = (simulation("hopper.xml"), simulation("hopper.xml"));
        assert!(std::ptr::eq(a.model(), b.model()));
        assert!(!std::ptr::eq(a.model(), simulation("ant.xml").model()));
    }

    #[test]
    fn models_come_from_the_folder_given_or_from_the_virtual_environment() {
        let venv = Path::new(env!("BREGMAN_VENV"));
        assert_eq!(assets(Some("/models".into()), venv), Ok("/models".into()));
        assert!(assets(None, venv).expect("set-up installed Gymnasium").join("ant.xml").is_file());
        let error = assets(None, Path::new("/no/venv")).expect_err("nothing is there");
        assert!(error.starts_with("Gymnasium's MuJoCo models are not in /no/venv; "), "{error}");
    }

    #[test]
    fn another_version_of_mujoco_is_refused() {
        assert_eq!(check_version("3.17.0"), Ok(()));
        let error = check_version("3.9.0").expect_err("refused");
        assert!(error.starts_with("the MuJoCo library is version 3.9.0, whose trajectories differ"), "{error}");
    }
}
