//! The Python inside the program.
//!
//! It starts on first use, so that native environments run without it, as the virtual environment's own `python`
//! would: same standard library, same packages. Ctrl-C stays ours, since Python installs no signal handlers.

// Only Python's C interface can start an interpreter that belongs to a virtual environment.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::env;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::{ffi, types::PyModule};

use super::trouble::describe;
use crate::EnvError;

/// Starts Python, once; a failure is remembered. Not to be called while attached to Python.
pub(crate) fn python() -> Result<(), EnvError> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        launch()?;
        Python::attach(|py| {
            prepare(py).map_err(|e| format!("Python cannot be used as {} ({})", executable(py), describe(py, &e)))
        })
    });
    started.clone().map_err(missing)
}

/// Starts Python and imports Gymnasium, once; a failure is remembered. Not to be called while attached to Python.
pub(super) fn start() -> Result<(), EnvError> {
    static IMPORTED: OnceLock<Result<(), String>> = OnceLock::new();
    python()?;
    let imported = IMPORTED.get_or_init(|| {
        Python::attach(|py| {
            import_gymnasium(py)
                .map_err(|e| format!("Gymnasium cannot be imported into {} ({})", executable(py), describe(py, &e)))
        })
    });
    imported.clone().map_err(missing)
}

fn missing(what: String) -> EnvError {
    EnvError::PythonMissing(format!("{what}; `scripts/setup` mends it"))
}

/// Runs `work` with Python's global lock.
pub(crate) fn attach<R>(work: impl for<'py> FnOnce(Python<'py>) -> R) -> R {
    thread_local!(static KNOWN: Cell<bool> = const { Cell::new(false) });
    // Python forgets a thread that lets go of the lock, unless it asked twice, and making its record anew at every call
    // costs a quarter of a step of HalfCheetah. The record is not given back at the thread's end: such threads are
    // few, and at exit that could wait for a lock that another thread holds.
    // SAFETY: the interpreter runs, and this thread does not hold the lock, so what is saved is what was just ensured.
    if !KNOWN.replace(true) && unsafe { ffi::PyGILState_Check() } == 0 {
        unsafe {
            ffi::PyGILState_Ensure();
            ffi::PyEval_SaveThread();
        }
    }
    Python::attach(work)
}

/// The Python whose packages the program uses, for messages.
pub(crate) fn executable(py: Python<'_>) -> String {
    let path = py.import("sys").and_then(|sys| sys.getattr("executable")?.extract::<String>());
    path.ok().filter(|path| !path.is_empty()).unwrap_or_else(|| "python".into())
}

/// The virtual environment of `BREGMAN_VENV`: as it is now, or else as it was when this was built.
fn venv() -> Option<PathBuf> {
    let now = env::var_os("BREGMAN_VENV").filter(|path| !path.is_empty());
    now.or(option_env!("BREGMAN_VENV").map(Into::into)).map(PathBuf::from)
}

fn launch() -> Result<(), String> {
    let Some(venv) = venv() else {
        Python::initialize();
        return Ok(());
    };
    let version = linked_version();
    let python = venv.join("bin/python");
    if !python.exists() {
        return Err(format!("there is no Python at {}", python.display()));
    }
    if !venv.join("lib").join(format!("python{version}")).is_dir() {
        return Err(format!(
            "the virtual environment {} is not of Python {version}, with which this program was built",
            venv.display()
        ));
    }
    initialize(&python).map_err(|why| format!("Python does not start as {} ({why})", python.display()))
}

/// `3.11`, of the libpython that this program is linked with.
fn linked_version() -> String {
    // SAFETY: documented to work before the interpreter starts; gives a static string.
    let version = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy();
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// Starts the interpreter as if `python` had been called, which is how it finds the `pyvenv.cfg` next to it.
fn initialize(python: &Path) -> Result<(), String> {
    let program = CString::new(python.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    let mut argv = [c"bregman".as_ptr()];
    // SAFETY: `config` is plain integers and pointers, for which zero is a value, and is filled by its own initialiser
    // before use; strings live until they are copied by the setters; `start` calls this once. At the end the global
    // lock is given up, since every later use attaches for itself.
    unsafe {
        if ffi::Py_IsInitialized() != 0 {
            return Ok(());
        }
        let mut config: ffi::PyConfig = std::mem::zeroed();
        let config = &raw mut config;
        ffi::PyConfig_InitPythonConfig(config);
        (*config).install_signal_handlers = 0;
        (*config).parse_argv = 0;
        // The interpreter is never shut down, so nothing that an environment prints may wait in a buffer.
        (*config).buffered_stdio = 0;
        let mut status = ffi::PyConfig_SetBytesString(config, &raw mut (*config).program_name, program.as_ptr());
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::PyConfig_SetBytesArgv(config, 1, argv.as_mut_ptr());
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::Py_InitializeFromConfig(config);
        }
        ffi::PyConfig_Clear(config);
        if ffi::PyStatus_Exception(status) != 0 {
            let why =
                (!status.err_msg.is_null()).then(|| CStr::from_ptr(status.err_msg).to_string_lossy().into_owned());
            return Err(why.unwrap_or_else(|| "it asked to exit".into()));
        }
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

fn prepare(py: Python<'_>) -> PyResult<()> {
    // Even where Python is told to leave signals alone, its module `signal` takes SIGINT on import if nobody has it yet.
    let signal = py.import("signal")?;
    let interrupt = signal.getattr("SIGINT")?;
    if signal.call_method1("getsignal", (&interrupt,))?.is(&signal.getattr("default_int_handler")?) {
        signal.call_method1("signal", (interrupt, signal.getattr("SIG_DFL")?))?;
    }
    // NumPy's own threads would compete with ours for the cores; their number is read when it is first imported.
    let environ = py.import("os")?.getattr("environ")?;
    for name in ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"] {
        environ.call_method1("setdefault", (name, "1"))?;
    }
    // Its kernel for AVX-512 adds the squares of a norm by fused products and rounds otherwise: a distance in a reward would
    // depend on the processor.
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        environ.call_method1("setdefault", ("OPENBLAS_CORETYPE", "Haswell"))?;
    }
    Ok(())
}

fn import_gymnasium(py: Python<'_>) -> PyResult<()> {
    py.import("gymnasium")?;
    // Only now, so that a `random.py` lying about cannot take the place of what Gymnasium itself imports.
    py.import("sys")?.getattr("path")?.call_method1("insert", (0, ""))?;
    Ok(())
}

/// Has MuJoCo say each kind of warning once on standard error. By itself it says the same for every copy of a model and
/// every episode, and appends it to a file `MUJOCO_LOG.TXT` in the current directory.
pub(super) fn quieten_mujoco(py: Python<'_>) -> PyResult<()> {
    let modules = py.import("sys")?.getattr("modules")?;
    let Ok(mujoco) = modules.get_item("mujoco") else { return Ok(()) };
    // Older versions have no handler, and a handler of the user's own stays.
    if !mujoco.hasattr("set_mju_user_warning")? || !mujoco.call_method0("get_mju_user_warning")?.is_none() {
        return Ok(());
    }
    let handler = PyModule::from_code(py, HANDLER, c"bregman_warnings.py", c"bregman_warnings")?.getattr("once")?;
    mujoco.call_method1("set_mju_user_warning", (handler,)).map(drop)
}

const HANDLER: &CStr = c"
import sys

def once(text, said=set()):
    kind = text.split(' Time =')[0]
    if kind not in said:
        said.add(kind)
        print('MuJoCo:', text, file=sys.stderr)
";
