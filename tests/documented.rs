//! What the documentation promises.

mod common;

use bregman::{Bregman, metrics};
use common::{PENDULUM, bregman, folder, run, write};

#[test]
fn every_logged_number_is_documented() {
    let page = include_str!("../docs/metrics.md");
    for (name, meaning) in metrics::all(&Bregman::default()) {
        assert!(page.contains(&format!("| `{name}` | {meaning} |")), "docs/metrics.md lacks | `{name}` | {meaning} |");
    }
}

#[test]
fn the_table_for_newcomers_names_settings_that_exist() {
    let (_, table) = include_str!("../docs/run_file.md").split_once("## From Stable-Baselines3").expect("it is there");
    let bregman = Bregman::default();
    let settings = (bregman.agents.get("ppo").expect("it is there").settings)();
    let named: Vec<&str> = table.split('`').filter_map(|word| word.strip_prefix("agent.ppo.")).collect();
    assert!(named.len() > 10);
    for name in named {
        assert!(settings.iter().any(|setting| setting.key == name), "{name}");
    }
}

/// A setting's value, whole numbers and others alike.
fn value(text: &str) -> toml::Value {
    let table: toml::Table = toml::from_str(&format!("x = {text}")).unwrap_or_else(|e| panic!("`{text}`: {e}"));
    match &table["x"] {
        toml::Value::Integer(x) => toml::Value::Float(*x as f64),
        other => other.clone(),
    }
}

#[test]
fn tables_of_settings_are_whole_and_give_the_defaults() {
    for (agent, page) in [
        ("odice", include_str!("../docs/algorithms/odice.md")),
        ("iql", include_str!("../docs/algorithms/iql.md")),
        ("td3_bc", include_str!("../docs/algorithms/td3_bc.md")),
        ("bc", include_str!("../docs/algorithms/bc.md")),
    ] {
        let bregman = Bregman::default();
        let settings = (bregman.agents.get(agent).expect("it is there").settings)();
        // The first cell of a row: `key` value, `key` value.
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let cells: Vec<&str> = rows.filter_map(|row| row.split('|').next()).collect();
        for setting in &settings {
            let (key, default) = (&setting.key, &setting.default);
            let said = cells.iter().flat_map(|cell| cell.split(", `")).filter_map(|part| part.split_once('`'));
            let said: Vec<&str> = said.filter(|(name, _)| name == key).map(|(_, value)| value.trim()).collect();
            assert!(said.len() == 1 && value(said[0]) == value(default), "{agent}: {key} is {default}, not {said:?}");
        }
    }
}

#[test]
fn defaults_are_the_papers() {
    let bregman = Bregman::default();
    for (agent, defaults) in [
        // Haarnoja et al. 2018, Table 1.
        (
            "sac",
            "learning_rate 3e-4 gamma 0.99 buffer_size 1_000_000 tau 0.005 batch_size 256 utd_ratio 1 hidden_sizes [256,256]",
        ),
        // The authors' code; λ and the copies' interval stand in the paper too.
        ("mdpo_off", "kl_coef 1 lambda 0.2 inner_steps 1000 tsallis_q 1 policy_reg 1e-3 learning_rate 3e-4"),
        // Schulman et al. 2017, Table 3, and Huang et al. 2022 for the rest.
        (
            "ppo",
            "learning_rate 3e-4 num_steps 2048 num_epochs 10 batch_size 64 gamma 0.99 gae_lambda 0.95 clip_coef 0.2 \
             vf_coef 0.5 max_grad_norm 0.5 adam_eps 1e-5",
        ),
        // sb3-contrib.
        (
            "trpo",
            "target_kl 0.01 kl_direction 'new_old' kl_slack 1 cg_iterations 15 cg_tolerance 1e-10 cg_damping 0.1 \
             line_search_steps 10 line_search_factor 0.8 vf_learning_rate 1e-3 vf_epochs 10 vf_batch_size 128",
        ),
        // The code released with N-PG-IGT; STORM-PG by its paper's rate.
        ("pg", "step_decay 0.6666666666666666 step_size 0.01"),
        ("storm_pg", "step_decay 0.3333333333333333 momentum 0.1"),
        ("fma_pg", "eta 1"),
        ("sso", "eta 0.05"),
        // Madan et al. 2023.
        ("subtb", "lambda 0.9"),
        // The code of Tiapkin et al. 2024, on hypergrids.
        ("soft_dqn", "munchausen_clip -100 tau 0.25 batch_size 256 priority 0.5 target_every 1"),
    ] {
        let settings = (bregman.agents.get(agent).expect("it is there").settings)();
        let words: Vec<&str> = defaults.split(' ').collect();
        for pair in words.chunks_exact(2) {
            let setting = settings.iter().find(|setting| setting.key == pair[0]).expect(pair[0]);
            assert_eq!(value(&setting.default), value(pair[1]), "{agent}: {}", pair[0]);
        }
    }
}

#[test]
fn what_the_terminal_shows_of_an_agent_is_declared() {
    for agent in Bregman::default().agents.entries() {
        let declared = |name: &&str| agent.metrics.iter().any(|(metric, _)| metric == name);
        assert!(agent.console.iter().all(declared), "{}: {:?}", agent.name, agent.console);
    }
}

#[test]
fn every_preset_is_a_right_run_file() {
    let bregman = Bregman::default();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut count = 0;
    for family in std::fs::read_dir(root).expect("configs").flatten() {
        for preset in std::fs::read_dir(family.path()).expect("a folder").flatten() {
            bregman::run_file::RunFile::read(&preset.path(), &[], &bregman).expect("a right run file");
            count += 1;
        }
    }
    assert!(count > 0);
}

#[test]
fn tensorboard_reads_what_is_written() {
    let place = folder("tensorboard");
    write(&place, PENDULUM);
    let (code, said) = run(&place, "train run.toml --out r --set observe.histograms=true --set budget.env_steps=3000");
    assert_eq!(code, 0, "{said}");
    let script = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
tags = events.Tags()
scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
histograms = {tag: events.Histograms(tag)[-1].histogram_value.num for tag in tags["histograms"]}
print(json.dumps([scalars, histograms]))
"#;
    let python = std::path::Path::new(env!("BREGMAN_VENV")).join("bin/python");
    let output = std::process::Command::new(python).args(["-c", script, "r"]).current_dir(&place).output();
    let output = output.expect("Python starts");
    let [scalars, histograms]: [serde_json::Value; 2] = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));

    let metrics = std::fs::read_to_string(place.join("r/metrics.jsonl")).expect("it is there");
    let rows: Vec<serde_json::Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for name in ["rollout/ep_rew_mean", "eval/mean_reward", "train/approx_kl", "train/std"] {
        let ours = rows.iter().filter_map(|row| Some((row["env_steps"].as_u64()?, row.get(name)?.as_f64()? as f32)));
        let theirs = scalars[name].as_array().expect(name).iter();
        let theirs = theirs.map(|e| (e[0].as_u64().expect("a step"), e[1].as_f64().expect("a value") as f32));
        assert!(ours.eq(theirs), "{name}");
    }
    assert!(scalars.get("time/fps").is_some());
    assert_eq!(histograms["rollout/action"], 300.0);
}

#[test]
fn lists_and_settings_are_printed() {
    let place = folder("list");
    let print = |arguments: &[&str]| {
        let output = bregman(&place).args(arguments).output().expect("it starts");
        String::from_utf8(output.stdout).expect("text")
    };
    let list = print(&["list"]);
    assert!(list.contains("ppo ") && list.contains("Pendulum-v1") && list.contains("half_cheetah.toml"), "{list}");
    let settings = print(&["show", "ppo"]);
    assert!(settings.contains("gae_lambda = 0.95") && settings.contains("train/approx_kl"), "{settings}");
}
