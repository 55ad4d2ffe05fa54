//! Drives a native environment and Gymnasium's with the same seeds and actions and compares every bit.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::ops::Range;
use std::process::{Command, Stdio};

use bregman_envs::{ActionSpace, Backend, Env, EnvConfig, Registry, rng::NumpyRng};
use serde::Serialize;

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

/// A reset's or a step's record of `gymnasium_trace.py`.
struct Record {
    names: Vec<u8>,
    /// Reward, both flags, the values of info, the observation.
    numbers: Vec<f64>,
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
    let mut records = gymnasium(&Job { id, kwargs: &config.kwargs, runs: &runs });
    let mut theirs = || records.next().expect("one record per reset and step");

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
            let [reward, terminated, truncated] = *theirs_now.numbers.first_chunk().expect("they come first");
            assert_eq!(outcome.reward.to_bits(), reward.to_bits(), "{place}: {reward}");
            assert_eq!(outcome.terminated, terminated == 1.0, "{place}");
            assert_eq!(outcome.truncated, truncated == 1.0, "{place}");
            if outcome.ends_episode() {
                ends.terminated += u32::from(outcome.terminated);
                ends.truncated += u32::from(outcome.truncated);
                env.reset(None, &mut obs).expect("it resets");
                theirs().check(&obs, env.as_ref(), &format!("reset after {place}"));
            }
        }
    }
    assert!(records.next().is_none(), "{id}: Gymnasium took more steps than we did");
    ends
}

/// Gymnasium's trace of a job, record by record.
fn gymnasium(job: &Job) -> impl Iterator<Item = Record> + use<> {
    let mut python = Command::new(concat!(env!("BREGMAN_VENV"), "/bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gymnasium_trace.py"))
        // As the program has it, whatever the processor.
        .env("OPENBLAS_CORETYPE", "Haswell")
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
    let mut output = BufReader::new(python.stdout.take().expect("it is piped"));
    std::iter::from_fn(move || Record::read(&mut output)).chain(std::iter::from_fn(move || {
        assert!(python.wait().expect("Python ends").success(), "Gymnasium failed; see its traceback above");
        None
    }))
}

impl Record {
    /// The next record; `None` at the end.
    fn read(input: &mut impl Read) -> Option<Record> {
        let mut head = [0; 8];
        match input.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            result => result.expect("a pipe"),
        }
        let [names, numbers] = [0, 4].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i])) as usize);
        let (mut names, mut bytes) = (vec![0; names], vec![0; 8 * numbers]);
        input.read_exact(&mut names).expect("a whole record");
        input.read_exact(&mut bytes).expect("a whole record");
        let numbers = bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
        Some(Record { names, numbers })
    }

    /// Observation and info, bit for bit.
    fn check(&self, obs: &[f64], env: &dyn Env, place: &str) {
        let (values, their_obs) = self.numbers[3..].split_at(self.numbers.len() - 3 - obs.len());
        assert!(bits(obs) == bits(their_obs), "{place}: {obs:?} and {their_obs:?}");
        let names: String = env.info().iter().map(|(name, _)| format!("{name}\n")).collect();
        assert_eq!(names, String::from_utf8_lossy(&self.names), "{place}");
        let our_values: Vec<f64> = env.info().iter().map(|&(_, value)| value).collect();
        assert!(bits(&our_values) == bits(values), "{place}: {:?} and {values:?}", env.info());
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
