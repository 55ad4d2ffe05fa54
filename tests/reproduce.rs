//! `scripts/reproduce`: the quick way through everything, from presets to `README.md`.

mod common;

use std::path::Path;
use std::process::Command;

use common::folder;

#[test]
fn the_quick_way_writes_tables_plots_and_a_page_and_does_not_repeat_runs() {
    let place = folder("reproduce");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reproduce = || {
        let mut command = Command::new(root.join("scripts/reproduce"));
        command.args(["ppo", "--quick", "--out"]).arg(&place).env("BREGMAN", env!("CARGO_BIN_EXE_bregman"));
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (std::fs::read_to_string(place.join("results/quick/README.md")).expect("a page"), said)
    };
    let (page, _) = reproduce();
    for words in [
        "sweep configs/ppo/half_cheetah.toml configs/ppo/reacher.toml",
        "gymnasium 1.",
        "| HalfCheetah-v5 | ppo | 40960 | 2 |",
        "| 1442.64 ± 46.03 |",
        "Normalised: 0 is a random policy",
        "![Learning curves](ppo/training-curves.svg)",
    ] {
        assert!(page.contains(words), "{words} in\n{page}");
    }
    for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(place.join("results/quick").join(link).is_file(), "{link}");
    }
    let (again, said) = reproduce();
    assert!(said.contains("6 of 6 runs are finished already"), "{said}");
    assert_eq!(page, again);

    // What is kept of runs compares like the runs themselves.
    let kept = place.join("kept");
    let keep = format!(
        "import importlib.machinery as m, pathlib; \
         m.SourceFileLoader('reproduce', {:?}).load_module().keep(*map(pathlib.Path, [{:?}, {kept:?}]))",
        root.join("scripts/reproduce"),
        place.join("runs/reproduce/ppo-quick"),
    );
    let python = root.join(".venv/bin/python");
    assert!(Command::new(python).args(["-B", "-W", "ignore", "-c", &keep]).status().expect("it starts").success());
    let table = |runs: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bregman"));
        let output = command.args(["compare", "--format", "csv"]).arg(runs).output().expect("it starts");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(table(&kept), table(&place.join("runs/reproduce/ppo-quick")));
    assert!(table(&kept).lines().count() > 6);
    let meta = std::fs::read_to_string(kept.join("reacher/s1/meta.json")).expect("it is kept");
    assert!(meta.contains("revision") && !meta.contains("command"), "{meta}");
    let text = std::fs::read_to_string(kept.join("reacher/s1/metrics.csv")).expect("it is kept");
    assert_eq!(text.lines().count(), 5, "a head and the four evaluations in\n{text}");
}
