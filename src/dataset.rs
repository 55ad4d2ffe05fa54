//! `bregman dataset`: looking at datasets, and making, converting and merging them.

mod inspect;
mod record;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::agents::dataset::{
    Block, D4rlWriter, DatasetConfig, DatasetError, Header, MinariInfo, MinariWriter, Source, minari_root,
};
use crate::envs::hdf5::Dtype;
use crate::envs::{ActionSpace, EnvConfig, gymnasium};
use crate::error::bad_input;
use crate::terminal::print;
use crate::{BadInput, Bregman};
use inspect::Range;

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
    /// The policy under policies/ that is nearest to a third of the way from a random one to the best checkpoint, of those up to
    /// the first that gets there; actions sampled
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
        DatasetCommand::Inspect(args) => inspect::inspect(&args),
        DatasetCommand::Convert(args) => convert(&args),
        DatasetCommand::Merge(args) => merge(&args),
        DatasetCommand::Record(args) => record::record(&args, bregman),
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

/// A dataset that is being written, under a hidden name beside its own until it is whole.
struct Writer {
    layout: Layout,
    part: Part,
}

enum Layout {
    D4rl(D4rlWriter),
    Minari(MinariWriter),
}

/// A file or folder that goes with its owner, unless it was renamed before.
struct Part(PathBuf);

impl Part {
    fn clear(&self) {
        // Whichever it is; that nothing is there is what is wanted.
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.clear();
    }
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
        let (out, minari) = (&target.out, target.format == FormatName::Minari);
        if minari {
            dataset_id(out)?;
        }
        if out.symlink_metadata().is_ok() {
            bad_input!("`--out {}`: something is there already; remove it, or choose another place", out.display());
        }
        let Some(name) = out.file_name() else { bad_input!("`--out {}`: a name is missing", out.display()) };
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder).map_err(|e| BadInput(format!("{}: {e}", folder.display())))?;
        }
        let part = Part(out.with_file_name(format!(".{}.part", name.to_string_lossy())));
        part.clear();
        let layout = match minari {
            true => Layout::Minari(MinariWriter::create(&part.0, obs_dim, act_dim, dtype).map_err(bad)?),
            false => Layout::D4rl(D4rlWriter::create(&part.0, obs_dim, act_dim, dtype).map_err(bad)?),
        };
        Ok(Writer { layout, part })
    }

    fn push(&mut self, block: &Block) -> Result<(), DatasetError> {
        match &mut self.layout {
            Layout::D4rl(writer) => writer.push(block),
            Layout::Minari(writer) => writer.push(block),
        }
    }

    fn finish(self, target: &Target, info: Info) -> Result<()> {
        let Info { action_space, env_spec, reference, about } = info;
        let reference = target.reference.or(reference);
        let Writer { layout, part } = self;
        match layout {
            Layout::D4rl(writer) => {
                writer.finish(env_spec.as_deref(), &about).map_err(bad)?;
            }
            Layout::Minari(writer) => {
                let dataset_id = dataset_id(&target.out)?;
                writer.finish(&MinariInfo { dataset_id, action_space, env_spec, reference, about }).map_err(bad)?;
            }
        }
        std::fs::rename(&part.0, &target.out).map_err(|e| BadInput(format!("{}: {e}", target.out.display())))?;
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
    let kept = header.about.iter().filter(|(name, _)| told.contains(&name.as_str()));
    Info {
        action_space: None,
        env_spec: env.and_then(|env| gymnasium::spec_json(&env).ok()),
        reference: header.reference,
        about: kept.cloned().collect(),
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
