//! The training loop: step, log, evaluate, save, until the budget is spent.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::agents::learner::{Criterion, EvalRequest, Evaluation, Learner, Metrics, Progress, Report, Snapshot};
use crate::agents::nn::Device;
use crate::agents::scores::{self, Reference};
use crate::agents::storage::Storage;
use crate::checkpoint::{self, Manifest, Part, Return, RunState};
use crate::error::bad_input;
use crate::observe::{Console, Logs, Row};
use crate::run_file::{RunFile, ScoreName, ScoreSetting, open_dataset};
use crate::terminal::note;
use crate::{BadInput, Bregman, metrics, run_dir};

/// Training episodes that `rollout/ep_rew_mean` averages over.
const WINDOW: usize = 100;

/// Evaluation episode `j` starts from the run's seed + this + `j`, far from the seeds of training environments.
const EVAL_SEED: u64 = 10_000;

/// The file in a run directory that the process which trains there keeps locked.
const LOCK: &str = ".lock";

/// The first signal that asked the program to stop; 0 for none.
static STOPPED_BY: AtomicI32 = AtomicI32::new(0);

/// Lets Ctrl-C, SIGTERM and SIGHUP finish the iteration and save; a Ctrl-C after one of them stops at once. The others may come
/// twice without a person behind them, as when a terminal closes.
pub fn watch_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watching for signals")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if ask_to_stop(signal) {
                note!(
                    "finishing this iteration, then saving; Ctrl-C {}stops at once",
                    if signal == SIGINT { "again " } else { "" }
                );
            } else if signal == SIGINT {
                std::process::exit(128 + SIGINT);
            }
        }
    });
    Ok(())
}

/// Whether this was the first that asked.
fn ask_to_stop(signal: i32) -> bool {
    STOPPED_BY.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Treats the end of standard input as the first Ctrl-C. A run whose parent holds the other end of the pipe cannot outlive
/// it: the pipe closes with the parent, however that ends.
pub fn watch_stdin() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        if ask_to_stop(SIGINT) {
            note!("standard input has ended: finishing this iteration, then saving");
        }
    });
}

/// Whether the program was asked to stop.
pub fn interrupted() -> bool {
    STOPPED_BY.load(Ordering::SeqCst) > 0
}

/// The exit code of a program that saved and stopped as it was asked: 128 and the signal's number, as shells count. The end of
/// standard input counts as Ctrl-C.
pub fn stopped_code() -> ExitCode {
    ExitCode::from(128 + STOPPED_BY.load(Ordering::SeqCst) as u8)
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The budget is spent or the goal reached.
    Finished,
    /// Asked to stop; everything is saved.
    Interrupted,
}

/// Judges the policy of `learner` as the run file says, or over other episodes.
pub fn evaluate(
    run: &RunFile,
    learner: &mut dyn Learner,
    episodes: Option<u32>,
    stochastic: bool,
) -> Result<Evaluation> {
    let request = EvalRequest {
        episodes: episodes.unwrap_or(run.eval.episodes),
        stochastic,
        seed: run.seed + EVAL_SEED,
        max_episode_steps: run.eval.max_episode_steps,
    };
    Ok(learner.evaluate(&request)?)
}

/// Builds the learner of a run.
///
/// # Errors
/// [`BadInput`]: settings that do not fit the environment, an environment that cannot be made, or a device that is not there.
pub fn build(run: &RunFile, bregman: &Bregman) -> Result<Box<dyn Learner>> {
    if let Err(why) = run.device.available() {
        bad_input!("`device = \"{}\"`: {why}", run.device);
    }
    let (agent, settings) = run.agent(bregman)?;
    (agent.build)(settings, &run.setup(bregman)).map_err(|e| BadInput(format!("agent.{}: {e}", agent.name)).into())
}

/// The same for what comes after training: on the processor, wherever the run was trained.
///
/// # Errors
/// As [`build`].
pub fn build_to_judge(run: &RunFile, bregman: &Bregman) -> Result<Box<dyn Learner>> {
    build(&RunFile { device: Device::Cpu, ..run.clone() }, bregman)
}

/// Has the learner read what it learns from.
///
/// # Errors
/// [`BadInput`]: data that cannot be learned from.
fn prepare(run: &RunFile, learner: &mut dyn Learner, bregman: &Bregman) -> Result<()> {
    if let Some(dataset) = &run.dataset {
        open_dataset(&dataset.path)?;
    }
    let agent = run.agent(bregman)?.0.name;
    learner.prepare().map_err(|e| BadInput(format!("agent.{agent}: {e}")).into())
}

/// What `eval.score` stands for.
///
/// # Errors
/// [`BadInput`]: returns that are not known.
pub fn reference(run: &RunFile) -> Result<Option<Reference>> {
    let Some(score) = &run.eval.score else { return Ok(None) };
    Ok(Some(match score {
        ScoreSetting::Given { random, expert } => Reference { random: *random, expert: *expert },
        ScoreSetting::Named(ScoreName::D4rl) => scores::d4rl(&run.env.id).ok_or_else(|| {
            BadInput(format!(
                "`eval.score = \"d4rl\"`: D4RL has no constants for {}; write {{ random = …, expert = … }}",
                run.env.id
            ))
        })?,
        ScoreSetting::Named(ScoreName::Dataset) => {
            let path = run.dataset.as_ref().map_or("", |dataset| &dataset.path);
            let source = open_dataset(path)?;
            let Some((random, expert)) = source.header().reference else {
                bad_input!("`eval.score = \"dataset\"`: {path} does not say which returns count as 0 and 100");
            };
            Reference { random, expert }
        }
    }))
}

/// Reads the run file of a run directory, changed by patches.
pub fn read_run(dir: &Path, patches: &[String], bregman: &Bregman) -> Result<RunFile> {
    check_holds_run(dir)?;
    RunFile::read(&dir.join("run.toml"), patches, bregman)
}

fn check_holds_run(dir: &Path) -> Result<()> {
    if !dir.join("run.toml").is_file() {
        let below = run_dir::find(dir).unwrap_or_default();
        let names: Vec<String> = below.iter().take(3).map(|run| run.display().to_string()).collect();
        let hint = match below.len() {
            0 => String::new(),
            1..=3 => format!("; below it are {}", names.join(", ")),
            more => format!("; below it are {} and {} more", names.join(", "), more - 3),
        };
        bad_input!("{} holds no run: there is no run.toml{hint}", dir.display());
    }
    Ok(())
}

fn check_holds_no_run(dir: &Path) -> Result<()> {
    if dir.join("run.toml").exists() {
        let dir = dir.display();
        bad_input!(
            "{dir} already holds a run: choose another place with --out, or go on with that run by --resume {dir}"
        );
    }
    Ok(())
}

/// Whether the last whole checkpoint in `dir`, begun as `before`, leaves `run` nothing to do.
pub fn is_finished(run: &RunFile, before: &RunFile, dir: &Path) -> Result<bool> {
    Ok(last_whole(dir, Part::Policy)?.is_some_and(|(manifest, _)| {
        let stopped = manifest.run.stopped && run.eval.stop_at == before.eval.stop_at;
        stopped || run.budget.spent(&manifest.progress) >= 1.0
    }))
}

/// Keeps every other process from training in `dir` for as long as the file lives.
///
/// # Errors
/// [`BadInput`] where another process holds it.
fn hold(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let open = || File::options().create(true).truncate(false).write(true).open(&path);
    let file = open().map_err(|e| BadInput(format!("{}: {e}", dir.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bad_input!("{} is being trained by another process", dir.display()),
        // A file system without locks: nothing can be said, and nothing should be refused.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Whether a process is training in `dir`.
pub fn is_held(dir: &Path) -> bool {
    let file = File::options().write(true).open(dir.join(LOCK));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// A run in progress.
pub struct Training {
    run: RunFile,
    dir: PathBuf,
    learner: Box<dyn Learner>,
    state: RunState,
    logs: Logs,
    console: Console,
    /// Seconds of earlier sittings.
    earlier: f64,
    started: Instant,
    /// What counts as 0 and 100.
    reference: Option<Reference>,
    /// Mean reward of the last evaluation in this sitting.
    last: Option<f64>,
    /// Where the last checkpoint of this sitting is.
    saved: Option<u64>,
    _lock: File,
}

impl Training {
    /// Starts a run in a directory that holds none.
    pub fn start(run: RunFile, dir: &Path, bregman: &Bregman) -> Result<Training> {
        check_holds_no_run(dir)?;
        let mut learner = build(&run, bregman)?;
        reference(&run)?;
        prepare(&run, learner.as_mut(), bregman)?;
        let unwritable = |e: std::io::Error| BadInput(format!("{}: {e}", dir.display()));
        std::fs::create_dir_all(dir).map_err(unwritable)?;
        let lock = hold(dir)?;
        check_holds_no_run(dir)?;
        std::fs::write(dir.join("meta.json"), serde_json::to_string_pretty(&sitting())?).map_err(unwritable)?;
        checkpoint::write_whole(&dir.join("run.toml"), run.to_toml()?.as_bytes())?;
        Training::new(run, dir, learner, bregman, None, lock)
    }

    /// Goes on with a run from its last whole checkpoint. What is worth saying on the way is printed.
    pub fn resume(dir: &Path, patches: &[String], bregman: &Bregman) -> Result<Training> {
        check_holds_run(dir)?;
        let lock = hold(dir)?;
        checkpoint::recover(dir)?;
        let storage = read_run(dir, patches, bregman).map_or(Storage::Auto, |run| run.buffer_storage());
        let Some((mut manifest, snapshot)) = last_whole(dir, Part::Whole(storage))? else {
            let run = read_run(dir, patches, bregman)?;
            let before = read_run(dir, &[], bregman)?;
            run.check_resumes(&before)?;
            // A checkpoint follows the row that it falls due at: with a row after that there was one.
            let (logged, every) = (run_dir::progress_before(dir, 1), before.checkpoint.every);
            if run_dir::position(run.budget, &logged) >= every {
                bad_input!(
                    "{}: its checkpoints, one every {every} {}, are gone, and to begin anew would lose its logs: choose \
                     another `--out`",
                    dir.display(),
                    run.budget_words()
                );
            }
            let mut learner = build(&run, bregman)?;
            prepare(&run, learner.as_mut(), bregman)?;
            checkpoint::write_whole(&dir.join("run.toml"), run.to_toml()?.as_bytes())?;
            note!("{} has no checkpoint yet: the run starts from its beginning", dir.display());
            note_resume(dir, 0)?;
            return Training::new(run, dir, learner, bregman, None, lock);
        };
        if manifest.version != env!("CARGO_PKG_VERSION") {
            bad_input!(
                "{} was written by version {} and this is {}: finish the run with the version that began it",
                dir.display(),
                manifest.version,
                env!("CARGO_PKG_VERSION")
            );
        }
        // What it was trained under, whatever has become of run.toml since.
        let before = RunFile::check(toml::from_str(&manifest.run_file)?, bregman)?;
        let run = read_run(dir, patches, bregman)?;
        run.check_resumes(&before)?;
        let mut learner = build(&run, bregman)?;
        for sentence in learner.load(&snapshot).with_context(|| dir.display().to_string())? {
            note!("{sentence}");
        }
        prepare(&run, learner.as_mut(), bregman)?;
        manifest.run.stopped &= run.eval.stop_at == before.eval.stop_at;
        checkpoint::write_whole(&dir.join("run.toml"), run.to_toml()?.as_bytes())?;
        note!("going on from {} {}", manifest.position, run.budget_unit());
        note_resume(dir, manifest.position)?;
        Training::new(run, dir, learner, bregman, Some(manifest), lock)
    }

    fn new(
        run: RunFile,
        dir: &Path,
        learner: Box<dyn Learner>,
        bregman: &Bregman,
        manifest: Option<Manifest>,
        lock: File,
    ) -> Result<Training> {
        let columns = metrics::columns(run.agent(bregman)?.0);
        let (tensorboard, shown) = (run.observe.tensorboard, run.observe.console);
        let (logs, state) = match manifest {
            Some(manifest) => (Logs::open(dir, columns, tensorboard, &manifest.logs)?, manifest.run),
            None => (Logs::open(dir, columns, tensorboard, &BTreeMap::new())?, RunState::default()),
        };
        let total = run.budget.total();
        if shown {
            let (agent, backend) = (run.agent(bregman)?.0.name, bregman.envs.backend(&run.env));
            let (copies, id, threads) = (run.env.num_envs, &run.env.id, run.threads);
            match &run.dataset {
                Some(data) => note!(
                    "{agent} on {}, judged in {id} ({backend}), {threads} threads, into {}",
                    data.path,
                    dir.display()
                ),
                None if run.env.is_world() => note!("{agent} in {id}, {threads} threads, into {}", dir.display()),
                None => note!("{agent} on {copies} × {id} ({backend}), {threads} threads, into {}", dir.display()),
            }
        }
        let console = Console::new(run.agent(bregman)?.0, total, position(&run, learner.as_ref()), shown);
        let (earlier, reference) = (state.seconds, reference(&run)?);
        Ok(Training {
            run,
            dir: dir.into(),
            learner,
            state,
            logs,
            console,
            earlier,
            reference,
            last: None,
            saved: None,
            started: Instant::now(),
            _lock: lock,
        })
    }

    /// The run's settings.
    pub fn run_file(&self) -> &RunFile {
        &self.run
    }

    /// Whether nothing is left to do.
    pub fn finished(&self) -> bool {
        self.state.stopped || self.run.budget.spent(&self.learner.progress()) >= 1.0
    }

    /// The evaluation from which the run was to end early, where it did.
    pub fn stopped_at(&self) -> Option<f64> {
        self.run.eval.stop_at.filter(|_| self.state.stopped)
    }

    /// Seconds over all sittings.
    pub fn seconds(&self) -> f64 {
        self.earlier + self.started.elapsed().as_secs_f64()
    }

    /// Best evaluation and where it was reached.
    pub fn best(&self) -> Option<(f64, u64)> {
        self.state.best.map(|(Return(best), position)| (best, position))
    }

    /// What it is the best by, where that is not the mean return.
    pub fn criterion(&self) -> Option<&Criterion> {
        self.state.criterion.as_ref()
    }

    /// The last evaluation, if there was one in this sitting.
    pub fn last(&self) -> Option<f64> {
        self.last
    }

    /// What counts as 0 and 100, if the run file says so.
    pub fn reference(&self) -> Option<Reference> {
        self.reference
    }

    /// Trains until the end or an interrupt. Returns with everything saved.
    ///
    /// # Errors
    /// An environment that fails or a number that stops being finite: the last checkpoint holds what was good.
    pub fn train(&mut self) -> Result<Ending> {
        while !self.finished() {
            self.iterate()?;
            if interrupted() && !self.finished() {
                if self.saved != Some(self.position()) {
                    self.save()?;
                }
                self.console.finish();
                return Ok(Ending::Interrupted);
            }
        }
        self.console.finish();
        Ok(Ending::Finished)
    }

    /// One iteration, with the evaluation, checkpoint and policy that fall due at its end.
    fn iterate(&mut self) -> Result<()> {
        let (began, before) = (Instant::now(), self.position());
        let report = self.learner.step().map_err(|e| self.failure(e.into()))?;
        report.warnings.iter().for_each(|warning| self.console.warn(warning));
        let progress = self.learner.progress();
        let now = self.position();
        let fps = (now - before) as f64 / began.elapsed().as_secs_f64();
        let due = |every: u64| now / every > before / every;

        let mut metrics = self.rollout_metrics(&report);
        let mut improved = false;
        if due(self.run.eval.every) || self.finished() {
            let evaluation = evaluate(&self.run, self.learner.as_mut(), None, false).map_err(|e| self.failure(e))?;
            evaluation.warning.iter().for_each(|warning| self.console.warn(warning));
            improved = self.judge(&evaluation, &mut metrics);
        }
        self.state.seconds = self.seconds();
        let row = Row {
            progress,
            position: now,
            metrics: &metrics,
            episodes: &report.episodes,
            histograms: &report.histograms,
            seconds: self.state.seconds,
            fps,
        };
        self.logs.write(&row)?;
        self.console.show(&row);
        if self.run.checkpoint.snapshot_every.is_some_and(due) {
            checkpoint::write_policy(&self.policy_path(now), &self.learner.policy(), progress)?;
        }
        if due(self.run.checkpoint.every) || improved || self.finished() {
            self.save()?;
        }
        Ok(())
    }

    /// The window over training episodes, then what the learner reports.
    fn rollout_metrics(&mut self, report: &Report) -> Metrics {
        let recent: &mut VecDeque<_> = &mut self.state.recent;
        recent.extend(report.episodes.iter().map(|episode| (Return(episode.reward), episode.length)));
        recent.drain(..recent.len().saturating_sub(WINDOW));
        let mut metrics = Metrics::default();
        if !recent.is_empty() {
            let count = recent.len() as f64;
            metrics.add("rollout/ep_rew_mean", recent.iter().map(|(reward, _)| reward.0).sum::<f64>() / count);
            metrics.add("rollout/ep_len_mean", recent.iter().map(|&(_, len)| f64::from(len)).sum::<f64>() / count);
        }
        report.metrics.iter().for_each(|(name, value)| metrics.add(name, value));
        metrics
    }

    /// Logs an evaluation; whether it is the best so far.
    fn judge(&mut self, evaluation: &Evaluation, metrics: &mut Metrics) -> bool {
        let mean = evaluation.mean_reward();
        metrics.add("eval/mean_reward", mean);
        metrics.add("eval/std_reward", evaluation.std_reward());
        metrics.add("eval/mean_ep_length", evaluation.mean_length());
        if let Some(reference) = self.reference {
            metrics.add("eval/score", reference.score(mean));
        }
        evaluation.metrics.iter().for_each(|(name, value)| metrics.add(name, value));
        let (score, criterion) = (evaluation.score(), evaluation.criterion.as_ref());
        self.last = Some(score);
        self.state.stopped |= self.run.eval.stop_at.is_some_and(|goal| Criterion::reaches(criterion, score, goal));
        // What was best by something else is not the best by this.
        let best = self.best().filter(|_| self.state.criterion.as_ref() == criterion);
        let improved = best.is_none_or(|(best, _)| improves(criterion, score, best));
        if improved {
            self.state.criterion = criterion.cloned();
            self.state.best = Some((Return(score), self.position()));
        }
        improved
    }

    fn save(&mut self) -> Result<()> {
        let logs = self.logs.sync()?;
        let (run_file, progress) = (self.run.to_toml()?, self.learner.progress());
        let manifest = Manifest::new(run_file, self.position(), progress, self.state.clone(), logs);
        checkpoint::write(&self.dir, manifest, &self.learner.save())?;
        self.saved = Some(self.position());
        checkpoint::rotate(&self.dir, self.run.checkpoint.keep, self.state.best.map(|(_, position)| position))
    }

    fn position(&self) -> u64 {
        position(&self.run, self.learner.as_ref())
    }

    /// Keeps the policy of a failed run, which was finite, and says what else there is.
    fn failure(&self, error: anyhow::Error) -> anyhow::Error {
        self.console.finish();
        let progress = self.learner.progress();
        let (steps, unit) = (self.position(), self.run.budget_words());
        let policy = self.policy_path(self.position());
        let kept = match checkpoint::write_policy(&policy, &self.learner.policy(), progress) {
            Ok(()) => format!("its policy is kept as {}", policy.display()),
            Err(unwritten) => format!("its policy could not be kept: {unwritten:#}"),
        };
        let checkpoint = match checkpoint::positions(&self.dir).last() {
            Some(&last) => format!("the last checkpoint is {}", checkpoint::folder(&self.dir, last).display()),
            None => "there was no checkpoint yet".into(),
        };
        error.context(format!("the run stopped after {steps} {unit}; {kept}, {checkpoint}"))
    }

    fn policy_path(&self, position: u64) -> PathBuf {
        self.dir.join("policies").join(format!("{position:08}.safetensors"))
    }
}

/// Whether a score is better than the best so far: any number is better than NaN.
fn improves(criterion: Option<&Criterion>, score: f64, best: f64) -> bool {
    if best.is_nan() { !score.is_nan() } else { score != best && Criterion::reaches(criterion, score, best) }
}

fn position(run: &RunFile, learner: &dyn Learner) -> u64 {
    run_dir::position(run.budget, &learner.progress())
}

/// The last checkpoint that is whole. Damaged ones behind it are named, and set aside where the run is to go on from there.
pub fn last_whole(dir: &Path, part: Part) -> Result<Option<(Manifest, Snapshot)>> {
    // A disk or a permission that fails says nothing of the file.
    let unreadable = |error: &anyhow::Error| {
        let cause = error.root_cause().downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| ![ErrorKind::NotFound, ErrorKind::UnexpectedEof].contains(&cause.kind()))
    };
    let mut damaged = Vec::new();
    for position in checkpoint::positions(dir).into_iter().rev() {
        match checkpoint::read(dir, position, part) {
            Ok(found) => {
                if part != Part::Policy {
                    damaged.iter().try_for_each(|&position| checkpoint::set_aside(dir, position))?;
                }
                return Ok(Some(found));
            }
            // Whole, but not for this version.
            Err(error) if error.is::<BadInput>() || unreadable(&error) => return Err(error),
            Err(error) => {
                note!("{error:#}; going back to the checkpoint before it");
                damaged.push(position);
            }
        }
    }
    if !damaged.is_empty() {
        bad_input!("{}: no checkpoint is whole; the run cannot go on", dir.display());
    }
    Ok(None)
}

/// Takes the policy called `name` into `learner`, to act and no more: a checkpoint's, or that of a file under `policies/`, named from
/// the run directory or from the current one. Returns the counters it was trained to.
///
/// # Errors
/// [`BadInput`]: there is none, or the name is none of these.
pub fn load_policy(dir: &Path, name: &str, learner: &mut dyn Learner) -> Result<Progress> {
    // A policy is part of what the learner saves, under the same names.
    let mut whole = learner.save();
    if !name.ends_with(".safetensors") {
        let (manifest, snapshot) = find_checkpoint(dir, name, Part::Policy)?;
        let policy = learner.policy();
        whole.arrays.extend(snapshot.arrays.into_iter().filter(|(name, _)| policy.arrays.contains_key(name)));
        whole.state.extend(snapshot.state.into_iter().filter(|(name, _)| policy.state.contains_key(name)));
        learner.load(&whole)?;
        return Ok(manifest.progress);
    }
    let path = Some(dir.join(name)).filter(|path| path.is_file()).unwrap_or_else(|| name.into());
    let (policy, progress) = checkpoint::read_policy(&path)?;
    let foreign = policy.arrays.keys().find(|name| !whole.arrays.contains_key(*name));
    if let Some(foreign) = foreign {
        bad_input!("{}: this run's agent has no `{foreign}`", path.display());
    }
    whole.arrays.extend(policy.arrays);
    whole.state.extend(policy.state);
    learner.load(&whole).map_err(|error| BadInput(format!("{}: {error}", path.display())))?;
    Ok(progress)
}

/// The checkpoint called `name`: `last`, `best`, or a position.
///
/// # Errors
/// [`BadInput`]: there is none, or the name is none of these.
pub fn find_checkpoint(dir: &Path, name: &str, part: Part) -> Result<(Manifest, Snapshot)> {
    let Some((last, snapshot)) = last_whole(dir, part)? else {
        bad_input!("{} has no checkpoint yet", dir.display());
    };
    match (name, last.run.best) {
        ("last", _) => Ok((last, snapshot)),
        ("best", Some((_, position))) => checkpoint::read(dir, position, part),
        ("best", None) => bad_input!("{} was never evaluated, so no checkpoint is the best", dir.display()),
        (position, _) => match position.parse() {
            Ok(position) if checkpoint::positions(dir).contains(&position) => checkpoint::read(dir, position, part),
            _ => {
                let there: Vec<String> = checkpoint::positions(dir).iter().map(u64::to_string).collect();
                bad_input!(
                    "`--checkpoint {position}`: write last, best, a file under policies/, or one of {}",
                    there.join(", ")
                )
            }
        },
    }
}

/// Versions of the Python packages that environments come from, by the names of their folders: no Python is started for it.
fn packages() -> Map<String, Value> {
    let venv = std::env::var("BREGMAN_VENV").ok().or(option_env!("BREGMAN_VENV").map(String::from)).unwrap_or_default();
    let folders = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let pythons = folders(Path::new(&venv).join("lib"));
    let installed = pythons.flat_map(|python| folders(python.join("site-packages")));
    let version = |path: PathBuf| {
        let (name, version) = path.file_name()?.to_str()?.strip_suffix(".dist-info")?.split_once('-')?;
        ["gymnasium", "mujoco", "numpy"].contains(&name).then(|| (name.to_string(), version.into()))
    };
    let mut found: Vec<(String, Value)> = installed.filter_map(version).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter().collect()
}

/// What a sitting of a run is made with and on: versions, command and machine.
fn sitting() -> Map<String, Value> {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("revision", json!(option_env!("BREGMAN_REVISION").unwrap_or("unknown"))),
        ("packages", json!(packages())),
        ("command", json!(std::env::args().collect::<Vec<_>>())),
        ("started", json!(humantime::format_rfc3339_seconds(SystemTime::now()).to_string())),
        (
            "machine",
            json!({ "processor": processor.map(|(_, name)| name), "cores": cores, "system": std::env::consts::OS }),
        ),
    ];
    parts.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// Notes in `meta.json` that the run goes on from `position`, and with what. A file that is missing or damaged starts anew.
fn note_resume(dir: &Path, position: u64) -> Result<()> {
    let path = dir.join("meta.json");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut meta: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    let mut record = Map::from_iter([("from".to_string(), json!(position))]);
    record.extend(sitting());
    match meta.get_mut("resumed") {
        Some(Value::Array(records)) => records.push(record.into()),
        _ => drop(meta.insert("resumed".into(), json!([record]))),
    }
    checkpoint::write_whole(&path, serde_json::to_string_pretty(&meta)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_that_is_no_number_is_the_best_only_until_there_is_one() {
        let l1 = Criterion { name: "L1".into(), metric: "eval/l1".into(), least: true };
        for criterion in [None, Some(&l1)] {
            assert!(improves(criterion, -5.0, f64::NAN) && improves(criterion, f64::NEG_INFINITY, f64::NAN));
            assert!(!improves(criterion, f64::NAN, -5.0) && !improves(criterion, f64::NAN, f64::NAN));
            assert!(!improves(criterion, 2.0, 2.0), "the first of two equal ones stays");
        }
        assert!(improves(None, 3.0, 2.0) && !improves(None, 1.0, 2.0));
        assert!(improves(Some(&l1), 1.0, 2.0) && !improves(Some(&l1), 3.0, 2.0));
    }
}
