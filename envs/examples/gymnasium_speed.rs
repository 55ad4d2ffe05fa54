//! Steps per second of one Gymnasium environment on one thread, with random actions:
//! `cargo run --release -p bregman-envs --example gymnasium_speed -- HalfCheetah-v5 100000`

use std::time::Instant;

use bregman_envs::rng::Seed;
use bregman_envs::{Backend, EnvConfig, EnvError, Lane, Registry};

fn main() -> Result<(), EnvError> {
    let mut arguments = std::env::args().skip(1);
    let id = arguments.next().unwrap_or_else(|| "HalfCheetah-v5".into());
    let steps: u32 = arguments.next().and_then(|steps| steps.parse().ok()).unwrap_or(100_000);

    let env = Registry::default().make(&EnvConfig { backend: Backend::Gymnasium, ..EnvConfig::new(&id) })?;
    let mut lane = Lane::new(0, env, 1)?;
    let action_space = lane.env().spec().action_space.clone();
    let mut rng = Seed(1).stream("actions", 0);
    let (mut action, mut next_obs) = (vec![0.0; action_space.row_len()], lane.obs().to_vec());
    // The first tenth warms up.
    let mut start = Instant::now();
    for step in 0..steps + steps / 10 {
        if step == steps / 10 {
            start = Instant::now();
        }
        action_space.sample(&mut rng, &mut action);
        lane.step(&action, &mut next_obs)?;
    }
    println!("{id}: {:.0} steps/s", f64::from(steps) / start.elapsed().as_secs_f64());
    Ok(())
}
