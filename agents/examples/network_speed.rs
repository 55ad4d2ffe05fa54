//! Microseconds of forward, backward and an Adam step on one thread, ours and PyTorch's autograd in alternation.
//!
//! ```text
//! cargo run --release -p bregman-agents --example network_speed
//! ```

use std::time::Instant;

use bregman_agents::nn::{Activation, Init, Mlp};
use bregman_agents::optim::Adam;
use bregman_envs::rng::NumpyRng;
use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};

const ROUNDS: usize = 15;

fn main() -> Result<(), tch::TchError> {
    tch::set_num_threads(1);
    for (widths, rows) in [([17, 64, 64, 6], 64), ([23, 256, 256, 1], 256)] {
        let mut rng = NumpyRng::new(1);
        let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal() as f32).collect::<Vec<f32>>();
        let (input, d_output) = (draw(rows * widths[0]), draw(rows * widths[3]));

        let mlp = Mlp::new(&widths, Activation::Tanh);
        let mut params: Vec<f32> = mlp.init(Init::Uniform, &mut NumpyRng::new(2));
        let (mut workspace, mut grad) = (mlp.workspace(rows), vec![0.0; mlp.num_params()]);
        let mut adam = Adam::new(params.len(), 1e-5);
        let mut ours = || {
            mlp.forward(&params, &input, &mut workspace);
            mlp.backward(&params, &mut workspace, &d_output, &mut grad);
            adam.step(&mut params, &grad, 3e-4);
        };

        let store = nn::VarStore::new(Device::Cpu);
        let layer = |i: usize| {
            let path = store.root() / i;
            nn::linear(path, widths[i] as i64, widths[i + 1] as i64, Default::default())
        };
        let (first, second, third) = (layer(0), layer(1), layer(2));
        let mut optimizer = nn::Adam { eps: 1e-5, ..Default::default() }.build(&store, 3e-4)?;
        let x = Tensor::from_slice(&input).view([rows as i64, widths[0] as i64]);
        let d = Tensor::from_slice(&d_output).view([rows as i64, widths[3] as i64]);
        let mut theirs = || {
            let y = third.forward(&second.forward(&first.forward(&x).tanh()).tanh());
            optimizer.backward_step(&(y * &d).sum(Kind::Float));
        };

        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            our_times.push(microseconds(&mut ours));
            their_times.push(microseconds(&mut theirs));
        }
        for (who, mut times) in [("ours", our_times), ("tch", their_times)] {
            times.sort_by(f64::total_cmp);
            println!("{widths:?}, {rows} rows, {who}: least {:.1} us, median {:.1} us", times[0], times[ROUNDS / 2]);
        }
    }
    Ok(())
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
