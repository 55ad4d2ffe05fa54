//! Any environment that Gymnasium knows, through Python.
//!
//! The interpreter starts on first use, with the virtual environment's packages first on the path; modules named in
//! `imports` are looked for in the current directory too, as `python -c` would. Each call takes Python's global lock, so
//! several of these environments are stepped one after the other.
//!
//! Observations of box spaces are flattened in C order, everything else goes through Gymnasium's own `flatten`. Actions
//! outside a box are sent as they are.

use std::path::PathBuf;
use std::sync::OnceLock;

use numpy::{PyArray1, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::PyModuleNotFoundError;
use pyo3::types::{PyAnyMethods, PyDict, PyList, PyTuple, PyTypeMethods};
use pyo3::{Bound, IntoPyObject, Py, PyAny, PyErr, PyResult, Python, intern};

use crate::{ActionSpace, Env, EnvConfig, EnvError, EnvSpec, Outcome};

/// One Gymnasium environment.
pub struct GymEnv {
    spec: EnvSpec,
    env: Py<PyAny>,
    reset: Py<PyAny>,
    step: Py<PyAny>,
    observation: Observation,
    action: Action,
}

/// How an observation becomes a row of `f64`.
enum Observation {
    /// `numpy.asarray(obs, float64).ravel()`.
    Array,
    /// `gymnasium.spaces.flatten(space, obs)`, then the same.
    Flatten(Py<PyAny>),
}

/// How an action row becomes what the environment takes.
enum Action {
    /// A one-dimensional float32 array.
    Vector,
    /// An array of another shape or type: `(shape, dtype)`.
    Array(Py<PyAny>, Py<PyAny>),
    /// An integer, counted from the space's start.
    Integer(i64),
    /// An integer array, counted from the space's starts.
    Integers(Vec<i64>),
}

impl GymEnv {
    /// Makes an environment as the run file says.
    ///
    /// # Errors
    /// No Python or no Gymnasium, an unknown id, an exception from the constructor, or a space that no agent here can use.
    pub fn new(config: &EnvConfig) -> Result<GymEnv, EnvError> {
        start_python()?;
        Python::attach(|py| make(py, config))
    }
}

impl Env for GymEnv {
    fn spec(&self) -> &EnvSpec {
        &self.spec
    }

    fn reset(&mut self, seed: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError> {
        Python::attach(|py| {
            let raised = |e| raised(py, &self.spec.id, e);
            let arguments = PyDict::new(py);
            if let Some(seed) = seed {
                arguments.set_item(intern!(py, "seed"), seed).map_err(raised)?;
            }
            let result = self.reset.bind(py).call((), Some(&arguments)).map_err(raised)?;
            let first = result.get_item(0).map_err(raised)?;
            self.read(py, &first, obs)
        })
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
        Python::attach(|py| {
            let raised = |e| raised(py, &self.spec.id, e);
            let action = self.action.to_python(py, action).map_err(raised)?;
            let result = self.step.bind(py).call1((action,)).map_err(raised)?;
            let result = result.cast_into::<PyTuple>().map_err(|e| raised(e.into()))?;
            let outcome = || -> PyResult<Outcome> {
                Ok(Outcome {
                    reward: result.get_item(1)?.extract()?,
                    terminated: result.get_item(2)?.is_truthy()?,
                    truncated: result.get_item(3)?.is_truthy()?,
                })
            };
            let outcome = outcome().map_err(raised)?;
            self.read(py, &result.get_item(0).map_err(raised)?, next_obs)?;
            Ok(outcome)
        })
    }
}

impl GymEnv {
    /// Writes an observation as a row.
    fn read(&self, py: Python<'_>, obs: &Bound<'_, PyAny>, row: &mut [f64]) -> Result<(), EnvError> {
        let misfit = |found: usize| EnvError::Invalid {
            id: self.spec.id.clone(),
            message: format!("an observation of {found} numbers where its space has {}", row.len()),
        };
        if let Ok(array) = obs.extract::<PyReadonlyArray1<f64>>() {
            let len = array.len();
            return match array.as_slice() {
                Ok(values) if len == row.len() => {
                    row.copy_from_slice(values);
                    Ok(())
                }
                _ => Err(misfit(len)),
            };
        }
        let flat = self.flat(py, obs).map_err(|e| raised(py, &self.spec.id, e))?;
        if flat.len() != row.len() {
            return Err(misfit(flat.len()));
        }
        row.copy_from_slice(&flat);
        Ok(())
    }

    fn flat(&self, py: Python<'_>, obs: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
        let flattened = match &self.observation {
            Observation::Array => obs.clone(),
            Observation::Flatten(space) => {
                py.import(intern!(py, "gymnasium.spaces"))?.call_method1("flatten", (space.bind(py), obs))?
            }
        };
        let array = py.import(intern!(py, "numpy"))?.call_method1("asarray", (flattened, "float64"))?;
        array.call_method0("ravel")?.extract()
    }
}

impl Drop for GymEnv {
    fn drop(&mut self) {
        // A `close` that fails has nobody to tell; the interpreter may be gone already.
        let _ = Python::try_attach(|py| self.env.call_method0(py, "close").map(drop));
    }
}

impl Action {
    fn to_python<'py>(&self, py: Python<'py>, row: &[f32]) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Action::Vector => PyArray1::from_slice(py, row).into_any(),
            Action::Array(shape, dtype) => PyArray1::from_slice(py, row)
                .call_method1("astype", (dtype.bind(py),))?
                .call_method1("reshape", (shape.bind(py),))?,
            Action::Integer(start) => (start + row[0] as i64).into_pyobject(py)?.into_any(),
            Action::Integers(starts) => {
                let values: Vec<i64> = row.iter().zip(starts).map(|(&x, start)| start + x as i64).collect();
                PyArray1::from_vec(py, values).into_any()
            }
        })
    }
}

/// Ids that Gymnasium knows.
///
/// # Errors
/// No Python or no Gymnasium.
pub fn registered_ids() -> Result<Vec<String>, EnvError> {
    start_python()?;
    Python::attach(|py| ids(py).map_err(|e| raised(py, "gymnasium", e)))
}

fn ids(py: Python<'_>) -> PyResult<Vec<String>> {
    let registry = py.import("gymnasium")?.getattr("registry")?;
    PyList::new(py, registry.try_iter()?.collect::<PyResult<Vec<_>>>()?)?.extract()
}

/// Starts the interpreter once, with the virtual environment's packages on its path.
fn start_python() -> Result<(), EnvError> {
    static STARTED: OnceLock<Result<(), EnvError>> = OnceLock::new();
    let start = || {
        Python::initialize();
        Python::attach(|py| {
            prepare(py).map_err(|e| {
                let missing = e.is_instance_of::<PyModuleNotFoundError>(py);
                let remedy = if missing { "; `scripts/setup` installs it" } else { "" };
                EnvError::PythonMissing(format!("Python has no usable Gymnasium: {e}{remedy}"))
            })
        })
    };
    STARTED.get_or_init(start).clone()
}

fn prepare(py: Python<'_>) -> PyResult<()> {
    // NumPy's own threads would compete with ours for the cores; they are read when it is first imported.
    let environ = py.import("os")?.getattr("environ")?;
    for name in ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"] {
        environ.call_method1("setdefault", (name, "1"))?;
    }
    let path = py.import("sys")?.getattr("path")?;
    path.call_method1("insert", (0, ""))?;
    if let Some(packages) = site_packages(py)? {
        let before: usize = path.len()?;
        py.import("site")?.call_method1("addsitedir", (&packages,))?;
        // `addsitedir` appends; what it added goes before the interpreter's own packages.
        let added: Vec<String> = path.extract::<Vec<String>>()?.split_off(before.min(path.len()?));
        for entry in added.iter().rev() {
            path.call_method1("remove", (entry,))?;
            path.call_method1("insert", (1, entry))?;
        }
    }
    py.import("gymnasium")?;
    Ok(())
}

/// The virtual environment's packages: of `BREGMAN_VENV` now, or when this was built.
fn site_packages(py: Python<'_>) -> PyResult<Option<PathBuf>> {
    let venv = std::env::var("BREGMAN_VENV").ok().or(option_env!("BREGMAN_VENV").map(String::from));
    let version = py.version_info();
    let python = format!("python{}.{}", version.major, version.minor);
    Ok(venv.map(|venv| PathBuf::from(venv).join("lib").join(python).join("site-packages")).filter(|path| path.is_dir()))
}

fn make(py: Python<'_>, config: &EnvConfig) -> Result<GymEnv, EnvError> {
    let id = config.id.as_str();
    let raised = |e| raised(py, id, e);
    for module in &config.imports {
        py.import(module.as_str()).map_err(raised)?;
    }
    let gymnasium = py.import("gymnasium").map_err(raised)?;
    let arguments = keyword_arguments(py, config).map_err(raised)?;
    let env = gymnasium.call_method("make", (id,), Some(&arguments)).map_err(|e| refused(py, config, e))?;

    let space = |name: &str| env.getattr(name);
    let (observation_space, action_space) =
        (space("observation_space").map_err(raised)?, space("action_space").map_err(raised)?);
    let (observation, obs_dim) = read_observation_space(py, id, &observation_space)?;
    let (action, action_space) = read_action_space(id, &action_space).map_err(raised)??;
    let spec = env.getattr("spec").map_err(raised)?;
    let attribute = |name: &str| spec.getattr(name).ok().filter(|value| !value.is_none());
    let spec = EnvSpec {
        id: id.into(),
        obs_dim,
        action_space,
        max_episode_steps: attribute("max_episode_steps").and_then(|value| value.extract().ok()),
        reward_threshold: attribute("reward_threshold").and_then(|value| value.extract().ok()),
        backend: "gymnasium",
        parallel: false,
    };
    let method = |name: &str| env.getattr(name).map(Bound::unbind).map_err(raised);
    let (reset, step) = (method("reset")?, method("step")?);
    Ok(GymEnv { spec, env: env.unbind(), reset, step, observation, action })
}

fn keyword_arguments<'py>(py: Python<'py>, config: &EnvConfig) -> PyResult<Bound<'py, PyDict>> {
    let arguments = PyDict::new(py);
    for (key, value) in &config.kwargs {
        arguments.set_item(key, to_python(py, value)?)?;
    }
    // The checker looks at the first steps only, and slows them.
    arguments.set_item("disable_env_checker", true)?;
    if let Some(limit) = config.max_episode_steps {
        arguments.set_item("max_episode_steps", limit)?;
    }
    Ok(arguments)
}

fn to_python<'py>(py: Python<'py>, value: &toml::Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        toml::Value::String(s) => s.into_pyobject(py)?.into_any(),
        toml::Value::Integer(i) => i.into_pyobject(py)?.into_any(),
        toml::Value::Float(x) => x.into_pyobject(py)?.into_any(),
        toml::Value::Boolean(b) => b.into_pyobject(py)?.to_owned().into_any(),
        toml::Value::Datetime(time) => time.to_string().into_pyobject(py)?.into_any(),
        toml::Value::Array(items) => {
            let items: PyResult<Vec<_>> = items.iter().map(|item| to_python(py, item)).collect();
            PyList::new(py, items?)?.into_any()
        }
        toml::Value::Table(table) => {
            let dict = PyDict::new(py);
            for (key, item) in table {
                dict.set_item(key, to_python(py, item)?)?;
            }
            dict.into_any()
        }
    })
}

fn class_name(space: &Bound<'_, PyAny>) -> String {
    space.get_type().name().map_or_else(|_| "an unnamed space".into(), |name| name.to_string())
}

fn read_observation_space(
    py: Python<'_>,
    id: &str,
    space: &Bound<'_, PyAny>,
) -> Result<(Observation, usize), EnvError> {
    let unsupported =
        |what: String, remedy: &str| EnvError::UnsupportedSpace { id: id.into(), space: what, remedy: remedy.into() };
    let raised = |e| raised(py, id, e);
    let class = class_name(space);
    match class.as_str() {
        "Box" => {
            let shape: Vec<usize> = space.getattr("shape").and_then(|shape| shape.extract()).map_err(raised)?;
            let dtype = space.getattr("dtype").and_then(|dtype| dtype.str()).map_err(raised)?.to_string();
            if shape.len() == 3 && dtype == "uint8" {
                return Err(unsupported(
                    format!("images of shape {shape:?} as observations"),
                    "wrap it in an environment that gives vectors, as `gymnasium.wrappers.FlattenObservation` over features does",
                ));
            }
            Ok((Observation::Array, shape.iter().product()))
        }
        "Discrete" | "MultiDiscrete" | "MultiBinary" | "Dict" | "Tuple" => {
            let flat = py.import("gymnasium.spaces").and_then(|spaces| spaces.call_method1("flatdim", (space,)));
            let len = flat.and_then(|len| len.extract()).map_err(raised)?;
            Ok((Observation::Flatten(space.clone().unbind()), len))
        }
        _ => Err(unsupported(
            format!("the observation space {class}"),
            "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple are; wrap it in a `gymnasium.ObservationWrapper`",
        )),
    }
}

/// The outer error is Python's, the inner one ours.
fn read_action_space(id: &str, space: &Bound<'_, PyAny>) -> PyResult<Result<(Action, ActionSpace), EnvError>> {
    let class = class_name(space);
    let unsupported = |what: String| EnvError::UnsupportedSpace {
        id: id.into(),
        space: what,
        remedy: "Box of floats, Discrete and MultiDiscrete are; wrap it in a `gymnasium.ActionWrapper`".into(),
    };
    let flat = |name: &str, dtype: &str| space.getattr(name)?.call_method1("astype", (dtype,))?.call_method0("ravel");
    Ok(match class.as_str() {
        "Box" => {
            let dtype = space.getattr("dtype")?;
            if dtype.getattr("kind")?.extract::<String>()? != "f" {
                return Ok(Err(unsupported(format!("actions of type {dtype}"))));
            }
            let (low, high) = (flat("low", "float32")?.extract()?, flat("high", "float32")?.extract()?);
            let shape = space.getattr("shape")?;
            let vector = shape.len()? == 1 && dtype.str()? == "float32";
            let action = if vector { Action::Vector } else { Action::Array(shape.unbind(), dtype.unbind()) };
            Ok((action, ActionSpace::Box { low, high }))
        }
        "Discrete" => {
            let action = Action::Integer(space.getattr("start")?.extract()?);
            Ok((action, ActionSpace::Discrete { n: space.getattr("n")?.extract()? }))
        }
        "MultiDiscrete" if space.getattr("shape")?.len()? == 1 => {
            let action = Action::Integers(flat("start", "int64")?.extract()?);
            Ok((action, ActionSpace::MultiDiscrete { nvec: flat("nvec", "int64")?.extract()? }))
        }
        _ => Err(unsupported(format!("the action space {class}"))),
    })
}

/// What `gymnasium.make` raised: an id it does not know names the nearest that it knows.
fn refused(py: Python<'_>, config: &EnvConfig, error: PyErr) -> EnvError {
    let kind = error.get_type(py).name().map_or_else(|_| String::new(), |name| name.to_string());
    let message = error.value(py).to_string();
    if matches!(
        kind.as_str(),
        "NameNotFound" | "NamespaceNotFound" | "VersionNotFound" | "DeprecatedEnv" | "UnregisteredEnv"
    ) {
        let known = ids(py).unwrap_or_default();
        let nearest = known.iter().max_by(|a, b| {
            let like = |id: &str| strsim::jaro_winkler(&config.id.to_lowercase(), &id.to_lowercase());
            like(a).total_cmp(&like(b))
        });
        let hint = nearest.map_or_else(String::new, |id| format!("; did you mean `{id}`?"));
        return EnvError::Unknown { id: config.id.clone(), hint };
    }
    if kind == "DependencyNotInstalled" || error.is_instance_of::<PyModuleNotFoundError>(py) {
        return EnvError::Invalid { id: config.id.clone(), message: message.trim().into() };
    }
    raised(py, &config.id, error)
}

fn raised(py: Python<'_>, id: &str, error: PyErr) -> EnvError {
    let kind = error.get_type(py).name().map_or_else(|_| "an exception".into(), |name| name.to_string());
    let traceback = error.traceback(py).and_then(|traceback| pyo3::types::PyTracebackMethods::format(&traceback).ok());
    EnvError::Python {
        id: id.into(),
        place: "while it was made".into(),
        exception: format!("{kind}: {}", error.value(py)),
        traceback: traceback.unwrap_or_default().trim_end().into(),
    }
}
