//! The examples of an environment and an agent from outside, run as their documentation says.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A run directory that is not there yet.
fn fresh(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("bregman-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// Runs `cargo run --example NAME -- ARGUMENTS` from the root; standard output.
fn example(name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).args([
        "run",
        "--release",
        "-q",
        "--example",
        name,
        "--",
    ]);
    let output = command.args(arguments).output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn best_evaluation(printed: &str) -> f64 {
    let line = printed.lines().find_map(|line| line.strip_prefix("best evaluation: ")).expect("an evaluation");
    line.trim_start_matches("L1 ").split(' ').next().expect("a number").parse().expect("a number")
}

#[test]
fn an_environment_from_outside_trains() {
    let out = fresh("example-environment");
    let printed = example("custom_environment", &["train", "examples/point.toml", "--out", &out.display().to_string()]);
    assert!(best_evaluation(&printed) > -5.0, "{printed}");
    assert!(example("custom_environment", &["list"]).contains("Point-v0"));
}

#[test]
fn an_agent_from_outside_trains() {
    let out = fresh("example-agent");
    let printed =
        example("custom_agent", &["train", "examples/cross_entropy.toml", "--out", &out.display().to_string()]);
    assert_eq!(best_evaluation(&printed), 1000.0, "{printed}");
    assert!(example("custom_agent", &["show", "cross_entropy"]).contains("population = 40"));
}

#[test]
fn a_world_from_outside_trains_and_is_sampled() {
    let out = fresh("example-world");
    let place = out.display().to_string();
    let printed = example("custom_world", &["train", "examples/parentheses.toml", "--out", &place]);
    // The best evaluation is the one with the least exact L1 distance, and says so.
    assert!(printed.contains("best evaluation: L1 ") && (0.0..0.1).contains(&best_evaluation(&printed)), "{printed}");
    let drawn = example("custom_world", &["sample", &place, "--n", "20"]);
    let object = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("a JSON object") };
    let objects: Vec<serde_json::Value> = drawn.lines().map(object).collect();
    assert_eq!(objects.len(), 20);
    for drawn in objects {
        let text = drawn["object"].as_str().expect("a text");
        assert!(text.len() == 12 && text.matches('(').count() == 6, "{text}");
        assert!(drawn["log_prob"].as_f64().expect("a number") < 0.0);
    }
    assert!(example("custom_world", &["show", "parentheses"]).contains("pairs = 6"));
}
