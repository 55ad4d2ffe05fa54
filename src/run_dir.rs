//! Reading run directories: finding them, and the numbers in their logs.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::agents::learner::{Budget, Criterion, Progress};
use crate::checkpoint;
use crate::metrics::COUNTERS;

/// Bytes from the end of a log in which its last line is looked for; lines are some hundred bytes.
const TAIL: u64 = 1 << 14;

/// The run directories under `root`, itself included, sorted by path with numbers in their order. A directory with a
/// `run.toml` or a `metrics.csv` is a run, and nothing is looked for inside it.
pub fn find(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        if ["run.toml", "metrics.csv"].iter().any(|name| dir.join(name).is_file()) {
            found.push(dir);
            continue;
        }
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
            // A link to a folder above would never end.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found.sort_by_cached_key(|path| natural(&path.to_string_lossy()));
    Ok(found)
}

/// A key under which `s2` comes before `s10`, and `0.985` before `0.99`.
pub fn natural(text: &str) -> Vec<(String, u64)> {
    let mut parts = vec![(String::new(), 0_u64)];
    let mut in_number = false;
    // What a digit behind a decimal point is worth; fractions count in units of 1e-18.
    let mut place = 0;
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let behind_point = parts.len() > 1 && parts.last().is_some_and(|(letters, _)| letters == ".");
            if let Some((_, number)) = parts.last_mut() {
                place = if in_number { place / 10 } else { 100_000_000_000_000_000_u64 };
                *number = match behind_point {
                    true => *number + place * u64::from(digit),
                    false => number.saturating_mul(10).saturating_add(digit.into()),
                };
            }
            in_number = true;
        } else {
            if in_number {
                parts.push((String::new(), 0));
                in_number = false;
            }
            if let Some((letters, _)) = parts.last_mut() {
                letters.push(c);
            }
        }
    }
    parts
}

/// Counters at the end of a run's log; zeros where it has no row yet.
pub fn progress(dir: &Path) -> Progress {
    progress_before(dir, 0)
}

/// Counters of the row before the last `rows` of a run's log; zeros where there is none among the last of them.
pub fn progress_before(dir: &Path, rows: usize) -> Progress {
    let read = || -> Option<Progress> {
        let mut file = File::open(dir.join("metrics.csv")).ok()?;
        let start = file.metadata().ok()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(start)).ok()?;
        let mut tail = String::new();
        file.read_to_string(&mut tail).ok()?;
        // The last line may be half written.
        let whole = &tail[..tail.rfind('\n')?];
        let mut counts = whole.lines().rev().nth(rows)?.split(',').map(|cell| cell.parse::<u64>());
        let mut next = || counts.next()?.ok();
        Some(Progress { iterations: next()?, env_steps: next()?, grad_steps: next()?, episodes: next()? })
    };
    read().unwrap_or_default()
}

/// Where a run stands in its budget's unit.
pub fn position(budget: Budget, progress: &Progress) -> u64 {
    match budget {
        Budget::EnvSteps(_) => progress.env_steps,
        Budget::GradSteps(_) => progress.grad_steps,
    }
}

/// The last evaluation of a run, and what it is judged by where that is not the mean return.
pub fn last_evaluation(dir: &Path) -> Option<(Option<Criterion>, f64)> {
    let criterion = checkpoint::criterion(dir);
    let metric = criterion.as_ref().map_or("eval/mean_reward", |criterion| &criterion.metric);
    let last = read_series(dir, metric).ok()?.last()?;
    Some((criterion, last))
}

/// One number of a run as it was logged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Counters at each point.
    pub progress: Vec<Progress>,
    /// Seconds since the run started at each point; empty where there is no whole `timing.csv`.
    pub seconds: Vec<f64>,
    /// The number at each point.
    pub values: Vec<f64>,
}

impl Series {
    /// The last value.
    pub fn last(&self) -> Option<f64> {
        self.values.last().copied()
    }
}

/// Reads the rows of `metrics.csv` that have a value for `metric`.
///
/// # Errors
/// A file that is missing or not a log, or a column that is not there, in a sentence.
pub fn read_series(dir: &Path, metric: &str) -> Result<Series> {
    let text = fs::read_to_string(dir.join("metrics.csv")).context("metrics.csv cannot be read")?;
    let clock = read_clock(dir);
    // A run that is being written may end in half a line.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut lines = whole.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    ensure!(header.starts_with(&COUNTERS), "metrics.csv does not begin with {}", COUNTERS.join(","));
    let Some(column) = header.iter().position(|&name| name == metric) else {
        bail!("metrics.csv has no column `{metric}`; it has {}", header[COUNTERS.len()..].join(", "));
    };
    let mut series = Series::default();
    for (i, line) in lines.enumerate() {
        let cells: Vec<&str> = line.split(',').collect();
        let broken = || format!("line {} of metrics.csv is damaged", i + 2);
        ensure!(cells.len() == header.len(), broken());
        if cells[column].is_empty() {
            continue;
        }
        let count = |k: usize| cells[k].parse::<u64>().with_context(broken);
        let progress =
            Progress { iterations: count(0)?, env_steps: count(1)?, grad_steps: count(2)?, episodes: count(3)? };
        if let Some(seconds) = clock.get(i) {
            series.seconds.push(*seconds);
        }
        series.progress.push(progress);
        series.values.push(cells[column].parse().with_context(broken)?);
    }
    if series.seconds.len() < series.values.len() {
        series.seconds.clear();
    }
    Ok(series)
}

/// The `seconds` column of `timing.csv`, row by row as in `metrics.csv`.
fn read_clock(dir: &Path) -> Vec<f64> {
    let text = fs::read_to_string(dir.join("timing.csv")).unwrap_or_default();
    text.lines().skip(1).map_while(|line| line.split(',').nth(2)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_in_their_order() {
        let mut names = ["s10", "s2", "a/s1", "s1"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["a/s1", "s1", "s2", "s10"]);
        let mut names = ["gamma=0.99", "gamma=0.985", "gamma=0.9", "gamma=0.09", "gamma=1.0", "gamma=10.0"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["gamma=0.09", "gamma=0.9", "gamma=0.985", "gamma=0.99", "gamma=1.0", "gamma=10.0"]);
    }
}
