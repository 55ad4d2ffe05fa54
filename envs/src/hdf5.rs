//! HDF5 files, through Python's h5py: every layout that HDF5 has, and no library of our own to build.
//!
//! Numbers pass as `f64`, in which every number of a dataset is exact; a file is read and written in stretches of rows, so
//! its size does not matter.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyTuple};

use crate::gymnasium::{interpreter, trouble};

/// Why a file cannot be read or written: one sentence that begins with its path.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Hdf5Error(pub String);

/// An array of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrayInfo {
    /// Its name with the groups that it lies in, `infos/qpos`.
    pub name: String,
    /// Its shape; empty for a single value.
    pub shape: Vec<usize>,
    /// `bool`, `int`, `float`, or HDF5's own word for what is no number.
    pub kind: String,
    /// Bytes of a number.
    pub bytes: usize,
}

impl ArrayInfo {
    /// Whether it holds numbers or truths.
    pub fn is_numeric(&self) -> bool {
        ["bool", "int", "float"].contains(&self.kind.as_str())
    }
}

/// The type of the numbers of an array that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Whole numbers.
    I64,
    /// Truths, as the enumeration that h5py reads as `bool`.
    Bool,
}

impl Dtype {
    fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
            Dtype::I64 => "int64",
            Dtype::Bool => "bool",
        }
    }
}

/// An attribute of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

/// The bytes that every HDF5 file begins with.
const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// An open file, closed when it is dropped.
pub struct Hdf5 {
    path: PathBuf,
    file: Py<PyAny>,
    module: Py<PyModule>,
}

impl Drop for Hdf5 {
    fn drop(&mut self) {
        Python::try_attach(|py| {
            let file = self.file.bind(py);
            if let Err(error) = file.call_method0("close") {
                error.write_unraisable(py, Some(file));
            }
        });
    }
}

impl Hdf5 {
    /// Opens a file to read.
    ///
    /// # Errors
    /// A file that is missing, empty, truncated or of another kind, or no h5py.
    pub fn open(path: &Path) -> Result<Hdf5, Hdf5Error> {
        let bad = |what: &dyn std::fmt::Display| Hdf5Error(format!("{}: {what}", path.display()));
        let mut start = Vec::new();
        let read = File::open(path).and_then(|file| file.take(8).read_to_end(&mut start));
        read.map_err(|e| bad(&e))?;
        if start.is_empty() {
            return Err(bad(&"the file is empty"));
        }
        if start != SIGNATURE {
            return Err(bad(&"this is no HDF5 file"));
        }
        Hdf5::launch(path, "r")
    }

    /// Begins a file, in place of one that is there.
    ///
    /// # Errors
    /// A place that cannot be written, or no h5py.
    pub fn create(path: &Path) -> Result<Hdf5, Hdf5Error> {
        Hdf5::launch(path, "w")
    }

    fn launch(path: &Path, mode: &str) -> Result<Hdf5, Hdf5Error> {
        let bad = |what: String| Hdf5Error(format!("{}: {what}", path.display()));
        interpreter::python().map_err(|e| bad(e.to_string()))?;
        interpreter::attach(|py| {
            let source = CString::new(include_str!("hdf5.py")).map_err(|e| bad(e.to_string()))?;
            let module = PyModule::from_code(py, &source, c"hdf5.py", c"bregman_hdf5").map_err(|e| {
                let python = interpreter::executable(py);
                bad(format!("h5py cannot be imported into {python} ({}); `scripts/setup` mends it", said(py, &e)))
            })?;
            let file = module.getattr("open_file").and_then(|open| open.call1((path, mode))).map_err(|e| {
                let said = said(py, &e);
                bad(if said.contains("truncated") { "the file is truncated".into() } else { said })
            })?;
            Ok(Hdf5 { path: path.into(), file: file.unbind(), module: module.unbind() })
        })
    }

    /// Calls a function of `hdf5.py` with the file and `arguments`; what Python raises becomes a sentence.
    fn call<R>(
        &self,
        function: &str,
        arguments: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyTuple>>,
        result: impl for<'py> FnOnce(Bound<'py, PyAny>) -> PyResult<R>,
    ) -> Result<R, Hdf5Error> {
        interpreter::attach(|py| {
            let answer = || {
                let file = PyTuple::new(py, [self.file.bind(py)])?;
                let all = file.add(arguments(py)?)?;
                result(self.module.bind(py).getattr(function)?.call1(all.cast::<PyTuple>()?)?)
            };
            answer().map_err(|error: PyErr| {
                let missing = error.is_instance_of::<PyKeyError>(py);
                let name = error.value(py).getattr("args").and_then(|args| args.get_item(0)?.extract::<String>());
                match (missing, name) {
                    (true, Ok(name)) if !name.contains(' ') => self.error(format!("there is no `{name}`")),
                    _ => self.error(said(py, &error)),
                }
            })
        })
    }

    /// A sentence about this file.
    pub fn error(&self, what: impl std::fmt::Display) -> Hdf5Error {
        Hdf5Error(format!("{}: {what}", self.path.display()))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every array in `group`, `/` the whole file, and in the groups in it, named from there.
    pub fn arrays(&self, group: &str) -> Result<Vec<ArrayInfo>, Hdf5Error> {
        let found: Vec<(String, Vec<usize>, String, usize)> =
            self.call("arrays", |py| PyTuple::new(py, [group]), |found| found.extract())?;
        let info = |(name, shape, kind, bytes)| ArrayInfo { name, shape, kind, bytes };
        Ok(found.into_iter().map(info).collect())
    }

    /// Names at the top of the file.
    pub fn keys(&self) -> Result<Vec<String>, Hdf5Error> {
        self.call("keys", |py| Ok(PyTuple::empty(py)), |found| found.extract())
    }

    /// The rows `rows` of an array, one behind the other.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f64>, Hdf5Error> {
        self.call("rows", |py| (name, rows.start, rows.end).into_pyobject(py), |array| to_vec(&array))
    }

    /// Several whole arrays behind one another, and the shape of each.
    pub fn gather(&self, names: &[String]) -> Result<(Vec<f64>, Vec<Vec<usize>>), Hdf5Error> {
        let read = |found: Bound<'_, PyAny>| Ok((to_vec(&found.get_item(0)?)?, found.get_item(1)?.extract()?));
        self.call("gather", |py| (names,).into_pyobject(py), read)
    }

    /// Numbers and texts among the attributes of a group.
    pub fn attributes(&self, group: &str) -> Result<Vec<(String, Attribute)>, Hdf5Error> {
        let found: Vec<(String, Option<String>, Option<f64>)> =
            self.call("attributes", |py| PyTuple::new(py, [group]), |found| found.extract())?;
        let attribute = |(name, text, number): (String, Option<String>, Option<f64>)| {
            Some((name, text.map(Attribute::Text).or(number.map(Attribute::Number))?))
        };
        Ok(found.into_iter().filter_map(attribute).collect())
    }

    /// A single text, if the array holds one.
    pub fn read_text(&self, name: &str) -> Result<Option<String>, Hdf5Error> {
        self.call("text", |py| PyTuple::new(py, [name]), |text| text.extract())
    }

    /// Begins an array that grows by rows of `width` numbers, 0 for a single number without an axis of its own, stored in
    /// chunks of `chunk` rows.
    pub fn begin(
        &self,
        name: &str,
        dtype: Dtype,
        width: usize,
        chunk: usize,
        compressed: bool,
    ) -> Result<(), Hdf5Error> {
        self.call("create", |py| (name, dtype.name(), width, chunk, compressed).into_pyobject(py), |_| Ok(()))
    }

    /// Appends whole rows to an array.
    pub fn append(&self, name: &str, rows: &[f64]) -> Result<(), Hdf5Error> {
        self.call("append", |py| (name, PyArray1::from_slice(py, rows)).into_pyobject(py), |_| Ok(()))
    }

    /// Sets a number among the attributes of a group, which is made if need be.
    pub fn set_number(&self, group: &str, name: &str, value: f64, dtype: Dtype) -> Result<(), Hdf5Error> {
        self.call("set_number", |py| (group, name, value, dtype.name()).into_pyobject(py), |_| Ok(()))
    }

    /// Sets a text among the attributes of a group, which is made if need be.
    pub fn set_text(&self, group: &str, name: &str, value: &str) -> Result<(), Hdf5Error> {
        self.call("set_text", |py| (group, name, value).into_pyobject(py), |_| Ok(()))
    }

    /// Writes a single text as a byte string.
    pub fn write_text(&self, name: &str, value: &str) -> Result<(), Hdf5Error> {
        self.call("scalar_text", |py| (name, value).into_pyobject(py), |_| Ok(()))
    }

    /// Makes a group, empty if it is new.
    pub fn require_group(&self, name: &str) -> Result<(), Hdf5Error> {
        self.call("require_group", |py| PyTuple::new(py, [name]), |_| Ok(()))
    }
}

fn to_vec(array: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    let array: PyReadonlyArray1<f64> = array.extract()?;
    Ok(array.as_slice()?.to_vec())
}

/// What Python raised, on one line.
fn said(py: Python<'_>, error: &PyErr) -> String {
    trouble::describe(py, error).replace('\n', " ")
}
