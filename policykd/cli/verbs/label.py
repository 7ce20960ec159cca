"""``policykd label``: a teacher acts and answers; what it saw, did and said becomes a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from policykd import datasets
from policykd.cli.arguments.label import Arguments
from policykd.cli.places import agent, home, prepare
from policykd.cli.screen import Screen, number
from policykd.errors import RunError
from policykd.prediction import Batch
from policykd.rollouts import Collector, make
from policykd.supervised import label

__all__ = ["run"]


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Write it; returns what it holds."""
    prepare(args.threads, args.gym_packages)
    out = Path(args.out or "")
    teacher = agent(args.teacher, args.normalizer)
    where = home(teacher, args.env)
    facts: dict[str, Any] = {
        "out": str(out),
        "env_id": where.env_id,
        "teacher": teacher.origin.path,
        "algo": teacher.origin.algo,
        "steps": args.steps,
        "explore": args.explore,
        "seed": args.seed,
    }
    if args.dry_run:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise RunError("dataset.exists", f"{out} exists already", "a new or empty folder", "choose another")
        screen.table("dataset", ("", ""), [(k, str(v)) for k, v in facts.items()])
        screen.hint("dry run: nothing was written")
        return facts
    envs = make(where, args.num_envs)
    collector = Collector(envs, teacher, seed=args.seed, explore=args.explore, episodes=True)
    with screen.progress("label") as tell:

        def batches() -> Iterator[Batch]:
            taken = 0
            for batch in label(collector, args.steps):
                taken += len(batch)
                tell(taken, args.steps, {"return": collector.recent_return})
                yield batch

        origin = replace(teacher.origin, env_id=where.env_id, env_kwargs=where.env_kwargs, wrappers=where.wrappers)
        about = {"command": screen.command, "seed": args.seed, "explore": args.explore, "num_envs": args.num_envs}
        try:
            made = datasets.write(out, batches(), spec=teacher.spec, origin=origin, about=about)
        finally:
            envs.close()
    size = sum(shard.bytes for shard in made.manifest.shards)
    found = {
        **facts,
        "steps": made.manifest.steps,
        "episodes": made.manifest.episodes,
        "bytes": size,
        "shards": len(made.manifest.shards),
        "return_mean": collector.recent_return if collector.recent else None,
    }
    rows = [("dataset", str(out)), ("steps", f"{made.manifest.steps:,}"), ("bytes", f"{size:,}")]
    rows += [("episodes", f"{made.manifest.episodes:,}"), ("recent return", number(collector.recent_return))]
    screen.table(where.env_id, ("", ""), rows)
    screen.hint(f"use it    policykd distill {args.teacher} --method dataset --dataset {out}")
    return found
