//! `bregman dataset record`: datasets of what a trained agent does, or did.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::{Info, RecordArgs, Tier, Writer, bad, name_of};
use crate::agents::dataset::{Block, DatasetError};
use crate::agents::evaluate::Played;
use crate::agents::learner::{EvalRequest, Learner};
use crate::agents::storage::Storage;
use crate::checkpoint::Part;
use crate::envs::hdf5::Dtype;
use crate::envs::rng::Seed;
use crate::envs::{ActionSpace, Lane, Outcome, gymnasium};
use crate::error::bad_input;
use crate::run_file::RunFile;
use crate::terminal::note;
use crate::{BadInput, Bregman, train};

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

/// `bregman dataset record`.
pub(super) fn record(args: &RecordArgs, bregman: &Bregman) -> Result<()> {
    let run = train::read_run(&args.dir, &[], bregman)?;
    if args.steps == 0 {
        bad_input!("`--steps 0`: at least 1");
    }
    if args.tier == Tier::Random && args.checkpoint.is_some() {
        bad_input!("`--tier random` has no policy: leave `--checkpoint` out");
    }
    if run.env.is_world() {
        bad_input!("{} builds objects in a world, and datasets are of environments", args.dir.display());
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
    let mut learner = train::build_to_judge(&run, bregman)?;
    match (args.tier, &args.checkpoint) {
        (Tier::Random, _) => {}
        (Tier::Replay, name) => {
            let (_, snapshot) =
                train::find_checkpoint(&args.dir, name.as_deref().unwrap_or("last"), Part::Whole(Storage::Auto))?;
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

/// Of the policies under `policies/`, up to the first whose deterministic return is a third of the way from a random policy's
/// to the best checkpoint's, the one that is nearest to it: a return may leap far beyond. The learner has it afterwards.
fn find_medium(run: &RunFile, dir: &Path, learner: &mut dyn Learner, bregman: &Bregman) -> Result<Medium> {
    let (manifest, _) = train::find_checkpoint(dir, "best", Part::Policy)?;
    let best = manifest.run.best.map_or(f64::NAN, |(best, _)| best.0);
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
    let mut rewards = Vec::new();
    for file in &files {
        train::load_policy(dir, &format!("policies/{file}"), learner)?;
        rewards.push(train::evaluate(run, learner, Some(10), false)?.mean_reward());
        if let Some(chosen) = nearest_to(goal(random, best), &rewards) {
            let (file, reward) = (files[chosen].clone(), rewards[chosen]);
            note!("medium is policies/{file}: {reward:.1}, between {random:.1} at random and {best:.1} at best");
            train::load_policy(dir, &format!("policies/{file}"), learner)?;
            return Ok(Medium { file, reward, best, random });
        }
    }
    bad_input!(
        "{}: no policy under policies/ is a third of the way from {random:.1} at random to {best:.1} at best; \
         `checkpoint.snapshot_every` keeps policies while a run trains, and `--checkpoint` names one",
        dir.display()
    )
}

/// A third of the way from the return at random to the best.
fn goal(random: f64, best: f64) -> f64 {
    random + (best - random) / 3.0
}

/// Which of `rewards` is nearest to `goal`, once the last of them has reached it.
fn nearest_to(goal: f64, rewards: &[f64]) -> Option<usize> {
    let distance = |index: &usize| (rewards[*index] - goal).abs();
    let reached = rewards.last().is_some_and(|last| *last >= goal);
    reached.then(|| (0..rewards.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))))?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medium_is_nearest_to_the_goal_before_and_at_reaching_it() {
        assert_eq!(nearest_to(1000.0, &[]), None);
        assert_eq!(nearest_to(1000.0, &[100.0, 900.0, 990.0]), None);
        assert_eq!(nearest_to(1000.0, &[100.0, 900.0, 300.0, 3000.0]), Some(1));
        assert_eq!(nearest_to(1000.0, &[100.0, 900.0, 1050.0]), Some(2));
        assert_eq!(nearest_to(1000.0, &[1500.0]), Some(0));
    }

    #[test]
    fn medium_is_a_third_of_the_way_to_the_best() {
        // 900 from one to the other.
        assert_eq!(goal(-1200.0, -300.0), -900.0);
    }
}
