//! From Gymnasium's spaces to rows of numbers and back.

use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::trouble::Trouble;
use crate::ActionSpace;

/// How an observation becomes a row of `f64`.
pub(super) enum Observations {
    /// An array of this shape, in C order.
    Array(Vec<usize>),
    /// A choice, counted from `start`, as one-hot; `space` for choices that are not plain integers.
    OneHot { start: i64, space: Py<PyAny> },
    /// By `gymnasium.spaces.flatten(space, obs)`.
    Flattened(Py<PyAny>),
}

/// How an action row becomes what the environment takes.
pub(super) enum Actions {
    /// Real numbers.
    Array { shape: Vec<usize>, float: Float },
    /// A choice, counted from `start`, in the space's integer type.
    Choice { start: i64, integer: Py<PyAny> },
    /// Choices, counted from their `starts`, with the space's dtype.
    Choices { shape: Vec<usize>, starts: Vec<i64>, dtype: Py<PyAny> },
}

/// The float type of an action space.
pub(super) enum Float {
    Single,
    Double,
    /// Another dtype.
    Other(Py<PyAny>),
}

fn is(space: &Bound<'_, PyAny>, class: &str) -> PyResult<bool> {
    space.is_instance(&space.py().import(intern!(space.py(), "gymnasium.spaces"))?.getattr(class)?)
}

/// The space in Python's words, cut where they are many.
fn words(space: &Bound<'_, PyAny>) -> String {
    let text = space.str().map_or_else(|_| "an unprintable space".into(), |text| text.to_string());
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn shape(space: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    space.getattr("shape")?.extract()
}

fn dtype(space: &Bound<'_, PyAny>) -> PyResult<(Py<PyAny>, String)> {
    let dtype = space.getattr("dtype")?;
    let name = dtype.getattr("name")?.extract()?;
    Ok((dtype.unbind(), name))
}

/// An array attribute of a space, flattened and converted.
fn flat<T: numpy::Element + Clone>(space: &Bound<'_, PyAny>, name: &str, dtype: &str) -> PyResult<Vec<T>> {
    let numpy = space.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (space.getattr(name)?, dtype))?.call_method0("ravel")?;
    Ok(array.cast::<PyArray1<T>>()?.to_vec()?)
}

impl Observations {
    /// How observations of `space` are read, and the length of their rows.
    pub fn of(space: &Bound<'_, PyAny>) -> Result<(Observations, usize), Trouble> {
        usable(space)?;
        let len = space.py().import("gymnasium.spaces")?.call_method1("flatdim", (space,))?.extract()?;
        if len == 0 {
            return Err(Trouble::Unsupported {
                space: format!("the empty observation space {}", words(space)),
                remedy: "an observation needs at least one number",
            });
        }
        let how = if is(space, "Box")? {
            Observations::Array(shape(space)?)
        } else if is(space, "Discrete")? {
            Observations::OneHot { start: space.getattr("start")?.extract()?, space: space.clone().unbind() }
        } else {
            Observations::Flattened(space.clone().unbind())
        };
        Ok((how, len))
    }

    /// Writes an observation as a row.
    pub fn read(&self, obs: &Bound<'_, PyAny>, row: &mut [f64]) -> Result<(), Trouble> {
        match self {
            Observations::Array(shape) => read_array(obs, shape, row),
            Observations::OneHot { start, space } => match obs.extract::<i64>() {
                Ok(choice) => {
                    let index = choice.checked_sub(*start).and_then(|index| usize::try_from(index).ok());
                    row.fill(0.0);
                    let Some(hot) = index.and_then(|index| row.get_mut(index)) else {
                        let space = words(space.bind(obs.py()));
                        return Err(Trouble::Misfit(format!("an observation is {choice}, which is not in {space}")));
                    };
                    *hot = 1.0;
                    Ok(())
                }
                Err(_) => read_flattened(obs, space, row),
            },
            Observations::Flattened(space) => read_flattened(obs, space, row),
        }
    }
}

/// Refuses spaces, also inside others, whose numbers mean nothing to a dense network.
fn usable(space: &Bound<'_, PyAny>) -> Result<(), Trouble> {
    if is(space, "Dict")? {
        return space.getattr("spaces")?.call_method0("values")?.try_iter()?.try_for_each(|part| usable(&part?));
    }
    if is(space, "Tuple")? {
        return space.getattr("spaces")?.try_iter()?.try_for_each(|part| usable(&part?));
    }
    if is(space, "Box")? {
        let name = dtype(space)?.1;
        if name == "uint8" && shape(space)?.len() >= 3 {
            return Err(Trouble::Unsupported {
                space: format!("images as observations, {}", words(space)),
                remedy: "networks here are dense, so take a variant that shows its state (for Atari `obs_type = \"ram\"` \
                         in `kwargs`), or register it inside `gymnasium.wrappers.ResizeObservation` and \
                         `FlattenObservation`",
            });
        }
        if name.starts_with("complex") {
            return Err(Trouble::Unsupported {
                space: format!("complex numbers as observations, {}", words(space)),
                remedy: "give their real and imaginary parts with `gymnasium.wrappers.TransformObservation`",
            });
        }
        return Ok(());
    }
    for class in ["Discrete", "MultiDiscrete", "MultiBinary"] {
        if is(space, class)? {
            return Ok(());
        }
    }
    Err(Trouble::Unsupported {
        space: format!("the observation space {}", words(space)),
        remedy: "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple are; \
                 `gymnasium.wrappers.TransformObservation` makes one of them",
    })
}

/// `(2, 3)`, as Python writes it.
fn tuple(shape: &[usize]) -> String {
    let numbers: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("({}{})", numbers.join(", "), if shape.len() == 1 { "," } else { "" })
}

fn read_array(obs: &Bound<'_, PyAny>, shape: &[usize], row: &mut [f64]) -> Result<(), Trouble> {
    let fits = |found: &[usize]| match found == shape {
        true => Ok(()),
        false => Err(Trouble::Misfit(format!(
            "an observation has shape {}, but its space says {}",
            tuple(found),
            tuple(shape)
        ))),
    };
    // The two types that nearly all environments give are read in place.
    if let Ok(array) = obs.cast::<PyArrayDyn<f64>>()
        && array.is_c_contiguous()
        && let Ok(values) = array.readonly().as_slice()
    {
        fits(array.shape())?;
        row.copy_from_slice(values);
        return Ok(());
    }
    if let Ok(array) = obs.cast::<PyArrayDyn<f32>>()
        && array.is_c_contiguous()
        && let Ok(values) = array.readonly().as_slice()
    {
        fits(array.shape())?;
        row.iter_mut().zip(values).for_each(|(x, &value)| *x = value.into());
        return Ok(());
    }
    // Anything else, lists and slices with gaps included, NumPy copies into such an array.
    let numpy = obs.py().import(intern!(obs.py(), "numpy"))?;
    let array = numpy.call_method1(intern!(obs.py(), "asarray"), (obs,))?;
    let kind: String = array.getattr(intern!(obs.py(), "dtype"))?.getattr(intern!(obs.py(), "kind"))?.extract()?;
    if !["b", "i", "u", "f"].contains(&kind.as_str()) {
        let class = obs.get_type().fully_qualified_name()?;
        return Err(Trouble::Misfit(format!("an observation is of type `{class}`, which is not an array of numbers")));
    }
    let array = array.call_method1(intern!(obs.py(), "astype"), ("float64", "C"))?;
    let array = array.cast::<PyArrayDyn<f64>>().map_err(PyErr::from)?;
    fits(array.shape())?;
    row.copy_from_slice(array.readonly().as_slice().map_err(PyErr::from)?);
    Ok(())
}

fn read_flattened(obs: &Bound<'_, PyAny>, space: &Py<PyAny>, row: &mut [f64]) -> Result<(), Trouble> {
    let spaces = obs.py().import(intern!(obs.py(), "gymnasium.spaces"))?;
    let flat = spaces.call_method1(intern!(obs.py(), "flatten"), (space, obs))?;
    read_array(&flat, &[row.len()], row)
}

impl Actions {
    /// How actions of `space` are written, and what an agent sees of it.
    pub fn of(space: &Bound<'_, PyAny>) -> Result<(Actions, ActionSpace), Trouble> {
        let (actions, seen) = Actions::of_any_size(space)?;
        if seen.row_len() == 0 {
            return Err(Trouble::Unsupported {
                space: format!("the action space {}", words(space)),
                remedy: "one with at least one number is",
            });
        }
        Ok((actions, seen))
    }

    fn of_any_size(space: &Bound<'_, PyAny>) -> Result<(Actions, ActionSpace), Trouble> {
        let unsupported =
            |what: &str, remedy| Err(Trouble::Unsupported { space: format!("the {what} {}", words(space)), remedy });
        if is(space, "Box")? {
            let (dtype, name) = dtype(space)?;
            if !name.starts_with("float") {
                return unsupported(
                    "integer actions",
                    "declare them as MultiDiscrete, or give floats with `gymnasium.wrappers.TransformAction`",
                );
            }
            let float = match name.as_str() {
                "float32" => Float::Single,
                "float64" => Float::Double,
                _ => Float::Other(dtype),
            };
            let (low, high) = inside(&flat(space, "low", "float64")?, &flat(space, "high", "float64")?);
            Ok((Actions::Array { shape: shape(space)?, float }, ActionSpace::Box { low, high }))
        } else if is(space, "Discrete")? {
            let start = space.getattr("start")?.extract()?;
            let integer = space.getattr("dtype")?.getattr("type")?.unbind();
            Ok((Actions::Choice { start, integer }, ActionSpace::Discrete { n: space.getattr("n")?.extract()? }))
        } else if is(space, "MultiDiscrete")? {
            let nvec = flat::<i64>(space, "nvec", "int64")?.into_iter().map(|n| n as usize).collect();
            let starts = flat(space, "start", "int64")?;
            Ok((
                Actions::Choices { shape: shape(space)?, starts, dtype: dtype(space)?.0 },
                ActionSpace::MultiDiscrete { nvec },
            ))
        } else if is(space, "MultiBinary")? {
            let shape = shape(space)?;
            let nvec = vec![2; shape.iter().product()];
            let starts = vec![0; nvec.len()];
            Ok((Actions::Choices { shape, starts, dtype: dtype(space)?.0 }, ActionSpace::MultiDiscrete { nvec }))
        } else {
            unsupported(
                "action space",
                "Box of floats, Discrete, MultiDiscrete and MultiBinary are; `gymnasium.wrappers.TransformAction` makes \
                 one of them",
            )
        }
    }

    /// The action as the environment takes it: a new object each time, since environments keep what they are given.
    pub fn write<'py>(&self, py: Python<'py>, row: &[f32]) -> PyResult<Bound<'py, PyAny>> {
        let shaped = |array: Bound<'py, PyAny>, shape: &[usize]| match shape.len() {
            1 => Ok(array),
            _ => array.call_method1(intern!(py, "reshape"), (PyTuple::new(py, shape)?,)),
        };
        match self {
            Actions::Array { shape, float } => {
                let array = match float {
                    Float::Single => PyArray1::from_slice(py, row).into_any(),
                    Float::Double => PyArray1::from_iter(py, row.iter().map(|&x| f64::from(x))).into_any(),
                    Float::Other(dtype) => {
                        PyArray1::from_slice(py, row).call_method1(intern!(py, "astype"), (dtype,))?
                    }
                };
                shaped(array, shape)
            }
            Actions::Choice { start, integer } => integer.bind(py).call1((start + row[0] as i64,)),
            Actions::Choices { shape, starts, dtype } => {
                let choices = row.iter().zip(starts).map(|(&x, start)| start + x as i64);
                let array = PyArray1::from_iter(py, choices).call_method1(intern!(py, "astype"), (dtype,))?;
                shaped(array, shape)
            }
        }
    }
}

/// Bounds in single precision that do not reach outside the given ones, so that an action on a bound is in the space.
fn inside(low: &[f64], high: &[f64]) -> (Vec<f32>, Vec<f32>) {
    let pairs = low.iter().zip(high).map(|(&low, &high)| {
        let (nearest_low, nearest_high) = (low as f32, high as f32);
        let up = if f64::from(nearest_low) < low { nearest_low.next_up() } else { nearest_low };
        let down = if f64::from(nearest_high) > high { nearest_high.next_down() } else { nearest_high };
        // Bounds with no `f32` between them stay where they are.
        if up <= down { (up, down) } else { (nearest_low, nearest_high) }
    });
    pairs.unzip()
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn bounds_round_inwards() {
        // 0.1 lies between the singles 0.09999999403953552 and 0.10000000149011612.
        let (low, high) = inside(&[0.1, f64::NEG_INFINITY, 0.1], &[0.1 + 1e-6, 0.1, 0.1]);
        assert_eq!(low, [0.1, f32::NEG_INFINITY, 0.1]);
        assert_eq!(high[1], 0.099_999_994);
        assert_eq!(high[2], 0.1);
        let (low, _) = inside(&[0.7], &[1.0]); // the nearest single, 0.699999988, is below
        assert!(f64::from(low[0]) >= 0.7);
    }
}
