//! Datasets and offline runs, as a user goes about them.

mod common;

use std::path::Path;
use std::process::Command;

use bregman::agents::dataset::{Block, DatasetConfig, Source};
use bregman::envs::hdf5::Dtype;
use common::{PENDULUM, bregman, folder, run, write};

/// An offline run on a dataset that names its environment.
const OFFLINE: &str = r#"
seed = 3
threads = 2

[budget]
grad_steps = 60

[dataset]
path = "pendulum-v0"

[agent.odice]
batch_size = 16
updates_per_iteration = 10
hidden_sizes = [16]
value_hidden_sizes = [16]

[eval]
every = 20
episodes = 2
score = { random = -1200.0, expert = -200.0 }

[checkpoint]
every = 20
"#;

fn said(folder: &Path, arguments: &str) -> String {
    let output = bregman(folder).args(arguments.split(' ')).output().expect("it starts");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn rows(folder: &Path, path: &str) -> (Block, usize, usize) {
    let source = Source::open(&folder.join(path).display().to_string()).unwrap_or_else(|e| panic!("{e}"));
    let (obs_dim, act_dim) = (source.header().obs_dim, source.header().act_dim);
    let mut all = Block::default();
    let read = source.read(&DatasetConfig::new(""), &mut |block| {
        (0..block.len()).for_each(|i| all.push(block, i, obs_dim, act_dim));
        Ok(())
    });
    read.unwrap_or_else(|e| panic!("{e}"));
    (all, obs_dim, act_dim)
}

/// A folder with a short run of PPO in it, which keeps policies.
fn trained(name: &str) -> std::path::PathBuf {
    let place = folder(name);
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r").0, 0);
    place
}

#[test]
fn tiers_are_recorded_inspected_converted_and_merged() {
    let place = trained("tiers");
    said(&place, "dataset record r --tier random --steps 500 --format d4rl --out random.hdf5 --seed 5");
    said(&place, "dataset record r --tier expert --steps 450 --format minari --out expert-v0 --reference -1300.5,-150");
    // PPO hardly learns in so few steps, so that the medium policy is named.
    let medium = "dataset record r --tier medium --checkpoint policies/00006000.safetensors --steps 250";
    said(&place, &format!("{medium} --format minari --out medium-v0"));

    let told = said(&place, "dataset inspect random.hdf5");
    assert!(told.starts_with("random.hdf5: d4rl, Pendulum-v1\n  rows          500 (500 transitions)\n"), "{told}");
    assert!(told.contains("episodes      3: 0 terminated, 3 truncated"), "{told}");
    assert!(told.contains("some actions are outside [-1, 1]") && told.contains("returns of 3 episodes"), "{told}");
    let object: serde_json::Value =
        serde_json::from_str(&said(&place, "dataset inspect expert-v0 --json")).expect("JSON");
    assert_eq!((&object["rows"], &object["episodes"], &object["env"]), (&450.into(), &3.into(), &"Pendulum-v1".into()));
    assert_eq!(object["reference"], serde_json::json!([-1300.5, -150.0]));
    // The same seed records the same, another another; and what was recorded is what Pendulum does.
    said(&place, "dataset record r --tier random --steps 500 --format d4rl --out again.hdf5 --seed 5");
    said(&place, "dataset record r --tier random --steps 500 --format d4rl --out other.hdf5 --seed 6");
    let random = rows(&place, "random.hdf5").0;
    assert!(rows(&place, "again.hdf5").0 == random && rows(&place, "other.hdf5").0 != random);
    for i in (0..499).filter(|i| i % 200 != 199) {
        assert_eq!(random.next_obs[3 * i..3 * i + 3], random.obs[3 * i + 3..3 * i + 6], "row {i}");
    }

    said(&place, "dataset convert random.hdf5 --format minari --out random-v0");
    said(&place, "dataset convert random-v0 --format d4rl --out back.hdf5");
    assert!(rows(&place, "random-v0").0 == random && rows(&place, "back.hdf5").0 == random);
    assert!(said(&place, "dataset inspect random-v0").contains("description   random of r, seed 5"));

    // The last 50 steps of the expert's 450 are cut, and recorded as cut: they stay.
    said(&place, "dataset merge medium-v0 expert-v0 --format d4rl --out both.hdf5");
    let (both, medium, expert) =
        (rows(&place, "both.hdf5").0, rows(&place, "medium-v0").0, rows(&place, "expert-v0").0);
    assert_eq!(both.reward, [medium.reward, expert.reward].concat());

    for (arguments, sentence) in [
        (
            "merge random.hdf5 small.hdf5 --format d4rl --out x.hdf5",
            "small.hdf5: No such file or directory (os error 2)",
        ),
        (
            "convert random.hdf5 --format minari --out hopper",
            "`--out hopper`: a Minari dataset's name ends in a version, as in hopper-medium-v0",
        ),
        (
            "convert random.hdf5 --env Nothing-v3 --format minari --out x-v0",
            "`--env Nothing-v3`: Gymnasium knows no such environment",
        ),
        (
            "record r --tier replay --steps 5 --format d4rl --out x.hdf5",
            "r: this agent keeps no replay buffer; an off-policy agent does",
        ),
        (
            "record r --tier random --checkpoint last --steps 5 --format d4rl --out x.hdf5",
            "`--tier random` has no policy: leave `--checkpoint` out",
        ),
        ("inspect run.toml", "run.toml: this is no HDF5 file"),
        (
            "convert random.hdf5 --format d4rl --out back.hdf5",
            "`--out back.hdf5`: something is there already; remove it, or choose another place",
        ),
    ] {
        assert_eq!(run(&place, &format!("dataset {arguments}")), (2, format!("error: {sentence}")), "{arguments}");
    }

    // What fails in the middle leaves nothing behind.
    let spoil = "import h5py, shutil; shutil.copy('random.hdf5', 'bad.hdf5'); h5py.File('bad.hdf5', 'r+')['rewards'][250] = float('nan')";
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(Command::new(python).args(["-c", spoil]).current_dir(&place).status().expect("it starts").success());
    for (format, out) in [("d4rl", "half.hdf5"), ("minari", "half-v0")] {
        let (code, error) = run(&place, &format!("dataset convert bad.hdf5 --format {format} --out {out}"));
        assert!(code == 2 && error.contains("`rewards` is NaN in row 250"), "{error}");
        let left: Vec<_> = std::fs::read_dir(&place).expect("a folder").flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("half")), "{left:?}");
    }
}

/// D4RL files by h5py: `write(name, rows, **changes)` has observations 0, 1, 2 …, rewards 10, 11 …, no flags and no successors.
fn write_files(place: &Path, script: &str) {
    let write = r#"
import h5py, numpy as np
def write(name, rows, **changes):
    keys = dict(
        observations=np.arange(rows, dtype="f4").reshape(-1, 1), actions=np.zeros((rows, 2), "f4"),
        rewards=np.arange(10, 10 + rows, dtype="f4"), terminals=np.zeros(rows, bool), timeouts=np.zeros(rows, bool))
    with h5py.File(name + ".hdf5", "w") as file:
        for key, data in {**keys, **changes}.items():
            file[key] = data
"#;
    let python = Path::new(env!("BREGMAN_VENV")).join("bin/python");
    let output = Command::new(python).args(["-c", &[write, script].concat()]).current_dir(place).output();
    let output = output.expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_merge_leaves_out_an_episode_that_its_file_cuts_short() {
    let place = folder("merge-cut");
    write_files(&place, "write('cut', 5, terminals=np.array([0, 0, 1, 0, 0], bool))");
    said(&place, "dataset merge cut.hdf5 cut.hdf5 --format d4rl --out twice.hdf5");
    assert_eq!(rows(&place, "twice.hdf5").0.reward, [10.0, 11.0, 12.0, 10.0, 11.0, 12.0]);
}

#[test]
fn a_merge_is_in_double_precision_where_one_of_its_files_is() {
    let place = folder("merge-precision");
    write_files(
        &place,
        "
for kind in ('f4', 'f8'):
    write(kind, 2, observations=np.full((2, 1), 0.1, kind), terminals=np.array([0, 1], bool))
",
    );
    said(&place, "dataset merge f4.hdf5 f8.hdf5 --format d4rl --out both.hdf5");
    let single = f64::from(0.1_f32);
    assert_eq!(rows(&place, "both.hdf5").0.obs, [single, single, 0.1, 0.1]);
    let source = Source::open(&place.join("both.hdf5").display().to_string()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(source.header().dtype, Dtype::F64);
}

#[test]
fn actions_within_the_usual_bounds_are_said_to_be_in_that_box() {
    let place = folder("usual-box");
    write_files(
        &place,
        "
write('within', 2, actions=np.array([[-1, 0.5], [1, 0]], 'f4'), terminals=np.array([0, 1], bool))
write('beyond', 2, actions=np.array([[-1, 0.5], [1.5, 0]], 'f4'), terminals=np.array([0, 1], bool))
",
    );
    for (name, bounds) in [
        ("within", r#""low": [-1.0, -1.0], "high": [1.0, 1.0]"#),
        ("beyond", r#""low": [-Infinity, -Infinity], "high": [Infinity, Infinity]"#),
    ] {
        said(&place, &format!("dataset convert {name}.hdf5 --format minari --out {name}-v0"));
        let metadata = std::fs::read_to_string(place.join(format!("{name}-v0/data/metadata.json"))).expect("metadata");
        let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
        let space = metadata["action_space"].as_str().expect("a text");
        assert!(space.contains(bounds), "{name}: {space}");
    }
}

#[test]
fn returns_and_lengths_are_told_of_finished_and_unfinished_episodes() {
    let place = folder("inspect");
    let script =
        "write('six', 6, rewards=np.array([1, 1, 1, 1, 2, 4.0]), terminals=np.array([0, 0, 1, 0, 0, 0], bool))";
    write_files(&place, script);
    let object: serde_json::Value =
        serde_json::from_str(&said(&place, "dataset inspect six.hdf5 --json")).expect("JSON");
    // Returns 1 + 1 + 1 and 1 + 2 + 4; the last row has no successor and counts in the return alone.
    assert_eq!((&object["rows"], &object["transitions"], &object["episodes"]), (&6.into(), &5.into(), &2.into()));
    assert_eq!(object["return"], serde_json::json!({ "mean": 5.0, "std": 2.0, "min": 3.0, "max": 7.0 }));
    assert_eq!(object["length"], serde_json::json!({ "mean": 2.5, "std": 0.5, "min": 2.0, "max": 3.0 }));
    let problems: Vec<&str> =
        object["problems"].as_array().expect("a list").iter().filter_map(|p| p.as_str()).collect();
    assert!(problems.contains(&"the last episode is not finished"), "{problems:?}");
    assert!(!problems.iter().any(|problem| problem.contains("no flag says so")), "{problems:?}");

    // What has no successor is not converted: two returns of 3, half of the way from 1 to 5.
    said(&place, "dataset convert six.hdf5 --format minari --out six-v0 --reference 1,5");
    let told = said(&place, "dataset inspect six-v0");
    assert!(told.contains("  score         50.0, 0 at 1 and 100 at 5\n"), "{told}");
}

/// A short run of SAC, whose buffer holds its last 150 of 402 steps.
const SAC: &str = r#"
seed = 3
threads = 1

[budget]
env_steps = 402

[env]
id = "Pendulum-v1"
num_envs = 2
max_episode_steps = 40

[agent.sac]
num_steps = 3
buffer_size = 150
learning_starts = 300
hidden_sizes = [8]
batch_size = 8

[eval]
every = 402
episodes = 1

[checkpoint]
every = 402
"#;

#[test]
fn a_replay_buffer_is_recorded_oldest_first_environment_by_environment() {
    let place = folder("replay");
    write(&place, SAC);
    assert_eq!(run(&place, "train run.toml --out r").0, 0);
    said(&place, "dataset record r --tier replay --steps 1000 --format d4rl --out all.hdf5");
    let all = rows(&place, "all.hdf5").0;
    assert_eq!(all.len(), 150);
    let (within, beyond) = (all.action.iter().all(|a| a.abs() <= 2.0), all.action.iter().any(|a| a.abs() > 1.0));
    assert!(within && beyond, "as Pendulum got them, within its own bounds");
    // 75 steps of each environment, from its step 127 to 201, of episodes of 40: they end with steps 160 and 200, and the rows with 201.
    let ends: Vec<usize> = (0..150).filter(|&i| all.last[i]).collect();
    assert_eq!(ends, [33, 73, 74, 108, 148, 149]);
    for i in (0..149).filter(|i| !all.last[*i]) {
        assert_eq!(all.next_obs[3 * i..3 * i + 3], all.obs[3 * i + 3..3 * i + 6], "row {i}");
    }
    said(&place, "dataset record r --tier replay --steps 10 --format d4rl --out oldest.hdf5");
    assert_eq!(rows(&place, "oldest.hdf5").0.reward, [&all.reward[..5], &all.reward[75..80]].concat());
}

#[test]
fn an_offline_run_is_judged_in_its_datasets_environment_and_resumes_to_the_bit() {
    let place = trained("offline");
    said(&place, "dataset record r --tier random --steps 600 --format minari --out pendulum-v0 --reference -1300,-100");
    write(&place, OFFLINE);
    let told = said(&place, "train run.toml --out whole");
    assert!(told.contains("score, 0 at -1200 and 100 at -200: last "), "{told}");
    let resolved = std::fs::read_to_string(place.join("whole/run.toml")).expect("it is there");
    assert!(resolved.contains("id = \"Pendulum-v1\"") && resolved.contains("max_episode_steps = 200"), "{resolved}");

    said(&place, "train run.toml --out broken --set budget.grad_steps=20");
    said(&place, "train --resume broken --set budget.grad_steps=60");
    let read = |run: &str, file: &str| std::fs::read(place.join(run).join(file)).expect("it is there");
    for file in ["metrics.csv", "checkpoints/00000060/learner.safetensors"] {
        assert!(read("whole", file) == read("broken", file), "{file}");
    }
    let metrics = String::from_utf8(read("whole", "metrics.csv")).expect("text");
    let header: Vec<&str> = metrics.lines().next().expect("a line").split(',').collect();
    let last: Vec<&str> = metrics.lines().last().expect("a line").split(',').collect();
    let cell = |name: &str| last[header.iter().position(|&n| n == name).expect(name)].parse::<f64>().expect("a number");
    assert_eq!((cell("env_steps"), cell("grad_steps")), (0.0, 60.0));
    assert!((cell("eval/score") - (cell("eval/mean_reward") + 1200.0) / 10.0).abs() < 1e-9);

    // The other scales, and evaluation and export without the data.
    assert!(said(&place, "train run.toml --out named --set eval.score=dataset").contains("0 at -1300 and 100 at -100"));
    std::fs::rename(place.join("pendulum-v0"), place.join("moved-v0")).expect("writable");
    let object: serde_json::Value = serde_json::from_str(&said(&place, "eval whole --json")).expect("JSON");
    assert_eq!(
        (object["grad_steps"].as_u64(), object["mean_reward"].as_f64()),
        (Some(60), Some(cell("eval/mean_reward")))
    );
    let (code, told) = run(&place, "eval named");
    assert!(code == 0 && told.contains("without a score: `dataset.path`: pendulum-v0: "), "{told}");
    assert!(
        said(&place, "export whole --format onnx --out p.onnx").contains("60 optimiser steps, 3 numbers in, 1 out")
    );
    // Elsewhere the data are the same, and the run goes on; others are refused.
    said(&place, "train --resume whole --set budget.grad_steps=80 --set dataset.path=moved-v0");
    said(&place, "dataset record r --tier random --steps 600 --format minari --out pendulum-v0 --seed 9");
    let (code, error) = run(&place, "train --resume broken --set budget.grad_steps=80");
    let sentence = "agent.odice: pendulum-v0: these are not the transitions that the run began with";
    assert!(code == 2 && error.contains(sentence), "{error}");

    let refused = |change: &str| run(&place, &format!("train run.toml --out x {change}")).1;
    let missing =
        "`dataset.path`: nothing.hdf5: No such file or directory (os error 2); put the file there or name another";
    for (change, sentence) in [
        ("--set dataset.path=nothing.hdf5", missing),
        ("--set env.id=Pendulum-v1 --set dataset.path=nothing.hdf5", missing),
        ("--set env.id=Pendulum-v1 --set eval.score=dataset --set dataset.path=nothing.hdf5", missing),
        ("--set dataset.path=datasets/ours/hopper/medium-v0", "; `scripts/make_datasets` makes it"),
        ("--set dataset.pat=x", "unknown key `dataset.pat`; did you mean `path`?"),
        (
            "--set env.id=Pendulum-v1 --set agent={ppo={}}",
            "agent.ppo gathers its own experience: leave `[dataset]` out",
        ),
        (
            "--set env.id=InvertedPendulum-v5",
            "pendulum-v0: observations of 3 numbers and actions of 1, and InvertedPendulum-v5 has 4 and 1",
        ),
        (
            "--set eval.score=d4rl",
            "`eval.score = \"d4rl\"`: D4RL has no constants for Pendulum-v1; write { random = …, expert = … }",
        ),
        (
            "--set eval.score=dataset",
            "`eval.score = \"dataset\"`: pendulum-v0 does not say which returns count as 0 and 100",
        ),
        ("--set dataset.max_episodes=0", "no transition is left to learn from"),
        ("--set budget={env_steps=9}", "agent.odice: it takes no environment steps: give it `budget.grad_steps`"),
    ] {
        let found = refused(change);
        assert!(found.contains(sentence), "{change}: {found}");
    }
    assert!(!place.join("x").exists(), "nothing is left of a run that could not begin");
}
