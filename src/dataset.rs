//! `bregman dataset`: looking at datasets, and making, converting and merging them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::agents::dataset::{
    Block, Columns, D4rlWriter, DatasetConfig, DatasetError, Format, Header, MinariInfo, MinariWriter, Source, Spans,
    minari_root,
};
use crate::agents::evaluate::Played;
use crate::agents::learner::{EvalRequest, Learner};
use crate::checkpoint::Part;
use crate::envs::hdf5::Dtype;
use crate::envs::rng::Seed;
use crate::envs::{ActionSpace, EnvConfig, Lane, Outcome, gymnasium};
use crate::error::bad_input;
use crate::run_file::RunFile;
use crate::terminal::{note, print};
use crate::{BadInput, Bregman, train};

/// Subcommands of `bregman dataset`.
#[derive(Subcommand)]
pub enum DatasetCommand {
    /// Say what is in a dataset: rows, episodes, returns, flags, ranges, and what is wrong with it
    Inspect(InspectArgs),
    /// Write a dataset in the other format
    Convert(ConvertArgs),
    /// Write several datasets as one, each cut after its last finished episode
    Merge(MergeArgs),
    /// Record what the policies of a run do, or its replay buffer
    Record(RecordArgs),
}

/// Arguments of `bregman dataset inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// An HDF5 file, the folder of a Minari dataset, or a Minari id
    path: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Where a dataset goes, and as what.
#[derive(Args)]
struct Target {
    /// The HDF5 file, or for Minari the folder; its name ends in a version there, hopper-v0
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    format: FormatName,
    /// Returns that count as 0 and 100, for Minari's metadata
    #[arg(long, value_name = "RANDOM,EXPERT", value_parser = two_numbers, allow_hyphen_values = true)]
    reference: Option<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    D4rl,
    Minari,
}

/// Arguments of `bregman dataset convert`.
#[derive(Args)]
pub struct ConvertArgs {
    /// The dataset
    path: String,
    #[command(flatten)]
    target: Target,
    /// The environment that it is of, where it does not say
    #[arg(long, value_name = "ID")]
    env: Option<String>,
}

/// Arguments of `bregman dataset merge`.
#[derive(Args)]
pub struct MergeArgs {
    /// The datasets, in their order
    #[arg(required = true, num_args = 2..)]
    paths: Vec<String>,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `bregman dataset record`.
#[derive(Args)]
pub struct RecordArgs {
    /// The run directory
    dir: PathBuf,
    /// What to record
    #[arg(long, value_enum)]
    tier: Tier,
    /// Steps; of a replay buffer the oldest
    #[arg(long)]
    steps: usize,
    #[command(flatten)]
    target: Target,
    /// The policy, in place of the tier's own: last, best, the steps of a checkpoint, or a file under policies/; with replay the
    /// checkpoint whose buffer it is
    #[arg(long)]
    checkpoint: Option<String>,
    /// From which the environment and the actions are drawn
    #[arg(long, default_value_t = 123)]
    seed: u64,
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Uniform actions
    Random,
    /// The first policy under policies/ that is a third of the way from a random one to the best checkpoint, actions sampled
    Medium,
    /// The best checkpoint, actions sampled
    Expert,
    /// The replay buffer, oldest first
    Replay,
}

fn two_numbers(text: &str) -> Result<(f64, f64), String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[random, expert]) if random < expert => Ok((random, expert)),
        _ => Err("two numbers, the smaller first, as in 16.7,3234.3".into()),
    }
}

/// Runs a subcommand.
pub fn run(command: DatasetCommand, bregman: &Bregman) -> Result<()> {
    match command {
        DatasetCommand::Inspect(args) => inspect(&args),
        DatasetCommand::Convert(args) => convert(&args),
        DatasetCommand::Merge(args) => merge(&args),
        DatasetCommand::Record(args) => record(&args, bregman),
    }
}

/// A dataset's error is the caller's to mend.
fn bad(error: DatasetError) -> BadInput {
    BadInput(error.0)
}

/// A bar on the terminal for what takes longer than a second.
pub fn loading_bar() -> Arc<dyn Fn(usize, usize) + Send + Sync> {
    let state: Mutex<Option<(Instant, ProgressBar)>> = Mutex::new(None);
    Arc::new(move |done, all| {
        let Ok(mut state) = state.lock() else { return };
        let (began, bar) = state.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::hidden());
            let style =
                ProgressStyle::with_template("{bar:24} {percent:>3} %  {human_pos}/{human_len} rows  {eta} left");
            (Instant::now(), style.map_or(bar.clone(), |style| bar.with_style(style)))
        });
        // A target that is hidden never draws; standard error draws on a terminal only.
        if bar.is_hidden() && began.elapsed() > Duration::from_secs(1) {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_position(done as u64);
        if done >= all {
            bar.finish_and_clear();
        }
    })
}

/// Reads every row, with a bar.
fn read(source: &Source, sink: &mut dyn FnMut(&Block) -> Result<(), DatasetError>) -> Result<()> {
    let (bar, all) = (loading_bar(), source.header().rows);
    let mut done = 0;
    let result = source.read(&DatasetConfig::new(""), &mut |block| {
        done += block.len();
        bar(done.min(all.saturating_sub(1)), all);
        sink(block)
    });
    bar(all, all);
    Ok(result.map_err(bad)?)
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking.

/// What rows say, gathered as they pass.
#[derive(Default)]
struct Summary {
    spans: Spans,
    obs: Columns,
    action: Columns,
    obs_range: Range,
    action_range: Range,
    reward_range: Range,
    rows: usize,
    transitions: usize,
    terminated: usize,
    truncated: usize,
    both: usize,
    /// Ends that no flag says.
    silent: usize,
    /// Terminal rows right behind terminal rows.
    repeated: usize,
    last_terminated: bool,
}

#[derive(Clone, Copy)]
struct Range(f64, f64);

impl Default for Range {
    fn default() -> Range {
        Range(f64::INFINITY, f64::NEG_INFINITY)
    }
}

impl Range {
    fn add(&mut self, numbers: &[f64]) {
        numbers.iter().for_each(|&x| *self = Range(self.0.min(x), self.1.max(x)));
    }
}

impl Summary {
    fn new(header: &Header) -> Summary {
        Summary { obs: Columns::new(header.obs_dim), action: Columns::new(header.act_dim), ..Default::default() }
    }

    fn add(&mut self, block: &Block) {
        self.spans.add(block);
        self.obs.add(&block.obs);
        self.action.add(&block.action);
        self.obs_range.add(&block.obs);
        self.action_range.add(&block.action);
        self.reward_range.add(&block.reward);
        self.rows += block.len();
        for i in 0..block.len() {
            let (terminated, truncated) = (block.terminated[i], block.truncated[i]);
            self.transitions += usize::from(block.known[i]);
            self.terminated += usize::from(terminated);
            self.truncated += usize::from(truncated);
            self.both += usize::from(terminated && truncated);
            self.silent += usize::from(block.last[i] && !terminated && !truncated);
            self.repeated += usize::from(terminated && self.last_terminated);
            self.last_terminated = terminated;
        }
    }

    /// What a user should know before learning from it.
    fn problems(&self, source: &Source) -> Vec<String> {
        let mut found = Vec::new();
        if let Source::D4rl(file) = source {
            if !file.has_timeouts() {
                found.push("there are no `timeouts`: an episode is taken to end after 1000 rows".into());
            }
            if !file.has_next_observations() {
                let lost = self.rows - self.transitions;
                found.push(format!(
                    "there are no `next_observations`: {lost} rows at ends have no successor and are left out"
                ));
            }
        }
        // The last episode of a file is often cut with the file.
        let silent = self.silent - usize::from(self.spans.all.last().is_some_and(|s| !s.terminated && !s.truncated));
        if silent > 0 {
            found.push(format!("{silent} episodes end where no flag says so"));
        }
        if silent < self.silent {
            found.push("the last episode is not finished".into());
        }
        if self.both > 0 {
            found.push(format!("{} rows are terminated and truncated at once: they count as terminated", self.both));
        }
        if self.repeated > 0 {
            found.push(format!("{} terminal rows follow a terminal row: each is an episode of its own", self.repeated));
        }
        let still: Vec<String> =
            self.obs.std().iter().enumerate().filter(|(_, s)| **s == 0.0).map(|(i, _)| i.to_string()).collect();
        if !still.is_empty() {
            found.push(format!("these numbers of an observation never change: {}", still.join(", ")));
        }
        if self.action_range.0 < -1.0 || self.action_range.1 > 1.0 {
            found.push("some actions are outside [-1, 1]".into());
        }
        let mut returns = Range::default();
        self.spans.all.iter().for_each(|span| returns.add(&[span.reward]));
        if returns.1 - returns.0 == 0.0 {
            found.push("all episodes have the same return: rewards cannot be scaled by their range".into());
        }
        found
    }
}

/// Mean, population standard deviation, least and largest.
fn moments(numbers: &[f64]) -> [f64; 4] {
    let mut columns = Columns::new(1);
    columns.add(numbers);
    let mut range = Range::default();
    range.add(numbers);
    [columns.mean[0], columns.std()[0], range.0, range.1]
}

/// Bars of a histogram, and the characters of the longest.
const BARS: usize = 10;
const LONGEST: usize = 40;

fn histogram(numbers: &[f64]) -> String {
    let [_, _, low, high] = moments(numbers);
    let width = (high - low) / BARS as f64;
    let mut counts = [0usize; BARS];
    for x in numbers {
        let at = if width > 0.0 { ((x - low) / width) as usize } else { 0 };
        counts[at.min(BARS - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let used = if width > 0.0 { BARS } else { 1 };
    let mut text = String::new();
    for (i, &count) in counts[..used].iter().enumerate() {
        let bar = "#".repeat((count * LONGEST).div_ceil(most));
        let _ = writeln!(text, "  from {:>10.1}  {bar:<LONGEST$} {count}", low + i as f64 * width);
    }
    text
}

fn inspect(args: &InspectArgs) -> Result<()> {
    let source = Source::open(&args.path).map_err(bad)?;
    let header = source.header().clone();
    let mut summary = Summary::new(&header);
    read(&source, &mut |block| {
        summary.add(block);
        Ok(())
    })?;
    summary.spans.finish();
    let returns: Vec<f64> = summary.spans.all.iter().map(|span| span.reward).collect();
    let lengths: Vec<f64> = summary.spans.all.iter().map(|span| span.len as f64).collect();
    let problems = summary.problems(&source);
    let format = match header.format {
        Format::D4rl => "d4rl",
        Format::Minari => "minari",
    };
    let (reward, episode) = (moments(&returns), moments(&lengths));
    if args.json {
        let object = json!({
            "path": source.path(), "format": format, "rows": summary.rows, "transitions": summary.transitions,
            "episodes": returns.len(), "obs_dim": header.obs_dim, "act_dim": header.act_dim,
            "env": header.env.as_ref().map(|env| &env.id), "reference": header.reference,
            "return": { "mean": reward[0], "std": reward[1], "min": reward[2], "max": reward[3] },
            "length": { "mean": episode[0], "std": episode[1], "min": episode[2], "max": episode[3] },
            "terminated": summary.terminated, "truncated": summary.truncated, "problems": problems,
        });
        return print(&format!("{object}\n"));
    }
    let mut text = String::new();
    let dtype = if header.dtype == Dtype::F32 { "f32" } else { "f64" };
    let env = header.env.as_ref().map_or("an environment that it does not name".into(), |env| env.id.clone());
    writeln!(text, "{}: {format}, {env}", source.path().display())?;
    writeln!(text, "  rows          {} ({} transitions)", summary.rows, summary.transitions)?;
    writeln!(
        text,
        "  episodes      {}: {} terminated, {} truncated",
        returns.len(),
        summary.terminated,
        summary.truncated
    )?;
    writeln!(
        text,
        "  observations  {} numbers, {dtype}, {:.3} to {:.3}",
        header.obs_dim, summary.obs_range.0, summary.obs_range.1
    )?;
    writeln!(
        text,
        "  actions       {} numbers, {:.3} to {:.3}",
        header.act_dim, summary.action_range.0, summary.action_range.1
    )?;
    writeln!(text, "  rewards       {:.3} to {:.3}", summary.reward_range.0, summary.reward_range.1)?;
    writeln!(text, "  lengths       {:.1} ± {:.1} ({} to {})", episode[0], episode[1], episode[2], episode[3])?;
    writeln!(text, "  returns       {:.1} ± {:.1} ({:.1} to {:.1})", reward[0], reward[1], reward[2], reward[3])?;
    if let Some((random, expert)) = header.reference {
        writeln!(
            text,
            "  score         {:.1}, 0 at {random} and 100 at {expert}",
            100.0 * (reward[0] - random) / (expert - random)
        )?;
    }
    for (name, value) in &header.about {
        writeln!(text, "  {name:<13} {value}")?;
    }
    writeln!(text, "\nreturns of {} episodes\n{}", returns.len(), histogram(&returns))?;
    match problems.as_slice() {
        [] => writeln!(text, "nothing is wrong with it")?,
        problems => {
            writeln!(text, "worth knowing")?;
            problems.iter().try_for_each(|problem| writeln!(text, "  {problem}"))?;
        }
    }
    print(&text)
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing.

/// A dataset that is being written.
enum Writer {
    D4rl(D4rlWriter),
    Minari(MinariWriter),
}

/// What a dataset says of itself.
#[derive(Default)]
struct Info {
    action_space: Option<ActionSpace>,
    env_spec: Option<String>,
    reference: Option<(f64, f64)>,
    about: Vec<(String, String)>,
}

impl Writer {
    fn create(target: &Target, obs_dim: usize, act_dim: usize, dtype: Dtype) -> Result<Writer> {
        if target.format == FormatName::Minari {
            dataset_id(&target.out)?;
            return Ok(Writer::Minari(MinariWriter::create(&target.out, obs_dim, act_dim, dtype).map_err(bad)?));
        }
        if let Some(folder) = target.out.parent() {
            std::fs::create_dir_all(folder).map_err(|e| BadInput(format!("{}: {e}", folder.display())))?;
        }
        Ok(Writer::D4rl(D4rlWriter::create(&target.out, obs_dim, act_dim, dtype).map_err(bad)?))
    }

    fn push(&mut self, block: &Block) -> Result<(), DatasetError> {
        match self {
            Writer::D4rl(writer) => writer.push(block),
            Writer::Minari(writer) => writer.push(block),
        }
    }

    fn finish(self, target: &Target, info: Info) -> Result<()> {
        let Info { action_space, env_spec, reference, about } = info;
        let reference = target.reference.or(reference);
        match self {
            Writer::D4rl(writer) => {
                let renamed = about.iter().map(|(name, text)| match name.as_str() {
                    "algorithm_name" => ("algorithm".to_string(), text.clone()),
                    _ => (name.clone(), text.clone()),
                });
                writer.finish(env_spec.as_deref(), &renamed.collect::<Vec<_>>()).map_err(bad)?;
            }
            Writer::Minari(writer) => {
                let dataset_id = dataset_id(&target.out)?;
                writer.finish(&MinariInfo { dataset_id, action_space, env_spec, reference, about }).map_err(bad)?;
            }
        }
        print(&format!("{}\n", target.out.display()))
    }
}

/// The Minari id of a folder: its path below Minari's own folder, or else its name.
fn dataset_id(folder: &Path) -> Result<String> {
    let name = folder.strip_prefix(minari_root()).ok().or(folder.file_name().map(Path::new)).unwrap_or(folder);
    let id = name.to_string_lossy().into_owned();
    let version =
        id.rsplit_once("-v").is_some_and(|(name, version)| !name.is_empty() && version.parse::<u64>().is_ok());
    if !version {
        bad_input!("`--out {}`: a Minari dataset's name ends in a version, as in hopper-medium-v0", folder.display());
    }
    if let Some(short) = id.split('/').rev().skip(1).find(|part| part.len() < 2) {
        bad_input!("`--out {}`: Minari takes no namespace of one letter, as `{short}` is", folder.display());
    }
    Ok(id)
}

/// What a dataset said of itself, for another that is made of it.
fn info_of(header: &Header, env: Option<&str>) -> Info {
    let env = env.map(EnvConfig::new).or(header.env.clone());
    let told = ["algorithm_name", "description", "author", "author_email", "code_permalink"];
    let kept = header.about.iter().filter(|(name, _)| told.contains(&name.as_str()) || name == "algorithm");
    let renamed = kept
        .map(|(name, text)| (if name == "algorithm" { "algorithm_name".into() } else { name.clone() }, text.clone()));
    Info {
        action_space: None,
        env_spec: env.and_then(|env| gymnasium::spec_json(&env).ok()),
        reference: header.reference,
        about: renamed.collect(),
    }
}

/// The last part of a path: where it lies on this machine is nobody else's affair.
fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Bounds of -1 and 1 if all actions are within them.
fn usual_box(act_dim: usize, range: Range) -> Option<ActionSpace> {
    let within = range.0 >= -1.0 && range.1 <= 1.0;
    within.then(|| ActionSpace::Box { low: vec![-1.0; act_dim], high: vec![1.0; act_dim] })
}

fn convert(args: &ConvertArgs) -> Result<()> {
    let source = Source::open(&args.path).map_err(bad)?;
    let header = source.header();
    let mut info = info_of(header, args.env.as_deref());
    if let Some(id) = args.env.as_ref().filter(|_| info.env_spec.is_none()) {
        bad_input!("`--env {id}`: Gymnasium knows no such environment");
    }
    let mut writer = Writer::create(&args.target, header.obs_dim, header.act_dim, header.dtype)?;
    let mut actions = Range::default();
    read(&source, &mut |block| {
        actions.add(&block.action);
        writer.push(block)
    })?;
    info.action_space = usual_box(header.act_dim, actions);
    writer.finish(&args.target, info)
}

fn merge(args: &MergeArgs) -> Result<()> {
    let sources: Result<Vec<Source>, DatasetError> = args.paths.iter().map(|path| Source::open(path)).collect();
    let sources = sources.map_err(bad)?;
    let first = sources[0].header();
    for (path, source) in args.paths.iter().zip(&sources) {
        let header = source.header();
        if (header.obs_dim, header.act_dim) != (first.obs_dim, first.act_dim) {
            bad_input!(
                "{path} has observations of {} numbers and actions of {}, and {} of {} and {}: they cannot be one dataset",
                header.obs_dim,
                header.act_dim,
                args.paths[0],
                first.obs_dim,
                first.act_dim
            );
        }
    }
    let dtype = if sources.iter().all(|s| s.header().dtype == Dtype::F32) { Dtype::F32 } else { Dtype::F64 };
    let mut writer = Writer::create(&args.target, first.obs_dim, first.act_dim, dtype)?;
    let mut actions = Range::default();
    for source in &sources {
        // Rows wait for their episode to end; what is open, or was cut with the file, stays behind.
        let mut waiting = Block::default();
        read(source, &mut |block| {
            for i in 0..block.len() {
                if waiting.last.last() == Some(&true) {
                    actions.add(&waiting.action);
                    writer.push(&std::mem::take(&mut waiting))?;
                }
                waiting.push(block, i, first.obs_dim, first.act_dim);
            }
            Ok(())
        })?;
        let finished = waiting.terminated.last() == Some(&true) || waiting.truncated.last() == Some(&true);
        if finished {
            actions.add(&waiting.action);
            writer.push(&waiting).map_err(bad)?;
        }
    }
    let mut info = info_of(first, None);
    let names: Vec<String> = args.paths.iter().map(|path| name_of(Path::new(path))).collect();
    info.about.retain(|(name, _)| name != "description");
    info.about.push(("description".into(), format!("{}, one after the other", names.join(", "))));
    info.action_space = usual_box(first.act_dim, actions);
    writer.finish(&args.target, info)
}

// ---------------------------------------------------------------------------------------------------------------------
// Recording.

/// Rows on their way into a file.
struct Recorder {
    writer: Writer,
    block: Block,
    left: usize,
    dims: (usize, usize),
}

impl Recorder {
    /// Takes a step; whether to go on.
    fn keep(&mut self, played: &Played) -> Result<bool, DatasetError> {
        let Outcome { reward, terminated, truncated } = played.outcome;
        self.left -= 1;
        let block = &mut self.block;
        block.obs.extend_from_slice(&played.obs);
        block.next_obs.extend_from_slice(&played.next_obs);
        block.action.extend(played.action.iter().map(|&a| f64::from(a)));
        block.reward.push(reward);
        block.known.push(true);
        block.terminated.push(terminated);
        block.truncated.push(truncated);
        block.last.push(terminated || truncated || self.left == 0);
        if block.last.last() == Some(&true) {
            self.writer.push(&std::mem::take(&mut self.block))?;
        }
        Ok(self.left > 0)
    }
}

fn record(args: &RecordArgs, bregman: &Bregman) -> Result<()> {
    let run = train::read_run(&args.dir, &[], bregman)?;
    if args.steps == 0 {
        bad_input!("`--steps 0`: at least 1");
    }
    if args.tier == Tier::Random && args.checkpoint.is_some() {
        bad_input!("`--tier random` has no policy: leave `--checkpoint` out");
    }
    let spec = bregman.envs.make(&run.env)?.spec().clone();
    let ActionSpace::Box { low, .. } = &spec.action_space else {
        bad_input!("{} has actions that are choices, and datasets of real ones are written", spec.id);
    };
    let dims = (spec.obs_dim, low.len());
    let mut description = format!("{} of {}", format!("{:?}", args.tier).to_lowercase(), name_of(&args.dir));
    let request = EvalRequest { episodes: u32::MAX, stochastic: true, seed: args.seed, max_episode_steps: None };
    let algorithm = run.agent(bregman)?.0.name;

    // What is recorded is found before the file is begun.
    let mut learner = train::build(&run, bregman)?;
    match (args.tier, &args.checkpoint) {
        (Tier::Random, _) => {}
        (Tier::Replay, name) => {
            let (_, snapshot) = train::find_checkpoint(&args.dir, name.as_deref().unwrap_or("last"), Part::Whole)?;
            learner.load(&snapshot)?;
            let empty = learner.replay(&mut |_, _| Ok(false));
            empty.map_err(|e| BadInput(format!("{}: {e}", args.dir.display())))?;
        }
        (Tier::Medium, None) => {
            let medium = find_medium(&run, &args.dir, learner.as_mut(), bregman)?;
            write!(
                description,
                ", policies/{}: {:.1}, the best checkpoint {:.1}, random {:.1}",
                medium.file, medium.reward, medium.best, medium.random
            )?;
        }
        (Tier::Medium | Tier::Expert, name) => {
            let name = name.as_deref().unwrap_or("best");
            let progress = train::load_policy(&args.dir, name, learner.as_mut())?;
            write!(description, ", {name} at {} steps", progress.env_steps)?;
        }
    }
    write!(description, ", seed {}", args.seed)?;
    let writer = Writer::create(&args.target, dims.0, dims.1, Dtype::F64)?;
    let mut recorder = Recorder { writer, block: Block::default(), left: args.steps, dims };
    match args.tier {
        Tier::Random => play_at_random(&run, &spec.action_space, args.seed, &mut recorder, bregman)?,
        Tier::Replay => pour(learner.as_ref(), &mut recorder)?,
        Tier::Medium | Tier::Expert => learner.play(&request, &mut |played| Ok(recorder.keep(played)?))?,
    }
    let Recorder { mut writer, block, .. } = recorder;
    writer.push(&block).map_err(bad)?;
    let info = Info {
        env_spec: gymnasium::spec_json(&run.env).ok(),
        action_space: Some(spec.action_space.clone()),
        reference: None,
        about: vec![("algorithm_name".into(), algorithm.into()), ("description".into(), description)],
    };
    writer.finish(&args.target, info)
}

/// Uniform actions.
fn play_at_random(
    run: &RunFile,
    space: &ActionSpace,
    seed: u64,
    recorder: &mut Recorder,
    bregman: &Bregman,
) -> Result<()> {
    let mut lane = Lane::new(0, bregman.envs.make(&run.env)?, seed)?;
    let mut rng = Seed(seed).stream("random", 0);
    let outcome = Outcome { reward: 0.0, terminated: false, truncated: false };
    let (obs_dim, act_dim) = recorder.dims;
    let mut played =
        Played { obs: vec![0.0; obs_dim], action: vec![0.0; act_dim], outcome, next_obs: vec![0.0; obs_dim] };
    loop {
        played.obs.copy_from_slice(lane.obs());
        space.sample(&mut rng, &mut played.action);
        played.outcome = lane.step(&played.action, &mut played.next_obs)?.outcome;
        if !recorder.keep(&played).map_err(bad)? {
            return Ok(());
        }
    }
}

/// The policy of the medium tier.
struct Medium {
    file: String,
    reward: f64,
    best: f64,
    random: f64,
}

/// The first policy under `policies/` whose deterministic return is a third of the way from a random policy's to the best
/// checkpoint's; the learner has it afterwards.
fn find_medium(run: &RunFile, dir: &Path, learner: &mut dyn Learner, bregman: &Bregman) -> Result<Medium> {
    let (manifest, _) = train::find_checkpoint(dir, "best", Part::Policy)?;
    let best = manifest.run.best.map_or(f64::NAN, |(best, _)| best);
    let random = random_return(run, bregman)?;
    let folder = dir.join("policies");
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    files.sort();
    for file in files {
        train::load_policy(dir, &format!("policies/{file}"), learner)?;
        let reward = train::evaluate(run, learner, Some(10), false)?.mean_reward();
        if reward >= random + (best - random) / 3.0 {
            note!("medium is policies/{file}: {reward:.1}, between {random:.1} at random and {best:.1} at best");
            return Ok(Medium { file, reward, best, random });
        }
    }
    bad_input!(
        "{}: no policy under policies/ is a third of the way from {random:.1} at random to {best:.1} at best; \
         `checkpoint.snapshot_every` keeps policies while a run trains, and `--checkpoint` names one",
        dir.display()
    )
}

/// Mean return of ten episodes of uniform actions.
fn random_return(run: &RunFile, bregman: &Bregman) -> Result<f64> {
    let env = bregman.envs.make(&run.env)?;
    let (space, obs_dim) = (env.spec().action_space.clone(), env.spec().obs_dim);
    let (mut lane, mut rng) = (Lane::new(0, env, run.seed)?, Seed(run.seed).stream("random", 0));
    let (mut action, mut next_obs) = (vec![0.0; space.row_len()], vec![0.0; obs_dim]);
    let (mut sum, mut episodes) = (0.0, 0);
    while episodes < 10 {
        space.sample(&mut rng, &mut action);
        if let Some(episode) = lane.step(&action, &mut next_obs)?.finished {
            sum += episode.reward;
            episodes += 1;
        }
    }
    Ok(sum / 10.0)
}

/// The oldest rows of a replay buffer, environment after environment, each cut where its rows end.
fn pour(learner: &dyn Learner, recorder: &mut Recorder) -> Result<()> {
    let mut lanes: Vec<Vec<Played>> = Vec::new();
    let mut left = recorder.left;
    learner.replay(&mut |lane, played| {
        lanes.resize(lanes.len().max(lane + 1), Vec::new());
        lanes[lane].push(played.clone());
        left -= 1;
        Ok(left > 0)
    })?;
    recorder.left = lanes.iter().map(Vec::len).sum();
    for mut lane in lanes {
        if let Some(Played { outcome, .. }) = lane.last_mut() {
            outcome.truncated |= !outcome.terminated;
        }
        for played in &lane {
            recorder.keep(played).map_err(bad)?;
        }
    }
    Ok(())
}
