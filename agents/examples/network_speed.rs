//! Microseconds of forward, backward and an Adam step on one thread, in alternation: ours and PyTorch's autograd; then of wide layers
//! in f32 and bf16 (the last stays in f32), here and, in a program built with it, on the GPU.
//!
//! ```text
//! cargo run --release -p bregman-agents --example network_speed
//! cargo run --release -p bregman-agents --features cuda --example network_speed    # after scripts/setup --cuda
//! ```

use std::time::Instant;

use bregman_agents::nn::{Activation, Device, Init, Mlp, Precision};
use bregman_agents::optim::Adam;
use bregman_envs::rng::NumpyRng;
use tch::nn::{self, Module, OptimizerConfig};
use tch::{Kind, Tensor};

const ROUNDS: usize = 15;

type Work = Box<dyn FnMut()>;

fn main() -> Result<(), tch::TchError> {
    tch::set_num_threads(1);
    for (widths, rows) in [([17, 64, 64, 6], 64), ([23, 256, 256, 1], 256)] {
        let ours = ours(Mlp::new(&widths, Activation::Tanh), rows);
        race(&format!("{widths:?}, {rows} rows"), vec![("ours", ours), ("tch", autograd(&widths, rows)?)]);
    }
    for (width, rows) in [(256, 256), (512, 256), (1024, 256), (1024, 1024), (2048, 1024)] {
        let mut subjects = Vec::new();
        for (names, device) in [(["cpu f32", "cpu bf16"], Device::Cpu), (["cuda f32", "cuda bf16"], Device::Cuda(0))] {
            for (name, precision) in names.into_iter().zip([Precision::F32, Precision::Bf16]) {
                if device.available().is_ok() && precision.available_on(device).1.is_none() {
                    let mlp = Mlp::new(&[width; 6], Activation::Relu).on(device).with_precision(precision);
                    subjects.push((name, ours(mlp, rows)));
                }
            }
        }
        race(&format!("five layers of {width}, {rows} rows"), subjects);
    }
    Ok(())
}

/// Prints the times of all, taken in turns.
fn race(what: &str, mut subjects: Vec<(&str, Work)>) {
    let mut times = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS {
        for ((_, work), times) in subjects.iter_mut().zip(&mut times) {
            times.push(microseconds(work));
        }
    }
    for ((who, _), mut times) in subjects.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        println!("{what}, {who}: least {:.1} us, median {:.1} us", times[0], times[ROUNDS / 2]);
    }
}

fn ours(mlp: Mlp, rows: usize) -> Work {
    let (input, d_output) = (drawn(rows * mlp.num_inputs()), drawn(rows * mlp.num_outputs()));
    let mut params: Vec<f32> = mlp.init(Init::Uniform, &mut NumpyRng::new(2));
    let (mut workspace, mut grad) = (mlp.workspace(rows), vec![0.0; mlp.num_params()]);
    let mut adam = Adam::new(params.len(), 1e-5);
    Box::new(move || {
        mlp.forward(&params, &input, &mut workspace);
        mlp.backward(&params, &mut workspace, &d_output, &mut grad);
        adam.step(&mut params, &grad, 3e-4);
    })
}

fn autograd(widths: &[usize; 4], rows: usize) -> Result<Work, tch::TchError> {
    let store = nn::VarStore::new(tch::Device::Cpu);
    let layer = |i: usize| {
        let path = store.root() / i;
        nn::linear(path, widths[i] as i64, widths[i + 1] as i64, Default::default())
    };
    let (first, second, third) = (layer(0), layer(1), layer(2));
    let mut optimizer = nn::Adam { eps: 1e-5, ..Default::default() }.build(&store, 3e-4)?;
    let rows_of = |width: usize| Tensor::from_slice(&drawn(rows * width)).view([rows as i64, width as i64]);
    let (x, d) = (rows_of(widths[0]), rows_of(widths[3]));
    Ok(Box::new(move || {
        let y = third.forward(&second.forward(&first.forward(&x).tanh()).tanh());
        optimizer.backward_step(&(y * &d).sum(Kind::Float));
    }))
}

fn drawn(n: usize) -> Vec<f32> {
    let mut rng = NumpyRng::new(1);
    (0..n).map(|_| rng.standard_normal() as f32).collect()
}

/// Time of one call, as the mean of some twenty milliseconds' calls.
fn microseconds(work: &mut impl FnMut()) -> f64 {
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed().as_micros() < 20_000 {
        work();
        calls += 1;
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}
