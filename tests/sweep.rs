//! Sweeps that are killed, interrupted, repeated, and sweeps with runs that fail.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{PENDULUM, bregman, folder, run, write};

/// Log files and last parameters of every run below `dir`.
fn reproducible(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for run in bregman::run_dir::find(dir).expect("readable") {
        let last = *bregman::checkpoint::positions(&run).last().expect("a checkpoint");
        let files = ["metrics.csv", "episodes.csv"].map(|name| run.join(name));
        for file in files.into_iter().chain([bregman::checkpoint::folder(&run, last).join("learner.safetensors")]) {
            let name = file.strip_prefix(dir).expect("below").to_path_buf();
            all.push((name, std::fs::read(file).expect("it is there")));
        }
    }
    all
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args([name, &process.to_string()]).status();
    assert!(status.expect("kill is there").success());
}

#[test]
fn seeds_are_given_in_one_way() {
    let place = folder("sweep-seeds");
    write(&place, PENDULUM);
    for arguments in ["--grid seed=1,2", "--set seed=9"] {
        let (code, said) = run(&place, &format!("sweep run.toml --seeds 1 --out s {arguments}"));
        assert_eq!(
            (code, said.as_str()),
            (2, "error: `seed`: a sweep's seeds are given by `--seeds`, as in --seeds 1-2")
        );
    }
}

#[test]
fn a_wrong_value_is_told_of_where_it_stands() {
    let place = folder("sweep-grid");
    write(&place, PENDULUM);
    let refusal = |arguments: &str| run(&place, &format!("sweep run.toml --seeds 1 --out s {arguments}"));
    for option in ["--grid", "--set"] {
        let sentence =
            format!("error: `{option} agent.ppo.gama=0.9`: unknown key `agent.ppo.gama`; did you mean `gamma`?");
        assert_eq!(refusal(&format!("{option} agent.ppo.gama=0.9")), (2, sentence));
    }
    let (code, said) = refusal("--grid agent.ppo.gamma=0.9,1.5");
    let sentence = "error: `--grid agent.ppo.gamma=1.5`: agent.ppo: `gamma = 1.5`: a discount lies in [0, 1]";
    assert_eq!((code, said.as_str()), (2, sentence));
}

#[test]
fn a_sweep_killed_in_the_middle_leaves_no_orphans_and_ends_with_the_same_bytes() {
    let place = folder("sweep-kill");
    write(&place, &PENDULUM.replace("12_000", "60_000"));
    let arguments = "sweep run.toml --seeds 2 --grid agent.ppo.gamma=0.9,0.99 --jobs 2 --out";
    let (code, said) = run(&place, &format!("{arguments} whole"));
    assert_eq!(code, 0, "{said}");
    let runs: Vec<PathBuf> = bregman::run_dir::find(&place.join("whole")).expect("readable");
    let names: Vec<_> = runs.iter().map(|run| run.strip_prefix(place.join("whole")).expect("below")).collect();
    assert_eq!(names, ["gamma=0.9/s1", "gamma=0.9/s2", "gamma=0.99/s1", "gamma=0.99/s2"].map(Path::new));

    for _ in 0..3 {
        let mut sweep = bregman(&place).args(format!("{arguments} broken").split(' ')).stderr(Stdio::null()).spawn();
        let sweep = sweep.as_mut().expect("it starts");
        let steps = || -> u64 {
            let runs = bregman::run_dir::find(&place.join("broken")).unwrap_or_default();
            runs.iter().map(|run| bregman::run_dir::progress(run).env_steps).sum()
        };
        let before = steps();
        wait_until("progress", || steps() > before + 3_000);
        assert!(sweep.try_wait().expect("a child").is_none(), "the sweep was over before it was killed");
        sweep.kill().expect("SIGKILL");
        sweep.wait().expect("a child");
        let runs = bregman::run_dir::find(&place.join("broken")).expect("readable");
        wait_until("the end of the children", || runs.iter().all(|run| !bregman::train::is_held(run)));
    }
    let (code, said) = run(&place, &format!("{arguments} broken"));
    assert_eq!(code, 0, "{said}");
    assert!(reproducible(&place.join("whole")) == reproducible(&place.join("broken")));

    let (code, said) = run(&place, &format!("{arguments} broken"));
    assert_eq!((code, said.as_str()), (0, "4 of 4 runs are finished already"));
}

#[test]
fn ctrl_c_saves_every_run_and_the_same_command_goes_on() {
    let place = folder("sweep-interrupt");
    write(&place, &PENDULUM.replace("12_000", "60_000"));
    run(&place, "sweep run.toml --seeds 2 --jobs 2 --out whole");
    let sweep = bregman(&place).args("sweep run.toml --seeds 2 --jobs 2 --out broken".split(' ')).spawn();
    let mut sweep = sweep.expect("it starts");
    let runs = ["s1", "s2"].map(|name| place.join("broken").join(name));
    wait_until("a first row", || runs.iter().all(|run| bregman::run_dir::progress(run).iterations > 0));
    signal("-INT", sweep.id());
    assert_eq!(sweep.wait().expect("a child").code(), Some(130));
    assert!(runs.iter().all(|run| !bregman::checkpoint::positions(run).is_empty()));
    let log = std::fs::read_to_string(runs[0].join("console.log")).expect("it is there");
    assert!(log.contains("finishing this iteration, then saving") && log.contains("saved; go on with"), "{log}");
    assert_eq!(run(&place, "sweep run.toml --seeds 2 --out broken").0, 0);
    assert!(reproducible(&place.join("whole")) == reproducible(&place.join("broken")));
}

#[test]
fn two_sweeps_of_one_directory_share_its_runs() {
    let place = folder("sweep-shared");
    write(&place, &PENDULUM.replace("12_000", "60_000"));
    let sweep = || {
        let mut sweep = bregman(&place);
        sweep.args("sweep run.toml --seeds 4 --jobs 1 --out s".split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        sweep.spawn().expect("it starts")
    };
    let mut first = sweep();
    wait_until("the first run", || place.join("s/s1/run.toml").exists());
    let mut second = sweep();
    for (name, sweep) in [("first", &mut first), ("second", &mut second)] {
        assert!(sweep.wait().expect("it ends").success(), "{name}");
    }
    let runs = bregman::run_dir::find(&place.join("s")).expect("readable");
    assert_eq!(runs.len(), 4);
    for run in runs {
        let meta = std::fs::read_to_string(run.join("meta.json")).expect("it is there");
        assert!(!meta.contains("resumed"), "{}: each is trained once", run.display());
    }
}

#[test]
fn a_run_that_fails_does_not_stop_the_others_and_is_named_with_its_log() {
    let place = folder("sweep-failure");
    write(&place, &PENDULUM.replace("12_000", "900"));
    let arguments = "sweep run.toml --seeds 1-2 --grid env.id=Pendulam-v1,Pendulum-v1 --out all";
    let output = bregman(&place).args(arguments.split(' ')).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.starts_with("2 of 4 runs finished, 2 failed:\n  id=Pendulam-v1/s1: agent.ppo: no environment"),
        "{said}"
    );
    assert!(said.contains("log: all/id=Pendulam-v1/s1/console.log"), "{said}");
    for seed in ["s1", "s2"] {
        assert_eq!(bregman::run_dir::progress(&place.join("all/id=Pendulum-v1").join(seed)).env_steps, 900);
    }
}

#[test]
fn a_larger_budget_goes_on_and_other_settings_are_refused() {
    let place = folder("sweep-again");
    let file = write(&place, &PENDULUM.replace("12_000", "900").replace("anneal_lr = true", ""));
    let sweep = |more: &str| run(&place, format!("sweep run.toml --seeds 1 --out all {more}").trim());
    assert_eq!(sweep("").0, 0);
    assert_eq!(sweep("--set budget.env_steps=1800").0, 0);
    assert_eq!(bregman::run_dir::progress(&place.join("all/s1")).env_steps, 1800);

    let (code, said) = sweep("--set agent.ppo.gamma=0.5");
    assert_eq!(code, 2);
    assert!(said.starts_with("error: all/s1 was begun with other settings: `agent.ppo.gamma` was 0.99"), "{said}");
    let (code, said) = sweep("--set agent.ppo.gama=0.5");
    assert_eq!(
        (code, said.as_str()),
        (2, "error: `--set agent.ppo.gama=0.5`: unknown key `agent.ppo.gama`; did you mean `gamma`?")
    );
    // What may change may not vanish: nobody would see whether it still holds.
    assert_eq!(sweep("--set budget.env_steps=2700 --set eval.stop_at=-1e9").0, 0);
    let (code, said) = sweep("--set budget.env_steps=3600");
    assert_eq!(code, 2);
    assert!(said.contains("all/s1 was begun with `eval.stop_at = -1000000000.0`, which can be changed"), "{said}");
    let twice = format!("sweep run.toml {} --out all", file.display());
    let (code, said) = run(&place, &twice);
    assert!(code == 2 && said.starts_with("error: two runs would lie in run/s1"), "{said}");
    assert_eq!(sweep("--grid agent.ppo.gamma").0, 2);
    assert_eq!(sweep("--jobs 0").0, 2);
}
