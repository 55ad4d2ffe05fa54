//! What every native environment promises: it can be saved and restored exactly, and it refuses bad input.

use bregman_envs::{ActionSpace, Backend, Env, EnvConfig, EnvEntry, EnvError, Registry, rng::NumpyRng};

fn make(id: &str, kwargs: &str) -> Result<Box<dyn Env>, EnvError> {
    let kwargs = toml::from_str(kwargs).expect("valid TOML");
    Registry::default().make(&EnvConfig { backend: Backend::Native, kwargs, ..EnvConfig::new(id) })
}

fn message(id: &str, kwargs: &str) -> String {
    make(id, kwargs).err().expect("refused").to_string()
}

/// Observations and rewards of `steps` random steps with restarts, as bits.
fn trace(env: &mut dyn Env, rng: &mut NumpyRng, steps: usize) -> Vec<u64> {
    let space = env.spec().action_space.clone();
    let (mut obs, mut action) = (vec![0.0; env.spec().obs_dim], vec![0.0; space.row_len()]);
    let mut bits = Vec::new();
    for _ in 0..steps {
        space.sample(rng, &mut action);
        let outcome = env.step(&action, &mut obs).expect("it steps");
        bits.extend(obs.iter().map(|x| x.to_bits()));
        bits.push(outcome.reward.to_bits());
        if outcome.ends_episode() {
            env.reset(None, &mut obs).expect("it resets");
            bits.extend(obs.iter().map(|x| x.to_bits()));
        }
    }
    bits
}

#[test]
fn an_episode_restored_in_its_middle_goes_on_to_the_bit() {
    for EnvEntry { id, .. } in Registry::default().entries() {
        for warm_up in [0, 1, 37] {
            let mut rng = NumpyRng::new(3);
            let mut env = make(id, "").expect("it is registered");
            env.reset(Some(5), &mut vec![0.0; env.spec().obs_dim]).expect("it resets");
            trace(env.as_mut(), &mut rng, warm_up);
            let state = env.save().expect("native environments can be saved");
            let unbroken = trace(env.as_mut(), &mut rng.clone(), 600);

            let mut restored = make(id, "").expect("it is registered");
            restored.load(&state).expect("its own state");
            assert!(trace(restored.as_mut(), &mut rng, 600) == unbroken, "{id} after {warm_up} steps");
        }
    }
}

#[test]
fn a_foreign_state_is_refused() {
    let ids: Vec<&str> = Registry::default().entries().map(|entry| entry.id).collect();
    for id in ids {
        let mut env = make(id, "").expect("it is registered");
        let state = env.save().expect("native environments can be saved");
        for wrong in [&state[..state.len() - 8], &state[..state.len() - 1], &[], b"something else"] {
            let error = env.load(wrong).expect_err("refused");
            assert!(matches!(error, EnvError::State { .. }), "{error}");
        }
    }
}

#[test]
fn a_wrong_action_is_refused() {
    for EnvEntry { id, .. } in Registry::default().entries() {
        let mut env = make(id, "").expect("it is registered");
        let mut obs = vec![0.0; env.spec().obs_dim];
        env.reset(Some(0), &mut obs).expect("it resets");
        let n = env.spec().action_space.row_len();
        let error = env.step(&vec![0.0; n + 1], &mut obs).expect_err("refused").to_string();
        assert_eq!(error, format!("environment `{id}`: the action has {} numbers; it takes {n}", n + 1));
        if let ActionSpace::Discrete { n } = env.spec().action_space {
            for wrong in [0.5, -1.0, n as f32, f32::NAN] {
                let error = env.step(&[wrong], &mut obs).expect_err("refused").to_string();
                assert_eq!(
                    error,
                    format!("environment `{id}`: the action is {wrong}; it must be one of 0 to {}", n - 1)
                );
            }
        }
    }
}

#[test]
fn a_time_limit_can_be_set() {
    let config = EnvConfig { max_episode_steps: Some(2), ..EnvConfig::new("Pendulum-v1") };
    let mut env = Registry::default().make(&config).expect("it is registered");
    assert_eq!(env.spec().max_episode_steps, Some(2));
    let mut obs = [0.0; 3];
    env.reset(Some(0), &mut obs).expect("it resets");
    assert!(!env.step(&[0.0], &mut obs).expect("it steps").truncated);
    assert!(env.step(&[0.0], &mut obs).expect("it steps").truncated);
}

#[test]
fn bad_arguments_get_a_sentence() {
    let cases = [
        ("Pendulum-v1", "gg = 1.0", "there is no argument `gg`; did you mean `g`?"),
        ("Pendulum-v1", "g = 'x'", "`g` is \"x\"; it must be a finite number"),
        ("Pendulum-v1", "g = nan", "`g` is nan; it must be a finite number"),
        ("CartPole-v1", "sutton_barto_reward = 1", "`sutton_barto_reward` is 1; it must be true or false"),
        ("Acrobot-v1", "dt = 0.1", "there is no argument `dt`; it takes none"),
        (
            "Acrobot-v1",
            "render_mode = 'human'",
            "`render_mode` needs backend = \"gymnasium\", since native environments do not draw",
        ),
    ];
    for (id, kwargs, rule) in cases {
        assert_eq!(message(id, kwargs), format!("environment `{id}`: {rule}"));
    }
}
