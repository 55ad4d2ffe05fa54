//! Worlds by name: the name of a run file's table `[world.NAME]`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BitSequenceConfig, HyperGridConfig, IsingConfig, RnaConfig, SetConfig, StringsConfig, World};
use crate::EnvError;

/// Settings of one world: a serde struct with documented fields and a `Default`, strict by `deny_unknown_fields`.
pub trait WorldConfig: Sized + Default + Serialize + DeserializeOwned + documented::DocumentedFields {
    /// Builds the world.
    ///
    /// # Errors
    /// Values that cannot work, in one sentence.
    fn make(self) -> Result<Box<dyn World>, EnvError>;
}

/// Why a world's table was refused.
#[derive(Debug, thiserror::Error)]
pub enum WorldConfigError {
    /// An unknown key or a wrong type, in serde's words.
    #[error("`{path}`: {error}")]
    Parse {
        /// The key inside the world's table.
        path: String,
        /// What is wrong with it.
        error: toml::de::Error,
    },
    /// A value that does not fit.
    #[error(transparent)]
    Value(#[from] EnvError),
}

/// A setting as `bregman show` prints it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorldSetting {
    /// Its key.
    pub key: String,
    /// Its default as TOML, or `none`.
    pub default: String,
    /// Its meaning.
    pub doc: String,
}

/// A world: its name, a sentence, its settings and how it is made.
#[derive(Clone, Copy)]
pub struct WorldEntry {
    /// Name in run files: `hyper_grid`.
    pub name: &'static str,
    /// One sentence for `bregman list`.
    pub summary: &'static str,
    /// Every setting with default and meaning.
    pub settings: fn() -> Vec<WorldSetting>,
    /// Checks a table and returns it complete, defaults written out.
    pub resolve: fn(&toml::Table) -> Result<toml::Table, WorldConfigError>,
    /// Builds the world from a table.
    pub make: fn(&toml::Table) -> Result<Box<dyn World>, WorldConfigError>,
}

impl WorldEntry {
    /// The entry of the world whose settings are `C`.
    pub const fn of<C: WorldConfig>(name: &'static str, summary: &'static str) -> WorldEntry {
        WorldEntry { name, summary, settings: settings::<C>, resolve: resolve::<C>, make: make::<C> }
    }
}

fn parse<C: WorldConfig>(table: &toml::Table) -> Result<C, WorldConfigError> {
    serde_path_to_error::deserialize(toml::Value::Table(table.clone()))
        .map_err(|e| WorldConfigError::Parse { path: e.path().to_string(), error: e.into_inner() })
}

fn as_table<C: WorldConfig>(config: &C) -> toml::Table {
    toml::Table::try_from(config).unwrap_or_default()
}

fn resolve<C: WorldConfig>(table: &toml::Table) -> Result<toml::Table, WorldConfigError> {
    Ok(as_table(&parse::<C>(table)?))
}

fn make<C: WorldConfig>(table: &toml::Table) -> Result<Box<dyn World>, WorldConfigError> {
    Ok(parse::<C>(table)?.make()?)
}

fn settings<C: WorldConfig>() -> Vec<WorldSetting> {
    let defaults = as_table(&C::default());
    let keys = C::FIELD_NAMES.iter().zip(C::FIELD_DOCS);
    keys.map(|(&key, &doc)| WorldSetting {
        key: key.into(),
        default: defaults.get(key).map_or("none".into(), |value| value.to_string()),
        doc: doc.split_whitespace().collect::<Vec<_>>().join(" "),
    })
    .collect()
}

/// The worlds a program knows.
#[derive(Clone)]
pub struct WorldRegistry {
    entries: BTreeMap<&'static str, WorldEntry>,
}

impl Default for WorldRegistry {
    /// All worlds that come with the library.
    fn default() -> WorldRegistry {
        let entries = [
            WorldEntry::of::<BitSequenceConfig>("bit_sequence", "bit strings near hidden ones, word by word"),
            WorldEntry::of::<HyperGridConfig>(
                "hyper_grid",
                "walks on a grid that may stop anywhere, modes near the corners",
            ),
            WorldEntry::of::<IsingConfig>("ising", "spins on a torus or a complete graph, set one by one"),
            WorldEntry::of::<RnaConfig>("rna", "RNA strings, rewarded for base pairs when folded"),
            WorldEntry::of::<SetConfig>("set", "sets of a fixed size whose elements have energies"),
            WorldEntry::of::<StringsConfig>("strings", "strings with rewards from a CSV file of yours"),
        ];
        WorldRegistry { entries: entries.into_iter().map(|entry| (entry.name, entry)).collect() }
    }
}

impl WorldRegistry {
    /// Adds a world, in place of one with the same name.
    pub fn add(&mut self, entry: WorldEntry) {
        self.entries.insert(entry.name, entry);
    }

    /// The world called `name`.
    pub fn get(&self, name: &str) -> Option<&WorldEntry> {
        self.entries.get(name)
    }

    /// All worlds, by name.
    pub fn entries(&self) -> impl Iterator<Item = &WorldEntry> {
        self.entries.values()
    }
}
