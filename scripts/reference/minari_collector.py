"""Makes tests/data/minari_collector: three episodes of five steps, as Minari's own DataCollector writes them.

    pip install "gymnasium==1.4.0" "minari[hdf5,create]==0.5.4"
    MINARI_DATASETS_PATH=/tmp/collected python scripts/reference/minari_collector.py
    cp -r /tmp/collected/tests/pendulum-random-v0/data tests/data/minari_collector/
"""

import gymnasium
from minari import DataCollector

env = DataCollector(gymnasium.make("Pendulum-v1", max_episode_steps=5), record_infos=True)
env.action_space.seed(7)
for episode in range(3):
    env.reset(seed=episode)
    done = False
    while not done:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        done = terminated or truncated
env.create_dataset(
    dataset_id="tests/pendulum-random-v0",
    algorithm_name="uniform",
    author="bregman",
    author_email="none@example.org",
    code_permalink="scripts/reference/minari_collector.py",
    description="three episodes of five steps",
)
