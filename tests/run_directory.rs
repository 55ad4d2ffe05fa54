//! What a run directory has to survive: alterations, second thoughts, and agents that log what they do not declare.

mod common;

use std::path::Path;

use bregman::agents::learner::*;
use bregman::agents::registry::{AgentConfig, AgentEntry};
use bregman::agents::storage::Storage;
use bregman::checkpoint::Part;
use bregman::run_file::RunFile;
use bregman::train::Training;
use bregman::{Bregman, checkpoint};
use common::{PENDULUM, bregman, folder, run, write};
use serde::{Deserialize, Serialize};

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("it is there")
}

fn change(path: &Path, from: &str, to: &str) {
    let before = text(path);
    assert!(before.contains(from), "{before}");
    std::fs::write(path, before.replace(from, to)).expect("writable");
}

/// What the last row of a run's `metrics.csv` says of `name`.
fn last(run: &Path, name: &str) -> f64 {
    let metrics = text(&run.join("metrics.csv"));
    let names = metrics.lines().next().expect("a header");
    let column = names.split(',').position(|column| column == name).expect(name);
    let cell = metrics.lines().last().and_then(|row| row.split(',').nth(column)).expect("a cell");
    cell.parse().expect("a number")
}

#[test]
fn training_episodes_are_listed_and_the_last_hundred_averaged() {
    let place = folder("window");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set env.max_episode_steps=20").0, 0);
    let episodes = text(&place.join("r/episodes.csv"));
    let rows: Vec<Vec<&str>> = episodes.lines().skip(1).map(|row| row.split(',').collect()).collect();
    // 12,000 steps of 20 each.
    assert_eq!(rows.len(), 600);
    assert!(rows.iter().all(|row| row[3] == "20"));
    let rewards: Vec<f64> = rows.iter().map(|row| row[2].parse().expect("a number")).collect();
    let mean = rewards[500..].iter().sum::<f64>() / 100.0;
    let logged = last(&place.join("r"), "rollout/ep_rew_mean");
    assert!((logged - mean).abs() < 1e-9, "{logged} is not {mean}");
}

#[test]
fn evaluation_has_a_time_limit_of_its_own() {
    let place = folder("eval-limit");
    write(&place, PENDULUM);
    let limits = "--set env.max_episode_steps=40 --set eval.max_episode_steps=70";
    assert_eq!(run(&place, &format!("train run.toml --out r --set budget.env_steps=300 {limits}")).0, 0);
    let length = |name: &str| last(&place.join("r"), name);
    assert_eq!((length("rollout/ep_len_mean"), length("eval/mean_ep_length")), (40.0, 70.0));
}

#[test]
fn evaluation_episodes_start_from_seeds_far_from_those_of_training() {
    let place = folder("eval-seed");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=300").0, 0);
    let output = bregman(&place).args(["eval", "r", "--json", "--episodes", "2"]).output().expect("it starts");
    let judged: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");

    let (dir, bregman) = (place.join("r"), Bregman::default());
    let file = bregman::train::read_run(&dir, &[], &bregman).expect("a run");
    let mut learner = bregman::train::build_to_judge(&file, &bregman).expect("a learner");
    bregman::train::load_policy(&dir, "last", learner.as_mut()).expect("it fits");
    // The run's seed is 3: its second episode starts from 10,000 + 3 + 1.
    let request = EvalRequest { episodes: 1, stochastic: false, seed: 10_004, max_episode_steps: None };
    let second = learner.evaluate(&request).expect("it plays");
    assert_eq!(judged["rewards"][1].as_f64(), Some(second.episodes[0].reward));
}

#[test]
fn a_manifest_that_was_altered_anywhere_is_noticed() {
    let place = folder("manifest");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=600 --set checkpoint.every=300").0, 0);
    let manifest = place.join("r/checkpoints/00000600/manifest.json");
    let good = std::fs::read(&manifest).expect("it is there");
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&manifest, bad).expect("writable");
        assert!(checkpoint::read(&place.join("r"), 600, Part::Whole(Storage::Auto)).is_err(), "byte {at}");
    }
    std::fs::write(&manifest, good).expect("writable");
    assert!(checkpoint::read(&place.join("r"), 600, Part::Whole(Storage::Auto)).is_ok());

    // One digit of a counter: the run would go on, and be another one.
    change(&manifest, "\"env_steps\": 600", "\"env_steps\": 601");
    let (code, said) = run(&place, "train --resume r --set budget.env_steps=900");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("manifest.json was altered; going back to the checkpoint before it"), "{said}");
}

#[test]
fn a_checkpoint_of_another_layout_or_version_is_refused_and_stays() {
    let place = folder("layout");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=300").0, 0);
    let r = place.join("r");
    let (mut manifest, snapshot) = checkpoint::read(&r, 300, Part::Whole(Storage::Auto)).expect("it is whole");
    manifest.version = "9.0.0".into();
    checkpoint::write(&r, manifest, &snapshot).expect("writable");
    let before = text(&r.join("run.toml"));
    let (code, said) = run(&place, "train --resume r --set budget.env_steps=600");
    assert!(code == 2 && said.contains("was written by version 9.0.0"), "{said}");
    assert_eq!(text(&r.join("run.toml")), before, "a refused command changes nothing");

    change(&r.join("checkpoints/00000300/manifest.json"), "\"format\": 2", "\"format\": 3");
    for command in ["train --resume r", "eval r"] {
        let (code, said) = run(&place, command);
        assert!(code == 2 && said.contains("has layout 3, of version 9.0.0; this version reads layout 2"), "{said}");
    }
    assert_eq!(checkpoint::positions(&r), [300]);
}

#[test]
fn settings_changed_by_hand_are_refused_as_those_changed_by_set() {
    let place = folder("by-hand");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=300").0, 0);
    change(&place.join("r/run.toml"), "gamma = 0.99", "gamma = 0.9");
    let (code, said) = run(&place, "train --resume r --set budget.env_steps=600");
    assert!(code == 2 && said.contains("`agent.ppo.gamma` was 0.99 and would be 0.9"), "{said}");
}

#[test]
fn a_lost_log_begins_anew_with_its_header_and_that_is_said() {
    let place = folder("lost-log");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=600").0, 0);
    let metrics = place.join("r/metrics.csv");
    let header = text(&metrics).lines().next().expect("a header").to_string();
    std::fs::remove_file(&metrics).expect("it is there");
    let (code, said) = run(&place, "train --resume r --set budget.env_steps=900");
    assert!(code == 0 && said.contains("r/metrics.csv is shorter than at the checkpoint: rows are missing"), "{said}");
    assert_eq!(text(&metrics).lines().next(), Some(header.as_str()));
    assert_eq!(text(&metrics).lines().count(), 2);
}

/// Steps of the points of `tag`, by TensorBoard's own reader.
fn tensorboard_steps(place: &Path, tag: &str) -> Vec<u64> {
    let script = "import sys; from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as E\n\
                  e = E('r'); e.Reload(); print(*[p.step for p in e.Scalars(sys.argv[1])])";
    let python = Path::new(env!("BREGMAN_VENV")).join("bin/python");
    let output = std::process::Command::new(python).args(["-c", script, tag]).current_dir(place).output();
    let output = output.expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(|step| step.parse().expect("a step")).collect()
}

#[test]
fn tensorboard_keeps_its_points_while_it_is_switched_off() {
    let place = folder("switched");
    write(&place, PENDULUM);
    for command in [
        "train run.toml --out r --set budget.env_steps=600",
        "train --resume r --set budget.env_steps=900 --set observe.tensorboard=false",
        "train --resume r --set budget.env_steps=1200 --set observe.tensorboard=true",
    ] {
        let (code, said) = run(&place, command);
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(tensorboard_steps(&place, "train/approx_kl"), [300, 600, 1200]);
}

#[test]
fn the_x_axis_counts_what_the_budget_counts() {
    let place = folder("axis");
    let text = PENDULUM.replace("env_steps = 12_000", "grad_steps = 48").replace("3_000", "24");
    write(&place, &text);
    let (code, said) = run(&place, "train run.toml --out r");
    assert_eq!(code, 0, "{said}");
    // 300 rows in minibatches of 50, 4 times: 24 optimiser steps an iteration.
    assert_eq!(tensorboard_steps(&place, "eval/mean_reward"), [24, 48]);
    let (_, said) = run(&place, "train --resume r");
    assert!(said.contains("--set budget.grad_steps="), "{said}");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let place = folder("pipe");
    for arguments in [&["list"][..], &["show", "ppo"]] {
        let child = bregman(&place).args(arguments).stdout(std::process::Stdio::piped()).spawn();
        let mut child = child.expect("it starts");
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
}

/// An agent that logs a number which its entry does not declare.
#[derive(Default, Serialize, Deserialize, documented::DocumentedFields)]
#[serde(deny_unknown_fields, default)]
struct Secretive {
    /// Nothing.
    nothing: u32,
}

impl AgentConfig for Secretive {
    fn validate(&self) -> Result<(), LearnError> {
        Ok(())
    }

    fn build(self, _: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(self))
    }
}

impl Learner for Secretive {
    fn step(&mut self) -> Result<Report, LearnError> {
        let mut report = Report::default();
        report.metrics.add("train/secret", 1.0);
        Ok(report)
    }

    fn progress(&self) -> Progress {
        Progress::default()
    }

    fn evaluate(&mut self, _: &EvalRequest) -> Result<Evaluation, LearnError> {
        Ok(Evaluation::default())
    }

    fn save(&self) -> Snapshot {
        Snapshot::default()
    }

    fn load(&mut self, _: &Snapshot) -> Result<Vec<String>, LearnError> {
        Ok(vec![])
    }

    fn policy(&self) -> Snapshot {
        Snapshot::default()
    }
}

#[test]
fn a_number_that_is_not_declared_is_an_error() {
    let mut bregman = Bregman::default();
    bregman.agents.add(AgentEntry::of::<Secretive>("secretive", "Logs more than it says.", &[]));
    let text = "[budget]\nenv_steps = 10\n[env]\nid = \"Pendulum-v1\"\n[agent.secretive]\n[observe]\nconsole = false\n";
    let run = RunFile::check(toml::from_str(text).expect("TOML"), &bregman).expect("it is right");
    let mut training = Training::start(run, &folder("secretive").join("r"), &bregman).expect("it starts");
    let error = training.train().expect_err("refused").to_string();
    assert!(error.contains("`train/secret` is logged and not declared"), "{error}");
}
