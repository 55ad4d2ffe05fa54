//! Agents that learn from whole trajectories, through the command line.

mod common;

use common::{bregman, folder, run, write};

#[test]
fn estimates_are_checked_against_closed_forms() {
    let place = folder("check-gradient");
    let check = |arguments: &str| {
        let output = bregman(&place).arg("check-gradient").args(arguments.split(' ')).output().expect("it starts");
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
        (output.status.code(), out + &err)
    };
    let (code, said) = check("n_harpg --env two_state --episodes 20000");
    assert_eq!(code, Some(0), "{said}");
    for words in
        ["Hessian times [0.3, -0.2, 0.1, 0.4, 0.0, 0.0]: 2000 estimates of 10 episodes", "every number is within"]
    {
        assert!(said.contains(words), "{said}");
    }
    let (code, said) = check("storm_pg --env lqr --episodes 20000 --set learn_std=false --set env.kwargs.q=2");
    assert!(code == Some(0) && said.contains("by importance weights") && !said.contains("ln σ"), "{said}");
    // Without γᵗ the estimates are another field's: by 15 to 35 standard errors at a tenth of these episodes.
    let (code, said) =
        check("pg --env two_state --set discount_state_weighting=false --set gamma=0.9 --episodes 20000");
    assert!(code == Some(1) && said.contains("not every number is within 5 standard errors"), "{said}");

    // One step of the process: later logits have no part in it, and their estimates are 0 to the bit.
    let (code, said) = check("n_pg --env two_state --episodes 20000 --set env.max_episode_steps=1");
    assert!(code == Some(0) && !said.contains("NaN"), "{said}");

    let refused = |arguments: &str, expected: &str| {
        assert_eq!(check(arguments), (Some(2), format!("error: {expected}\n")));
    };
    refused(
        "n_harpg --env two_state --episodes 999",
        "`--episodes 999`: at least 1000; a standard error of fewer says little",
    );
    let there = "harpg, n_harpg, n_pg, n_pg_igt, pg, storm_pg";
    refused("ppo --env lqr", &format!("`ppo` has no estimates to check; there are {there}"));
    refused("pg --env lqr --set gama=0.9", "unknown key `gama`; did you mean `gamma`?");
    refused("pg --env CartPole-v1", "the gradient in `CartPole-v1` is no closed form; it is in lqr and two_state");
    refused(
        "harpg --env lqr --set hessian_estimator=causal --set discount_state_weighting=false",
        "`hessian_estimator = causal`: `paper`: without discount_state_weighting the field of gradients has a Jacobian that is not \
         symmetric, and the causal estimator's mean is another matrix",
    );
}

#[test]
fn a_policy_is_trained_stopped_resumed_judged_and_exported() {
    let place = folder("whole-trajectories");
    let text = "[budget]\nenv_steps = 3000\n[env]\nid = 'CartPole-v1'\nnum_envs = 3\nmax_episode_steps = 50\n\
                [agent.n_harpg]\nhidden_sizes = [8]\n[checkpoint]\nevery = 1000\nsnapshot_every = 1000\n[eval]\nepisodes = 2";
    write(&place, text);
    let train = |arguments: &str| assert_eq!(run(&place, &format!("train {arguments}")).0, 0, "{arguments}");
    train("run.toml --out whole");
    train("run.toml --out part --set budget.env_steps=1500 --set eval.every=150");
    train("--resume part --set budget.env_steps=3000");
    let log = |dir: &str| std::fs::read_to_string(place.join(dir).join("metrics.csv")).expect("it is there");
    assert!(log("whole") == log("part"));
    let policies = std::fs::read_dir(place.join("whole/policies")).expect("policies were kept").flatten();
    let policy = policies.map(|entry| entry.path()).min().expect("at least one");
    let policy = policy.display().to_string();
    for arguments in [
        "eval whole".to_string(),
        format!("eval whole --checkpoint {policy}"),
        "export whole --format onnx --out policy.onnx".into(),
    ] {
        let (code, said) = run(&place, &arguments);
        assert_eq!(code, 0, "{said}");
    }
}
