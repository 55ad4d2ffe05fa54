//! What a run shows and leaves behind: logs on disk, TensorBoard, the terminal.

mod console;
mod logs;
mod tensorboard;

pub use console::Console;
pub use logs::Logs;

use crate::agents::learner::{Metrics, Progress};
use crate::envs::Episode;

/// One iteration as observers see it.
pub struct Row<'a> {
    /// Counters after the iteration.
    pub progress: Progress,
    /// Where the run stands, in the budget's unit: TensorBoard's x axis.
    pub position: u64,
    /// The loop's, the agent's and the evaluation's numbers.
    pub metrics: &'a Metrics,
    /// Episodes that finished.
    pub episodes: &'a [Episode],
    /// Samples for histograms.
    pub histograms: &'a [(String, Vec<f32>)],
    /// Seconds since the run started.
    pub seconds: f64,
    /// Steps per second in the iteration, in the budget's unit.
    pub fps: f64,
}
