"""``policykd evaluate``: agents and the random policy on the same episodes, side by side."""

from __future__ import annotations

from typing import Any

from policykd.cli.arguments.evaluate import Arguments
from policykd.cli.places import agent, home, prepare
from policykd.cli.screen import Screen, number, span
from policykd.evaluation import Score, evaluate, retention
from policykd.report import Measured

__all__ = ["run"]


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Play them; returns what was measured, in the order of the paths."""
    prepare(args.threads, args.gym_packages)
    loaded = [
        (path, policy, home(policy, args.env)) for path in args.paths for policy in [agent(path, args.normalizer)]
    ]
    randoms: dict[str, Score] = {}
    first: tuple[str, Score] | None = None
    found: list[dict[str, Any]] = []
    for path, policy, where in loaded:
        screen.hint(f"playing {args.episodes} episodes of {where.env_id}: {path}")
        score = evaluate(policy, where, args.episodes, seed=args.seed, deterministic=not args.stochastic)
        if where.env_id not in randoms:
            randoms[where.env_id] = evaluate(None, where, args.episodes, seed=args.seed)
        facts = {"path": path, "env_id": where.env_id, **Measured.of(score, policy).to_dict()}
        facts["seconds"] = round(score.seconds, 3)
        first = first or (where.env_id, score)
        if score is not first[1] and first[0] == where.env_id:
            kept = retention(score, first[1], randoms[where.env_id])
            facts["retention"] = kept.value
            facts["retention_ci"] = None if kept.low is None else [kept.low, kept.high]
            if kept.reason is not None:
                facts["retention_reason"] = kept.reason
        found.append(facts)
    random = {env_id: Measured.of(score).to_dict() for env_id, score in randoms.items()}
    _show(found, random, screen)
    return {"seed": args.seed, "deterministic": not args.stochastic, "policies": found, "random": random}


def _show(found: list[dict[str, Any]], random: dict[str, dict[str, Any]], screen: Screen) -> None:
    rows = [
        (
            it["path"],
            it["env_id"],
            span(it["return_mean"], it["return_ci"]),
            f"{it['episodes']}",
            number(it["length_mean"]),
            f"{it['params']:,}",
            span(it.get("retention"), it.get("retention_ci"), 3),
        )
        for it in found
    ]
    rows += [
        (
            "random",
            env_id,
            span(it["return_mean"], it["return_ci"]),
            f"{it['episodes']}",
            number(it["length_mean"]),
            "",
            "",
        )
        for env_id, it in random.items()
    ]
    columns = ["policy", "environment", "return [95 %]", "episodes", "length", "parameters", "retention [95 %]"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]  # type: ignore[misc]
    screen.table("same episodes for all", columns, rows)
