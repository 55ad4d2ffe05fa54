//! Agents by name: the name of a run file's table `[agent.NAME]`.

use std::collections::BTreeMap;

use crate::learner::{LearnError, Learner, Setup};
use crate::trajectory_gradient::Estimates;

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
///
/// Settings that several agents share are structs of their own, taken in by `#[serde(flatten)]` and named in
/// [`PARTS`](AgentConfig::PARTS): the run file has one flat table, and each setting is described once.
pub trait AgentConfig:
    Sized + Default + serde::Serialize + serde::de::DeserializeOwned + documented::DocumentedFields
{
    /// The fields that are flattened, and what stands in them.
    const PARTS: &'static [Part] = &[];

    /// Refuses values that cannot work, with [`LearnError::Config`].
    fn validate(&self) -> Result<(), LearnError>;

    /// Builds the learner.
    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError>;
}

/// Settings of an agent whose estimates of gradients can be looked at by themselves.
pub trait EstimateGradients: AgentConfig {
    /// The estimates, of a linear policy.
    fn estimates(self, setup: &Setup) -> Result<Estimates, LearnError>;
}

/// A flattened field of an [`AgentConfig`].
#[derive(Clone, Copy, Debug)]
pub struct Part {
    field: &'static str,
    keys: &'static [&'static str],
    docs: &'static [&'static str],
}

impl Part {
    /// The field called `field`, whose type is `P`.
    pub const fn of<P: documented::DocumentedFields>(field: &'static str) -> Part {
        Part { field, keys: P::FIELD_NAMES, docs: P::FIELD_DOCS }
    }
}

/// Every key of `C`'s table with its meaning, a part's keys in the place of its field.
fn keys<C: AgentConfig>() -> impl Iterator<Item = (&'static str, &'static str)> {
    let own = C::FIELD_NAMES.iter().zip(C::FIELD_DOCS);
    own.flat_map(|(&key, &doc)| match C::PARTS.iter().find(|part| part.field == key) {
        Some(part) => part.keys.iter().copied().zip(part.docs.iter().copied()).collect(),
        None => vec![(key, doc)],
    })
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

/// Builds the estimates of gradients from a table.
pub type BuildEstimates = fn(&toml::Table, &Setup) -> Result<Estimates, AgentConfigError>;

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
    /// Whether it learns from a dataset.
    pub offline: bool,
    /// Checks a table and returns it complete, defaults written out.
    pub resolve: fn(&toml::Table) -> Result<toml::Table, AgentConfigError>,
    /// Builds the learner from a resolved table.
    pub build: Build,
    /// Builds its estimates of gradients, where it has such to look at.
    pub estimates: Option<BuildEstimates>,
}

impl AgentEntry {
    /// The entry of the agent whose settings are `C`.
    pub const fn of<C: AgentConfig>(
        name: &'static str,
        summary: &'static str,
        metrics: &'static [(&'static str, &'static str)],
    ) -> AgentEntry {
        let (settings, resolve, build) = (settings::<C>, resolve::<C>, build::<C>);
        AgentEntry { name, summary, metrics, console: &[], settings, offline: false, resolve, build, estimates: None }
    }

    /// The same, learning from a dataset.
    pub const fn offline(self) -> AgentEntry {
        AgentEntry { offline: true, ..self }
    }

    /// The same with these of its metrics on the terminal.
    pub const fn console(self, console: &'static [&'static str]) -> AgentEntry {
        AgentEntry { console, ..self }
    }

    /// The same with estimates of gradients.
    pub const fn estimating<C: EstimateGradients>(self) -> AgentEntry {
        AgentEntry { estimates: Some(estimates::<C>), ..self }
    }
}

/// Strict, also about keys of flattened parts, which serde alone would let pass. Keys that are left out have the values of
/// `C`'s default, whatever a part's own default is.
fn parse<C: AgentConfig>(table: &toml::Table) -> Result<C, AgentConfigError> {
    let known: Vec<&'static str> = keys::<C>().map(|(key, _)| key).collect();
    let defaults = as_table(&C::default());
    let with = |keys: &mut dyn Iterator<Item = (&String, &toml::Value)>| {
        let mut all = defaults.clone();
        all.extend(keys.map(|(key, value)| (key.clone(), value.clone())));
        serde_path_to_error::deserialize::<_, C>(toml::Value::Table(all))
    };
    // One by one, because a flattened key's name is lost in serde's error.
    for (key, value) in table {
        let checked = match known.contains(&key.as_str()) {
            true => with(&mut std::iter::once((key, value))).map(drop).map_err(|e| {
                let path = e.path().to_string();
                (if path.starts_with(key.as_str()) { path } else { key.clone() }, e.into_inner())
            }),
            false => Err((key.clone(), unknown_field(key, &known))),
        };
        checked.map_err(|(path, error)| AgentConfigError::Parse { path, error })?;
    }
    let config = with(&mut table.iter())
        .map_err(|e| AgentConfigError::Parse { path: e.path().to_string(), error: e.into_inner() })?;
    config.validate()?;
    Ok(config)
}

/// Serde's own words for a key that is not there.
fn unknown_field(key: &str, known: &[&str]) -> toml::de::Error {
    let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
    serde::de::Error::custom(format!("unknown field `{key}`, expected one of {}", known.join(", ")))
}

fn resolve<C: AgentConfig>(table: &toml::Table) -> Result<toml::Table, AgentConfigError> {
    Ok(as_table(&parse::<C>(table)?))
}

fn build<C: AgentConfig>(table: &toml::Table, setup: &Setup) -> Result<Box<dyn Learner>, AgentConfigError> {
    Ok(parse::<C>(table)?.build(setup)?)
}

fn estimates<C: EstimateGradients>(table: &toml::Table, setup: &Setup) -> Result<Estimates, AgentConfigError> {
    Ok(parse::<C>(table)?.estimates(setup)?)
}

fn settings<C: AgentConfig>() -> Vec<SettingDoc> {
    let defaults = as_table(&C::default());
    keys::<C>()
        .map(|(key, doc)| SettingDoc {
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
        let entries = [
            crate::bc::ENTRY,
            crate::fma_pg::ENTRY,
            crate::harpg::HARPG,
            crate::harpg::N_HARPG,
            crate::iql::ENTRY,
            crate::mdpo::ENTRY,
            crate::mdpo_off::ENTRY,
            crate::n_pg_igt::ENTRY,
            crate::odice::ENTRY,
            crate::pg::N_PG,
            crate::pg::PG,
            crate::ppo::ENTRY,
            crate::sac::ENTRY,
            crate::sso::ENTRY,
            crate::storm_pg::ENTRY,
            crate::td3_bc::ENTRY,
            crate::trpo::ENTRY,
        ];
        let entries = entries.into_iter().chain(crate::gflownet::agents::ENTRIES);
        AgentRegistry { entries: entries.map(|entry| (entry.name, entry)).collect() }
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
