//! Where the passes of networks are computed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::tensors::Place;

/// Where training computes its networks' passes. Parameters, optimisers and acting stay with the processor either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The processor, with this crate's own products: `cpu`.
    #[default]
    Cpu,
    /// A GPU by its number: `cuda:0`, or `cuda`.
    Cuda(usize),
}

impl Device {
    /// Whether it is there.
    ///
    /// # Errors
    /// A sentence that says what is missing, and what would do.
    pub fn available(self) -> Result<(), String> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(index) => Place::cuda(index).map(|_| ()),
        }
    }

    /// Where tensors are; `None` for what needs none.
    ///
    /// # Panics
    /// If it is not [`available`](Device::available).
    pub(super) fn place(self) -> Option<Place> {
        match self {
            Device::Cpu => None,
            Device::Cuda(index) => Some(Place::cuda(index).unwrap_or_else(|why| panic!("{why}"))),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Device, String> {
        match name.split_once(':') {
            None if name == "cpu" => Ok(Device::Cpu),
            None if name == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", index)) if index.parse::<usize>().is_ok() => Ok(Device::Cuda(index.parse().unwrap_or(0))),
            _ => Err(format!("`{name}` is neither \"cpu\" nor a GPU, \"cuda:0\"")),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(name: String) -> Result<Device, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, device) in [("cpu", Device::Cpu), ("cuda:0", Device::Cuda(0)), ("cuda:11", Device::Cuda(11))] {
            assert_eq!((name.parse(), device.to_string()), (Ok(device), name.to_string()));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cpu:0", ""] {
            assert!(wrong.parse::<Device>().is_err_and(|why| why.contains(wrong)), "{wrong}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_named() {
        assert_eq!(Device::Cpu.available(), Ok(()));
        let why = Device::Cuda(999).available().expect_err("so many there are nowhere");
        assert!(why.contains("GPU"), "{why}");
    }
}
