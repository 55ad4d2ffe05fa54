"""How fast torchgfn trains on HyperGrid 2 x 8 by trajectory balance, and how near it comes.

    python -O scripts/peers/torchgfn_tb.py --seconds 30
    python -O scripts/peers/torchgfn_tb.py --iterations 2000 --seed 1

Built from the library as its train_hypergrid_simple.py does: batches of 16, policies of 256 x 256 on one trunk, learned backward
policy, Adam at 1e-3 and 0.1 for ln Z, gradients clipped to norm 1. Prints one JSON object: iterations per second after a warm-up
and peak memory, or the exact L1 distance after that many iterations.
"""

import argparse
import json
import resource
import time

import torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.gym import HyperGrid
from gfn.preprocessors import KHotPreprocessor
from gfn.samplers import Sampler
from gfn.utils.modules import MLP

HEIGHT, BATCH, WARM_UP = 8, 16, 50


class Training:
    def __init__(self, seed):
        torch.manual_seed(seed)
        rewards = {"R0": 0.1, "R1": 0.5, "R2": 2.0}
        self.env = HyperGrid(ndim=2, height=HEIGHT, reward_fn_str="original", reward_fn_kwargs=rewards, device="cpu", debug=False)
        show = KHotPreprocessor(height=HEIGHT, ndim=2)
        forward = MLP(input_dim=show.output_dim, output_dim=self.env.n_actions)
        backward = MLP(input_dim=show.output_dim, output_dim=self.env.n_actions - 1, trunk=forward.trunk)
        self.pf = DiscretePolicyEstimator(forward, self.env.n_actions, preprocessor=show, is_backward=False)
        pb = DiscretePolicyEstimator(backward, self.env.n_actions, preprocessor=show, is_backward=True)
        self.net = TBGFlowNet(pf=self.pf, pb=pb, init_logZ=0.0)
        self.sampler = Sampler(estimator=self.pf)
        self.optimizer = torch.optim.Adam(self.net.pf_pb_parameters(), lr=1e-3)
        self.optimizer.add_param_group({"params": self.net.logz_parameters(), "lr": 0.1})

    def iterate(self):
        batch = self.sampler.sample_trajectories(self.env, n=BATCH, save_logprobs=True, save_estimator_outputs=False)
        self.optimizer.zero_grad()
        self.net.loss(self.env, batch, recalculate_all_logprobs=False).backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()

    @torch.no_grad()
    def l1(self):
        """Sum of |p - R/Z|, p by pushing mass through the grid."""
        cells = [(x, y) for x in range(HEIGHT) for y in range(HEIGHT)]
        states = self.env.states_from_tensor(torch.tensor(cells))
        prob = self.pf.to_probability_distribution(states, self.pf(states)).probs.tolist()
        policy = dict(zip(cells, prob))
        mass, ends = {cell: 0.0 for cell in cells}, {}
        mass[0, 0] = 1.0
        for x, y in sorted(cells, key=sum):
            right, up, stop = policy[x, y]
            ends[x, y] = mass[x, y] * stop
            for child, p in (((x + 1, y), right), ((x, y + 1), up)):
                if child in mass:
                    mass[child] += mass[x, y] * p
        reward = dict(zip(cells, self.env.reward(states).tolist()))
        z = sum(reward.values())
        return sum(abs(ends[cell] - reward[cell] / z) for cell in cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--iterations", type=int, help="train for so many and tell the distance instead")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    training = Training(args.seed)
    if args.iterations:
        for _ in range(args.iterations):
            training.iterate()
        print(json.dumps({"l1": training.l1()}))
        return
    for _ in range(WARM_UP):
        training.iterate()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < args.seconds:
        training.iterate()
        done += 1
    rate = done / (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"updates_per_second": rate, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
