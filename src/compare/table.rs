//! Tables of a comparison: for the terminal, as Markdown, as CSV.

use std::fmt::Write;

use super::{Aggregate, Axis, Comparison, Estimate, Group, Run};
use crate::stats::{self, RESAMPLES, STATISTICS};

/// Characters from which a cell of an HTML table is broken into lines.
pub const LONG: usize = 30;

/// A heading and rows of cells under column names.
struct Table {
    heading: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Sentences below.
    notes: Vec<String>,
}

/// Aligned columns.
pub fn text(comparison: &Comparison) -> String {
    let mut out = String::new();
    for table in tables(comparison) {
        let all = || std::iter::once(&table.columns).chain(&table.rows);
        let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
        let _ = writeln!(out, "{}\n", table.heading);
        for row in all() {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        let _ = writeln!(out);
        let _ = writeln!(out, "{}\n", table.notes.join("\n"));
    }
    out
}

/// Markdown's pipes.
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = String::new();
    for table in tables(comparison) {
        let _ = writeln!(out, "### {}\n", table.heading);
        let _ = writeln!(out, "| {} |", table.columns.join(" | "));
        let _ = writeln!(out, "|{}", "---|".repeat(table.columns.len()));
        for row in &table.rows {
            let _ = writeln!(out, "| {} |", row.join(" | ").replace('\n', " "));
        }
        let _ = writeln!(out, "\n{}\n", table.notes.join("\n"));
    }
    out
}

/// The same tables as HTML.
pub fn html(comparison: &Comparison, escape: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    for table in tables(comparison) {
        let cells = |tag: &str, row: &[String]| -> String {
            let class = |cell: &str| if cell.chars().count() > LONG { " class=\"words\"" } else { "" };
            row.iter().map(|cell| format!("<{tag}{}>{}</{tag}>", class(cell), escape(cell))).collect()
        };
        let _ = writeln!(out, "<h3>{}</h3>\n<div class=\"wide\" tabindex=\"0\"><table>", escape(&table.heading));
        let _ = writeln!(out, "<tr>{}</tr>", cells("th", &table.columns));
        for row in &table.rows {
            let _ = writeln!(out, "<tr>{}</tr>", cells("td", row));
        }
        let _ = writeln!(out, "</table></div>\n<p class=\"small\">{}</p>", escape(&table.notes.join(" ")));
    }
    out
}

/// One row for each number: `env,agent,seed,statistic,value,low,high`; a seed where it is one run's, bounds where there are
/// any. Full precision; what was never reached is `inf`.
pub fn csv(comparison: &Comparison) -> String {
    let metric = &comparison.selection.metric;
    let mut out = "env,agent,seed,statistic,value,low,high\n".to_string();
    let mut row = |env: &str, agent: &str, seed: &str, statistic: &str, value: f64, interval: Option<(f64, f64)>| {
        let (low, high) = interval.map_or(("".into(), "".into()), |(low, high)| (low.to_string(), high.to_string()));
        let _ = writeln!(out, "{},{},{seed},{},{value},{low},{high}", quoted(env), quoted(agent), quoted(statistic));
    };
    for group in &comparison.groups {
        let (env, label) = (group.env.as_str(), group.label.as_str());
        for run in &group.runs {
            row(env, label, &run.file.seed.to_string(), metric, run.score, None);
        }
        row(env, label, "", "runs", group.runs.len() as f64, None);
        row(env, label, "", "env_steps", group.env_steps() as f64, None);
        row(env, label, "", "seconds", group.seconds(), None);
        for (name, estimate) in group_estimates(comparison, group) {
            row(env, label, "", &name, estimate.value, estimate.interval);
        }
    }
    if let Some(aggregate) = &comparison.aggregate {
        for (label, scores) in &aggregate.groups {
            for (name, estimate) in Aggregate::estimates(scores) {
                row("all", label, "", &format!("normalized {name}"), estimate.value, estimate.interval);
            }
        }
    }
    for (x, y, _, estimate) in comparison.improvements() {
        row("all", x, "", &format!("probability of improvement over {y}"), estimate.value, estimate.interval);
    }
    out
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}

/// Everything with an interval that is said of one group.
fn group_estimates(comparison: &Comparison, group: &Group) -> Vec<(String, Estimate)> {
    let mut all: Vec<(String, Estimate)> =
        STATISTICS.iter().map(|(name, statistic)| (name.to_string(), group.estimate(*statistic))).collect();
    all.push(("area".into(), area(group, comparison.selection.x)));
    let metric = &comparison.selection.metric;
    if let Some(threshold) = comparison.threshold(&group.env) {
        all.push((format!("env_steps to {threshold}"), to_threshold(group, Axis::EnvSteps, (metric, threshold))));
        all.push((format!("seconds to {threshold}"), to_threshold(group, Axis::Wall, (metric, threshold))));
    }
    all
}

/// Mean over runs of the area under the curve, divided by its width.
fn area(group: &Group, axis: Axis) -> Estimate {
    let areas = group.runs.iter().map(|run| stats::mean_height(&run.x(axis), &run.series.values));
    Estimate::of(&[areas.collect()], stats::mean)
}

/// Median over runs of where the metric is as good as the threshold for the first time; infinity where it never is.
fn to_threshold(group: &Group, axis: Axis, (metric, threshold): (&str, f64)) -> Estimate {
    let reached = |run: &Run| match run.x(axis) {
        x if x.is_empty() => f64::NAN,
        x => stats::first_reaching(&x, &run.series.values, |y| reaches(metric, y, threshold)),
    };
    Estimate::of(&[group.runs.iter().map(reached).collect()], stats::median)
}

fn tables(comparison: &Comparison) -> Vec<Table> {
    let improvements = comparison.improvements();
    let mut tables = vec![by_env(comparison)];
    if let Some(aggregate) = &comparison.aggregate {
        tables.push(over_envs(aggregate));
    }
    if !improvements.is_empty() {
        let row = |(x, y, envs, estimate): &(&str, &str, usize, Estimate)| {
            vec![x.to_string(), y.to_string(), envs.to_string(), written(*estimate, 2)]
        };
        tables.push(Table {
            heading: "Probability of improvement".into(),
            columns: ["X", "Y", "environments", "P(X > Y)"].map(String::from).into(),
            rows: improvements.iter().map(row).collect(),
            notes: vec![format!(
                "Probability that a run of X scores higher than one of Y, mean over environments.{}",
                if is_error(&comparison.selection.metric) {
                    " Lower is better: it is that X is the worse one."
                } else {
                    ""
                }
            )],
        });
    }
    tables
}

/// Whether a metric is one that learning makes small.
fn is_error(metric: &str) -> bool {
    let name = metric.rsplit('/').next().unwrap_or(metric);
    name.ends_with("error") || name.ends_with("loss") || ["l1", "empirical_l1", "tv", "js"].contains(&name)
}

/// Whether a value of a metric is as good as a goal.
fn reaches(metric: &str, value: f64, goal: f64) -> bool {
    if is_error(metric) { value <= goal } else { value >= goal }
}

fn by_env(comparison: &Comparison) -> Table {
    let selection = &comparison.selection;
    let thresholds = !selection.threshold.is_empty();
    let mut columns: Vec<String> =
        ["environment", "agent", "runs", "steps", "mean", "median", "IQM", "area", "minutes"].map(String::from).into();
    if thresholds {
        columns.extend(["goal", "reached", "steps to goal", "minutes to goal"].map(String::from));
    }
    let row = |group: &Group| {
        let mut row =
            vec![group.env.clone(), group.label.clone(), group.runs.len().to_string(), steps(group.env_steps() as f64)];
        row.extend(STATISTICS.iter().map(|(_, statistic)| short(group.estimate(*statistic))));
        row.extend([short(area(group, selection.x)), minutes(group.seconds())]);
        match comparison.threshold(&group.env) {
            Some(goal) => {
                let metric = selection.metric.as_str();
                let estimate = to_threshold(group, Axis::EnvSteps, (metric, goal));
                let has = |run: &&Run| run.series.values.iter().any(|&y| reaches(metric, y, goal));
                let reached = group.runs.iter().filter(has).count();
                row.extend([goal.to_string(), format!("{reached}/{}", group.runs.len())]);
                row.push(bounds(estimate, steps));
                row.push(bounds(to_threshold(group, Axis::Wall, (metric, goal)), minutes));
            }
            None if thresholds => row.extend(["", "", "", ""].map(String::from)),
            None => {}
        }
        row
    };
    let mut episodes: Vec<u32> =
        comparison.groups.iter().flat_map(|g| g.runs.iter().map(|run| run.file.eval.episodes)).collect();
    episodes.sort_unstable();
    episodes.dedup();
    let builds = comparison.groups.iter().any(|group| group.runs.iter().any(|run| run.file.env.is_world()));
    let protocol = match (selection.metric.starts_with("eval/"), builds, &episodes[..]) {
        (false, ..) => String::new(),
        (true, true, [one]) => format!("; {one} objects drawn per evaluation"),
        (true, true, _) => "; numbers of objects drawn differ".into(),
        (true, false, [one]) => format!("; deterministic policy, {one} episodes per evaluation"),
        (true, false, _) => "; deterministic policy, numbers of episodes differ".into(),
    };
    let meaning = if comparison.meaning.is_empty() { String::new() } else { format!(": {}", comparison.meaning) };
    let brackets = match comparison.groups.iter().any(|group| group.runs.len() > 1) {
        true => format!("Brackets: 95 % percentile bootstrap over runs, {RESAMPLES} resamples. "),
        false => "One run each, so there are no intervals: `bregman sweep --seeds 5` makes more. ".into(),
    };
    let score = match selection.last.get() {
        1 => "its last value".into(),
        n => format!("the mean of its last {n} values"),
    };
    let mut notes = vec![
        format!("`{}`{meaning}{protocol}. A run's score is {score}.", selection.metric),
        format!(
            "{brackets}IQM: interquartile mean. Area: under the curve over {}, divided by its width. Minutes: median over \
             runs.",
            comparison.axis_words()
        ),
    ];
    if thresholds {
        notes.push("To goal: median over runs, `never` where that many do not reach it.".into());
    }
    let rows = comparison.groups.iter().map(row).collect();
    Table { heading: format!("`{}` by environment", selection.metric), columns, rows, notes }
}

fn over_envs(aggregate: &Aggregate) -> Table {
    let mut columns: Vec<String> = ["agent", "runs"].map(String::from).into();
    columns.extend(["mean", "median", "IQM", "optimality gap"].map(String::from)); // as `Aggregate::estimates`
    let row = |(label, scores): &(String, Vec<Vec<f64>>)| {
        let runs = scores.iter().map(Vec::len).sum::<usize>();
        let estimates = Aggregate::estimates(scores).into_iter().map(|(_, estimate)| written(estimate, 3));
        [label.clone(), runs.to_string()].into_iter().chain(estimates).collect()
    };
    Table {
        heading: format!("Over {} environments, normalised", aggregate.envs.len()),
        columns,
        rows: aggregate.groups.iter().map(row).collect(),
        notes: vec![
            format!(
                "Normalised: {}. Environments weigh the same: {}.",
                aggregate.normalization,
                aggregate.envs.join(", ")
            ),
            "Median: over environments, of means over runs. Optimality gap: mean shortfall from 1.".into(),
        ],
    }
}

/// As many digits as are worth reading beside the interval's size.
fn short(estimate: Estimate) -> String {
    let width = estimate.interval.map_or(0.0, |(low, high)| high - low);
    written(estimate, digits(estimate.value.abs().max(width)))
}

/// A score with as many digits as its size asks for.
pub fn score(value: f64) -> String {
    format!("{value:.*}", digits(value.abs()))
}

fn digits(size: f64) -> usize {
    match size {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 || size == 0.0 || size.is_nan() => 2,
        // Two that are not 0, as far as that goes.
        size => (1 - size.log10().floor() as i32).clamp(3, 8) as usize,
    }
}

fn written(estimate: Estimate, digits: usize) -> String {
    match estimate {
        Estimate { value, .. } if value.is_nan() => "?".into(),
        Estimate { value, interval: None } => format!("{value:.digits$}"),
        Estimate { value, interval: Some((low, high)) } => {
            format!("{value:.digits$} [{low:.digits$}, {high:.digits$}]")
        }
    }
}

fn bounds(estimate: Estimate, write: fn(f64) -> String) -> String {
    match estimate {
        Estimate { value, interval: Some((low, high)) } if value.is_finite() || low.is_finite() => {
            format!("{} [{}, {}]", write(value), write(low), write(high))
        }
        Estimate { value, .. } => write(value),
    }
}

/// `300k`, `1M`.
pub fn steps(count: f64) -> String {
    let with = |value: f64, unit: &str| format!("{}{unit}", (value * 100.0).round() / 100.0);
    match count {
        x if x.is_infinite() => "never".into(),
        x if x.is_nan() => "?".into(),
        x if x >= 1e6 => with(x / 1e6, "M"),
        x if x >= 1e4 => with((x / 1e2).round() / 10.0, "k"),
        x => with(x, ""),
    }
}

/// Minutes with a digit behind the point, two where there is less than one.
pub fn minutes(seconds: f64) -> String {
    match seconds {
        x if x.is_infinite() => "never".into(),
        x if x.is_nan() => "?".into(),
        x if x < 60.0 => format!("{:.2}", x / 60.0),
        x => format!("{:.1}", x / 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_scores() {
        let errors = ["eval/l1", "eval/log_z_error", "eval/marginal_error", "train/loss", "train/value_loss"];
        assert!(errors.into_iter().all(is_error));
        let scores = ["eval/mean_reward", "eval/score", "eval/spearman", "train/modes", "train/log_reward_best"];
        assert!(!scores.into_iter().any(is_error));
    }

    #[test]
    fn steps_are_written_short() {
        assert_eq!([300_000.0, 1e6, 1_001_472.0, 204_800.0, 900.0].map(steps), ["300k", "1M", "1M", "204.8k", "900"]);
        assert_eq!(steps(f64::INFINITY), "never");
        assert_eq!(
            [3.0, 6.5, 60.0, 3723.0, f64::INFINITY, f64::NAN].map(minutes),
            ["0.05", "0.11", "1.0", "62.0", "never", "?"]
        );
    }

    #[test]
    fn small_numbers_keep_two_digits() {
        let short = [123.4, -12.34, 1.234, 0.1234, 0.0512, -0.001_26, 3e-4, 0.0].map(score);
        assert_eq!(short, ["123", "-12.3", "1.23", "0.12", "0.051", "-0.0013", "0.00030", "0.00"]);
    }

    #[test]
    fn one_run_has_no_interval_and_what_is_unknown_has_no_digits() {
        let one = Estimate { value: 9.518, interval: None };
        let two = Estimate { value: 9.518, interval: Some((-5.0, 24.0)) };
        let unknown = Estimate { value: f64::NAN, interval: None };
        assert_eq!([one, two, unknown].map(short), ["9.52", "9.5 [-5.0, 24.0]", "?"]);
        assert_eq!(bounds(Estimate { value: 900.0, interval: None }, steps), "900");
        assert_eq!(
            bounds(Estimate { value: f64::INFINITY, interval: Some((900.0, f64::INFINITY)) }, steps),
            "never [900, never]"
        );
    }
}
