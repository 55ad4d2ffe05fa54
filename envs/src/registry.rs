//! Environments by id.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::world::{World, WorldConfigError, WorldRegistry};
use crate::{Env, EnvError};

/// What steps the environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Native where there is a Rust version, Gymnasium otherwise.
    #[default]
    Auto,
    /// The Rust version.
    Native,
    /// Python's Gymnasium.
    Gymnasium,
    /// Nothing: it is a world, in which objects are built. A run file says so by its table `[world.NAME]`.
    #[serde(skip)]
    World,
}

/// The `[env]` table of a run file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvConfig {
    /// Environment id, `Hopper-v5`.
    pub id: String,
    /// What steps it: `auto` takes the native version where there is one.
    #[serde(default)]
    pub backend: Backend,
    /// Copies stepped side by side. Default 1.
    #[serde(default = "one")]
    pub num_envs: usize,
    /// Steps after which an episode is truncated, instead of the environment's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_episode_steps: Option<u32>,
    /// Python modules to import first, so that they register their environments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
    /// The environment's own keyword arguments.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub kwargs: toml::Table,
}

fn one() -> usize {
    1
}

impl EnvConfig {
    /// One copy of the environment `id` with everything else at its default.
    pub fn new(id: &str) -> EnvConfig {
        EnvConfig {
            id: id.into(),
            backend: Backend::Auto,
            num_envs: 1,
            max_episode_steps: None,
            imports: Vec::new(),
            kwargs: toml::Table::new(),
        }
    }

    /// The world `name` with the given settings, of which `changed` are not at their defaults: its id tells it from others,
    /// `hyper_grid(ndim=4 height=20)`.
    pub fn world(name: &str, settings: toml::Table, changed: &[(&str, String)]) -> EnvConfig {
        let changed: Vec<String> = changed.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let id = if changed.is_empty() { name.into() } else { format!("{name}({})", changed.join(" ")) };
        EnvConfig { backend: Backend::World, kwargs: settings, ..EnvConfig::new(&id) }
    }

    /// Whether it is a world.
    pub fn is_world(&self) -> bool {
        self.backend == Backend::World
    }
}

/// A native environment: its id, a sentence, and how it is made.
#[derive(Clone, Copy)]
pub struct EnvEntry {
    /// The id in run files.
    pub id: &'static str,
    /// One sentence for `bregman list`.
    pub summary: &'static str,
    /// Makes one environment, its time limit included.
    pub make: fn(&EnvConfig) -> Result<Box<dyn Env>, EnvError>,
}

/// The native environments, and Gymnasium for the rest.
#[derive(Clone)]
pub struct Registry {
    entries: BTreeMap<&'static str, EnvEntry>,
    /// Worlds by name.
    pub worlds: WorldRegistry,
    /// Where environments are filmed to; shared with clones, which a learner may hold.
    film: Arc<OnceLock<PathBuf>>,
}

impl Default for Registry {
    /// All environments that come with the library.
    fn default() -> Registry {
        let entries =
            crate::classic::ENTRIES.into_iter().chain(crate::mujoco::ENTRIES).chain(crate::closed_form::ENTRIES);
        let entries = entries.map(|entry| (entry.id, entry)).collect();
        Registry { entries, worlds: WorldRegistry::default(), film: Arc::default() }
    }
}

impl Registry {
    /// Adds an environment, in place of one with the same id.
    pub fn add(&mut self, entry: EnvEntry) {
        self.entries.insert(entry.id, entry);
    }

    /// The native environments, by id.
    pub fn entries(&self) -> impl Iterator<Item = &EnvEntry> {
        self.entries.values()
    }

    /// Makes the world that `config` names.
    ///
    /// # Errors
    /// A name that is not known, or settings that the world refuses.
    pub fn world(&self, config: &EnvConfig) -> Result<Box<dyn World>, EnvError> {
        let name = config.id.split('(').next().unwrap_or_default();
        let unknown = || EnvError::Invalid { id: config.id.clone(), message: "no world has this name".into() };
        let entry = self.worlds.get(name).ok_or_else(unknown)?;
        (entry.make)(&config.kwargs).map_err(|error| match error {
            WorldConfigError::Value(error) => error,
            parse => EnvError::World { name: name.into(), message: parse.to_string() },
        })
    }

    /// What would step this environment: `native`, `gymnasium`, or `world` where nothing would.
    pub fn backend(&self, config: &EnvConfig) -> &'static str {
        if config.is_world() {
            return "world";
        }
        let native = config.backend != Backend::Gymnasium && self.entries.contains_key(config.id.as_str());
        if native { "native" } else { "gymnasium" }
    }

    /// From now on this registry and its clones make environments through Gymnasium only and film them into `path`, GIF or
    /// MP4: one file, so one environment at a time. The first path stays.
    pub fn film(&self, path: &Path) {
        let _ = self.film.set(path.into());
    }

    /// Makes one environment.
    ///
    /// # Errors
    /// An id that neither side knows, or settings that the environment refuses.
    pub fn make(&self, config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
        if config.is_world() {
            let message =
                "it is a world, for agents such as tb; this one acts in an environment: write [env] in its place"
                    .into();
            return Err(EnvError::World { name: config.id.clone(), message });
        }
        let film = self.film.get().map(PathBuf::as_path);
        match (config.backend, self.entries.get(config.id.as_str()).filter(|_| film.is_none())) {
            (Backend::Auto | Backend::Native, Some(entry)) => (entry.make)(config),
            (Backend::Native, None) if film.is_none() => Err(EnvError::Unknown {
                id: config.id.clone(),
                hint: format!(" among the native ones; there are {}", self.known()),
            }),
            _ => {
                let natives: Vec<&str> = self.entries.keys().copied().collect();
                Ok(Box::new(crate::gymnasium::GymEnv::beside(config, &natives, film)?))
            }
        }
    }

    fn known(&self) -> String {
        self.entries.keys().copied().collect::<Vec<_>>().join(", ")
    }
}
