//! ONNX files: a chain of operations as a protocol buffer of `onnx.proto` (IR version 8, operator set 17).
//!
//! Only the messages and fields that such a graph needs are written, by their numbers in that file.

use protobuf::{CodedOutputStream, ProtobufResult};

use crate::agents::nn::Activation;
use crate::agents::policy::{PolicyChain, PolicyOp};

/// `ModelProto.ir_version` and the operator set that goes with it.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// `TensorProto.DataType`.
const FLOAT: i32 = 1;
const INT64: i32 = 7;
const DOUBLE: i32 = 11;

/// `AttributeProto.AttributeType.INT`.
const INT: i32 = 2;

/// The file of a policy: input `obs`, double `[batch, obs_dim]`; output `action`, `[batch, action_len]`, float or int64.
pub fn model(chain: &PolicyChain, about: &str) -> ProtobufResult<Vec<u8>> {
    let mut graph = Graph { bytes: Vec::new(), count: 0, value: "obs".into() };
    let mut single = false;
    for op in &chain.ops {
        // The normaliser works in double precision, everything after it in single.
        if !single && !matches!(op, PolicyOp::Normalize { .. }) {
            graph.apply("Cast", &[], &[("to", FLOAT.into())])?;
            single = true;
        }
        graph.add(op)?;
    }
    // The last value under the name that the graph promises.
    graph.node("Identity", &[&graph.value.clone()], &["action"], &[])?;
    let kind = match (chain.is_discrete(), single) {
        (true, _) => INT64,
        (false, true) => FLOAT,
        (false, false) => DOUBLE,
    };
    let mut bytes = graph.bytes;
    append(&mut bytes, |out| {
        out.write_string(2, "policy")?;
        out.write_bytes(11, &value_info("obs", DOUBLE, chain.obs_dim)?)?;
        out.write_bytes(12, &value_info("action", kind, chain.action_len())?)
    })?;
    message(|out| {
        out.write_int64(1, IR_VERSION)?;
        out.write_string(2, "bregman")?;
        out.write_string(3, env!("CARGO_PKG_VERSION"))?;
        out.write_string(6, about)?;
        out.write_bytes(7, &bytes)?;
        out.write_bytes(8, &message(|out| out.write_int64(2, OPSET))?)
    })
}

/// A `GraphProto` that grows, in which every operation takes the value of the one before.
struct Graph {
    bytes: Vec<u8>,
    count: usize,
    /// Name of the last value.
    value: String,
}

impl Graph {
    fn add(&mut self, op: &PolicyOp) -> ProtobufResult<()> {
        match op {
            PolicyOp::Normalize { mean, std, clip } => {
                let mean = self.tensor(DOUBLE, &[mean.len()], bytemuck::cast_slice(mean))?;
                self.apply("Sub", &[&mean], &[])?;
                let std = self.tensor(DOUBLE, &[std.len()], bytemuck::cast_slice(std))?;
                self.apply("Div", &[&std], &[])?;
                let low = self.tensor(DOUBLE, &[], bytemuck::bytes_of(&-clip))?;
                let high = self.tensor(DOUBLE, &[], bytemuck::bytes_of(clip))?;
                self.apply("Clip", &[&low, &high], &[])
            }
            PolicyOp::Linear { weight, bias } => {
                let shape = [weight.len() / bias.len(), bias.len()];
                let weight = self.tensor(FLOAT, &shape, bytemuck::cast_slice(weight))?;
                let bias = self.tensor(FLOAT, &[bias.len()], bytemuck::cast_slice(bias))?;
                self.apply("Gemm", &[&weight, &bias], &[])
            }
            PolicyOp::Activation(Activation::Tanh) => self.apply("Tanh", &[], &[]),
            PolicyOp::Activation(Activation::Relu) => self.apply("Relu", &[], &[]),
            PolicyOp::Activation(Activation::Elu) => self.apply("Elu", &[], &[]), // its α is 1 by default
            PolicyOp::Activation(Activation::Silu) => {
                let x = self.value.clone();
                self.apply("Sigmoid", &[], &[])?;
                self.apply("Mul", &[&x], &[])
            }
            // `Clip` has scalar bounds only.
            PolicyOp::Clip { low, high } => {
                let low = self.tensor(FLOAT, &[low.len()], bytemuck::cast_slice(low))?;
                self.apply("Max", &[&low], &[])?;
                let high = self.tensor(FLOAT, &[high.len()], bytemuck::cast_slice(high))?;
                self.apply("Min", &[&high], &[])
            }
            PolicyOp::ArgMax { nvec } if nvec.len() == 1 => self.apply("ArgMax", &[], &[("axis", 1)]),
            PolicyOp::ArgMax { nvec } => {
                let sizes: Vec<i64> = nvec.iter().map(|&n| n as i64).collect();
                let sizes = self.tensor(INT64, &[sizes.len()], bytemuck::cast_slice(&sizes))?;
                let logits: Vec<String> = nvec.iter().map(|_| self.name()).collect();
                let outputs: Vec<&str> = logits.iter().map(String::as_str).collect();
                self.node("Split", &[&self.value.clone(), &sizes], &outputs, &[("axis", 1)])?;
                let choices: Vec<String> = nvec.iter().map(|_| self.name()).collect();
                for (logits, choice) in logits.iter().zip(&choices) {
                    self.node("ArgMax", &[logits], &[choice], &[("axis", 1)])?;
                }
                let inputs: Vec<&str> = choices.iter().map(String::as_str).collect();
                self.value = self.name();
                self.node("Concat", &inputs, &[&self.value.clone()], &[("axis", 1)])
            }
        }
    }

    /// A fresh name.
    fn name(&mut self) -> String {
        self.count += 1;
        format!("v{}", self.count)
    }

    /// A node from the last value, and more inputs, to a fresh one.
    fn apply(&mut self, op: &str, more: &[&str], attributes: &[(&str, i64)]) -> ProtobufResult<()> {
        let before = std::mem::take(&mut self.value);
        self.value = self.name();
        let inputs: Vec<&str> = std::iter::once(before.as_str()).chain(more.iter().copied()).collect();
        self.node(op, &inputs, &[&self.value.clone()], attributes)
    }

    /// A `NodeProto`.
    fn node(&mut self, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, i64)]) -> ProtobufResult<()> {
        let node = message(|out| {
            inputs.iter().try_for_each(|name| out.write_string(1, name))?;
            outputs.iter().try_for_each(|name| out.write_string(2, name))?;
            out.write_string(4, op)?;
            attributes.iter().try_for_each(|(name, value)| {
                let attribute = message(|out| {
                    out.write_string(1, name)?;
                    out.write_int64(3, *value)?;
                    out.write_enum(20, INT)
                })?;
                out.write_bytes(5, &attribute)
            })
        })?;
        append(&mut self.bytes, |out| out.write_bytes(1, &node))
    }

    /// A `TensorProto` among the initializers, under a fresh name; `data` is little-endian.
    fn tensor(&mut self, kind: i32, shape: &[usize], data: &[u8]) -> ProtobufResult<String> {
        let name = self.name();
        let tensor = message(|out| {
            shape.iter().try_for_each(|&size| out.write_int64(1, size as i64))?;
            out.write_int32(2, kind)?;
            out.write_string(8, &name)?;
            out.write_bytes(9, data)
        })?;
        append(&mut self.bytes, |out| out.write_bytes(5, &tensor))?;
        Ok(name)
    }
}

/// A `ValueInfoProto` of a tensor `[batch, width]`.
fn value_info(name: &str, kind: i32, width: usize) -> ProtobufResult<Vec<u8>> {
    let batch = message(|out| out.write_string(2, "batch"))?;
    let width = message(|out| out.write_int64(1, width as i64))?;
    let shape = message(|out| {
        out.write_bytes(1, &batch)?;
        out.write_bytes(1, &width)
    })?;
    let tensor = message(|out| {
        out.write_int32(1, kind)?;
        out.write_bytes(2, &shape)
    })?;
    let kind = message(|out| out.write_bytes(1, &tensor))?;
    message(|out| {
        out.write_string(1, name)?;
        out.write_bytes(2, &kind)
    })
}

/// The bytes of a message whose fields `write` writes.
fn message(write: impl FnOnce(&mut CodedOutputStream) -> ProtobufResult<()>) -> ProtobufResult<Vec<u8>> {
    let mut bytes = Vec::new();
    append(&mut bytes, write)?;
    Ok(bytes)
}

fn append(bytes: &mut Vec<u8>, write: impl FnOnce(&mut CodedOutputStream) -> ProtobufResult<()>) -> ProtobufResult<()> {
    let mut out = CodedOutputStream::vec(bytes);
    write(&mut out)?;
    out.flush()
}
