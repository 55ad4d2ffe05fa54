//! What stands for tensors in a program built without the feature `cuda`: places and passes of which there are none.

use std::convert::Infallible;

use super::{Mlp, Real};

#[derive(Clone, Copy, Debug)]
pub(super) struct Place(Infallible);

impl Place {
    pub(super) fn cuda(_: usize) -> Result<Place, String> {
        Err("this program was built without GPUs; `scripts/setup --cuda` builds one with them".into())
    }
}

#[derive(Clone, Debug)]
pub(super) struct TensorPass(Infallible);

impl TensorPass {
    #[allow(clippy::extra_unused_type_parameters)] // what stands for it has use for the type
    pub(super) fn new<T: Real>(_: &Mlp, place: Place) -> TensorPass {
        match place.0 {}
    }

    pub(super) fn forward<T: Real>(&mut self, _: &[T], _: &[T], _: usize, _: &mut [T]) {
        match self.0 {}
    }

    pub(super) fn backward<T: Real>(&mut self, _: &[T], _: &mut [T]) {
        match self.0 {}
    }

    pub(super) fn backward_input<T: Real>(&mut self, _: &[T], _: &mut [T]) {
        match self.0 {}
    }

    pub(super) fn jvp<T: Real>(&mut self, _: &[T], _: &mut [T]) {
        match self.0 {}
    }
}
