//! The `bregman` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    bregman::cli::run(bregman::Bregman::default())
}
