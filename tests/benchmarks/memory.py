"""Bytes and CPU time of the memory of labelled rows: LunarLander's by column, and stacks of frames held once.

    python tests/benchmarks/memory.py [--agent agents/lunarlander-ppo] [--env LunarLander-v3] [--rows 1000000]

The rows are a really collected rollout, added again and again until the memory is full. The frames are noise: every
one of them differs from every other.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import policykd as kd
from policykd import recipe
from policykd.datasets import Ring
from policykd.datasets.frames import Frames
from policykd.distributions import Categorical
from policykd.prediction import Batch, Prediction
from policykd.rollouts import Collector, make

_AGENTS = Path(__file__).parent.parent.parent / "agents"
_BATCH = 512


def resident() -> float:
    """Bytes of this process that lie in memory; NaN where the system has no /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else float("nan")


def micros(f: Callable[[], object], times: int = 200) -> float:
    """The median of ``times`` calls, in microseconds of CPU time."""
    spent = []
    for _ in range(times):
        begun = time.thread_time()
        f()
        spent.append(time.thread_time() - begun)
    return 1e6 * statistics.median(spent)


def by_column(batch: Batch) -> dict[str, int]:
    """Bytes of one row."""
    found: list[int] = []
    batch.map(lambda t: found.append(t[:1].nbytes) or t)  # type: ignore[func-returns-value]
    said = batch.target
    names = ["obs", *vars(said.dist), *(name for name in ("value", "q") if vars(said)[name] is not None)]
    return dict(zip([*names, *said.features, *batch.extra], found, strict=True))


def flat(batch: Batch, rows: int, extra: bool) -> None:
    """One line of the first table."""
    before = resident()
    memory = Ring(rows, seed=0, extra=extra)
    while memory.added < rows:
        memory.add(batch)
    grown = resident() - before
    columns = by_column(memory.newest(1))
    one = batch[:_BATCH]
    print(
        f"| {', '.join(f'{k} {v}' for k, v in columns.items())} | {memory.nbytes / len(memory):.0f} "
        f"| {memory.nbytes / 1e6:.1f} | {grown / 1e6:.1f} | {micros(lambda: memory.sample(_BATCH)):.0f} "
        f"| {micros(lambda: memory.add(one)):.0f} |",
        flush=True,
    )


def stacks(rows: int, last: bool, envs: int = 8, stack: int = 4, length: int = 500) -> Iterator[Batch]:
    """Rows of (4, 84, 84) or (84, 84, 4) of environments that take turns, in episodes of ``length``."""
    rng = np.random.default_rng(0)
    films = np.zeros((envs, stack, 84, 84), np.uint8)
    for first in range(0, rows, _BATCH):
        seen = []
        for step in range(first // envs, (first + _BATCH) // envs):
            films = np.roll(films, -1, 1)
            films[:, -1] = rng.integers(0, 256, (envs, 84, 84), dtype=np.uint8)
            if step % length == 0:
                films[:, :-1] = 0
            seen.append(np.moveaxis(films, 1, -1) if last else films)
        obs = torch.from_numpy(np.ascontiguousarray(np.concatenate(seen)))
        yield Batch(obs, Prediction(Categorical(torch.zeros(len(obs), 6)), torch.zeros(len(obs))))


def framed(rows: int, last: bool, shared: bool) -> None:
    """One line of the second table."""
    memory = Ring(rows, seed=0)
    spent = []
    with mock.patch.object(Frames, "worth", Frames.worth if shared else lambda *_: None):
        for batch in stacks(2 * rows, last):
            begun = time.thread_time()
            memory.add(batch)
            spent.append(time.thread_time() - begun)
    print(
        f"| {'(84, 84, 4)' if last else '(4, 84, 84)'} | {'once' if shared else 'plainly'} | {memory.nbytes / 1e6:.1f} "
        f"| {micros(lambda: memory.sample(_BATCH), 20) / 1e3:.1f} | {1e3 * statistics.median(spent):.1f} |",
        flush=True,
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, default=_AGENTS / "lunarlander-ppo")
    parser.add_argument("--env", default="LunarLander-v3")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=10_000, help="rows of stacked frames")
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = kd.load_teacher(args.agent)
    envs = make(recipe.load(args.env), 16)
    batches = {values: Collector(envs, teacher, seed=0, values=values).collect(640).batch for values in (False, True)}
    labels = batches[True].target.dist
    asked = replace(batches[True], target=replace(batches[True].target, q=vars(labels)["logits"].clone()))
    print(f"{args.rows:,} rows of {args.env}")
    print(
        "| bytes of a row by column | bytes a row | MB | process grew by, MB | sample(512), CPU us | add(512), CPU us |"
    )
    print("|---" * 6 + "|", flush=True)
    for batch, extra in ((batches[False], False), (batches[True], False), (batches[True], True), (asked, True)):
        flat(batch, args.rows, extra)
    print(f"\n{args.images:,} rows of stacked frames")
    print("| shape | frames are held | MB | sample(512), CPU ms | add(512), CPU ms |")
    print("|---" * 5 + "|", flush=True)
    for last in (False, True):
        for shared in (False, True):
            framed(args.images, last, shared)


if __name__ == "__main__":
    main()
