"""Updates per second of O-DICE written plainly in PyTorch: the computation of configs/odice/bench.toml.

    python scripts/peers/odice.py --seconds 30 --threads 2 [--bf16]

Twin V of 256 x 256 with layer normalisation, orthogonal gradients by three backward passes, a policy of 1024 x 1024, Adam for both, batch
256; the rows are noise of Hopper's shape. Prints one JSON object: updates per second, those of the bare matrix products of an update, and the peak memory.
"""

import argparse
import json
import resource
import time

import torch
from torch import nn

GAMMA, LAMBDA, ETA, TAU, BATCH = 0.99, 0.6, 1.0, 0.005, 256


def mlp(widths, norm):
    layers = []
    for inputs, outputs in zip(widths[:-2], widths[1:-1]):
        layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class TwinV(nn.Module):
    def __init__(self, obs_dim):
        super().__init__()
        self.heads = nn.ModuleList(mlp([obs_dim, 256, 256, 1], True) for _ in range(2))

    def forward(self, obs):
        return torch.stack([head(obs).squeeze(-1) for head in self.heads])


def conjugate(y):
    omega = torch.relu(y / 2 + 1)
    return y * omega - (omega - 1) ** 2


def flat(gradients):
    return torch.cat([g.reshape(-1) for g in gradients])


class Agent:
    def __init__(self, obs_dim, act_dim):
        self.v, self.target = TwinV(obs_dim), TwinV(obs_dim)
        self.target.load_state_dict(self.v.state_dict())
        self.policy, self.log_std = mlp([obs_dim, 1024, 1024, act_dim], False), nn.Parameter(torch.zeros(act_dim))
        self.v_optimizer = torch.optim.Adam(self.v.parameters(), lr=2e-4)
        self.policy_parameters = [*self.policy.parameters(), self.log_std]
        self.policy_optimizer = torch.optim.Adam(self.policy_parameters, lr=2e-4, weight_decay=1e-4)

    def update(self, obs, action, reward, next_obs, bootstraps):
        with torch.no_grad():
            target, next_target = self.target(obs).min(0).values, self.target(next_obs).min(0).values
        value, next_value = self.v(obs), self.v(next_obs)
        forward = reward + GAMMA * bootstraps * next_target - value
        backward = reward + GAMMA * bootstraps * next_value - target
        parameters = list(self.v.parameters())
        g_forward = flat(torch.autograd.grad((LAMBDA * conjugate(forward)).mean(), parameters, retain_graph=True))
        g_linear = flat(torch.autograd.grad(((1 - LAMBDA) * value).mean(), parameters))
        g_backward = flat(torch.autograd.grad((LAMBDA * ETA * conjugate(backward)).mean(), parameters))
        along = g_forward @ g_backward / (g_forward @ g_forward).clamp(min=1e-10)
        grad = g_linear + (1 - along) * g_forward + g_backward
        start = 0
        for parameter in parameters:
            parameter.grad = grad[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        self.v_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), parameters, TAU)

        weight = forward.detach().relu().clamp(max=100.0)
        log_std = self.log_std.clamp(-5.0, 2.0)
        log_prob = torch.distributions.Normal(self.policy(obs).float(), log_std.exp()).log_prob(action).sum(-1)
        loss = (weight * -log_prob).mean()
        self.policy_optimizer.zero_grad()
        loss.backward()
        self.policy_optimizer.step()


def products(obs_dim, act_dim, dtype):
    """The matrix products of one update and nothing else: forward and backward of the policy, and V's four passes there and three back."""
    shapes = []
    for widths, forwards, backwards in [([obs_dim, 1024, 1024, act_dim], 1, 1), ([obs_dim, 256, 256, 1], 8, 6)]:
        for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:])):
            shapes += forwards * [(BATCH, inputs, outputs)]
            shapes += backwards * [(inputs, BATCH, outputs)]
            if i > 0:
                shapes += backwards * [(BATCH, outputs, inputs)]
    return [(torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), torch.empty(m, n, dtype=dtype)) for m, k, n in shapes]


def rate(work, seconds):
    for _ in range(20):
        work()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="forward passes under autocast to bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    obs_dim, act_dim, rows = 11, 3, 200_000
    agent = Agent(obs_dim, act_dim)
    data = [torch.randn(rows, obs_dim), torch.randn(rows, act_dim), torch.randn(rows), torch.randn(rows, obs_dim)]
    data.append((torch.rand(rows) > 0.05).float())

    def update():
        batch = torch.randint(rows, (BATCH,))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            agent.update(*(part[batch] for part in data))

    pairs = products(obs_dim, act_dim, torch.bfloat16 if args.bf16 else torch.float32)

    def multiply():
        for a, b, out in pairs:
            torch.mm(a, b, out=out)

    told = {"updates_per_second": rate(update, args.seconds), "products_per_second": rate(multiply, args.seconds / 3)}
    print(json.dumps({**told, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
