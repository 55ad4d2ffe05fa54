//! A deterministic policy taken out of its learner: a chain of plain operations, for other programs to run.

use crate::nn::{Activation, Mlp};

/// What happens to a row, in order. The first takes a raw observation, the last gives the action.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyOp {
    /// `clamp((x − mean) / std, −clip, clip)` in double precision, `[obs_dim]` each.
    Normalize {
        /// Means.
        mean: Vec<f64>,
        /// Standard deviations.
        std: Vec<f64>,
        /// Bound on the result.
        clip: f64,
    },
    /// `x W + b`.
    Linear {
        /// W, `[inputs, outputs]`, row by row.
        weight: Vec<f32>,
        /// b, `[outputs]`.
        bias: Vec<f32>,
    },
    /// Between layers.
    Activation(Activation),
    /// `clamp(x, low, high)`, component by component; bounds may be infinite.
    Clip {
        /// Lower bounds.
        low: Vec<f32>,
        /// Upper bounds.
        high: Vec<f32>,
    },
    /// The first largest of each group of logits; group `i` has `nvec[i]` of them.
    ArgMax {
        /// Number of choices of each component.
        nvec: Vec<usize>,
    },
}

impl PolicyOp {
    /// A network, of whose outputs the first `kept` count.
    pub fn network(net: &Mlp, params: &[f32], kept: usize) -> Vec<PolicyOp> {
        let mut ops = Vec::new();
        let count = net.layers(params).count();
        for (i, (weight, bias)) in net.layers(params).enumerate() {
            let last = i + 1 == count;
            let kept = if last { kept } else { bias.len() };
            let weight = weight.chunks_exact(bias.len()).flat_map(|row| &row[..kept]).copied().collect();
            ops.push(PolicyOp::Linear { weight, bias: bias[..kept].to_vec() });
            if !last {
                ops.push(PolicyOp::Activation(net.activation()));
            }
        }
        ops
    }
}

/// A deterministic policy over raw observations.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyChain {
    /// Length of an observation.
    pub obs_dim: usize,
    /// The operations. All but [`PolicyOp::Normalize`] are in single precision.
    pub ops: Vec<PolicyOp>,
}

impl PolicyChain {
    /// Length of an action.
    pub fn action_len(&self) -> usize {
        let width = |width: usize, op: &PolicyOp| match op {
            PolicyOp::Linear { bias, .. } => bias.len(),
            PolicyOp::ArgMax { nvec } => nvec.len(),
            _ => width,
        };
        self.ops.iter().fold(self.obs_dim, width)
    }

    /// Whether actions are choices, counted from 0.
    pub fn is_discrete(&self) -> bool {
        matches!(self.ops.last(), Some(PolicyOp::ArgMax { .. }))
    }

    /// The action for a raw observation, `[obs_dim]`.
    pub fn act(&self, obs: &[f64]) -> Vec<f32> {
        let mut row: Vec<f32> = obs.iter().map(|&x| x as f32).collect();
        for op in &self.ops {
            match op {
                PolicyOp::Normalize { mean, std, clip } => {
                    let moments = mean.iter().zip(std);
                    for ((y, x), (mean, std)) in row.iter_mut().zip(obs).zip(moments) {
                        *y = ((x - mean) / std).clamp(-clip, *clip) as f32;
                    }
                }
                PolicyOp::Linear { weight, bias } => {
                    let mut out = bias.clone();
                    for (x, weights) in row.iter().zip(weight.chunks_exact(bias.len())) {
                        out.iter_mut().zip(weights).for_each(|(y, w)| *y += x * w);
                    }
                    row = out;
                }
                PolicyOp::Activation(Activation::Tanh) => row.iter_mut().for_each(|x| *x = x.tanh()),
                PolicyOp::Activation(Activation::Relu) => row.iter_mut().for_each(|x| *x = x.max(0.0)),
                PolicyOp::Activation(Activation::Elu) => {
                    row.iter_mut().for_each(|x| *x = if *x > 0.0 { *x } else { x.exp_m1() });
                }
                PolicyOp::Activation(Activation::Silu) => row.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp()),
                PolicyOp::Clip { low, high } => {
                    row.iter_mut().zip(low).zip(high).for_each(|((x, low), high)| *x = x.clamp(*low, *high));
                }
                PolicyOp::ArgMax { nvec } => {
                    let mut rest = &row[..];
                    let choice = |&n: &usize| {
                        let (logits, more) = rest.split_at(n);
                        rest = more;
                        (1..n).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as f32
                    };
                    row = nvec.iter().map(choice).collect();
                }
            }
        }
        row
    }
}
