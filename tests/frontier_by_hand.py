"""A frontier's report made by hand: a tree, two linear students and three networks, of which nobody was trained."""

from __future__ import annotations

import numpy as np
from toys import CARTPOLE

from policykd import students
from policykd.evaluation import Interval, Kept, Score
from policykd.policy import Policy
from policykd.prediction import Origin, Spec
from policykd.report import Candidate, FrontierReport, Measured, Report
from policykd.students import Student, Tree

__all__ = ["made", "network"]


def balancer() -> Tree:
    """Angle at most 0: left, else right."""
    value = [[0, 0], [1, 0], [0, 1]]
    origin = Origin(algo="tree", env_id="CartPole-v1")
    return Tree(CARTPOLE, [2, 0, 0], [0.0, 0, 0], [1, 1, 2], [2, 1, 2], value, origin=origin)


def network(hidden: tuple[int, ...], seed: int, spec: Spec = CARTPOLE) -> Student:
    student = students.mlp(spec, hidden, seed=seed)
    student.origin = Origin(algo="mlp", env_id="CartPole-v1")
    return student


def scored(mean: float) -> Score:
    returns = mean + np.linspace(-5.0, 5.0, 100)
    return Score(returns, np.full(100, 7), 0)


def candidate(name: str, policies: list[Policy], best: int, kept: Interval, latency: float) -> Candidate:
    seeds = tuple((k, p, 0.9 + k / 100, 40) for k, p in enumerate(policies))
    size = students.size_bytes(policies[best])
    mean = 20.0 + 480.0 * (kept.value or 0.0)
    return Candidate(name, policies[best], best, kept, scored(mean), size, latency, 1 + best, seeds)


def made(chosen: str | None = "linear", **kept: Interval) -> FrontierReport:
    """Six students of three sizes; the second seed of ``linear`` is the chosen one."""
    of = {"tree": Interval(0.4, 0.3, 0.5), "linear": Interval(0.98, 0.96, 0.99), "wide": Interval(1.0, 0.99, 1.01)}
    of |= kept
    found = (
        candidate("tree:2", [balancer()], 0, of["tree"], 31.0),
        candidate("linear", [network((), k) for k in range(2)], 1, of["linear"], 40.0),
        candidate("16,16", [network((16, 16), k) for k in range(3)], 2, of["wide"], 60.0),
    )
    top = next((c for c in found if c.name == chosen), found[-1])
    best = Report(
        kind="frontier",
        env_id="CartPole-v1",
        method="dagger",
        seed=0,
        stopped_by="converged",
        teacher=Measured(500.0, (500.0, 500.0), 0.0, 100, 500.0, source="a.zip", algo="ppo", params=4610),
        student=Measured.of(top.score, top.policy, top.size),
        random=Measured(20.0, (18.0, 22.0), 9.0, 100, 20.0),
        retention=top.retention,
        kept=Kept(0.9, 0.1, None),
        env_steps=4000,
        updates=100,
        evaluations=60,
        seconds={"load": 1.0, "collect": 0.5, "learn": 0.7, "evaluate": 0.3, "total": 2.5},
        cpu_seconds={},
        policy=top.policy,
    )
    return FrontierReport(best, 0.95, chosen, found)
