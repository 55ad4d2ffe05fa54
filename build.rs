//! Notes the revision that the program is built from.

use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    if let Some(revision) = git(&["describe", "--always", "--dirty"]) {
        println!("cargo:rustc-env=BREGMAN_REVISION={revision}");
    }
    // Whether there are changes is asked again when the sources change, which builds the program anew anyway.
    for path in ["build.rs", "Cargo.toml", "src", "agents/src", "envs/src"] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Some(head) =
        git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| std::path::Path::new(path).exists())
    {
        println!("cargo:rerun-if-changed={head}");
    }
}
