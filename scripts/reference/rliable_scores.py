"""What `rliable` says about fixed scores: writes `tests/data/rliable.json`, which `tests/statistics.rs` compares with.

    python3 -m venv v && v/bin/pip install rliable==1.2.0 arch==7.2.0 numpy==2.4.6 scipy==1.17.1 'pandas<3'
    v/bin/python scripts/reference/rliable_scores.py

Scores are drawn once, rounded to three digits and stored beside the answers; some are equal on purpose. Intervals are
percentile bootstrap, 50,000 resamples, of NumPy's global stream (rliable draws from that one, whatever `random_state` says).
"""

import importlib.metadata
import json
import pathlib

import numpy as np
from rliable import library, metrics

REPS = 50_000
STATISTICS = {
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "iqm": metrics.aggregate_iqm,
    "optimality_gap": metrics.aggregate_optimality_gap,
}
TAUS = np.linspace(0.0, 2.0, 9)


def main():
    draw = np.random.default_rng(20210813)
    base = np.array([0.4, 0.9, 1.3, 0.7])
    scores = {
        "a": (base + draw.normal(0.0, 0.25, (10, 4))).round(3),
        "b": (base * 1.1 + draw.normal(0.0, 0.4, (7, 4))).round(3),
        "one_task": draw.gamma(2.0, 0.5, (5, 1)).round(3),
    }
    scores["b"][:3, 1] = scores["a"][:3, 1]  # ties
    np.random.seed(1)
    answers = {}
    for name, array in scores.items():
        points, intervals = library.get_interval_estimates(
            {name: array}, lambda x: np.array([statistic(x) for statistic in STATISTICS.values()]), reps=REPS
        )
        answers[name] = {
            statistic: {"point": points[name][i], "interval": list(intervals[name][:, i])}
            for i, statistic in enumerate(STATISTICS)
        }
        answers[name]["profile"] = [library.run_score_deviation(array, tau) for tau in TAUS]
    pair = {"a,b": (scores["a"], scores["b"])}
    points, intervals = library.get_interval_estimates(pair, metrics.probability_of_improvement, reps=REPS // 10)
    improvement = {"point": float(points["a,b"]), "interval": [float(x) for x in intervals["a,b"].ravel()]}

    packages = ["rliable", "arch", "numpy", "scipy", "pandas"]
    result = {
        "made_by": "scripts/reference/rliable_scores.py",
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "taus": list(TAUS),
        "scores_run_by_task": {name: array.tolist() for name, array in scores.items()},
        "answers": answers,
        "improvement_of_a_over_b": improvement,
    }
    path = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "rliable.json"
    path.write_text(json.dumps(result, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
