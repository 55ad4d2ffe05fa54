//! `bregman env`: environments by id, and what they do step by step.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::envs::{ActionSpace, Argument, Backend, Env, EnvConfig, Lane, LaneStep, gymnasium};
use crate::error::bad_input;
use crate::terminal::{note, out};
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
    /// Keyword arguments of the environment, as in --kwargs ctrl_cost_weight=0.1 frame_skip=4
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
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
            if !change.contains('=') {
                bad_input!("`--kwargs {change}`: write key=value, as in --kwargs frame_skip=4");
            }
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
    let mut env = choice.make(bregman)?;
    env.reset(Some(0), &mut vec![0.0; env.spec().obs_dim])?;
    let spec = env.spec();
    let number = |x: Option<f64>| x.map_or("none".into(), |x| x.to_string());
    out!("{}, stepped by {}", spec.id, spec.backend)?;
    out!("observation     {} numbers", spec.obs_dim)?;
    match &spec.action_space {
        ActionSpace::Box { low, high } => out!("action          {} numbers from {low:?} to {high:?}", low.len())?,
        ActionSpace::Discrete { n } => out!("action          one of {n}")?,
        ActionSpace::MultiDiscrete { nvec } => out!("action          one each of {nvec:?}")?,
    }
    out!("time limit      {}", number(spec.max_episode_steps.map(f64::from)))?;
    out!("solved from     {}", number(spec.reward_threshold))?;
    out!("saved exactly   {}", if env.save().is_some() { "yes" } else { "no: a resumed run starts new episodes" })?;
    let names = env.info_names();
    out!("info of reset   {}", if names.is_empty() { "none".into() } else { names.join(", ") })?;
    // Those that native environments accept without effect have no default and come last.
    let mut arguments = env.arguments();
    arguments.sort_by_key(|argument| argument.default.is_none());
    for (i, Argument { name, default }) in arguments.into_iter().enumerate() {
        let default = default.map_or_else(String::new, |default| format!(" = {default}"));
        out!("{:<15} {name}{default}", if i == 0 { "arguments" } else { "" })?;
    }
    Ok(())
}

fn trace(arguments: &Trace, bregman: &Bregman) -> Result<()> {
    let env = arguments.choice.make(bregman)?;
    let actions = read_actions(&arguments.actions, &env.spec().action_space)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut next_obs = vec![0.0; env.spec().obs_dim];
    let mut lane = Lane::new(0, env, arguments.seed)?;
    writeln!(out, "{}", json!({ "reset": true, "obs": lane.obs() }))?;
    for action in actions {
        let LaneStep { outcome, finished } = lane.step(&action, &mut next_obs)?;
        let line = json!({
            "obs": next_obs,
            "reward": outcome.reward,
            "terminated": outcome.terminated,
            "truncated": outcome.truncated,
        });
        writeln!(out, "{line}")?;
        if finished.is_some() {
            writeln!(out, "{}", json!({ "reset": true, "obs": lane.obs() }))?;
        }
        lane.take_warning().iter().for_each(|warning| note!("{warning}"));
    }
    Ok(out.flush()?)
}

/// Actions for `space`, one JSON array per line.
fn read_actions(path: &Path, space: &ActionSpace) -> Result<Vec<Vec<f32>>> {
    let file = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| BadInput(format!("{file}: {e}")))?;
    let mut actions = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| BadInput(format!("{file}, line {}: {what}", i + 1));
        // Where in the line serde stopped is less than which line it was.
        let said = |e: serde_json::Error| e.to_string().split(" at line").next().unwrap_or_default().to_owned();
        let row: Vec<f32> =
            serde_json::from_str(line).map_err(|e| wrong(format!("not an array of numbers: {}", said(e))))?;
        space.check(&row).map_err(wrong)?;
        actions.push(row);
    }
    Ok(actions)
}
