"""``policykd train``: a teacher from a recipe, measured on fresh episodes, in a run folder that every verb reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from policykd import recipe
from policykd.cli.arguments.train import Arguments
from policykd.cli.flags import settings
from policykd.cli.names import reach_here
from policykd.cli.places import prepare, run_folder
from policykd.cli.screen import Screen, span
from policykd.clock import Clock
from policykd.evaluation import evaluate
from policykd.load import load_teacher
from policykd.prediction import Progress
from policykd.recipe import Recipe
from policykd.report import Measured, versions
from policykd.run import Run, check_vacant
from policykd.run.place import file_hash
from policykd.teachers.folders import find
from policykd.teachers.train import TrainResult, train

__all__ = ["run"]

_REPORT, _SEEDS = 500_000_000, 10_000
"""First seed of the reported episodes, beyond those that selected the model; seeds that a run has for itself."""


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Train, measure, write; returns the fields of report.json and the run's folder."""
    clock = Clock()
    waited = time.perf_counter() - screen.began  # imports
    with clock.phase("load"):
        prepare(args.threads, args.gym_packages)
        if ":" in args.env:
            reach_here()
        where = recipe.load(args.env)
    asked = where.hyperparams.get(args.algo, {})
    folder = run_folder(args.out, where.env_id, args.algo)
    if args.dry_run:
        check_vacant(folder)
        where.make().close()
        facts: dict[str, Any] = {
            "env_id": where.env_id,
            "algo": args.algo,
            "threshold": where.threshold,
            "out": str(folder),
        }
        facts |= {"hyperparams": {k: str(v) for k, v in asked.items()}, "config": settings(args)}
        rows = [(k, str(v)) for k, v in facts.items() if k not in ("hyperparams", "config")]
        screen.table("training", ("", ""), [*rows, *((k, str(v)) for k, v in asked.items())])
        screen.hint("dry run: nothing was written")
        return facts

    with Run.create(folder, config=settings(args), command=screen.command) as run:
        with screen.progress("train") as tell:
            seen: dict[str, float | None] = {}

            def progress(news: Progress) -> None:
                names = {"rollout/ep_rew_mean": "return", "train/loss": "loss", "eval/mean_reward": "evaluated"}
                seen.update({names[k]: v for k, v in news.losses.items() if k in names})
                tell(news.env_steps, round(news.env_steps / max(news.fraction, 1e-9)), seen)

            try:
                with clock.phase("learn"):
                    result = train(
                        where,
                        args.algo,
                        out=folder,
                        seed=args.seed,
                        total_timesteps=args.steps,
                        until=args.until,
                        progress=progress,
                    )
            except KeyboardInterrupt:
                kept = (
                    f"the best so far: policykd evaluate {folder}" if any(folder.glob("*.zip")) else "nothing was kept"
                )
                raise KeyboardInterrupt(kept) from None
        fields = _measured(args, where, result, run, clock)
        spent = {name: wall + waited * (name == "load") for name, wall in clock.wall.items()}
        fields["seconds"] = _rounded({**spent, "total": time.perf_counter() - screen.began})
        run.write_report(fields)
    it, random = fields["teacher"], fields["random"]
    figures = [
        (name, span(x["return_mean"], x["return_ci"]), f"{x['episodes']}", f"{x['params']:,}" if "params" in x else "")
        for name, x in ((args.algo, it), ("random", random))
    ]
    screen.table(f"{where.env_id}: {args.algo} trained", ("policy", "return [95 %]", "episodes", "parameters"), figures)
    screen.hint(f"{fields['seconds']['total']:.1f} s, {fields['env_steps']:,} environment steps, {result.stopped_by}")
    if not asked:
        screen.hint(f"{args.env} has no hyper-parameters for {args.algo}: these were SB3's defaults")
    screen.hint(f"charts    tensorboard --logdir {folder}")
    screen.hint(f"keep it   policykd promote {folder} NAME")
    return {**fields, "run": str(folder)}


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(spent, 3) for name, spent in seconds.items()}


def _measured(args: Arguments, where: Recipe, result: TrainResult, run: Run, clock: Clock) -> dict[str, Any]:
    """The fields of report.json: the saved model, loaded from its file, beside the random policy."""
    with clock.phase("load"):
        teacher = load_teacher(run.folder)
    with clock.phase("evaluate"):
        score = evaluate(teacher, where, args.episodes, seed=_REPORT + _SEEDS * args.seed)
        random = evaluate(None, where, args.episodes, seed=_REPORT + _SEEDS * args.seed)
    for tag in ("eval/mean_reward", "rollout/ep_rew_mean"):
        run.reference(result.timesteps, {tag: random.mean}, "random")
    parts = find(run.folder)
    files = [path for path in (parts.zip, parts.normaliser) if path is not None]
    return {
        "schema": 1,
        "kind": "train",
        "env_id": where.env_id,
        "method": args.algo,
        "seed": args.seed,
        "stopped_by": result.stopped_by,
        "teacher": Measured.of(score, teacher).to_dict(),
        "random": Measured.of(random).to_dict(),
        "env_steps": result.timesteps,
        "seconds": {},
        "cpu_seconds": _rounded(clock.cpu),
        "files": {str(path.relative_to(run.folder)): file_hash(path) for path in files},
        "config": settings(args),
        "versions": versions(),
    }
