//! From Python's exceptions to sentences.

use std::cmp::Reverse;

use pyo3::exceptions::{PyImportError, PyModuleNotFoundError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::interpreter;
use crate::{Argument, EnvConfig, EnvError, kwargs::nearest};

/// What goes wrong inside the bridge, before it is known where.
pub(super) enum Trouble {
    /// An exception.
    Raised(PyErr),
    /// Something came back that does not fit; a sentence.
    Misfit(String),
    /// A space that no agent can use.
    Unsupported { space: String, remedy: &'static str },
}

impl From<PyErr> for Trouble {
    fn from(error: PyErr) -> Trouble {
        Trouble::Raised(error)
    }
}

impl Trouble {
    /// The error, now that environment and place are known; a [`Lane`](crate::Lane) says the place more exactly.
    pub fn at(self, py: Python<'_>, id: &str, place: &str) -> EnvError {
        let id = id.to_owned();
        match self {
            Trouble::Raised(error) => EnvError::Python {
                id,
                place: place.into(),
                exception: describe(py, &error),
                traceback: traceback(py, &error),
            },
            Trouble::Misfit(message) => EnvError::Invalid { id, message },
            Trouble::Unsupported { space, remedy } => EnvError::UnsupportedSpace { id, space, remedy: remedy.into() },
        }
    }
}

/// `ValueError: what it says`.
pub(crate) fn describe(py: Python<'_>, error: &PyErr) -> String {
    let class = error.get_type(py);
    let name = class.fully_qualified_name().map_or_else(|_| "an exception".into(), |name| name.to_string());
    match message(py, error) {
        empty if empty.is_empty() => name,
        message => format!("{name}: {message}"),
    }
}

fn message(py: Python<'_>, error: &PyErr) -> String {
    error.value(py).str().map_or_else(|_| String::new(), |text| text.to_string().trim().to_owned())
}

/// As Python prints it, with the exceptions that led to this one.
fn traceback(py: Python<'_>, error: &PyErr) -> String {
    // Before Python 3.12 the traceback is kept beside the exception, so it is passed beside it.
    let exception = (error.get_type(py), error.value(py), error.traceback(py));
    let lines = py.import("traceback").and_then(|module| module.call_method1("format_exception", exception));
    let lines: Vec<String> = lines.and_then(|lines| lines.extract()).unwrap_or_default();
    lines.concat().trim_end().to_owned()
}

/// What became of importing a module that the run file names.
pub(super) fn of_import(py: Python<'_>, id: &str, module: &str, error: PyErr) -> EnvError {
    let missing = error.value(py).getattr("name").and_then(|name| name.extract::<String>()).unwrap_or_default();
    let itself = missing == module || module.starts_with(&format!("{missing}."));
    if itself && error.is_instance_of::<PyModuleNotFoundError>(py) {
        let python = interpreter::executable(py);
        return EnvError::Invalid {
            id: id.into(),
            message: format!(
                "`imports` names `{module}`, which is neither in the current directory nor among the packages of {python}"
            ),
        };
    }
    Trouble::Raised(error).at(py, id, &format!("while `{module}` was imported"))
}

/// What `gymnasium.make` raised: a sentence where the run file can mend it, the exception otherwise. `natives` are the
/// ids that need no Gymnasium.
pub(super) fn of_make(py: Python<'_>, config: &EnvConfig, natives: &[&str], error: PyErr) -> EnvError {
    let (id, message) = (config.id.clone(), message(py, &error));
    let is = |name: &str| {
        let class = py.import("gymnasium.error").and_then(|module| module.getattr(name));
        class.is_ok_and(|class| error.value(py).is_instance(&class).unwrap_or(false))
    };
    let malformed = message.starts_with("Malformed environment ID") || message.starts_with("No registered env");
    if is("UnregisteredEnv") || is("DeprecatedEnv") || (is("Error") && malformed) {
        let near = similar(&id, natives.iter().map(|id| id.to_string()).chain(ids(py).unwrap_or_default()).collect());
        let hint = match alternatives(&near) {
            Some(near) if !is("NamespaceNotFound") => format!("; did you mean {near}?"),
            _ => format!(
                "; Gymnasium says: {message}; a package's environments are known once `imports` names its module"
            ),
        };
        return EnvError::Unknown { id, hint };
    }
    let invalid = |message: String| EnvError::Invalid { id: id.clone(), message };
    let python = interpreter::executable(py);
    if is("DependencyNotInstalled") {
        let extra = message.split_once("gymnasium[").and_then(|(_, rest)| rest.split_once(']')).map(|(extra, _)| extra);
        let swig = if message.contains("pip install swig") { "swig " } else { "" };
        let packages = extra.map_or("the package".into(), |extra| format!("{swig}\"gymnasium[{extra}]\""));
        return invalid(format!("{message}; for this program that is `{python} -m pip install {packages}`"));
    }
    if error.is_instance_of::<PyModuleNotFoundError>(py) {
        return invalid(format!("{message}; `{python} -m pip install` puts packages where this program finds them"));
    }
    if error.is_instance_of::<PyImportError>(py) && retired(py, &id).unwrap_or(false) {
        let near = alternatives(&similar(&id, ids(py).unwrap_or_default()));
        return invalid(near.map_or(message.clone(), |near| format!("{message}; did you mean {near}?")));
    }
    if error.is_instance_of::<PyTypeError>(py)
        && let Some((_, rest)) = message.split_once("unexpected keyword argument '")
        && let Some((name, _)) = rest.split_once('\'')
        && config.kwargs.contains_key(name)
        && let Ok(known) = parameters(py, &id)
    {
        let names: Vec<&str> = known.iter().map(|argument| argument.name.as_str()).collect();
        return invalid(match nearest(name, &names) {
            Some(near) => {
                format!("there is no argument `{name}`; did you mean `{near}`? There are {}", names.join(", "))
            }
            None => format!("there is no argument `{name}`; it takes none"),
        });
    }
    Trouble::Raised(error).at(py, &id, "while it was made")
}

/// The ids that can be made: all that Gymnasium knows but those that are kept only to say that they have moved.
pub(super) fn ids(py: Python<'_>) -> PyResult<Vec<String>> {
    let known: Vec<String> = PyList::new(py, registry(py)?.try_iter()?.collect::<PyResult<Vec<_>>>()?)?.extract()?;
    let mut ids = Vec::new();
    for id in known {
        if !retired(py, &id)? {
            ids.push(id);
        }
    }
    ids.sort();
    Ok(ids)
}

fn registry(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("gymnasium")?.getattr("registry")
}

/// Whether an id only raises "have been moved", as the MuJoCo environments v2 and v3 do: Gymnasium registers those with a
/// function of its own in place of a class.
fn retired(py: Python<'_>, id: &str) -> PyResult<bool> {
    let spec = registry(py)?.call_method1("get", (id,))?;
    if spec.is_none() {
        return Ok(false);
    }
    let entry_point = spec.getattr("entry_point")?;
    let home = entry_point.getattr("__module__").and_then(|module| module.extract::<String>());
    Ok(entry_point.is_callable() && home.is_ok_and(|module| module == "gymnasium.envs"))
}

/// What an environment's constructor takes, with the defaults that its registration or else its class gives.
pub(super) fn parameters(py: Python<'_>, id: &str) -> PyResult<Vec<Argument>> {
    let name = id.rsplit(':').next().unwrap_or(id);
    let spec = registry(py)?.get_item(name)?;
    let registered = spec.getattr("kwargs")?;
    let mut constructor = spec.getattr("entry_point")?;
    if !constructor.is_callable() {
        constructor = py.import("gymnasium.envs.registration")?.call_method1("load_env_creator", (constructor,))?;
    }
    let parameters = py.import("inspect")?.call_method1("signature", (constructor,))?.getattr("parameters")?;
    let mut known = Vec::new();
    for parameter in parameters.call_method0("values")?.try_iter()? {
        let parameter = parameter?;
        // `*args` and `**kwargs` are no names.
        if !["VAR_POSITIONAL", "VAR_KEYWORD"].contains(&parameter.getattr("kind")?.getattr("name")?.extract::<&str>()?)
        {
            let name = parameter.getattr("name")?;
            let default = match registered.get_item(&name) {
                Ok(value) => value,
                Err(_) => parameter.getattr("default")?,
            };
            let default = (!default.is(parameter.getattr("empty")?)).then(|| default.repr()).transpose()?;
            known.push(Argument { name: name.extract()?, default: default.map(|text| text.to_string()) });
        }
    }
    Ok(known)
}

/// Up to three ids that are like `id`, the most alike first; of one name the version most alike, or else the latest.
fn similar(id: &str, known: Vec<String>) -> Vec<String> {
    let likeness = |other: &str| strsim::jaro_winkler(&id.to_lowercase(), &other.to_lowercase());
    let mut scored: Vec<(Reverse<u32>, Reverse<String>)> =
        known.into_iter().map(|other| (Reverse((1000.0 * likeness(&other)) as u32), Reverse(other))).collect();
    scored.sort();
    // Below 850 they are other words; far below the best they would only distract.
    let least = scored.first().map_or(850, |(best, _)| best.0.saturating_sub(30).max(850));
    let mut ids: Vec<String> = Vec::new();
    for (_, Reverse(other)) in scored.into_iter().take_while(|(score, _)| score.0 >= least) {
        let name = |id: &str| id.rsplit_once("-v").map_or(id, |(name, _)| name).to_owned();
        if ids.iter().all(|id| name(id) != name(&other)) {
            ids.push(other);
        }
    }
    ids.truncate(3);
    ids
}

/// `` `a`, `b` or `c` ``
fn alternatives(ids: &[String]) -> Option<String> {
    let quoted: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
    let (last, rest) = quoted.split_last()?;
    Some(if rest.is_empty() { last.clone() } else { format!("{} or {last}", rest.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::{alternatives, similar};

    #[test]
    fn ids_that_are_alike_come_once_per_name_latest_first() {
        let known = ["Ant-v5", "CartPole-v1", "Hopper-v4", "Hopper-v5", "phys2d/CartPole-v1"].map(String::from);
        let near = |id: &str| similar(id, known.to_vec());
        assert_eq!(near("Hopper-v6"), ["Hopper-v5"]);
        assert_eq!(near("Hoper-v4"), ["Hopper-v4"]);
        assert_eq!(near("cartpole-v0"), ["CartPole-v1"]);
        assert_eq!(near("LunarLander-v3"), [""; 0]);
    }

    #[test]
    fn alternatives_read_as_a_sentence() {
        let ids = ["a", "b", "c"].map(String::from);
        assert_eq!(alternatives(&ids[..1]).as_deref(), Some("`a`"));
        assert_eq!(alternatives(&ids).as_deref(), Some("`a`, `b` or `c`"));
        assert_eq!(alternatives(&[]), None);
    }
}
