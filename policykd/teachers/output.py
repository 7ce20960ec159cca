"""What a trained teacher leaves behind, as plain files; it needs no Stable-Baselines3 and unpickles nothing."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import torch
import yaml

from policykd.errors import CheckpointError
from policykd.prediction import EnvWrapper

__all__ = ["Trainable", "slim", "write_config"]


class Trainable(Protocol):
    """What training needs of a ``policykd.recipe.Recipe``, whose room is on this line of the stairs."""

    @property
    def env_id(self) -> str:
        """Names the files of the folder."""

    @property
    def env_kwargs(self) -> Mapping[str, Any]:
        """Written into args.yml."""

    @property
    def wrappers(self) -> tuple[EnvWrapper, ...]:
        """Written into config.yml."""

    @property
    def hyperparams(self) -> Mapping[str, Mapping[str, Any]]:
        """Plain data for each algorithm."""

    @property
    def threshold(self) -> float | None:
        """Mean return at which training may stop."""

    def make(self) -> gym.Env:
        """One environment."""


def slim(source: Path, destination: Path) -> None:
    """Copy an SB3 zip without the optimizers' moments and the maker's system: it acts, is read and goes on training.

    Actions and values are the original's to the last bit; going on training warms the optimizer up anew.

    Raises:
        CheckpointError: ``zip.unreadable`` for a file that is no SB3 zip.
    """
    partial = destination.with_name(destination.name + ".partial")
    try:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.namelist():
                content = old.read(member)
                if member == "system_info.txt":
                    continue
                if member.endswith("optimizer.pth"):
                    state = torch.load(io.BytesIO(content), weights_only=True)
                    buffer = io.BytesIO()
                    torch.save({**state, "state": {}}, buffer)
                    content = buffer.getvalue()
                new.writestr(member, content)
        os.replace(partial, destination)
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError) as e:
        partial.unlink(missing_ok=True)
        raise CheckpointError("zip.unreadable", f"{source}: {e}", "a zip saved by SB3") from e


def write_config(folder: Path, recipe: Trainable, algo: str, seed: int, budget: int) -> None:
    """The zoo's config.yml and args.yml, as plain YAML that a safe loader reads."""
    config = {**_plain(recipe.hyperparams.get(algo, {})), "n_timesteps": budget}
    if any(w.name == "TimeFeature" for w in recipe.wrappers):
        config["env_wrapper"] = "sb3_contrib.common.wrappers.TimeFeatureWrapper"
    args = {"algo": algo, "env": recipe.env_id, "env_kwargs": _plain(recipe.env_kwargs), "seed": seed}
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    (folder / "args.yml").write_text(yaml.safe_dump(args))


def _plain(value: Any) -> Any:
    """Mappings and sequences as YAML's own kinds."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
