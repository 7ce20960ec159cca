"""A student in a world that changes: what it keeps of its teacher before, through and after the change.

    python tests/benchmarks/drift.py --save runs/drift.jsonl
    python tests/benchmarks/drift.py --gradual --save runs/drift.jsonl
    python tests/benchmarks/drift.py --rest --save runs/drift-rest.jsonl

One environment, one pass, no reset of anything at the change. The teacher sees the physics, the student does not. The
student learns from its first step; a row is frozen (the student of the change, no more updates), kept learning all the
time, or watched (``OnlineDistiller(watch=...)``): learning stops when the divergence is low, and begins again, with an
empty memory, when Page-Hinkley's test fires. Retention is measured on 100 fresh episodes in the world of the moment,
teacher and random policy on the same ones; intervals are Student-t over seeds.

``--rest`` measures the detector alone: a student that learns no more, 100,000 steps of a world that stays as it is,
then the change; the same looks are read again with every pair of knobs.
"""

from __future__ import annotations

import argparse
import copy
import json
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import policykd as kd
from policykd import recipe, students
from policykd.evaluation import evaluate, retention, student_t_interval
from policykd.losses import forward_kl
from policykd.online import OnlineConfig, OnlineDistiller, PageHinkley, Watch
from policykd.online.lookout import LOOK
from policykd.prediction import Spec

ROOT = Path(__file__).parents[2]
FILE = ROOT / "envs/drifting_cartpole.py"
WORLD = runpy.run_path(str(FILE))
BEFORE, AFTER = WORLD["BEFORE"], WORLD["AFTER"]
CHANGE, GRADUAL = 20_000, 20_000
"""Step of the change; steps that the gradual one takes."""
REST = 100_000
"""Steps of a world that stays as it is."""
MARKS = (0, 5_000, 10_000, 20_000)
"""Steps after the change at which the students are measured."""
EVERY = 4
"""One step of so many is looked at; while the student rests, no other is labelled."""
HOW = OnlineConfig(
    capacity=10_000, rows_per_update=5, learning_rate=1e-2, warm_up=200, publish_every=10, rest_every=EVERY
)
WATCHED = Watch(low=0.02, detector=PageHinkley(threshold=25.0))


@dataclass
class Life:
    """One student's life, as it is lived.

    Attributes:
        events: (step, what): ``quiet`` when it stopped learning, ``alarm`` when the detector fired.
        labels, updates: spent in all.
        snapshots: the acting student at the marks.
    """

    events: list[tuple[int, str]] = field(default_factory=list)
    labels: int = 0
    updates: int = 0
    snapshots: dict[int, kd.Policy] = field(default_factory=dict)


def divergence(student: kd.Policy, teacher: kd.Policy, seen: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean KL of the student from the teacher on some (student's view, teacher's view)."""
    obs, views = (torch.as_tensor(np.stack(column)) for column in zip(*seen, strict=True))
    return float(forward_kl(student.label(obs), teacher.label(views)).mean())


def live(teacher: kd.Policy, watch: Watch | None, seed: int, until: int | None) -> Life:
    """From step 0 to the last mark: act, look, and learn while the watch says so."""
    env = WORLD["make"](privileged=False, physics=BEFORE, then=AFTER, change=CHANGE, until=until)
    spec = Spec(env.observation_space, env.action_space, teacher.spec.family)
    student = students.mlp(spec, (16, 16), seed=seed)
    online = OnlineDistiller(student, teacher, config=HOW, watch=watch, seed=seed)
    life = Life()
    obs, info = env.reset(seed=seed)
    for step in range(CHANGE + MARKS[-1] + 1):
        if step - CHANGE in MARKS:
            life.snapshots[step - CHANGE] = copy.deepcopy(online.published.policy)
        was = online.watch
        online.observe(obs, teacher_obs=info["teacher_obs"])
        online.update()
        if was is not None and (now := online.watch) is not None:
            if now.alarms > was.alarms:
                life.events.append((step, "alarm"))
            elif was.learning > now.learning:
                life.events.append((step, "quiet"))
        obs, _, terminated, truncated, info = env.step(online.act(obs))
        if terminated or truncated:
            obs, info = env.reset()
    life.labels, life.updates = online.status.asked, online.status.updates
    return life


def physics(mark: int, until: int | None) -> tuple[float, ...]:
    """Of the world, so many steps after the change."""
    share = 1.0 if until is None else min(1.0, mark / (until - CHANGE))
    return tuple(WORLD["between"](BEFORE, AFTER, share).tolist())


def judge(teacher: kd.Policy, world: tuple[float, ...], seed: int) -> Callable[[kd.Policy], dict[str, float]]:
    """Measures policies in one world on 100 episodes of their own."""
    see = {who: recipe.load(FILE, env_kwargs={"physics": world, "privileged": who}) for who in (True, False)}
    first = 2_000_000 + 1_000 * seed
    best, random = evaluate(teacher, see[True], seed=first), evaluate(None, see[False], seed=first)

    def measure(student: kd.Policy) -> dict[str, float]:
        score = evaluate(student, see[False], seed=first)
        kept = retention(score, best, random).value
        return {"retention": np.nan if kept is None else kept, "return": score.mean, "teacher": best.mean}

    return measure


def one(teacher: kd.Policy, seed: int, gradual: bool) -> dict[str, Any]:
    """Everything about one seed, as JSON."""
    until = CHANGE + GRADUAL if gradual else None
    lives = {"learning": live(teacher, None, seed, until), "watched": live(teacher, WATCHED, seed, until)}
    found: dict[str, Any] = {"seed": seed, "gradual": gradual, "marks": {}}
    frozen = lives["watched"].snapshots[0]
    found["before"] = judge(teacher, BEFORE, seed)(frozen)
    for mark in MARKS:
        measure = judge(teacher, physics(mark, until), seed)
        found["marks"][mark] = {"frozen": measure(frozen)} | {k: measure(x.snapshots[mark]) for k, x in lives.items()}
    for name, life in lives.items():
        found[name] = {"events": life.events, "labels": life.labels, "updates": life.updates}
    return found


def rest(teacher: kd.Policy, seed: int) -> dict[str, Any]:
    """The looks at a student that stopped learning: at rest, and after the change."""
    env = WORLD["make"](privileged=False, physics=BEFORE, then=AFTER, change=CHANGE + REST)
    spec = Spec(env.observation_space, env.action_space, teacher.spec.family)
    online = OnlineDistiller(students.mlp(spec, (16, 16), seed=seed), teacher, config=HOW, seed=seed)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    looks: list[float] = []
    obs, info = env.reset(seed=seed)
    for step in range(CHANGE + REST + 5_000):
        if step < CHANGE // 2:
            online.observe(obs, teacher_obs=info["teacher_obs"])
            online.update()
        elif step >= CHANGE and step % EVERY == 0:
            seen.append((obs, info["teacher_obs"]))
        obs, _, terminated, truncated, info = env.step(online.act(obs))
        if terminated or truncated:
            obs, info = env.reset()
        if len(seen) == LOOK:
            looks.append(divergence(online.published.policy, teacher, seen))
            seen.clear()
    return {"seed": seed, "looks": looks}


def read_again(found: list[dict[str, Any]]) -> Iterator[str]:
    """What other knobs would have made of the looks: a Markdown table."""
    quiet = REST // (EVERY * LOOK)
    means = [np.mean(row["looks"][:quiet]) for row in found]
    yield f"Seeds: {len(found)}; mean divergence at rest {min(means):.1e} to {max(means):.1e}.\n"
    yield "| low | threshold | false alarms in 1,000 looks | delay in looks, mean | most | never |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for low in (1e-6, 1e-4, 2e-3, 2e-2):
        for threshold in (6.0, 12.0, 25.0, 50.0):
            false, delays = 0, []
            for row in found:
                knobs = PageHinkley(threshold=threshold)
                watch = Watch(low=low, detector=knobs, learning=False)
                for i, look in enumerate(row["looks"]):
                    was, watch = watch, watch.see(look)
                    if watch.alarms > was.alarms:
                        if i >= quiet:
                            delays.append(i - quiet + 1)
                            break
                        false += 1
                        watch = Watch(low=low, detector=knobs, learning=False, alarms=watch.alarms)
            rate = 1_000 * false / (quiet * len(found))
            mean, most = (f"{np.mean(delays):.1f}", max(delays)) if delays else ("", "")
            yield f"| {low:g} | {threshold:g} | {rate:.2f} | {mean} | {most} | {len(found) - len(delays)} |"


def told(found: list[dict[str, Any]]) -> Iterator[str]:
    """The Markdown tables of some seeds."""

    def over(values: list[float], digits: int = 3) -> str:
        mean = student_t_interval(values)
        if mean.low is None or mean.high is None:
            return f"{mean.value:.{digits}f}"
        return f"{mean.value:.{digits}f} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"

    names = ("frozen", "learning", "watched")
    yield f"Seeds: {len(found)}. Before the change: {over([row['before']['retention'] for row in found])}\n"
    yield (
        "| steps after the change | teacher's return | "
        + " | ".join(f"{name}" for name in names)
        + " | least watched |"
    )
    yield "|---:|---:|" + "---|" * (len(names) + 1)
    for mark in found[0]["marks"]:
        cells = [over([row["marks"][mark][name]["retention"] for row in found]) for name in names]
        least = min(row["marks"][mark]["watched"]["retention"] for row in found)
        best = over([row["marks"][mark]["frozen"]["teacher"] for row in found], 1)
        yield f"| {int(mark):,} | {best} | {' | '.join(cells)} | {least:.3f} |"
    yield "\n| seed | quiet at | false alarms | delay in steps | later alarms | labels, learning | labels, watched |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for row in found:
        alarms = [step for step, what in row["watched"]["events"] if what == "alarm"]
        after = [step - CHANGE for step in alarms if step >= CHANGE]
        quiet = next((step for step, what in row["watched"]["events"] if what == "quiet"), None)
        cells = [row["seed"], quiet, len(alarms) - len(after), after[0] if after else "none", max(0, len(after) - 1)]
        yield "| " + " | ".join(map(str, [*cells, row["learning"]["labels"], row["watched"]["labels"]])) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, default=ROOT / "agents/drifting-cartpole-ppo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--gradual", action="store_true", help=f"the change takes {GRADUAL:,} steps")
    parser.add_argument("--rest", action="store_true", help="the detector alone")
    parser.add_argument("--save", type=Path, help="a file of one JSON line a seed; what it holds is not run again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.save.read_text().splitlines() if args.save and args.save.exists() else []
    known = {(row["seed"], row.get("gradual", False)): row for row in map(json.loads, lines)}
    teacher = kd.load_teacher(args.agent)
    found = []
    for seed in args.seeds:
        row = known.get((seed, args.gradual))
        if row is None:
            row = rest(teacher, seed) if args.rest else one(teacher, seed, args.gradual)
            row = json.loads(json.dumps(row))
            if args.save:
                with args.save.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        found.append(row)
    print("\n".join(read_again(found) if args.rest else told(found)))


if __name__ == "__main__":
    main()
