"""Where the parts of an agent lie: the zip in a folder, the normaliser and settings beside a zip; it opens none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from policykd.errors import CheckpointError

__all__ = ["Parts", "find"]

_NORMALISERS = ("vecnormalize.pkl", "vec_normalize.pkl")
_STEPS = re.compile(r"(?P<prefix>.+)_(?P<steps>\d+)_steps")
_RUN = re.compile(r"(?P<env>.+)_\d+")


@dataclass(frozen=True)
class Parts:
    """The files of one agent.

    Attributes:
        zip: the agent.
        normaliser: VecNormalize's pickle, None where there is none.
        config, args, env_kwargs: rl_zoo3's settings, None where there are none.
    """

    zip: Path
    normaliser: Path | None = None
    config: Path | None = None
    args: Path | None = None
    env_kwargs: Path | None = None


def find(path: Path) -> Parts:
    """The files of the agent at ``path``: a zip (with or without its ending) or a folder that holds one.

    Of a folder of rl_zoo3 the final agent is taken (``<Env>.zip``, as its ``enjoy`` does), else ``best_model.zip``,
    else the checkpoint with the most steps; of any other folder its only zip (the Hub's ``<algo>-<Env>.zip``).

    Raises:
        CheckpointError: ``file.missing``, ``teacher.folder``.
    """
    if path.is_dir():
        return _beside(_zip_in(path))
    with_ending = path.with_name(f"{path.name}.zip")
    return _beside(with_ending if not path.exists() and with_ending.is_file() else path)


def _zip_in(folder: Path) -> Path:
    zips = {p.stem: p for p in sorted(folder.glob("*.zip"))}
    run = _RUN.fullmatch(folder.resolve().name)
    steps = {int(m["steps"]): p for stem, p in zips.items() if (m := _STEPS.fullmatch(stem))}
    final = [p for stem, p in zips.items() if (folder / stem).is_dir() or (run and run["env"] == stem)]
    others = [p for stem, p in zips.items() if not _STEPS.fullmatch(stem) and stem != "best_model"]
    # The Hub's folders hold statistics of the training beside the agent.
    others = [p for p in others if p.stem != "train_eval_metrics"]
    for found in (final, others):
        if len(found) == 1:
            return found[0]
    if not others and "best_model" in zips:
        return zips["best_model"]
    if not others and steps:
        return steps[max(steps)]
    found_names = ", ".join(p.name for p in zips.values()) or "no zip"
    raise CheckpointError(
        "teacher.folder", f"{folder} holds {found_names}"[:200], "one agent", "give the path of the zip itself"
    )


def _beside(zip_path: Path) -> Parts:
    """The zip, and what stands in its folder or in the subfolder that rl_zoo3 names after the environment."""
    folder, stem = zip_path.parent, zip_path.stem
    run = _RUN.fullmatch(folder.resolve().name)
    places = [folder / stem, *([folder / run["env"]] if run else []), folder]
    if m := _STEPS.fullmatch(stem):
        # SB3's CheckpointCallback: prefix_1000_steps.zip beside prefix_vecnormalize_1000_steps.pkl
        own = folder / f"{m['prefix']}_vecnormalize_{m['steps']}_steps.pkl"
    else:
        own = folder / f"{stem}_vecnormalize.pkl"
    return Parts(
        zip=zip_path,
        normaliser=_first([own, *(place / name for place in places for name in _NORMALISERS)]),
        config=_first(place / "config.yml" for place in places),
        args=_first(place / "args.yml" for place in places),
        env_kwargs=_first(place / "env_kwargs.yml" for place in places),
    )


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
