//! Drives a native environment and Gymnasium's with the same seeds and actions and compares every bit.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Command, Stdio};

use bregman_envs::{ActionSpace, Backend, Env, EnvConfig, Registry, rng::NumpyRng};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Job<'a> {
    id: &'a str,
    kwargs: &'a toml::Table,
    runs: &'a [Run],
}

#[derive(Serialize)]
struct Run {
    seed: u64,
    actions: Vec<Vec<f32>>,
}

/// A reset's or a step's line of `gymnasium_trace.py`.
#[derive(Deserialize)]
struct Line {
    obs: Vec<f64>,
    info: Vec<(String, f64)>,
    #[serde(default)]
    reward: f64,
    #[serde(default)]
    terminated: bool,
    #[serde(default)]
    truncated: bool,
}

/// How many episodes ended which way; a step can be both.
#[derive(Debug, Default, PartialEq)]
pub struct Ends {
    pub terminated: u32,
    pub truncated: u32,
}

/// Steps both sides `steps` times from each seed, with restarts on the continuing stream. Actions are random, those of a
/// box up to 1.3 times its bounds, and each is held for `hold` steps.
pub fn compare(id: &str, kwargs: &str, seeds: Range<u64>, steps: usize, hold: usize) -> Ends {
    let config = EnvConfig {
        backend: Backend::Native,
        kwargs: toml::from_str(kwargs).expect("valid TOML"),
        ..EnvConfig::new(id)
    };
    let mut env = Registry::default().make(&config).expect("a native environment");
    let spec = env.spec().clone();
    let actions = |seed| actions(&spec.action_space, seed, steps, hold);
    let runs: Vec<Run> = seeds.map(|seed| Run { seed, actions: actions(seed) }).collect();
    let mut lines = gymnasium(&Job { id, kwargs: &config.kwargs, runs: &runs });
    let mut theirs = || lines.next().expect("one line per reset and step");

    let mut obs = vec![0.0; spec.obs_dim];
    let mut ends = Ends::default();
    for Run { seed, actions } in &runs {
        env.reset(Some(*seed), &mut obs).expect("it resets");
        theirs().check(&obs, env.as_ref(), &format!("{id}, reset to seed {seed}"));
        for (t, action) in actions.iter().enumerate() {
            let outcome = env.step(action, &mut obs).expect("it steps");
            let theirs_now = theirs();
            let place = format!("{id}, seed {seed}, step {}, action {action:?}, {outcome:?}", t + 1);
            theirs_now.check(&obs, env.as_ref(), &place);
            assert_eq!(outcome.reward.to_bits(), theirs_now.reward.to_bits(), "{place}: {}", theirs_now.reward);
            assert_eq!(outcome.terminated, theirs_now.terminated, "{place}");
            assert_eq!(outcome.truncated, theirs_now.truncated, "{place}");
            if outcome.ends_episode() {
                ends.terminated += u32::from(outcome.terminated);
                ends.truncated += u32::from(outcome.truncated);
                env.reset(None, &mut obs).expect("it resets");
                theirs().check(&obs, env.as_ref(), &format!("reset after {place}"));
            }
        }
    }
    assert!(lines.next().is_none(), "{id}: Gymnasium took more steps than we did");
    ends
}

/// Gymnasium's trace of a job, line by line.
fn gymnasium(job: &Job) -> impl Iterator<Item = Line> + use<> {
    let mut python = Command::new(concat!(env!("BREGMAN_VENV"), "/bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gymnasium_trace.py"))
        // MuJoCo appends its warnings to a file where it runs.
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the virtual environment's Python starts");
    // Python reads the whole job before it prints, so writing it first cannot block.
    let mut input = python.stdin.take().expect("it is piped");
    writeln!(input, "{}", serde_json::to_string(job).expect("plain data")).expect("Python reads its job");
    drop(input);
    let lines = BufReader::new(python.stdout.take().expect("it is piped")).lines();
    lines.map(|line| serde_json::from_str(&line.expect("UTF-8")).expect("a line of the trace")).chain(
        std::iter::from_fn(move || {
            assert!(python.wait().expect("Python ends").success(), "Gymnasium failed; see its traceback above");
            None
        }),
    )
}

impl Line {
    /// Observation and info, bit for bit.
    fn check(&self, obs: &[f64], env: &dyn Env, place: &str) {
        assert!(bits(obs) == bits(&self.obs), "{place}: {obs:?} and {:?}", self.obs);
        let (names, values): (Vec<_>, Vec<_>) = env.info().iter().copied().unzip();
        let (their_names, their_values): (Vec<_>, Vec<_>) = self.info.iter().cloned().unzip();
        assert_eq!(names, their_names, "{place}");
        assert!(bits(&values) == bits(&their_values), "{place}: {:?} and {:?}", env.info(), self.info);
    }
}

fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn actions(space: &ActionSpace, seed: u64, steps: usize, hold: usize) -> Vec<Vec<f32>> {
    let mut rng = NumpyRng::from_entropy(&[seed as u32, 1]);
    let mut action = vec![0.0; space.row_len()];
    let mut actions = Vec::with_capacity(steps);
    for t in 0..steps {
        if t % hold == 0 {
            space.sample(&mut rng, &mut action);
            if let ActionSpace::Box { .. } = space {
                action.iter_mut().for_each(|a| *a *= 1.3);
            }
        }
        actions.push(action.clone());
    }
    actions
}
