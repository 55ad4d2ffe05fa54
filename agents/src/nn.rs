//! Networks with explicit gradients on one flat parameter vector.
//!
//! An [`Mlp`] is a shape: which part of a parameter vector is which weight. The parameters themselves are a plain slice,
//! so optimisers, Polyak averages and trust-region steps are single passes, and the same network can be evaluated at any
//! point of parameter space. Forward and backward run over a [`Workspace`] that is allocated once. With [`Mlp::on`] a GPU computes them,
//! from and to the same slices.

mod activation;
mod bf16;
mod device;
mod halves;
mod kernel;
mod lanes;
mod layer_norm;
mod linalg;
mod mkl;
mod mlp;
mod real;
#[cfg_attr(not(any(test, feature = "cuda")), path = "nn/no_tensors.rs")]
mod tensors;
mod twins;

pub use activation::Activation;
pub use device::Device;
pub use halves::Halves;
pub use linalg::Precision;
pub use mlp::{Init, Mlp, Tangents, Workspace};
pub use real::Real;
pub use twins::{Twins, TwinsWorkspace};
