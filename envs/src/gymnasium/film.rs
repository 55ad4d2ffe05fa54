//! Filming an environment: a Python wrapper that takes a picture at every step.

use std::path::Path;

use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::trouble::Trouble;

/// The environment inside a camera that films into `path`. What cannot be filmed here is said with what would do.
pub(super) fn film<'py>(py: Python<'py>, env: Bound<'py, PyAny>, path: &Path) -> Result<Bound<'py, PyAny>, Trouble> {
    let source = std::ffi::CString::new(include_str!("film.py")).map_err(PyErr::from)?;
    let module = PyModule::from_code(py, &source, c"film.py", c"bregman_film")?;
    let refusal = module.getattr("CannotFilm")?;
    module.getattr("Camera")?.call1((env, path)).map_err(|error| {
        let refused = error.value(py).is_instance(&refusal).unwrap_or(false);
        if refused { Trouble::Misfit(error.value(py).to_string()) } else { error.into() }
    })
}
