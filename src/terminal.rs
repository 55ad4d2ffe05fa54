//! What the program says: results on standard output, remarks on standard error. Nothing else prints.
//!
//! A reader may leave before the end, as in `bregman list | head -1`. It has read enough: that is no failure, and what else
//! the command does, plots and checkpoints, it still does.

use std::io::{self, Write};

use anyhow::Result;

/// Prints a line to standard output.
macro_rules! out {
    ($($argument:tt)*) => {
        $crate::terminal::print(&format!("{}\n", format_args!($($argument)*)))
    };
}

/// Prints a line to standard error.
macro_rules! note {
    ($($argument:tt)*) => {
        $crate::terminal::say(format_args!($($argument)*))
    };
}

pub(crate) use {note, out};

/// Prints to standard output.
///
/// # Errors
/// A device that is full, not a reader that has left.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a line to standard error. Where nobody can be told, a run goes on all the same.
pub fn say(line: std::fmt::Arguments) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether an error says no more than that the reader of a long output has left.
pub fn reader_left(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}
