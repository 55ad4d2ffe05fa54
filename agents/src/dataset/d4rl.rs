//! D4RL's layout: one flat HDF5 file, rows of consecutive episodes.
//!
//! Every float, integer and bool type is read, rewards and flags as `[N]` or `[N, 1]`. `timeouts` and `next_observations`
//! may be missing, as in older files.

use std::ops::Range;
use std::path::Path;

use bregman_envs::hdf5::{ArrayInfo, Attribute, Dtype, Hdf5};

use super::{Block, Conversion, DatasetError, Format, Header, Sink, check_finite};

/// Where D4RL's files say what trained the policy behind them.
const ALGORITHM: &str = "metadata/algorithm";

/// A D4RL file, open to read.
pub struct D4rl {
    file: Hdf5,
    pub(super) header: Header,
    has_timeouts: bool,
    has_next: bool,
}

impl D4rl {
    /// Looks for the keys and checks their shapes.
    ///
    /// # Errors
    /// A key that is missing, holds no numbers, or has another number of rows than the others.
    pub fn new(file: Hdf5) -> Result<D4rl, DatasetError> {
        let arrays = file.arrays("/")?;
        let find = |key: &str| arrays.iter().find(|array| array.name == key);
        let need = |key: &str| {
            let why = "a D4RL file has `observations`, `actions`, `rewards` and `terminals`, a Minari file `episode_0`";
            find(key).ok_or_else(|| file.error(format!("there is no `{key}`: {why}")))
        };
        let observations = need("observations")?;
        let rows = observations.shape.first().copied().unwrap_or(0);
        if rows == 0 {
            return Err(file.error("`observations` has no rows").into());
        }
        let check = |array: &ArrayInfo, vector: bool| {
            let name = &array.name;
            if !array.is_numeric() {
                return Err(file.error(format!("`{name}` holds {}, not numbers", array.kind)));
            }
            let fits = match array.shape[..] {
                [_] => true,
                [_, width] => vector && width > 0 || width == 1,
                _ => false,
            };
            if !fits {
                let want = if vector { "[rows, width]" } else { "[rows]" };
                return Err(file.error(format!("`{name}` has the shape {:?}, and {want} is read", array.shape)));
            }
            if array.shape[0] != rows {
                return Err(file.error(format!("`{name}` has {} rows and `observations` has {rows}", array.shape[0])));
            }
            Ok(array.shape.get(1).copied().unwrap_or(1))
        };
        let (obs_dim, act_dim) = (check(observations, true)?, check(need("actions")?, true)?);
        if need("actions")?.kind == "int" {
            return Err(file
                .error("`actions` are whole numbers, as of a Discrete space, and Box spaces are read")
                .into());
        }
        check(need("rewards")?, false)?;
        check(need("terminals")?, false)?;
        if let Some(timeouts) = find("timeouts") {
            check(timeouts, false)?;
        }
        if let Some(next) = find("next_observations")
            && check(next, true)? != obs_dim
        {
            let error = format!(
                "`next_observations` has the shape {:?} and `observations` {:?}",
                next.shape, observations.shape
            );
            return Err(file.error(error).into());
        }
        let dtype = if observations.kind == "float" && observations.bytes <= 4 { Dtype::F32 } else { Dtype::F64 };
        let (has_timeouts, has_next) = (find("timeouts").is_some(), find("next_observations").is_some());
        let (mut env, mut about) = (None, Vec::new());
        for (name, value) in file.attributes("/")? {
            match value {
                Attribute::Text(text) if name == "env_spec" => env = super::minari::env_of(&text),
                Attribute::Text(text) => about.push((name, text)),
                Attribute::Number(number) => about.push((name, number.to_string())),
            }
        }
        // By the name that it has in Minari.
        let algorithm = if find(ALGORITHM).is_some() { file.read_text(ALGORITHM)? } else { None };
        let known = ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"];
        let is_known = |name: &str| known.contains(&name) || name == ALGORITHM && algorithm.is_some();
        let others = arrays.iter().filter(|array| !is_known(&array.name));
        let others: Vec<&str> = others.map(|array| array.name.as_str()).collect();
        if !others.is_empty() {
            about.push(("also holds".into(), others.join(", ")));
        }
        about.extend(algorithm.map(|name| ("algorithm_name".into(), name)));
        let header = Header { format: Format::D4rl, rows, obs_dim, act_dim, dtype, env, reference: None, about };
        Ok(D4rl { file, header, has_timeouts, has_next })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether the file says where time limits were.
    pub fn has_timeouts(&self) -> bool {
        self.has_timeouts
    }

    /// Whether the file has the successors.
    pub fn has_next_observations(&self) -> bool {
        self.has_next
    }

    fn flags(&self, key: &str, rows: Range<usize>) -> Result<Vec<bool>, DatasetError> {
        let first = rows.start;
        let flags = self.file.rows(key, rows)?;
        match flags.iter().position(|&x| x != 0.0 && x != 1.0) {
            None => Ok(flags.into_iter().map(|x| x == 1.0).collect()),
            Some(at) => Err(self
                .file
                .error(format!("`{key}` is {} in row {}, and 0 or 1 are read", flags[at], first + at))
                .into()),
        }
    }

    fn numbers(&self, key: &str, width: usize, rows: Range<usize>) -> Result<Vec<f64>, DatasetError> {
        let first = rows.start;
        let data = self.file.rows(key, rows)?;
        check_finite(&self.file, key, first, width, &data)?;
        Ok(data)
    }

    /// Hands on every transition, `size` rows at a time.
    pub(super) fn read(
        &self,
        conversion: Conversion,
        max_episode_steps: usize,
        size: usize,
        sink: &mut Sink,
    ) -> Result<(), DatasetError> {
        let (rows, obs_dim, act_dim) = (self.header.rows, self.header.obs_dim, self.header.act_dim);
        let mut step = 0;
        for start in (0..rows).step_by(size) {
            let end = (start + size).min(rows);
            // One row more, which is the successor of the last.
            let obs = self.numbers("observations", obs_dim, start..(end + 1).min(rows))?;
            let action = self.numbers("actions", act_dim, start..end)?;
            let reward = self.numbers("rewards", 1, start..end)?;
            let terminated = self.flags("terminals", start..end)?;
            let timeouts = if self.has_timeouts { Some(self.flags("timeouts", start..end)?) } else { None };
            let own = conversion == Conversion::Own;
            let next = if own && self.has_next { Some(self.file.rows("next_observations", start..end)?) } else { None };
            let mut block = Block::default();
            for i in 0..end - start {
                let at = |all: &[f64], row: usize| all[row * obs_dim..(row + 1) * obs_dim].to_vec();
                let timeout = timeouts.as_ref().map_or(step + 1 == max_episode_steps, |timeouts| timeouts[i]);
                let final_row = start + i + 1 == rows;
                let following = (!final_row).then(|| at(&obs, i + 1));
                let (successor, last) = match (conversion, &next) {
                    (Conversion::Own, Some(next)) => {
                        let mut next = at(next, i);
                        if terminated[i] && next.iter().any(|x| !x.is_finite()) {
                            next = at(&obs, i); // its value never counts
                        }
                        check_finite(&self.file, "next_observations", start + i, obs_dim, &next)?;
                        // An episode that was cut without a flag shows in its successor.
                        let breaks = following.is_some_and(|following| distance(&following, &next) > BREAK);
                        (Some(next), terminated[i] || timeout || final_row || breaks)
                    }
                    (Conversion::Own, None) => {
                        let last = terminated[i] || timeout || final_row;
                        let unknown = if terminated[i] { Some(at(&obs, i)) } else { None };
                        (if last { unknown } else { following }, last)
                    }
                    (Conversion::D4rl, _) => (following.filter(|_| !timeout), terminated[i] || timeout || final_row),
                    (Conversion::D4rlTerminateOnEnd, _) => (following, terminated[i] || timeout || final_row),
                };
                // D4RL's own counter stands at 1 after a terminal row, because it is raised after it is reset.
                let reset = usize::from(!own && successor.is_some());
                step = if last { reset } else { step + 1 };
                block.obs.extend(at(&obs, i));
                block.action.extend_from_slice(&action[i * act_dim..(i + 1) * act_dim]);
                block.reward.push(reward[i]);
                block.known.push(successor.is_some());
                block.next_obs.extend(successor.unwrap_or_else(|| at(&obs, i)));
                block.terminated.push(terminated[i]);
                block.truncated.push(timeout);
                block.last.push(last);
            }
            sink(&block)?;
        }
        Ok(())
    }
}

/// From this distance on, a successor and the next observation are not the same state; as in IQL.
const BREAK: f64 = 1e-6;

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// A D4RL file that is being written, whole episodes at a time.
pub struct D4rlWriter {
    file: Hdf5,
    open: Block,
    ready: Block,
    dims: (usize, usize),
}

impl D4rlWriter {
    /// Begins a file in place of one that is there; floats are of `dtype`, as D4RL's are of single precision.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn create(path: &Path, obs_dim: usize, act_dim: usize, dtype: Dtype) -> Result<D4rlWriter, DatasetError> {
        let file = Hdf5::create(path)?;
        let arrays = [("observations", obs_dim), ("actions", act_dim), ("rewards", 0), ("next_observations", obs_dim)];
        for (name, width) in arrays {
            file.begin(name, dtype, width, 1 << 13, true)?;
        }
        file.begin("terminals", Dtype::Bool, 0, 1 << 16, true)?;
        file.begin("timeouts", Dtype::Bool, 0, 1 << 16, true)?;
        Ok(D4rlWriter { file, open: Block::default(), ready: Block::default(), dims: (obs_dim, act_dim) })
    }

    /// Appends transitions; a row that is none is left out.
    pub fn push(&mut self, block: &Block) -> Result<(), DatasetError> {
        let (obs_dim, act_dim) = self.dims;
        for i in 0..block.len() {
            self.open.push(block, i, obs_dim, act_dim);
            if block.last[i] {
                self.close();
            }
        }
        if self.ready.len() >= super::BLOCK { self.write() } else { Ok(()) }
    }

    /// Takes the open episode over.
    fn close(&mut self) {
        let episode = std::mem::take(&mut self.open).transitions(self.dims.0, self.dims.1);
        for i in 0..episode.len() {
            self.ready.push(&episode, i, self.dims.0, self.dims.1);
        }
    }

    /// Writes the episodes that are ready. A row that ends one without being terminal gets the timeout by which readers see
    /// the end.
    fn write(&mut self) -> Result<(), DatasetError> {
        let block = std::mem::take(&mut self.ready);
        let floats = [
            ("observations", &block.obs),
            ("actions", &block.action),
            ("rewards", &block.reward),
            ("next_observations", &block.next_obs),
        ];
        for (name, data) in floats {
            self.file.append(name, data)?;
        }
        let flags =
            |flag: &dyn Fn(usize) -> bool| (0..block.len()).map(|i| f64::from(u8::from(flag(i)))).collect::<Vec<_>>();
        self.file.append("terminals", &flags(&|i| block.terminated[i]))?;
        self.file.append("timeouts", &flags(&|i| block.last[i] && !block.terminated[i]))?;
        Ok(())
    }

    /// Writes what the file says of itself: the environment, as Gymnasium describes it, and texts by name, Minari's
    /// `algorithm_name` where D4RL has it.
    pub fn finish(mut self, env_spec: Option<&str>, about: &[(String, String)]) -> Result<(), DatasetError> {
        self.close();
        self.write()?;
        if let Some(spec) = env_spec {
            self.file.set_text("/", "env_spec", spec)?;
        }
        for (name, text) in about {
            match name.as_str() {
                "algorithm_name" => self.file.write_text(ALGORITHM, text)?,
                name => self.file.set_text("/", name, text)?,
            }
        }
        Ok(())
    }
}
