//! The bridge to Gymnasium: spaces, ends, seeds, errors, and MuJoCo's numbers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use bregman_envs::gymnasium::{registered_ids, spec_json};
use bregman_envs::{ActionSpace, Backend, Env, EnvConfig, EnvEntry, EnvError, Lane, Outcome, Registry, lanes};

/// A module of small environments, written to the folder that the tests run in: Python looks there for `imports`.
fn config(id: &str) -> EnvConfig {
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        let folder = std::env::temp_dir().join(format!("bregman-probes-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable temporary folder");
        fs::write(folder.join("bregman_probes.py"), include_str!("bregman_probes.py")).expect("a writable file");
        fs::write(folder.join("broken_probes.py"), "import no_such_part\n").expect("a writable file");
        std::env::set_current_dir(folder).expect("it exists");
    });
    EnvConfig { imports: vec!["bregman_probes".into()], backend: Backend::Gymnasium, ..EnvConfig::new(id) }
}

fn with_kwargs(id: &str, kwargs: &str) -> EnvConfig {
    EnvConfig { kwargs: toml::from_str(kwargs).expect("valid TOML"), ..config(id) }
}

fn make(config: &EnvConfig) -> Box<dyn Env> {
    Registry::default().make(config).unwrap_or_else(|error| panic!("{error}"))
}

fn first_obs(id: &str) -> Vec<f64> {
    let mut env = make(&config(id));
    let mut obs = vec![f64::NAN; env.spec().obs_dim];
    env.reset(Some(1), &mut obs).expect("it resets");
    obs
}

/// The reward of the first step, which the probes make from the action.
fn reward(id: &str, action: &[f32]) -> f64 {
    let mut env = make(&config(id));
    let mut obs = vec![0.0; env.spec().obs_dim];
    env.reset(Some(1), &mut obs).expect("it resets");
    env.step(action, &mut obs).unwrap_or_else(|error| panic!("{error}")).reward
}

fn action_space(id: &str) -> ActionSpace {
    make(&config(id)).spec().action_space.clone()
}

fn refusal(config: &EnvConfig) -> String {
    Registry::default().make(config).err().expect("refused").to_string()
}

#[test]
fn observations_become_rows() {
    assert_eq!(first_obs("probes/Matrix-v0"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]); // shape (2, 3), int32
    assert_eq!(first_obs("probes/Fortran-v0"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]); // the same, stored by columns
    assert_eq!(first_obs("probes/Single-v0"), [f64::from(0.1_f32), -0.5]); // float32
    assert_eq!(first_obs("probes/Sparse-v0"), [0.0, 2.0, 4.0]); // every second of six numbers
    assert_eq!(first_obs("probes/Scalar-v0"), [2.5]); // shape ()
    assert_eq!(first_obs("probes/Choice-v0"), [0.0, 0.0, 1.0]); // Discrete(3, start=5) at 7
    assert_eq!(first_obs("probes/Nested-v0"), [1.0, 0.5, -0.5, 0.0, 1.0]); // Dict of Discrete(1), Box(2), MultiBinary(2)
    assert_eq!(first_obs("probes/Pair-v0"), [0.0, 1.0, 0.0, 0.0, 1.0, 0.1]); // Tuple of MultiDiscrete([2, 3]), Box(1)
}

#[test]
fn actions_reach_the_environment_as_its_space_says() {
    // The probes but Matrix also check that the action is in their space.
    assert_eq!(reward("probes/Choice-v0", &[1.0]), 6.0); // Discrete(3, start=5), index 1
    assert_eq!(reward("probes/Nested-v0", &[2.0, 0.0]), 120.0); // MultiDiscrete([3, 2], start=[10, 0]) as 10 a0 + a1
    assert_eq!(reward("probes/Pair-v0", &[2.0, 1.0]), 21.0); // MultiDiscrete of shape (2, 1), int32
    assert_eq!(reward("probes/Switches-v0", &[1.0, 0.0, 1.0]), 101.0); // MultiBinary(3) as digits
    assert_eq!(reward("probes/Single-v0", &[0.25]), 0.25); // Box of shape (), float16
    assert_eq!(reward("probes/Matrix-v0", &[1.5, 2.0, -7.0, 4.0]), -7.0); // Box (2, 2), element [1, 0], out of bounds

    assert_eq!(action_space("probes/Matrix-v0"), ActionSpace::Box { low: vec![-2.0; 4], high: vec![2.0; 4] });
    assert_eq!(action_space("probes/Choice-v0"), ActionSpace::Discrete { n: 3 });
    assert_eq!(action_space("probes/Nested-v0"), ActionSpace::MultiDiscrete { nvec: vec![3, 2] });
    assert_eq!(action_space("probes/Switches-v0"), ActionSpace::MultiDiscrete { nvec: vec![2; 3] });
}

#[test]
fn a_clipped_action_is_in_its_space() {
    let mut action = [7.0];
    action_space("probes/Narrow-v0").clip(&mut action);
    assert_eq!(reward("probes/Narrow-v0", &action), 1.0); // it raises where the action is outside
}

#[test]
fn an_action_that_the_environment_keeps_stays_as_it_was() {
    let mut env = make(&config("probes/Keeps-v0"));
    let mut obs = [0.0];
    env.reset(None, &mut obs).expect("it resets");
    env.step(&[0.5], &mut obs).expect("it steps");
    assert_eq!(env.step(&[-1.0], &mut obs).expect("it steps").reward, 0.5);
}

#[test]
fn keyword_arguments_and_limits_arrive() {
    let mut config = with_kwargs("probes/Line-v0", "start = 3.5\nnotes = {a = [1, true]}");
    config.max_episode_steps = Some(2);
    let mut env = make(&config);
    let mut obs = [0.0];
    env.reset(None, &mut obs).expect("it resets");
    assert_eq!(obs, [3.5]);
    assert_eq!(env.spec().max_episode_steps, Some(2));
    env.step(&[0.0], &mut obs).expect("it steps");
    assert!(env.step(&[0.0], &mut obs).expect("it steps").truncated);
}

#[test]
fn a_description_has_the_arguments_and_the_limit_and_leaves_gymnasiums_own_alone() {
    let described = |config: &EnvConfig| -> serde_json::Value {
        serde_json::from_str(&spec_json(config).expect("Gymnasium knows it")).expect("JSON")
    };
    let own = EnvConfig::new("Pendulum-v1");
    let kwargs = toml::from_str("g = 9.81").expect("valid TOML");
    let changed = described(&EnvConfig { max_episode_steps: Some(40), kwargs, ..own.clone() });
    assert_eq!(changed["max_episode_steps"], 40);
    assert_eq!(changed["kwargs"]["g"], 9.81);
    let own = described(&own);
    assert_eq!(own["max_episode_steps"], 200);
    assert!(own["kwargs"].get("g").is_none(), "{own}");
}

#[test]
fn the_spec_says_what_gymnasium_registered() {
    let env = make(&config("probes/Line-v0"));
    let spec = env.spec();
    assert_eq!((spec.id.as_str(), spec.obs_dim, spec.max_episode_steps), ("probes/Line-v0", 1, Some(3)));
    assert_eq!((spec.reward_threshold, spec.backend, spec.parallel), (Some(2.5), "gymnasium", false));
    assert_eq!(env.save(), None);
    assert_eq!(make(&config("probes/Choice-v0")).spec().max_episode_steps, None);
}

#[test]
fn an_end_shows_the_true_successor_and_both_flags() {
    let mut lane = Lane::new(0, make(&config("probes/Line-v0")), 0).expect("it resets");
    let mut next_obs = [0.0];
    for t in 1..=3 {
        let step = lane.step(&[0.0], &mut next_obs).expect("it steps");
        assert_eq!(next_obs, [f64::from(t)]);
        let last = t == 3; // terminated, and the limit of three steps is reached too; reward is an `int`
        assert_eq!(step.outcome, Outcome { reward: 1.0, terminated: last, truncated: last });
        assert_eq!(step.finished.map(|e| (e.reward, e.length)), last.then_some((3.0, 3)));
    }
    assert_eq!(lane.obs(), [0.0]);
}

#[test]
fn an_exception_says_where_it_was_raised() {
    let mut config = config("probes/Raises-v0");
    config.num_envs = 3;
    let mut lanes = lanes(&Registry::default(), &config, 0).expect("they reset");
    let mut next_obs = [0.0];
    let error = (0..9).find_map(|_| lanes[2].step(&[0.0], &mut next_obs).err()).expect("it raises").to_string();
    let first = error.lines().next().expect("a line");
    assert_eq!(
        first,
        "environment `probes/Raises-v0`, environment 2 in episode 1 at step 3: Python raised ZeroDivisionError: division by zero"
    );
    assert!(error.contains("Traceback") && error.contains("bregman_probes.py"), "{error}");
}

#[test]
fn an_exception_comes_with_its_cause() {
    let mut env = make(&config("probes/Chained-v0"));
    let error = env.reset(None, &mut [0.0]).expect_err("it raises");
    let EnvError::Python { place, exception, traceback, .. } = error else { panic!("{error}") };
    assert_eq!(place, "while it was reset");
    assert_eq!(exception, "gymnasium.error.ResetNeeded: second");
    let (cause, effect) = (traceback.find("KeyError: 'key'"), traceback.find("ResetNeeded: second"));
    assert!(cause.is_some() && cause < effect, "{traceback}");
    let error = Lane::new(3, env, 0).err().expect("it raises").to_string();
    assert!(error.contains("environment 3 in episode 0 at step 0"), "{error}"); // step 0 is the reset
}

#[test]
fn a_number_that_is_not_finite_is_caught() {
    let mut lane = Lane::new(4, make(&config("probes/Nan-v0")), 0).expect("it resets");
    let error = lane.step(&[0.0], &mut [0.0]).expect_err("caught").to_string();
    assert_eq!(error, "environment 4: observation[0] is NaN in episode 0 at step 1");
}

#[test]
fn what_is_not_as_promised_is_said_in_a_sentence() {
    let wrong = |what: &str| {
        let mut env = make(&with_kwargs("probes/Wrong-v0", &format!("what = {what:?}")));
        let error = env.reset(None, &mut [0.0]).and_then(|()| env.step(&[0.0], &mut [0.0]));
        error.expect_err("caught").to_string()
    };
    let said = |what: &str| wrong(what).replace("environment `probes/Wrong-v0`: ", "");
    assert_eq!(said("shape"), "an observation has shape (2,), but its space says (1,)");
    assert_eq!(said("type"), "an observation is of type `str`, which is not an array of numbers");
    assert_eq!(said("reward"), "a reward is of type `str`, which is not a number");
    assert!(said("old reset").starts_with("`reset` must give the two values (obs, info), but gave a `numpy.ndarray`"));
    // Read by place this would be a truncated step, since the info is not empty.
    assert!(said("old step").contains("(obs, reward, terminated, truncated, info), but gave 4 values"));
    let error = make(&config("probes/Outside-v0")).reset(None, &mut [0.0; 3]).expect_err("caught").to_string();
    assert!(error.ends_with("an observation is 8, which is not in Discrete(3, start=5)"), "{error}");
}

#[test]
fn spaces_that_no_agent_can_use_are_refused() {
    let unsupported = |id: &str| match Registry::default().make(&config(id)) {
        Err(EnvError::UnsupportedSpace { space, remedy, .. }) => (space, remedy),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{id} was made"),
    };
    let (space, remedy) = unsupported("probes/Image-v0");
    assert_eq!(space, "images as observations, Box(0, 255, (8, 8, 3), uint8)");
    assert!(remedy.contains("FlattenObservation"), "{remedy}");
    assert_eq!(unsupported("probes/ImageInside-v0").0, space);
    assert!(unsupported("probes/Text-v0").0.starts_with("the observation space Text(1, 5"));
    assert_eq!(unsupported("probes/Grid-v0").0, "the integer actions Box(0, 3, (2,), int32)");
    assert!(unsupported("probes/Parts-v0").0.starts_with("the action space Dict("));
}

#[test]
fn an_unknown_id_names_the_nearest() {
    let hint = |id: &str| match Registry::default().make(&config(id)) {
        Err(EnvError::Unknown { hint, .. }) => hint,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{id} was made"),
    };
    assert!(hint("HalfCheetah-v55").starts_with("; did you mean `HalfCheetah-v5`"), "{}", hint("HalfCheetah-v55"));
    assert!(hint("hoper-v5").starts_with("; did you mean `Hopper-v5`"), "{}", hint("hoper-v5"));
    assert!(hint("Hopper-v1").starts_with("; did you mean `Hopper-v5`"), "{}", hint("Hopper-v1")); // deprecated
    assert!(hint("Cart Pole").starts_with("; did you mean `CartPole-v1`"), "{}", hint("Cart Pole")); // malformed
    let elsewhere = hint("ALE/Pong-v5");
    assert!(elsewhere.contains("Namespace ALE not found") && elsewhere.contains("`imports`"), "{elsewhere}");
    assert!(!hint("Qwxz-v0").contains("did you mean"));
}

#[test]
fn a_native_environment_is_suggested_too() {
    let mut registry = Registry::default();
    let make = |_: &EnvConfig| -> Result<Box<dyn Env>, EnvError> { unreachable!("it is not made") };
    registry.add(EnvEntry { id: "Quadratic-v0", summary: "only in Rust", make });
    let error = registry.make(&EnvConfig::new("Quadratik-v0")).err().expect("refused").to_string();
    assert_eq!(error, "no environment is called `Quadratik-v0`; did you mean `Quadratic-v0`?");
}

#[test]
fn what_is_missing_is_said_in_a_sentence() {
    let box2d = refusal(&config("LunarLander-v3"));
    assert!(box2d.contains("Box2D is not installed"), "{box2d}");
    assert!(box2d.ends_with("-m pip install swig \"gymnasium[box2d]\"`"), "{box2d}");
    let moved = refusal(&config("Hopper-v3"));
    assert!(moved.contains("gymnasium-robotics") && moved.contains("did you mean `Hopper-v5`"), "{moved}");
    let absent = refusal(&EnvConfig { imports: vec!["no_such_module".into()], ..config("Hopper-v5") });
    assert!(absent.contains("`imports` names `no_such_module`, which is neither in the current directory"), "{absent}");
    // A module that is there but fails is shown with its traceback.
    let broken = refusal(&EnvConfig { imports: vec!["broken_probes".into()], ..config("Hopper-v5") });
    assert!(
        broken.contains("while `broken_probes` was imported") && broken.contains("import no_such_part"),
        "{broken}"
    );
}

#[test]
fn settings_that_do_not_fit_are_said_in_a_sentence() {
    let gravity = refusal(&with_kwargs("Hopper-v5", "frame_skp = 3"));
    assert!(gravity.contains("no argument `frame_skp`; did you mean `frame_skip`? There are xml_file, "), "{gravity}");
    let limit = refusal(&EnvConfig { max_episode_steps: Some(0), ..config("Hopper-v5") });
    assert_eq!(limit, "environment `Hopper-v5`: `max_episode_steps` is 0; it must be at least 1");
    assert!(refusal(&with_kwargs("Hopper-v5", "id = 1")).contains("belongs into the table of the environment"));
    assert!(refusal(&with_kwargs("Hopper-v5", "day = 2026-01-01")).contains("write it as a string"));
}

#[test]
fn an_environment_is_closed_when_dropped_and_when_refused() {
    drop(make(&config("probes/Switches-v0")));
    refusal(&config("probes/Grid-v0"));
    let closed = pyo3::Python::attach(|py| {
        use pyo3::types::PyAnyMethods;
        let names = py.import("bregman_probes").and_then(|module| module.getattr("closed")?.extract::<Vec<String>>());
        names.expect("a list of names")
    });
    assert!(closed.iter().any(|name| name == "Switches") && closed.iter().any(|name| name == "Grid"), "{closed:?}");
}

#[test]
fn only_ids_that_can_be_made_are_listed() {
    let ids = registered_ids().expect("Gymnasium is there");
    for id in ["Ant-v5", "CartPole-v1", "Hopper-v4", "Taxi-v4"] {
        assert!(ids.iter().any(|known| known == id), "{id} is missing");
    }
    assert!(ids.iter().all(|id| id != "Hopper-v3")); // kept by Gymnasium to say that it has moved
    assert!(ids.is_sorted());
}

#[test]
fn python_is_that_of_the_virtual_environment() {
    drop(make(&config("probes/Line-v0")));
    let venv = std::env::var("BREGMAN_VENV").expect("set by scripts/setup");
    let (prefix, home, argv) = pyo3::Python::attach(|py| {
        use pyo3::types::PyAnyMethods;
        let sys = py.import("sys").expect("always there");
        let path = |name: &str| sys.getattr(name).and_then(|value| value.extract::<String>()).expect("a string");
        let os = py.import("os").and_then(|os| os.getattr("__file__")?.extract::<String>()).expect("a string");
        let argv: Vec<String> = sys.getattr("argv").and_then(|argv| argv.extract()).expect("a list");
        (path("prefix"), (path("base_prefix"), os), argv)
    });
    assert_eq!(prefix, venv);
    // The standard library is the one that the environment was made from, not whatever `python3` is on the path.
    let settings = fs::read_to_string(format!("{venv}/pyvenv.cfg")).expect("every virtual environment has it");
    let made_from = settings.lines().find_map(|line| line.strip_prefix("home = ")).expect("it says where from");
    assert_eq!(format!("{}/bin", home.0), made_from);
    assert!(home.1.starts_with(&home.0), "{home:?}");
    assert_eq!(argv, ["bregman"]);
}

#[test]
fn ctrl_c_is_left_to_the_program() {
    drop(make(&config("probes/Line-v0")));
    // A process started in the background ignores the signal from its start, so any answer but Python's own will do.
    let taken = pyo3::Python::attach(|py| {
        use pyo3::types::PyAnyMethods;
        let signal = py.import("signal").expect("always there");
        let handler = signal.call_method1("getsignal", (signal.getattr("SIGINT")?,))?;
        handler.eq(signal.getattr("default_int_handler")?)
    });
    assert!(!taken.expect("Python answers"));
}

/// What making an environment says with another virtual environment, in a process of its own: Python starts only once.
fn said_with(venv: &Path) -> String {
    let test = std::env::current_exe().expect("this test");
    let arguments = ["--ignored", "--exact", "--nocapture", "says_what_making_says"];
    let output = Command::new(test).args(arguments).env("BREGMAN_VENV", venv).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "run by other tests, in other surroundings"]
fn says_what_making_says() {
    println!(
        "{}",
        Registry::default().make(&EnvConfig::new("Hopper-v4")).err().map_or("made".into(), |e| e.to_string())
    );
}

#[test]
fn a_broken_set_up_is_said_in_a_sentence_that_names_the_remedy() {
    let venv = PathBuf::from(std::env::var("BREGMAN_VENV").expect("set by scripts/setup"));
    assert!(said_with(&venv).contains("made"));

    let said = said_with(Path::new("/no/such/folder"));
    assert!(said.contains("there is no Python at /no/such/folder/bin/python; `scripts/setup` mends it"), "{said}");

    // A virtual environment without packages; first it is also without the folder of this version.
    let bare = std::env::temp_dir().join(format!("bregman-bare-{}", std::process::id()));
    fs::create_dir_all(bare.join("bin")).expect("a writable temporary folder");
    fs::copy(venv.join("pyvenv.cfg"), bare.join("pyvenv.cfg")).expect("every virtual environment has it");
    let python = fs::canonicalize(venv.join("bin/python")).expect("it is there");
    symlink(python, bare.join("bin/python")).expect("a writable folder");
    let said = said_with(&bare);
    assert!(said.contains("is not of Python 3.") && said.contains("`scripts/setup` mends it"), "{said}");

    let versions = fs::read_dir(venv.join("lib")).expect("a readable folder");
    for version in versions.map(|version| version.expect("a readable entry").file_name()) {
        fs::create_dir_all(bare.join("lib").join(version).join("site-packages")).expect("a writable folder");
    }
    let said = said_with(&bare);
    assert!(said.contains("Gymnasium cannot be imported into ") && said.contains("`scripts/setup` mends it"), "{said}");
    assert!(said.contains("(ModuleNotFoundError: No module named 'gymnasium')"), "{said}");
    fs::remove_dir_all(bare).expect("a writable folder");
}

#[test]
fn mujoco_leaves_no_log_behind() {
    // `half_cheetah.xml` draws a warning, which MuJoCo would append to a file.
    let _ = (make(&config("HalfCheetah-v5")), make(&config("HalfCheetah-v5")));
    assert!(!fs::exists("MUJOCO_LOG.TXT").expect("a readable folder"));
}

#[test]
fn native_mujoco_warns_into_the_same_handler_from_any_thread() {
    // Both share one library, so the native model's warning calls Python from a thread that is not Python's.
    drop(make(&config("HalfCheetah-v5")));
    let native = EnvConfig { backend: Backend::Native, imports: Vec::new(), ..config("HalfCheetah-v5") };
    let made = std::thread::spawn(move || Registry::default().make(&native).map(|env| env.spec().obs_dim)).join();
    assert_eq!(made.expect("no panic").expect("it is native"), 17);
}

#[test]
fn lanes_are_seeded_one_after_the_other() {
    let pair = EnvConfig { num_envs: 2, ..config("HalfCheetah-v5") };
    let from_41 = lanes(&Registry::default(), &pair, 41).expect("they reset");
    let from_42 = lanes(&Registry::default(), &pair, 42).expect("they reset");
    assert_eq!(from_41[1].obs(), from_42[0].obs());
    assert_ne!(from_41[0].obs(), from_42[0].obs());
}

#[test]
fn half_cheetah_gives_its_golden_numbers() {
    // Gymnasium 1.4.0, MuJoCo 3.17.0, NumPy 2.4.6, reset(seed=42), action[i] = (((7 t + 3 i) mod 11) - 5)/10.
    // (step, reward, obs[0], obs[16], sum of obs); other processors may move the last bits.
    let golden = [
        (1, -0.2996064273658243, -0.029625544189915757, 0.2422184591784492, -6.3011052515530865),
        (2, -0.1760697633961674, -0.0680349874790365, -2.944294500302278, 0.17658948471977098),
        (5, -0.2027560372611651, -0.12387622645753281, 1.7383157693843954, 1.0849659046130702),
        (10, 0.19218449692754824, -0.12387880476929226, -5.429388356915598, -5.423251116854528),
        (30, 0.04454021628740318, -0.11720544960219524, 2.3846453043273135, -0.7507267084633105),
    ];
    let mut env = make(&config("HalfCheetah-v5"));
    let mut obs = [0.0; 17];
    env.reset(Some(42), &mut obs).expect("it resets");
    assert_eq!(obs[..2], [-0.012224312049589542, 0.07171958398227649]);
    assert!((obs.iter().sum::<f64>() - 0.24954264062498668).abs() < 1e-12);
    for t in 0..200 {
        let action: Vec<f32> = (0..6).map(|i| (((7 * t + 3 * i) % 11) as f64 - 5.0) as f32 / 10.0).collect();
        let outcome = env.step(&action, &mut obs).expect("it steps");
        assert!(!outcome.ends_episode());
        if let Some(&(_, reward, first, last, sum)) = golden.iter().find(|(step, ..)| *step == t + 1) {
            let found = [outcome.reward, obs[0], obs[16], obs.iter().sum()];
            for (found, golden) in found.into_iter().zip([reward, first, last, sum]) {
                assert!((found - golden).abs() < 1e-9 * golden.abs().max(1.0), "step {}: {found}, {golden}", t + 1);
            }
        }
    }
}
