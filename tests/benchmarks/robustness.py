"""What a student stands that its training did not show: teacher, distilled student, and the same student on its own.

    POLICYKD_TEACHERS=... python tests/benchmarks/robustness.py [--part policy classifier] [--seeds 3] [--save FILE]

Policy half: PPO on LunarLander. ``distilled`` is 16,16 by ``policykd distill`` at its defaults, ``alone`` the same
network by PPO on 300,000 environment steps in the same code (reinforced.py says how). All act, with their modes, in
the world that they know, under normal noise on every observation (in standard deviations of each number on the
teacher's own states), in gravity that is weaker and stronger, and in wind; none has met any of that. 100 fresh
episodes a world, the same ones for all; the teacher's interval is a bootstrap over episodes, the students' Student-t
over training seeds. Shares are of the teacher's return in the world that it knows.

Classifier half: Fashion-MNIST, teacher cnn:32,64x128, students cnn:8,16, all as in classifiers.py: accuracy on the test
images under noise, darkness, less contrast, blur, a shift, and a patch that hides a part.

``--save`` keeps rows as they come and takes them up again; ``--limit`` makes that many new.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from classifiers import EPOCHS, STUDENT, teacher_of
from reinforced import FIRST_SEED, PPO, STEPS, Row, rows
from torch import Tensor

import policykd as kd
from policykd.classifiers import Classifier, build
from policykd.classify import distill_classifier, train_classifier
from policykd.datasets import Labelled, find
from policykd.evaluation import Interval, evaluate, student_t_interval
from policykd.home import recipe_for
from policykd.recipe import Recipe

AGENT, HIDDEN = "ppo/LunarLander-v2_1", (16, 16)
FRESH = 2_500_000_000
"""First seed of the episodes: apart from all that train, select or are reported."""

NOISE: dict[str, float] = {"clean": 0.0, "noise 0.05": 0.05, "noise 0.1": 0.1}
PHYSICS: dict[str, dict[str, Any]] = {
    "gravity -8": {"gravity": -8.0},
    "gravity -12": {"gravity": -11.99},  # gymnasium takes nothing stronger
    "wind 10": {"enable_wind": True, "wind_power": 10.0},
    "wind 20": {"enable_wind": True, "wind_power": 20.0},
}
WORLDS = (*NOISE, *PHYSICS)
WHO = ("distilled", "alone")
CLASSIFIERS = ("alone", "distilled", "distilled, shifted views")

Wanted = list[tuple[str, Callable[[], Row]]]


class Noisy(gym.ObservationWrapper):
    """Adds normal noise to observations; an episode's noise follows from its seed, and its physics stay as they are."""

    def __init__(self, env: gym.Env, spread: np.ndarray) -> None:
        super().__init__(env)
        self.spread, self.draws = spread, np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self.draws = np.random.default_rng([seed, 1])
        return super().reset(seed=seed, options=options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        noise = self.spread * self.draws.standard_normal(observation.shape)
        return (observation + noise).astype(observation.dtype)


def worlds(teacher: kd.Policy) -> dict[str, Recipe]:
    """Every world by name."""
    home = recipe_for(teacher)
    obs = evaluate(teacher, home, 20, seed=FRESH + 500_000, keep=5_000, workers=1).obs
    spread = np.asarray(obs, np.float64).std(0)

    def noisy(sigma: float) -> Recipe:
        return replace(home, make_env=lambda **kw: Noisy(gym.make(home.env_id, **kw), sigma * spread))

    found = {name: noisy(sigma) if sigma else home for name, sigma in NOISE.items()}
    return found | {name: replace(home, env_kwargs={**home.env_kwargs, **kw}) for name, kw in PHYSICS.items()}


def measured(policy: kd.Policy | None, teacher: kd.Policy, episodes: int) -> Row:
    """Mean return, its bootstrap interval, and the mean length, by world."""
    scores = {name: evaluate(policy, world, episodes, seed=FRESH, workers=1) for name, world in worlds(teacher).items()}
    return {"episodes": episodes, "worlds": {k: [s.mean, *s.ci(), s.mean_length] for k, s in scores.items()}}


def student(path: Path, who: str, seed: int, steps: int, episodes: int) -> Row:
    """One student, taught and measured."""
    how = {"method": "ppd", "steps": steps, **PPO} if who == "alone" else {}
    teacher = kd.load_teacher(path)
    report = kd.distill(teacher, hidden=HIDDEN, seed=seed, max_episodes=100, workers=1, **how)
    spent = {"env_steps": report.env_steps, "retention": report.retention.value, "stopped_by": report.stopped_by}
    return {**spent, "params": report.student.params, **measured(report.policy, teacher, episodes)}


def policy_cells(args: argparse.Namespace) -> Wanted:
    """The rows of the policy half."""
    path, n = args.agents / AGENT, args.episodes
    found: Wanted = [
        (f"policy teacher {n}", lambda: measured(teacher := kd.load_teacher(path), teacher, n)),
        (f"policy random {n}", lambda: measured(None, kd.load_teacher(path), n)),
    ]
    for seed in _seeds(args):
        for who in WHO:
            make = lambda who=who, seed=seed: student(path, who, seed, args.steps, n)  # noqa: E731
            found.append((_cell(args, who, seed), make))
    return found


def policy_table(args: argparse.Namespace, found: Mapping[str, Row]) -> None:
    """The Markdown tables of the policy half."""
    teacher, random = (found.get(f"policy {who} {args.episodes}") for who in ("teacher", "random"))
    if teacher is None:
        return
    mine = {who: {seed: found[c] for seed in _seeds(args) if (c := _cell(args, who, seed)) in found} for who in WHO}
    clean = teacher["worlds"]["clean"][0]
    for who, its in mine.items():
        if its:
            steps = ", ".join(f"{row['env_steps']:,}" for row in its.values())
            print(f"{who}: {next(iter(its.values()))['params']:,} parameters, environment steps {steps}")
    print("\n| world | random | teacher | share | distilled | share | alone | share | distilled less alone |")
    print("|---" * 9 + "|")
    for world in WORLDS:
        mean, low, high, _ = teacher["worlds"][world]
        cells = [world, "" if random is None else f"{random['worlds'][world][0]:.0f}"]
        cells += [_said(Interval(mean, low, high)), f"{mean / clean:.2f}"]
        by_seed = {who: {s: row["worlds"][world][0] for s, row in its.items()} for who, its in mine.items()}
        for returns in by_seed.values():
            values = list(returns.values())
            cells += [_said(student_t_interval(values)), f"{np.mean(values) / clean:.2f}"] if values else ["", ""]
        gaps = [by_seed["distilled"][s] - x for s, x in by_seed["alone"].items() if s in by_seed["distilled"]]
        cells.append(_said(student_t_interval(gaps)) if gaps else "")
        print(f"| {' | '.join(cells)} |")


def _seeds(args: argparse.Namespace) -> Sequence[int]:
    return range(args.first_seed, args.first_seed + args.seeds)


def _cell(args: argparse.Namespace, who: str, seed: int) -> str:
    return f"policy {who} {args.steps if who == 'alone' else 'defaults'} {args.episodes} {seed}"


def _said(mean: Interval) -> str:
    bounds = "" if mean.low is None or mean.high is None else f" [{mean.low:.0f}, {mean.high:.0f}]"
    return f"{mean.value:.0f}{bounds}"


CORRUPTIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "clean": lambda x, g: x,
    "noise 15": lambda x, g: x + 15 * torch.randn(x.shape, generator=g),
    "noise 40": lambda x, g: x + 40 * torch.randn(x.shape, generator=g),
    "half as bright": lambda x, g: 0.5 * x,
    "half the contrast": lambda x, g: 127.5 + 0.5 * (x - 127.5),
    "blur 3x3": lambda x, g: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1),
    "2 pixels down and right": lambda x, g: F.pad(x, (2, 0, 2, 0))[..., : x.shape[-2], : x.shape[-1]],
    "a patch of 8x8 hidden": lambda x, g: _hidden(x, g),
}
"""Of images ``[n, c, h, w]`` as floats from 0 to 255; what leaves that range is clipped."""


def _hidden(x: Tensor, generator: torch.Generator) -> Tensor:
    n, _, high, wide = x.shape
    top, left = (torch.randint(0, size - 7, (n, 1, 1, 1), generator=generator) for size in (high, wide))
    rows_, columns = torch.arange(high).view(1, 1, -1, 1), torch.arange(wide).view(1, 1, 1, -1)
    inside = (rows_ >= top) & (rows_ < top + 8) & (columns >= left) & (columns < left + 8)
    return torch.where(inside, 0.0, x)


def seen(who: Classifier, data: Labelled) -> Row:
    """Accuracy under each corruption, the same images for all."""
    found = {}
    for i, (name, change) in enumerate(CORRUPTIONS.items()):
        moved = change(data.test.inputs.float(), torch.Generator().manual_seed(i))  # type: ignore[union-attr]
        said = who.label_all(moved.round().clamp(0, 255).to(torch.uint8))
        found[name] = float((said.dist.mode() == data.test.labels).float().mean())
    return {"params": who.acting_parameters, "worlds": found}


def classifier_cells(args: argparse.Namespace) -> Wanted:
    """The rows of the classifier half."""
    data, place = find(args.data), args.place / args.data
    batches = -(-len(data.train.labels) // 128)

    def made(who: str, seed: int) -> Row:
        teacher = teacher_of(data, place / "teacher")
        if who == "alone":
            fresh = build(STUDENT, inputs=data.train.inputs, classes=data.classes, seed=seed)
            return seen(train_classifier(fresh, data, epochs=EPOCHS, seed=seed, batches=batches).student, data)
        how: dict[str, Any] = {"epochs": EPOCHS, "seed": seed, "alone": teacher}
        how |= {"view": "shift"} if who == "distilled, shifted views" else {"cache": str(place / "cache")}
        return seen(distill_classifier(data, teacher=teacher, student=STUDENT, **how).policies["student"], data)

    found: Wanted = [("classifier teacher", lambda: seen(teacher_of(data, place / "teacher"), data))]
    for seed in range(args.seeds):
        for who in CLASSIFIERS:
            found.append((f"classifier {who} {seed}", lambda who=who, seed=seed: made(who, seed)))
    return found


def classifier_table(args: argparse.Namespace, found: Mapping[str, Row]) -> None:
    """The Markdown table of the classifier half."""
    teacher = found.get("classifier teacher")
    mine = {
        who: [found[c] for seed in range(args.seeds) if (c := f"classifier {who} {seed}") in found]
        for who in CLASSIFIERS
    }
    if teacher is None:
        return
    print(f"\n| test images | teacher | {' | '.join(CLASSIFIERS)} | distilled less alone, points |")
    print("|---" * (3 + len(CLASSIFIERS)) + "|")
    for name in CORRUPTIONS:
        cells = [name, f"{teacher['worlds'][name]:.3f}"]
        by = {who: [row["worlds"][name] for row in its] for who, its in mine.items()}
        cells += [str(student_t_interval(values)) if len(values) > 1 else "" for values in by.values()]
        gaps = [100 * (d - a) for d, a in zip(by["distilled"], by["alone"], strict=False)]
        cells.append(str(student_t_interval(gaps)) if len(gaps) > 1 else "")
        print(f"| {' | '.join(cells)} |")


PARTS = {"classifier": (classifier_cells, classifier_table), "policy": (policy_cells, policy_table)}
"""Of each half: its rows by name and how each is made, and its tables."""


def main() -> None:
    """The halves that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the student on its own")
    parser.add_argument("--episodes", type=int, default=100, help="in each world")
    parser.add_argument("--data", default="fashion-mnist", help="of the classifier half")
    parser.add_argument("--place", type=Path, default=Path("runs/classifiers"), help="for its teacher and answers")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in args.part:
        cells, table = PARTS[part]
        table(args, {row["cell"]: row for row in rows(cells(args), args.save, args.limit)})


if __name__ == "__main__":
    main()
