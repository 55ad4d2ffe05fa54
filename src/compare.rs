//! `bregman compare`: what groups of runs reached, with intervals.
//!
//! Runs form a group when agent, environment and settings are the same but for the seed. A group is named after its agent
//! and the settings in which the groups of that agent and environment differ, or after agent and `label` where the run file has
//! one. A run counts when it is finished; its score is
//! the last value of the metric, or the mean of its last few.

pub mod plot;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use toml::{Table, Value};

use crate::agents::dataset::DatasetConfig;
use crate::agents::learner::{Criterion, Progress};
use crate::error::bad_input;
use crate::run_dir::{self, Series, natural};
use crate::run_file::{RunFile, flat, is_storage};
use crate::stats::{self, RESAMPLES};
use crate::terminal::{note, print};
use crate::{BadInput, Bregman, metrics};

/// Points of a curve where runs were not logged at the same places.
const GRID: usize = 100;

/// Resamples behind each point of a curve's band.
const BAND_RESAMPLES: usize = 2_000;

/// Which runs, and by what they are compared.
#[derive(Args, Clone)]
pub struct Selection {
    /// Run directories, or folders that hold them at any depth
    #[arg(required = true)]
    pub dirs: Vec<PathBuf>,
    /// The number to compare
    #[arg(long, default_value = "eval/mean_reward")]
    pub metric: String,
    /// A run's score is the mean of the metric's last N values
    #[arg(long, value_name = "N", default_value = "1")]
    pub last: NonZeroUsize,
    /// What curves and areas run over
    #[arg(long, value_enum, default_value = "env_steps")]
    pub x: Axis,
    /// Report the steps and the time until the metric is at R, as R or for one environment ENV=R
    #[arg(long, value_name = "[ENV=]R", value_parser = parse_threshold, allow_hyphen_values = true)]
    pub threshold: Vec<Threshold>,
    /// TOML with the scores that count as 0 and 1 on each environment, for aggregates over environments
    #[arg(long, value_name = "FILE")]
    pub scores: Option<PathBuf>,
}

/// Arguments of `bregman compare`.
#[derive(Args)]
pub struct CompareArgs {
    #[command(flatten)]
    selection: Selection,
    /// How the tables are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Draw curves, intervals and profiles into this folder, as SVG and PNG
    #[arg(long, value_name = "FOLDER")]
    plot: Option<PathBuf>,
}

/// What a curve runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Axis {
    /// Environment steps.
    EnvSteps,
    /// Finished training episodes.
    Episodes,
    /// Seconds since the run started.
    Wall,
}

impl Axis {
    /// What it counts, in words, where runs gather experience.
    fn words(self) -> &'static str {
        match self {
            Axis::EnvSteps => "environment steps",
            Axis::Episodes => "training episodes",
            Axis::Wall => "wall-clock time",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Markdown,
    Csv,
}

/// A value of the metric to be reached, on one environment or on all.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    env: Option<String>,
    value: f64,
}

fn parse_threshold(text: &str) -> Result<Threshold, String> {
    let (env, value) = text.rsplit_once('=').map_or((None, text), |(env, value)| (Some(env.to_string()), value));
    let number = value.parse().ok().filter(|number: &f64| !number.is_nan());
    let value = number.ok_or("write a number, or ENV=number as in Hopper-v5=2500")?;
    Ok(Threshold { env, value })
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its directory.
    pub dir: PathBuf,
    /// Its run file.
    pub file: RunFile,
    /// The metric as it was logged.
    pub series: Series,
    /// The metric's last value, or the mean of its last few.
    pub score: f64,
}

/// Runs that differ in nothing but the seed.
#[derive(Clone, Debug)]
pub struct Group {
    /// Agent and differing settings.
    pub label: String,
    /// Environment id.
    pub env: String,
    /// The runs, by seed.
    pub runs: Vec<Run>,
}

/// A metric over steps or time: interquartile mean over runs, with its 95 % interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Steps or seconds.
    pub x: Vec<f64>,
    /// Interquartile means.
    pub center: Vec<f64>,
    /// Lower and upper bounds; empty for one run.
    pub band: Vec<(f64, f64)>,
}

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Point estimate.
    pub value: f64,
    /// Lower and upper bound; none where every environment has one run, which says nothing of its spread.
    pub interval: Option<(f64, f64)>,
}

impl Estimate {
    fn of(scores: &[Vec<f64>], statistic: fn(&[Vec<f64>]) -> f64) -> Estimate {
        let value = statistic(scores);
        let known = !value.is_nan() && has_spread(scores);
        Estimate { value, interval: known.then(|| stats::interval(scores, statistic, RESAMPLES)) }
    }

    /// The value and, where there are any, its bounds.
    fn ends(&self) -> impl Iterator<Item = f64> {
        let bounds = self.interval.map(|(low, high)| [low, high]);
        std::iter::once(self.value).chain(bounds.into_iter().flatten())
    }
}

fn has_spread(scores: &[Vec<f64>]) -> bool {
    scores.iter().any(|runs| runs.len() > 1)
}

/// Normalised scores of all groups over the environments that all of them have.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// Those environments.
    pub envs: Vec<String>,
    /// What counts as 0 and as 1, in a sentence.
    pub normalization: String,
    /// Label, and normalised scores `[env][run]`.
    pub groups: Vec<(String, Vec<Vec<f64>>)>,
}

impl Aggregate {
    /// Mean, median, interquartile mean and optimality gap of a group.
    pub fn estimates(scores: &[Vec<f64>]) -> Vec<(&'static str, Estimate)> {
        let gap: (&str, stats::Statistic) = ("optimality gap", stats::optimality_gap);
        let all = stats::STATISTICS.into_iter().chain([gap]);
        all.map(|(name, statistic)| (name, Estimate::of(scores, statistic))).collect()
    }
}

/// All that is compared.
pub struct Comparison {
    /// By what, and over what.
    pub selection: Selection,
    /// The metric's meaning.
    pub meaning: String,
    /// By environment, then label.
    pub groups: Vec<Group>,
    /// Over environments, where there are several.
    pub aggregate: Option<Aggregate>,
    /// What was left out and why, a sentence each.
    pub notes: Vec<String>,
}

/// Prints tables and draws plots.
pub fn compare(args: &CompareArgs, bregman: &Bregman) -> Result<()> {
    let comparison = Comparison::read(args.selection.clone(), bregman)?;
    for note in &comparison.notes {
        note!("{note}");
    }
    print(&match args.format {
        Format::Text => table::text(&comparison),
        Format::Markdown => table::markdown(&comparison),
        Format::Csv => table::csv(&comparison),
    })?;
    if let Some(folder) = &args.plot {
        plot::save(&comparison, folder)?;
    }
    Ok(())
}

impl Comparison {
    /// Reads the runs of a selection.
    ///
    /// # Errors
    /// [`BadInput`]: nothing to compare is left.
    pub fn read(selection: Selection, bregman: &Bregman) -> Result<Comparison> {
        let meaning = metrics::all(bregman).into_iter().find(|(name, _)| *name == selection.metric);
        let meaning = meaning.map_or(String::new(), |(_, meaning)| meaning.to_string());
        let (mut runs, mut notes) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for root in &selection.dirs {
            let found = match run_dir::find(root) {
                Ok(found) => found,
                Err(error) => {
                    notes.push(format!("{error:#}"));
                    continue;
                }
            };
            if found.is_empty() {
                notes.push(format!("{} holds no run: there is no run.toml in it or below", root.display()));
            }
            for dir in found {
                if !seen.insert(dir.canonicalize().unwrap_or_else(|_| dir.clone())) {
                    continue;
                }
                match read_run(&dir, &selection, bregman) {
                    Ok(run) => runs.push(run),
                    Err(error) => notes.push(format!("{} is left out: {error:#}", dir.display())),
                }
            }
        }
        if runs.is_empty() {
            let roots: Vec<String> = selection.dirs.iter().map(|dir| dir.display().to_string()).collect();
            let notes: String = notes.iter().map(|note| format!("\n  {note}")).collect();
            bad_input!("nothing to compare in {}:{notes}", roots.join(", "));
        }
        let groups = group(runs, &mut notes)?;
        for env in selection.threshold.iter().filter_map(|threshold| threshold.env.as_deref()) {
            if !groups.iter().any(|group| fits(env, &group.env)) {
                notes.push(format!("no run is on {env}, for which there is a threshold"));
            }
        }
        let aggregate = aggregate(&groups, &selection, &mut notes)?;
        Ok(Comparison { selection, meaning, groups, aggregate, notes })
    }

    /// Environments, in the order of groups.
    pub fn envs(&self) -> Vec<&str> {
        let mut envs: Vec<&str> = self.groups.iter().map(|group| group.env.as_str()).collect();
        envs.dedup();
        envs
    }

    /// Labels, each once.
    pub fn labels(&self) -> Vec<&str> {
        labels(&self.groups)
    }

    /// The groups of one environment.
    pub fn of_env<'a>(&'a self, env: &'a str) -> impl Iterator<Item = &'a Group> {
        self.groups.iter().filter(move |group| group.env == env)
    }

    /// What is to be reached on an environment; the last that was asked for.
    fn threshold(&self, env: &str) -> Option<f64> {
        let holds = |threshold: &&Threshold| threshold.env.as_deref().is_none_or(|only| fits(only, env));
        self.selection.threshold.iter().rev().find(holds).map(|threshold| threshold.value)
    }

    /// What the axis counts, in words.
    pub fn axis_words(&self) -> &'static str {
        let offline = |group: &Group| group.runs.iter().all(|run| run.file.dataset.is_some());
        match self.selection.x {
            Axis::EnvSteps if self.groups.iter().all(offline) => "optimiser steps",
            Axis::EnvSteps if self.groups.iter().any(offline) => "environment or, from a dataset, optimiser steps",
            axis => axis.words(),
        }
    }

    /// Probability that a run of the first label scores higher than one of the second, over the environments both have.
    fn improvements(&self) -> Vec<(&str, &str, usize, Estimate)> {
        let labels = self.labels();
        let pairs = labels.iter().enumerate().flat_map(|(i, &x)| labels[i + 1..].iter().map(move |&y| (x, y)));
        pairs
            .filter_map(|(x, y)| {
                let of =
                    |label: &str, env: &str| self.of_env(env).find(|group| group.label == label).map(Group::scores);
                let (x_scores, y_scores): (Vec<_>, Vec<_>) =
                    self.envs().iter().filter_map(|env| Some((of(x, env)?, of(y, env)?))).unzip();
                let function = stats::probability_of_improvement;
                (!x_scores.is_empty()).then(|| {
                    let known = has_spread(&x_scores) || has_spread(&y_scores);
                    let interval = known.then(|| stats::interval_of_two(&x_scores, &y_scores, function, RESAMPLES));
                    (x, y, x_scores.len(), Estimate { value: function(&x_scores, &y_scores), interval })
                })
            })
            .collect()
    }
}

fn labels(groups: &[Group]) -> Vec<&str> {
    let mut labels: Vec<&str> = Vec::new();
    for group in groups {
        if !labels.contains(&group.label.as_str()) {
            labels.push(&group.label);
        }
    }
    labels.sort_by_cached_key(|label| natural(label));
    labels
}

impl Group {
    /// The runs' scores.
    pub fn scores(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.score).collect()
    }

    /// A statistic of the scores with its interval.
    pub fn estimate(&self, statistic: fn(&[Vec<f64>]) -> f64) -> Estimate {
        Estimate::of(&[self.scores()], statistic)
    }

    /// Environment steps of the longest run, optimiser steps where a dataset was learned from.
    pub fn env_steps(&self) -> u64 {
        let last = |run: &Run| run.series.progress.last().map_or(0, |progress| run.steps(progress));
        self.runs.iter().map(last).max().unwrap_or(0)
    }

    /// Median over runs of the seconds at their ends; NaN without clocks.
    pub fn seconds(&self) -> f64 {
        let seconds = self.runs.iter().map(|run| run.series.seconds.last().copied().unwrap_or(f64::NAN));
        stats::median(&[seconds.collect()])
    }

    /// The curve over runs.
    pub fn curve(&self, axis: Axis) -> Curve {
        let all: Vec<(Vec<f64>, &[f64])> =
            self.runs.iter().map(|run| (run.x(axis), &run.series.values[..])).filter(|(x, _)| !x.is_empty()).collect();
        let Some((first, _)) = all.first() else { return Curve::default() };
        let x = if all.iter().all(|(x, _)| x == first) && first.len() <= 2 * GRID {
            first.clone()
        } else {
            let start = all.iter().map(|(x, _)| x[0]).fold(f64::NEG_INFINITY, f64::max);
            let end = all.iter().map(|(x, _)| x[x.len() - 1]).fold(f64::INFINITY, f64::min);
            if end < start {
                return Curve::default();
            }
            (0..GRID).map(|i| start + (end - start) * i as f64 / (GRID - 1) as f64).collect()
        };
        let at = |place: f64| [all.iter().map(|(x, y)| interpolate(x, y, place)).collect::<Vec<f64>>()];
        let band = |place: &f64| stats::interval(&at(*place), stats::iqm, BAND_RESAMPLES);
        Curve {
            center: x.iter().map(|&place| stats::iqm(&at(place))).collect(),
            band: if all.len() > 1 { x.iter().map(band).collect() } else { Vec::new() },
            x,
        }
    }
}

impl Run {
    /// What it took to come so far: environment steps, or optimiser steps from a dataset.
    fn steps(&self, progress: &Progress) -> u64 {
        if self.file.dataset.is_some() { progress.grad_steps } else { progress.env_steps }
    }

    /// What it was to learn: the environment, and the dataset by its name.
    fn task(&self) -> String {
        let name = |dataset: &DatasetConfig| {
            let path = Path::new(&dataset.path);
            path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
        };
        match &self.file.dataset {
            Some(dataset) => format!("{} {}", self.file.env.id, name(dataset)),
            None => self.file.env.id.clone(),
        }
    }

    /// Where on the axis the metric was logged; empty where the clock is asked for and was not kept.
    pub fn x(&self, axis: Axis) -> Vec<f64> {
        match axis {
            Axis::EnvSteps => self.series.progress.iter().map(|progress| self.steps(progress) as f64).collect(),
            Axis::Episodes => self.series.progress.iter().map(|progress| progress.episodes as f64).collect(),
            Axis::Wall => self.series.seconds.clone(),
        }
    }
}

/// The value at `place`, linear between points.
fn interpolate(x: &[f64], y: &[f64], place: f64) -> f64 {
    let after = x.partition_point(|&x| x < place).min(x.len() - 1);
    if after == 0 || x[after] <= place {
        return y[after];
    }
    let part = (place - x[after - 1]) / (x[after] - x[after - 1]);
    y[after - 1] + part * (y[after] - y[after - 1])
}

/// Reads one finished run; what it lacks is the error.
fn read_run(dir: &Path, selection: &Selection, bregman: &Bregman) -> Result<Run> {
    ensure!(dir.join("run.toml").is_file(), "it has no run.toml");
    // The path stands in front of the sentence already.
    let file = RunFile::read(&dir.join("run.toml"), &[], bregman).map_err(|error| {
        let cause = error.root_cause().to_string();
        BadInput(format!("run.toml: {}", cause.trim_start_matches(&format!("{}: ", dir.join("run.toml").display()))))
    })?;
    let series = run_dir::read_series(dir, &selection.metric)?;
    let now = run_dir::position(file.budget, &run_dir::progress(dir));
    let total = file.budget.total();
    let stopped = || -> bool {
        let last = || run_dir::last_evaluation(dir);
        let reached = |goal| last().is_some_and(|(by, last)| Criterion::reaches(by.as_ref(), last, goal));
        file.eval.stop_at.is_some_and(reached)
    };
    ensure!(
        now >= total || stopped(),
        "it stands at {now} of {total}; go on with it: bregman train --resume {}",
        dir.display()
    );
    let (values, wanted) = (&series.values, selection.last.get());
    ensure!(!values.is_empty(), "it has no value of `{}`", selection.metric);
    ensure!(values.len() >= wanted, "it has {} values of `{}` and not {wanted}", values.len(), selection.metric);
    let last = &values[values.len() - wanted..];
    if let Some(value) = last.iter().find(|value| !value.is_finite()) {
        bail!("`{}` ends at {value}", selection.metric);
    }
    let score = last.iter().sum::<f64>() / wanted as f64;
    ensure!(selection.x != Axis::Wall || !series.seconds.is_empty(), "its timing.csv does not go with its metrics.csv");
    Ok(Run { dir: dir.into(), file, series, score })
}

/// What may differ within a group: the seed, and what changes no result.
fn is_free(key: &str) -> bool {
    ["seed", "threads", "label"].contains(&key)
        || is_storage(key)
        || ["observe.", "checkpoint."].iter().any(|table| key.starts_with(table))
}

/// Sorts runs into groups; a seed that occurs twice counts once.
fn group(runs: Vec<Run>, notes: &mut Vec<String>) -> Result<Vec<Group>> {
    type Settings = BTreeMap<String, Value>;
    let mut families: BTreeMap<(String, String, String), Vec<(Settings, Run)>> = BTreeMap::new();
    for run in runs {
        let mut settings = flat(&Table::try_from(&run.file)?);
        settings.retain(|key, _| !is_free(key));
        let agent = run.file.agent.keys().next().cloned().unwrap_or_default();
        let name = [Some(agent.clone()), run.file.label.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        families.entry((run.task(), agent, name)).or_default().push((settings, run));
    }
    let mut groups = Vec::new();
    for ((env, agent, name), family) in families {
        let keys: BTreeSet<&String> = family.iter().flat_map(|(settings, _)| settings.keys()).collect();
        let differs = |key: &&&String| family.iter().any(|(settings, _)| settings.get(**key) != family[0].0.get(**key));
        let differing: Vec<String> = keys.iter().filter(differs).map(|key| key.to_string()).collect();
        let prefix = format!("agent.{agent}.");
        let mut of_family: BTreeMap<(Vec<(String, u64)>, String), Group> = BTreeMap::new();
        for (settings, run) in family {
            let value = |key: &String| settings.get(key).map_or("none".into(), Value::to_string);
            let shown = |key: &String| format!("{}={}", key.strip_prefix(&prefix).unwrap_or(key), value(key));
            let label = std::iter::once(name.clone()).chain(differing.iter().map(shown)).collect::<Vec<_>>().join(" ");
            let empty = || Group { label: label.clone(), env: env.clone(), runs: Vec::new() };
            let group = of_family.entry((natural(&label), label.clone())).or_insert_with(empty);
            match group.runs.iter().find(|other| other.file.seed == run.file.seed) {
                Some(other) => notes.push(format!(
                    "{} is left out: {} has the same settings and seed",
                    run.dir.display(),
                    other.dir.display()
                )),
                None => group.runs.push(run),
            }
        }
        groups.extend(of_family.into_values());
    }
    groups.iter_mut().for_each(|group| group.runs.sort_by_key(|run| run.file.seed));
    Ok(groups)
}

/// A file of scores that count as 0 and 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreFile {
    /// What they are, in a sentence.
    about: String,
    scores: BTreeMap<String, Bounds>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    low: f64,
    high: f64,
}

/// Normalises over the environments that all labels have, those of one environment alone aside; `None` for fewer than two.
fn aggregate(groups: &[Group], selection: &Selection, notes: &mut Vec<String>) -> Result<Option<Aggregate>> {
    let envs_of = |label: &str| groups.iter().filter(|group| group.label == label).count();
    let all = labels(groups);
    let somewhere_else = all.iter().any(|label| envs_of(label) > 1);
    let (labels, single): (Vec<&str>, Vec<&str>) =
        all.into_iter().partition(|label| envs_of(label) > 1 || !somewhere_else);
    if !single.is_empty() {
        notes.push(format!("aggregates leave out {}: they have runs on one environment alone", single.join(", ")));
    }
    let labels: Vec<String> = labels.into_iter().map(String::from).collect();
    let find = |label: &str, env: &str| groups.iter().find(|group| group.label == label && group.env == env);
    let all: BTreeSet<&str> = groups.iter().map(|group| group.env.as_str()).collect();
    let (mut envs, partial): (Vec<&str>, Vec<&str>) =
        all.into_iter().partition(|env| labels.iter().all(|label| find(label, env).is_some()));
    if envs.len() + partial.len() > 1 && !partial.is_empty() {
        notes.push(format!("aggregates leave out {}: not every agent has runs there", partial.join(", ")));
    }
    let (normalization, bounds): (String, BTreeMap<String, Bounds>) = match selection.scores.as_deref() {
        Some(path) => {
            let bad = |e: String| BadInput(format!("{}: {}", path.display(), e.trim()));
            let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
            let file: ScoreFile = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
            let (known, unknown): (Vec<&str>, Vec<&str>) =
                envs.into_iter().partition(|task| file.scores.contains_key(env_of(task)));
            if !unknown.is_empty() {
                notes.push(format!(
                    "aggregates leave out {}: {} has no scores for them",
                    unknown.join(", "),
                    path.display()
                ));
            }
            envs = known;
            let bounds = envs.iter().map(|task| (task.to_string(), file.scores[env_of(task)]));
            (file.about, bounds.collect())
        }
        None if selection.metric == "eval/score" => {
            let bounds = envs.iter().map(|env| (env.to_string(), Bounds { low: 0.0, high: 100.0 }));
            ("0 and 1 are 0 and 100 of the score".into(), bounds.collect())
        }
        None => {
            let bounds = envs.iter().map(|env| {
                let scores = groups.iter().filter(|group| group.env == *env).flat_map(Group::scores);
                let (low, high) = scores.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
                (env.to_string(), Bounds { low, high })
            });
            let sentence = "0 is the lowest and 1 the highest score of any run compared here, on each environment";
            (sentence.into(), bounds.collect())
        }
    };
    if envs.len() < 2 {
        return Ok(None);
    }
    let even = |env: &str| bounds[env].high <= bounds[env].low;
    if let Some(env) = envs.iter().find(|env| even(env)) {
        notes.push(format!("no aggregate over environments: on {env} the same score would count as 0 and as 1"));
        return Ok(None);
    }
    let normalized = |label: &str, env: &str| -> Vec<f64> {
        let Bounds { low, high } = bounds[env];
        let scores = find(label, env).map(Group::scores).unwrap_or_default();
        scores.into_iter().map(|score| (score - low) / (high - low)).collect()
    };
    let groups = labels.into_iter().map(|label| {
        let scores = envs.iter().map(|env| normalized(&label, env)).collect();
        (label, scores)
    });
    let groups = groups.collect();
    Ok(Some(Aggregate { envs: envs.into_iter().map(String::from).collect(), normalization, groups }))
}

/// Whether a name is a task's or that of its environment.
fn fits(name: &str, task: &str) -> bool {
    name == task || name == env_of(task)
}

/// The environment of a task.
fn env_of(task: &str) -> &str {
    task.split(' ').next().unwrap_or(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of PPO that logged `values` after so many environment steps, and half as many episodes.
    fn run(settings: &str, env_steps: &[u64], values: &[f64]) -> Run {
        let text = format!("{settings}\n[budget]\nenv_steps = 100\n[env]\nid = \"Pendulum-v1\"\n[agent.ppo]\n");
        let file = RunFile::check(toml::from_str(&text).expect("TOML"), &Bregman::default()).expect("it is right");
        let at = |(i, &env_steps): (usize, &u64)| Progress {
            iterations: i as u64 + 1,
            env_steps,
            grad_steps: 7 * env_steps,
            episodes: env_steps / 2,
        };
        let progress = env_steps.iter().enumerate().map(at).collect();
        let series = Series { progress, seconds: Vec::new(), values: values.to_vec() };
        Run { dir: PathBuf::new(), file, series, score: values[values.len() - 1] }
    }

    fn of(runs: impl IntoIterator<Item = Run>) -> Group {
        Group { label: "ppo".into(), env: "Pendulum-v1".into(), runs: runs.into_iter().collect() }
    }

    #[test]
    fn a_curve_is_the_interquartile_mean_over_runs() {
        // Of the last values 1, 2, 3 and 100, two are left.
        let curve = of([1.0, 2.0, 3.0, 100.0].map(|last| run("", &[0, 100], &[0.0, last]))).curve(Axis::EnvSteps);
        assert_eq!((curve.x, curve.center, curve.band.len()), (vec![0.0, 100.0], vec![0.0, 2.5], 2));
    }

    #[test]
    fn a_curve_goes_as_far_as_all_runs_do() {
        // From 0 to 10 over 0 to 100 and over 50 to 150: at 50 they are at 5 and 0, at 100 at 10 and 5.
        let curve = of([[0, 100], [50, 150]].map(|x| run("", &x, &[0.0, 10.0]))).curve(Axis::EnvSteps);
        assert_eq!((curve.x.len(), curve.x[0], curve.x[99]), (100, 50.0, 100.0));
        assert_eq!((curve.center[0], curve.center[99]), (2.5, 7.5));
    }

    #[test]
    fn an_axis_counts_what_it_says() {
        // Evaluations at episodes 0, 1 and 5: area (1 · (0 + 2)/2 + 4 · 2)/5.
        let run = run("", &[0, 2, 10], &[0.0, 2.0, 2.0]);
        assert_eq!((run.x(Axis::EnvSteps), run.x(Axis::Episodes)), (vec![0.0, 2.0, 10.0], vec![0.0, 1.0, 5.0]));
        assert_eq!(stats::mean_height(&run.x(Axis::Episodes), &run.series.values), 9.0 / 5.0);
        assert!(run.x(Axis::Wall).is_empty(), "no clock was kept");
    }

    #[test]
    fn what_changes_no_result_makes_no_group_of_its_own() {
        let settings = [
            "seed = 1\nthreads = 1",
            "seed = 2\nthreads = 2",
            "seed = 3\n[checkpoint]\nevery = 7",
            "seed = 4\n[observe]\nhistograms = true",
        ];
        let mut notes = Vec::new();
        let runs: Vec<Run> = settings.map(|settings| run(settings, &[100], &[1.0])).into();
        let groups = group(runs, &mut notes).expect("they are right");
        assert_eq!(groups.iter().map(|group| group.runs.len()).collect::<Vec<_>>(), [4], "{notes:?}");
        assert_eq!(groups[0].label, "ppo");
    }

    #[test]
    fn interpolation_is_linear_between_points_and_exact_on_them() {
        let (x, y) = ([0.0, 10.0, 30.0], [1.0, 2.0, 4.0]);
        assert_eq!([0.0, 5.0, 10.0, 20.0, 30.0].map(|place| interpolate(&x, &y, place)), [1.0, 1.5, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn thresholds_are_for_all_environments_or_for_one() {
        assert_eq!(parse_threshold("-5.5"), Ok(Threshold { env: None, value: -5.5 }));
        assert_eq!(parse_threshold("Hopper-v5=2500"), Ok(Threshold { env: Some("Hopper-v5".into()), value: 2500.0 }));
        assert!(parse_threshold("Hopper-v5").is_err() && parse_threshold("nan").is_err());
        let task = "Hopper-v5 medium-replay-v0";
        assert!(fits("Hopper-v5", task) && fits(task, task) && !fits("Hopper", task));
    }
}
