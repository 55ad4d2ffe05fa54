"""Small environments for the tests of the bridge."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Probe(gymnasium.Env):
    observation_space = spaces.Box(-100.0, 100.0, (1,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, start=0.0, notes=None):
        self.start, self.t, self.episode = start, 0, -1
        assert notes in (None, {"a": [1, True]})

    def observe(self):
        return np.array([self.start + self.t])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), self.reward(action), self.t == 3, False, {}

    def reward(self, action):
        return 1


class Matrix(Probe):
    observation_space = spaces.Box(0, 9, (2, 3), np.int32)
    action_space = spaces.Box(-2.0, 2.0, (2, 2), np.float64)

    def observe(self):
        return np.arange(6, dtype=np.int32).reshape(2, 3)

    def reward(self, action):
        assert action.dtype == np.float64
        return action[1, 0]


class Choice(Probe):
    observation_space = spaces.Discrete(3, start=5)
    action_space = spaces.Discrete(3, start=10)

    def observe(self):
        return 7

    def reward(self, action):
        return action


class Nested(Probe):
    observation_space = spaces.Dict(
        {"a": spaces.Discrete(1), "b": spaces.Box(-1.0, 1.0, (2,), np.float32), "c": spaces.MultiBinary(2)}
    )
    action_space = spaces.MultiDiscrete([3, 2], start=[10, 0])

    def observe(self):
        return {"a": 0, "b": np.array([0.5, -0.5], np.float32), "c": np.array([0, 1], np.int8)}

    def reward(self, action):
        return 10 * action[0] + action[1]


class Raises(Probe):
    def reward(self, action):
        return 1 / (0 if self.episode == 1 and self.t == 3 else 1)


class Nan(Probe):
    def observe(self):
        return np.array([np.nan if self.t == 1 else 0.0])


class Image(Probe):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Text(Probe):
    observation_space = spaces.Text(5)


for cls in (Matrix, Choice, Nested, Raises, Nan, Image, Text):
    gymnasium.register(f"probes/{cls.__name__}-v0", cls)
gymnasium.register("probes/Line-v0", Probe, max_episode_steps=3)
