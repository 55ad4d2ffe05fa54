//! `bregman export`: the deterministic policy with its normaliser inside, for other programs.
//!
//! ONNX files take `obs`, `[batch, obs_dim]` in double precision as environments give it, and return `action`,
//! `[batch, action_len]`: floats within the bounds unless the agent has `clip_actions = false`, or choices as int64,
//! counted from 0. Safetensors files hold the same numbers under `0.normalize.mean`, `1.linear.weight` …, numbered in the
//! order in which they are applied, which the metadata's `ops` names.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use safetensors::tensor::{Dtype, TensorView};

use crate::agents::nn::Activation;
use crate::agents::policy::{PolicyChain, PolicyOp};
use crate::checkpoint::write_whole;
use crate::error::bad_input;
use crate::terminal::out;
use crate::{Bregman, onnx, run_dir, train};

/// Arguments of `bregman export`.
#[derive(Args)]
pub struct ExportArgs {
    /// The run directory
    dir: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    format: ExportFormat,
    /// The file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// `last`, `best`, the steps of a checkpoint, or a file as in policies/00050000.safetensors
    #[arg(long, default_value = "last")]
    checkpoint: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    Onnx,
    Safetensors,
}

/// Writes the file.
pub fn export(args: &ExportArgs, bregman: &Bregman) -> Result<()> {
    let run = train::read_run(&args.dir, &[], bregman)?;
    let mut learner = train::build_to_judge(&run, bregman)?;
    let progress = train::load_policy(&args.dir, &args.checkpoint, learner.as_mut())?;
    let Some(chain) = learner.policy_chain() else {
        let instead = if run.env.is_world() { "; `bregman sample` draws from it" } else { "" };
        bad_input!("{}: the policy of this agent cannot be exported{instead}", args.dir.display());
    };
    let (steps, unit) = (run_dir::position(run.budget, &progress), run.budget_words());
    let about = format!("{}, {steps} {unit}", run.env.id);
    let bytes = match args.format {
        ExportFormat::Onnx => onnx::model(&chain, &about)?,
        ExportFormat::Safetensors => safetensors(&chain, &about)?,
    };
    write_whole(&args.out, &bytes)?;
    out!("{}: {about}, {} numbers in, {} out", args.out.display(), chain.obs_dim, chain.action_len())?;
    Ok(())
}

/// The chain's numbers with their shapes.
fn safetensors(chain: &PolicyChain, about: &str) -> Result<Vec<u8>> {
    let mut ops = Vec::new();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (i, op) in chain.ops.iter().enumerate() {
        let mut f64s = |name: &str, data: &[f64]| {
            tensors.push((format!("{i}.{name}"), Dtype::F64, vec![data.len()], bytemuck::cast_slice(data).to_vec()));
        };
        match op {
            PolicyOp::Normalize { mean, std, clip } => {
                f64s("normalize.mean", mean);
                f64s("normalize.std", std);
                f64s("normalize.clip", &[*clip]);
                ops.push("normalize".to_string());
                continue;
            }
            PolicyOp::Activation(Activation::Tanh) => ops.push("tanh".into()),
            PolicyOp::Activation(Activation::Relu) => ops.push("relu".into()),
            PolicyOp::Activation(Activation::Elu) => ops.push("elu".into()),
            PolicyOp::Activation(Activation::Silu) => ops.push("silu".into()),
            PolicyOp::Linear { .. } => ops.push("linear".into()),
            PolicyOp::Clip { .. } => ops.push("clip".into()),
            PolicyOp::ArgMax { nvec } => ops.push(format!("argmax {nvec:?}")),
        }
        let mut f32s = |name: &str, shape: Vec<usize>, data: &[f32]| {
            tensors.push((format!("{i}.{name}"), Dtype::F32, shape, bytemuck::cast_slice(data).to_vec()));
        };
        match op {
            PolicyOp::Linear { weight, bias } => {
                f32s("linear.weight", vec![weight.len() / bias.len(), bias.len()], weight);
                f32s("linear.bias", vec![bias.len()], bias);
            }
            PolicyOp::Clip { low, high } => {
                f32s("clip.low", vec![low.len()], low);
                f32s("clip.high", vec![high.len()], high);
            }
            _ => {}
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let metadata = HashMap::from([("about".to_string(), about.to_string()), ("ops".to_string(), ops.join("\n"))]);
    let views: Vec<_> = views.collect::<Result<_, _>>().context("laying out the tensors")?;
    Ok(safetensors::serialize(views, Some(metadata))?)
}
