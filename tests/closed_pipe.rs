//! A reader that leaves before the end, as in `bregman list | head -1`.

mod common;

use std::io::Read;
use std::process::Stdio;

use common::{PENDULUM, bregman, folder, run, write};

/// Exit code and standard error of a command whose standard output nobody reads.
fn unread(place: &std::path::Path, arguments: &str) -> (Option<i32>, String) {
    let mut command = bregman(place);
    command.args(arguments.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("a child");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_command_ends_quietly_when_its_output_is_not_read() {
    let place = folder("closed");
    write(&place, &PENDULUM.replace("12_000", "900"));
    assert_eq!(run(&place, "train run.toml --out runs/s1").0, 0);
    std::fs::write(place.join("actions"), "[0.5]\n".repeat(2_000)).expect("writable");
    for arguments in [
        "list",
        "show ppo",
        "env list",
        "env info Pendulum-v1",
        "env trace Pendulum-v1 --actions actions",
        "bench env Pendulum-v1 --num-envs 2 --rounds 1 --seconds 0.01",
        "bench train run.toml --seconds 0.01",
        "compare runs --plot plots",
        "report runs --out page.html",
        "eval runs/s1 --episodes 1",
        "export runs/s1 --format onnx --out policy.onnx",
        "train run.toml --out runs/s2 --seed 2 --set observe.console=false",
        "sweep run.toml --seeds 1 --out swept",
    ] {
        let (code, said) = unread(&place, arguments);
        let started = said.lines().all(|line| line.starts_with("s1 finished"));
        assert!(code == Some(0) && started, "{arguments}: {code:?} {said}");
    }
    assert_ne!(unread(&place, "doctor").0, Some(101), "101 is a panic");
    // What the command was for is done all the same.
    for name in ["plots/curve-Pendulum-v1.svg", "page.html", "policy.onnx", "runs/s2/metrics.csv"] {
        assert!(place.join(name).is_file(), "{name}");
    }
    let (code, said) = unread(&place, "compare absent");
    assert_eq!((code, said.is_empty()), (Some(2), false), "what is wrong is still said");
}

#[test]
fn a_run_goes_on_when_nobody_reads_its_progress() {
    let place = folder("closed-error");
    write(&place, PENDULUM);
    let mut command = bregman(&place);
    command.args(["train", "run.toml", "--out", "r"]).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let mut first = [0];
    child.stderr.take().expect("it is piped").read_exact(&mut first).expect("a first word");
    assert_eq!(child.wait().expect("a child").code(), Some(0));
    assert_eq!(bregman::checkpoint::positions(&place.join("r")).last(), Some(&12_000));
}
