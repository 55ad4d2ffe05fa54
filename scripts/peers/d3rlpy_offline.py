"""d3rlpy's IQL or TD3+BC with the settings of our presets: how fast it updates, or what its policy earns.

    python scripts/peers/d3rlpy_offline.py iql --data FILE --seconds 30
    python scripts/peers/d3rlpy_offline.py iql --data FILE --env Hopper-v5 --updates 100000 --seed 1 --out d3rlpy.jsonl

FILE is in D4RL's format. Rewards of IQL are divided by the range of returns, times 1000, as in our presets. Prints one JSON object:
updates per second after a warm-up and the peak memory; or appends one to FILE of --out: the mean return of 10 deterministic episodes after the last update.
"""

import argparse
import json
import resource
import time

import d3rlpy
import gymnasium
import h5py
import mujoco
import numpy as np
import torch
from d3rlpy.algos import IQLConfig, TD3PlusBCConfig
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.optimizers import AdamFactory, CosineAnnealingLRFactory
from d3rlpy.preprocessing import StandardObservationScaler

WARM_UP, EPISODES = 50, 10
ENCODER = VectorEncoderFactory([256, 256])


def episodes(path, scaled):
    """The file's episodes, each up to a terminal or a timeout; rows after the last of those are left out, of which our data has none."""
    with h5py.File(path) as file:
        keys = ["observations", "actions", "rewards", "terminals", "timeouts"]
        obs, actions, rewards, terminals, timeouts = (file[key][:] for key in keys)
    ends = np.flatnonzero(terminals.astype(bool) | timeouts.astype(bool)) + 1
    spans = list(zip([0, *ends[:-1]], ends))
    returns = [rewards[start:end].sum() for start, end in spans]
    scale = 1000 / (max(returns) - min(returns)) if scaled else 1.0
    rewards = (scale * rewards).astype(np.float32)[:, None]
    return [d3rlpy.dataset.Episode(obs[a:b], actions[a:b], rewards[a:b], bool(terminals[b - 1])) for a, b in spans]


def agent(name, data, updates):
    """Settings that d3rlpy has otherwise; all else is the same by default."""
    if name == "td3_bc":
        encoders = {"actor_encoder_factory": ENCODER, "critic_encoder_factory": ENCODER}
        obs = np.concatenate([episode.observations for episode in data])
        scaler = StandardObservationScaler(mean=obs.mean(0), std=obs.std(0))
        return TD3PlusBCConfig(observation_scaler=scaler, **encoders)
    encoders = {f"{part}_encoder_factory": ENCODER for part in ("actor", "critic", "value")}
    annealed = AdamFactory(lr_scheduler_factory=CosineAnnealingLRFactory(T_max=updates))
    return IQLConfig(actor_optim_factory=annealed, **encoders)


def evaluate(model, env, seed):
    """Returns of deterministic episodes."""
    returns = []
    for episode in range(EPISODES):
        obs, _ = env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            action = model.predict(obs[None].astype(np.float32))[0]
            obs, reward, terminated, truncated, _ = env.step(np.clip(action, env.action_space.low, env.action_space.high))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", choices=["iql", "td3_bc"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--env")
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    d3rlpy.seed(args.seed)

    data = episodes(args.data, scaled=args.agent == "iql")
    model = agent(args.agent, data, args.updates).create("cpu:0")
    data = d3rlpy.dataset.create_infinite_replay_buffer(episodes=data)
    model.build_with_dataset(data)

    def update():
        model.update(data.sample_transition_batch(model.batch_size))

    if args.env is None:
        for _ in range(WARM_UP):
            update()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < args.seconds:
            update()
            done += 1
        rate = done / (time.perf_counter() - began)
        print(json.dumps({"updates_per_second": rate, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
        return

    began = time.perf_counter()
    for _ in range(args.updates):
        update()
    seconds = time.perf_counter() - began
    returns = evaluate(model, gymnasium.make(args.env), 10_000 * args.seed)
    versions = {package.__name__: package.__version__ for package in (d3rlpy, torch, gymnasium, mujoco, np)}
    record = {"agent": args.agent, "data": args.data, "env": args.env, "seed": args.seed, "updates": args.updates}
    record |= {"mean_reward": float(np.mean(returns)), "std_reward": float(np.std(returns)), "seconds": seconds, "versions": versions}
    with open(args.out, "a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
