//! The command line.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::agents::learner::Criterion;
use crate::agents::scores::Reference;
use crate::check_gradient::{self, CheckArgs};
use crate::compare::{self, CompareArgs};
use crate::error::{bad_input, nearest};
use crate::export::{self, ExportArgs};
use crate::report::{self, ReportArgs};
use crate::run_file::RunFile;
use crate::sample::{self, SampleArgs};
use crate::sweep::{self, SweepArgs};
use crate::terminal::{note, print, reader_left};
use crate::train::{self, Ending, Training};
use crate::{BadInput, Bregman, bench, dataset, env_command, run_dir};

/// Train and judge reinforcement-learning agents.
#[derive(Parser)]
#[command(name = "bregman", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train an agent as a run file says, or go on with a run
    Train(TrainArgs),
    /// Train with many seeds and settings side by side; the same command again goes on where it stopped
    Sweep(SweepArgs),
    /// Judge the policy of a run on complete episodes
    Eval(EvalArgs),
    /// Draw finished objects from the policy of a GFlowNet's run
    Sample(SampleArgs),
    /// Compare groups of runs that differ in more than the seed: statistics with intervals, and plots
    Compare(CompareArgs),
    /// Write a comparison as one HTML page
    Report(ReportArgs),
    /// Write the policy of a run for other programs: ONNX or safetensors
    Export(ExportArgs),
    /// List agents, environments, worlds and presets
    List,
    /// Print every setting of an agent or a world with its default and meaning, and what the agent logs
    Show {
        /// An agent or a world, as `list` names them
        agent: String,
    },
    /// Look at datasets, make, convert and merge them
    #[command(subcommand)]
    Dataset(dataset::DatasetCommand),
    /// Look at environments, and at what they do step by step
    #[command(subcommand)]
    Env(env_command::EnvCommand),
    /// Compare an agent's estimates of gradients with closed forms; exit code 1 where they disagree
    CheckGradient(CheckArgs),
    /// Measure speed
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Say what is found, what is missing and what mends it
    Doctor,
}

#[derive(Args)]
struct TrainArgs {
    /// The run file
    #[arg(required_unless_present = "resume")]
    run_file: Option<PathBuf>,
    /// Change a key of the run file, as in --set agent.ppo.gamma=0.995
    #[arg(long = "set", value_name = "KEY=VALUE")]
    patches: Vec<String>,
    /// The run's seed, in place of the file's
    #[arg(long, conflicts_with = "resume", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// The run directory [default: runs/AGENT-ENV-sSEED]
    #[arg(long, conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with the run in this directory, from its last checkpoint
    #[arg(long, value_name = "DIR", conflicts_with = "run_file")]
    resume: Option<PathBuf>,
    /// Save and stop when standard input ends, for a parent that this run must not outlive
    #[arg(long)]
    until_stdin_closes: bool,
}

#[derive(Args)]
struct EvalArgs {
    /// The run directory
    dir: PathBuf,
    /// Complete episodes [default: the run file's]
    #[arg(long)]
    episodes: Option<u32>,
    /// Sample actions instead of taking the most probable ones
    #[arg(long)]
    stochastic: bool,
    /// `last`, `best`, the steps of a checkpoint, or a file as in policies/00050000.safetensors
    #[arg(long, default_value = "last")]
    checkpoint: String,
    /// Film the episodes, through Gymnasium, into this file: .gif or .mp4 [episodes: 1 unless said]
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command line over what `bregman` knows: 0 done, 1 failed, 2 bad input, 128 + signal interrupted and saved.
pub fn run(bregman: Bregman) -> ExitCode {
    match execute(Cli::parse().command, &bregman) {
        Ok(code) => code,
        Err(error) if reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note!("error: {error:#}");
            let bad_input = error.chain().any(|cause| cause.is::<BadInput>());
            ExitCode::from(if bad_input { 2 } else { 1 })
        }
    }
}

fn execute(command: Command, bregman: &Bregman) -> Result<ExitCode> {
    match command {
        Command::Train(args) => return train(args, bregman),
        Command::Sweep(args) => return sweep::sweep(&args, bregman),
        Command::Eval(args) => eval(&args, bregman)?,
        Command::Sample(args) => sample::sample(&args, bregman)?,
        Command::Compare(args) => compare::compare(&args, bregman)?,
        Command::Report(args) => report::report(&args, bregman)?,
        Command::Export(args) => export::export(&args, bregman)?,
        Command::List => print(&list(bregman)?)?,
        Command::Show { agent } => print(&show(&agent, bregman)?)?,
        Command::Dataset(command) => dataset::run(command, bregman)?,
        Command::Env(command) => env_command::run(command, bregman)?,
        Command::CheckGradient(args) => {
            let right = check_gradient::run(&args, bregman)?;
            return Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Bench(command) => bench::run(command, bregman)?,
        Command::Doctor => return Ok(if crate::doctor::run()? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
    Ok(ExitCode::SUCCESS)
}

fn train(mut args: TrainArgs, bregman: &Bregman) -> Result<ExitCode> {
    train::watch_signals()?;
    if args.until_stdin_closes {
        train::watch_stdin();
    }
    let (mut training, dir) = match (args.resume, args.run_file) {
        (Some(dir), _) => (Training::resume(&dir, &args.patches, bregman)?, dir),
        (None, Some(path)) => {
            args.patches.extend(args.seed.map(|seed| format!("seed={seed}")));
            let run = RunFile::read(&path, &args.patches, bregman)?;
            let dir = args.out.map_or_else(|| default_dir(&run, bregman), Ok)?;
            (Training::start(run, &dir, bregman)?, dir)
        }
        (None, None) => bad_input!("name a run file, or a run directory with --resume"),
    };
    let at = dir.display();
    if training.finished() {
        let unit = training.run_file().budget_unit();
        match training.stopped_at() {
            Some(goal) => {
                note!(
                    "the run in {at} ended early, at `eval.stop_at = {goal}`; another makes it go on: --set eval.stop_at=…"
                )
            }
            None => note!("the run in {at} is finished; a larger budget makes it go on: --set budget.{unit}=…"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    Ok(match training.train()? {
        Ending::Interrupted => {
            note!("saved; go on with: bregman train --resume {at}");
            train::stopped_code()
        }
        Ending::Finished => {
            let seconds = training.seconds();
            let (minutes, rest) = ((seconds / 60.0).floor(), (seconds % 60.0).floor());
            let mut text = format!("finished in {minutes:.0} min {rest:02.0} s: {at}\n");
            if let Some((best, position)) = training.best() {
                let written = Criterion::written(training.criterion(), best);
                writeln!(text, "best evaluation: {written} at {position} steps")?;
                if let (Some(reference), Some(last)) = (training.reference(), training.last()) {
                    let (last, best) = (reference.score(last), reference.score(best));
                    let Reference { random, expert } = reference;
                    writeln!(text, "score, 0 at {random} and 100 at {expert}: last {last:.1}, best {best:.1}")?;
                }
            }
            if let (Some(goal), Some(last)) = (training.stopped_at(), training.last()) {
                let written = Criterion::written(training.criterion(), last);
                writeln!(text, "ended early: {written} meets `eval.stop_at = {goal}`")?;
            }
            writeln!(text, "judge it:   bregman eval {at}")?;
            if training.run_file().env.is_world() {
                writeln!(text, "sample it:  bregman sample {at}")?;
            }
            if training.run_file().observe.tensorboard {
                writeln!(text, "look at it: .venv/bin/tensorboard --logdir {at}")?;
            }
            print(&text)?;
            ExitCode::SUCCESS
        }
    })
}

/// `runs/ppo-half_cheetah-s1`, `runs/odice-hopper-medium_replay-semi-s1`: agent, environment, dataset, label and seed.
fn default_dir(run: &RunFile, bregman: &Bregman) -> Result<PathBuf> {
    let dataset = run.dataset.as_ref().and_then(|dataset| Path::new(&dataset.path).file_stem());
    let dataset = dataset.map(|stem| stem.to_string_lossy().into_owned());
    let names = [Some(run.env.id.clone()), dataset, run.label.clone()].into_iter().flatten();
    let slugs: Vec<String> = names.map(|name| slug(&name)).filter(|slug| !slug.is_empty()).collect();
    Ok(PathBuf::from(format!("runs/{}-{}-s{}", run.agent(bregman)?.0.name, slugs.join("-"), run.seed)))
}

/// `HalfCheetah-v5` as `half_cheetah`: the last part of a name without its version, in small letters.
fn slug(name: &str) -> String {
    let id = name.rsplit('/').next().unwrap_or_default();
    let name = match id.rsplit_once("-v") {
        Some((name, version)) if version.chars().all(|c| c.is_ascii_digit()) => name,
        _ => id,
    };
    let mut slug = String::new();
    for c in name.chars() {
        match c {
            c if c.is_ascii_uppercase() && !slug.is_empty() => slug.extend(['_', c.to_ascii_lowercase()]),
            c if c.is_ascii_alphanumeric() => slug.push(c.to_ascii_lowercase()),
            _ => slug.push('_'),
        }
    }
    slug.trim_matches('_').into()
}

fn eval(args: &EvalArgs, bregman: &Bregman) -> Result<()> {
    let run = train::read_run(&args.dir, &[], bregman)?;
    let mut learner = train::build_to_judge(&run, bregman)?;
    let progress = train::load_policy(&args.dir, &args.checkpoint, learner.as_mut())?;
    let steps = run_dir::position(run.budget, &progress);
    if args.episodes == Some(0) {
        bad_input!("`--episodes 0`: at least 1");
    }
    if args.video.is_some() && run.env.is_world() {
        bad_input!("`--video`: objects built in {} cannot be filmed; `bregman sample` writes them", run.env.id);
    }
    let mut episodes = args.episodes;
    if let Some(video) = &args.video {
        check_video(video)?;
        check_renderer()?;
        // The learner has its own environments by now; those of the evaluation are made from here on.
        bregman.envs.film(video);
        episodes = episodes.or(Some(1));
    }
    let evaluation = train::evaluate(&run, learner.as_mut(), episodes, args.stochastic);
    let evaluation = match &args.video {
        Some(video) => evaluation.with_context(|| format!("filming into {}", video.display()))?,
        None => evaluation?,
    };
    evaluation.warning.iter().for_each(|warning| note!("{warning}"));
    let (mean, std, len) = (evaluation.mean_reward(), evaluation.std_reward(), evaluation.mean_length());
    // What counts as 0 and 100 may stand in a dataset that is elsewhere by now.
    let reference = train::reference(&run).unwrap_or_else(|why| {
        note!("without a score: {why:#}");
        None
    });
    let score = reference.map(|reference| reference.score(mean));
    if args.json {
        let rewards: Vec<f64> = evaluation.episodes.iter().map(|episode| episode.reward).collect();
        let object = serde_json::json!({
            "env": run.env.id,
            "seed": run.seed,
            "env_steps": progress.env_steps,
            "grad_steps": progress.grad_steps,
            "stochastic": args.stochastic,
            "mean_reward": mean,
            "std_reward": std,
            "mean_ep_length": len,
            "score": score,
            "rewards": rewards,
        });
        return print(&format!("{object}\n"));
    }
    let episodes = match evaluation.episodes.len() {
        1 => "1 episode of".into(),
        many => format!("{many} episodes of mean"),
    };
    let video = args.video.as_ref().map_or(String::new(), |video| format!("{}\n", video.display()));
    let score = score.map_or(String::new(), |score| format!(", score {score:.1}"));
    print(&format!(
        "{}, {} steps trained: {mean:.1} ± {std:.1} over {episodes} length {len:.0}{score}\n{video}",
        run.env.id, steps
    ))
}

/// Refuses a file that no film can be written to, before there is one; makes its folder.
fn check_video(video: &Path) -> Result<()> {
    let at = video.display();
    let ending = video.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !["gif", "mp4"].contains(&ending.as_str()) {
        bad_input!("`--video {at}`: a name that ends in .gif or .mp4");
    }
    let write = || {
        std::fs::create_dir_all(video.parent().unwrap_or(Path::new("")))?;
        let new = !video.exists();
        std::fs::OpenOptions::new().append(true).create(true).open(video)?;
        if new { std::fs::remove_file(video) } else { Ok(()) }
    };
    Ok(write().map_err(|e: std::io::Error| BadInput(format!("`--video {at}`: {e}")))?)
}

/// Refuses a renderer that MuJoCo does not know, at which its import would fail.
fn check_renderer() -> Result<()> {
    let known = [
        "", "egl", "osmesa", "glfw", "enable", "enabled", "on", "true", "1", "disable", "disabled", "off", "false", "0",
    ];
    match std::env::var("MUJOCO_GL") {
        Ok(name) if !known.contains(&name.to_lowercase().trim()) => {
            bad_input!("`MUJOCO_GL={name}`: egl or osmesa; left out, whichever works")
        }
        _ => Ok(()),
    }
}

fn list(bregman: &Bregman) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "agents")?;
    for agent in bregman.agents.entries() {
        writeln!(text, "  {:<28} {}", agent.name, agent.summary)?;
    }
    writeln!(text, "\nenvironments in Rust; every other id is Gymnasium's")?;
    for env in bregman.envs.entries() {
        writeln!(text, "  {:<28} {}", env.id, env.summary)?;
    }
    writeln!(text, "\nworlds, which GFlowNets build objects in")?;
    for world in bregman.envs.worlds.entries() {
        writeln!(text, "  {:<28} {}", world.name, world.summary)?;
    }
    writeln!(text, "\npresets")?;
    for (path, sentence) in presets() {
        writeln!(text, "  {:<42} {sentence}", path.display())?;
    }
    Ok(text)
}

/// The run files under `configs/`, here or where the program was built, with their first line.
fn presets() -> Vec<(PathBuf, String)> {
    let here = PathBuf::from("configs");
    let root = if here.is_dir() { here } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("configs") };
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries(&root).flat_map(|dir| entries(&dir).collect::<Vec<_>>());
    let mut all: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let first = text.lines().next().unwrap_or_default().trim_start_matches('#').trim().to_string();
            (path, first)
        })
        .collect();
    all.sort();
    all
}

fn show(name: &str, bregman: &Bregman) -> Result<String> {
    let mut text = String::new();
    if let Some(world) = bregman.envs.worlds.get(name) {
        writeln!(text, "{}: {}\n\n[world.{}]", world.name, world.summary, world.name)?;
        for setting in (world.settings)() {
            writeln!(text, "{:<36} # {}", format!("{} = {}", setting.key, setting.default), setting.doc)?;
        }
        return Ok(text);
    }
    let Some(agent) = bregman.agents.get(name) else {
        let mut known: Vec<&str> = bregman.agents.entries().map(|agent| agent.name).collect();
        known.extend(bregman.envs.worlds.entries().map(|world| world.name));
        if bregman.envs.entries().any(|env| env.id == name) {
            bad_input!("`{name}` is an environment: bregman env info {name}");
        }
        let near = nearest(name, known.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
        bad_input!(
            "no agent or world is called `{name}`{}",
            near.unwrap_or_else(|| format!("; there are {}", known.join(", ")))
        );
    };
    writeln!(text, "{}: {}\n\n[agent.{}]", agent.name, agent.summary, agent.name)?;
    for setting in (agent.settings)() {
        let line = match setting.default.as_str() {
            "none" => format!("# {} =", setting.key),
            default => format!("{} = {default}", setting.key),
        };
        writeln!(text, "{line:<36} # {}", setting.doc)?;
    }
    writeln!(text, "\nlogs")?;
    for (name, meaning) in agent.metrics {
        writeln!(text, "  {name:<34} {meaning}")?;
    }
    Ok(text)
}
