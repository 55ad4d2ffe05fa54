//! Minari's layout: a group for each episode in `data/main_data.hdf5`, and `data/metadata.json` beside it.
//!
//! Row t of an episode is action t, taken at observation t, with the reward and flags that it gave; the successor is
//! observation t + 1, so that an episode of T steps has T + 1 observations.

use std::path::{Path, PathBuf};

use bregman_envs::hdf5::{Dtype, Hdf5};
use bregman_envs::{ActionSpace, EnvConfig};
use serde_json::{Map, Value, json};

use super::{Block, DatasetError, Format, Header, Sink, check_finite};

/// Versions whose files have this layout.
const VERSIONS: [&str; 9] = ["0.4.0", "0.4.1", "0.4.2", "0.4.3", "0.5.0", "0.5.1", "0.5.2", "0.5.3", "0.5.4"];

/// What our files call themselves: the first version of their layout, so that every later one reads them.
const WRITTEN: &str = "0.5.0";

/// Episodes read at a time.
const EPISODES: usize = 64;

/// Where Minari keeps datasets: `$MINARI_DATASETS_PATH`, or `~/.minari/datasets`.
pub fn minari_root() -> PathBuf {
    let set = std::env::var_os("MINARI_DATASETS_PATH").map(PathBuf::from);
    set.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".minari/datasets"))
}

/// Whether a text is an id, `mujoco/hopper/expert-v0`: parts of at least two letters, and a version.
pub(super) fn is_id(text: &str) -> bool {
    let mut parts: Vec<&str> = text.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    let versioned =
        name.rsplit_once("-v").is_some_and(|(name, version)| !name.is_empty() && version.parse::<u64>().is_ok());
    let plain = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    versioned && parts.iter().all(|part| part.len() >= 2) && parts.iter().chain([&name]).all(plain)
}

/// A Minari dataset, open to read.
pub struct Minari {
    file: Hdf5,
    pub(super) header: Header,
    episodes: usize,
}

impl Minari {
    /// Opens the folder of a dataset, or its folder `data`.
    ///
    /// # Errors
    /// No such file in it, or what [`with_file`](Minari::with_file) refuses.
    pub fn open(folder: &Path) -> Result<Minari, DatasetError> {
        let inner = folder.join("data");
        let data = if inner.is_dir() { inner } else { folder.into() };
        let file = data.join("main_data.hdf5");
        if !file.exists() {
            let metadata: Value = std::fs::read_to_string(data.join("metadata.json"))
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default();
            return Err(DatasetError(match metadata["data_format"].as_str() {
                Some(format) if format != "hdf5" => {
                    format!("{}: its data format is `{format}`, and `hdf5` is read", folder.display())
                }
                _ => format!("{}: there is no main_data.hdf5 in it", folder.display()),
            }));
        }
        Minari::with_file(Hdf5::open(&file)?)
    }

    /// The dataset whose `main_data.hdf5` this is.
    ///
    /// # Errors
    /// A version or data format that is not known, or episodes without what belongs in them.
    pub fn with_file(file: Hdf5) -> Result<Minari, DatasetError> {
        let metadata = read_metadata(file.path())?;
        let beside = |what: String| file.error(format!("metadata.json beside it says {what}"));
        if let Some(version) = metadata.get("minari_version") {
            let version = version.as_str().unwrap_or_default();
            if !VERSIONS.contains(&version) {
                let (first, last) = (VERSIONS[0], VERSIONS[VERSIONS.len() - 1]);
                return Err(beside(format!("`minari_version` {version:?}, and {first} to {last} are read")).into());
            }
        }
        let keys = file.keys()?;
        let episodes = keys.iter().filter(|key| key.starts_with("episode_")).count();
        let count = |key: &str| metadata.get(key).and_then(Value::as_u64).map(|n| n as usize);
        if let Some(said) = count("total_episodes").filter(|&said| said != episodes) {
            return Err(beside(format!("{said} episodes, and there are {episodes}: the file is not whole")).into());
        }
        let arrays = file.arrays("episode_0")?;
        let width = |key: &str| {
            let inside = format!("{key}/");
            if arrays.iter().any(|array| array.name.starts_with(&inside)) {
                return Err(file.error(format!("`{key}` are of a Dict or Tuple space, and Box spaces are read")));
            }
            let array = arrays.iter().find(|array| array.name == key);
            let array = array.ok_or_else(|| file.error(format!("there is no `episode_0/{key}`")))?;
            match array.shape[..] {
                _ if !array.is_numeric() => {
                    Err(file.error(format!("`episode_0/{key}` holds {}, not numbers", array.kind)))
                }
                [_] => Ok((1, array.clone())),
                [_, width] if width > 0 => Ok((width, array.clone())),
                _ => Err(file
                    .error(format!("`episode_0/{key}` has the shape {:?}, and [steps, width] is read", array.shape))),
            }
        };
        let ((obs_dim, obs), (act_dim, action)) = (width("observations")?, width("actions")?);
        if action.kind == "int" {
            return Err(file
                .error("`actions` are whole numbers, as of a Discrete space, and Box spaces are read")
                .into());
        }
        let steps = match count("total_steps") {
            Some(steps) => steps,
            None => {
                episodes
                    * arrays.iter().find(|a| a.name == "rewards").map_or(0, |a| a.shape.first().copied().unwrap_or(0))
            }
        };
        let text = |key: &str| metadata.get(key).and_then(Value::as_str);
        let number = |key: &str| metadata.get(key).and_then(Value::as_f64);
        let mut about = Vec::new();
        for (key, value) in &metadata {
            let shown = !key.ends_with("_space") && !key.ends_with("env_spec") && !key.starts_with("total_");
            if shown && !value.is_null() {
                about.push((key.clone(), value.as_str().map_or_else(|| value.to_string(), String::from)));
            }
        }
        let header = Header {
            format: Format::Minari,
            rows: steps,
            obs_dim,
            act_dim,
            dtype: if obs.kind == "float" && obs.bytes <= 4 { Dtype::F32 } else { Dtype::F64 },
            env: text("eval_env_spec").or(text("env_spec")).and_then(env_of),
            reference: number("ref_min_score").zip(number("ref_max_score")),
            about,
        };
        Ok(Minari { file, header, episodes })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Hands on every transition, a number of episodes at a time.
    pub(super) fn read(&self, sink: &mut Sink) -> Result<(), DatasetError> {
        let (obs_dim, act_dim) = (self.header.obs_dim, self.header.act_dim);
        for first in (0..self.episodes).step_by(EPISODES) {
            let all = first..(first + EPISODES).min(self.episodes);
            let get = |key: &str, width: usize| -> Result<(Vec<f64>, Vec<usize>), DatasetError> {
                let names: Vec<String> = all.clone().map(|i| format!("episode_{i}/{key}")).collect();
                let (data, shapes) = self.file.gather(&names)?;
                for (name, shape) in names.iter().zip(&shapes) {
                    let found: usize = shape.iter().skip(1).product();
                    if shape.is_empty() || found != width {
                        let what =
                            format!("`{name}` has the shape {shape:?}, and its rows have {width} numbers in episode 0");
                        return Err(self.file.error(what).into());
                    }
                }
                let mut at = 0;
                for (name, shape) in names.iter().zip(&shapes) {
                    check_finite(&self.file, name, 0, width, &data[at..at + shape[0] * width])?;
                    at += shape[0] * width;
                }
                Ok((data, shapes.into_iter().map(|shape| shape[0]).collect()))
            };
            let (obs, obs_len) = get("observations", obs_dim)?;
            let (action, lens) = get("actions", act_dim)?;
            let (reward, reward_len) = get("rewards", 1)?;
            let (terminated, terminated_len) = get("terminations", 1)?;
            let (truncated, truncated_len) = get("truncations", 1)?;
            for (k, &len) in lens.iter().enumerate() {
                let wrong = [
                    ("observations", obs_len[k], len + 1),
                    ("rewards", reward_len[k], len),
                    ("terminations", terminated_len[k], len),
                    ("truncations", truncated_len[k], len),
                ];
                if let Some((key, found, want)) = wrong.into_iter().find(|(_, found, want)| found != want) {
                    let episode = first + k;
                    return Err(self
                        .file
                        .error(format!("`episode_{episode}/{key}` has {found} rows, and {len} actions make it {want}"))
                        .into());
                }
            }
            let mut block = Block::default();
            let mut at = 0; // the episode's first observation
            for &len in &lens {
                block.obs.extend_from_slice(&obs[at * obs_dim..(at + len) * obs_dim]);
                block.next_obs.extend_from_slice(&obs[(at + 1) * obs_dim..(at + len + 1) * obs_dim]);
                block.last.extend((0..len).map(|t| t + 1 == len));
                at += len + 1;
            }
            block.known = vec![true; reward.len()];
            block.terminated = terminated.iter().map(|&x| x != 0.0).collect();
            block.truncated = truncated.iter().map(|&x| x != 0.0).collect();
            (block.action, block.reward) = (action, reward);
            sink(&block)?;
        }
        Ok(())
    }
}

/// `metadata.json` beside a file; empty where there is none.
fn read_metadata(file: &Path) -> Result<Map<String, Value>, DatasetError> {
    let path = file.with_file_name("metadata.json");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(Map::new()) };
    serde_json::from_str(&text).map_err(|e| DatasetError(format!("{}: {e}", path.display())))
}

/// The environment of Gymnasium's own description, as far as it can be made here: wrappers are not.
pub(super) fn env_of(spec: &str) -> Option<EnvConfig> {
    let spec: Value = serde_json::from_str(spec).ok()?;
    let mut env = EnvConfig::new(spec["id"].as_str()?);
    env.max_episode_steps = spec["max_episode_steps"].as_u64().map(|n| n as u32);
    if let Some(kwargs) = spec["kwargs"].as_object() {
        env.kwargs =
            kwargs.iter().filter_map(|(key, value)| Some((key.clone(), toml::Value::try_from(value).ok()?))).collect();
    }
    Some(env)
}

/// What a Minari dataset says of itself when it is written.
#[derive(Clone, Debug, Default)]
pub struct MinariInfo {
    /// Its id, `ours/hopper/medium-v0`.
    pub dataset_id: String,
    /// The actions; unbounded where they are not known.
    pub action_space: Option<ActionSpace>,
    /// The environment, as Gymnasium describes it.
    pub env_spec: Option<String>,
    /// Returns that count as 0 and 1.
    pub reference: Option<(f64, f64)>,
    /// `algorithm_name`, `description` and such.
    pub about: Vec<(String, String)>,
}

/// A Minari dataset that is being written, whole episodes at a time.
pub struct MinariWriter {
    file: Hdf5,
    folder: PathBuf,
    open: Block,
    dims: (usize, usize),
    dtype: Dtype,
    episodes: usize,
    steps: usize,
}

impl MinariWriter {
    /// Begins a dataset in `folder`, in place of one that is there; observations are of `dtype`.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn create(folder: &Path, obs_dim: usize, act_dim: usize, dtype: Dtype) -> Result<MinariWriter, DatasetError> {
        let data = folder.join("data");
        std::fs::create_dir_all(&data).map_err(|e| DatasetError(format!("{}: {e}", data.display())))?;
        let file = Hdf5::create(&data.join("main_data.hdf5"))?;
        let (open, dims) = (Block::default(), (obs_dim, act_dim));
        Ok(MinariWriter { file, folder: folder.into(), open, dims, dtype, episodes: 0, steps: 0 })
    }

    /// Appends transitions; a row that is none is left out.
    pub fn push(&mut self, block: &Block) -> Result<(), DatasetError> {
        for i in 0..block.len() {
            self.open.push(block, i, self.dims.0, self.dims.1);
            if block.last[i] {
                self.close()?;
            }
        }
        Ok(())
    }

    /// Writes the open episode. Where neither flag says why it ended, it was cut.
    fn close(&mut self) -> Result<(), DatasetError> {
        let (obs_dim, act_dim) = self.dims;
        let episode = std::mem::take(&mut self.open).transitions(obs_dim, act_dim);
        let len = episode.len();
        if len == 0 {
            return Ok(());
        }
        let group = format!("episode_{}", self.episodes);
        let write = |key: &str, dtype, width: usize, data: &[f64]| -> Result<(), DatasetError> {
            let name = format!("{group}/{key}");
            self.file.begin(&name, dtype, width, len + 1, false)?;
            Ok(self.file.append(&name, data)?)
        };
        let obs = [&episode.obs[..], &episode.next_obs[(len - 1) * obs_dim..]].concat();
        let flags = |flags: &[bool]| flags.iter().map(|&flag| f64::from(u8::from(flag))).collect::<Vec<f64>>();
        let mut truncated = episode.truncated.clone();
        truncated[len - 1] |= !episode.terminated[len - 1];
        write("observations", self.dtype, obs_dim, &obs)?;
        write("actions", Dtype::F32, act_dim, &episode.action)?;
        write("rewards", Dtype::F64, 0, &episode.reward)?;
        write("terminations", Dtype::Bool, 0, &flags(&episode.terminated))?;
        write("truncations", Dtype::Bool, 0, &flags(&truncated))?;
        // Minari wants the group, though it may be empty.
        self.file.require_group(&format!("{group}/infos"))?;
        self.file.set_number(&group, "id", self.episodes as f64, Dtype::I64)?;
        self.file.set_number(&group, "total_steps", len as f64, Dtype::I64)?;
        self.episodes += 1;
        self.steps += len;
        Ok(())
    }

    /// Writes `metadata.json`, without which Minari does not load the dataset.
    pub fn finish(mut self, info: &MinariInfo) -> Result<(), DatasetError> {
        self.close()?;
        let (obs_dim, act_dim) = self.dims;
        let dtype = if self.dtype == Dtype::F32 { "float32" } else { "float64" };
        let free = |n: usize, dtype: &str| box_json(dtype, &vec![f32::NEG_INFINITY; n], &vec![f32::INFINITY; n]);
        let action_space = match &info.action_space {
            Some(ActionSpace::Box { low, high }) => box_json("float32", low, high),
            _ => free(act_dim, "float32"),
        };
        let mut metadata = json!({
            "dataset_id": info.dataset_id,
            "minari_version": WRITTEN,
            "total_episodes": self.episodes,
            "total_steps": self.steps,
            "data_format": "hdf5",
            "observation_space": free(obs_dim, dtype),
            "action_space": action_space,
        });
        if let Some(spec) = &info.env_spec {
            metadata["env_spec"] = json!(spec);
        }
        if let Some((low, high)) = info.reference {
            (metadata["ref_min_score"], metadata["ref_max_score"]) = (json!(low), json!(high));
        }
        for (name, text) in &info.about {
            // Authors are a list there, of which a header has the text.
            let list = name.starts_with("author").then(|| serde_json::from_str(text).unwrap_or_else(|_| json!([text])));
            metadata[name.as_str()] = list.unwrap_or_else(|| json!(text));
        }
        let MinariWriter { file, folder, .. } = self;
        drop(file);
        let data = folder.join("data");
        let size = std::fs::metadata(data.join("main_data.hdf5")).map_or(0, |file| file.len());
        metadata["dataset_size"] = json!((size as f64 / 1e5).round() / 10.0);
        let path = data.join("metadata.json");
        std::fs::write(&path, metadata.to_string()).map_err(|e| DatasetError(format!("{}: {e}", path.display())))
    }
}

/// A Box as Minari writes it: JSON but for infinities, which Python reads as bare words.
fn box_json(dtype: &str, low: &[f32], high: &[f32]) -> String {
    let list = |bounds: &[f32]| {
        let one = |x: &f32| match x {
            x if *x == f32::INFINITY => "Infinity".into(),
            x if *x == f32::NEG_INFINITY => "-Infinity".into(),
            x => format!("{x:?}"),
        };
        bounds.iter().map(one).collect::<Vec<String>>().join(", ")
    };
    let (shape, low, high) = (low.len(), list(low), list(high));
    format!(r#"{{"type": "Box", "dtype": "{dtype}", "shape": [{shape}], "low": [{low}], "high": [{high}]}}"#)
}
