//! The native MuJoCo environments: golden numbers, unstable simulations, bad input.

mod parity;

use std::fs;
use std::path::PathBuf;

use bregman_envs::{ActionSpace, Backend, Env, EnvConfig, EnvError, Lane, Registry};

fn make(id: &str, kwargs: &str) -> Result<Box<dyn Env>, EnvError> {
    let kwargs = toml::from_str(kwargs).expect("valid TOML");
    Registry::default().make(&EnvConfig { backend: Backend::Native, kwargs, ..EnvConfig::new(id) })
}

fn message(id: &str, kwargs: &str) -> String {
    make(id, kwargs).err().expect("refused").to_string()
}

/// The exactly rounded sum, as Python's `math.fsum` (Shewchuk 1997).
fn fsum(numbers: &[f64]) -> f64 {
    let mut partials: Vec<f64> = Vec::new();
    for &number in numbers {
        let mut x = number;
        let mut kept = Vec::new();
        for &partial in &partials {
            let (big, small) = if x.abs() < partial.abs() { (partial, x) } else { (x, partial) };
            let sum = big + small;
            let error = small - (sum - big);
            if error != 0.0 {
                kept.push(error);
            }
            x = sum;
        }
        kept.push(x);
        partials = kept;
    }
    partials.iter().sum()
}

/// Within 1e-9, relative: other processors or mathematical libraries may move the last bits, and MuJoCo amplifies them.
fn assert_near(ours: f64, golden: f64, what: &str) {
    assert!((ours - golden).abs() <= 1e-9 * golden.abs().max(1.0), "{what}: {ours} where {golden} belongs");
}

#[test]
fn golden_numbers_hold() {
    let mut env = None;
    let (mut obs, mut outcome, mut t) = (Vec::new(), None, 0);
    for line in include_str!("mujoco_golden.tsv").lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |i: usize| -> f64 { fields[i].parse().expect("a number") };
        let (id, steps) = (fields[0], number(1) as usize);
        if steps == 0 {
            let made = env.insert(make(id, "").expect("it is registered"));
            obs = vec![0.0; made.spec().obs_dim];
            made.reset(Some(42), &mut obs).expect("it resets");
            t = 0;
            for (i, &x) in obs[..3].iter().enumerate() {
                assert_near(x, number(2 + i), line);
            }
        }
        let env = env.as_mut().expect("a line of 0 steps comes first");
        let ActionSpace::Box { high, .. } = env.spec().action_space.clone() else { panic!("{id} has a box") };
        while t < steps {
            // The bound as the model has it in double precision, 0.4 and not its nearest `float32`.
            let bound = |h: f32| -> f64 { h.to_string().parse().expect("a number") };
            let wave = |i: usize| f64::from(((7 * t + 3 * i) % 11) as i32 - 5) / 10.0;
            let action: Vec<f32> = high.iter().enumerate().map(|(i, &h)| (bound(h) * wave(i)) as f32).collect();
            outcome = Some(env.step(&action, &mut obs).expect("it steps"));
            t += 1;
        }
        if let (Some(outcome), 1..) = (outcome, steps) {
            assert_near(outcome.reward, number(2), line);
            assert_near(obs[0], number(3), line);
            assert_near(obs[obs.len() - 1], number(4), line);
            assert_eq!(outcome.terminated, fields[6] == "true", "{line}");
        }
        assert_near(fsum(&obs), number(5), line);
    }
}

/// Writes a copy of a model of Gymnasium with one text replaced, and returns its path.
fn altered_model(label: &str, name: &str, from: &str, to: &str) -> PathBuf {
    let packages = PathBuf::from(env!("BREGMAN_VENV")).join("lib").read_dir().expect("the virtual environment");
    let assets = packages.flatten().map(|p| p.path().join("site-packages/gymnasium/envs/mujoco/assets"));
    let original = assets.map(|folder| folder.join(name)).find(|path| path.is_file()).expect("Gymnasium's models");
    let text = fs::read_to_string(original).expect("a text");
    assert!(text.contains(from), "{name} has no {from}");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{label}-{name}", std::process::id()));
    fs::write(&path, text.replace(from, to)).expect("a writable folder");
    path
}

#[test]
fn an_unstable_simulation_goes_on_as_under_gymnasium_and_is_reported_once() {
    // With a gear of a million million the cart's acceleration is out of bounds at the first step.
    let model = altered_model("unstable", "inverted_pendulum.xml", "gear=\"100\"", "gear=\"1000000000000\"");
    let kwargs = format!("xml_file = '{}'", model.display());
    let ends = parity::compare("InvertedPendulum-v5", &kwargs, 0..3, 200, 1);

    let mut env = make("InvertedPendulum-v5", &kwargs).expect("a valid model");
    let mut obs = [0.0; 4];
    env.reset(Some(0), &mut obs).expect("it resets");
    assert_eq!(env.take_warning(), None);
    let mut warnings = Vec::new();
    for _ in 0..20 {
        env.step(&[3.0], &mut obs).expect("it steps");
        assert!(obs.iter().all(|x| x.is_finite()));
        warnings.extend(env.take_warning());
    }
    assert_eq!(
        warnings,
        [
            "acceleration 0 became NaN, infinite or huge; MuJoCo put the simulation back to its initial state, as it does \
          under Gymnasium"
        ],
        "{ends:?}"
    );

    let mut lane = Lane::new(7, make("InvertedPendulum-v5", &kwargs).expect("a valid model"), 0).expect("it resets");
    lane.step(&[3.0], &mut obs).expect("it steps");
    let warning = lane.take_warning().expect("the first step is unstable");
    assert!(warning.starts_with("environment 7 in episode 0 near step 1: acceleration 0 became NaN"), "{warning}");
    assert_eq!(lane.take_warning(), None);
    fs::remove_file(model).expect("it was written above");
}

#[test]
fn an_action_that_is_not_a_number_is_reported() {
    let mut env = make("Hopper-v5", "").expect("it is registered");
    let mut obs = [0.0; 11];
    env.reset(Some(0), &mut obs).expect("it resets");
    let outcome = env.step(&[0.0, f32::NAN, 0.0], &mut obs).expect("it steps");
    // As under Gymnasium: no motor moves, and the cost of the action is not a number.
    assert!(outcome.reward.is_nan() && obs.iter().all(|x| x.is_finite()));
    assert_eq!(
        env.take_warning().as_deref(),
        Some("action 1 was NaN, infinite or huge; MuJoCo took all actions as 0, as it does under Gymnasium")
    );
}

#[test]
fn a_model_that_does_not_fit_gets_a_sentence() {
    let missing = message("Hopper-v5", "xml_file = '/no/such/hopper.xml'");
    assert!(missing.starts_with("environment `Hopper-v5`: there is no model file /no/such/hopper.xml; "), "{missing}");

    let broken = altered_model("broken", "reacher.xml", "<worldbody>", "<wordbody>");
    let error = message("Reacher-v5", &format!("xml_file = '{}'", broken.display()));
    assert!(error.contains("MuJoCo cannot read") && error.contains("XML parse error"), "{error}");
    fs::remove_file(broken).expect("it was written above");

    for (from, to, sentence) in [
        (
            "ctrllimited=\"true\" ctrlrange=\"-3 3\"",
            "ctrllimited=\"false\" ctrlrange=\"3 -3\"",
            "an actuator, number 0, of controls from 3 to -3",
        ),
        (
            "<motor ctrllimited=\"true\" ctrlrange=\"-3 3\" gear=\"100\" joint=\"slider\" name=\"slide\"/>",
            "",
            "no actuators: there is nothing to act with",
        ),
    ] {
        let model = altered_model("odd", "inverted_pendulum.xml", from, to);
        let error = message("InvertedPendulum-v5", &format!("xml_file = '{}'", model.display()));
        assert!(error.ends_with(sentence), "{error}");
        fs::remove_file(model).expect("it was written above");
    }

    let other = message("Pusher-v5", "xml_file = 'ant.xml'");
    assert_eq!(other, "environment `Pusher-v5`: the model has no body called `tips_arm`, which the task reads");
    let small = message("Walker2d-v5", "xml_file = 'inverted_pendulum.xml'");
    assert!(small.ends_with("has 2 degrees of freedom; the task reads 3"), "{small}");
}

#[test]
fn bad_arguments_get_a_sentence() {
    let cases = [
        (
            "Hopper-v5",
            "healthy_z_rang = [0.7, 2]",
            "there is no argument `healthy_z_rang`; did you mean `healthy_z_range`?",
        ),
        (
            "Hopper-v5",
            "healthy_z_range = [2, 0.7]",
            "`healthy_z_range` is [2, 0.7]; it must be two numbers, the lower one first",
        ),
        ("Hopper-v5", "frame_skip = 0", "`frame_skip` is 0; it must be a whole number, at least 1"),
        ("Ant-v5", "reset_noise_scale = -0.1", "`reset_noise_scale` is -0.1; it must be a finite number, at least 0"),
        ("Ant-v5", "main_body = 14", "`main_body` is 14; it must be a body's name or an index from 0 to 13"),
        ("Ant-v5", "main_body = 'head'", "the model has no body called `head`, which the task reads"),
        ("Humanoid-v5", "xml_file = 3", "`xml_file` is 3; it must be a text"),
    ];
    for (id, kwargs, rule) in cases {
        assert_eq!(message(id, kwargs), format!("environment `{id}`: {rule}"));
    }
}

#[test]
fn arguments_about_drawing_are_accepted() {
    let kwargs = "width = 64
        height = 64
        camera_name = 'track'
        max_geom = 10
        default_camera_config = { distance = 3.0 }";
    assert!(make("HalfCheetah-v5", kwargs).is_ok());
}
