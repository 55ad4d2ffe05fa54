"""Small environments for the tests of the bridge."""

import gymnasium
import numpy as np
from gymnasium import spaces

closed = []


class Probe(gymnasium.Env):
    """Shows the number of steps taken since `start`, gives 1 per step, ends at step 3."""

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
        assert self.action_space.contains(action) or isinstance(self, Matrix), repr(action)
        self.t += 1
        return self.observe(), self.reward(action), self.t == 3, False, {}

    def reward(self, action):
        return 1

    def close(self):
        closed.append(type(self).__name__)


class Matrix(Probe):
    observation_space = spaces.Box(0, 9, (2, 3), np.int32)
    action_space = spaces.Box(-2.0, 2.0, (2, 2), np.float64)

    def observe(self):
        return np.arange(6, dtype=np.int32).reshape(2, 3)

    def reward(self, action):
        assert action.dtype == np.float64
        return action[1, 0]


class Fortran(Matrix):
    observation_space = spaces.Box(0, 9, (2, 3), np.float64)

    def observe(self):
        return np.asfortranarray(np.arange(6.0).reshape(2, 3))


class Single(Probe):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (), np.float16)

    def observe(self):
        return np.array([0.1, -0.5], np.float32)

    def reward(self, action):
        return action


class Sparse(Probe):
    observation_space = spaces.Box(0, 9, (3,), np.float64)

    def observe(self):
        return np.arange(6.0)[::2]


class Scalar(Probe):
    observation_space = spaces.Box(0, 9, (), np.float64)

    def observe(self):
        return 2.5


class Choice(Probe):
    observation_space = spaces.Discrete(3, start=5)
    action_space = spaces.Discrete(3, start=5)

    def observe(self):
        return np.int64(7)

    def reward(self, action):
        return action.item()


class Outside(Choice):
    def observe(self):
        return 8


class Nested(Probe):
    observation_space = spaces.Dict(
        {"a": spaces.Discrete(1), "b": spaces.Box(-1.0, 1.0, (2,), np.float32), "c": spaces.MultiBinary(2)}
    )
    action_space = spaces.MultiDiscrete([3, 2], start=[10, 0])

    def observe(self):
        return {"a": 0, "b": np.array([0.5, -0.5], np.float32), "c": np.array([0, 1], np.int8)}

    def reward(self, action):
        return 10 * action[0] + action[1]


class Pair(Probe):
    observation_space = spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.Box(0, 9, (1,), np.float64)))
    action_space = spaces.MultiDiscrete(np.array([[3], [2]]), dtype=np.int32)

    def observe(self):
        return np.array([1, 2]), np.array([0.1])

    def reward(self, action):
        return 10 * action[0, 0] + action[1, 0]


class Switches(Probe):
    action_space = spaces.MultiBinary(3)

    def reward(self, action):
        return int("".join(map(str, action)))


class Narrow(Probe):
    """A bound that single precision overshoots: the nearest `float32` to 0.1 is above it."""

    action_space = spaces.Box(-0.1, 0.1, (1,), np.float64)


class Keeps(Probe):
    """Gives back the first component of the action of the step before."""

    last = np.zeros(1)

    def reward(self, action):
        before, self.last = self.last, action
        return before[0]


class Raises(Probe):
    def reward(self, action):
        return 1 / (0 if self.episode == 1 and self.t == 3 else 1)


class Chained(Probe):
    def reset(self, *, seed=None, options=None):
        try:
            {}["key"]
        except KeyError as error:
            raise gymnasium.error.ResetNeeded("second") from error


class Nan(Probe):
    def observe(self):
        return np.array([np.nan if self.t == 1 else 0.0])


class Wrong(Probe):
    """An observation that is not of its space, a reward that is no number, or an old interface."""

    def __init__(self, what):
        self.what = what

    def reset(self, *, seed=None, options=None):
        obs = {"shape": np.zeros(2), "type": "north", "old reset": np.zeros(1)}.get(self.what, np.zeros(1))
        return obs if self.what == "old reset" else (obs, {})

    def step(self, action):
        if self.what == "old step":
            return np.zeros(1), 1.0, False, {"info": 1}
        return np.zeros(1), "much" if self.what == "reward" else 1.0, False, False, {}


class Image(Probe):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)


class ImageInside(Probe):
    observation_space = spaces.Dict({"camera": Image.observation_space})


class Text(Probe):
    observation_space = spaces.Text(5)


class Grid(Probe):
    action_space = spaces.Box(0, 3, (2,), np.int32)


class Parts(Probe):
    action_space = spaces.Dict({"a": spaces.Discrete(2)})


for cls in Probe.__subclasses__() + Matrix.__subclasses__() + Choice.__subclasses__():
    gymnasium.register(f"probes/{cls.__name__}-v0", cls)
gymnasium.register("probes/Line-v0", Probe, max_episode_steps=3, reward_threshold=2.5)
