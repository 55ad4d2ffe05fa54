//! GFlowNets on the command line.

mod common;

use common::{bregman, folder, run, write};

const GRID: &str = r#"
seed = 3
threads = 2

[budget]
grad_steps = 300

[world.hyper_grid]
height = 6

[agent.tb]
hidden_sizes = [32]
num_trajectories = 8
log_every = 50
replay = "objects"
replay_capacity = 50

[eval]
every = 100
episodes = 50

[checkpoint]
every = 100
snapshot_every = 100
"#;

fn read(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_run_that_is_resumed_ends_with_the_same_bytes() {
    let place = folder("world-resume");
    write(&place, GRID);
    assert_eq!(run(&place, "train run.toml --out whole").0, 0);
    assert_eq!(run(&place, "train run.toml --out part --set budget.grad_steps=200").0, 0);
    let (code, said) = run(&place, "train --resume part --set budget.grad_steps=300");
    assert_eq!(code, 0, "{said}");
    for file in ["metrics.csv", "episodes.csv", "checkpoints/00000300/learner.safetensors"] {
        assert!(read(&place.join("whole").join(file)) == read(&place.join("part").join(file)), "{file}");
    }
    let metrics = std::fs::read_to_string(place.join("whole/metrics.csv")).expect("it is there");
    assert_eq!(metrics.lines().count(), 1 + 6);
    assert!(metrics.starts_with("iteration,env_steps,grad_steps,episodes,") && metrics.contains("eval/l1_floor"));
}

#[test]
fn objects_are_drawn_from_any_checkpoint_the_same_every_time() {
    let place = folder("world-sample");
    write(&place, GRID);
    assert_eq!(run(&place, "train run.toml --out r").0, 0);
    let draw = |arguments: &str| {
        let output = bregman(&place).args(arguments.split(' ')).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let drawn = draw("sample r --n 30");
    assert_eq!(drawn, draw("sample r --n 30"));
    assert_ne!(drawn, draw("sample r --n 30 --seed 1"));
    assert_eq!(drawn, draw("sample r --n 30 --checkpoint policies/00000300.safetensors"));
    draw("sample r --n 30 --out objects.csv");
    let table = std::fs::read_to_string(place.join("objects.csv")).expect("it is there");
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("object,log_reward,log_prob"));
    for line in lines.by_ref() {
        let cells: Vec<&str> = line.split(',').collect();
        let reward: f64 = cells[1].parse().expect("a number");
        assert!([0.1f64, 0.6].iter().any(|r| (r.ln() - reward).abs() < 1e-9), "{line}");
        assert!(cells[2].parse::<f64>().expect("a number") < 0.0 && cells[0].len() == 3);
    }
    assert_eq!(table.lines().count(), 31);

    // 4,096 objects are drawn at a time: those behind them are others.
    draw("sample r --n 4200 --out many.csv");
    let table = std::fs::read_to_string(place.join("many.csv")).expect("it is there");
    // Estimates of their probability are drawn anew either way.
    let objects = table.lines().skip(1).map(|row| row.rsplit_once(',').expect("three columns").0);
    let rows: Vec<&str> = objects.collect();
    assert_eq!(rows.len(), 4200);
    assert_ne!(rows[4096..], rows[..104]);

    // The number of such a stretch takes half of the bits that a stream starts from.
    assert_ne!(drawn, draw("sample r --n 30 --seed 4294967295"));
    let sentence = "error: `--seed 4294967296`: less than 4294967296".to_string();
    assert_eq!(run(&place, "sample r --n 30 --seed 4294967296"), (2, sentence));
}

#[test]
fn what_does_not_go_together_is_one_sentence() {
    let place = folder("world-refusals");
    let refusal = |text: &str| {
        write(&place, text);
        let (code, said) = run(&place, "train run.toml --out r");
        assert_eq!(code, 2, "{said}");
        said
    };
    assert_eq!(
        refusal(&GRID.replace("height = 6", "height = 1")),
        "error: agent.tb: world `hyper_grid`: `ndim = 2`, `height = 1`: at least 1 dimension of at least 2 cells, \
         and at most 65536 in all"
    );
    let in_env = GRID.replace("[world.hyper_grid]\nheight = 6", "[env]\nid = \"Pendulum-v1\"");
    assert!(refusal(&in_env).ends_with("`Pendulum-v1` is an environment: write [world.hyper_grid]"));
    let settings = GRID.split("[agent.tb]").next().expect("what comes before").to_string();
    assert!(
        refusal(&format!("{settings}[agent.ppo]\n"))
            .contains("this one acts in an environment: write [env] in its place")
    );
    let strings = GRID
        .replace("[world.hyper_grid]\nheight = 6", "[world.strings]")
        .replace("[agent.tb]", "[agent.db]\nforward_looking = true");
    assert!(refusal(&strings).contains("world `strings`: `file` is missing"));
    std::fs::write(place.join("values.csv"), "ACGTACGT,1\n").expect("writable");
    let strings = strings.replace("[world.strings]", "[world.strings]\nfile = \"values.csv\"");
    assert!(refusal(&strings).contains("it has no energies on unfinished objects, so flows cannot look forward"));
    let one = GRID.replace("[agent.tb]", "[agent.vargrad]").replace("replay = \"objects\"\n", "");
    let one = one.replace("num_trajectories = 8", "num_trajectories = 1");
    assert!(refusal(&one).contains("`num_trajectories = 1`: at least 2, since one trajectory has no variance"));

    write(&place, common::PENDULUM);
    assert_eq!(run(&place, "train run.toml --out p --set budget.env_steps=900").0, 0);
    let (code, said) = run(&place, "sample p");
    assert!(code == 2 && said.contains("ppo acts in an environment and builds no objects"), "{said}");
}

#[test]
fn the_best_evaluation_is_the_least_distance_and_is_named() {
    let place = folder("world-best");
    write(&place, GRID);
    let told = |arguments: &str| {
        let output = bregman(&place).args(arguments.split(' ')).output().expect("it starts");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let said = told("train run.toml --out r");
    let metrics = String::from_utf8(read(&place.join("r/metrics.csv"))).expect("text");
    let column = metrics.lines().next().and_then(|names| names.split(',').position(|name| name == "eval/l1"));
    let cells = metrics.lines().skip(1).map(|line| line.split(',').nth(column.expect("a column")).expect("a cell"));
    let least = cells.filter_map(|cell| cell.parse::<f64>().ok()).fold(f64::INFINITY, f64::min);
    assert!(said.contains(&format!("best evaluation: L1 {least:.4} at ")), "{said}");
    assert!(said.contains("sample it:  bregman sample r\n") && said.contains("tensorboard --logdir r"), "{said}");
    let (code, said) = run(&place, "eval r --video a.gif");
    let sentence =
        "error: `--video`: objects built in hyper_grid(height=6) cannot be filmed; `bregman sample` writes them";
    assert_eq!((code, said.as_str()), (2, sentence));
    let (code, said) = run(&place, "sample r --n 0");
    assert_eq!((code, said.as_str()), (2, "error: `--n 0`: at least 1"));
    // Every L1 is at most 2: the first evaluation ends the run, which then counts as finished.
    let said = told("train run.toml --out early --set eval.stop_at=2.0 --set observe.tensorboard=false");
    assert!(said.contains("ended early: L1 0.") && said.contains(" meets `eval.stop_at = 2`"), "{said}");
    assert!(!said.contains("tensorboard"), "{said}");
    let said = told("sweep run.toml --out s --seeds 1 --set eval.stop_at=2.0");
    assert!(said.contains("finished: evaluation L1 0."), "{said}");
    let said = told("compare s --metric eval/l1");
    assert!(!said.contains("stands at 100 of 300"), "{said}");
}
