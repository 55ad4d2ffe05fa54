//! `bregman dataset inspect`: what a file holds, in numbers, and the problems found.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;

use super::{InspectArgs, bad, read};
use crate::agents::dataset::{Block, Columns, Format, Header, Source, Spans};
use crate::envs::hdf5::Dtype;
use crate::terminal::print;

/// What rows say, gathered as they pass.
#[derive(Default)]
struct Summary {
    spans: Spans,
    obs: Columns,
    action: Columns,
    obs_range: Range,
    action_range: Range,
    reward_range: Range,
    rows: usize,
    transitions: usize,
    terminated: usize,
    truncated: usize,
    both: usize,
    /// Ends that no flag says.
    silent: usize,
    /// Terminal rows right behind terminal rows.
    repeated: usize,
    last_terminated: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Range(pub(super) f64, pub(super) f64);

impl Default for Range {
    fn default() -> Range {
        Range(f64::INFINITY, f64::NEG_INFINITY)
    }
}

impl Range {
    pub(super) fn add(&mut self, numbers: &[f64]) {
        numbers.iter().for_each(|&x| *self = Range(self.0.min(x), self.1.max(x)));
    }
}

impl Summary {
    fn new(header: &Header) -> Summary {
        Summary { obs: Columns::new(header.obs_dim), action: Columns::new(header.act_dim), ..Default::default() }
    }

    fn add(&mut self, block: &Block) {
        self.spans.add(block);
        self.obs.add(&block.obs);
        self.action.add(&block.action);
        self.obs_range.add(&block.obs);
        self.action_range.add(&block.action);
        self.reward_range.add(&block.reward);
        self.rows += block.len();
        for i in 0..block.len() {
            let (terminated, truncated) = (block.terminated[i], block.truncated[i]);
            self.transitions += usize::from(block.known[i]);
            self.terminated += usize::from(terminated);
            self.truncated += usize::from(truncated);
            self.both += usize::from(terminated && truncated);
            self.silent += usize::from(block.last[i] && !terminated && !truncated);
            self.repeated += usize::from(terminated && self.last_terminated);
            self.last_terminated = terminated;
        }
    }

    /// What a user should know before learning from it.
    fn problems(&self, source: &Source) -> Vec<String> {
        let mut found = Vec::new();
        if let Source::D4rl(file) = source {
            if !file.has_timeouts() {
                found.push("there are no `timeouts`: an episode is taken to end after 1000 rows".into());
            }
            if !file.has_next_observations() {
                let lost = self.rows - self.transitions;
                found.push(format!(
                    "there are no `next_observations`: {lost} rows at ends have no successor and are left out"
                ));
            }
        }
        // The last episode of a file is often cut with the file.
        let silent = self.silent - usize::from(self.spans.all.last().is_some_and(|s| !s.terminated && !s.truncated));
        if silent > 0 {
            found.push(format!("{silent} episodes end where no flag says so"));
        }
        if silent < self.silent {
            found.push("the last episode is not finished".into());
        }
        if self.both > 0 {
            found.push(format!("{} rows are terminated and truncated at once: they count as terminated", self.both));
        }
        if self.repeated > 0 {
            found.push(format!("{} terminal rows follow a terminal row: each is an episode of its own", self.repeated));
        }
        let still: Vec<String> =
            self.obs.std().iter().enumerate().filter(|(_, s)| **s == 0.0).map(|(i, _)| i.to_string()).collect();
        if !still.is_empty() {
            found.push(format!("these numbers of an observation never change: {}", still.join(", ")));
        }
        if self.action_range.0 < -1.0 || self.action_range.1 > 1.0 {
            found.push("some actions are outside [-1, 1]".into());
        }
        let mut returns = Range::default();
        self.spans.all.iter().for_each(|span| returns.add(&[span.reward]));
        if returns.1 - returns.0 == 0.0 {
            found.push("all episodes have the same return: rewards cannot be scaled by their range".into());
        }
        found
    }
}

/// Mean, population standard deviation, least and largest.
fn moments(numbers: &[f64]) -> [f64; 4] {
    let mut columns = Columns::new(1);
    columns.add(numbers);
    let mut range = Range::default();
    range.add(numbers);
    [columns.mean[0], columns.std()[0], range.0, range.1]
}

/// Bars of a histogram, and the characters of the longest.
const BARS: usize = 10;
const LONGEST: usize = 40;

fn histogram(numbers: &[f64]) -> String {
    let [_, _, low, high] = moments(numbers);
    let width = (high - low) / BARS as f64;
    let mut counts = [0usize; BARS];
    for x in numbers {
        let at = if width > 0.0 { ((x - low) / width) as usize } else { 0 };
        counts[at.min(BARS - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let used = if width > 0.0 { BARS } else { 1 };
    let mut text = String::new();
    for (i, &count) in counts[..used].iter().enumerate() {
        let bar = "#".repeat((count * LONGEST).div_ceil(most));
        let _ = writeln!(text, "  from {:>10.1}  {bar:<LONGEST$} {count}", low + i as f64 * width);
    }
    text
}

/// `bregman dataset inspect`.
pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    let source = Source::open(&args.path).map_err(bad)?;
    let header = source.header().clone();
    let mut summary = Summary::new(&header);
    read(&source, &mut |block| {
        summary.add(block);
        Ok(())
    })?;
    summary.spans.finish();
    let returns: Vec<f64> = summary.spans.all.iter().map(|span| span.reward).collect();
    let lengths: Vec<f64> = summary.spans.all.iter().map(|span| span.len as f64).collect();
    let problems = summary.problems(&source);
    let format = match header.format {
        Format::D4rl => "d4rl",
        Format::Minari => "minari",
    };
    let (reward, episode) = (moments(&returns), moments(&lengths));
    if args.json {
        let object = json!({
            "path": source.path(), "format": format, "rows": summary.rows, "transitions": summary.transitions,
            "episodes": returns.len(), "obs_dim": header.obs_dim, "act_dim": header.act_dim,
            "env": header.env.as_ref().map(|env| &env.id), "reference": header.reference,
            "return": { "mean": reward[0], "std": reward[1], "min": reward[2], "max": reward[3] },
            "length": { "mean": episode[0], "std": episode[1], "min": episode[2], "max": episode[3] },
            "terminated": summary.terminated, "truncated": summary.truncated, "problems": problems,
        });
        return print(&format!("{object}\n"));
    }
    let mut text = String::new();
    let dtype = if header.dtype == Dtype::F32 { "f32" } else { "f64" };
    let env = header.env.as_ref().map_or("an environment that it does not name".into(), |env| env.id.clone());
    writeln!(text, "{}: {format}, {env}", source.path().display())?;
    writeln!(text, "  rows          {} ({} transitions)", summary.rows, summary.transitions)?;
    writeln!(
        text,
        "  episodes      {}: {} terminated, {} truncated",
        returns.len(),
        summary.terminated,
        summary.truncated
    )?;
    writeln!(
        text,
        "  observations  {} numbers, {dtype}, {:.3} to {:.3}",
        header.obs_dim, summary.obs_range.0, summary.obs_range.1
    )?;
    writeln!(
        text,
        "  actions       {} numbers, {:.3} to {:.3}",
        header.act_dim, summary.action_range.0, summary.action_range.1
    )?;
    writeln!(text, "  rewards       {:.3} to {:.3}", summary.reward_range.0, summary.reward_range.1)?;
    writeln!(text, "  lengths       {:.1} ± {:.1} ({} to {})", episode[0], episode[1], episode[2], episode[3])?;
    writeln!(text, "  returns       {:.1} ± {:.1} ({:.1} to {:.1})", reward[0], reward[1], reward[2], reward[3])?;
    if let Some((random, expert)) = header.reference {
        writeln!(
            text,
            "  score         {:.1}, 0 at {random} and 100 at {expert}",
            100.0 * (reward[0] - random) / (expert - random)
        )?;
    }
    for (name, value) in &header.about {
        writeln!(text, "  {name:<13} {value}")?;
    }
    writeln!(text, "\nreturns of {} episodes\n{}", returns.len(), histogram(&returns))?;
    match problems.as_slice() {
        [] => writeln!(text, "nothing is wrong with it")?,
        problems => {
            writeln!(text, "worth knowing")?;
            problems.iter().try_for_each(|problem| writeln!(text, "  {problem}"))?;
        }
    }
    print(&text)
}
