//! Any environment that Gymnasium knows, through Python.
//!
//! The interpreter starts on first use, with the packages of the virtual environment; modules named in `imports` are
//! looked for in the current directory first, as `python -c` would. Each call takes Python's global lock, so several of
//! these environments are stepped one after the other.
//!
//! Observations of box spaces are flattened in C order, discrete ones are one-hot, all others go through Gymnasium's own
//! `flatten`. Actions get the shape and type of their space, and outside a box they are sent as they are.

mod film;
pub(crate) mod interpreter;
mod spaces;
pub(crate) mod trouble;

use std::path::Path;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::{IntoPyObjectExt, intern};

use self::spaces::{Actions, Observations};
use self::trouble::Trouble;
use crate::{Argument, Env, EnvConfig, EnvError, EnvSpec, Outcome};

/// One Gymnasium environment.
pub struct GymEnv {
    spec: EnvSpec,
    env: Handle,
    observations: Observations,
    actions: Actions,
    /// The dictionary that the last reset gave.
    reset_info: Option<Py<PyAny>>,
}

/// The Python object, closed when it is dropped.
struct Handle(Py<PyAny>);

impl Drop for Handle {
    fn drop(&mut self) {
        // The interpreter may be gone already; an exception goes where Python shows those of its own destructors.
        Python::try_attach(|py| {
            let env = self.0.bind(py);
            if let Err(error) = env.call_method0(intern!(py, "close")) {
                error.write_unraisable(py, Some(env));
            }
        });
    }
}

/// The ids that Gymnasium can make, sorted.
///
/// # Errors
/// No Python or no Gymnasium.
pub fn registered_ids() -> Result<Vec<String>, EnvError> {
    interpreter::start()?;
    interpreter::attach(|py| {
        trouble::ids(py).map_err(|e| Trouble::from(e).at(py, "gymnasium", "while its ids were listed"))
    })
}

/// Gymnasium's own description of an environment, JSON, with the run file's arguments and time limit in it.
///
/// # Errors
/// No Python or no Gymnasium, or an id that it does not know.
pub fn spec_json(config: &EnvConfig) -> Result<String, EnvError> {
    interpreter::start()?;
    interpreter::attach(|py| {
        let gymnasium =
            py.import("gymnasium").map_err(|e| Trouble::from(e).at(py, &config.id, "while it was looked up"))?;
        let spec = gymnasium.call_method1("spec", (&config.id,)).map_err(|e| trouble::of_make(py, config, &[], e))?;
        let describe = || -> Result<String, Trouble> {
            let spec = py.import("copy")?.call_method1("deepcopy", (spec,))?;
            for (key, value) in &config.kwargs {
                spec.getattr("kwargs")?.set_item(key, to_python(py, key, value)?)?;
            }
            if let Some(limit) = config.max_episode_steps {
                spec.setattr("max_episode_steps", limit)?;
            }
            Ok(spec.call_method0("to_json")?.extract()?)
        };
        describe().map_err(|trouble| trouble.at(py, &config.id, "while it was described"))
    })
}

impl GymEnv {
    /// Makes an environment as the run file says.
    ///
    /// # Errors
    /// No Python or no Gymnasium, an unknown id, an exception from the constructor, or a space that no agent here can use.
    pub fn new(config: &EnvConfig) -> Result<GymEnv, EnvError> {
        GymEnv::beside(config, &[], None)
    }

    /// The same; an error about an unknown id also suggests `natives`. With `film`, episodes are filmed into that file, which
    /// is whole once the environment is dropped.
    pub(crate) fn beside(config: &EnvConfig, natives: &[&str], film: Option<&Path>) -> Result<GymEnv, EnvError> {
        interpreter::start()?;
        interpreter::attach(|py| {
            for module in &config.imports {
                py.import(module.as_str()).map_err(|e| trouble::of_import(py, &config.id, module, e))?;
            }
            let at = |trouble: Trouble| trouble.at(py, &config.id, "while it was made");
            let arguments = arguments(py, config).map_err(at)?;
            if film.is_some() {
                arguments.set_item("render_mode", "rgb_array").map_err(|e| at(e.into()))?;
            }
            let env = make(py, &config.id, &arguments).map_err(|e| trouble::of_make(py, config, natives, e))?;
            let env = match film {
                Some(path) => film::film(py, env, path).map_err(at)?,
                None => env,
            };
            GymEnv::wrap(py, env).map_err(at)
        })
    }

    fn wrap(py: Python<'_>, env: Bound<'_, PyAny>) -> Result<GymEnv, Trouble> {
        let handle = Handle(env.clone().unbind());
        let (observations, obs_dim) = Observations::of(&env.getattr(intern!(py, "observation_space"))?)?;
        let (actions, action_space) = Actions::of(&env.getattr(intern!(py, "action_space"))?)?;
        let spec = env.getattr(intern!(py, "spec"))?;
        let spec = EnvSpec {
            id: spec.getattr("id")?.extract()?,
            obs_dim,
            action_space,
            max_episode_steps: spec.getattr("max_episode_steps")?.extract()?,
            reward_threshold: spec.getattr("reward_threshold")?.extract()?,
            backend: "gymnasium",
            parallel: false,
        };
        Ok(GymEnv { spec, env: handle, observations, actions, reset_info: None })
    }
}

impl Env for GymEnv {
    fn spec(&self) -> &EnvSpec {
        &self.spec
    }

    fn reset(&mut self, seed: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError> {
        interpreter::attach(|py| {
            let info = self.first(py, seed, obs).map_err(|t| t.at(py, &self.spec.id, "while it was reset"))?;
            self.reset_info = Some(info);
            Ok(())
        })
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
        interpreter::attach(|py| {
            self.next(py, action, next_obs).map_err(|t| t.at(py, &self.spec.id, "while it was stepped"))
        })
    }

    /// Those of the last reset, whatever their values.
    fn info_names(&self) -> Vec<String> {
        let names = |info: &Py<PyAny>| {
            interpreter::attach(|py| info.bind(py).try_iter()?.map(|name| name?.extract()).collect::<PyResult<_>>())
        };
        self.reset_info.as_ref().and_then(|info| names(info).ok()).unwrap_or_default()
    }

    fn arguments(&self) -> Vec<Argument> {
        interpreter::attach(|py| trouble::parameters(py, &self.spec.id).unwrap_or_default())
    }
}

impl GymEnv {
    fn first(&self, py: Python<'_>, seed: Option<u64>, obs: &mut [f64]) -> Result<Py<PyAny>, Trouble> {
        let env = self.env.0.bind(py);
        let result = match seed {
            Some(seed) => {
                let arguments = PyDict::new(py);
                arguments.set_item(intern!(py, "seed"), seed)?;
                env.call_method(intern!(py, "reset"), (), Some(&arguments))?
            }
            None => env.call_method0(intern!(py, "reset"))?,
        };
        let result = values(&result, 2, "`reset` must give the two values (obs, info)")?;
        self.observations.read(&result.get_item(0)?, obs)?;
        Ok(result.get_item(1)?.unbind())
    }

    fn next(&self, py: Python<'_>, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, Trouble> {
        let action = self.actions.write(py, action)?;
        let result = self.env.0.bind(py).call_method1(intern!(py, "step"), (action,))?;
        let result = values(&result, 5, "`step` must give the five values (obs, reward, terminated, truncated, info)")?;
        self.observations.read(&result.get_item(0)?, next_obs)?;
        // Rewards come as `float`, `int` or of a NumPy type, ends as `bool` or `numpy.bool`.
        let reward = result.get_borrowed_item(1)?;
        let reward = reward.extract().map_err(|_| {
            let class =
                reward.get_type().fully_qualified_name().map_or_else(|_| String::new(), |name| name.to_string());
            Trouble::Misfit(format!("a reward is of type `{class}`, which is not a number"))
        })?;
        let (terminated, truncated) =
            (result.get_borrowed_item(2)?.is_truthy()?, result.get_borrowed_item(3)?.is_truthy()?);
        Ok(Outcome { reward, terminated, truncated })
    }
}

/// A tuple of `n` values, or `rule` and what came instead: the interface of old Gym has fewer, and reading them by place
/// would take an `info` for an end.
fn values<'a, 'py>(result: &'a Bound<'py, PyAny>, n: usize, rule: &str) -> Result<&'a Bound<'py, PyTuple>, Trouble> {
    let found = match result.cast::<PyTuple>() {
        Ok(tuple) if tuple.len() == n => return Ok(tuple),
        Ok(tuple) => format!("{} values", tuple.len()),
        Err(_) => format!("a `{}`", result.get_type().fully_qualified_name()?),
    };
    Err(Trouble::Misfit(format!(
        "{rule}, but gave {found}; environments of old Gym need the package `shimmy` around them"
    )))
}

fn make<'py>(py: Python<'py>, id: &str, arguments: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    let gymnasium = py.import("gymnasium")?;
    // MuJoCo warns while a model is read, so its module has to be there before the environment.
    let name = id.rsplit(':').next().unwrap_or(id);
    let spec = gymnasium.getattr("registry")?.call_method1("get", (name,))?;
    if let Ok(entry_point) = spec.getattr("entry_point").and_then(|entry_point| entry_point.extract::<String>()) {
        // What is wrong with it, `make` says below.
        let _ = py.import("gymnasium.envs.registration")?.call_method1("load_env_creator", (entry_point,));
        interpreter::quieten_mujoco(py)?;
    }
    gymnasium.call_method("make", (id,), Some(arguments))
}

/// The keyword arguments of `gymnasium.make`.
fn arguments<'py>(py: Python<'py>, config: &EnvConfig) -> Result<Bound<'py, PyDict>, Trouble> {
    let arguments = PyDict::new(py);
    for (key, value) in &config.kwargs {
        match key.as_str() {
            "id" | "max_episode_steps" => {
                return Err(Trouble::Misfit(format!(
                    "`{key}` belongs into the table of the environment, not into `kwargs`"
                )));
            }
            _ => arguments.set_item(key, to_python(py, key, value)?)?,
        }
    }
    // The checker looks at the first steps only, and prints.
    if !arguments.contains("disable_env_checker")? {
        arguments.set_item("disable_env_checker", true)?;
    }
    match config.max_episode_steps {
        None => {}
        Some(0) => return Err(Trouble::Misfit("`max_episode_steps` is 0; it must be at least 1".into())),
        Some(limit) => arguments.set_item("max_episode_steps", limit)?,
    }
    Ok(arguments)
}

/// A TOML value as Python's own type; `key` is where it stands.
fn to_python<'py>(py: Python<'py>, key: &str, value: &toml::Value) -> Result<Bound<'py, PyAny>, Trouble> {
    Ok(match value {
        toml::Value::String(text) => text.into_bound_py_any(py)?,
        toml::Value::Integer(number) => number.into_bound_py_any(py)?,
        toml::Value::Float(number) => number.into_bound_py_any(py)?,
        toml::Value::Boolean(truth) => truth.into_bound_py_any(py)?,
        toml::Value::Datetime(time) => {
            return Err(Trouble::Misfit(format!("`{key}` is the date or time {time}; write it as a string")));
        }
        toml::Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(to_python(py, key, item)?)?;
            }
            list.into_any()
        }
        toml::Value::Table(table) => {
            let dict = PyDict::new(py);
            for (key, item) in table {
                dict.set_item(key, to_python(py, key, item)?)?;
            }
            dict.into_any()
        }
    })
}
