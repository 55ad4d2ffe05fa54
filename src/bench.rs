//! `bregman bench`: speed, as medians of several rounds.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::agents::learner::{Budget, Learner};
use crate::env_command::Choice;
use crate::envs::rng::NumpyRng;
use crate::envs::{Env, EnvError};
use crate::error::bad_input;
use crate::run_file::RunFile;
use crate::terminal::out;
use crate::{Bregman, train};

/// Random actions that every environment goes through in turn, drawn beforehand.
const ACTIONS: usize = 1024;

/// Subcommands of `bregman bench`.
#[derive(Subcommand)]
pub enum BenchCommand {
    /// Step copies of an environment with random actions
    Env(EnvArgs),
    /// Train as a run file says, evaluation and logs left out
    Train(TrainArgs),
    /// Repeat a run file's update on the same experience, from the same parameters
    Update(TrainArgs),
}

/// Arguments of `bregman bench env`.
#[derive(Args)]
pub struct EnvArgs {
    #[command(flatten)]
    choice: Choice,
    /// Copies
    #[arg(long, default_value_t = 64)]
    num_envs: usize,
    /// Worker threads, each with its own share of the copies
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rounds; the median is reported
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only integrate the physics, over the same states: the limit for any stepping
    #[arg(long)]
    bare: bool,
    /// End with one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `bregman bench train` and `bregman bench update`.
#[derive(Args)]
pub struct TrainArgs {
    /// The run file
    run_file: PathBuf,
    /// Change a key of the run file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    patches: Vec<String>,
    /// Seconds to measure, after one iteration to warm up
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// End with one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs a subcommand.
pub fn run(command: BenchCommand, bregman: &Bregman) -> Result<()> {
    match command {
        BenchCommand::Env(arguments) => env(&arguments, bregman),
        BenchCommand::Train(arguments) => training(&arguments, bregman),
        BenchCommand::Update(arguments) => updates(&arguments, bregman),
    }
}

/// One environment on its way through the actions.
struct Walker {
    env: Box<dyn Env>,
    actions: Vec<Vec<f32>>,
    next: usize,
    obs: Vec<f64>,
    /// Where the physics of the last recorded round started, and where it was put anew: (step, saved state).
    starts: Vec<(usize, Vec<u8>)>,
}

impl Walker {
    fn new(mut env: Box<dyn Env>, index: usize) -> Result<Walker, EnvError> {
        let mut rng = NumpyRng::new(index as u64);
        let (space, mut obs) = (env.spec().action_space.clone(), vec![0.0; env.spec().obs_dim]);
        let draw = |_| {
            let mut action = vec![0.0; space.row_len()];
            space.sample(&mut rng, &mut action);
            action
        };
        let actions = (0..ACTIONS).map(draw).collect();
        env.reset(Some(index as u64), &mut obs)?;
        Ok(Walker { env, actions, next: 0, obs, starts: Vec::new() })
    }

    fn action(&mut self) -> usize {
        self.next = (self.next + 1) % ACTIONS;
        self.next
    }

    /// `steps` whole steps, with restarts.
    fn walk(&mut self, steps: usize) -> Result<(), EnvError> {
        for _ in 0..steps {
            let action = self.action();
            if self.env.step(&self.actions[action], &mut self.obs)?.ends_episode() {
                self.env.reset(None, &mut self.obs)?;
            }
        }
        Ok(())
    }

    /// The same, noting the states that [`integrate`](Walker::integrate) starts from.
    fn record(&mut self, steps: usize) -> Result<(), EnvError> {
        self.next = 0;
        self.starts = vec![(0, self.env.save().unwrap_or_default())];
        for step in 0..steps {
            let action = self.action();
            if self.env.step(&self.actions[action], &mut self.obs)?.ends_episode() {
                self.env.reset(None, &mut self.obs)?;
                self.starts.push((step + 1, self.env.save().unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// The physics of the recorded steps and nothing else.
    fn integrate(&mut self, steps: usize) -> Result<(), EnvError> {
        self.next = 0;
        let mut starts = self.starts.iter().peekable();
        for step in 0..steps {
            if let Some((_, state)) = starts.next_if(|(at, _)| *at == step) {
                self.env.load(state)?;
            }
            self.next = (self.next + 1) % ACTIONS;
            self.env.step_physics(&self.actions[self.next]);
        }
        Ok(())
    }
}

/// Has every thread take its share of the walkers through `work`; seconds.
fn round(
    walkers: &mut [Walker],
    threads: usize,
    work: impl Fn(&mut Walker) -> Result<(), EnvError> + Sync,
) -> Result<f64, EnvError> {
    let share = walkers.len().div_ceil(threads);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let shares = walkers.chunks_mut(share).map(|walkers| scope.spawn(|| walkers.iter_mut().try_for_each(&work)));
        let handles: Vec<_> = shares.collect();
        handles.into_iter().try_for_each(|handle| handle.join().expect("stepping does not panic"))
    })?;
    Ok(began.elapsed().as_secs_f64())
}

fn env(arguments: &EnvArgs, bregman: &Bregman) -> Result<()> {
    let (num_envs, threads) = (arguments.num_envs, arguments.threads);
    if num_envs == 0 || threads == 0 || arguments.rounds == 0 {
        bad_input!("--num-envs, --threads and --rounds are at least 1");
    }
    check_seconds(arguments.seconds)?;
    let (memory, began) = (resident_bytes(), Instant::now());
    let walkers: Result<Vec<Walker>> =
        (0..num_envs).map(|i| Ok(Walker::new(arguments.choice.make(bregman)?, i)?)).collect();
    let mut walkers = walkers?;
    let start_seconds = began.elapsed().as_secs_f64();
    let bytes_per_env = resident_bytes().saturating_sub(memory) / num_envs as u64;
    let (id, backend) = (walkers[0].env.spec().id.clone(), walkers[0].env.spec().backend);
    let still = vec![0.0; walkers[0].env.spec().action_space.row_len()];
    if arguments.bare && !walkers[0].env.step_physics(&still) {
        bad_input!("`--bare` measures MuJoCo's physics, and {id} stepped by {backend} has none apart");
    }

    // As many steps as fill a round, found on a short one.
    let trial = 20;
    let seconds = round(&mut walkers, threads, |walker| walker.walk(trial))?;
    let steps = ((trial as f64 * arguments.seconds / seconds) as usize).max(1);
    let mut rates = Vec::new();
    for _ in 0..arguments.rounds {
        let seconds = if arguments.bare {
            round(&mut walkers, threads, |walker| walker.record(steps))?;
            round(&mut walkers, threads, |walker| walker.integrate(steps))?
        } else {
            round(&mut walkers, threads, |walker| walker.walk(steps))?
        };
        rates.push((steps * num_envs) as f64 / seconds);
    }
    let rate = median(rates);
    let what = if arguments.bare { "bare physics" } else { backend };
    out!("{id}, {what}, {num_envs} copies, {threads} threads: {rate:.0} steps/s")?;
    out!("{:.2} MB per copy, {:.1} ms to make all", bytes_per_env as f64 / 1e6, start_seconds * 1e3)?;
    if arguments.json {
        let object = json!({
            "env": id, "backend": backend, "bare": arguments.bare, "num_envs": num_envs, "threads": threads,
            "steps_per_second": rate, "bytes_per_env": bytes_per_env, "start_seconds": start_seconds,
        });
        out!("{object}")?;
    }
    Ok(())
}

fn check_seconds(seconds: f64) -> Result<()> {
    if !(seconds > 0.0 && seconds.is_finite()) {
        bad_input!("`--seconds {seconds}`: a positive number");
    }
    Ok(())
}

/// The run of a file, and its learner after one iteration.
fn warmed_up(arguments: &TrainArgs, bregman: &Bregman) -> Result<(RunFile, Box<dyn Learner>)> {
    check_seconds(arguments.seconds)?;
    let mut run = RunFile::read(&arguments.run_file, &arguments.patches, bregman)?;
    // The measured stretch is no part of a schedule's end.
    run.budget = match run.budget {
        Budget::EnvSteps(_) => Budget::EnvSteps(u64::MAX >> 1),
        Budget::GradSteps(_) => Budget::GradSteps(u64::MAX >> 1),
    };
    let mut learner = train::build(&run, bregman)?;
    learner.step()?;
    Ok((run, learner))
}

fn updates(arguments: &TrainArgs, bregman: &Bregman) -> Result<()> {
    let (run, mut learner) = warmed_up(arguments, bregman)?;
    let agent = run.agent(bregman)?.0.name;
    if !learner.repeat_update()? {
        bad_input!(
            "{agent} has no update that could be measured apart from its steps; `bregman bench train` measures both"
        );
    }
    let (before, began, mut times) = (learner.progress(), Instant::now(), Vec::new());
    while began.elapsed().as_secs_f64() < arguments.seconds || times.is_empty() {
        let start = Instant::now();
        learner.repeat_update()?;
        times.push(start.elapsed().as_secs_f64());
    }
    let steps = (learner.progress().grad_steps - before.grad_steps) as f64 / times.len() as f64;
    let seconds = median(times);
    out!(
        "{agent} on {}, {} threads: an update takes {:.2} ms, {steps:.0} gradient steps of {:.1} us",
        run.env.id,
        run.threads,
        seconds * 1e3,
        seconds / steps * 1e6
    )?;
    if arguments.json {
        let object = json!({
            "agent": agent, "env": run.env.id, "threads": run.threads, "update_seconds": seconds,
            "grad_steps_per_update": steps, "grad_steps_per_second": steps / seconds, "peak_bytes": peak_bytes(),
        });
        out!("{object}")?;
    }
    Ok(())
}

fn training(arguments: &TrainArgs, bregman: &Bregman) -> Result<()> {
    let (run, mut learner) = warmed_up(arguments, bregman)?;
    let (before, began) = (learner.progress(), Instant::now());
    while began.elapsed().as_secs_f64() < arguments.seconds {
        learner.step()?;
    }
    let (after, seconds) = (learner.progress(), began.elapsed().as_secs_f64());
    let rate = |after: u64, before: u64| (after - before) as f64 / seconds;
    let (env_steps, updates, iterations) = (
        rate(after.env_steps, before.env_steps),
        rate(after.grad_steps, before.grad_steps),
        rate(after.iterations, before.iterations),
    );
    let agent = run.agent(bregman)?.0.name;
    out!(
        "{agent} on {}, {} threads: {env_steps:.0} env steps/s, {updates:.0} updates/s, {iterations:.2} iterations/s",
        run.env.id,
        run.threads
    )?;
    out!("{:.0} MB of memory at the peak", peak_bytes() as f64 / 1e6)?;
    if arguments.json {
        let object = json!({
            "agent": agent, "env": run.env.id, "threads": run.threads, "env_steps_per_second": env_steps,
            "updates_per_second": updates, "iterations_per_second": iterations, "peak_bytes": peak_bytes(),
        });
        out!("{object}")?;
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// A line `NAME:  N kB` of /proc/self/status, in bytes; 0 where there is none.
fn status_bytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn resident_bytes() -> u64 {
    status_bytes("VmRSS")
}

fn peak_bytes() -> u64 {
    status_bytes("VmHWM")
}
