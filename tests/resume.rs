//! Runs that are killed, damaged, interrupted or continued.

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bregman::Bregman;
use bregman::envs::rng::NumpyRng;
use common::{PENDULUM, SAC, bregman, folder, run, write};

/// The log files that are the same bytes for the same run file and seed, and the learner's parameters.
fn reproducible(run: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<PathBuf> = ["metrics.csv", "metrics.jsonl", "episodes.csv"].map(|name| run.join(name)).into();
    let checkpoints = std::fs::read_dir(run.join("checkpoints")).expect("checkpoints").flatten();
    let mut checkpoints: Vec<PathBuf> = checkpoints.map(|entry| entry.path()).collect();
    checkpoints.sort();
    names.push(checkpoints.last().expect("a checkpoint").join("learner.safetensors"));
    names.iter().map(|name| std::fs::read(name).expect("it is there")).collect()
}

/// The learner's parameters alone: runs that end earlier evaluate there too.
fn learned(run: &Path) -> Option<Vec<u8>> {
    reproducible(run).pop()
}

#[test]
fn a_run_killed_at_ten_random_moments_ends_with_the_same_bytes() {
    let place = folder("kill");
    write(&place, &PENDULUM.replace("12_000", "60_000"));
    survives_ten_kills(&place);
}

#[test]
fn a_run_with_a_replay_buffer_killed_at_ten_random_moments_ends_with_the_same_bytes() {
    let place = folder("kill-replay");
    write(&place, &SAC.replace("6_000", "20_000"));
    survives_ten_kills(&place);
}

/// Trains whole, and again with ten kills.
fn survives_ten_kills(place: &Path) {
    let start = Instant::now();
    assert_eq!(run(place, "train run.toml --out whole").0, 0);
    // Kills come after 8 % of that on average, so that ten find the run unfinished, on a busy machine too.
    let whole = start.elapsed();

    let mut rng = NumpyRng::new(std::process::id().into());
    let mut kills = 0;
    let mut arguments = vec!["train", "run.toml", "--out", "broken"];
    while kills < 10 {
        let mut child = bregman(place).args(&arguments).stderr(std::process::Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(whole.mul_f64(rng.uniform(0.02, 0.14)));
        assert!(child.try_wait().expect("a child").is_none(), "the run was over after {kills} kills");
        child.kill().expect("SIGKILL");
        child.wait().expect("a child");
        kills += 1;
        if place.join("broken/run.toml").exists() {
            arguments = vec!["train", "--resume", "broken"];
        } else {
            let _ = std::fs::remove_dir_all(place.join("broken"));
        }
    }
    let last = bregman(place).args(&arguments).output().expect("it starts");
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    assert!(reproducible(&place.join("whole")) == reproducible(&place.join("broken")));
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let place = folder("threads");
    write(&place, PENDULUM);
    for threads in [1, 2, 8] {
        let (code, error) = run(&place, &format!("train run.toml --out t{threads} --set threads={threads}"));
        assert_eq!(code, 0, "{error}");
    }
    assert!(reproducible(&place.join("t1")) == reproducible(&place.join("t2")));
    assert!(reproducible(&place.join("t1")) == reproducible(&place.join("t8")));
}

#[test]
fn a_replay_buffer_on_disk_changes_no_byte_and_can_move_when_a_run_is_resumed() {
    let place = folder("storage");
    write(&place, SAC);
    assert_eq!(run(&place, "train run.toml --out memory").0, 0);
    let (code, said) =
        run(&place, "train run.toml --out disk --set agent.sac.buffer_storage=disk --set budget.env_steps=5000");
    assert_eq!(code, 0, "{said}");
    for (steps, storage) in [(5400, "memory"), (6000, "disk")] {
        let resume =
            format!("train --resume disk --set agent.sac.buffer_storage={storage} --set budget.env_steps={steps}");
        let (code, said) = run(&place, &resume);
        assert_eq!(code, 0, "{said}");
    }
    assert!(learned(&place.join("memory")) == learned(&place.join("disk")));
}

#[test]
fn a_run_without_its_checkpoints_keeps_its_logs() {
    let place = folder("no-checkpoints");
    write(&place, PENDULUM);
    run(&place, "train run.toml --out r --set budget.env_steps=1800");
    let metrics = std::fs::read(place.join("r/metrics.csv")).expect("it is there");
    std::fs::remove_dir_all(place.join("r/checkpoints")).expect("they are there");
    let (code, said) = run(&place, "train --resume r");
    assert_eq!(code, 2);
    assert!(said.starts_with("error: r: its checkpoints, one every 900 environment steps, are gone"), "{said}");
    assert_eq!(std::fs::read(place.join("r/metrics.csv")).expect("it is there"), metrics);
    // Up to the row at which the first falls due there need not have been one.
    let text = String::from_utf8(metrics).expect("text");
    let rows: Vec<&str> = text.lines().take(4).collect();
    assert!(rows[3].starts_with("3,900,"), "{rows:?}");
    std::fs::write(place.join("r/metrics.csv"), rows.join("\n") + "\n").expect("writable");
    let (code, said) = run(&place, "train --resume r");
    assert!(code == 0 && said.contains("r has no checkpoint yet: the run starts from its beginning"), "{said}");
}

#[test]
fn a_run_that_reached_its_goal_says_what_makes_it_go_on() {
    let place = folder("goal");
    write(&place, PENDULUM);
    let (code, said) = run(&place, "train run.toml --out r --set eval.stop_at=-1e9");
    assert_eq!(code, 0, "{said}");
    let (code, said) = run(&place, "train --resume r --set budget.env_steps=24000");
    assert_eq!(code, 0);
    assert!(said.contains("ended early, at `eval.stop_at = -1000000000`; another makes it go on"), "{said}");
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before_it() {
    let place = folder("damage");
    write(&place, PENDULUM);
    run(&place, "train run.toml --out whole");
    run(&place, "train run.toml --out part --set budget.env_steps=6000 --set agent.ppo.anneal_lr=false");
    run(&place, "train run.toml --out unbroken --set agent.ppo.anneal_lr=false");
    let file = place.join("part/checkpoints/00006000/learner.safetensors");
    let mut bytes = std::fs::read(&file).expect("it is there");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&file, bytes).expect("writable");
    let (code, said) = run(&place, "train --resume part --set budget.env_steps=12000");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("it was truncated; going back to the checkpoint before it"), "{said}");
    // The shorter run evaluated at its end too, where the longer one does as well: every 3,000 steps.
    assert!(reproducible(&place.join("part")) == reproducible(&place.join("unbroken")));
}

#[test]
fn a_run_without_a_whole_checkpoint_is_left_as_it_is() {
    let place = folder("hopeless");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=900").0, 0);
    let file = place.join("r/checkpoints/00000900/learner.safetensors");
    let metrics = || std::fs::read(place.join("r/metrics.csv")).expect("it is there");
    let (bytes, logged) = (std::fs::read(&file).expect("it is there"), metrics());
    std::fs::write(&file, &bytes[1..]).expect("writable");
    for command in ["eval r", "train --resume r", "train --resume r"] {
        let (code, said) = run(&place, command);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("no checkpoint is whole"), "{said}");
    }
    // What cannot be read may be whole.
    std::fs::remove_file(&file).expect("removed");
    std::fs::create_dir(&file).expect("a folder in its place");
    let (code, said) = run(&place, "train --resume r");
    assert!(code != 0 && said.contains("learner.safetensors: Is a directory"), "{said}");
    std::fs::remove_dir(&file).expect("removed");
    std::fs::write(&file, &bytes).expect("writable");
    assert_eq!(run(&place, "train --resume r").0, 0);
    assert!(metrics() == logged);
}

#[test]
fn a_finished_run_says_so_and_goes_on_with_a_larger_budget() {
    let place = folder("finished");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=900").0, 0);
    let (code, said) = run(&place, "train --resume r");
    assert_eq!(code, 0);
    assert!(said.contains("is finished; a larger budget makes it go on"), "{said}");
    assert_eq!(run(&place, "train --resume r --set budget.env_steps=1800").0, 0);
    let metrics = std::fs::read_to_string(place.join("r/metrics.csv")).expect("it is there");
    assert_eq!(metrics.lines().count(), 1 + 6);
}

#[test]
fn a_run_that_ended_early_goes_on_where_the_goal_is_another() {
    let place = folder("goal");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set eval.stop_at=-1e9").0, 0);
    let (r, bregman) = (place.join("r"), Bregman::default());
    let env_steps = || bregman::run_dir::progress(&r).env_steps;
    assert_eq!(env_steps(), 3000, "the first evaluation reaches it");
    let read = |patches: &[String]| bregman::train::read_run(&r, patches, &bregman).expect("a run");
    let (before, other) = (read(&[]), read(&["eval.stop_at=1e9".to_string()]));
    let finished = |run| bregman::train::is_finished(run, &before, &r).expect("a checkpoint");
    assert!(finished(&before) && !finished(&other));
    assert_eq!(run(&place, "train --resume r --set eval.stop_at=1e9").0, 0);
    assert_eq!(env_steps(), 12_000);
}

#[test]
fn a_resumed_runs_clock_goes_on() {
    let place = folder("clock");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=6000").0, 0);
    assert_eq!(run(&place, "train --resume r --set budget.env_steps=12000").0, 0);
    let timing = std::fs::read_to_string(place.join("r/timing.csv")).expect("it is there");
    let cells = timing.lines().skip(1).map(|row| row.split(',').nth(2).expect("a cell"));
    let seconds: Vec<f64> = cells.map(|cell| cell.parse().expect("a number")).collect();
    assert!(seconds.len() == 40 && seconds.is_sorted(), "{seconds:?}");
}

#[test]
fn a_run_that_is_asked_to_stop_is_saved_and_says_how_to_go_on() {
    let place = folder("interrupt");
    write(&place, &PENDULUM.replace("12_000", "12_000_000"));
    // A terminal that closes sends SIGHUP, and may send it twice.
    for (signals, code) in [(["-INT"].as_slice(), 130), (&["-TERM"], 143), (&["-HUP", "-HUP", "-TERM"], 129)] {
        let run = format!("r{code}");
        let child =
            bregman(&place).args(["train", "run.toml", "--out", &run]).stderr(std::process::Stdio::piped()).spawn();
        let child = child.expect("it starts");
        while !place.join(&run).join("metrics.csv").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        for signal in signals {
            let sent = std::process::Command::new("kill").args([signal, child.id().to_string().as_str()]).status();
            assert!(sent.expect("kill is there").success());
        }
        let output = child.wait_with_output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(&format!("go on with: bregman train --resume {run}")), "{said}");
        assert!(!bregman::checkpoint::positions(&place.join(&run)).is_empty());
    }
}

#[test]
fn evaluation_after_loading_equals_evaluation_before_saving() {
    let place = folder("reload");
    write(&place, PENDULUM);
    run(&place, "train run.toml --out r");
    let output = bregman(&place).args(["eval", "r", "--json"]).output().expect("it starts");
    let evaluation: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let metrics = std::fs::read_to_string(place.join("r/metrics.jsonl")).expect("it is there");
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().expect("a line")).expect("JSON");
    assert_eq!(evaluation["mean_reward"], last["eval/mean_reward"]);
    assert_eq!(evaluation["std_reward"], last["eval/std_reward"]);
}

#[test]
fn every_resume_is_noted_beside_what_the_run_began_with() {
    let place = folder("noted");
    write(&place, &PENDULUM.replace("12_000", "900"));
    assert_eq!(run(&place, "train run.toml --out r --set agent.ppo.anneal_lr=false").0, 0);
    let meta = || -> serde_json::Value {
        let text = std::fs::read_to_string(place.join("r/meta.json")).expect("it is there");
        serde_json::from_str(&text).expect("JSON")
    };
    let began = meta();
    assert!(began.get("resumed").is_none() && began["revision"].is_string(), "{began}");
    for (budget, from) in [(1800, 900), (2700, 1800)] {
        assert_eq!(run(&place, &format!("train --resume r --set budget.env_steps={budget}")).0, 0);
        let now = meta();
        let record = now["resumed"].as_array().and_then(|records| records.last()).expect("a record");
        assert_eq!(record["from"], from);
        assert_eq!((&record["version"], &record["revision"]), (&began["version"], &began["revision"]));
        assert!(record["command"].to_string().contains(&format!("budget.env_steps={budget}")), "{record}");
        assert_eq!((&now["started"], &now["command"]), (&began["started"], &began["command"]), "the beginning stays");
    }
    assert_eq!(meta()["resumed"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_kept_policy_is_judged_and_exported_like_a_checkpoint() {
    let place = folder("policies");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r").0, 0);
    let judge = |checkpoint: &str| -> serde_json::Value {
        let arguments = ["eval", "r", "--json", "--checkpoint", checkpoint];
        let output = bregman(&place).args(arguments).output().expect("it starts");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    assert_eq!(judge("policies/00012000.safetensors"), judge("last"));
    assert_eq!(judge("r/policies/00012000.safetensors"), judge("last"), "named from here");
    let half = judge("policies/00006000.safetensors");
    assert_eq!(half["env_steps"], 6000);
    assert_ne!(half["rewards"], judge("last")["rewards"]);
    for (checkpoint, file) in [("policies/00012000.safetensors", "a.onnx"), ("last", "b.onnx")] {
        let arguments = format!("export r --format onnx --out {file} --checkpoint {checkpoint}");
        assert_eq!(run(&place, &arguments), (0, String::new()));
    }
    let read = |name: &str| std::fs::read(place.join(name)).expect("it is there");
    assert!(read("a.onnx") == read("b.onnx"));

    let whole = read("r/policies/00006000.safetensors");
    std::fs::write(place.join("short.safetensors"), &whole[..whole.len() / 2]).expect("writable");
    for (file, why) in [
        ("short.safetensors", "short.safetensors: no safetensors file: "),
        ("absent.safetensors", "absent.safetensors: No such file or directory"),
        ("checkpoints/00012000/learner.safetensors", "not a policy of a run: its metadata has no `state`"),
    ] {
        let (code, said) = run(&place, &format!("eval r --checkpoint {file}"));
        assert!(code == 2 && said.contains(why), "{code} {said}");
    }
}
