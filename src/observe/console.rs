//! Progress on the terminal: a bar with speed and time left, and a line of numbers at every evaluation.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Row;
use crate::terminal::note;

/// How often a line is printed where there is no terminal to draw a bar on.
const QUIET: Duration = Duration::from_secs(30);

/// The terminal, or a log file in its place.
pub struct Console {
    bar: ProgressBar,
    terminal: bool,
    shown: bool,
    printed: Instant,
}

impl Console {
    /// For a run of `total` units that stands at `position`; not `shown`, it says nothing.
    pub fn new(total: u64, position: u64, shown: bool) -> Console {
        let terminal = shown && std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {human_pos}/{human_len}  {msg}  {eta} left");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_position(position);
        bar.reset_eta();
        let console = Console { bar, terminal, shown, printed: Instant::now() };
        console.print(&format!(
            "{:>11} {:>10} {:>18} {:>11} {:>9} {:>9}",
            "steps", "steps/s", "evaluation", "training", "KL", "value R²"
        ));
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
            self.print(&format!(
                "{:>11} {:>10.0} {evaluation:>18} {:>11} {:>9} {:>9}",
                row.position,
                row.fps,
                number("rollout/ep_rew_mean", 1),
                number("train/approx_kl", 4),
                number("train/explained_variance", 3),
            ));
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

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
