"""Datasets of ours as Minari's and back, teacher's words in the infos; it refuses to make an environment for it.

The package comes with the extra ``minari``. A Minari episode has one observation (and info) more than actions: what
the teacher says of observation t is in row t of ``infos["teacher_<tensor>"]``; the last row is the final observation.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policykd.datasets.columns import predicted, said
from policykd.datasets.shards import Dataset, write
from policykd.errors import CheckpointError, MissingExtraError, RunError, UsageError
from policykd.policy import Policy
from policykd.prediction import FAMILIES, Batch, Family, Obs, Origin, Prediction, Spec, map_obs, obs_tensor, rows_of

__all__ = ["from_minari", "to_minari"]

_PREFIX = "teacher_"
_NOTE = "policykd"  # an entry of ours in Minari's metadata.json: family and algorithm


def _minari() -> ModuleType:
    try:
        import h5py  # noqa: F401  (Minari imports it late, and says less)
        import minari
    except ImportError as why:
        raise MissingExtraError.of("minari[hdf5]", "minari") from why
    return minari


def to_minari(data: Dataset, dataset_id: str, *, description: str | None = None, author: str | None = None) -> Path:
    """Write ``data`` as the local Minari dataset ``dataset_id`` (``name-v0``), HDF5, images without loss.

    Args:
        data: with the columns ``action``, ``reward``, ``done`` and ``episode``; ``terminated`` tells an end from a cut.
            All its rows are held in memory at once.
        dataset_id: a name with a version; ``minari.load_dataset`` finds it in ``$MINARI_DATASETS_PATH``.
        description, author: for Minari's metadata.

    Returns:
        The dataset's folder. An episode whose final observation was not kept ends with its last one repeated; one that
        the dataset itself cuts off loses its last step, and is marked as truncated.

    Raises:
        MissingExtraError: without Minari.
        UsageError: ``dataset.episodes`` where episodes cannot be told apart, ``dataset.minari-id``.
        RunError: ``dataset.exists``.
    """
    minari = _minari()
    needed = {f"extra/{name}" for name in ("action", "reward", "done", "episode")}
    if missing := sorted(needed - set(data.manifest.columns)):
        raise UsageError(
            "dataset.episodes", f"{data.folder} has no {missing}", "episodes that can be told apart", "label it again"
        )
    try:
        minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        raise UsageError("dataset.minari-id", f"the id {dataset_id!r}", "a name with a version", "lander-v0") from None
    folder = Path(minari.storage.get_dataset_path(dataset_id))
    if folder.exists():
        raise RunError("dataset.exists", f"{folder} exists already", "an id that is free", "take the next version")
    spec, origin = data.manifest.spec, data.manifest.origin
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari warns of every field that is left out
            made = minari.create_dataset_from_buffers(
                dataset_id,
                _buffers(minari, data),
                env=_registered(origin),
                observation_space=spec.observation_space,
                action_space=spec.action_space,
                algorithm_name=origin.algo,
                author=author,
                description=description,
                data_format="hdf5",
                jpeg_encoding=False,
            )
        made.storage.update_metadata({_NOTE: {"family": spec.family, "algo": origin.algo, "env_id": origin.env_id}})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _registered(origin: Origin) -> Any:
    """The registered environment that ``recover_environment`` will find; none where its wrappers would be missing."""
    known = origin.env_id in gym.registry and not origin.wrappers and not origin.env_kwargs
    return gym.spec(str(origin.env_id)) if known else None


def _buffers(minari: ModuleType, data: Dataset) -> Iterator[Any]:
    spec = data.manifest.spec
    parts = [_plain(batch, spec) for batch in data]
    columns = {k: torch.cat([p[k] for p in parts]).numpy() for k in parts[0]}
    episodes = columns["extra/episode"]
    order = np.argsort(episodes, kind="stable")
    ends = np.flatnonzero(np.diff(episodes[order])) + 1
    for rows in np.split(order, ends):
        steps = rows[columns["mask"][rows]]
        last = columns["extra/done"][steps[-1]] if len(steps) else False
        if last and len(rows) == len(steps):
            rows = np.append(rows, rows[-1])
        elif not last:
            rows, steps = steps, steps[:-1]
        if not len(steps):
            continue
        done = columns["extra/done"][steps]
        terminated = columns["extra/terminated"][steps] & done if "extra/terminated" in columns else done
        truncated = done & ~terminated
        truncated[-1] = not terminated[-1]
        seen = {k: v[rows] for k, v in columns.items() if k.startswith(("obs", _PREFIX))}
        yield minari.data_collector.EpisodeBuffer(
            observations=seen["obs"]
            if "obs" in seen
            else {k.removeprefix("obs/"): v for k, v in seen.items() if k.startswith("obs/")},
            actions=columns["extra/action"][steps],
            rewards=columns["extra/reward"][steps],
            terminations=terminated,
            truncations=truncated,
            # At least one axis a row: Minari's other backends cannot read plain numbers back.
            infos={k: v.reshape(len(rows), -1) for k, v in seen.items() if k.startswith(_PREFIX)},
        )


def _plain(batch: Batch, spec: Spec) -> dict[str, Tensor]:
    obs = {f"obs/{k}": v for k, v in batch.obs.items()} if isinstance(batch.obs, dict) else {"obs": batch.obs}
    words = {f"{_PREFIX}{name}": t for name, t in said(batch.target, spec).items()}
    mask = batch.mask if batch.mask is not None else torch.ones(len(batch), dtype=torch.bool)
    return {**obs, **words, "mask": mask.bool(), **{f"extra/{k}": v for k, v in batch.extra.items()}}


def from_minari(source: str | Path, folder: str | Path, *, teacher: Policy | None = None) -> Dataset:
    """Write a local Minari dataset as one of ours into ``folder``.

    Args:
        source: a dataset's id (``D4RL/pen/human-v2``; it must be on this machine already), or its folder.
        folder: new or empty.
        teacher: labels the observations; None takes the labels from the infos, as ``to_minari`` writes them.

    Raises:
        MissingExtraError: without Minari.
        CheckpointError: ``dataset.minari`` where there is none, or one that cannot be read or does not name its spaces.
        UsageError: ``dataset.unlabelled`` without labels and without a teacher.
        SpaceError: ``dataset.spec``, ``space.observation`` where teacher and data do not fit together.
    """
    minari = _minari()
    path = Path(source) if Path(source).is_dir() else Path(minari.storage.get_dataset_path(str(source)))
    path = path / "data" if (path / "data").is_dir() else path
    note = _noted(path)
    try:
        found = minari.MinariDataset(path)
    except Exception as why:  # another project's reader may raise anything
        raise _unreadable(path, repr(why)) from None
    if teacher is not None:
        spec, origin = teacher.spec, teacher.origin
    else:
        spec = Spec(found.observation_space, found.action_space, _family(note, found.action_space))
        origin = Origin(algo=note.get("algo"), env_id=note.get("env_id"))
    batches = _rows(path, found, spec, teacher)
    return write(folder, batches, spec=spec, origin=origin, about={"minari": str(found.id)})


def _noted(path: Path) -> Mapping[str, Any]:
    """Our entry in metadata.json; without the spaces there, Minari would make the environment: code the file names."""
    try:
        metadata = json.loads((path / "metadata.json").read_bytes())
        missing = {"observation_space", "action_space"} - set(metadata)
        note = metadata.get(_NOTE)
    except (OSError, ValueError, AttributeError, TypeError) as why:
        raise _unreadable(path, str(why)) from None
    if missing:
        raise _unreadable(path, f"no {sorted(missing)} in metadata.json")
    return note if isinstance(note, dict) else {}


def _family(note: Mapping[str, Any], space: spaces.Space) -> Family:
    if note.get("family") in FAMILIES:
        return note["family"]
    match space:
        case spaces.Discrete():
            return "categorical"
        case spaces.MultiDiscrete():
            return "multi_categorical"
        case spaces.MultiBinary():
            return "bernoulli"
    return "diag_gaussian"


def _rows(path: Path, found: Any, spec: Spec, teacher: Policy | None) -> Iterator[Batch]:
    episodes = found.iterate_episodes()
    while True:
        try:
            episode = next(episodes)
        except StopIteration:
            return
        except Exception as why:  # as above
            raise _unreadable(path, repr(why)) from None
        yield _episode(path, episode, spec, teacher)


def _episode(path: Path, episode: Any, spec: Spec, teacher: Policy | None) -> Batch:
    steps = len(episode.rewards)
    obs = map_obs(obs_tensor(episode.observations), lambda t: t[: steps + 1])

    def column(values: Any, final: Any = 0) -> Tensor:
        array = np.asarray(values)
        return torch.from_numpy(np.concatenate([array, np.full_like(array[:1], final)]))

    done = np.asarray(episode.terminations, bool) | np.asarray(episode.truncations, bool)
    batch = Batch(
        obs,
        teacher.label(obs) if teacher is not None else _target(path, episode, obs, spec),
        mask=torch.arange(steps + 1) < steps,
        extra={
            "action": column(episode.actions),
            "reward": column(np.asarray(episode.rewards, np.float32)),
            "done": column(done),
            "terminated": column(np.asarray(episode.terminations, bool)),
            "episode": torch.full((steps + 1,), int(episode.id)),
        },
    )
    return replace(batch, target=replace(batch.target, features={}, state=None))


def _target(path: Path, episode: Any, obs: Obs, spec: Spec) -> Prediction:
    rows = rows_of(obs)
    found = {k: np.asarray(v) for k, v in (episode.infos or {}).items() if k.startswith(_PREFIX)}
    words = {k.removeprefix(_PREFIX): torch.from_numpy(v) for k, v in found.items() if len(v) == rows}
    if "value" in words:
        words["value"] = words["value"].reshape(rows)
    try:
        return predicted(words, spec)
    except KeyError as why:
        raise UsageError(
            "dataset.unlabelled",
            f"{path} has no {_PREFIX}{why.args[0]} in its infos, with a row for each observation",
            f"what a {spec.family} teacher says",
            "give the teacher that is to label it",
        ) from None


def _unreadable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "dataset.minari", f"{path}: {why}", "a Minari dataset", "download it with Minari, or name its folder"
    )
