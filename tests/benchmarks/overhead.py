"""What policykd costs beside a loop written by hand: a gradient step, an action, and an update that keeps to a budget.

    python tests/benchmarks/overhead.py [--rounds 300] [--calls 10000]

Processor time of the thread, one thread, no GPU. The two sides of a ratio take turns, in an order that turns too, so
that whatever else runs on the machine meets both; the interval of a median is that of its order statistics (95 %).
The loop by hand is what one writes who cares: fused Adam of torch.optim, gradients set to None, the teacher's
log-probabilities taken where the loss needs them, clipping by torch.nn.utils and a moving average in one foreach call.
Its normaliser works in float32; policykd's in float64, as VecNormalize does. Both sides start from the same weights,
and their losses are compared for three steps before the clock runs. The loss is forward KL for discrete actions and the
default of Gaussian ones (squared Wasserstein distance within the bounds); "neither" and "both" are whether gradients
are clipped and a moving average kept. Calls of update() count from the first step on, with more due than fits.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

import policykd as kd
from policykd import students
from policykd.distributions import Categorical, DiagGaussian
from policykd.losses.defaults import default_objective
from policykd.prediction import Batch, Prediction, Spec

SEEN = spaces.Box(-np.inf, np.inf, (8,), np.float32)
SPEC = Spec(SEEN, spaces.Discrete(4), "categorical")
ARM = Spec(SEEN, spaces.Box(-1, 1, (4,), np.float32), "diag_gaussian")
_STD = 0.5
ROWS, INNER = 64, 20
"""Rows of a batch; calls between two looks at the clock."""


def data(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Observations and a teacher's logits."""
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, 8, generator=g), torch.randn(rows, 4, generator=g)


def student(spec: Spec = SPEC) -> students.Student:
    """64,64 with a normaliser."""
    made = students.mlp(spec, (64, 64))
    students.fit_normaliser(made, data(1000, 1)[0])
    return made


class ByHand(nn.Module):
    """The same network in plain torch."""

    def __init__(self, like: students.Student) -> None:
        super().__init__()
        linears = [m for m in (*like.torso, like.action_head) if isinstance(m, nn.Linear)]
        sizes = [(m.in_features, m.out_features) for m in linears]
        self.net = nn.Sequential(nn.Linear(*sizes[0]), nn.SiLU(), nn.Linear(*sizes[1]), nn.SiLU(), nn.Linear(*sizes[2]))
        for mine, theirs in zip([self.net[0], self.net[2], self.net[4]], linears, strict=True):
            mine.load_state_dict(theirs.state_dict())
        assert like.normaliser is not None
        self.register_buffer("mean", like.normaliser.mean.float())
        self.register_buffer("std", like.normaliser.std.float())

    def forward(self, obs: Tensor) -> Tensor:
        """Logits."""
        return self.net(((obs - self.mean) / self.std).clamp(-10.0, 10.0))


def by_hand(extras: bool, spec: Spec = SPEC, *, own: bool = False) -> Callable[[], Tensor]:
    """A step of the loop by hand; with ``extras`` the gradient is clipped and an average kept.

    ``own`` takes the user's way to write the loss (``users_kl``), the same operations, in place of torch's.
    """
    net, (obs, said) = ByHand(student(spec)), data(ROWS)
    log_std = nn.Parameter(torch.zeros(4))
    parameters = [*net.parameters(), *([log_std] if spec is ARM else [])]
    adam = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    average = [p.detach().clone() for p in parameters]

    def forward_kl() -> Tensor:
        log_p = F.log_softmax(said, -1)
        return F.kl_div(F.log_softmax(net(obs), -1), log_p, reduction="batchmean", log_target=True)

    def own_kl() -> Tensor:
        log_p, log_q = F.log_softmax(said, -1), F.log_softmax(net(obs), -1)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()

    def distance() -> Tensor:
        mean = net(obs)
        error = torch.where(said >= 1.0, (mean - 1.0).clamp(max=0.0), mean - said)
        error = torch.where(said <= -1.0, (mean + 1.0).clamp(min=0.0), error)
        return (error.square() + (log_std.exp() - _STD).square()).sum(-1).mean()

    loss_of = distance if spec is ARM else own_kl if own else forward_kl

    def step() -> Tensor:
        adam.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        if extras:
            nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        if extras:
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 0.01)
        return loss.detach()

    return step


def ours(extras: bool, loss: Any = kd.losses.forward_kl, spec: Spec = SPEC) -> Callable[[], Tensor]:
    """Learner.step with the same numbers."""
    how = {} if extras else dict(average=None, max_grad_norm=None)
    obs, said = data(ROWS)
    log_std = torch.full_like(said, math.log(_STD))
    target = Prediction(DiagGaussian(said, log_std) if spec is ARM else Categorical(said))
    if spec is ARM:
        loss = default_objective(spec, target, with_value=False, value_weight=0.0)
    learner = kd.Learner(student(spec), loss, lr=1e-3, **how)
    batch = Batch(obs, target)
    return lambda: learner.step(batch).loss


def micros(f: Callable[[], object]) -> float:
    """Processor time of a call, the mean of a few."""
    begun = time.thread_time()
    for _ in range(INNER):
        f()
    return 1e6 * (time.thread_time() - begun) / INNER


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median and the order statistics that hold it with 95 %."""
    ordered, n = sorted(values), len(values)
    off = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - off)), min(n - 1, math.ceil(n / 2 + off))
    return statistics.median(ordered), ordered[low], ordered[high]


def compare(name: str, one: Callable[[], object], other: Callable[[], object], rounds: int, limit: str) -> None:
    """A row of the table: medians and the ratio."""
    for _ in range(10):
        micros(one), micros(other)
    a, b = [], []
    for i in range(rounds):
        for f, into in ((one, a), (other, b)) if i % 2 else ((other, b), (one, a)):
            into.append(micros(f))
    ratio, low, high = median_interval([x / y for x, y in zip(a, b, strict=True)])
    print(
        f"| {name} | {statistics.median(a):.0f} | {statistics.median(b):.0f} | {ratio:.2f} [{low:.2f}, {high:.2f}] "
        f"| {limit} |",
        flush=True,
    )


def users_kl(student: Prediction, target: Prediction) -> Tensor:
    """Forward KL as a user would write it: a loss that policykd does not know."""
    log_p, log_q = target.dist.log_probs, student.dist.log_probs  # type: ignore[union-attr]
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def steps(rounds: int) -> None:
    """Learner.step."""
    for spec in (SPEC, ARM):
        one, other = ours(True, spec=spec), by_hand(True, spec)
        for _ in range(3):
            torch.testing.assert_close(one(), other(), rtol=1e-4, atol=1e-6)
    compare("Learner.step, discrete actions, neither", ours(False), by_hand(False), rounds, "1.15")
    compare("Learner.step, discrete actions, both", ours(True), by_hand(True), rounds, "1.15")
    arm = dict(spec=ARM)
    compare("Learner.step, Gaussian actions, neither", ours(False, **arm), by_hand(False, **arm), rounds, "1.15")
    compare("Learner.step, Gaussian actions, both", ours(True, **arm), by_hand(True, **arm), rounds, "1.15")
    own = dict(own=True)
    compare("Learner.step, a user's own loss, neither", ours(False, users_kl), by_hand(False, **own), rounds, "1.15")
    compare("Learner.step, a user's own loss, both", ours(True, users_kl), by_hand(True, **own), rounds, "1.15")


def acting(rounds: int) -> None:
    """OnlineDistiller.act."""
    online = kd.OnlineDistiller(student(), student())
    obs, array = data(1)[0][0], data(1)[0][0].numpy()
    policy = online.published.policy

    def bare() -> object:
        with torch.inference_mode():
            return policy(obs.unsqueeze(0))

    def bare_no_grad() -> object:
        with torch.no_grad():
            return policy(obs.unsqueeze(0))

    def act(x: Any, deterministic: bool = True) -> Callable[[], object]:
        return lambda: online.act(x, deterministic=deterministic)

    compare("act, tensor in; the module in inference mode", act(obs), bare, rounds, "1.3")
    compare("act, tensor in; the module without gradient", act(obs), bare_no_grad, rounds, "1.3")
    compare("act, array in; the module in inference mode", act(array), bare, rounds, "-")
    compare("act drawing, tensor in; the module in inference mode", act(obs, False), bare, rounds, "-")


_HEAD = (
    "| budget, ms | calls | steps | publications | ms a call: median | p99 | most | one step: median | p99 "
    "| p99 of a call <= budget + a median step |"
)


def budgets(calls: int) -> None:
    """update() within a budget, with more due than ever fits."""
    print(f"\n{_HEAD}\n" + "|---" * 10 + "|", flush=True)
    stream, at, taken = data(20_000, 2)[0].numpy(), 0, []
    really = kd.Learner.step

    def timed(learner: kd.Learner, *args: Any) -> Any:
        begun = time.thread_time()
        update = really(learner, *args)
        taken.append(1e3 * (time.thread_time() - begun))
        return update

    for budget in (5.0, 20.0):
        online = kd.OnlineDistiller(student(), student(), budget_ms=budget, rows_per_update=1, batch_size=ROWS)
        spent: list[float] = []
        with mock.patch.object(kd.Learner, "step", timed):
            while len(spent) < calls:
                if (before := online.status).due + before.waiting < 1_000:
                    online.observe(stream[at : at + ROWS])
                    at = (at + ROWS) % (len(stream) - ROWS)
                begun = time.thread_time()
                online.update()
                took = 1e3 * (time.thread_time() - begun)
                if before.updates and online.status.due > 0:
                    spent.append(took)
                if not spent:
                    taken.clear()  # warming up
        p99, step = float(np.quantile(spent, 0.99)), statistics.median(taken)
        print(
            f"| {budget:g} | {calls:,} | {len(taken):,} | {online.status.published:,} "
            f"| {statistics.median(spent):.2f} | {p99:.2f} | {max(spent):.2f} | {step:.2f} "
            f"| {float(np.quantile(taken, 0.99)):.2f} | {'yes' if p99 <= budget + step else 'no'} |",
            flush=True,
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--calls", type=int, default=10_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| one and the other | CPU us of the one | of the other | ratio [95 %] | limit |")
    print("|---" * 5 + "|", flush=True)
    steps(args.rounds)
    acting(args.rounds)
    budgets(args.calls)


if __name__ == "__main__":
    main()
