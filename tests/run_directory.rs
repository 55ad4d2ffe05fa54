//! What a run directory has to survive: alterations and second thoughts.

mod common;

use std::path::Path;

use bregman::checkpoint;
use common::{PENDULUM, folder, run, write};

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("it is there")
}

fn change(path: &Path, from: &str, to: &str) {
    let before = text(path);
    assert!(before.contains(from), "{before}");
    std::fs::write(path, before.replace(from, to)).expect("writable");
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
        assert!(checkpoint::read(&place.join("r"), 600).is_err(), "byte {at}");
    }
    std::fs::write(&manifest, good).expect("writable");
    assert!(checkpoint::read(&place.join("r"), 600).is_ok());

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
    let (mut manifest, snapshot) = checkpoint::read(&r, 300).expect("it is whole");
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
