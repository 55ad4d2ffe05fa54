//! The run file: everything that decides a run, in TOML.
//!
//! ```toml
//! seed = 1
//! [budget]
//! env_steps = 1_000_000
//! [env]
//! id = "Hopper-v5"
//! num_envs = 8
//! [agent.ppo]
//! gamma = 0.99
//! ```
//!
//! Reading is strict: an unknown key is an error that names the nearest known one. A [`RunFile`] is always complete, with the
//! agent's defaults written out, and reads back to itself.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::agents::dataset::{DatasetConfig, Source, minari_root};
use crate::agents::learner::{Budget, DataSource, Setup};
use crate::agents::nn::Device;
use crate::agents::registry::{AgentConfigError, AgentEntry};
use crate::agents::storage::Storage;
use crate::envs::world::WorldConfigError;
use crate::envs::{Backend, EnvConfig};
use crate::error::{bad_input, nearest};
use crate::{BadInput, Bregman};

/// A complete run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// From which every random stream of the run is drawn.
    #[serde(default = "one")]
    pub seed: u64,
    /// Where updates compute their networks: `cpu`, or a GPU, `cuda:0`.
    #[serde(default)]
    pub device: Device,
    /// Worker threads; the number of cores if left out. Results do not depend on it.
    #[serde(default = "cores")]
    pub threads: usize,
    /// What `compare` calls runs of these settings, behind the agent's name, rather than the settings in which they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What the run may spend: `env_steps` or `grad_steps`.
    pub budget: Budget,
    /// The environment, the dataset's own if left out; of a world, its name and settings in the same form.
    #[serde(default = "no_env", skip_serializing_if = "EnvConfig::is_world")]
    pub env: EnvConfig,
    /// What an offline agent learns from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetConfig>,
    /// In place of an environment, the world that a GFlowNet builds objects in: one table, named after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world: Option<Table>,
    /// One table, named after the agent.
    pub agent: Table,
    /// When and how the policy is judged.
    #[serde(default)]
    pub eval: EvalSettings,
    /// What is kept on disk.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// What is shown.
    #[serde(default)]
    pub observe: ObserveSettings,
}

/// The `[eval]` table. `every` counts in the budget's unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSettings {
    /// Distance between evaluations; there is always one at the end. A twentieth of the budget if left out.
    pub every: u64,
    /// Complete episodes per evaluation.
    pub episodes: u32,
    /// Mean return, or what the agent is judged by in its place, from which the run ends early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_at: Option<f64>,
    /// What counts as 0 and 100 in `eval/score`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreSetting>,
    /// Another time limit than in training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_episode_steps: Option<u32>,
}

impl Default for EvalSettings {
    fn default() -> EvalSettings {
        // What is left out is filled in where the budget is known.
        EvalSettings { every: 0, episodes: 10, stop_at: None, score: None, max_episode_steps: None }
    }
}

/// By which returns evaluations are scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"d4rl\", \"dataset\" or { random = …, expert = … }")]
pub enum ScoreSetting {
    /// Those of a collection.
    Named(ScoreName),
    /// These.
    Given {
        /// Return that counts as 0.
        random: f64,
        /// Return that counts as 100.
        expert: f64,
    },
}

/// A collection of returns that scores are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreName {
    /// D4RL's constants for the environment, whatever its version.
    D4rl,
    /// What the dataset says of itself.
    Dataset,
}

/// The `[checkpoint]` table. Distances count in the budget's unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Distance between checkpoints; there is always one at the end.
    pub every: u64,
    /// Checkpoints kept beside the best one.
    pub keep: usize,
    /// Distance between policies kept for good under `policies/`; none if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_every: Option<u64>,
}

impl Default for CheckpointSettings {
    fn default() -> CheckpointSettings {
        CheckpointSettings { every: 100_000, keep: 2, snapshot_every: None }
    }
}

/// The `[observe]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObserveSettings {
    /// Progress on the terminal.
    pub console: bool,
    /// TensorBoard events.
    pub tensorboard: bool,
    /// Histograms of actions and log standard deviations in TensorBoard.
    pub histograms: bool,
}

impl Default for ObserveSettings {
    fn default() -> ObserveSettings {
        ObserveSettings { console: true, tensorboard: true, histograms: false }
    }
}

/// Evaluations over a budget where a run file does not say how often.
const EVALUATIONS: u64 = 20;

fn one() -> u64 {
    1
}

/// What stands for the environment until the world's table is looked at.
fn no_env() -> EnvConfig {
    EnvConfig::world("", Table::new(), &[])
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl RunFile {
    /// Reads a file, changes it by `key=value` patches, and checks the whole.
    ///
    /// # Errors
    /// [`BadInput`] in one sentence: file, key, what is wrong and what would do.
    pub fn read(path: &Path, patches: &[String], bregman: &Bregman) -> Result<RunFile> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            let hint = if e.kind() == ErrorKind::NotFound { "; `bregman list` names the presets" } else { "" };
            BadInput(format!("{}: {e}{hint}", path.display()))
        })?;
        let mut table: Table =
            toml::from_str(&text).map_err(|e| BadInput(format!("{}: {}", path.display(), e.to_string().trim())))?;
        let file = table.clone();
        for change in patches {
            patch(&mut table, change)?;
        }
        RunFile::check(table, bregman).map_err(|error| {
            let wrong = wrong_patch(file, patches, &error.to_string(), bregman);
            error.context(wrong.map_or(path.display().to_string(), |change| format!("`--set {change}`")))
        })
    }

    /// Checks a table and writes all defaults out.
    pub fn check(table: Table, bregman: &Bregman) -> Result<RunFile> {
        let table = with_env_of_dataset(table)?;
        check_top(&table)?;
        let says_every = table.get("eval").is_some_and(|eval| eval.get("every").is_some());
        let mut run: RunFile = serde_path_to_error::deserialize(Value::Table(table.clone())).map_err(|e| {
            misplaced(&table, e.inner(), bregman).unwrap_or_else(|| sentence(&e.path().to_string(), e.inner()))
        })?;
        let positive = |key: &str, value: u64| match value {
            0 => Err(BadInput(format!("`{key} = 0`: at least 1"))),
            _ => Ok(()),
        };
        let total = run.budget.total();
        positive("budget", total)?;
        if !says_every {
            run.eval.every = (total / EVALUATIONS).max(1);
        }
        positive("threads", run.threads as u64)?;
        positive("env.num_envs", run.env.num_envs as u64)?;
        positive("eval.every", run.eval.every)?;
        positive("eval.episodes", run.eval.episodes.into())?;
        positive("eval.max_episode_steps", run.eval.max_episode_steps.unwrap_or(1).into())?;
        positive("checkpoint.every", run.checkpoint.every)?;
        positive("checkpoint.keep", run.checkpoint.keep as u64)?;
        positive("checkpoint.snapshot_every", run.checkpoint.snapshot_every.unwrap_or(1))?;
        if run.seed > i64::MAX as u64 {
            bad_input!("`seed = {}`: a run file holds numbers up to 2^63 - 1", run.seed);
        }
        match (&run.world, run.env.is_world()) {
            (Some(world), true) => {
                let (world, env) = resolve_world(world, bregman)?;
                (run.world, run.env) = (Some(world), env);
            }
            (Some(_), false) => bad_input!("`env` and `world`: a run has one of them"),
            (None, true) => bad_input!("missing field `env`: write [env], or [world.NAME] for a GFlowNet"),
            (None, false) => run.env.id = versioned(&run.env, bregman),
        }
        let (name, settings) = run.agent_table()?;
        let entry = find_agent(name, bregman)?;
        match (entry.offline, &run.dataset) {
            (true, None) => bad_input!("agent.{name} learns from a dataset: write `[dataset]` with its `path`"),
            (false, Some(_)) => bad_input!("agent.{name} gathers its own experience: leave `[dataset]` out"),
            _ => {}
        }
        if let Some(ScoreSetting::Given { random, expert }) = run.eval.score
            && !(random.is_finite() && expert.is_finite() && random < expert)
        {
            bad_input!("`eval.score`: `random = {random}` must be less than `expert = {expert}`");
        }
        let resolved = (entry.resolve)(settings).map_err(|e| agent_sentence(name, e))?;
        run.agent = Table::from_iter([(name.to_string(), Value::Table(resolved))]);
        Ok(run)
    }

    /// The agent's name and its table.
    fn agent_table(&self) -> Result<(&str, &Table)> {
        let mut tables = self.agent.iter();
        match (tables.next(), tables.next()) {
            (Some((name, Value::Table(settings))), None) => Ok((name, settings)),
            (Some((name, _)), None) => {
                bad_input!("`agent.{name}` is not a table: write `[agent.NAME]` and settings under it")
            }
            (None, _) => bad_input!("`agent` names no agent: write `[agent.ppo]`"),
            (Some((first, _)), Some((second, _))) => {
                bad_input!("`agent` names two agents, `{first}` and `{second}`: a run has one")
            }
        }
    }

    /// The agent's registry entry and its resolved settings.
    pub fn agent<'a>(&'a self, bregman: &'a Bregman) -> Result<(&'a AgentEntry, &'a Table)> {
        let (name, settings) = self.agent_table()?;
        Ok((find_agent(name, bregman)?, settings))
    }

    /// What the learner is built from.
    pub fn setup(&self, bregman: &Bregman) -> Setup {
        Setup {
            seed: self.seed,
            threads: self.threads,
            device: self.device,
            env: self.env.clone(),
            envs: bregman.envs.clone(),
            dataset: self.dataset.clone().map(|config| DataSource { config, progress: crate::dataset::loading_bar() }),
            budget: self.budget,
            histograms: self.observe.histograms && self.observe.tensorboard,
        }
    }

    /// What the budget counts, the unit of every `every`: the key's name.
    pub fn budget_unit(&self) -> &'static str {
        match self.budget {
            Budget::EnvSteps(_) => "env_steps",
            Budget::GradSteps(_) => "grad_steps",
        }
    }

    /// The same in words.
    pub fn budget_words(&self) -> &'static str {
        match self.budget {
            Budget::EnvSteps(_) => "environment steps",
            Budget::GradSteps(_) => "optimiser steps",
        }
    }

    /// As TOML, complete.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Where the agent keeps its replay buffer, as far as the run file says.
    pub fn buffer_storage(&self) -> Storage {
        let all = Table::try_from(self).map(|table| flat(&table)).unwrap_or_default();
        let said = all.into_iter().find(|(key, _)| key.ends_with(".buffer_storage"));
        said.and_then(|(_, value)| value.try_into().ok()).unwrap_or_default()
    }

    /// Refuses a resumed run whose settings differ where a run cannot change in its middle.
    pub fn check_resumes(&self, before: &RunFile) -> Result<()> {
        let (old, new) = (flat(&Table::try_from(before)?), flat(&Table::try_from(self)?));
        // Whether a dataset elsewhere is the same, its rows will say.
        let free = ["budget.", "eval.", "observe.", "label", "dataset.path", "device"];
        let fixed = |key: &str| !free.iter().any(|free| key.starts_with(free)) && !is_storage(key);
        for key in old.keys().chain(new.keys()).filter(|key| fixed(key)) {
            if old.get(key) != new.get(key) {
                let shown = |value: Option<&Value>| value.map_or("nothing".into(), Value::to_string);
                bad_input!(
                    "`{key}` was {} and would be {}: a resumed run may change budget.*, eval.*, observe.*, label, device and where data are kept only",
                    shown(old.get(key)),
                    shown(new.get(key))
                );
            }
        }
        Ok(())
    }
}

/// Refuses what serde would refuse in words of its own: a budget in another unit, a file without a budget or an agent.
fn check_top(table: &Table) -> Result<()> {
    if let Some(Value::Table(budget)) = table.get("budget") {
        let units = ["env_steps", "grad_steps"];
        if let Some(unknown) = budget.keys().find(|key| !units.contains(&key.as_str())) {
            match nearest(unknown, units) {
                Some(near) => bad_input!("unknown key `budget.{unknown}`; did you mean `{near}`?"),
                None => bad_input!("unknown key `budget.{unknown}`; there are {}", units.join(", ")),
            }
        }
    }
    for (key, remedy) in [
        ("budget", "write [budget] with env_steps or grad_steps"),
        ("agent", "write [agent.NAME]; `bregman list` names the agents"),
    ] {
        if !table.contains_key(key) {
            bad_input!("`{key}` is missing: {remedy}");
        }
    }
    Ok(())
}

/// Where an unknown key at the top belongs, if it is an agent's name or a setting of the file's agent.
fn misplaced(table: &Table, error: &toml::de::Error, bregman: &Bregman) -> Option<BadInput> {
    let key = error.message().strip_prefix("unknown field `")?.split('`').next()?;
    if !table.contains_key(key) {
        return None;
    }
    if bregman.agents.get(key).is_some() {
        return Some(BadInput(format!("unknown key `{key}`; an agent's settings stand in [agent.{key}]")));
    }
    let agent = bregman.agents.get(table.get("agent")?.as_table()?.keys().next()?)?;
    let known = (agent.settings)().iter().any(|setting| setting.key == key);
    known.then(|| BadInput(format!("unknown key `{key}`; did you mean `agent.{}.{key}`?", agent.name)))
}

/// An environment's id, with the version of the one in Rust where none is said.
fn versioned(env: &EnvConfig, bregman: &Bregman) -> String {
    let version = |id: &str| {
        let rest = id.strip_prefix(&env.id).and_then(|rest| rest.strip_prefix("-v"));
        rest.is_some_and(|version| version.bytes().all(|c| c.is_ascii_digit()))
    };
    let mut versions = bregman.envs.entries().map(|entry| entry.id).filter(|id| version(id));
    match (env.backend, versions.next(), versions.next()) {
        (Backend::Gymnasium, ..) => env.id.clone(),
        (_, Some(only), None) => only.into(),
        _ => env.id.clone(),
    }
}

/// Whether a key says where rows are kept, which changes no result.
pub(crate) fn is_storage(key: &str) -> bool {
    key == "dataset.storage" || key.ends_with(".buffer_storage")
}

/// Looks into the dataset that a run file names.
///
/// # Errors
/// [`BadInput`]: what is wrong with it, and what brings it there.
pub(crate) fn open_dataset(path: &str) -> Result<Source> {
    // A path, or the id of a Minari dataset.
    let there = Path::new(path).exists() || minari_root().join(path).exists();
    let hint = match there {
        true => "",
        false if path.starts_with("datasets/ours/") => "; `scripts/make_datasets` makes it",
        false => "; put the file there or name another",
    };
    Ok(Source::open(path).map_err(|e| BadInput(format!("`dataset.path`: {e}{hint}")))?)
}

/// The table with the dataset's own environment where it names none.
fn with_env_of_dataset(mut table: Table) -> Result<Table> {
    let path = table.get("dataset").and_then(|dataset| dataset.get("path")).and_then(Value::as_str);
    if let Some(path) = path
        && !table.contains_key("env")
    {
        let source = open_dataset(path)?;
        let Some(env) = &source.header().env else {
            bad_input!(
                "`env` is missing, and {path} names no environment: write `[env]` with the `id` of one to evaluate in"
            );
        };
        table.insert("env".into(), Value::try_from(env)?);
    }
    Ok(table)
}

/// The first patch with which the file is refused as it is with all; none where the file is refused so by itself.
fn wrong_patch<'a>(mut file: Table, patches: &'a [String], refusal: &str, bregman: &Bregman) -> Option<&'a str> {
    let refused =
        |table: &Table| RunFile::check(table.clone(), bregman).is_err_and(|error| error.to_string() == refusal);
    if refused(&file) {
        return None;
    }
    let wrong = patches.iter().find(|change| patch(&mut file, change).is_ok() && refused(&file));
    wrong.map(String::as_str)
}

/// The world's table with its defaults written out, and what stands for the environment: named by what is not at its default.
fn resolve_world(table: &Table, bregman: &Bregman) -> Result<(Table, EnvConfig)> {
    let mut tables = table.iter();
    let (Some((name, Value::Table(settings))), None) = (tables.next(), tables.next()) else {
        bad_input!("`world` holds one table: write [world.hyper_grid] and settings under it");
    };
    let Some(entry) = bregman.envs.worlds.get(name) else {
        let known: Vec<&str> = bregman.envs.worlds.entries().map(|entry| entry.name).collect();
        match nearest(name, known.iter().copied()) {
            Some(near) => bad_input!("no world is called `{name}`; did you mean `{near}`?"),
            None => bad_input!("no world is called `{name}`; there are {}", known.join(", ")),
        }
    };
    let settings = (entry.resolve)(settings).map_err(|error| match error {
        WorldConfigError::Parse { path, error } => sentence(&join(&format!("world.{name}"), &path), &error),
        WorldConfigError::Value(error) => BadInput(error.to_string()),
    })?;
    let settings_now = || settings.iter().filter(|(_, value)| !value.is_array());
    let defaults = (entry.settings)();
    let is_default = |key: &str, value: &Value| {
        defaults.iter().any(|setting| setting.key == key && setting.default == value.to_string())
    };
    let changed = settings_now().filter(|(key, value)| !is_default(key, value));
    let changed: Vec<(&str, String)> =
        changed.map(|(key, value)| (key.as_str(), value.to_string().trim_matches('"').to_string())).collect();
    let env = EnvConfig::world(name, settings.clone(), &changed);
    Ok((Table::from_iter([(name.clone(), Value::Table(settings))]), env))
}

fn find_agent<'a>(name: &str, bregman: &'a Bregman) -> Result<&'a AgentEntry> {
    let Some(entry) = bregman.agents.get(name) else {
        let known: Vec<&str> = bregman.agents.entries().map(|entry| entry.name).collect();
        match nearest(name, known.iter().copied()) {
            Some(near) => bad_input!("no agent is called `{name}`; did you mean `{near}`?"),
            None => bad_input!("no agent is called `{name}`; there are {}", known.join(", ")),
        }
    };
    Ok(entry)
}

/// Changes one key: `agent.ppo.gamma=0.995`. A value that is not TOML is taken as a string.
pub fn patch(table: &mut Table, change: &str) -> Result<()> {
    let Some((key, text)) = change.split_once('=') else {
        bad_input!("`--set {change}`: write key=value, as in --set budget.env_steps=20000");
    };
    let (key, text) = (key.trim(), text.trim());
    let parsed: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    let value = parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.into()));
    let (path, last) = match key.rsplit_once('.') {
        Some((path, last)) => (path.split('.').collect(), last),
        None => (Vec::new(), key),
    };
    let mut place = table;
    for part in path {
        let entry = place.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = entry else {
            bad_input!("`--set {change}`: `{part}` is a value, not a table");
        };
        place = inner;
    }
    place.insert(last.into(), value);
    Ok(())
}

/// Serde's complaint as a sentence that names the key and the nearest known one.
pub(crate) fn sentence(path: &str, error: &toml::de::Error) -> BadInput {
    let message = error.message();
    let mut names = message.split('`').skip(1).step_by(2);
    let parent = if path.is_empty() || path == "." { "" } else { path };
    // A budget's unit is a variant to serde and a key to the reader.
    let variant = message.starts_with("unknown variant") && !parent.starts_with("budget");
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let unknown = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        let hint = match nearest(unknown, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", known.join(", ")),
        };
        if variant {
            return BadInput(format!("`{parent}` cannot be \"{unknown}\"; {hint}"));
        }
        let key = if parent.ends_with(unknown) { parent.to_string() } else { join(parent, unknown) };
        return BadInput(format!("unknown key `{key}`; {hint}"));
    }
    if parent == "budget" && message.starts_with("wanted exactly 1 element") {
        return BadInput("`budget` holds exactly one of `env_steps` and `grad_steps`".into());
    }
    let message = message
        .replace("expected f64", "expected a number")
        .replace("expected usize", "expected a whole number, at least 0")
        .replace("expected u64", "expected a whole number, at least 0")
        .replace("expected u32", "expected a whole number, at least 0")
        .replace("expected a sequence", "expected a list, as [64, 64]");
    // 1e6 is a number with a fraction to TOML.
    let number = message.split_once("floating point `").and_then(|(_, rest)| rest.split_once('`'));
    let number = number.and_then(|(number, _)| number.parse::<f64>().ok()).filter(|x| x.fract() == 0.0);
    let hint = number.filter(|_| message.contains("whole number")).map_or(String::new(), |x| format!("; write {x}"));
    let message = message + &hint;
    BadInput(if parent.is_empty() { message } else { format!("`{parent}`: {message}") })
}

fn agent_sentence(agent: &str, error: AgentConfigError) -> BadInput {
    match error {
        AgentConfigError::Parse { path, error } => sentence(&join(&format!("agent.{agent}"), &path), &error),
        AgentConfigError::Value(error) => BadInput(format!("agent.{agent}: {error}")),
    }
}

fn join(parent: &str, key: &str) -> String {
    match (parent, key) {
        ("", key) => key.into(),
        (parent, "" | ".") => parent.into(),
        (parent, key) => format!("{parent}.{key}"),
    }
}

/// A table as `a.b.c` → value.
pub(crate) fn flat(table: &Table) -> std::collections::BTreeMap<String, Value> {
    let mut all = std::collections::BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => all.extend(flat(inner).into_iter().map(|(k, v)| (format!("{key}.{k}"), v))),
            value => {
                all.insert(key.clone(), value.clone());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDULUM: &str = "[budget]\nenv_steps = 1000\n[env]\nid = \"Pendulum-v1\"\n[agent.ppo]\n";

    fn check(text: &str) -> Result<RunFile> {
        RunFile::check(toml::from_str(text)?, &Bregman::default())
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", check(text).expect_err("refused"))
    }

    #[test]
    fn a_resolved_run_file_reads_back_to_itself() {
        let run = check(PENDULUM).expect("it is right");
        let text = run.to_toml().expect("it is plain TOML");
        assert!(text.contains("gae_lambda = 0.95") && text.contains("episodes = 10"), "{text}");
        assert_eq!(check(&text).expect("it is right"), run);
    }

    #[test]
    fn twenty_evaluations_are_made_where_the_file_does_not_say_how_often() {
        let every = |text: &str| check(text).expect("it is right").eval.every;
        assert_eq!(every(PENDULUM), 50);
        assert_eq!(every(&format!("{PENDULUM}[eval]\nepisodes = 3")), 50);
        assert_eq!(every(&format!("{PENDULUM}[eval]\nevery = 7")), 7);
        // A run of few optimiser steps is evaluated at each.
        assert_eq!(every(&PENDULUM.replace("env_steps = 1000", "grad_steps = 3")), 1);
        assert_eq!(refusal(&format!("{PENDULUM}[eval]\nevery = 0")), "`eval.every = 0`: at least 1");
        // The resolved file says it, so that it stays when the budget grows.
        let resolved = check(PENDULUM).expect("it is right").to_toml().expect("it is plain TOML");
        assert_eq!(every(&resolved.replace("env_steps = 1000", "env_steps = 2000")), 50);
    }

    #[test]
    fn wrong_keys_name_the_nearest_right_one() {
        assert_eq!(refusal(&format!("{PENDULUM}gama = 0.9")), "unknown key `agent.ppo.gama`; did you mean `gamma`?");
        assert_eq!(refusal(&format!("sead = 3\n{PENDULUM}")), "unknown key `sead`; did you mean `seed`?");
        assert_eq!(
            refusal(&PENDULUM.replace("env_steps", "env_step")),
            "unknown key `budget.env_step`; did you mean `env_steps`?"
        );
        assert_eq!(refusal(&PENDULUM.replace("ppo", "pppo")), "no agent is called `pppo`; did you mean `ppo`?");
        assert_eq!(refusal(&PENDULUM.replace("id =", "ident =")), "unknown key `env.ident`; did you mean `id`?");
    }

    #[test]
    fn what_is_missing_or_out_of_place_is_said() {
        assert_eq!(
            refusal(&PENDULUM.replace("env_steps = 1000", "env_steps = 1000\ntotal_timesteps = 1000")),
            "unknown key `budget.total_timesteps`; there are env_steps, grad_steps"
        );
        assert_eq!(
            refusal(&PENDULUM.replace("env_steps = 1000", "env_steps = 1000\ngrad_steps = 1000")),
            "`budget` holds exactly one of `env_steps` and `grad_steps`"
        );
        assert_eq!(
            refusal(&PENDULUM.replace("env_steps = 1000", "env_steps = 1e6")),
            "`budget.env_steps`: invalid type: floating point `1000000.0`, expected a whole number, at least 0; write 1000000"
        );
        assert_eq!(
            refusal(&format!("gamma = 0.9\n{PENDULUM}")),
            "unknown key `gamma`; did you mean `agent.ppo.gamma`?"
        );
        assert_eq!(
            refusal(&format!("{PENDULUM}[ppo]\ngamma = 0.9")),
            "unknown key `ppo`; an agent's settings stand in [agent.ppo]"
        );
        assert_eq!(
            refusal(&PENDULUM.replace("[agent.ppo]", "")),
            "`agent` is missing: write [agent.NAME]; `bregman list` names the agents"
        );
        assert_eq!(
            refusal(&PENDULUM.replace("[budget]\nenv_steps = 1000", "")),
            "`budget` is missing: write [budget] with env_steps or grad_steps"
        );
        assert_eq!(
            refusal(&format!("{PENDULUM}hidden_sizes = 64")),
            "`agent.ppo.hidden_sizes`: invalid type: integer `64`, expected a list, as [64, 64]"
        );
        assert_eq!(
            refusal(&format!("{PENDULUM}[eval]\nmax_episode_steps = 0")),
            "`eval.max_episode_steps = 0`: at least 1"
        );
        // Not like enough to be meant.
        let distant = refusal(&format!("{PENDULUM}net_arch = [64]"));
        assert!(distant.starts_with("unknown key `agent.ppo.net_arch`; there are "), "{distant}");
    }

    #[test]
    fn an_environment_without_a_version_is_the_one_in_rust() {
        let id = |text: &str| check(text).expect("it is right").env.id;
        assert_eq!(id(&PENDULUM.replace("-v1", "")), "Pendulum-v1");
        assert_eq!(id(&PENDULUM.replace("Pendulum-v1", "HalfCheetah")), "HalfCheetah-v5");
        assert_eq!(id(&PENDULUM.replace("Pendulum-v1", "HalfCheetah-v4")), "HalfCheetah-v4");
        let through_gymnasium = PENDULUM.replace("\"Pendulum-v1\"", "\"Pendulum\"\nbackend = \"gymnasium\"");
        assert_eq!(id(&through_gymnasium), "Pendulum");
    }

    #[test]
    fn wrong_values_name_key_and_rule() {
        assert_eq!(refusal(&format!("{PENDULUM}gamma = 1.5")), "agent.ppo: `gamma = 1.5`: a discount lies in [0, 1]");
        assert_eq!(
            refusal(&format!("{PENDULUM}gamma = \"high\"")),
            "`agent.ppo.gamma`: invalid type: string \"high\", expected a number"
        );
        assert_eq!(refusal(&format!("threads = 0\n{PENDULUM}")), "`threads = 0`: at least 1");
        let device = |name: &str| refusal(&format!("device = \"{name}\"\n{PENDULUM}"));
        assert_eq!(device("gpu"), "`device`: `gpu` is neither \"cpu\" nor a GPU, \"cuda:0\"");
        assert!(refusal(&PENDULUM.replace("[agent.ppo]", "[agent]")).contains("names no agent"));
        assert!(refusal(&format!("{PENDULUM}[agent.other]")).contains("names two agents"));
    }

    #[test]
    fn patches_change_keys_before_they_are_checked() {
        let mut table: Table = toml::from_str(PENDULUM).expect("valid TOML");
        for change in
            ["budget.env_steps=2_000", "env.id=CartPole-v1", "agent.ppo.hidden_sizes=[8]", "eval.episodes = 3"]
        {
            patch(&mut table, change).expect("it fits");
        }
        let run = RunFile::check(table, &Bregman::default()).expect("it is right");
        assert_eq!((run.budget, run.env.id.as_str(), run.eval.episodes), (Budget::EnvSteps(2000), "CartPole-v1", 3));
        let mut table: Table = toml::from_str(PENDULUM).expect("valid TOML");
        let error = patch(&mut table, "env.id.x=1").expect_err("refused").to_string();
        assert_eq!(error, "`--set env.id.x=1`: `id` is a value, not a table");
        assert!(patch(&mut table, "seed").is_err());
    }

    const GRID: &str = "[budget]\ngrad_steps = 1000\n[world.hyper_grid]\nndim = 3\n[agent.tb]\n";

    #[test]
    fn a_world_stands_in_place_of_an_environment() {
        let run = check(GRID).expect("it is right");
        assert_eq!((run.env.id.as_str(), run.env.is_world()), ("hyper_grid(ndim=3)", true));
        let text = run.to_toml().expect("it is plain TOML");
        assert!(text.contains("height = 8") && !text.contains("[env]"), "{text}");
        assert_eq!(check(&text).expect("it is right"), run);
        let world = Bregman::default().envs.world(&run.env).expect("it is there");
        assert_eq!(world.spec().num_states, Some(512));
        assert_eq!(check(&GRID.replace("ndim = 3", "ndim = 2")).expect("it is right").env.id, "hyper_grid");
    }

    #[test]
    fn wrong_worlds_are_sentences() {
        assert_eq!(refusal(&GRID.replace("ndim", "ndin")), "unknown key `world.hyper_grid.ndin`; did you mean `ndim`?");
        assert_eq!(
            refusal(&GRID.replace("hyper_grid", "hypergrid")),
            "no world is called `hypergrid`; did you mean `hyper_grid`?"
        );
        assert_eq!(
            refusal(&format!("{GRID}[env]\nid = \"Pendulum-v1\"\n")),
            "`env` and `world`: a run has one of them"
        );
        assert_eq!(
            refusal(&GRID.replace("[world.hyper_grid]\nndim = 3", "")),
            "missing field `env`: write [env], or [world.NAME] for a GFlowNet"
        );
        assert_eq!(
            refusal(&format!("{GRID}[world.set]")),
            "`world` holds one table: write [world.hyper_grid] and settings under it"
        );
    }

    #[test]
    fn a_resumed_run_may_change_its_budget_but_not_its_agent() {
        let before = check(PENDULUM).expect("it is right");
        let longer = check(&PENDULUM.replace("1000", "2000")).expect("it is right");
        longer.check_resumes(&before).expect("the budget may change");
        let other = check(&format!("{PENDULUM}gamma = 0.5")).expect("it is right");
        let error = other.check_resumes(&before).expect_err("refused").to_string();
        assert_eq!(
            error,
            "`agent.ppo.gamma` was 0.99 and would be 0.5: a resumed run may change budget.*, eval.*, observe.*, label, device and where data are kept only"
        );
    }
}
