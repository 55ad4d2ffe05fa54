//! Every wrong input gets one sentence and exit code 2.

mod common;

use common::{PENDULUM, folder, run, write};

/// The sentence with which `bregman train run.toml SETTINGS` refuses.
fn refusal(name: &str, settings: &str) -> String {
    let place = folder(name);
    write(&place, PENDULUM);
    let (code, said) = run(&place, format!("train run.toml --out r {settings}").trim());
    assert_eq!(code, 2, "{said}");
    assert!(!place.join("r").exists(), "a refused run leaves nothing");
    said
}

#[test]
fn run_files() {
    let same = |settings: &str, expected: &str| assert_eq!(refusal("run-file", settings), expected);
    let patch = |change: &str, expected: &str| {
        same(&format!("--set {change}"), &format!("error: `--set {change}`: {expected}"));
    };
    patch("agent.ppo.gama=0.9", "unknown key `agent.ppo.gama`; did you mean `gamma`?");
    patch("agent.ppo.gamma=1.5", "agent.ppo: `gamma = 1.5`: a discount lies in [0, 1]");
    patch("agent.ppo.gamma=high", "`agent.ppo.gamma`: invalid type: string \"high\", expected a number");
    patch("agent.pppo.gamma=0.9", "`agent` names two agents, `ppo` and `pppo`: a run has one");
    same(
        "--set env.id=Pendulam-v1",
        "error: agent.ppo: no environment is called `Pendulam-v1`; did you mean `Pendulum-v1`?",
    );
    same(
        "--set agent.ppo.batch_size=301",
        "error: agent.ppo: `batch_size = 301`: at most num_steps × num_envs = 300, the rows of a rollout",
    );
    patch("budget.grad_steps=5", "`budget` holds exactly one of `env_steps` and `grad_steps`");
    patch("env.backend=nativ", "`env.backend` cannot be \"nativ\"; did you mean `native`?");
    patch("checkpoint.keep=0", "`checkpoint.keep = 0`: at least 1");
    patch("device=gpu", "`device`: `gpu` is neither \"cpu\" nor a GPU, \"cuda:0\"");
    assert!(refusal("kwargs", "--set env.kwargs.gravity=3").contains("gravity"));
}

#[test]
fn a_gpu_is_wanted_for_training_alone() {
    assert!(refusal("gpu", "--set device=cuda:99").contains("`device = \"cuda:99\"`: "));
    let place = folder("of-a-gpu");
    write(&place, PENDULUM);
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=300").0, 0);
    let file = place.join("r/run.toml");
    let text = std::fs::read_to_string(&file).expect("it was written");
    std::fs::write(&file, text.replace("device = \"cpu\"", "device = \"cuda:99\"")).expect("writable");
    assert_eq!(run(&place, "eval r").0, 0);
    let (code, said) = run(&place, "train --resume r --set budget.env_steps=600");
    assert!(code == 2 && said.contains("cuda:99"), "{said}");
    assert_eq!(run(&place, "train --resume r --set budget.env_steps=600 --set device=cpu").0, 0);
}

#[test]
fn files_and_folders() {
    let place = folder("files");
    let (code, said) = run(&place, "train absent.toml");
    assert_eq!(
        (code, said.as_str()),
        (2, "error: absent.toml: No such file or directory (os error 2); `bregman list` names the presets")
    );
    std::fs::write(place.join("broken.toml"), "seed = = 3").expect("writable");
    let (code, said) = run(&place, "train broken.toml");
    assert!(code == 2 && said.starts_with("error: broken.toml: TOML parse error at line 1"), "{said}");

    write(&place, PENDULUM);
    std::fs::write(place.join("file"), "").expect("writable");
    let (code, said) = run(&place, "train run.toml --out file/r");
    assert_eq!((code, said.as_str()), (2, "error: file/r: Not a directory (os error 20)"));

    let (code, said) = run(&place, "train --resume nowhere");
    assert_eq!((code, said.as_str()), (2, "error: nowhere holds no run: there is no run.toml"));
    assert_eq!(run(&place, "train run.toml --out r --set budget.env_steps=300").0, 0);
    let (code, said) = run(&place, "train run.toml --out r");
    assert!(code == 2 && said.contains("r already holds a run: choose another place with --out"), "{said}");
    assert_eq!(run(&place, "train run.toml --out many/r --set budget.env_steps=300").0, 0);
    let (code, said) = run(&place, "eval many");
    assert_eq!((code, said.as_str()), (2, "error: many holds no run: there is no run.toml; below it are many/r"));
    let (code, said) = run(&place, "train --resume r --set agent.ppo.gamma=0.5");
    assert_eq!(code, 2);
    assert!(said.contains("`agent.ppo.gamma` was 0.99 and would be 0.5"), "{said}");
    let (code, said) = run(&place, "eval r --checkpoint 17");
    assert_eq!(
        (code, said.as_str()),
        (2, "error: `--checkpoint 17`: write last, best, a file under policies/, or one of 300")
    );
}

#[test]
fn a_number_that_stops_being_finite_ends_the_run_and_loses_nothing() {
    let place = folder("nan");
    std::fs::write(
        place.join("ill.py"),
        "import gymnasium, numpy\n\
         class Ill(gymnasium.Env):\n\
         \x20   observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), numpy.float64)\n\
         \x20   action_space = gymnasium.spaces.Discrete(2)\n\
         \x20   t = 0\n\
         \x20   def reset(self, seed=None, options=None): return numpy.zeros(1), {}\n\
         \x20   def step(self, action):\n\
         \x20       self.t += 1\n\
         \x20       return numpy.zeros(1), float('nan') if self.t == 470 else 1.0, self.t % 50 == 0, False, {}\n\
         gymnasium.register('Ill-v0', Ill)\n",
    )
    .expect("writable");
    let text = "[budget]\nenv_steps = 1000\n[env]\nid = \"Ill-v0\"\nimports = [\"ill\"]\n[agent.ppo]\nnum_steps = 100\n\
                normalize_obs = false\n[checkpoint]\nevery = 200\n[eval]\nevery = 10000\n[observe]\nconsole = false\n";
    write(&place, text);
    let (code, said) = run(&place, "train run.toml --out r");
    assert_eq!(code, 1);
    assert_eq!(
        said,
        "error: the run stopped after 400 environment steps; its policy is kept as r/policies/00000400.safetensors, the last \
         checkpoint is r/checkpoints/00000400: environment 0: reward is NaN in episode 9 at step 20"
    );
    assert!(place.join("r/policies/00000400.safetensors").exists());
}

#[test]
fn arguments() {
    let place = folder("arguments");
    assert_eq!(run(&place, "train").0, 2);
    let (code, said) = run(&place, "show pp");
    assert_eq!((code, said.as_str()), (2, "error: no agent or world is called `pp`; did you mean `ppo`?"));
}

#[test]
fn what_is_wrong_on_the_command_line_is_not_blamed_on_the_file() {
    let place = folder("patches");
    write(&place, PENDULUM);
    let refusal = |arguments: &str| {
        let (code, said) = run(&place, &format!("train run.toml --out r {arguments}"));
        assert_eq!(code, 2, "{said}");
        said
    };
    assert_eq!(
        refusal("--set seed=2 --set agent.ppo.gama=0.5 --set eval.episodes=1"),
        "error: `--set agent.ppo.gama=0.5`: unknown key `agent.ppo.gama`; did you mean `gamma`?"
    );
    assert_eq!(refusal("--set eval.every=0"), "error: `--set eval.every=0`: `eval.every = 0`: at least 1");
    // What the file has wrong by itself is the file's.
    write(&place, &PENDULUM.replace("threads", "treads"));
    assert_eq!(refusal("--set seed=2"), "error: run.toml: unknown key `treads`; did you mean `threads`?");
}
