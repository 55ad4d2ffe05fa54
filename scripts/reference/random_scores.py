"""What a random policy earns: writes `results/published/scores_v5.toml`, which `bregman compare --scores` normalises by.

    .venv/bin/python scripts/reference/random_scores.py

0 is the mean return of 100 episodes of uniform actions, through Gymnasium, measured here; 1 is the score that SLM-Lab
published for PPO on v5 (`results/published/ppo.json`), and what RL-Zoo published for PPO on CONTROL.
"""

import json
import pathlib

import gymnasium

PUBLISHED = pathlib.Path(__file__).resolve().parents[2] / "results" / "published"
EPISODES = 100
# DLR-RM/rl-baselines3-zoo, benchmark.md, 0088472: one run of PPO, deterministic.
CONTROL = {"CartPole-v1": 500.0, "Acrobot-v1": -73.506}


def random_score(env_id):
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    total = 0.0
    for episode in range(EPISODES):
        env.reset(seed=episode)
        done = False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += reward
            done = terminated or truncated
    return total / EPISODES


def main():
    scores = json.loads((PUBLISHED / "ppo.json").read_text())["scores"]
    high = {f"{name}-v5": float(row["slm_lab_v5"].split()[0]) for name, row in scores.items()}
    about = (
        f"0 is a random policy ({EPISODES} episodes), 1 what SLM-Lab published for PPO on MuJoCo v5 after 4M or 10M steps and RL-Zoo for PPO "
        "on CartPole and Acrobot"
    )
    lines = ["# Made by scripts/reference/random_scores.py.", f'about = "{about}"']
    for env_id, score in {**high, **CONTROL}.items():
        lines += ["", f'[scores."{env_id}"]', f"low = {random_score(env_id):.2f}", f"high = {score}"]
    (PUBLISHED / "scores_v5.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
