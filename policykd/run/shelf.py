"""From a run to the shelf: an agent's folder, its card, the table of cards; it refuses what was not measured."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policykd.disk import write_whole
from policykd.errors import RunError, UsageError
from policykd.load import load_teacher
from policykd.policy import Policy
from policykd.prediction import obs_tensor
from policykd.run.folder import Run
from policykd.run.place import file_hash
from policykd.run.sizes import pretend_distilled
from policykd.teachers.folders import find
from policykd.teachers.output import slim

__all__ = ["cards", "promote", "shelf_page", "shelf_table"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PROBES = 256
"""Sampled observations on which the shelved files must act as the measured ones."""

_README = """# agents: who

Trained agents, teachers and students alike: `card.json` beside the weights, no code. `policykd promote RUN NAME` is the
only door; it also writes this table, from the cards. Every number was measured by the command in the card, on episodes
that chose nothing.

{table}

Returns are means over the reported episodes, actions deterministic, with 95 % bootstrap intervals; retention is
(student - random) / (teacher - random); parameters are those of the network that acts.
"""


def promote(
    run_folder: str | Path,
    name: str,
    agents_dir: str | Path = "agents",
    *,
    size: str | None = None,
    licence: str = "MIT",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Put the agent of a finished run on the shelf, as ``<agents_dir>/<name>/``, and write the shelf's table anew.

    A teacher's zip comes along without what only its training needs. The shelved files are loaded again and must act
    as the measured ones do.

    Args:
        run_folder: a run with a ``report.json``.
        name: small letters, digits, ``.``, ``_`` and ``-``; ``<env>-<algo or student>`` is the habit.
        agents_dir: the shelf.
        size: of a frontier: whose student to take, whatever it kept; None for the chosen one.
        licence: of the agent.
        dry_run: write nothing that stays.

    Returns:
        The card.

    Raises:
        UsageError: ``promote.name``; ``promote.size``, ``name.size``.
        RunError: ``run.missing``, ``run.unfinished``; ``promote.kind`` for a classifier's run;
            ``promote.exists`` for a name that is taken;
            ``promote.none`` for a frontier that chose nobody; ``promote.changed`` for files that are not those that
            were measured; ``promote.unwritable``.
    """
    if not _NAME.fullmatch(name):
        raise UsageError("promote.name", f"the name {name!r}", "small letters, digits, '.', '_' and '-'", "rename it")
    run, shelf = Run.open(run_folder), Path(agents_dir)
    report, source = pretend_distilled(run.report, size, run.folder)
    if report.get("kind") == "supervised":
        found = f"{run_folder}, the run of a classifier"
        raise RunError(
            "promote.kind", found, "a policy's: the shelf is theirs", "policykd.classifiers.load(RUN/student)"
        )
    if (shelf / name).exists():
        raise RunError("promote.exists", f"{shelf / name} is there", "a new name", "choose another, or remove it")
    _check_measured(run.folder, report)
    made = [p for p in (shelf, *shelf.parents) if not p.exists()]
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=shelf, prefix=f".{name}."))
    except OSError as why:
        raise RunError("promote.unwritable", f"{shelf}: {why.strerror}", "a folder that can be written") from None
    try:
        teacher = report.get("kind") == "train"
        policy = load_teacher(run.folder if teacher else source)
        (_copy_teacher(run.folder, folder) if teacher else _copy_student(source, folder))
        card = _card(name, policy, run, report, folder, licence)
        write_whole(folder, {"card.json": _json(card)}, code="promote.unwritable")
        _check_same(policy, load_teacher(folder), folder)
        if not dry_run:
            folder.chmod(0o755)
            folder.rename(shelf / name)
            write_whole(shelf, {"README.md": shelf_page(shelf).encode()}, code="promote.unwritable")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made if dry_run else []:
            parent.rmdir()
    return card


def _check_measured(folder: Path, report: Mapping[str, Any]) -> None:
    files = report.get("files")
    if not isinstance(files, Mapping) or not files:
        raise RunError("promote.changed", f"{folder}/report.json names no files", "the files that were measured")
    for name, wanted in files.items():
        path = folder / str(name)
        if not path.is_file() or file_hash(path) != wanted:
            raise RunError(
                "promote.changed",
                f"{path} is not the file that was measured",
                f"sha256 {str(wanted)[:12]}",
                "run it again",
            )


def _copy_student(source: Path, folder: Path) -> None:
    for ending in ("safetensors", "json"):
        shutil.copyfile(source / f"student.{ending}", folder / f"student.{ending}")


def _copy_teacher(source: Path, folder: Path) -> None:
    parts = find(source)
    slim(parts.zip, folder / "model.zip")
    if parts.normaliser is not None:
        shutil.copyfile(parts.normaliser, folder / "vecnormalize.pkl")


def _card(name: str, policy: Policy, run: Run, report: Mapping[str, Any], folder: Path, licence: str) -> dict[str, Any]:
    kind = "teacher" if report.get("kind") == "train" else "student"
    score, origin = report[kind], policy.origin
    files = sorted(p for p in folder.iterdir() if p.is_file())
    card = {
        "schema": 1,
        "name": name,
        "kind": kind,
        "algo": origin.algo,
        "env_id": report["env_id"],
        "env_kwargs": dict(origin.env_kwargs),
        "wrappers": [asdict(w) for w in origin.wrappers],
        "observation_space": str(policy.spec.observation_space),
        "action_space": str(policy.spec.action_space),
        "family": policy.spec.family,
        "params": policy.acting_parameters,
        "bytes": score.get("bytes") or sum(p.stat().st_size for p in files if p.suffix != ".json"),
        "sha256": {p.name: file_hash(p) for p in files},
        "score": {k: score[k] for k in ("return_mean", "return_ci", "episodes")},
        "random": {k: report["random"][k] for k in ("return_mean", "episodes")},
    }
    if kind == "student":
        card |= {k: report[k] for k in ("retention", "retention_ci", "agreement")}
        card["teacher"] = {
            k: v for k, v in report["teacher"].items() if k in ("algo", "params", "return_mean", "source")
        }
    return card | {
        "seed": report["seed"],
        "env_steps": report["env_steps"],
        "command": run.command,
        "versions": report["versions"],
        "licence": licence,
    }


def _check_same(measured: Policy, shelved: Policy, folder: Path) -> None:
    space = measured.spec.observation_space
    space.seed(0)
    rows = [space.sample() for _ in range(_PROBES)]
    obs = obs_tensor(
        {k: np.stack([r[k] for r in rows]) for k in rows[0]} if isinstance(rows[0], dict) else np.stack(rows)
    )
    if not torch.equal(measured.label(obs).dist.mode(), shelved.label(obs).dist.mode()):
        raise RunError(
            "promote.changed", f"{folder} acts otherwise than the run's agent", "the same actions", "report it"
        )


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1, allow_nan=False) + "\n").encode()


def cards(agents_dir: str | Path) -> dict[str, dict[str, Any]]:
    """The card of every agent on the shelf, by name.

    Raises:
        RunError: ``card.json`` for one that cannot be read.
    """
    found = {}
    for path in sorted(Path(agents_dir).glob("*/card.json")):
        try:
            card = json.loads(path.read_bytes())
            card["kind"], card["score"]["return_mean"], card["score"]["return_ci"]
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise RunError(
                "card.json", f"{path}: {why!r}", "a card made by policykd promote", "promote it anew"
            ) from None
        found[path.parent.name] = card
    return found


def shelf_page(agents_dir: str | Path) -> str:
    """The shelf's README: its table, and what the columns mean."""
    return _README.format(table=shelf_table(agents_dir))


def shelf_table(agents_dir: str | Path) -> str:
    """A Markdown table of all cards: teachers first, each environment's agents together."""
    rows = [
        "| agent | environment | kind | parameters | bytes | return | random | retention | made by |",
        "|---|---|---|---:|---:|---|---:|---|---|",
    ]
    shelf = sorted(cards(agents_dir).items(), key=lambda x: (str(x[1]["env_id"]), x[1]["kind"] != "teacher", x[0]))
    for name, card in shelf:
        score, kept, ci = card["score"], card.get("retention"), card.get("retention_ci")
        low, high = score["return_ci"]
        cells = (
            f"[{name}]({name}/card.json)",
            str(card["env_id"]),
            f"{card['algo']} {card['kind']}",
            f"{card['params']:,}",
            f"{card['bytes']:,}",
            f"{score['return_mean']:.1f} [{low:.1f}, {high:.1f}]",
            f"{card['random']['return_mean']:.1f}",
            "" if kept is None else f"{kept:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else ""),
            f"`{card['command']}`".replace("|", "\\|"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
