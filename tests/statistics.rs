//! Our statistics beside `rliable`'s on the same numbers; `scripts/reference/rliable_scores.py` made the file.

use bregman::stats;
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// rliable's `[run][task]` as `[task][run]`.
fn scores(reference: &Value, name: &str) -> Vec<Vec<f64>> {
    let runs: Vec<Vec<f64>> =
        reference["scores_run_by_task"][name].as_array().expect("runs").iter().map(numbers).collect();
    (0..runs[0].len()).map(|task| runs.iter().map(|run| run[task]).collect()).collect()
}

/// Equal up to the order of summation.
fn same(name: &str, ours: f64, theirs: &Value) {
    let theirs = theirs.as_f64().expect("a number");
    assert!((ours - theirs).abs() <= 1e-14 * theirs.abs().max(1.0), "{name}: {ours} is not {theirs}");
}

/// A bound of a bootstrap interval with 10,000 resamples wobbles by 0.7 % of the interval's width (standard error), theirs with 5,000 to
/// 50,000 by up to 1 %: 4 % is more than three standard errors of the difference.
fn close(name: &str, ours: (f64, f64), theirs: &Value) {
    let theirs = numbers(theirs);
    let allowed = 0.04 * (theirs[1] - theirs[0]);
    let off = (ours.0 - theirs[0]).abs().max((ours.1 - theirs[1]).abs());
    assert!(off <= allowed, "{name}: {ours:?} is {off} from {theirs:?}");
}

#[test]
fn point_estimates_are_rliables_and_intervals_agree() {
    let reference: Value = serde_json::from_str(include_str!("data/rliable.json")).expect("JSON");
    let taus = numbers(&reference["taus"]);
    for name in ["a", "b", "one_task"] {
        let (scores, answers) = (scores(&reference, name), &reference["answers"][name]);
        let statistics = stats::STATISTICS.into_iter().chain([("optimality_gap", stats::optimality_gap as _)]);
        // On one task our median is that of its runs, theirs the mean once more.
        for (statistic, function) in statistics.filter(|(s, _)| (*s, name) != ("median", "one_task")) {
            let function: fn(&[Vec<f64>]) -> f64 = function;
            let what = format!("{statistic} of {name}");
            let answer = &answers[statistic.to_lowercase()];
            same(&what, function(&scores), &answer["point"]);
            close(&what, stats::interval(&scores, function, stats::RESAMPLES), &answer["interval"]);
        }
        for (ours, theirs) in
            stats::profile(&scores, &taus).into_iter().zip(answers["profile"].as_array().expect("a list"))
        {
            same(name, ours, theirs);
        }
    }
    let (a, b) = (scores(&reference, "a"), scores(&reference, "b"));
    let (improvement, answer) = (stats::probability_of_improvement, &reference["improvement_of_a_over_b"]);
    same("improvement", improvement(&a, &b), &answer["point"]);
    close("improvement", stats::interval_of_two(&a, &b, improvement, stats::RESAMPLES), &answer["interval"]);
    let of_itself = improvement(&a, &a);
    assert!((of_itself - 0.5).abs() < 1e-15, "{of_itself}");
}
