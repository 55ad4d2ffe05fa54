"""Drives Gymnasium for the parity tests.

Reads one JSON job per line from standard input:
    {"id", "kwargs", "runs": [{"seed", "actions": [[...], ...]}]}
A run resets with its seed, and again without one after every end of an episode. Each reset and step is a record on
standard output: the number of info names' bytes and of numbers, two little-endian u32; the names, each followed by a
line's end, where an array repeats its name for every element; the numbers as little-endian doubles: reward, terminated
and truncated (0 for a reset), the values of info, the observation.
"""

import json
import struct
import sys

import gymnasium
import numpy as np

out = sys.stdout.buffer


def show(obs, info, outcome=(0, 0, 0)):
    values = [np.asarray(value, dtype="<f8").ravel() for value in info.values()]
    names = "".join((key + "\n") * len(value) for key, value in zip(info, values)).encode()
    numbers = np.concatenate([np.asarray(outcome, dtype="<f8"), *values, np.asarray(obs, dtype="<f8").ravel()])
    out.write(struct.pack("<II", len(names), len(numbers)) + names + numbers.tobytes())


for line in sys.stdin:
    job = json.loads(line)
    env = gymnasium.make(job["id"], disable_env_checker=True, **job["kwargs"])
    discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    for run in job["runs"]:
        show(*env.reset(seed=run["seed"]))
        for action in run["actions"]:
            action = int(action[0]) if discrete else np.array(action, dtype=np.float32)
            obs, reward, terminated, truncated, info = env.step(action)
            show(obs, info, (reward, terminated, truncated))
            if terminated or truncated:
                show(*env.reset())
