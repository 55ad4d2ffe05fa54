//! `bregman env` and `bregman bench`: what they print.

mod common;

use std::path::Path;

use common::{bregman, folder, run};

fn stdout(place: &Path, arguments: &str) -> String {
    let output = bregman(place).args(arguments.split(' ')).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// `count` actions of `len` numbers in a fixed pattern that leaves the bounds now and then.
fn write_actions(path: &Path, count: usize, len: usize) {
    let number = |t: usize, i: usize| ((7 * t + 3 * i) % 11) as f64 / 4.0 - 1.25;
    let line = |t: usize| serde_json::json!((0..len).map(|i| number(t, i)).collect::<Vec<_>>()).to_string();
    std::fs::write(path, (0..count).map(line).collect::<Vec<_>>().join("\n")).expect("writable");
}

#[test]
fn native_and_gymnasium_traces_are_the_same_bytes() {
    let place = folder("trace");
    for (id, len) in [("HalfCheetah-v5", 6), ("Hopper-v5", 3), ("Pendulum-v1", 1)] {
        write_actions(&place.join("actions"), 250, len);
        let trace = |backend| stdout(&place, &format!("env trace {id} --seed 5 --actions actions --backend {backend}"));
        let native = trace("native");
        assert!(native == trace("gymnasium"), "{id}");
        assert!(native.starts_with(r#"{"reset":true,"obs":["#), "{native}");
        let resets = native.lines().filter(|line| line.starts_with(r#"{"reset""#)).count();
        assert_eq!(native.lines().count(), 250 + resets);
        assert!(id == "HalfCheetah-v5" || resets > 1, "{id} ends within the trace");
    }
}

#[test]
fn arguments_reach_the_traced_environment() {
    let place = folder("trace-kwargs");
    write_actions(&place.join("actions"), 1, 6);
    let trace =
        |cost| stdout(&place, &format!("env trace HalfCheetah-v5 --actions actions --kwargs ctrl_cost_weight={cost}"));
    let reward = |trace: String| {
        let line: serde_json::Value = serde_json::from_str(trace.lines().nth(1).expect("a step")).expect("JSON");
        line["reward"].as_f64().expect("a number")
    };
    assert!(reward(trace("0.0")) > reward(trace("1.0")));
}

#[test]
fn wrong_input_is_a_sentence() {
    let place = folder("trace-errors");
    std::fs::write(place.join("short"), "[0, 0, 0]\n\n[0, 0]").expect("writable");
    std::fs::write(place.join("words"), "[0, 0, \"up\"]").expect("writable");
    let refusal = |arguments: &str| {
        let (code, said) = run(&place, arguments);
        assert_eq!(code, 2, "{said}");
        said
    };
    assert_eq!(
        refusal("env trace Hopper-v5 --actions short"),
        "error: short, line 3: an action of 2 numbers; the environment takes 3"
    );
    assert!(
        refusal("env trace Hopper-v5 --actions words").starts_with("error: words, line 1: not an array of numbers")
    );
    assert!(refusal("env info Hopper-v6").contains("did you mean `Hopper-v5`?"));
    assert_eq!(refusal("env info Hopper-v5 --backend rust"), "error: `--backend rust`: auto, native or gymnasium");
    assert!(refusal("bench env Pendulum-v1 --bare").contains("has none apart"));
}

#[test]
fn benches_end_with_an_object() {
    let place = folder("bench");
    let rate = |arguments: &str, key: &str| {
        let printed = stdout(&place, arguments);
        let object: serde_json::Value = serde_json::from_str(printed.lines().last().expect("a line")).expect("JSON");
        object[key].as_f64().expect("a number")
    };
    let quick = "--num-envs 3 --rounds 1 --seconds 0.05 --json";
    assert!(rate(&format!("bench env Hopper-v5 {quick}"), "steps_per_second") > 0.0);
    assert!(rate(&format!("bench env Hopper-v5 --bare {quick}"), "steps_per_second") > 0.0);
    common::write(&place, common::PENDULUM);
    assert!(rate("bench train run.toml --seconds 0.1 --json", "updates_per_second") > 0.0);
}

#[test]
fn an_environment_describes_itself() {
    let place = folder("info");
    let info = stdout(&place, "env info Humanoid-v5");
    assert!(info.contains("stepped by native") && info.contains("observation     348 numbers"), "{info}");
    assert!(stdout(&place, "env info CartPole-v1 --backend gymnasium").contains("saved exactly   no"));
    assert!(stdout(&place, "env list").contains("FrozenLake-v1"));
}
