//! The passes of an [`Mlp`] as PyTorch's tensors, for GPUs.
//!
//! Parameters and inputs come as slices and results go as slices, so that an algorithm need not know where its networks are
//! computed. What a pass leaves for the next one, activations and parameters, stays on the device. A copy of the parameters
//! at every forward pass and of the gradient at every backward pass is what this costs beside the products.
#![allow(unsafe_code)] // tensors that lie on slices, and a library that is opened

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;
use tch::{Device, Kind, Tensor};

use super::{Activation, Mlp, Precision, Real};

/// A device that has tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(Device);

impl Place {
    /// GPU number `index`, or a sentence why not.
    pub(super) fn cuda(index: usize) -> Result<Place, String> {
        open_library()?;
        let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
        match (index < count, count) {
            (true, _) => Ok(Place(Device::Cuda(index))),
            (false, 0) => Err("no GPU was found here, and \"cpu\" needs none".into()),
            (false, 1) => Err(format!("there is no GPU number {index} here; the only one is \"cuda:0\"")),
            (false, _) => Err(format!("there is no GPU number {index} here; the last is \"cuda:{}\"", count - 1)),
        }
    }

    /// The processor, whose tensors do the same operations.
    #[cfg(test)]
    pub(super) fn cpu() -> Place {
        Place(Device::Cpu)
    }
}

/// PyTorch's part for GPUs makes itself known when it is opened. To link it would not do: nothing here names anything in it, and so
/// linkers leave it out.
fn open_library() -> Result<(), String> {
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    let open = || {
        // SAFETY: its initialisers make no demands, and it is never closed.
        let library = unsafe { Library::new("libtorch_cuda.so") };
        std::mem::forget(
            library.map_err(|why| format!("PyTorch for GPUs is missing ({why}); `scripts/setup --cuda` brings it"))?,
        );
        Ok(())
    };
    OPENED.get_or_init(open).clone()
}

/// What passes keep on the device. Tensors may move between threads and not be shared, and workspaces may be shared: hence the lock,
/// for which nobody waits.
#[derive(Debug)]
pub(super) struct TensorPass(Mutex<Pass>);

impl TensorPass {
    /// For networks shaped as `mlp`, of numbers `T`, which all calls are to have.
    pub(super) fn new<T: Real>(mlp: &Mlp, Place(device): Place) -> TensorPass {
        TensorPass(Mutex::new(Pass::new(mlp, kind::<T>(), device)))
    }

    /// Outputs of new rows into `output`, `[new, num_outputs]`; they join the `before` rows that are there.
    pub(super) fn forward<T: Real>(&mut self, params: &[T], input: &[T], before: usize, output: &mut [T]) {
        let input = rows(input, self.pass().mlp.num_inputs());
        to_host(&self.pass().forward(&vector(params), &input, before), output);
    }

    /// The gradient in the parameters into `grad`, given that in the outputs.
    pub(super) fn backward<T: Real>(&mut self, d_output: &[T], grad: &mut [T]) {
        let d_output = rows(d_output, self.pass().mlp.num_outputs());
        to_host(self.pass().backward(&d_output), grad);
    }

    /// The gradient in the input into `d_input`, `[rows, num_inputs]`.
    pub(super) fn backward_input<T: Real>(&mut self, d_output: &[T], d_input: &mut [T]) {
        let d_output = rows(d_output, self.pass().mlp.num_outputs());
        to_host(&self.pass().backward_input(&d_output), d_input);
    }

    /// How the outputs move along `direction`, into `moved`, `[rows, num_outputs]`.
    pub(super) fn jvp<T: Real>(&mut self, direction: &[T], moved: &mut [T]) {
        to_host(&self.pass().jvp(&vector(direction)), moved);
    }

    fn pass(&mut self) -> &mut Pass {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for TensorPass {
    fn clone(&self) -> TensorPass {
        TensorPass(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).copy()))
    }
}

#[derive(Debug)]
struct Pass {
    mlp: Mlp,
    device: Device,
    /// Those of the last forward pass.
    params: Flat,
    grad: Flat,
    /// `values[0]` is the input, `values[i]` the output of layer `i`, activation included: `[rows, width]`.
    values: Vec<Tensor>,
    hidden: Vec<Hidden>,
}

/// What the way back through a hidden layer needs beside its output.
#[derive(Debug)]
struct Hidden {
    /// What goes into the activation, where the derivative cannot be told from its output.
    before: Option<Tensor>,
    /// x̂, `[rows, width]`, and 1/√(variance + ε), `[rows, 1]`, of the normalisation.
    normalized: Option<[Tensor; 2]>,
}

/// A vector shaped as the parameters, and the layers' parts of it.
#[derive(Debug)]
struct Flat {
    all: Tensor,
    layers: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    /// `[inputs, outputs]`.
    weight: Tensor,
    /// The same rounded, where the layer's products are.
    rounded: Option<Tensor>,
    bias: Tensor,
    /// Gain and shift.
    norm: Option<[Tensor; 2]>,
}

impl Flat {
    fn new(mlp: &Mlp, options: (Kind, Device)) -> Flat {
        let all = Tensor::zeros([mlp.num_params() as i64], options);
        let part = |range: &Range<usize>| all.narrow(0, range.start as i64, range.len() as i64);
        let layers = mlp.layers.iter().map(|layer| Part {
            weight: part(&layer.weight).view([layer.inputs as i64, layer.outputs as i64]),
            rounded: None,
            bias: part(&layer.bias),
            norm: layer.norm.as_ref().map(|ranges| ranges.each_ref().map(part)),
        });
        Flat { layers: layers.collect(), all }
    }

    /// Takes new numbers.
    fn set(&mut self, mlp: &Mlp, numbers: &Tensor) {
        self.all.copy_(numbers);
        for (i, part) in self.layers.iter_mut().enumerate() {
            part.rounded = (mlp.precision_of(i) == Precision::Bf16).then(|| part.weight.to_kind(Kind::BFloat16));
        }
    }
}

impl Pass {
    fn new(mlp: &Mlp, kind: Kind, device: Device) -> Pass {
        let flat = || Flat::new(mlp, (kind, device));
        Pass {
            mlp: mlp.clone(),
            device,
            params: flat(),
            grad: flat(),
            values: (0..=mlp.layers.len()).map(|_| Tensor::empty([0], (kind, device))).collect(),
            hidden: mlp.layers[1..].iter().map(|_| Hidden { before: None, normalized: None }).collect(),
        }
    }

    fn copy(&self) -> Pass {
        let mut copy = Pass::new(&self.mlp, self.params.all.kind(), self.device);
        copy.params.set(&self.mlp, &self.params.all);
        // These are never written to: a pass puts others in their place.
        copy.values = self.values.iter().map(Tensor::shallow_clone).collect();
        copy.hidden = self.hidden.iter().map(Hidden::shallow_clone).collect();
        copy
    }

    fn forward(&mut self, params: &Tensor, input: &Tensor, before: usize) -> Tensor {
        let mlp = &self.mlp;
        if before == 0 {
            self.params.set(mlp, params);
        }
        // It is kept, and so copied wherever it goes.
        let mut x = input.to_device_(self.device, input.kind(), false, true);
        for (i, part) in self.params.layers.iter().enumerate() {
            let mut z = match &part.rounded {
                Some(weight) => rounded_product(&x, weight) + &part.bias,
                None => part.bias.addmm(&x, &part.weight),
            };
            join(&mut self.values[i], before, x);
            if let Some(hidden) = self.hidden.get_mut(i) {
                if let Some([gain, shift]) = &part.norm {
                    let centred = &z - row_mean(&z);
                    let inverse_std = (row_mean(&centred.square()) + 1e-5).rsqrt();
                    let x_hat = centred * &inverse_std;
                    z = &x_hat * gain + shift;
                    match &mut hidden.normalized {
                        Some([kept, kept_std]) => {
                            join(kept, before, x_hat);
                            join(kept_std, before, inverse_std);
                        }
                        none => *none = Some([x_hat, inverse_std]),
                    }
                }
                let y = apply(mlp.activation(), &z);
                if mlp.activation().keeps_slope() {
                    match &mut hidden.before {
                        Some(kept) => join(kept, before, z),
                        none => *none = Some(z),
                    }
                }
                z = y;
            }
            x = z;
        }
        if let Some(last) = self.values.last_mut() {
            join(last, before, x.shallow_clone());
        }
        x
    }

    fn backward(&mut self, d_output: &Tensor) -> &Tensor {
        let mut d = d_output.to_device(self.device);
        for i in (0..self.params.layers.len()).rev() {
            if i + 1 < self.params.layers.len() {
                d = self.times_slope(i, &d);
                if let (Some([x_hat, _]), Some([d_gain, d_shift])) =
                    (&self.hidden[i].normalized, &self.grad.layers[i].norm)
                {
                    sum_rows_into(d_gain, &(&d * x_hat));
                    sum_rows_into(d_shift, &d);
                    d = self.to_normalized(i, &d);
                }
            }
            let (x, to) = (self.values[i].tr(), &self.grad.layers[i]);
            match self.mlp.precision_of(i) {
                Precision::F32 => _ = x.mm_out(&to.weight, &d),
                Precision::Bf16 => to.weight.shallow_clone().copy_(&rounded_product(&x, &d.to_kind(Kind::BFloat16))),
            }
            sum_rows_into(&to.bias, &d);
            if i > 0 {
                d = self.to_input(i, &d);
            }
        }
        &self.grad.all
    }

    fn backward_input(&self, d_output: &Tensor) -> Tensor {
        let mut d = d_output.to_device(self.device);
        for i in (0..self.params.layers.len()).rev() {
            if i + 1 < self.params.layers.len() {
                d = self.times_slope(i, &d);
                d = self.to_normalized(i, &d);
            }
            d = self.to_input(i, &d);
        }
        d
    }

    fn jvp(&self, direction: &Tensor) -> Tensor {
        let mut along = Flat::new(&self.mlp, (direction.kind(), self.device));
        along.set(&self.mlp, direction);
        let mut t: Option<Tensor> = None;
        for (i, (part, by)) in self.params.layers.iter().zip(&along.layers).enumerate() {
            let mut next = times_weight(&self.values[i], by) + &by.bias;
            if let Some(t) = t {
                next += times_weight(&t, part);
            }
            if i + 1 < self.params.layers.len() {
                if let (Some([x_hat, inverse_std]), Some([gain, _]), Some([d_gain, d_shift])) =
                    (&self.hidden[i].normalized, &part.norm, &by.norm)
                {
                    next = gain * project(&next, x_hat, inverse_std) + d_gain * x_hat + d_shift;
                }
                next = self.times_slope(i, &next);
            }
            t = Some(next);
        }
        t.unwrap_or_default()
    }

    /// `d`, a gradient or a tangent, times the derivative of the activation behind layer `i`.
    fn times_slope(&self, i: usize, d: &Tensor) -> Tensor {
        let y = &self.values[i + 1];
        match (self.mlp.activation(), &self.hidden[i].before) {
            (Activation::Tanh, _) => Tensor::tanh_backward(d, y),
            (Activation::Relu, _) => y.threshold_backward(d, 0),
            (Activation::Elu, _) => d * (y.clamp_max(0.0) + 1.0),
            (Activation::Silu, Some(z)) => z.silu_backward(d),
            (Activation::Silu, None) => unreachable!("kept by the forward pass"),
        }
    }

    /// From the gradient in the result of layer `i`'s normalisation to that in what it normalises.
    fn to_normalized(&self, i: usize, d: &Tensor) -> Tensor {
        match (&self.hidden[i].normalized, &self.params.layers[i].norm) {
            (Some([x_hat, inverse_std]), Some([gain, _])) => project(&(d * gain), x_hat, inverse_std),
            _ => d.shallow_clone(),
        }
    }

    /// From the gradient in what layer `i` gives, before its activation, to that in its input.
    fn to_input(&self, i: usize, d: &Tensor) -> Tensor {
        match &self.params.layers[i] {
            Part { rounded: Some(weight), .. } => rounded_product(d, &weight.tr()),
            Part { weight, .. } => d.matmul(&weight.tr()),
        }
    }
}

impl Hidden {
    fn shallow_clone(&self) -> Hidden {
        Hidden {
            before: self.before.as_ref().map(Tensor::shallow_clone),
            normalized: self.normalized.as_ref().map(|kept| kept.each_ref().map(Tensor::shallow_clone)),
        }
    }
}

/// The factors rounded to bf16, in the kind of the first.
fn rounded_product(x: &Tensor, rounded: &Tensor) -> Tensor {
    x.to_kind(Kind::BFloat16).matmul(rounded).to_kind(x.kind())
}

fn times_weight(x: &Tensor, part: &Part) -> Tensor {
    match &part.rounded {
        Some(weight) => rounded_product(x, weight),
        None => x.matmul(&part.weight),
    }
}

/// Multiplies by the Jacobian of x̂ in x; see the method of this name for slices.
fn project(d: &Tensor, x_hat: &Tensor, inverse_std: &Tensor) -> Tensor {
    let along = row_mean(&(d * x_hat));
    (d - row_mean(d) - x_hat * along) * inverse_std
}

fn apply(activation: Activation, z: &Tensor) -> Tensor {
    match activation {
        Activation::Tanh => z.tanh(),
        Activation::Relu => z.relu(),
        Activation::Elu => z.elu(),
        Activation::Silu => z.silu(),
    }
}

/// `[rows, 1]`.
fn row_mean(x: &Tensor) -> Tensor {
    x.mean_dim(-1, true, None)
}

fn sum_rows_into(out: &Tensor, x: &Tensor) {
    _ = x.sum_intlist_out(out, 0, false, None);
}

/// Puts new rows behind the first `before` that are kept.
fn join(kept: &mut Tensor, before: usize, new: Tensor) {
    *kept = if before == 0 { new } else { Tensor::cat(&[kept.narrow(0, 0, before as i64), new], 0) };
}

fn kind<T: Real>() -> Kind {
    if size_of::<T>() == size_of::<f32>() { Kind::Float } else { Kind::Double }
}

/// The numbers as a vector on the host, without a copy: for the length of a call, as are [`rows`].
fn vector<T: Real>(numbers: &[T]) -> Tensor {
    // SAFETY: nothing is written to the tensor, and none that lies on the slice is kept by a pass.
    unsafe { on_memory(numbers.as_ptr(), numbers.len()) }
}

fn rows<T: Real>(numbers: &[T], width: usize) -> Tensor {
    vector(numbers).view([-1, width as i64])
}

fn to_host<T: Real>(tensor: &Tensor, numbers: &mut [T]) {
    // SAFETY: the tensor that lies on the slice is gone before the slice is used again.
    unsafe { on_memory(numbers.as_mut_ptr(), numbers.len()) }.copy_(&tensor.reshape([-1]));
}

/// # Safety
/// As long as the tensor lives, `len` numbers at `start` are to be there; if it is written to, nobody else may use them.
unsafe fn on_memory<T: Real>(start: *const T, len: usize) -> Tensor {
    // SAFETY: the caller's.
    unsafe { Tensor::from_blob(start.cast(), &[len as i64], &[1], kind::<T>(), Device::Cpu) }
}
