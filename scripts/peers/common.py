"""What the benchmarks share: the peers' environments, running commands, naming the machine."""

import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
BREGMAN = pathlib.Path(os.environ.get("BREGMAN", ROOT / "scripts" / "bregman")).absolute()

CPUINFO = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""


def peer_python(home, requirements):
    """The Python of the environment `home`, with what `requirements` pins; made on first use and when the pins change."""
    home, requirements = ROOT / home, ROOT / "scripts" / "peers" / requirements
    python, done = home / "bin" / "python", home / "done"
    if not done.exists() or done.read_text() != requirements.read_text():
        if not python.exists():
            venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
        done.write_text(requirements.read_text())
    return python


def interval(values, resamples=10_000):
    """Percentile bootstrap of the mean: its 95 % interval."""
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


def output(command, **environment):
    """What a command prints; MuJoCo leaves its log where it runs, so that is a folder for the moment."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})
    if result.returncode:
        sys.exit(f"{command[0]} {' '.join(map(str, command[-3:]))} failed:\n{result.stderr.strip()}")
    return result.stdout.strip()


def versions(python, packages):
    """Packages of an environment with their versions, in a line."""
    script = """
import platform, sys
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in sys.argv[1:]), "on Python", platform.python_version())
"""
    return output([python, "-c", script, *packages])


def machine():
    name = next((line.split(": ")[1] for line in CPUINFO.splitlines() if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def bench_data():
    """200,000 steps of random actions in Hopper-v5 as a D4RL file, made on first use; the run they are recorded from is only there for its environment."""
    path, run = ROOT / "datasets" / "bench.hdf5", ROOT / "runs" / "bench_data"
    if path.exists():
        return path
    if not (run / "run.toml").exists():
        settings = ["budget.env_steps=4096", "eval.episodes=1", "observe.console=false"]
        output([BREGMAN, "train", ROOT / "configs" / "ppo" / "hopper.toml", *[x for s in settings for x in ("--set", s)], "--out", run])
    path.parent.mkdir(exist_ok=True)
    output([BREGMAN, "dataset", "record", run, "--tier", "random", "--steps", "200000", "--format", "d4rl", "--out", path])
    return path
