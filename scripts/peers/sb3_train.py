"""Stable-Baselines3's PPO or sb3-contrib's TRPO under the settings of our own presets: the peers that `results/` compares with.

    python scripts/peers/sb3_train.py ppo --env HalfCheetah-v5 --seed 1 --steps 1000000 --out sb3.jsonl

VecNormalize on observations and rewards; the settings stand below. Appends one JSON line: deterministic evaluation over 10
episodes after training, the mean of the last 100 training episodes, seconds.
"""

import argparse
import json
import time

import gymnasium
import mujoco
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

# Class, environments, and settings that differ from what both have.
COMMON = {"gamma": 0.99, "gae_lambda": 0.95, "device": "cpu", "stats_window_size": 100}
PPO = {"n_steps": 256, "batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4, "clip_range": 0.2, "ent_coef": 0.0, "vf_coef": 0.5, "max_grad_norm": 0.5}
TRPO = {"n_steps": 1024, "batch_size": 128, "learning_rate": 1e-3, "n_critic_updates": 20, "cg_max_steps": 25, "target_kl": 0.01}
AGENTS = {"ppo": (stable_baselines3.PPO, 8, PPO), "trpo": (sb3_contrib.TRPO, 2, TRPO)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", choices=list(AGENTS))
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    agent, num_envs, settings = AGENTS[args.agent]
    env = VecNormalize(make_vec_env(args.env, n_envs=num_envs, seed=args.seed), gamma=COMMON["gamma"])
    model = agent("MlpPolicy", env, seed=args.seed, **COMMON, **settings)
    started = time.perf_counter()
    model.learn(args.steps)
    seconds = time.perf_counter() - started

    eval_env = VecNormalize(make_vec_env(args.env, n_envs=1, seed=args.seed + 10_000), training=False, norm_reward=False)
    eval_env.obs_rms = env.obs_rms
    returns, _ = evaluate_policy(model, eval_env, n_eval_episodes=10, deterministic=True, return_episode_rewards=True)
    record = {
        "peer": "sb3",
        "agent": args.agent,
        "env": args.env,
        "seed": args.seed,
        "env_steps": int(model.num_timesteps),
        "eval_mean_reward": float(np.mean(returns)),
        "eval_std_reward": float(np.std(returns)),
        "train_last_100": float(np.mean([e["r"] for e in model.ep_info_buffer])),
        "seconds": seconds,
        "threads": args.threads,
        "versions": {
            "sb3_contrib": sb3_contrib.__version__,
            "stable_baselines3": stable_baselines3.__version__,
            "torch": torch.__version__,
            "gymnasium": gymnasium.__version__,
            "mujoco": mujoco.__version__,
            "numpy": np.__version__,
        },
    }
    with open(args.out, "a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
