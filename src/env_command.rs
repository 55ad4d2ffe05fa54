//! `bregman env`: environments by id, and what they do step by step.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::envs::{ActionSpace, Backend, Env, EnvConfig, gymnasium};
use crate::error::bad_input;
use crate::{BadInput, Bregman, run_file};

/// Subcommands of `bregman env`.
#[derive(Subcommand)]
pub enum EnvCommand {
    /// List the ids of all environments, with what steps them
    List,
    /// Print spaces, limits and backend of an environment
    Info(Choice),
    /// Play actions from a file and print what happens, a JSON object per line
    Trace(Trace),
}

/// An environment and how it is made.
#[derive(Args)]
pub struct Choice {
    /// Environment id
    id: String,
    /// `auto`, `native` or `gymnasium`
    #[arg(long, default_value = "auto")]
    backend: String,
    /// A keyword argument of the environment, as in --kwargs ctrl_cost_weight=0.1
    #[arg(long, value_name = "KEY=VALUE")]
    kwargs: Vec<String>,
}

/// Arguments of `bregman env trace`.
#[derive(Args)]
pub struct Trace {
    #[command(flatten)]
    choice: Choice,
    /// Seed of the first reset; later resets continue its stream
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON array per line: an action
    #[arg(long, value_name = "FILE")]
    actions: PathBuf,
}

/// Runs a subcommand.
pub fn run(command: EnvCommand, bregman: &Bregman) -> Result<()> {
    match command {
        EnvCommand::List => list(bregman),
        EnvCommand::Info(choice) => info(&choice, bregman),
        EnvCommand::Trace(arguments) => trace(&arguments, bregman),
    }
}

impl Choice {
    /// Makes the environment.
    pub fn make(&self, bregman: &Bregman) -> Result<Box<dyn Env>> {
        let backend = match self.backend.as_str() {
            "auto" => Backend::Auto,
            "native" => Backend::Native,
            "gymnasium" => Backend::Gymnasium,
            other => bad_input!("`--backend {other}`: auto, native or gymnasium"),
        };
        let mut kwargs = toml::Table::new();
        for change in &self.kwargs {
            run_file::patch(&mut kwargs, change)?;
        }
        let config = EnvConfig { backend, kwargs, ..EnvConfig::new(&self.id) };
        Ok(bregman.envs.make(&config).map_err(|e| BadInput(e.to_string()))?)
    }
}

fn list(bregman: &Bregman) -> Result<()> {
    let native: Vec<&str> = bregman.envs.entries().map(|entry| entry.id).collect();
    let mut out = std::io::stdout().lock();
    for entry in bregman.envs.entries() {
        writeln!(out, "{:<32} native     {}", entry.id, entry.summary)?;
    }
    for id in gymnasium::registered_ids()?.iter().filter(|id| !native.contains(&id.as_str())) {
        writeln!(out, "{id:<32} gymnasium")?;
    }
    Ok(())
}

fn info(choice: &Choice, bregman: &Bregman) -> Result<()> {
    let env = choice.make(bregman)?;
    let spec = env.spec();
    let number = |x: Option<f64>| x.map_or("none".into(), |x| x.to_string());
    println!("{}, stepped by {}", spec.id, spec.backend);
    println!("observation     {} numbers", spec.obs_dim);
    match &spec.action_space {
        ActionSpace::Box { low, high } => println!("action          {} numbers from {low:?} to {high:?}", low.len()),
        ActionSpace::Discrete { n } => println!("action          one of {n}"),
        ActionSpace::MultiDiscrete { nvec } => println!("action          one each of {nvec:?}"),
    }
    println!("time limit      {}", number(spec.max_episode_steps.map(f64::from)));
    println!("solved from     {}", number(spec.reward_threshold));
    println!("saved exactly   {}", if env.save().is_some() { "yes" } else { "no: a resumed run starts new episodes" });
    Ok(())
}

fn trace(arguments: &Trace, bregman: &Bregman) -> Result<()> {
    let mut env = arguments.choice.make(bregman)?;
    let actions = read_actions(&arguments.actions, env.spec().action_space.row_len())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut obs = vec![0.0; env.spec().obs_dim];
    env.reset(Some(arguments.seed), &mut obs)?;
    writeln!(out, "{}", json!({ "reset": true, "obs": obs }))?;
    for action in actions {
        let outcome = env.step(&action, &mut obs)?;
        let line = json!({
            "obs": obs,
            "reward": outcome.reward,
            "terminated": outcome.terminated,
            "truncated": outcome.truncated,
        });
        writeln!(out, "{line}")?;
        if outcome.ends_episode() {
            env.reset(None, &mut obs)?;
            writeln!(out, "{}", json!({ "reset": true, "obs": obs }))?;
        }
    }
    Ok(out.flush()?)
}

/// Action rows of `len` numbers, one JSON array per line.
fn read_actions(path: &Path, len: usize) -> Result<Vec<Vec<f32>>> {
    let file = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| BadInput(format!("{file}: {e}")))?;
    let mut actions = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Vec<f32> = serde_json::from_str(line)
            .map_err(|e| BadInput(format!("{file}, line {}: not an array of numbers: {e}", i + 1)))?;
        if row.len() != len {
            bad_input!("{file}, line {}: an action of {} numbers; the environment takes {len}", i + 1, row.len());
        }
        actions.push(row);
    }
    Ok(actions)
}
