//! Progress on the terminal: a bar with speed and time left, and a line of numbers at every evaluation.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Row;
use crate::agents::registry::AgentEntry;
use crate::terminal::note;

/// How often a line is printed where there is no terminal to draw a bar on.
const QUIET: Duration = Duration::from_secs(30);

/// The terminal, or a log file in its place.
pub struct Console {
    bar: ProgressBar,
    terminal: bool,
    shown: bool,
    printed: Instant,
    /// The agent's own columns.
    columns: Vec<&'static str>,
}

impl Console {
    /// For a run of `agent` over `total` units that stands at `position`; not `shown`, only warnings are printed.
    pub fn new(agent: &AgentEntry, total: u64, position: u64, shown: bool) -> Console {
        let terminal = shown && std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {human_pos}/{human_len}  {msg}  {eta} left");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_position(position);
        bar.reset_eta();
        let columns = match agent.console {
            [] => agent.metrics.iter().take(2).map(|(name, _)| *name).collect(),
            named => named.to_vec(),
        };
        let console = Console { bar, terminal, shown, printed: Instant::now(), columns };
        let mut header = format!("{:>11} {:>10} {:>18} {:>11}", "steps", "steps/s", "evaluation", "training");
        for title in console.columns.iter().map(|name| title(name)) {
            header += &format!(" {title:>width$}", width = width(title));
        }
        console.print(&header);
        console
    }

    /// Shows an iteration.
    pub fn show(&mut self, row: &Row) {
        self.bar.set_position(row.position);
        self.bar.set_message(format!("{:.0} steps/s", row.fps));
        let number =
            |name: &str, digits: usize| row.metrics.get(name).map_or("-".into(), |value| format!("{value:.digits$}"));
        let evaluated = row.metrics.get("eval/mean_reward").is_some();
        if evaluated || (!self.terminal && self.printed.elapsed() > QUIET) {
            let evaluation = if evaluated {
                format!("{} ± {}", number("eval/mean_reward", 1), number("eval/std_reward", 1))
            } else {
                "-".into()
            };
            let training = number("rollout/ep_rew_mean", 1);
            let mut line = format!("{:>11} {:>10.0} {evaluation:>18} {training:>11}", row.position, row.fps);
            for name in &self.columns {
                let value = row.metrics.get(name).map_or("-".into(), short);
                line += &format!(" {value:>width$}", width = width(title(name)));
            }
            self.print(&line);
            self.printed = Instant::now();
        }
    }

    /// Prints a line above the bar.
    pub fn print(&self, line: &str) {
        if self.terminal {
            self.bar.println(line);
        } else if self.shown {
            note!("{line}");
        }
    }

    /// Prints what should be heard of whether progress is shown or not.
    pub fn warn(&self, line: &str) {
        match self.terminal {
            true => self.bar.println(line),
            false => note!("{line}"),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A column's title: the last part of a metric's name.
fn title(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn width(title: &str) -> usize {
    title.len().max(9)
}

/// About four digits.
fn short(value: f64) -> String {
    match value.abs() {
        x if x >= 1e5 || (x > 0.0 && x < 1e-3) => format!("{value:.2e}"),
        x if x >= 100.0 => format!("{value:.1}"),
        x if x >= 1.0 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_fit_their_column() {
        let numbers = [0.0, 0.01234, -0.5, 2.5, 123.456, -99_999.0, 1.5e7, -2e-5];
        let written = ["0.0000", "0.0123", "-0.5000", "2.500", "123.5", "-99999.0", "1.50e7", "-2.00e-5"];
        assert_eq!(numbers.map(short), written);
        assert!(numbers.into_iter().all(|x| short(x).len() <= width("kl")));
    }

    #[test]
    fn an_agent_says_what_the_terminal_shows() {
        let entry = crate::agents::registry::AgentRegistry::default();
        let ppo = entry.get("ppo").expect("it is there");
        assert_eq!(Console::new(ppo, 1, 0, false).columns, ["train/approx_kl", "train/explained_variance"]);
        let silent = ppo.console(&[]);
        assert_eq!(Console::new(&silent, 1, 0, false).columns, ["train/policy_gradient_loss", "train/value_loss"]);
    }
}
