//! The bridge to Gymnasium: spaces, ends, seeds, errors, and MuJoCo's numbers.

use std::sync::Once;

use bregman_envs::{ActionSpace, Backend, Env, EnvConfig, EnvError, Lane, Outcome, Registry, lanes};

/// A module of small environments, written to the folder that the tests run in: Python looks there for `imports`.
fn config(id: &str) -> EnvConfig {
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        let folder = std::env::temp_dir().join(format!("bregman-probes-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable temporary folder");
        std::fs::write(folder.join("bregman_probes.py"), include_str!("bregman_probes.py")).expect("a writable file");
        std::env::set_current_dir(folder).expect("it exists");
    });
    EnvConfig { imports: vec!["bregman_probes".into()], backend: Backend::Gymnasium, ..EnvConfig::new(id) }
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    Registry::default().make(config)
}

fn first_obs(id: &str) -> Vec<f64> {
    let mut env = make(&config(id)).expect("it is registered");
    let mut obs = vec![f64::NAN; env.spec().obs_dim];
    env.reset(Some(1), &mut obs).expect("it resets");
    obs
}

fn refusal(config: &EnvConfig) -> String {
    make(config).err().expect("refused").to_string()
}

#[test]
fn observations_become_rows() {
    assert_eq!(first_obs("probes/Matrix-v0"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]); // shape (2, 3), int32
    assert_eq!(first_obs("probes/Choice-v0"), [0.0, 0.0, 1.0]); // Discrete(3, start=5) at 7
    assert_eq!(first_obs("probes/Nested-v0"), [1.0, 0.5, -0.5, 0.0, 1.0]); // Dict of Discrete(1), Box(2), MultiBinary(2)
}

#[test]
fn actions_reach_the_environment_as_its_space_says() {
    for (id, action, expected) in [
        ("probes/Choice-v0", vec![1.0], 11.0),       // Discrete(3, start=10), index 1
        ("probes/Nested-v0", vec![2.0, 0.0], 120.0), // MultiDiscrete([3, 2], start=[10, 0]) as 10 a0 + a1
        ("probes/Matrix-v0", vec![1.5, 2.0, -7.0, 4.0], -7.0), // Box (2, 2) float64, element [1, 0], outside the bounds
    ] {
        let mut env = make(&config(id)).expect("it is registered");
        let mut obs = vec![0.0; env.spec().obs_dim];
        env.reset(Some(1), &mut obs).expect("it resets");
        assert_eq!(env.step(&action, &mut obs).expect("it steps").reward, expected, "{id}");
    }
    let space = make(&config("probes/Matrix-v0")).expect("it is registered").spec().action_space.clone();
    assert_eq!(space, ActionSpace::Box { low: vec![-2.0; 4], high: vec![2.0; 4] });
}

#[test]
fn keyword_arguments_and_limits_arrive() {
    let mut config = config("probes/Line-v0");
    config.kwargs = toml::from_str("start = 3.5\nnotes = {a = [1, true]}").expect("valid TOML");
    config.max_episode_steps = Some(2);
    let mut env = make(&config).expect("it is registered");
    let mut obs = [0.0];
    env.reset(None, &mut obs).expect("it resets");
    assert_eq!(obs, [3.5]);
    assert_eq!(env.spec().max_episode_steps, Some(2));
    env.step(&[0.0], &mut obs).expect("it steps");
    assert!(env.step(&[0.0], &mut obs).expect("it steps").truncated);
}

#[test]
fn an_end_shows_the_true_successor_and_both_flags() {
    let mut lane = Lane::new(0, make(&config("probes/Line-v0")).expect("it is registered"), 0).expect("it resets");
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
fn a_number_that_is_not_finite_is_caught() {
    let mut lane = Lane::new(4, make(&config("probes/Nan-v0")).expect("it is registered"), 0).expect("it resets");
    let error = lane.step(&[0.0], &mut [0.0]).expect_err("caught").to_string();
    assert_eq!(error, "environment 4: observation[0] is NaN in episode 0 at step 1");
}

#[test]
fn what_cannot_be_used_is_refused_in_a_sentence() {
    assert!(
        refusal(&config("probes/Image-v0")).starts_with("environment `probes/Image-v0` has images of shape [8, 8, 3]")
    );
    assert!(refusal(&config("probes/Text-v0")).contains("the observation space Text"));
    assert!(refusal(&config("HalfCheetah-v55")).contains("did you mean `HalfCheetah-v5`?"));
    assert!(refusal(&config("Hoper-v5")).contains("did you mean `Hopper-v5`?"));
    let absent = EnvConfig { imports: vec!["no_such_module".into()], ..config("Hopper-v5") };
    assert!(refusal(&absent).contains("no_such_module"), "{}", refusal(&absent));
    let mut unknown = config("Hopper-v5");
    unknown.kwargs = toml::from_str("gravity = 3").expect("valid TOML");
    assert!(refusal(&unknown).contains("unexpected keyword argument 'gravity'"));
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
    // Gymnasium 1.4.0, MuJoCo 3.17.0, reset(seed=42), action[i] = (((7 t + 3 i) mod 11) − 5)/10.
    let mut env = make(&config("HalfCheetah-v5")).expect("it is registered");
    let mut obs = [0.0; 17];
    env.reset(Some(42), &mut obs).expect("it resets");
    assert_eq!(obs[..2], [-0.012224312049589542, 0.07171958398227649]);
    let mut rewards = Vec::new();
    for t in 0..2 {
        let action: Vec<f32> = (0..6).map(|i| (((7 * t + 3 * i) % 11) as f64 - 5.0) as f32 / 10.0).collect();
        rewards.push(env.step(&action, &mut obs).expect("it steps").reward);
    }
    for (reward, golden) in rewards.into_iter().zip([-0.2996064273658243, -0.1760697633961674]) {
        assert!((reward - golden).abs() < 1e-9, "{reward} is not {golden}");
    }
}
