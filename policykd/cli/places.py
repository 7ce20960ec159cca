"""Where the agents and folders that a person names are; it loads, and refuses to guess what was meant."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import torch

from policykd.cli.arguments import Teaches
from policykd.cli.names import import_packages, reach_here
from policykd.council import council
from policykd.distill import recipe_for
from policykd.load import load_teacher
from policykd.policy import Policy
from policykd.recipe import Recipe

__all__ = ["agent", "home", "prepare", "run_folder", "taught_by"]


def prepare(threads: int, packages: tuple[str, ...] = ()) -> None:
    """Set torch's threads, and let packages register their environments."""
    torch.set_num_threads(threads)
    import_packages(packages)


def agent(path: str, normalizer: str) -> Policy:
    """The policy at ``path``; ``normalizer`` is a path, ``auto`` or ``none``."""
    return load_teacher(path, None if normalizer == "none" else normalizer)


def taught_by(args: Teaches) -> Policy:
    """The teacher that a verb names, or all that it names as one."""
    first = agent(args.teacher, args.normalizer)
    if not args.also:
        return first
    if args.env is not None and ":" in args.env:
        reach_here()
    return council([first, *args.also], args.combine, args.env)


def home(policy: Policy, env: str | None) -> Recipe:
    """The environment of ``policy``, or ``env`` with its wrappers."""
    if env is not None and ":" in env:
        reach_here()
    return recipe_for(policy, env)


def run_folder(given: Path | None, *names: str) -> Path:
    """``given``, or a new name under runs/ made of the time and ``names``."""
    if given is not None:
        return given
    plain = [re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in names]
    path = Path("runs") / "-".join([f"{datetime.now():%Y%m%d-%H%M%S}", *plain])
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())
