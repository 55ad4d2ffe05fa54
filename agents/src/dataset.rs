//! Datasets of experience: D4RL and Minari files, read in stretches, checked, and kept as rows to draw from.
//!
//! A [`Source`] is a file; its rows come in [`Block`]s, so that its size does not matter. A [`Dataset`] is what an agent
//! learns from: one packed row a transition, in memory or on disk.

mod d4rl;
mod minari;
mod store;

use std::path::{Path, PathBuf};

use bregman_envs::EnvConfig;
use bregman_envs::hdf5::{Dtype, Hdf5, Hdf5Error};
use bregman_envs::rng::NumpyRng;
use serde::{Deserialize, Serialize};

pub use self::d4rl::{D4rl, D4rlWriter};
pub use self::minari::{Minari, MinariInfo, MinariWriter, minari_root};
use self::store::Store;
use crate::storage::Storage;

/// Rows read at a time.
const BLOCK: usize = 1 << 15;

/// Why a dataset cannot be used: one sentence with file, key and row.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct DatasetError(pub String);

impl From<Hdf5Error> for DatasetError {
    fn from(error: Hdf5Error) -> DatasetError {
        DatasetError(error.0)
    }
}

/// The `[dataset]` table of a run file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// An HDF5 file, the folder of a Minari dataset, or a Minari id below `$MINARI_DATASETS_PATH`.
    pub path: String,
    /// How the rows of a D4RL file become transitions.
    #[serde(default)]
    pub conversion: Conversion,
    /// Steps after which an episode ends in D4RL files that have no `timeouts`.
    #[serde(default = "thousand")]
    pub max_episode_steps: usize,
    /// Episodes left out at the beginning.
    #[serde(default)]
    pub skip_episodes: usize,
    /// Episodes taken after those; all if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_episodes: Option<usize>,
    /// Where the rows are kept while they are learned from.
    #[serde(default)]
    pub storage: Storage,
}

fn thousand() -> usize {
    1000
}

impl DatasetConfig {
    /// The dataset at `path` with everything else at its default.
    pub fn new(path: &str) -> DatasetConfig {
        DatasetConfig {
            path: path.into(),
            conversion: Conversion::Own,
            max_episode_steps: thousand(),
            skip_episodes: 0,
            max_episodes: None,
            storage: Storage::Auto,
        }
    }
}

/// How the rows of a D4RL file become transitions. Minari's files leave no choice: they hold every successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conversion {
    /// Every row whose true successor is known: from `next_observations` where the file has it, else from the next row of
    /// the episode.
    #[default]
    Own,
    /// As D4RL's `qlearning_dataset` does: the successor is the next row, whatever that is; rows with a timeout and the
    /// last row are left out.
    D4rl,
    /// The same with `terminate_on_end=True`: rows with a timeout stay, and are not terminal either.
    D4rlTerminateOnEnd,
}

/// The layout of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One flat file.
    D4rl,
    /// A group for each episode, and `metadata.json` beside it.
    Minari,
}

/// What a file says of itself before its rows are read.
#[derive(Clone, Debug)]
pub struct Header {
    /// Its layout.
    pub format: Format,
    /// Rows in the file.
    pub rows: usize,
    /// Length of an observation, flattened.
    pub obs_dim: usize,
    /// Length of an action.
    pub act_dim: usize,
    /// The type of its observations.
    pub dtype: Dtype,
    /// The environment that it names, if it does.
    pub env: Option<EnvConfig>,
    /// Returns that count as 0 and 1, if it says so.
    pub reference: Option<(f64, f64)>,
    /// The rest of what it says, by name.
    pub about: Vec<(String, String)>,
}

/// Consecutive rows as a file has them, episode after episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Observations, `[B, obs_dim]`.
    pub obs: Vec<f64>,
    /// Actions, `[B, act_dim]`.
    pub action: Vec<f64>,
    /// Raw rewards, `[B]`.
    pub reward: Vec<f64>,
    /// Successors, `[B, obs_dim]`; where none is known, the row's own observation.
    pub next_obs: Vec<f64>,
    /// Whether the row is a transition, `[B]`: its successor is known, or it is terminal and has none that counts.
    pub known: Vec<bool>,
    /// Whether the successor is absorbing, `[B]`.
    pub terminated: Vec<bool>,
    /// Whether a time limit ended the episode there, `[B]`.
    pub truncated: Vec<bool>,
    /// Whether the episode ends with the row, `[B]`; also where neither flag says so.
    pub last: Vec<bool>,
}

impl Block {
    /// Number of rows, `B`.
    pub fn len(&self) -> usize {
        self.reward.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.reward.is_empty()
    }
}

/// What takes blocks, one after the other.
pub type Sink<'a> = dyn FnMut(&Block) -> Result<(), DatasetError> + 'a;

/// A dataset file.
pub enum Source {
    /// A flat file.
    D4rl(D4rl),
    /// A group for each episode.
    Minari(Minari),
}

impl Source {
    /// Opens an HDF5 file of either layout, the folder of a Minari dataset, or a Minari id.
    ///
    /// # Errors
    /// A file that is missing, empty, truncated, no HDF5, of another layout, or that lacks a key.
    pub fn open(path: &str) -> Result<Source, DatasetError> {
        let place = Path::new(path);
        if place.is_dir() {
            return Minari::open(place).map(Source::Minari);
        }
        if !place.exists() && minari::is_id(path) {
            let there = minari_root().join(path);
            if there.is_dir() {
                return Minari::open(&there).map(Source::Minari);
            }
            let root = minari_root();
            return Err(DatasetError(format!(
                "{path}: there is no such file, nor such a dataset in {}",
                root.display()
            )));
        }
        let file = Hdf5::open(place)?;
        if file.keys()?.iter().any(|key| key == "episode_0") {
            return Minari::with_file(file).map(Source::Minari);
        }
        D4rl::new(file).map(Source::D4rl)
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        match self {
            Source::D4rl(file) => &file.header,
            Source::Minari(file) => &file.header,
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Source::D4rl(file) => file.path(),
            Source::Minari(file) => file.path(),
        }
    }

    /// Hands on every row, in the file's order, as transitions of the kind that `config` asks for.
    ///
    /// # Errors
    /// Shapes that do not fit, a number that is not finite, what `sink` returns.
    pub fn read(&self, config: &DatasetConfig, sink: &mut Sink) -> Result<(), DatasetError> {
        match self {
            Source::D4rl(file) => file.read(config.conversion, config.max_episode_steps, BLOCK, sink),
            Source::Minari(_) if config.conversion != Conversion::Own => Err(DatasetError(format!(
                "`dataset.conversion`: {} is a Minari dataset, whose files hold every successor: leave it out",
                config.path
            ))),
            Source::Minari(file) => file.read(sink),
        }
    }
}

/// One episode's place in a dataset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Its first transition.
    pub start: usize,
    /// Its transitions.
    pub len: usize,
    /// Sum of its raw rewards, those of rows that are no transitions included.
    pub reward: f64,
    /// Whether it was terminated.
    pub terminated: bool,
    /// Whether a time limit ended it.
    pub truncated: bool,
}

/// Follows episodes through blocks.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    /// Those that have ended, or end with the data.
    pub all: Vec<Span>,
    open: Option<Span>,
    rows: usize,
}

impl Spans {
    /// Takes in the next rows.
    pub fn add(&mut self, block: &Block) {
        for i in 0..block.len() {
            let fresh = Span { start: self.rows, len: 0, reward: 0.0, terminated: false, truncated: false };
            let mut span = self.open.take().unwrap_or(fresh);
            span.len += usize::from(block.known[i]);
            span.reward += block.reward[i];
            self.rows += usize::from(block.known[i]);
            if block.last[i] {
                (span.terminated, span.truncated) = (block.terminated[i], block.truncated[i]);
                self.all.push(span);
            } else {
                self.open = Some(span);
            }
        }
    }

    /// Closes what is open.
    pub fn finish(&mut self) {
        self.all.extend(self.open.take());
    }
}

/// Mean and population variance of columns, merged stretch by stretch (Chan et al. 1979).
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// Means.
    pub mean: Vec<f64>,
    /// Sums of squared distances from the means.
    squares: Vec<f64>,
    /// Rows.
    pub count: f64,
}

impl Columns {
    /// For rows of `width` numbers.
    pub fn new(width: usize) -> Columns {
        Columns { mean: vec![0.0; width], squares: vec![0.0; width], count: 0.0 }
    }

    /// Takes in rows, `[n, width]`.
    pub fn add(&mut self, rows: &[f64]) {
        let width = self.mean.len();
        let n = (rows.len() / width) as f64;
        if n == 0.0 {
            return;
        }
        let total = self.count + n;
        for i in 0..width {
            let column = || rows.iter().skip(i).step_by(width);
            let mean = column().sum::<f64>() / n;
            let squares: f64 = column().map(|x| (x - mean).powi(2)).sum();
            let delta = mean - self.mean[i];
            self.mean[i] += delta * n / total;
            self.squares[i] += squares + delta * delta * self.count * n / total;
        }
        self.count = total;
    }

    /// Population standard deviations.
    pub fn std(&self) -> Vec<f64> {
        self.squares.iter().map(|squares| (squares / self.count.max(1.0)).sqrt()).collect()
    }
}

/// Transitions to learn from.
pub struct Dataset {
    /// What the file says of itself.
    pub header: Header,
    /// Episodes, in the order of their rows.
    pub spans: Vec<Span>,
    /// Moments of the observations.
    pub obs: Columns,
    /// Returns of episodes as the authors of O-DICE cut them; see [`returns_by_d4rl`](Dataset::returns_by_d4rl).
    converted_returns: Vec<f64>,
    /// The same for the same rows.
    pub fingerprint: u64,
    path: PathBuf,
    rows: usize,
    store: Store,
}

/// Transitions drawn from a dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Observations, `[B, obs_dim]`.
    pub obs: Vec<f32>,
    /// Actions, `[B, act_dim]`.
    pub action: Vec<f32>,
    /// Raw rewards, `[B]`.
    pub reward: Vec<f32>,
    /// Successors, `[B, obs_dim]`.
    pub next_obs: Vec<f32>,
    /// 0 where the successor is absorbing and its value does not count, 1 elsewhere, `[B]`.
    pub bootstraps: Vec<f32>,
    row: Vec<f32>,
}

/// Rows after which D4RL's users close an episode that nothing else has closed.
const D4RL_EPISODE: usize = 1000;

impl Dataset {
    /// Reads a dataset; `progress` hears of rows read and rows in the file.
    ///
    /// # Errors
    /// What is wrong with the file, or no room for its rows.
    pub fn load(config: &DatasetConfig, progress: &mut dyn FnMut(usize, usize)) -> Result<Dataset, DatasetError> {
        let source = Source::open(&config.path)?;
        let header = source.header().clone();
        let width = 2 * header.obs_dim + header.act_dim + 2;
        let mut store = Store::new(config.storage, header.rows, width, source.path())?;
        let (mut spans, mut obs) = (Spans::default(), Columns::new(header.obs_dim));
        let mut converted = Converted::default();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let (mut seen, mut episode, mut rows) = (0, 0, 0);
        let wanted =
            config.skip_episodes..config.max_episodes.map_or(usize::MAX, |n| config.skip_episodes.saturating_add(n));
        let mut packed = Vec::new();
        source.read(config, &mut |block: &Block| {
            let block = &block.episodes(&mut episode, &wanted, header.obs_dim, header.act_dim, &mut seen);
            spans.add(block);
            obs.add(&block.obs);
            converted.add(block);
            packed.clear();
            for i in (0..block.len()).filter(|&i| block.known[i]) {
                rows += 1;
                let row = |all: &[f64], width: usize| all[i * width..(i + 1) * width].to_vec();
                packed.extend(row(&block.obs, header.obs_dim).iter().map(|&x| x as f32));
                packed.extend(row(&block.action, header.act_dim).iter().map(|&x| x as f32));
                packed.extend(row(&block.next_obs, header.obs_dim).iter().map(|&x| x as f32));
                packed.push(block.reward[i] as f32);
                packed.push(if block.terminated[i] { 0.0 } else { 1.0 });
            }
            for x in &packed {
                hash = (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
            }
            progress(seen.min(header.rows), header.rows);
            store.append(&packed)
        })?;
        spans.finish();
        let path = source.path().to_path_buf();
        if rows == 0 {
            return Err(DatasetError(format!("{}: no transition is left to learn from", path.display())));
        }
        let (spans, converted_returns) = (spans.all, converted.returns);
        Ok(Dataset { header, spans, obs, converted_returns, fingerprint: hash, path, rows, store })
    }

    /// Number of transitions.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Draws `batch_size` transitions with replacement, out of `rows` if they are given.
    ///
    /// # Errors
    /// Rows on a disk that cannot be read.
    pub fn sample(
        &self,
        batch_size: usize,
        rows: Option<&[u32]>,
        rng: &mut NumpyRng,
        batch: &mut Batch,
    ) -> Result<(), DatasetError> {
        batch.clear();
        for _ in 0..batch_size {
            let row = match rows {
                Some(rows) => rows[rng.below(rows.len())] as usize,
                None => rng.below(self.rows),
            };
            self.push_row(row, batch)?;
        }
        Ok(())
    }

    /// Appends row `row` to a batch.
    pub fn push_row(&self, row: usize, batch: &mut Batch) -> Result<(), DatasetError> {
        let (obs_dim, act_dim) = (self.header.obs_dim, self.header.act_dim);
        let Batch { obs, action, reward, next_obs, bootstraps, row: scratch } = batch;
        let packed = self.store.row(row, scratch)?;
        let (first, rest) = packed.split_at(obs_dim);
        obs.extend_from_slice(first);
        action.extend_from_slice(&rest[..act_dim]);
        next_obs.extend_from_slice(&rest[act_dim..act_dim + obs_dim]);
        reward.push(rest[act_dim + obs_dim]);
        bootstraps.push(rest[act_dim + obs_dim + 1]);
        Ok(())
    }

    /// Largest return of an episode minus the smallest, on the episodes as they are.
    ///
    /// # Errors
    /// A range of 0, by which nothing can be divided.
    pub fn return_range(&self) -> Result<f64, DatasetError> {
        self.range(self.spans.iter().map(|span| span.reward), "all episodes have the same return")
    }

    /// The same as the authors of O-DICE and CORL find it: an episode ends at a terminal or after 1000 rows, whatever
    /// the file says, and the last one counts only if it ends so. On rows from which D4RL's conversion took the
    /// timeouts, an episode of 1000 steps swallows the first row of the next.
    ///
    /// # Errors
    /// A range of 0, by which nothing can be divided.
    pub fn return_range_by_d4rl(&self) -> Result<f64, DatasetError> {
        self.range(self.converted_returns.iter().copied(), "the returns that are found are all the same")
    }

    /// The returns behind [`return_range_by_d4rl`](Dataset::return_range_by_d4rl).
    pub fn returns_by_d4rl(&self) -> &[f64] {
        &self.converted_returns
    }

    fn range(&self, returns: impl Iterator<Item = f64> + Clone, why: &str) -> Result<f64, DatasetError> {
        let (low, high) = returns.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        let range = high - low;
        if range.is_finite() && range > 0.0 {
            return Ok(range);
        }
        Err(DatasetError(format!(
            "{}: {why}, so rewards cannot be scaled by their range: `reward_scale = \"none\"` would do",
            self.path.display()
        )))
    }

    /// The rows of the best `fraction` of the episodes by return, at least of one; the earlier of two equal ones first. Of episodes
    /// that have any: one of a single row without a known successor has none.
    pub fn best_rows(&self, fraction: f64) -> Vec<u32> {
        let mut order: Vec<&Span> = self.spans.iter().filter(|span| span.len > 0).collect();
        order.sort_by(|a, b| b.reward.total_cmp(&a.reward));
        order.truncate(((fraction * order.len() as f64) as usize).max(1));
        let mut rows: Vec<u32> =
            order.iter().flat_map(|span| span.start as u32..(span.start + span.len) as u32).collect();
        rows.sort_unstable();
        rows
    }
}

impl Batch {
    fn clear(&mut self) {
        let all = [&mut self.obs, &mut self.action, &mut self.reward, &mut self.next_obs, &mut self.bootstraps];
        all.into_iter().for_each(Vec::clear);
    }

    /// Number of rows, `B`.
    pub fn len(&self) -> usize {
        self.reward.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.reward.is_empty()
    }
}

impl Block {
    /// The rows of the episodes in `wanted`; counts episodes and rows.
    fn episodes(
        &self,
        episode: &mut usize,
        wanted: &std::ops::Range<usize>,
        obs_dim: usize,
        act_dim: usize,
        seen: &mut usize,
    ) -> Block {
        *seen += self.len();
        let mut kept = Block::default();
        for i in 0..self.len() {
            if wanted.contains(episode) {
                kept.push(self, i, obs_dim, act_dim);
            }
            *episode += usize::from(self.last[i]);
        }
        kept
    }

    /// Appends row `i` of another block.
    pub fn push(&mut self, other: &Block, i: usize, obs_dim: usize, act_dim: usize) {
        self.obs.extend_from_slice(&other.obs[i * obs_dim..(i + 1) * obs_dim]);
        self.action.extend_from_slice(&other.action[i * act_dim..(i + 1) * act_dim]);
        self.reward.push(other.reward[i]);
        self.next_obs.extend_from_slice(&other.next_obs[i * obs_dim..(i + 1) * obs_dim]);
        self.known.push(other.known[i]);
        self.terminated.push(other.terminated[i]);
        self.truncated.push(other.truncated[i]);
        self.last.push(other.last[i]);
    }
}

impl Block {
    /// An episode's transitions: the last row ends it, whichever that is.
    fn transitions(self, obs_dim: usize, act_dim: usize) -> Block {
        let mut kept = Block::default();
        (0..self.len()).filter(|&i| self.known[i]).for_each(|i| kept.push(&self, i, obs_dim, act_dim));
        if let Some(last) = kept.last.last_mut() {
            *last = true;
        }
        kept
    }
}

/// Returns by D4RL's users' rule.
#[derive(Default)]
struct Converted {
    returns: Vec<f64>,
    reward: f64,
    len: usize,
}

impl Converted {
    fn add(&mut self, block: &Block) {
        for i in (0..block.len()).filter(|&i| block.known[i]) {
            self.reward += block.reward[i];
            self.len += 1;
            if block.terminated[i] || self.len == D4RL_EPISODE {
                self.returns.push(self.reward);
                (self.reward, self.len) = (0.0, 0);
            }
        }
    }
}

/// Refuses a number that is not finite.
fn check_finite(file: &Hdf5, key: &str, first_row: usize, width: usize, data: &[f64]) -> Result<(), DatasetError> {
    match data.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let (row, column) = (first_row + at / width.max(1), at % width.max(1));
            let column = if width > 1 { format!(", column {column}") } else { String::new() };
            Err(file.error(format!("`{key}` is {} in row {row}{column}", data[at])).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_stretches_are_those_of_all_rows() {
        // 0, 2, 4, 6, 8, 10: mean 5, squares 25 + 9 + 1 + 1 + 9 + 25 = 70; the second column is the first, negated.
        let mut columns = Columns::new(2);
        columns.add(&[0.0, 0.0, 2.0, -2.0]);
        columns.add(&[]);
        columns.add(&[4.0, -4.0, 6.0, -6.0, 8.0, -8.0, 10.0, -10.0]);
        assert_eq!((columns.count, &columns.mean[..]), (6.0, &[5.0, -5.0][..]));
        assert!(columns.std().iter().all(|std| (std - (70.0f64 / 6.0).sqrt()).abs() < 1e-15), "{:?}", columns.std());
    }
}
