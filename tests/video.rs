//! `bregman eval --video` on an environment whose pictures are plain arrays, which need no graphics.

mod common;

use common::{bregman, folder, run};

const ENVIRONMENT: &str = r#"
import gymnasium, numpy

class Drawn(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (1,), numpy.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), numpy.float32)

    def __init__(self, render_mode=None, drawable=True):
        self.render_mode, self.drawable, self.t = render_mode, drawable, 0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return numpy.array([0.0]), {}

    def step(self, action):
        self.t += 1
        return numpy.array([float(self.t)]), 1.0, self.t == 7, False, {}

    def render(self):
        if not self.drawable:
            raise RuntimeError("there is no brush")
        return numpy.full((32, 48, 3), 30 * self.t, numpy.uint8)

gymnasium.register("Drawn-v0", Drawn)
"#;

const RUN: &str = r#"
[budget]
env_steps = 64
[env]
id = "Drawn-v0"
imports = ["drawn"]
[agent.ppo]
num_steps = 64
obs_warmup_steps = 4
"#;

#[test]
fn episodes_are_filmed_and_the_film_has_their_frames() {
    let place = folder("video");
    std::fs::write(place.join("drawn.py"), ENVIRONMENT).expect("writable");
    std::fs::write(place.join("run.toml"), RUN).expect("writable");
    let (code, said) = run(&place, "train run.toml --out r");
    assert_eq!(code, 0, "{said}");
    let output =
        bregman(&place).args("eval r --video films/r.gif --episodes 2".split(' ')).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("7.0 ± 0.0 over 2 episodes") && said.ends_with("films/r.gif\n"), "{said}");
    // Two episodes of 8 pictures at 50 a second, every second of which a GIF takes; all are of 40 ms.
    let script = r#"
import sys
from PIL import Image
film = Image.open(sys.argv[1])
frames = []
for i in range(film.n_frames):
    film.seek(i)
    frames.append((film.info["duration"], film.convert("RGB").getpixel((5, 5))[0] // 30))
print(film.size, frames)
"#;
    let python = std::path::Path::new(env!("BREGMAN_VENV")).join("bin/python");
    let output = std::process::Command::new(python).args(["-c", script, "films/r.gif"]).current_dir(&place).output();
    let frames = String::from_utf8(output.expect("Python starts").stdout).expect("text");
    let once = "(40, 0), (40, 2), (40, 4), (40, 6)";
    assert_eq!(frames.trim(), format!("(48, 32) [{once}, {once}]"));
}

#[test]
fn what_cannot_be_filmed_says_why() {
    let place = folder("video-refused");
    std::fs::write(place.join("drawn.py"), ENVIRONMENT).expect("writable");
    std::fs::write(place.join("run.toml"), RUN).expect("writable");
    assert_eq!(run(&place, "train run.toml --out r --set env.kwargs.drawable=false").0, 0);
    let refusal = |file: &str| {
        let (code, said) = run(&place, &format!("eval r --video {file}"));
        assert!(!place.join(file).is_file());
        (code, said)
    };
    let undrawn = "error: filming into r.gif: environment `Drawn-v0`: it cannot be drawn: there is no brush";
    assert_eq!(refusal("r.gif"), (1, undrawn.into()));
    assert_eq!(refusal("r.webm"), (2, "error: `--video r.webm`: a name that ends in .gif or .mp4".into()));
    std::fs::create_dir_all(place.join("folder.gif")).expect("writable");
    let (code, said) = refusal("folder.gif");
    assert!(code == 2 && said.starts_with("error: `--video folder.gif`: Is a directory"), "{code} {said}");
    let (code, said) = refusal("run.toml/r.gif");
    assert!(code == 2 && said.starts_with("error: `--video run.toml/r.gif`: "), "{code} {said}");
    // Nothing draws where the module that loads EGL and OSMesa cannot be imported and the one for windows does nothing.
    std::fs::create_dir_all(place.join("blind")).expect("writable");
    std::fs::write(place.join("blind/OpenGL.py"), "raise ImportError").expect("writable");
    std::fs::write(place.join("blind/glfw.py"), "def __getattr__(name): return None").expect("writable");
    let run_file = RUN.replace("Drawn-v0", "InvertedPendulum-v5").replace("imports = [\"drawn\"]", "");
    std::fs::write(place.join("run.toml"), run_file).expect("writable");
    assert_eq!(run(&place, "train run.toml --out m").0, 0);
    let film = |name: &str, value: &std::ffi::OsStr| {
        let mut command = bregman(&place);
        command.args(["eval", "m", "--video", "m.gif"]).env_remove("MUJOCO_GL").env_remove("DISPLAY").env(name, value);
        let output = command.output().expect("it starts");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!place.join("m.gif").exists());
        (output.status.code(), said)
    };
    let (code, said) = film("PYTHONPATH", place.join("blind").as_os_str());
    assert!(said.contains("neither EGL nor OSMesa works") && said.contains("apt-get install libosmesa6"), "{said}");
    assert_eq!(code, Some(1));
    let (code, said) = film("MUJOCO_GL", "disabled".as_ref());
    assert!(said.contains("MUJOCO_GL=disabled does not work here; without it EGL and OSMesa are tried"), "{said}");
    assert_eq!(code, Some(1));
    let (code, said) = film("MUJOCO_GL", "bogus".as_ref());
    assert_eq!(
        (code, said.as_str()),
        (Some(2), "error: `MUJOCO_GL=bogus`: egl or osmesa; left out, whichever works\n")
    );
}
