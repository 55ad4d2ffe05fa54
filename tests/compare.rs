//! `bregman compare` on run directories whose numbers are known, broken ones among them.

mod common;

use std::path::{Path, PathBuf};

use common::{bregman, folder, run};

/// A finished run of 1,000 steps with evaluations at 500 and 1,000, 10 and 20 seconds in.
fn fake(dir: PathBuf, env: &str, settings: &str, seed: u64, values: [f64; 2]) -> PathBuf {
    std::fs::create_dir_all(&dir).expect("writable");
    let run = format!("seed = {seed}\n[budget]\nenv_steps = 1000\n[env]\nid = \"{env}\"\n[agent.ppo]\n{settings}\n");
    let [first, last] = values;
    let metrics = format!(
        "iteration,env_steps,grad_steps,episodes,eval/mean_reward\n1,250,1,0,\n2,500,2,1,{first}\n3,1000,3,2,{last}\n"
    );
    let timing = "iteration,env_steps,seconds,fps\n1,250,5.0,50\n2,500,10.0,50\n3,1000,20.0,50\n";
    for (name, text) in [("run.toml", run.as_str()), ("metrics.csv", &metrics), ("timing.csv", timing)] {
        std::fs::write(dir.join(name), text).expect("writable");
    }
    dir
}

/// Exit code, standard output, standard error.
fn compare(place: &Path, arguments: &str) -> (i32, String, String) {
    let output = bregman(place).args(format!("compare {arguments}").split(' ')).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it exits"), text(&output.stdout), text(&output.stderr))
}

/// The value of a statistic in CSV.
fn value(csv: &str, start: &str) -> f64 {
    let line = csv.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in\n{csv}"));
    let cells: Vec<&str> = line.split(',').collect();
    cells[4].parse().expect("a number")
}

#[test]
fn groups_statistics_areas_and_thresholds() {
    let place = folder("compare");
    for (seed, last) in [(1, 10.0), (2, 20.0), (3, 30.0), (4, 100.0)] {
        fake(place.join(format!("runs/a/s{seed}")), "Pendulum-v1", "", seed, [0.0, last]);
        fake(place.join(format!("runs/b/s{seed}")), "Pendulum-v1", "gamma = 0.9", seed, [25.0, 25.0]);
        fake(place.join(format!("runs/c/s{seed}")), "CartPole-v1", "", seed, [0.0, last]);
        fake(place.join(format!("runs/d/s{seed}")), "CartPole-v1", "gamma = 0.9", seed, [1.0, last / 2.0]);
    }
    let (code, csv, notes) = compare(&place, "runs --threshold 25 --format csv");
    assert_eq!((code, notes.as_str()), (0, ""));
    let a = |statistic: &str| value(&csv, &format!("Pendulum-v1,ppo gamma=0.99,,{statistic}"));
    assert_eq!((a("runs"), a("mean"), a("median"), a("IQM")), (4.0, 40.0, 25.0, 25.0));
    assert_eq!((a("env_steps"), a("seconds")), (1000.0, 20.0));
    // Triangles of width 500 and heights 10, 20, 30, 100 over a width of 500.
    assert_eq!(a("area"), 20.0);
    let line = csv.lines().find(|line| line.starts_with("Pendulum-v1,ppo gamma=0.99,,mean,")).expect("a line");
    let cells: Vec<f64> = line.split(',').skip(4).map(|cell| cell.parse().expect("a number")).collect();
    assert!(cells[1] < cells[0] && cells[0] < cells[2], "the lower bound stands in front of the upper one: {line}");
    // Two of four reach 25, at the end: the median lies between 1,000 and never.
    assert_eq!((a("env_steps to 25"), a("seconds to 25")), (f64::INFINITY, f64::INFINITY));
    let b = |statistic: &str| value(&csv, &format!("Pendulum-v1,ppo gamma=0.9,,{statistic}"));
    assert_eq!((b("env_steps to 25"), b("seconds to 25"), b("area")), (500.0, 10.0, 25.0));
    assert_eq!(value(&csv, "CartPole-v1,ppo gamma=0.9,4,eval/mean_reward"), 50.0);
    // Over Pendulum: 30 and 100 of b's four 25s beaten by half; over CartPole 5, 10, 15, 50 against 10, 20, 30, 100: b wins at
    // 15 > 10; 50 > 10, 20, 30; and 10 = 10 is half: 4.5 of 16.
    let improvement = value(&csv, "all,ppo gamma=0.9,,probability of improvement over ppo gamma=0.99");
    assert_eq!(improvement, (0.5 + 4.5 / 16.0) / 2.0);
    // Normalised to the lowest and highest run: Pendulum 10 to 100, CartPole 5 to 100.
    let mean = value(&csv, "all,ppo gamma=0.9,,normalized mean");
    assert!((mean - ((25.0 - 10.0) / 90.0 + (20.0 - 5.0) / 95.0) / 2.0).abs() < 1e-15, "{mean}");
    assert_eq!(compare(&place, "runs --threshold 25 --format csv").1, csv, "the same runs give the same table");

    std::fs::write(
        place.join("scores.toml"),
        "about = \"0 and 1 by hand\"\n[scores.\"Pendulum-v1\"]\nlow = 0.0\nhigh = 50.0\n[scores.\"CartPole-v1\"]\nlow = 0.0\nhigh = 20.0\n",
    )
    .expect("writable");
    let (code, csv, _) = compare(&place, "runs --scores scores.toml --format csv");
    assert_eq!((code, value(&csv, "all,ppo gamma=0.9,,normalized mean")), (0, (0.5 + 1.0) / 2.0));
    let (code, text, _) = compare(&place, "runs --scores scores.toml --threshold CartPole-v1=25");
    assert!(code == 0 && text.contains("Normalised: 0 and 1 by hand."), "{text}");
    let (_, markdown, _) = compare(&place, "runs --format markdown --x wall");
    assert!(markdown.contains("| CartPole-v1 | ppo gamma=0.9 | 4 | 1000 | 20.0 ["), "{markdown}");
    assert!(markdown.contains("under the curve over wall-clock time"), "{markdown}");
}

#[test]
fn a_score_may_be_the_mean_of_the_last_values() {
    let place = folder("compare-last");
    for (seed, values) in [(1, [0.0, 10.0]), (2, [30.0, 50.0])] {
        let path = fake(place.join(format!("runs/s{seed}")), "Pendulum-v1", "", seed, values).join("metrics.csv");
        let metrics = std::fs::read_to_string(&path).expect("it is there");
        std::fs::write(path, metrics.replace("1,250,1,0,\n", "1,250,1,0,-600\n")).expect("writable");
    }
    let (code, csv, _) = compare(&place, "runs --last 2 --format csv");
    assert_eq!((code, value(&csv, "Pendulum-v1,ppo,2,eval/mean_reward")), (0, 40.0));
    assert_eq!(value(&csv, "Pendulum-v1,ppo,,mean"), 22.5);
    let (_, text, _) = compare(&place, "runs --last 2");
    assert!(text.contains("A run's score is the mean of its last 2 values."), "{text}");
    let (code, _, said) = compare(&place, "runs --last 4");
    assert!(code == 2 && said.contains("it has 3 values of `eval/mean_reward` and not 4"), "{said}");
    assert_eq!(compare(&place, "runs --last 0").0, 2);
}

#[test]
fn a_label_stands_in_for_the_settings_that_differ() {
    let place = folder("compare-label");
    for seed in [1, 2] {
        fake(place.join(format!("runs/a/s{seed}")), "Pendulum-v1", "", seed, [0.0, 1.0]);
        let dir = fake(place.join(format!("runs/b/s{seed}")), "Pendulum-v1", "gamma = 0.9", seed, [0.0, 2.0]);
        let run = std::fs::read_to_string(dir.join("run.toml")).expect("it is there");
        std::fs::write(dir.join("run.toml"), format!("label = \"short-sighted\"\n{run}")).expect("writable");
    }
    let (code, csv, _) = compare(&place, "runs --format csv");
    assert_eq!((code, value(&csv, "Pendulum-v1,ppo,,mean")), (0, 1.0));
    assert_eq!(value(&csv, "Pendulum-v1,ppo short-sighted,,mean"), 2.0);
}

#[test]
fn scores_on_datasets_keep_their_scale_and_errors_are_reached_from_above() {
    let place = folder("compare-offline");
    let fake = |name: &str, data: &str, label: &str, seed: u64, values: [f64; 2]| {
        let dir = fake(place.join(format!("runs/{name}/s{seed}")), "Pendulum-v1", "", seed, values);
        let run = format!(
            "seed = {seed}\n{label}\n[budget]\ngrad_steps = 3\n[env]\nid = \"Pendulum-v1\"\n[dataset]\npath = \"{data}-v0\"\n\
             [agent.bc]\n"
        );
        std::fs::write(dir.join("run.toml"), run).expect("writable");
        let metrics = std::fs::read_to_string(dir.join("metrics.csv")).expect("it is there");
        std::fs::write(dir.join("metrics.csv"), metrics.replace("mean_reward", "score")).expect("writable");
        dir
    };
    let single = "label = \"single\"";
    for seed in [1, 2] {
        fake("a", "a", "", seed, [10.0, 40.0]);
        fake("b", "b", "", seed, [10.0, 60.0]);
        fake("c", "b", single, seed, [10.0, 99.0]);
    }
    let (code, csv, notes) = compare(&place, "runs --metric eval/score --format csv");
    assert_eq!((code, value(&csv, "all,bc,,normalized mean")), (0, 0.5));
    assert!(notes.contains("aggregates leave out bc single: they have runs on one environment alone"), "{notes}");
    let (_, text, notes) = compare(&place, "runs --metric eval/score --threshold Pendulum-v1=50 --threshold Pend=1");
    assert!(text.contains("under the curve over optimiser steps"), "{text}");
    assert!(text.contains("2/2") && text.contains("0/2") && notes.contains("no run is on Pend,"), "{text}{notes}");

    // From 10 to 4: at 5 or below it is in the end.
    for seed in [1, 2] {
        let dir = fake("error", "e", "", seed, [10.0, 4.0]);
        let metrics = std::fs::read_to_string(dir.join("metrics.csv")).expect("it is there");
        std::fs::write(dir.join("metrics.csv"), metrics.replace("eval/score", "eval/l1")).expect("writable");
    }
    let (_, csv, _) = compare(&place, "runs/error --metric eval/l1 --threshold 5 --format csv");
    assert_eq!(value(&csv, "Pendulum-v1 e-v0,bc,,env_steps to 5"), 3.0);
}

#[test]
fn what_cannot_be_compared_gets_a_sentence() {
    let place = folder("compare-broken");
    fake(place.join("runs/good"), "Pendulum-v1", "", 1, [0.0, 1.0]);
    fake(place.join("runs/twin"), "Pendulum-v1", "", 1, [0.0, 1.0]);
    let edit = |name: &str, file: &str, change: &dyn Fn(String) -> String| {
        let path = fake(place.join("runs").join(name), "Pendulum-v1", "", 7, [0.0, 1.0]).join(file);
        std::fs::write(&path, change(std::fs::read_to_string(&path).expect("it is there"))).expect("writable");
    };
    edit("bad_key", "run.toml", &|text| text.replace("seed", "sead"));
    edit("bad_row", "metrics.csv", &|text| text.replace("2,500,2,1,0", "2,500,x,1,0"));
    edit("halfway", "metrics.csv", &|text| text.replace("3,1000,3,2,1\n", "3,1000,"));
    edit("never", "metrics.csv", &|text| text.replace("500,2,1,0", "500,2,1,").replace("1000,3,2,1", "1000,3,2,"));
    edit("other", "metrics.csv", &|text| text.replace("eval/mean_reward", "loss"));
    edit("nan", "metrics.csv", &|text| text.replace("1000,3,2,1", "1000,3,2,NaN"));
    edit("no_log", "metrics.csv", &|_| String::new());
    std::fs::create_dir_all(place.join("runs/none")).expect("writable");
    std::fs::write(place.join("runs/none/metrics.csv"), "").expect("writable");

    let (code, table, notes) = compare(&place, "runs absent --plot plots");
    assert_eq!(code, 0, "{notes}");
    assert!(table.contains("Pendulum-v1  ppo    1     1000"), "{table}");
    for expected in [
        "runs/bad_key is left out: run.toml: unknown key `sead`; did you mean `seed`?",
        "runs/bad_row is left out: line 3 of metrics.csv is damaged: invalid digit found in string",
        "runs/halfway is left out: it stands at 500 of 1000; go on with it: bregman train --resume runs/halfway",
        "runs/never is left out: it has no value of `eval/mean_reward`",
        "runs/other is left out: metrics.csv has no column `eval/mean_reward`; it has loss",
        "runs/nan is left out: `eval/mean_reward` ends at NaN",
        "runs/no_log is left out: metrics.csv does not begin with iteration,env_steps,grad_steps,episodes",
        "runs/none is left out: it has no run.toml",
        "runs/twin is left out: runs/good has the same settings and seed",
        "reading absent: No such file or directory (os error 2)",
    ] {
        assert!(notes.lines().any(|line| line == expected), "{expected}\nnot in\n{notes}");
    }
    assert!(place.join("plots/curve-Pendulum-v1.png").is_file());

    std::fs::create_dir(place.join("empty")).expect("writable");
    let (code, said) = run(&place, "compare empty runs/nan");
    assert_eq!(code, 2);
    assert_eq!(
        said,
        "error: nothing to compare in empty, runs/nan:\n  empty holds no run: there is no run.toml in it or below\n  \
         runs/nan is left out: `eval/mean_reward` ends at NaN"
    );
    let (code, said) = run(&place, "compare runs --scores absent.toml");
    assert_eq!((code, said.lines().last()), (2, Some("error: absent.toml: No such file or directory (os error 2)")));
}

#[test]
fn figures_are_pictures_in_both_formats() {
    let place = folder("compare-plots");
    for (seed, last) in [(1, 10.0), (2, 20.0), (3, 40.0)] {
        for (env, name) in [("Pendulum-v1", "p"), ("CartPole-v1", "c")] {
            fake(place.join(format!("runs/{name}/s{seed}")), env, "", seed, [0.0, last]);
            fake(place.join(format!("runs/{name}9/s{seed}")), env, "gamma = 0.9", seed, [0.0, last + 1.0]);
        }
    }
    assert_eq!(compare(&place, "runs --plot plots").0, 0);
    for name in ["curve-Pendulum-v1", "curve-CartPole-v1", "curves", "intervals", "profile", "improvement"] {
        let svg = std::fs::read_to_string(place.join(format!("plots/{name}.svg"))).expect(name);
        assert!(svg.starts_with("<svg") && svg.contains("0.9"), "{name}");
        let png = std::fs::read(place.join(format!("plots/{name}.png"))).expect(name);
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n", "{name}");
        // Both have the shape of one picture: PNG's width stands at byte 16.
        let width = u32::from_be_bytes(png[16..20].try_into().expect("four bytes"));
        assert!(svg.contains(&format!("width=\"{}\"", width / 2)), "{name}");
    }
}

/// The texts of an SVG: where each starts or has its middle, how it is anchored, its size and its letters.
fn texts(svg: &str) -> Vec<(f64, String, f64, String)> {
    let value = |tag: &str, name: &str| {
        let start = tag.find(&format!(" {name}=\"")).map(|at| at + name.len() + 3)?;
        Some(tag[start..].split('"').next().unwrap_or_default().to_string())
    };
    let number = |tag: &str, name: &str| value(tag, name).and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
    let all = svg.split("<text").skip(1).filter(|text| !text.contains("rotate"));
    all.map(|text| {
        let (tag, rest) = text.split_once('>').expect("a whole tag");
        let letters = rest.split('<').next().unwrap_or_default().trim().to_string();
        (number(tag, "x"), value(tag, "text-anchor").unwrap_or_default(), number(tag, "font-size"), letters)
    })
    .collect()
}

#[test]
fn long_names_stay_inside_the_picture_and_one_run_claims_no_interval() {
    let place = folder("compare-long");
    let env = "my_package_of_environments/AnExtraordinarilyLongEnvironmentName-v12";
    let long =
        "learning_rate = 0.000123456789\nclip_coef = 0.3333\nent_coef = 0.0012345\nnum_epochs = 20\ngamma = 0.987654";
    for seed in [1, 2] {
        fake(place.join(format!("runs/a/s{seed}")), env, "", seed, [0.0, seed as f64]);
        fake(place.join(format!("runs/b/s{seed}")), env, long, seed, [f64::NAN, 5.0]);
    }
    let (code, _, notes) = compare(&place, "runs --plot plots");
    assert_eq!((code, notes.as_str()), (0, ""), "one environment needs no aggregate, and no word about it");
    let mut letters = String::new();
    for entry in std::fs::read_dir(place.join("plots")).expect("it is there").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "svg") {
            continue;
        }
        let svg = std::fs::read_to_string(&path).expect("it is there");
        let width = 400.0;
        assert!(svg.starts_with(&format!("<svg width=\"{width}\"")), "{}", &svg[..60]);
        for (x, anchor, size, text) in texts(&svg) {
            let wide = 0.56 * size * text.chars().count() as f64;
            let start = if anchor == "middle" { x - wide / 2.0 } else { x };
            // The axes' own numbers end where they are put.
            assert!(anchor == "end" || (start >= 0.0 && start + wide <= width + 0.5), "{text} in {}", path.display());
            letters += &text.replace(' ', "");
        }
        assert!(!svg.contains("NaN"), "{}", path.display());
        let is_curve = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("curve"));
        assert!(!is_curve || svg.contains("eval/mean_reward"), "the axis says what is drawn");
    }
    for setting in ["clip_coef=0.3333", "learning_rate=0.000123456789", "num_epochs=20"] {
        assert!(letters.contains(setting), "{setting} is nowhere");
    }

    let (code, table, notes) = compare(&place, "runs/a/s1 --threshold 1 --plot alone");
    assert_eq!((code, notes.as_str()), (0, ""));
    assert!(!table.contains('[') && table.contains("One run each, so there are no intervals"), "{table}");
    assert!(!place.join("alone/intervals.svg").exists(), "there is no interval to draw");
    let (_, csv, _) = compare(&place, "runs/a/s1 --format csv");
    assert!(csv.lines().any(|line| line.ends_with(",mean,1,,")), "{csv}");
    let (_, table, _) = compare(&place, "runs/b");
    assert!(table.contains('?') && !table.contains("NaN"), "an area over a NaN is not known:\n{table}");
}
