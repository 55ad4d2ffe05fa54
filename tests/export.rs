//! Exported policies, run by other programs: PyPI's `onnxruntime`, and a safetensors reader.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use bregman::Bregman;
use bregman::agents::nn::Activation;
use bregman::agents::policy::{PolicyChain, PolicyOp};
use bregman::envs::rng::NumpyRng;
use common::{PENDULUM, SAC, folder, run, write};

/// What `onnxruntime` answers to `obs`: the output's type, and a row of actions for each row.
fn onnxruntime(file: &Path, obs: &[Vec<f64>]) -> (String, Vec<Vec<f32>>) {
    let script = r#"
import json, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
obs = numpy.array(json.load(sys.stdin))
[action] = session.run(["action"], {"obs": obs})
single = numpy.concatenate([session.run(["action"], {"obs": row[None]})[0] for row in obs[:3]])
assert numpy.allclose(single, action[:3], atol=1e-6)
print(json.dumps([session.get_outputs()[0].type, action.tolist()]))
"#;
    let python = Path::new(env!("BREGMAN_VENV")).join("bin/python");
    let child =
        Command::new(python).args(["-c", script]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("Python starts");
    let text = serde_json::to_string(obs).expect("numbers");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("a child");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Rows around 0 with the given spread.
fn rows(obs_dim: usize, spread: f64) -> Vec<Vec<f64>> {
    let mut rng = NumpyRng::new(1);
    (0..200).map(|_| (0..obs_dim).map(|_| spread * rng.standard_normal()).collect()).collect()
}

fn compare(file: &Path, chain: &PolicyChain, spread: f64) -> String {
    let obs = rows(chain.obs_dim, spread);
    let (kind, actions) = onnxruntime(file, &obs);
    assert_eq!(actions.len(), obs.len());
    for (obs, theirs) in obs.iter().zip(actions) {
        let ours = chain.act(obs);
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() < 1e-5, "{ours:?} is not {theirs:?}");
        }
    }
    kind
}

/// The policy of a run, read back.
fn chain(dir: &Path) -> PolicyChain {
    let bregman = Bregman::default();
    let run = bregman::train::read_run(dir, &[], &bregman).expect("a run");
    let mut learner = bregman::train::build(&run, &bregman).expect("a learner");
    bregman::train::load_policy(dir, "last", learner.as_mut()).expect("it fits");
    learner.policy_chain().expect("it can be exported")
}

#[test]
fn onnxruntime_acts_as_we_do() {
    let place = folder("export");
    write(&place, &PENDULUM.replace("12_000", "3000"));
    let cases = [
        ("gaussian", "--set env.id=Pendulum-v1 --set agent.ppo.activation=silu", 3.0, "tensor(float)"),
        (
            "cheetah",
            "--set env.id=HalfCheetah-v5 --set agent.ppo.state_dependent_std=true --set agent.ppo.activation=elu",
            2.0,
            "tensor(float)",
        ),
        (
            "discrete",
            "--set env.id=CartPole-v1 --set agent.ppo.separate_networks=false --set agent.ppo.activation=relu \
             --set agent.ppo.normalize_obs=false",
            1.0,
            "tensor(int64)",
        ),
    ];
    for (name, settings, spread, kind) in cases {
        let (code, said) =
            run(&place, &format!("train run.toml --out {name} {settings} --set eval.max_episode_steps=50"));
        assert_eq!(code, 0, "{said}");
        let (code, said) = run(&place, &format!("export {name} --format onnx --out {name}.onnx"));
        assert_eq!(code, 0, "{said}");
        assert_eq!(compare(&place.join(format!("{name}.onnx")), &chain(&place.join(name)), spread), kind, "{name}");
    }
}

#[test]
fn a_squashed_policy_reaches_from_bound_to_bound() {
    let place = folder("export-squashed");
    // Torques of ±2: the chain ends with tanh, a scale and the bounds.
    write(&place, SAC);
    assert_eq!(run(&place, "train run.toml --out r").0, 0);
    assert_eq!(run(&place, "export r --format onnx --out r.onnx"), (0, String::new()));
    let chain = chain(&place.join("r"));
    assert_eq!(compare(&place.join("r.onnx"), &chain, 3.0), "tensor(float)");
    assert!(
        matches!(&chain.ops[..], [.., PolicyOp::Activation(Activation::Tanh), PolicyOp::Linear { .. }, PolicyOp::Clip { high, .. }] if high == &[2.0])
    );
}

#[test]
fn several_choices_at_once_are_a_row_of_choices() {
    let place = folder("export-choices");
    let mut rng = NumpyRng::new(2);
    let mut numbers = |n: usize| (0..n).map(|_| rng.standard_normal() as f32).collect::<Vec<f32>>();
    let linear = PolicyOp::Linear { weight: numbers(4 * 9), bias: numbers(9) };
    let ops = vec![linear, PolicyOp::Activation(Activation::Tanh), PolicyOp::ArgMax { nvec: vec![2, 4, 3] }];
    let chain = PolicyChain { obs_dim: 4, ops };
    let file = place.join("policy.onnx");
    std::fs::write(&file, bregman::onnx::model(&chain, "choices").expect("it is written")).expect("writable");
    assert_eq!(compare(&file, &chain, 1.0), "tensor(int64)");
}

#[test]
fn safetensors_hold_the_same_numbers_with_their_shapes() {
    let place = folder("export-safetensors");
    write(&place, &PENDULUM.replace("12_000", "900"));
    assert_eq!(run(&place, "train run.toml --out r").0, 0);
    assert_eq!(run(&place, "export r --format safetensors --out deep/policy.safetensors").0, 0);
    let bytes = std::fs::read(place.join("deep/policy.safetensors")).expect("it is there");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("it is right");
    let shape = |name: &str| file.tensor(name).expect(name).shape().to_vec();
    assert_eq!(shape("0.normalize.mean"), [3]);
    assert_eq!((shape("1.linear.weight"), shape("5.linear.weight")), (vec![3, 64], vec![64, 1]));
    assert_eq!(file.tensor("6.clip.high").expect("bounds").data(), 2.0_f32.to_le_bytes());
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("it is right");
    let metadata = metadata.metadata().as_ref().expect("words");
    assert_eq!(metadata["ops"], "normalize\nlinear\ntanh\nlinear\ntanh\nlinear\nclip");
    let f64s = |data: &[f64]| data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let f32s = |data: &[f32]| data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    for (i, op) in chain(&place.join("r")).ops.iter().enumerate() {
        let tensors = match op {
            PolicyOp::Normalize { mean, std, clip } => {
                vec![("normalize.mean", f64s(mean)), ("normalize.std", f64s(std)), ("normalize.clip", f64s(&[*clip]))]
            }
            PolicyOp::Linear { weight, bias } => vec![("linear.weight", f32s(weight)), ("linear.bias", f32s(bias))],
            PolicyOp::Clip { low, high } => vec![("clip.low", f32s(low)), ("clip.high", f32s(high))],
            PolicyOp::Activation(_) | PolicyOp::ArgMax { .. } => Vec::new(),
        };
        for (name, bytes) in tensors {
            assert!(file.tensor(&format!("{i}.{name}")).expect(name).data() == bytes, "{i}.{name}");
        }
    }

    let (code, said) = run(&place, "export r --format onnx --out x --checkpoint 17");
    assert_eq!(
        (code, said.as_str()),
        (2, "error: `--checkpoint 17`: write last, best, a file under policies/, or one of 900")
    );
    let (code, said) = run(&place, "export nowhere --format onnx --out x");
    assert_eq!((code, said.as_str()), (2, "error: nowhere holds no run: there is no run.toml"));
}
