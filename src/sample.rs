//! `bregman sample`: objects that a GFlowNet builds, with their log-reward and log-probability.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::agents::learner::Drawn;
use crate::checkpoint::write_whole;
use crate::error::bad_input;
use crate::terminal::print;
use crate::{Bregman, train};

/// Objects drawn at a time.
const CHUNK: usize = 4096;

/// Seeds there are: the upper half of a chunk's own seed, whose lower half is the chunk's number.
const SEEDS: u64 = 1 << 32;

/// Arguments of `bregman sample`.
#[derive(Args)]
pub struct SampleArgs {
    /// The run directory
    dir: PathBuf,
    /// Objects
    #[arg(long, default_value_t = 100)]
    n: usize,
    /// Of the drawing; the same seed draws the same objects
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How [default: csv for a FILE that ends so, else jsonl]
    #[arg(long)]
    format: Option<Format>,
    /// `last`, `best`, the position of a checkpoint, or a file as in policies/00050000.safetensors
    #[arg(long, default_value = "last")]
    checkpoint: String,
}

/// How objects are written.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// A JSON object per line
    Jsonl,
    /// Comma-separated values under a header
    Csv,
}

/// Draws objects and writes them.
pub fn sample(args: &SampleArgs, bregman: &Bregman) -> Result<()> {
    if args.n == 0 {
        bad_input!("`--n 0`: at least 1");
    }
    if args.seed >= SEEDS {
        bad_input!("`--seed {}`: less than {SEEDS}", args.seed);
    }
    let run = train::read_run(&args.dir, &[], bregman)?;
    let mut learner = train::build_to_judge(&run, bregman)?;
    train::load_policy(&args.dir, &args.checkpoint, learner.as_mut())?;
    let ends_csv = args.out.as_ref().is_some_and(|path| path.extension().is_some_and(|end| end == "csv"));
    let format = args.format.unwrap_or(if ends_csv { Format::Csv } else { Format::Jsonl });
    let mut text = String::new();
    if format == Format::Csv {
        text += "object,log_reward,log_prob\n";
    }
    for (chunk, start) in (0..args.n).step_by(CHUNK).enumerate() {
        let seed = args.seed * SEEDS + chunk as u64;
        let Some(drawn) = learner.sample(CHUNK.min(args.n - start), seed)? else {
            let agent = run.agent(bregman)?.0.name;
            bad_input!("{agent} acts in an environment and builds no objects: watch it by `bregman eval`");
        };
        for object in &drawn {
            text += &line(object, format)?;
        }
    }
    match &args.out {
        Some(path) => write_whole(path, text.as_bytes()),
        None => print(&text),
    }
}

fn line(drawn: &Drawn, format: Format) -> Result<String> {
    let Drawn { object, log_reward, log_prob } = drawn;
    Ok(match format {
        Format::Jsonl => serde_json::to_string(drawn)? + "\n",
        Format::Csv if object.contains([',', '"', '\n']) => {
            format!("\"{}\",{log_reward},{log_prob}\n", object.replace('"', "\"\""))
        }
        Format::Csv => format!("{object},{log_reward},{log_prob}\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_quoted_where_they_have_to_be() {
        let drawn = |object: &str| Drawn { object: object.into(), log_reward: -1.5, log_prob: 0.25 };
        assert_eq!(line(&drawn("a b"), Format::Csv).expect("plain"), "a b,-1.5,0.25\n");
        assert_eq!(line(&drawn("a,\"b"), Format::Csv).expect("plain"), "\"a,\"\"b\",-1.5,0.25\n");
        let json = line(&drawn("a"), Format::Jsonl).expect("plain");
        assert_eq!(json, "{\"object\":\"a\",\"log_reward\":-1.5,\"log_prob\":0.25}\n");
    }
}
