//! The program as a user runs it.

// Every test file uses its own part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A small complete run in Rust environments, with everything that has state.
pub const PENDULUM: &str = r#"
seed = 3
threads = 2

[budget]
env_steps = 12_000

[env]
id = "Pendulum-v1"
num_envs = 3

[agent.ppo]
num_steps = 100
batch_size = 50
num_epochs = 4
anneal_lr = true

[eval]
every = 3_000
episodes = 3

[checkpoint]
every = 900
snapshot_every = 6_000
"#;

/// A small off-policy run, whose replay buffer overflows.
pub const SAC: &str = r#"
seed = 3
threads = 2

[budget]
env_steps = 6_000

[env]
id = "Pendulum-v1"
num_envs = 2

[agent.sac]
num_steps = 100
learning_starts = 300
utd_ratio = 0.5
buffer_size = 5_000
batch_size = 32
hidden_sizes = [32, 32]

[eval]
every = 2_000
episodes = 2

[checkpoint]
every = 400
"#;

/// A fresh folder that ends with the process.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bregman-test-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a writable temporary folder");
    folder
}

/// Writes a run file into `folder`.
pub fn write(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("run.toml");
    std::fs::write(&path, text).expect("writable");
    path
}

pub fn bregman(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bregman"));
    command.current_dir(folder);
    command
}

/// Runs `bregman` with arguments split at spaces; exit code and standard error.
pub fn run(folder: &Path, arguments: &str) -> (i32, String) {
    let Output { status, stderr, .. } = bregman(folder).args(arguments.split(' ')).output().expect("it starts");
    (status.code().expect("it exits"), String::from_utf8_lossy(&stderr).trim().to_string())
}
