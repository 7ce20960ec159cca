"""What is in a checkpoint and what code it carries, said without running any of it; it judges, and refuses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policykd.checkpoints.archive import Archive, open_archive, sealed
from policykd.checkpoints.fields import Fields, read_fields
from policykd.checkpoints.pickles import Pickle, read
from policykd.checkpoints.spaces import as_space
from policykd.checkpoints.vecnormalize import Moments, Statistics, read_vecnormalize
from policykd.checkpoints.weights import pickled_parts, read_weights
from policykd.errors import PolicykdError
from policykd.teachers.blueprint import kind_of
from policykd.teachers.folders import Parts, find
from policykd.teachers.loading import algorithm, load, policy_class
from policykd.teachers.settings import read_settings
from policykd.teachers.verdicts import VERDICTS, Verdict, call_of, verdict_of

__all__ = ["CodeUse", "Inspection", "inspect"]


@dataclass(frozen=True)
class CodeUse:
    """A name that a pickle in the file would import, and what that means.

    Attributes:
        where: the field or file (``data:lr_schedule``, ``vecnormalize.pkl``).
        name: ``module.name``.
        count: how often.
        verdict: see ``verdicts.verdict_of``.
        call: for what is worse than ``function``: the call that unpickling would make.
    """

    where: str
    name: str
    count: int
    verdict: Verdict
    call: str = ""


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found; plain values only.

    Attributes:
        problem: why ``load`` refuses the file; None where it loads.
        algo_reason: what the algorithm was inferred from.
        tensors: shapes by name, target networks apart.
        acting_parameters, all_parameters: of the network that acts, and of everything in ``policy.pth``.
        env_id_then, env_id: the id in the files, and the one that runs today.
        code: names that unpickling would import, worst first; nothing was.
    """

    path: str
    sha256: str
    size: int
    members: Mapping[str, int]
    problem: str | None = None
    sb3_version: str | None = None
    system: str | None = None
    algo: str | None = None
    algo_reason: str | None = None
    policy_class: str | None = None
    family: str | None = None
    observation_space: str | None = None
    action_space: str | None = None
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    acting_parameters: int | None = None
    all_parameters: int | None = None
    gamma: float | None = None
    reward_scale: float | None = None
    normaliser: Mapping[str, Any] | None = None
    env_id_then: str | None = None
    env_id: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[Mapping[str, Any], ...] = ()
    code: tuple[CodeUse, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any name in the file."""
        return self.code[0].verdict if self.code else "data"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return {**asdict(self), "verdict": self.verdict}


def inspect(path: str | Path) -> Inspection:
    """What is in the agent at ``path``, and what code it carries; nothing in it is run.

    A file that ``load`` refuses is described as far as it can be read, with the reason in ``problem``.

    Args:
        path: as for ``load``.

    Raises:
        CheckpointError: where there is no SB3 zip that could be described (missing, truncated, not a zip).
    """
    parts = find(Path(path))
    with sealed(parts.zip):
        archive = open_archive(parts.zip)
        found: dict[str, Any] = {
            "path": str(parts.zip),
            "sha256": archive.sha256,
            "size": parts.zip.stat().st_size,
            "members": dict(archive.sizes),
            "sb3_version": _text(archive, "_stable_baselines3_version"),
            "system": _text(archive, "system_info.txt"),
        }
        fields = read_fields(archive)
        found["code"] = tuple(
            sorted(_code(archive, fields, parts), key=lambda c: (VERDICTS.index(c.verdict), c.where, c.name))
        )
        steps = (_policy, _spaces, _tensors, _surroundings, _teacher)
        for step in steps:
            try:
                found |= step(archive, fields, parts)
            except PolicykdError as error:
                found.setdefault("problem", str(error))
        return Inspection(**found)


def _text(archive: Archive, name: str) -> str | None:
    return archive.read(name)[:2000].decode("utf-8", "replace").strip() if name in archive.sizes else None


def _policy(archive: Archive, fields: Fields, parts: Parts) -> dict[str, Any]:
    found = policy_class(fields)
    present = [n for n in ("clip_range", "cg_max_steps", "policy_delay", "target_noise_clip") if n in fields]
    reason = f"policy class {found}" + (f" and the settings {', '.join(present)}" if present else "")
    algo = algorithm(found, kind_of(found.module, found.name), fields.raw)
    return {"policy_class": str(found), "algo_reason": reason, "algo": algo}


def _spaces(archive: Archive, fields: Fields, parts: Parts) -> dict[str, Any]:
    names = ("observation_space", "action_space")
    return {name: str(as_space(fields.value(name), name)) for name in names}


def _tensors(archive: Archive, fields: Fields, parts: Parts) -> dict[str, Any]:
    weights = read_weights(archive.read("policy.pth"))
    own = {t.data_ptr(): t.numel() for t in weights.values()}  # a shared extractor is stored under several names
    shapes = {n: tuple(t.shape) for n, t in weights.items() if not n.split(".")[0].endswith("_target")}
    return {"tensors": shapes, "all_parameters": sum(own.values())}


def _surroundings(archive: Archive, fields: Fields, parts: Parts) -> dict[str, Any]:
    settings = read_settings(parts)
    found: dict[str, Any] = {"env_id_then": settings.env_id_then, "env_id": settings.env_id}
    if parts.normaliser is not None:
        found["normaliser"] = {"path": str(parts.normaliser), **_described(read_vecnormalize(parts.normaliser))}
    return found


def _described(statistics: Statistics) -> dict[str, Any]:
    def summary(moments: Moments) -> dict[str, Any]:
        std = np.sqrt(moments.var)
        return {"shape": list(std.shape), "std": [float(std.min()), float(std.max())] if std.size else []}

    obs = statistics.obs
    facts = {k: summary(m) for k, m in obs.items()} if isinstance(obs, Mapping) else obs and summary(obs)
    return {
        "observations": facts,
        "clip": statistics.clip,
        "epsilon": statistics.epsilon,
        "reward_scale": statistics.reward_scale,
    }


def _teacher(archive: Archive, fields: Fields, parts: Parts) -> dict[str, Any]:
    teacher = load(parts.zip)
    origin = teacher.origin
    return {
        "family": teacher.spec.family,
        "acting_parameters": teacher.acting_parameters,
        "gamma": origin.gamma,
        "reward_scale": origin.reward_scale,
        "env_kwargs": dict(origin.env_kwargs),
        "wrappers": tuple({"name": w.name, "kwargs": dict(w.kwargs)} for w in origin.wrappers),
    }


def _code(archive: Archive, fields: Fields, parts: Parts) -> Iterator[CodeUse]:
    for where, pickle in _pickles(archive, fields, parts):
        if isinstance(pickle, str):
            yield CodeUse(where, pickle, 1, "unknown")
            continue
        for name, count in pickle.names.items():
            verdict = verdict_of(pickle, name)
            call = call_of(pickle, name) if verdict in ("unknown", "dangerous") else ""
            yield CodeUse(where, name, count, verdict, call)
    # A text here makes SB3 call gymnasium.make, which imports what stands before the colon.
    if isinstance(env := fields.raw.get("env"), str):
        yield CodeUse("data:env", "gymnasium.make", 1, "dangerous", f"gymnasium.make({env!r})"[:200])


def _pickles(archive: Archive, fields: Fields, parts: Parts) -> Iterator[tuple[str, Pickle | str]]:
    def attempt(where: str, make: Any) -> Iterator[tuple[str, Pickle | str]]:
        try:
            made = make()
            yield from ((where, p) for p in (made if isinstance(made, list) else [made]))
        except PolicykdError as error:
            yield where, f"<unreadable: {error.code}>"

    for name in fields.pickled:
        yield from attempt(f"data:{name}", lambda name=name: fields.pickle(name))
    for member in archive.sizes:
        if member.endswith(".pth"):
            yield from attempt(member, lambda member=member: pickled_parts(archive.read(member), member))
    if parts.normaliser is not None:
        yield from attempt(parts.normaliser.name, lambda: read(parts.normaliser.read_bytes()))
