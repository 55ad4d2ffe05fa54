"""Films a Gymnasium environment into a GIF or an MP4; see `film.rs`."""

import os
import subprocess
import sys
import warnings

import gymnasium
import numpy

# Beyond this rate players of GIFs slow down, so every second or third frame is taken.
GIF_FPS = 25

# MuJoCo's 4096 take most of the time where a processor draws, and look the same in pictures of this size.
SHADOW_SIZE = 1024

DRAW = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); print('drawn', flush=True)"
REMEDY = (
    "neither EGL nor OSMesa works on this machine; install one, on Debian by "
    "`apt-get install libegl1 libegl-mesa0` or `apt-get install libosmesa6`"
)


class CannotFilm(Exception):
    pass


def choose_gl():
    """Sets MUJOCO_GL to what draws without a screen. A process cannot change its mind, so each is tried in another."""
    if "MUJOCO_GL" in os.environ:
        return
    for name in ("egl", "osmesa"):
        tried = subprocess.run([sys.executable, "-c", DRAW], env={**os.environ, "MUJOCO_GL": name}, capture_output=True)
        if b"drawn" in tried.stdout:
            os.environ["MUJOCO_GL"] = name
            return


class Camera(gymnasium.Wrapper):
    def __init__(self, env, path):
        super().__init__(env)
        path = os.fspath(path)
        self.gif = path.lower().endswith(".gif")
        self.path, self.writer, self.count, self.fresh = path, None, 0, False
        if not self.gif and not path.lower().endswith(".mp4"):
            raise CannotFilm(f"the video {path} should end in .gif or .mp4")
        if not self.gif:
            try:
                import imageio_ffmpeg  # noqa: F401
            except ImportError:
                raise CannotFilm(
                    f"writing MP4 needs a package, `{sys.executable} -m pip install imageio-ffmpeg`; a name that ends in .gif needs none"
                ) from None
        fps = env.metadata.get("render_fps") or 30
        self.stride = -(-fps // GIF_FPS) if self.gif else 1
        self.fps = fps / self.stride
        uses_mujoco = hasattr(env.unwrapped, "mujoco_renderer")
        remedy = f"MUJOCO_GL={os.environ['MUJOCO_GL']} does not work here; without it EGL and OSMesa are tried" if "MUJOCO_GL" in os.environ else REMEDY
        if uses_mujoco:
            choose_gl()
            quality = env.unwrapped.model.vis.quality
            quality.shadowsize = min(quality.shadowsize, SHADOW_SIZE)
            # A windowing library warns of what the refusal says.
            warnings.simplefilter("ignore")
        # What a half-made viewer says when it is thrown away is no news.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            env.reset(seed=0)
            frame = env.render()
            sys.unraisablehook = hook
        except Exception as error:
            raise CannotFilm(f"it cannot be drawn: {remedy if uses_mujoco else error}") from None
        if frame is None or numpy.ndim(frame) != 3:
            raise CannotFilm("it cannot be drawn: its render() gives no picture for render_mode=\"rgb_array\"")

    def reset(self, **arguments):
        # The last episode is followed by a reset that nobody asked to see: a first frame is taken with the first step.
        self.count, self.fresh = 0, True
        return self.env.reset(**arguments)

    def step(self, action):
        if self.fresh:
            self.shoot()
            self.fresh = False
        result = self.env.step(action)
        self.shoot()
        return result

    def shoot(self):
        if self.count % self.stride == 0:
            if self.writer is None:
                import imageio.v2

                print("filming; where no graphics card draws, a thousand steps of MuJoCo take about a minute", file=sys.stderr)
                how = {"duration": 1000 / self.fps, "loop": 0} if self.gif else {"fps": self.fps}
                self.writer = imageio.v2.get_writer(self.path, **how)
            self.writer.append_data(numpy.asarray(self.env.render(), dtype=numpy.uint8))
        self.count += 1

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None
        self.env.close()
