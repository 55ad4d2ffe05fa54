"""Stable-Baselines3's PPO under the settings of our own presets: the peer that `results/` compares with.

    python scripts/peers/sb3_ppo.py --env HalfCheetah-v5 --seed 1 --steps 1000000 --out sb3.jsonl

8 environments x 256 steps, minibatch 64, 10 epochs, 3e-4, VecNormalize on observations and rewards. Appends one JSON
line: deterministic evaluation over 10 episodes after training, the mean of the last 100 training episodes, seconds.
"""

import argparse
import json
import time

import gymnasium
import mujoco
import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    env = VecNormalize(make_vec_env(args.env, n_envs=args.num_envs, seed=args.seed), gamma=0.99)
    model = PPO(
        "MlpPolicy", env, n_steps=args.num_steps, batch_size=64, n_epochs=10, learning_rate=3e-4, gamma=0.99,
        gae_lambda=0.95, clip_range=0.2, ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5, seed=args.seed, device="cpu",
        stats_window_size=100,
    )
    started = time.perf_counter()
    model.learn(args.steps)
    seconds = time.perf_counter() - started

    eval_env = VecNormalize(make_vec_env(args.env, n_envs=1, seed=args.seed + 10_000), training=False, norm_reward=False)
    eval_env.obs_rms = env.obs_rms
    returns, _ = evaluate_policy(model, eval_env, n_eval_episodes=10, deterministic=True, return_episode_rewards=True)
    record = {
        "peer": "sb3",
        "agent": "ppo",
        "env": args.env,
        "seed": args.seed,
        "env_steps": int(model.num_timesteps),
        "eval_mean_reward": float(np.mean(returns)),
        "eval_std_reward": float(np.std(returns)),
        "train_last_100": float(np.mean([e["r"] for e in model.ep_info_buffer])),
        "seconds": seconds,
        "threads": args.threads,
        "versions": {
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
