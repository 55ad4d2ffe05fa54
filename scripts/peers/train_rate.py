"""How fast a peer trains on HalfCheetah-v5: whole iterations, after a warm-up.

    python scripts/peers/train_rate.py sb3 ppo --seconds 30

Prints one JSON object: environment steps per second and the process's peak memory. PPO and TRPO: 8 environments x 256 steps
under VecNormalize; SAC: 1 environment, batch 256, 1 update per step.
"""

import argparse
import json
import resource
import time

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

ON_POLICY = {"n_steps": 256, "learning_rate": 3e-4, "gamma": 0.99, "gae_lambda": 0.95}
PPO = {**ON_POLICY, "batch_size": 64, "n_epochs": 10, "clip_range": 0.2, "ent_coef": 0.0, "vf_coef": 0.5, "max_grad_norm": 0.5}
TRPO = {**ON_POLICY, "learning_rate": 1e-3, "batch_size": 128, "target_kl": 0.01, "cg_max_steps": 15, "n_critic_updates": 10}
SAC = {"batch_size": 256, "train_freq": 1, "gradient_steps": 1, "learning_starts": 1000}

# Settings, environments, and steps before measuring: two iterations, or the first thousand updates.
AGENTS = {"ppo": (PPO, 8, 2 * 8 * 256), "trpo": (TRPO, 8, 2 * 8 * 256), "sac": (SAC, 1, 2000)}


class Clock(BaseCallback):
    """Notes steps and time wherever an iteration starts, once warm, and ends the training when the time is over."""

    def __init__(self, warm_up, seconds):
        super().__init__()
        self.warm_up, self.seconds = warm_up, seconds
        self.first = self.last = None

    def _on_rollout_start(self):
        now = (self.num_timesteps, time.perf_counter())
        if self.first is None and self.num_timesteps >= self.warm_up:
            self.first = now
        elif self.first:
            self.last = now

    def _on_step(self):
        return not (self.last and self.last[1] - self.first[1] >= self.seconds)


def agent_class(library, agent):
    if library == "sbx":
        import sbx

        return getattr(sbx, agent.upper())
    if agent == "trpo":
        import sb3_contrib

        return sb3_contrib.TRPO
    import stable_baselines3

    return getattr(stable_baselines3, agent.upper())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["sb3", "sbx"])
    parser.add_argument("agent", choices=list(AGENTS))
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()

    settings, num_envs, warm_up = AGENTS[args.agent]
    env = make_vec_env("HalfCheetah-v5", n_envs=num_envs, seed=1)
    if args.agent != "sac":
        env = VecNormalize(env, gamma=0.99)
    model = agent_class(args.library, args.agent)("MlpPolicy", env, seed=1, device="cpu", **settings)
    clock = Clock(warm_up, args.seconds)
    model.learn(10**9, callback=clock)
    (steps, began), (end, ended) = clock.first, clock.last
    rate = (end - steps) / (ended - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"env_steps_per_second": rate, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
