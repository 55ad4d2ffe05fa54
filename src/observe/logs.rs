//! The files of a run that grow: `metrics.csv`, `metrics.jsonl`, `episodes.csv`, `timing.csv` and TensorBoard's events.
//!
//! All but the last two are the same bytes for the same run file and seed. A resumed run cuts every file back to the length
//! that its checkpoint noted, and goes on.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Row, tensorboard};
use crate::metrics::COUNTERS;
use crate::terminal::note;

/// TensorBoard's file, one for the whole run.
const EVENTS: &str = "events.out.tfevents.0.bregman";

/// The growing files of one run.
pub struct Logs {
    columns: Vec<&'static str>,
    metrics_csv: Log,
    metrics_jsonl: Log,
    episodes: Log,
    timing: Log,
    events: Option<Log>,
    tensorboard: bool,
}

impl Logs {
    /// Opens the files of a run, each cut back to its length in `lengths`; a file that is not named there starts anew, with
    /// its header. TensorBoard's file is kept in step while it is switched off, so that it can be switched on again.
    pub fn open(
        run: &Path,
        columns: Vec<&'static str>,
        tensorboard: bool,
        lengths: &BTreeMap<String, u64>,
    ) -> Result<Logs> {
        let open =
            |name: &str, header: &[u8]| Log::open(run.join(name), lengths.get(name).copied().unwrap_or(0), header);
        let wanted = tensorboard || lengths.contains_key(EVENTS);
        Ok(Logs {
            metrics_csv: open("metrics.csv", format!("{}\n", columns.join(",")).as_bytes())?,
            metrics_jsonl: open("metrics.jsonl", b"")?,
            episodes: open("episodes.csv", b"env_steps,env,reward,length\n")?,
            timing: open("timing.csv", b"iteration,env_steps,seconds,fps\n")?,
            events: if wanted { Some(open(EVENTS, &tensorboard::file_version()?)?) } else { None },
            columns,
            tensorboard,
        })
    }

    /// Appends an iteration to every file.
    ///
    /// # Errors
    /// A number that has no column, since it would be missing in `metrics.csv` and in the documentation.
    pub fn write(&mut self, row: &Row) -> Result<()> {
        let progress = row.progress;
        let counters = [progress.iterations, progress.env_steps, progress.grad_steps, progress.episodes];
        for (name, _) in row.metrics.iter() {
            ensure!(self.columns.contains(&name), "`{name}` is logged and not declared in the agent's entry");
        }
        let cells = self.columns[COUNTERS.len()..].iter().map(|name| row.metrics.get(name));
        let cells = cells.map(|cell| cell.map_or(String::new(), |value| value.to_string()));
        let line: Vec<String> = counters.iter().map(u64::to_string).chain(cells).collect();
        self.metrics_csv.append(format!("{}\n", line.join(",")).as_bytes())?;

        let mut object = serde_json::Map::new();
        object.extend(COUNTERS.iter().zip(counters).map(|(name, count)| (name.to_string(), count.into())));
        object.extend(row.metrics.iter().map(|(name, value)| (name.to_string(), value.into())));
        self.metrics_jsonl.append(format!("{}\n", serde_json::Value::Object(object)).as_bytes())?;

        let episodes =
            row.episodes.iter().map(|e| format!("{},{},{},{}\n", progress.env_steps, e.lane, e.reward, e.length));
        self.episodes.append(episodes.collect::<String>().as_bytes())?;
        let timing = format!("{},{},{:.3},{:.0}\n", progress.iterations, progress.env_steps, row.seconds, row.fps);
        self.timing.append(timing.as_bytes())?;

        if let Some(events) = self.events.as_mut().filter(|_| self.tensorboard) {
            let times = [("time/seconds", row.seconds), ("time/fps", row.fps)];
            let event = tensorboard::event(row.position, row.metrics.iter().chain(times), row.histograms)?;
            events.append(&event)?;
        }
        Ok(())
    }

    /// Brings everything to the disk and returns the length of each file.
    pub fn sync(&mut self) -> Result<BTreeMap<String, u64>> {
        let files = [&mut self.metrics_csv, &mut self.metrics_jsonl, &mut self.episodes, &mut self.timing];
        files.into_iter().chain(self.events.as_mut()).map(Log::sync).collect()
    }
}

/// One file that grows.
struct Log {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Log {
    fn open(path: PathBuf, len: u64, header: &[u8]) -> Result<Log> {
        let open = || -> std::io::Result<(File, u64)> {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            let there = file.metadata()?.len();
            file.set_len(len.min(there))?;
            file.seek(SeekFrom::End(0))?;
            Ok((file, there))
        };
        let (file, there) = open().with_context(|| format!("opening {}", path.display()))?;
        if there < len {
            note!("{} is shorter than at the checkpoint: rows are missing", path.display());
        }
        let mut log = Log { path, file, len: len.min(there) };
        if log.len == 0 {
            log.append(header)?;
        }
        Ok(log)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("writing {}", self.path.display()))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(String, u64)> {
        self.file.sync_data().with_context(|| format!("writing {}", self.path.display()))?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, self.len))
    }
}
