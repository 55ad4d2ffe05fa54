"""Our PPO or TRPO and Stable-Baselines3's, same settings, several seeds: writes `results/AGENT/compare_sb3.{csv,md}`.

    python3 scripts/peers/compare_sb3.py ppo --seeds 5 --peer-seeds 3 --jobs 2

Needs only Python's standard library; the peer is installed into `.venv-peers`. Finished runs are kept under
`runs/compare/` and not repeated. Evaluation: deterministic policy, 10 episodes after the last step, statistics frozen.
The interval is the percentile bootstrap (10,000 resamples) of the mean over seeds.
"""

import argparse
import concurrent.futures
import csv
import json
import os
import shutil
import subprocess
import sys
import time

from common import ROOT, interval, peer_python

BINARY = os.environ.get("BREGMAN", ROOT / "target" / "release" / "bregman")
# The first three of PPO are also run with the peer; the others are ours alone.
PRESETS = {
    "HalfCheetah-v5": "half_cheetah",
    "Hopper-v5": "hopper",
    "Walker2d-v5": "walker2d",
    "InvertedPendulum-v5": "inverted_pendulum",
    "CartPole-v1": "cart_pole",
}
TASKS = {"ppo": list(PRESETS), "trpo": ["Hopper-v5"]}
PEER_TASKS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]
SETTINGS = {
    "ppo": "8 environments x 256 steps, minibatch 64, 10 epochs, 3e-4",
    "trpo": "2 environments x 1024 steps, KL at most 0.01, 25 conjugate-gradient steps, 20 critic epochs of minibatch 128, 1e-3",
}


def runs(agent):
    return ROOT / "runs" / "compare" / agent


def run_ours(agent, env, seed):
    out = runs(agent) / f"bregman-{env}-s{seed}"
    config = ROOT / "configs" / agent / f"{PRESETS[env]}.toml"
    command = [BINARY]
    settings = ["--set", "threads=1", "--set", "eval.every=1000000", "--set", "observe.console=false"]
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run(command + ["train", config, "--seed", str(seed), "--out", out] + settings, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    result = subprocess.run(command + ["eval", out, "--checkpoint", "last", "--episodes", "10", "--json"], check=True, capture_output=True)
    evaluation = json.loads(result.stdout.splitlines()[-1])
    last = list(csv.DictReader(open(out / "metrics.csv")))[-1]
    return {
        "peer": "bregman",
        "env": env,
        "seed": seed,
        "env_steps": int(last["env_steps"]),
        "eval_mean_reward": evaluation["mean_reward"],
        "train_last_100": float(last["rollout/ep_rew_mean"]),
        "seconds": seconds,
    }


def run_sb3(agent, env, seed):
    log = runs(agent) / "sb3.jsonl"
    script = ROOT / "scripts" / "peers" / "sb3_train.py"
    command = [peer_python(".venv-peers", "requirements.txt"), script, agent, "--env", env, "--seed", str(seed), "--out", log]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def records(agent, name):
    path = runs(agent) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    agent, tasks = args.agent, TASKS[args.agent]
    runs(agent).mkdir(parents=True, exist_ok=True)

    done = {(r["peer"], r["env"], r["seed"]) for r in records(agent, "sb3") + records(agent, "bregman")}
    jobs = [("sb3", env, seed) for seed in range(1, args.peer_seeds + 1) for env in tasks if env in PEER_TASKS]
    jobs += [("bregman", env, seed) for seed in range(1, args.seeds + 1) for env in tasks]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = {}
        for peer, env, seed in jobs:
            if (peer, env, seed) not in done:
                futures[pool.submit(run_ours if peer == "bregman" else run_sb3, agent, env, seed)] = (peer, env, seed)
        for future in concurrent.futures.as_completed(futures):
            record = future.result()
            if record:
                with open(runs(agent) / "bregman.jsonl", "a") as file:
                    file.write(json.dumps(record) + "\n")
            print("finished", *futures[future], file=sys.stderr)

    results = ROOT / "results" / agent
    results.mkdir(parents=True, exist_ok=True)
    rows = records(agent, "bregman") + records(agent, "sb3")
    rows.sort(key=lambda r: (r["env"], r["peer"], r["seed"]))
    fields = ["env", "peer", "seed", "env_steps", "eval_mean_reward", "train_last_100", "seconds"]
    with open(results / "compare_sb3.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = [
        f"# {agent.upper()} beside Stable-Baselines3",
        "",
        f"Made by `python3 scripts/peers/compare_sb3.py {agent}` from the presets in `configs/{agent}/`; MuJoCo: {SETTINGS[agent]},",
        "observations and rewards normalised, one thread each, both agents with the same settings.",
        "Mean over seeds with a bootstrap 95 % interval; `deterministic` is the mean of 10 episodes after the last step,",
        "`training` the mean of the last 100 training episodes. Rates are medians of whole runs and depend on what else ran. Gymnasium 1.4.0, MuJoCo 3.17.0, Stable-Baselines3 2.9.2, torch 2.13.0.",
        "",
        "| environment | agent | env steps | seeds | deterministic | training | steps/s, start-up included |",
        "|---|---|---|---|---|---|---|",
    ]
    for env in tasks:
        for peer in ("bregman", "sb3"):
            group = [r for r in rows if r["env"] == env and r["peer"] == peer]
            if not group:
                continue
            cells = []
            for key in ("eval_mean_reward", "train_last_100"):
                values = [r[key] for r in group]
                low, high = interval(values)
                cells.append(f"{sum(values) / len(values):.0f} [{low:.0f}, {high:.0f}]")
            rates = sorted(r["env_steps"] / r["seconds"] for r in group)
            steps = f"{group[0]['env_steps']:,}"
            lines.append(f"| {env} | {peer} | {steps} | {len(group)} | {cells[0]} | {cells[1]} | {rates[len(rates) // 2]:.0f} |")
    (results / "compare_sb3.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
