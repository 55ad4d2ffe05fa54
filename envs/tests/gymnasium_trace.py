"""Drives Gymnasium for the parity tests.

Reads one JSON job per line from standard input and prints one JSON line per reset and step:
    {"id", "kwargs", "runs": [{"seed", "actions": [[...], ...]}]}
A run resets with its seed, and again without one after every end of an episode. Floats are printed so that they read
back as the same bits.
"""

import json
import sys

import gymnasium
import numpy as np


def flat(value):
    return np.asarray(value, dtype=np.float64).ravel().tolist()


def show(obs, info, **step):
    pairs = [[key, number] for key, value in info.items() for number in flat(value)]
    print(json.dumps({"obs": flat(obs), "info": pairs, **step}))


for line in sys.stdin:
    job = json.loads(line)
    env = gymnasium.make(job["id"], disable_env_checker=True, **job["kwargs"])
    discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    for run in job["runs"]:
        show(*env.reset(seed=run["seed"]))
        for action in run["actions"]:
            action = int(action[0]) if discrete else np.array(action, dtype=np.float32)
            obs, reward, terminated, truncated, info = env.step(action)
            show(obs, info, reward=float(reward), terminated=bool(terminated), truncated=bool(truncated))
            if terminated or truncated:
                show(*env.reset())
