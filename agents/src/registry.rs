//! Agents by name: the name of a run file's table `[agent.NAME]`.

use std::collections::BTreeMap;

use crate::learner::{LearnError, Learner, Setup};

/// Why an agent's table was refused.
#[derive(Debug, thiserror::Error)]
pub enum AgentConfigError {
    /// An unknown key or a wrong type, in serde's words.
    #[error("`{path}`: {error}")]
    Parse {
        /// The key inside the agent's table.
        path: String,
        /// What is wrong with it.
        error: toml::de::Error,
    },
    /// A value out of range.
    #[error(transparent)]
    Value(#[from] LearnError),
}

/// Settings of one agent: a serde struct with documented fields and a `Default`.
pub trait AgentConfig:
    Sized + Default + serde::Serialize + serde::de::DeserializeOwned + documented::DocumentedFields
{
    /// Refuses values that cannot work, with [`LearnError::Config`].
    fn validate(&self) -> Result<(), LearnError>;

    /// Builds the learner.
    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError>;
}

/// A setting as `bregman show` prints it.
#[derive(Clone, Debug)]
pub struct SettingDoc {
    /// Its key.
    pub key: String,
    /// Its default as TOML, or `none`.
    pub default: String,
    /// Its meaning.
    pub doc: String,
}

/// Builds a learner from a resolved table.
pub type Build = fn(&toml::Table, &Setup) -> Result<Box<dyn Learner>, AgentConfigError>;

/// An agent: its name, a sentence, its settings, what it logs and how it is made.
#[derive(Clone, Copy)]
pub struct AgentEntry {
    /// Name in run files: `ppo`.
    pub name: &'static str,
    /// One sentence for `bregman list`.
    pub summary: &'static str,
    /// Names and meanings of every number it reports.
    pub metrics: &'static [(&'static str, &'static str)],
    /// Which of them the terminal shows; the first two where it names none.
    pub console: &'static [&'static str],
    /// Every setting with default and meaning.
    pub settings: fn() -> Vec<SettingDoc>,
    /// Checks a table and returns it complete, defaults written out.
    pub resolve: fn(&toml::Table) -> Result<toml::Table, AgentConfigError>,
    /// Builds the learner from a resolved table.
    pub build: Build,
}

impl AgentEntry {
    /// The entry of the agent whose settings are `C`.
    pub const fn of<C: AgentConfig>(
        name: &'static str,
        summary: &'static str,
        metrics: &'static [(&'static str, &'static str)],
    ) -> AgentEntry {
        let (settings, resolve, build) = (settings::<C>, resolve::<C>, build::<C>);
        AgentEntry { name, summary, metrics, console: &[], settings, resolve, build }
    }

    /// The same with these of its metrics on the terminal.
    pub const fn console(self, console: &'static [&'static str]) -> AgentEntry {
        AgentEntry { console, ..self }
    }
}

fn parse<C: AgentConfig>(table: &toml::Table) -> Result<C, AgentConfigError> {
    let config: C = serde_path_to_error::deserialize(toml::Value::Table(table.clone()))
        .map_err(|e| AgentConfigError::Parse { path: e.path().to_string(), error: e.into_inner() })?;
    config.validate()?;
    Ok(config)
}

fn resolve<C: AgentConfig>(table: &toml::Table) -> Result<toml::Table, AgentConfigError> {
    Ok(as_table(&parse::<C>(table)?))
}

fn build<C: AgentConfig>(table: &toml::Table, setup: &Setup) -> Result<Box<dyn Learner>, AgentConfigError> {
    Ok(parse::<C>(table)?.build(setup)?)
}

fn settings<C: AgentConfig>() -> Vec<SettingDoc> {
    let defaults = as_table(&C::default());
    let docs = C::FIELD_NAMES.iter().zip(C::FIELD_DOCS);
    docs.map(|(&key, &doc)| SettingDoc {
        key: key.into(),
        default: defaults.get(key).map_or("none".into(), |value| value.to_string()),
        doc: doc.split_whitespace().collect::<Vec<_>>().join(" "),
    })
    .collect()
}

fn as_table<C: serde::Serialize>(config: &C) -> toml::Table {
    toml::Table::try_from(config).expect("agent settings are plain tables")
}

/// The agents a program knows.
#[derive(Clone)]
pub struct AgentRegistry {
    entries: BTreeMap<&'static str, AgentEntry>,
}

impl Default for AgentRegistry {
    /// All agents that come with the library.
    fn default() -> AgentRegistry {
        let entries = [crate::ppo::ENTRY];
        AgentRegistry { entries: entries.into_iter().map(|entry| (entry.name, entry)).collect() }
    }
}

impl AgentRegistry {
    /// Adds an agent, in place of one with the same name.
    pub fn add(&mut self, entry: AgentEntry) {
        self.entries.insert(entry.name, entry);
    }

    /// The agent called `name`.
    pub fn get(&self, name: &str) -> Option<&AgentEntry> {
        self.entries.get(name)
    }

    /// All agents, by name.
    pub fn entries(&self) -> impl Iterator<Item = &AgentEntry> {
        self.entries.values()
    }
}
