//! Many runs side by side: every seed of every point of a grid, each a process of this program.
//!
//! The directory is the state. A run that lies there is gone on with, a finished one is skipped, so the same command
//! again after a kill does what is left, and several sweeps may share a directory: what a run needs is asked again when
//! its turn comes, and one that another process trains is waited for. Each child holds the reading end of a pipe as its
//! standard input and is told to save and stop when that ends: it ends when the sweep does, even by SIGKILL, so no child
//! trains on alone. Children are in process groups of their own, so that Ctrl-C reaches them by that one way.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use toml::Table;

use crate::agents::learner::{Budget, Criterion};
use crate::error::bad_input;
use crate::run_file::{RunFile, flat};
use crate::terminal::{note, out};
use crate::{BadInput, Bregman, run_dir, train};

/// What a run prints, inside its directory.
pub const CONSOLE_LOG: &str = "console.log";

/// How often children are looked after, and how often their progress is read.
const LOOK: Duration = Duration::from_millis(100);
const READ: Duration = Duration::from_secs(1);

/// How often a line is printed where there is no terminal to draw bars on.
const QUIET: Duration = Duration::from_secs(60);

/// Arguments of `bregman sweep`.
#[derive(Args)]
pub struct SweepArgs {
    /// Run files; with more than one, each gets a folder named after it
    #[arg(required = true)]
    run_files: Vec<PathBuf>,
    /// Change a key of every run file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    patches: Vec<String>,
    /// The folder of all runs: OUT/[RUN FILE/][GRID VALUES/]sSEED
    #[arg(long)]
    out: PathBuf,
    /// A number of seeds, counted from 1, or a range as in 6-10
    #[arg(long, default_value = "5", value_parser = parse_seeds)]
    seeds: Seeds,
    /// Values of one key, as in --grid agent.ppo.gamma=0.99,0.995; with several, every combination
    #[arg(long = "grid", value_name = "KEY=VALUE,…", value_parser = parse_axis)]
    grid: Vec<Axis>,
    /// Runs at a time [default: cores / threads of a run]
    #[arg(long)]
    jobs: Option<usize>,
}

/// Seeds `.0` to `.1`, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seeds(u64, u64);

fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let number = |text: &str| text.trim().parse::<u64>();
    let seeds = match text.split_once('-') {
        Some((first, last)) => number(first).and_then(|first| Ok(Seeds(first, number(last)?))),
        None => number(text).map(|count| Seeds(1, count)),
    };
    match seeds {
        Ok(seeds) if seeds.0 <= seeds.1 => Ok(seeds),
        _ => Err("write a number of seeds, as in 5, or a range, as in 6-10".into()),
    }
}

/// One key and its values.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    key: String,
    values: Vec<String>,
}

fn parse_axis(text: &str) -> Result<Axis, String> {
    let Some((key, values)) = text.split_once('=') else {
        return Err("write key=value,value, as in agent.ppo.gamma=0.99,0.995".into());
    };
    // A comma inside brackets or quotes belongs to a value: hidden_sizes=[64,64],[256,256].
    let (mut parts, mut depth, mut quoted) = (vec![String::new()], 0_i32, false);
    for c in values.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
        match parts.last_mut() {
            Some(part) if c != ',' || depth > 0 || quoted => part.push(c),
            _ => parts.push(String::new()),
        }
    }
    let values: Vec<String> = parts.iter().map(|part| part.trim().to_string()).collect();
    if values.iter().any(String::is_empty) {
        return Err(format!("`{key}` has an empty value"));
    }
    Ok(Axis { key: key.trim().into(), values })
}

/// One run to be made.
struct Job {
    /// Its directory below the sweep's.
    name: String,
    dir: PathBuf,
    run_file: PathBuf,
    patches: Vec<String>,
    /// Arguments of `bregman`.
    arguments: Vec<String>,
    budget: Budget,
    total: u64,
    /// Position when it was last looked at.
    position: u64,
}

impl Job {
    fn look(&mut self) {
        self.position = run_dir::position(self.budget, &run_dir::progress(&self.dir)).min(self.total);
    }

    fn log(&self) -> PathBuf {
        self.dir.join(CONSOLE_LOG)
    }

    /// Starts what is left of the run by now, with its words going to its log; `None` where another process has finished it.
    fn start(&self, bregman: &Bregman) -> Result<Option<(Job, Child)>> {
        let (run_file, patches) = (self.run_file.clone(), self.patches.clone());
        let Some(job) = job(self.name.clone(), self.dir.clone(), run_file, patches, bregman)? else { return Ok(None) };
        fs::create_dir_all(&job.dir).with_context(|| job.dir.display().to_string())?;
        let log = File::options().create(true).append(true).open(job.log());
        let log = log.with_context(|| job.log().display().to_string())?;
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.args(&job.arguments).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().context("starting a run")?;
        Ok(Some((job, child)))
    }
}

/// Runs what `args` ask for: exit code 0 all finished, 1 some failed, 128 + signal interrupted.
pub fn sweep(args: &SweepArgs, bregman: &Bregman) -> Result<ExitCode> {
    let (jobs, finished) = plan(args, bregman)?;
    let total = jobs.len() + finished;
    if finished > 0 {
        note!("{finished} of {total} runs are finished already");
    }
    train::watch_signals()?;
    let at_once = match args.jobs {
        Some(0) => bad_input!("`--jobs 0`: at least 1"),
        Some(jobs) => jobs,
        None => default_jobs(args, bregman)?,
    };
    let failures = Sweep::new(jobs, at_once, total, finished).run(bregman)?;
    let out = args.out.display();
    if train::interrupted() {
        note!("stopped; everything is saved, and the same command goes on");
        return Ok(train::stopped_code());
    }
    if failures.is_empty() {
        out!("{total} {} finished\ncompare them: bregman compare {out}", if total == 1 { "run" } else { "runs" })?;
        return Ok(ExitCode::SUCCESS);
    }
    out!("{} of {total} runs finished, {} failed:", total - failures.len(), failures.len())?;
    for Failure { name, log, words } in &failures {
        out!("  {name}: {words}\n    log: {}", log.display())?;
    }
    out!("the same command tries them again; compare the others: bregman compare {out}")?;
    Ok(ExitCode::FAILURE)
}

fn default_jobs(args: &SweepArgs, bregman: &Bregman) -> Result<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.run_files.iter().map(|path| Ok(RunFile::read(path, &patches(args, path)?, bregman)?.threads));
    let threads = threads.collect::<Result<Vec<usize>>>()?.into_iter().max().unwrap_or(1);
    Ok((cores / threads).max(1))
}

/// One thread for each run, unless its file or the command line says otherwise: many runs use cores better than one.
fn patches(args: &SweepArgs, run_file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(run_file).map_err(|e| BadInput(format!("{}: {e}", run_file.display())))?;
    let says = toml::from_str(&text).is_ok_and(|table: Table| table.contains_key("threads"));
    let threads = (!says).then(|| "threads=1".to_string());
    Ok(threads.into_iter().chain(args.patches.iter().cloned()).collect())
}

/// Every run that is left to do, seed by seed, so that a sweep which is looked at early has some of everything; and how
/// many are finished. All are checked before the first starts.
fn plan(args: &SweepArgs, bregman: &Bregman) -> Result<(Vec<Job>, usize)> {
    let seeds = |key: &str| key.trim() == "seed";
    let patched = args.patches.iter().filter_map(|patch| Some(patch.split_once('=')?.0)).any(seeds);
    if patched || args.grid.iter().any(|axis| seeds(&axis.key)) {
        bad_input!("`seed`: a sweep's seeds are given by `--seeds`, as in --seeds 1-2");
    }
    let names = short_names(&args.grid);
    let points = combinations(&args.grid);
    let (mut jobs, mut finished) = (Vec::new(), 0);
    let mut taken = std::collections::BTreeSet::new();
    for seed in args.seeds.0..=args.seeds.1 {
        for path in &args.run_files {
            for point in &points {
                let mut parts = Vec::new();
                if args.run_files.len() > 1 {
                    parts.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
                }
                if !point.is_empty() {
                    let values = names.iter().zip(point).map(|(name, value)| format!("{name}={}", file_name(value)));
                    parts.push(values.collect::<Vec<_>>().join(","));
                }
                parts.push(format!("s{seed}"));
                let name = parts.join("/");
                if !taken.insert(name.clone()) {
                    bad_input!("two runs would lie in {name}: run files and grid values need names of their own");
                }
                let mut patches = patches(args, path)?;
                patches.extend(args.grid.iter().zip(point).map(|(axis, value)| format!("{}={value}", axis.key)));
                patches.push(format!("seed={seed}"));
                let dir = args.out.join(&name);
                match job(name, dir, path.clone(), patches, bregman)
                    .map_err(|error| blame_grid(error, &args.grid, point))?
                {
                    Some(job) => jobs.push(job),
                    None => finished += 1,
                }
            }
        }
    }
    Ok((jobs, finished))
}

/// The error of a run, told of `--grid` where the value that was refused stands there.
fn blame_grid(error: anyhow::Error, grid: &[Axis], point: &[String]) -> anyhow::Error {
    let told = error.to_string();
    let blamed = grid.iter().zip(point).find(|(axis, value)| told == format!("`--set {}={value}`", axis.key));
    match (blamed, error.chain().nth(1)) {
        (Some((axis, value)), Some(cause)) => BadInput(format!("`--grid {}={value}`: {cause}", axis.key)).into(),
        _ => error,
    }
}

/// One run as a job; `None` where it is finished.
fn job(name: String, dir: PathBuf, run_file: PathBuf, patches: Vec<String>, bregman: &Bregman) -> Result<Option<Job>> {
    let run = RunFile::read(&run_file, &patches, bregman)?;
    let mut arguments = vec!["train".to_string()];
    if dir.join("run.toml").exists() {
        let before = train::read_run(&dir, &[], bregman)?;
        run.check_resumes(&before).with_context(|| format!("{} was begun with other settings", dir.display()))?;
        // A run that cannot be read fails when its turn comes, and the others go on.
        if train::is_finished(&run, &before, &dir).unwrap_or(false) {
            return Ok(None);
        }
        arguments.extend(["--resume".into(), dir.display().to_string()]);
        let (before, now) = (flat(&Table::try_from(&before)?), flat(&Table::try_from(&run)?));
        if let Some((key, value)) = before.iter().find(|(key, _)| !now.contains_key(*key)) {
            bad_input!("{} was begun with `{key} = {value}`, which can be changed and not taken away", dir.display());
        }
        for (key, value) in now.iter().filter(|(key, value)| before.get(*key) != Some(value)) {
            arguments.extend(["--set".into(), format!("{key}={value}")]);
        }
    } else {
        arguments.extend([run_file.display().to_string(), "--out".into(), dir.display().to_string()]);
        arguments.extend(patches.iter().flat_map(|patch| ["--set".to_string(), patch.clone()]));
    }
    arguments.push("--until-stdin-closes".into());
    let total = run.budget.total();
    let mut job = Job { name, dir, run_file, patches, arguments, budget: run.budget, total, position: 0 };
    job.look();
    Ok(Some(job))
}

/// The last part of every key, or the whole where that is not enough to tell them apart.
fn short_names(grid: &[Axis]) -> Vec<&str> {
    let last = |key: &'_ str| key.rfind('.').map_or(0, |dot| dot + 1);
    let short = |axis: &'_ Axis| axis.key[last(&axis.key)..].to_string();
    let unique = |axis: &Axis| grid.iter().filter(|other| short(other) == short(axis)).count() == 1;
    grid.iter().map(|axis| if unique(axis) { &axis.key[last(&axis.key)..] } else { axis.key.as_str() }).collect()
}

/// A value as part of a folder's name.
fn file_name(value: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-+".contains(c) { c } else { '_' };
    let name: String = value.trim_matches(['"', '[', ']']).chars().map(plain).collect();
    if name.is_empty() { "_".into() } else { name }
}

/// Every combination of one value of each axis, the last axis fastest; one empty combination for no axes.
fn combinations(grid: &[Axis]) -> Vec<Vec<String>> {
    grid.iter().fold(vec![Vec::new()], |points, axis| {
        let longer = |point: &Vec<String>| {
            let point = point.clone();
            axis.values.iter().map(move |value| [&point[..], std::slice::from_ref(value)].concat())
        };
        points.iter().flat_map(longer).collect()
    })
}

/// A run that failed.
struct Failure {
    name: String,
    log: PathBuf,
    /// Its last words.
    words: String,
}

struct Running {
    job: Job,
    child: Child,
    bar: ProgressBar,
}

struct Sweep {
    queue: VecDeque<Job>,
    running: Vec<Running>,
    failures: Vec<Failure>,
    at_once: usize,
    total: usize,
    /// Runs that were finished before this sitting.
    before: usize,
    /// Runs that finished in this sitting, and what all ended runs count in units of the budget.
    finished: usize,
    ended_units: u64,
    /// All units to be done, and those that were done when this sitting began.
    units: u64,
    first_units: u64,
    started: Instant,
    bars: Option<(MultiProgress, ProgressBar)>,
    read: Instant,
    printed: Instant,
    /// Whether a run of another process was waited for.
    waited: bool,
}

impl Sweep {
    fn new(jobs: Vec<Job>, at_once: usize, total: usize, before: usize) -> Sweep {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let units = jobs.iter().map(|job| job.total).sum();
        let bars = terminal.then(|| {
            let bars = MultiProgress::new();
            let all = bars.add(ProgressBar::new(units));
            set_style(&all, "{bar:24} {percent:>3} %  {msg}");
            (bars, all)
        });
        let now = Instant::now();
        Sweep {
            first_units: jobs.iter().map(|job| job.position).sum(),
            queue: jobs.into(),
            running: Vec::new(),
            failures: Vec::new(),
            at_once,
            total,
            before,
            finished: 0,
            ended_units: 0,
            units,
            started: now,
            bars,
            read: now,
            printed: now,
            waited: false,
        }
    }

    fn run(mut self, bregman: &Bregman) -> Result<Vec<Failure>> {
        loop {
            if train::interrupted() {
                // Closing their standard input tells the children to save and stop.
                self.running.iter_mut().for_each(|running| drop(running.child.stdin.take()));
            } else {
                self.start_what_fits(bregman)?;
            }
            if self.running.is_empty() && (self.queue.is_empty() || train::interrupted()) {
                break;
            }
            std::thread::sleep(LOOK);
            self.reap()?;
            self.show();
        }
        if let Some((bars, _)) = &self.bars {
            let _ = bars.clear();
        }
        Ok(self.failures)
    }

    fn start_what_fits(&mut self, bregman: &Bregman) -> Result<()> {
        while self.running.len() < self.at_once {
            // After a kill of a sweep, its children need a moment to save; their runs wait for that.
            let Some(next) = self.queue.iter().position(|job| !train::is_held(&job.dir)) else {
                if let Some(job) = self.queue.front().filter(|_| !std::mem::replace(&mut self.waited, true)) {
                    self.say(&format!("{} is being trained by another process; waiting for it to end", job.name));
                }
                break;
            };
            let Some(planned) = self.queue.remove(next) else { break };
            let (job, child) = match planned.start(bregman) {
                Ok(Some(started)) => started,
                Ok(None) => {
                    self.finish(&planned);
                    continue;
                }
                Err(error) => {
                    self.fail(&planned, format!("{error:#}"));
                    continue;
                }
            };
            let bar = match &self.bars {
                Some((bars, _)) => {
                    let bar = bars.add(ProgressBar::new(job.total));
                    set_style(&bar, "{bar:24} {percent:>3} %  {human_pos}/{human_len}  {msg}");
                    bar.set_message(job.name.clone());
                    bar.set_position(job.position);
                    bar
                }
                None => ProgressBar::hidden(),
            };
            self.running.push(Running { job, child, bar });
        }
        Ok(())
    }

    /// Takes note of children that have ended.
    fn reap(&mut self) -> Result<()> {
        let mut i = 0;
        while i < self.running.len() {
            let Some(status) = self.running[i].child.try_wait().context("waiting for a run")? else {
                i += 1;
                continue;
            };
            let Running { mut job, bar, .. } = self.running.swap_remove(i);
            bar.finish_and_clear();
            job.look();
            match status.code() {
                Some(0) => self.finish(&job),
                // What stops a whole group of processes reaches the children too.
                Some(129 | 130 | 143) if train::interrupted() => self.ended_units += job.position,
                // Another process was quicker to take the run.
                _ if train::is_held(&job.dir) => self.queue.push_back(job),
                _ => {
                    let words = last_words(&job, status);
                    self.fail(&job, words);
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, job: &Job) {
        self.finished += 1;
        self.ended_units += job.total;
        let last = run_dir::last_evaluation(&job.dir).map_or(String::new(), |(criterion, last)| {
            format!(": evaluation {}", Criterion::written(criterion.as_ref(), last))
        });
        self.say(&format!("{} finished{last}", job.name));
    }

    fn fail(&mut self, job: &Job, words: String) {
        self.ended_units += job.total;
        self.say(&format!("{} failed: {words}", job.name));
        self.failures.push(Failure { name: job.name.clone(), log: job.log(), words });
    }

    fn show(&mut self) {
        if self.read.elapsed() < READ {
            return;
        }
        self.read = Instant::now();
        for running in &mut self.running {
            running.job.look();
            running.bar.set_position(running.job.position);
        }
        let (open, waiting) = (self.running.iter().map(|running| &running.job), self.queue.iter());
        let units = self.ended_units + open.chain(waiting).map(|job| job.position).sum::<u64>();
        let rate = units.saturating_sub(self.first_units) as f64 / self.started.elapsed().as_secs_f64();
        let left = (self.units - units.min(self.units)) as f64 / rate;
        let left = if left.is_finite() { HumanDuration(Duration::from_secs_f64(left)).to_string() } else { "?".into() };
        let message = format!(
            "{} of {} runs finished, {} running, {} failed  {} steps/s  {left} left",
            self.before + self.finished,
            self.total,
            self.running.len(),
            self.failures.len(),
            HumanCount(rate as u64),
        );
        match &self.bars {
            Some((_, all)) => {
                all.set_position(units);
                all.set_message(message);
            }
            None if self.printed.elapsed() > QUIET => {
                note!("{:>3} %  {message}", 100 * units / self.units.max(1));
                self.printed = Instant::now();
            }
            None => {}
        }
    }

    fn say(&self, line: &str) {
        match &self.bars {
            Some((bars, _)) => drop(bars.println(line)),
            None => note!("{line}"),
        }
    }
}

/// The last line of a run's log, or how it ended where it said nothing.
fn last_words(job: &Job, status: ExitStatus) -> String {
    let log = fs::read_to_string(job.log()).unwrap_or_default();
    let line = log.lines().rev().map(str::trim).find(|line| line.starts_with("error: "));
    match (status.signal(), line) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(line)) => line.trim_start_matches("error: ").into(),
        (None, None) => status.to_string(),
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_number_or_a_range() {
        assert_eq!(parse_seeds("5"), Ok(Seeds(1, 5)));
        assert_eq!(parse_seeds("6-10"), Ok(Seeds(6, 10)));
        assert!(parse_seeds("0").is_err() && parse_seeds("3-2").is_err() && parse_seeds("few").is_err());
    }

    #[test]
    fn a_comma_in_brackets_belongs_to_the_value() {
        let sizes = parse_axis("agent.ppo.hidden_sizes=[64,64],[256,256]").expect("it is right");
        assert_eq!(sizes.values, ["[64,64]", "[256,256]"]);
        let gammas = parse_axis("agent.ppo.gamma=0.99,0.995").expect("it is right");
        assert_eq!(combinations(&[gammas.clone(), sizes.clone()])[1], ["0.99", "[256,256]"]);
        assert_eq!(short_names(&[gammas, sizes]), ["gamma", "hidden_sizes"]);
        assert_eq!(file_name("[64,64]"), "64_64");
        assert!(parse_axis("agent.ppo.gamma").is_err() && parse_axis("a=1,,2").is_err());
    }

    #[test]
    fn keys_with_the_same_last_part_keep_their_whole_name() {
        let axes = ["eval.every=1", "checkpoint.every=2"].map(|text| parse_axis(text).expect("it is right"));
        assert_eq!(short_names(&axes), ["eval.every", "checkpoint.every"]);
    }

    #[test]
    fn no_grid_is_one_point() {
        assert_eq!(combinations(&[]), [Vec::<String>::new()]);
    }
}
