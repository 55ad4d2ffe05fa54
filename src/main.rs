//! The `bregman` command.

fn main() {}
