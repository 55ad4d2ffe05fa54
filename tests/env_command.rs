//! `bregman env` and `bregman bench`: what they print.

mod common;

use std::path::Path;

use common::{bregman, folder, run};

fn stdout(place: &Path, arguments: &str) -> String {
    let output = bregman(place).args(arguments.split(' ')).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// `count` actions of `len` numbers in a fixed pattern that leaves the bounds now and then; for no numbers, 0 or 1.
fn write_actions(path: &Path, count: usize, len: usize) {
    let number = |t: usize, i: usize| ((7 * t + 3 * i) % 11) as f64 / 4.0 - 1.25;
    let line = |t: usize| match len {
        0 => format!("[{}]", 7 * t % 11 % 2),
        _ => serde_json::json!((0..len).map(|i| number(t, i)).collect::<Vec<_>>()).to_string(),
    };
    std::fs::write(path, (0..count).map(line).collect::<Vec<_>>().join("\n")).expect("writable");
}

#[test]
fn native_and_gymnasium_traces_are_the_same_bytes() {
    let place = folder("trace");
    for (id, len) in [("HalfCheetah-v5", 6), ("Hopper-v5", 3), ("Pendulum-v1", 1), ("CartPole-v1", 0)] {
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

/// A pole on a cart whose motor is a million million times too strong.
const UNSTABLE: &str = r#"<mujoco><worldbody>
    <body><joint name="cart" type="slide" axis="1 0 0"/><geom size="0.1"/>
        <body><joint axis="0 1 0"/><geom size="0.1" pos="0 0 0.6"/></body>
    </body></worldbody>
    <actuator><motor joint="cart" gear="1e12" ctrllimited="true" ctrlrange="-3 3"/></actuator>
</mujoco>"#;

#[test]
fn an_unstable_simulation_is_told_once() {
    let place = folder("unstable");
    std::fs::write(place.join("pole.xml"), UNSTABLE).expect("writable");
    std::fs::write(place.join("actions"), "[3]\n[3]\n[3]").expect("writable");
    // Which of the two accelerations is the first to go depends on the action.
    let about = "became NaN, infinite or huge; MuJoCo put the simulation back to its initial state";
    let (code, said) = run(&place, "env trace InvertedPendulum-v5 --actions actions --kwargs xml_file=./pole.xml");
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with(&format!("environment 0 in episode 0 near step 1: acceleration 0 {about}")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    let text = "[budget]\nenv_steps = 200\n[agent.ppo]\nnum_steps = 100\nbatch_size = 50\n[eval]\nevery = 200\nepisodes = 2\n\
                [env]\nid = 'InvertedPendulum-v5'\nkwargs.xml_file = './pole.xml'";
    common::write(&place, text);
    let (code, said) = run(&place, "train run.toml --out r");
    assert_eq!(code, 0, "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains(about)).collect();
    assert_eq!(warnings.len(), 2, "{said}");
    assert!(warnings[0].starts_with("environment 0 in episode 0 near step"), "{said}");
    assert!(warnings[1].starts_with("evaluation episode 0: "), "{said}");
    let (code, said) = run(&place, "train run.toml --out quiet --set observe.console=false");
    assert_eq!((code, said.lines().collect::<Vec<_>>()), (0, warnings), "a run without progress still warns");
    let (code, said) = run(&place, "eval r --stochastic");
    assert_eq!((code, said.matches(about).count()), (0, 1), "{said}");
}

#[test]
fn arguments_reach_the_traced_environment() {
    let place = folder("trace-kwargs");
    write_actions(&place.join("actions"), 1, 6);
    let trace = |cost| {
        let kwargs = format!("ctrl_cost_weight={cost} frame_skip=3");
        stdout(&place, &format!("env trace HalfCheetah-v5 --actions actions --kwargs {kwargs}"))
    };
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
    std::fs::write(place.join("choice"), "[1]\n[2]").expect("writable");
    std::fs::write(place.join("huge"), "[1e39]").expect("writable");
    let refusal = |arguments: &str| {
        let (code, said) = run(&place, arguments);
        assert_eq!(code, 2, "{said}");
        said
    };
    assert_eq!(
        refusal("env trace Hopper-v5 --actions short"),
        "error: short, line 3: the action has 2 numbers; it takes 3"
    );
    for backend in ["native", "gymnasium"] {
        assert_eq!(
            refusal(&format!("env trace CartPole-v1 --actions choice --backend {backend}")),
            "error: choice, line 2: the action is 2; it must be one of 0 to 1"
        );
    }
    assert_eq!(
        refusal("env trace Pendulum-v1 --actions huge"),
        "error: huge, line 1: not an array of numbers: number out of range"
    );
    assert_eq!(
        refusal("env trace Hopper-v5 --actions absent"),
        "error: absent: No such file or directory (os error 2)"
    );
    assert_eq!(
        refusal("env info Hopper-v5 --kwargs frame_skip"),
        "error: `--kwargs frame_skip`: write key=value, as in --kwargs frame_skip=4"
    );
    assert_eq!(
        refusal("env info Hopper-v5 --kwargs frame_skips=4"),
        "error: environment `Hopper-v5`: there is no argument `frame_skips`; did you mean `frame_skip`?"
    );
    assert_eq!(refusal("bench env Pendulum-v1 --seconds 0"), "error: `--seconds 0`: a positive number");
    assert_eq!(
        refusal("env trace Hopper-v5 --actions words"),
        "error: words, line 1: not an array of numbers: invalid type: string \"up\", expected f32"
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
    assert!(rate("bench update run.toml --seconds 0.1 --json", "update_seconds") > 0.0);
}

#[test]
fn an_environment_describes_itself() {
    let place = folder("info");
    let info = |arguments: &str| stdout(&place, &format!("env info {arguments}"));
    assert_eq!(
        info("MountainCarContinuous-v0 --kwargs goal_velocity=0.5"),
        "MountainCarContinuous-v0, stepped by native
observation     2 numbers
action          1 numbers from [-1.0] to [1.0]
time limit      999
solved from     90
saved exactly   yes
info of reset   none
arguments       goal_velocity = 0.0
"
    );
    let native = info("Humanoid-v5");
    for line in [
        "observation     348 numbers",
        "info of reset   x_position, y_position, tendon_length, tendon_velocity, distance_from_origin",
        "arguments       xml_file = \"humanoid.xml\"",
        "contact_cost_range = [-inf, 10.0]",
    ] {
        assert!(native.contains(line), "{native}");
    }
    let gymnasium = info("Humanoid-v5 --backend gymnasium");
    let reset = |info: &str| info.lines().find(|line| line.starts_with("info of reset")).map(str::to_owned);
    assert_eq!(reset(&gymnasium), reset(&native));
    assert!(gymnasium.contains("contact_cost_range = (-inf, 10.0)"), "{gymnasium}");
    let frozen_lake = info("FrozenLake-v1");
    assert!(frozen_lake.contains("saved exactly   no") && frozen_lake.contains("map_name = '4x4'"), "{frozen_lake}");
    assert!(stdout(&place, "env list").contains("FrozenLake-v1"));
}
