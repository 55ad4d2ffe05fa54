"""Our IQL and TD3+BC and d3rlpy's, same data, settings and seeds: writes `results/odice/compare_d3rlpy.{csv,md}`.

    python3 scripts/peers/compare_d3rlpy.py --seeds 3 --jobs 2

Ours are the runs that `scripts/reproduce odice` keeps in `results/odice/runs`. Needs only Python's standard library; the peer is installed
into `.venv-d3rlpy`. What it has done is kept under `runs/compare/offline` and not repeated. Evaluation: deterministic policy, 10 episodes after the last update. The
interval is the percentile bootstrap (10,000 resamples) of the mean over seeds.
"""

import argparse
import concurrent.futures
import csv
import json
import os
import subprocess
import sys

from common import BREGMAN, ROOT, interval, peer_python, versions

AGENTS = ["iql", "td3_bc"]
DATA = {"hopper_medium": ("datasets/ours/hopper/medium-v0", "Hopper-v5")}
UPDATES = 100_000
RUNS = ROOT / "runs" / "compare" / "offline"
PEER = (".venv-d3rlpy", "requirements-d3rlpy.txt")


def convert(data):
    """The data as a D4RL file, which the peer's script reads."""
    path = RUNS / f"{data}.hdf5"
    if not path.exists():
        command = [BREGMAN, "dataset", "convert", ROOT / DATA[data][0], "--format", "d4rl", "--out", path]
        subprocess.run(command, check=True, capture_output=True)
    return path


def train(data, agent, seed):
    script = ROOT / "scripts" / "peers" / "d3rlpy_offline.py"
    command = [peer_python(*PEER), script, agent, "--data", convert(data), "--env", DATA[data][1], "--updates", str(UPDATES)]
    command += ["--seed", str(seed), "--threads", "1", "--out", RUNS / f"{data}-{agent}-s{seed}.json"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def theirs(data, agent, seed):
    return json.loads((RUNS / f"{data}-{agent}-s{seed}.json").read_text())["mean_reward"]


def ours(data, agent, seed):
    """The last evaluation of a kept run."""
    path = ROOT / "results" / "odice" / "runs" / agent / data / f"s{seed}" / "metrics.csv"
    with open(path, newline="") as file:
        return float(list(csv.DictReader(file))[-1]["eval/mean_reward"])


def page(rows, args):
    lines = [
        "# IQL and TD3+BC beside d3rlpy",
        "",
        f"Made by `python3 scripts/peers/compare_d3rlpy.py --seeds {args.seeds}` from the presets in `configs/iql` and `configs/td3_bc`: {UPDATES:,} updates, batch 256,",
        "networks of 256 x 256, ours in bf16, theirs in f32. Return of 10 deterministic episodes after the last update, mean over seeds with",
        f"a bootstrap 95 % interval. {versions(peer_python(*PEER), ['d3rlpy', 'torch', 'gymnasium', 'mujoco'])}.",
        "",
        "| data | agent | seeds | bregman | d3rlpy |",
        "|---|---|---|---|---|",
    ]
    for data in DATA:
        for agent in AGENTS:
            cells = []
            for by in ("bregman", "d3rlpy"):
                returns = [row["return"] for row in rows if (row["data"], row["agent"], row["by"]) == (data, agent, by)]
                brackets = " [{:.0f}, {:.0f}]".format(*interval(returns)) if len(returns) > 1 else ""
                cells.append(f"{sum(returns) / len(returns):.0f}{brackets}")
            lines.append(f"| {data} | {agent} | {args.seeds} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    jobs = [(data, agent, seed) for seed in range(1, args.seeds + 1) for data in DATA for agent in AGENTS]
    for data in DATA:
        convert(data)
    peer_python(*PEER)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        left = [job for job in jobs if not (RUNS / "{}-{}-s{}.json".format(*job)).exists()]
        for job, done in [(job, pool.submit(train, *job)) for job in left]:
            done.result()
            print("finished", *job, file=sys.stderr)

    rows = [{"data": data, "agent": agent, "by": by, "seed": seed, "return": of(data, agent, seed)}
            for data, agent, seed in jobs for by, of in (("bregman", ours), ("d3rlpy", theirs))]  # fmt: skip
    results = ROOT / "results" / "odice"
    with open(results / "compare_d3rlpy.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["data", "agent", "by", "seed", "return"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (results / "compare_d3rlpy.md").write_text(page(rows, args))
    print(page(rows, args))


if __name__ == "__main__":
    main()
