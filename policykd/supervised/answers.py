"""A teacher's answers on fixed inputs, asked for once and kept on disk; it never hands out another teacher's.

    cache/<teacher>-<data>/manifest.json       whose answers, to what, and the shards that are whole
    cache/<teacher>-<data>/shard-00000.safetensors

Teacher and data are named by hashes of their content: another teacher, or another data set, is another folder, and an
interrupted labelling goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.utils.data import Dataset

from policykd.clock import Clock
from policykd.disk import write_whole
from policykd.distributions import Categorical
from policykd.errors import CheckpointError, DistributionError, UsageError
from policykd.prediction import Prediction, map_obs, rows_of
from policykd.supervised.epochs import Labels, sound
from policykd.supervised.examples import Inputs
from policykd.supervised.hashes import hash_inputs, hash_weights

__all__ = ["Answers", "WithAnswers", "answers", "read_answers"]

_MANIFEST, _SCHEMA = "manifest.json", 1
_ROWS = 4096
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Answers:
    """What a teacher says of every row of a data set.

    Attributes:
        target: its word, ``[n, ...]``.
        hits: rows that were on disk already.
        other_teachers: sets of others' answers to these rows in the cache: without a hit, the teacher has changed.
        other_data: sets of this teacher's answers to other rows: other data, or another split of them.
        folder: where they are kept, None for nowhere.
        seconds: CPU seconds that the teacher took.
    """

    target: Prediction
    hits: int
    other_teachers: int = 0
    other_data: int = 0
    folder: Path | None = None
    seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the rows that were on disk."""
        return self.hits / len(self.target.dist.mode())

    def __add__(self, more: Answers) -> Answers:
        """These and then those, which were asked on their own: rows that stay the same, say, and views of them."""
        both = _joined([_columns_of(self.target), _columns_of(more.target)])
        teachers, data = min(self.other_teachers, more.other_teachers), min(self.other_data, more.other_data)
        return Answers(both, self.hits + more.hits, teachers, data, None, self.seconds + more.seconds)


class _Shard(NamedTuple):
    """A file of answers, and how to know that it is whole."""

    file: str
    rows: int
    sha256: str


def answers(
    teacher: Labels,
    inputs: Inputs,
    *,
    cache: str | Path | None = None,
    teacher_hash: str | None = None,
    data_hash: str | None = None,
    features: Sequence[str] = (),
    clock: Clock | None = None,
) -> Answers:
    """What ``teacher`` says of all ``inputs``, from the cache as far as it is there.

    Args:
        teacher: its laws must be Categorical.
        inputs: raw, fixed: what is augmented must be asked about anew (``epochs(view=)``).
        cache: a folder that may hold the answers of many teachers to many data sets; None keeps nothing.
        teacher_hash: of its content; None takes a module's ``hash_weights``.
        data_hash: None hashes the inputs.
        features: names of the teacher's features to keep too.
        clock: gets the phase ``label``.

    Raises:
        UsageError: ``labels.hash`` for a teacher that is no module, and as of ``hash_weights``; ``supervised.empty``.
        DistributionError: ``supervised.nan``; ``labels.features`` for a feature that it does not give;
            ``labels.shape`` where rows differ in shape from batch to batch (texts as long as the longest beside them).
        CheckpointError: ``labels.damaged`` for shards that are not what was written, ``labels.manifest``.
        RunError: ``labels.write``.
    """
    clock, n = clock or Clock(), rows_of(inputs)
    before = clock.cpu["label"]
    if n == 0:
        raise UsageError("supervised.empty", "no inputs to label", "one row or more")
    if cache is None:
        with clock.phase("label"):
            parts = [_ask(teacher, part, features) for part in _pieces(inputs, _BATCH)]
        return Answers(_joined(parts), 0, seconds=clock.cpu["label"] - before)
    whose, of_what = _whose(teacher, teacher_hash, features), _digest(data_hash or hash_inputs(inputs))
    about = {"teacher": whose, "data": of_what, "rows": n}
    root = Path(cache)
    folder = root / f"{whose[:16]}-{of_what[:16]}"
    beside = [*root.glob(f"*-{of_what[:16]}/{_MANIFEST}"), *root.glob(f"{whose[:16]}-*/{_MANIFEST}")]
    others = [path.parent.name for path in beside if path.parent != folder]
    other_data = sum(name.startswith(whose[:16]) for name in others)
    shards: list[_Shard] = []
    if (folder / _MANIFEST).exists():
        shards = _manifest(folder, about)
        if [s.rows for s in shards] != [min(_ROWS, n - first) for first in range(0, n, _ROWS)][: len(shards)]:
            raise _no_manifest(folder, "shards of other rows than these")
    held = [_read(folder, shard) for shard in shards]
    hits = sum(rows_of(part) for part in held)
    with clock.phase("label"):
        for number, piece in enumerate(_pieces(inputs, _ROWS)):
            if number < len(held):
                continue
            said = [_ask(teacher, part, features) for part in _pieces(piece, _BATCH)]
            columns = _columns(said)
            data = save(columns)
            shard = _Shard(_file(number), rows_of(columns), _sha(data))
            write_whole(folder, {shard.file: data}, code="labels.write")
            shards.append(shard)
            write_whole(folder, {_MANIFEST: _text(about, shards)}, code="labels.write")
            held.append(columns)
    whole = _joined(held)
    return Answers(whole, hits, len(others) - other_data, other_data, folder, clock.cpu["label"] - before)


def read_answers(
    folder: str | Path, teacher: Labels, *, teacher_hash: str | None = None, features: Sequence[str] = ()
) -> Prediction:
    """The answers in one folder of a cache, which must be this teacher's.

    Args:
        teacher, teacher_hash, features: as they were given to ``answers``.

    Raises:
        UsageError: ``labels.hash`` for a teacher that is no module, without a hash.
        CheckpointError: ``labels.teacher`` for another teacher's, ``labels.manifest``, ``labels.damaged``.
    """
    folder = Path(folder)
    about = {"teacher": _whose(teacher, teacher_hash, features)}
    return _joined([_read(folder, shard) for shard in _manifest(folder, about)])


class WithAnswers(Dataset[tuple[Any, Any, Tensor]]):
    """A data set of ``(input, label)`` with the teacher's logits beside each: for torch's DataLoader.

    Args:
        data: of ``(input, label)``, with a length.
        said: a row each, in the same order.

    Raises:
        UsageError: ``supervised.batch`` for another number of rows.
    """

    def __init__(self, data: Any, said: Prediction) -> None:
        self.data, self.logits = data, _logits(said)
        if len(data) != len(self.logits):
            raise UsageError("supervised.batch", f"{len(self.logits)} answers to {len(data)} inputs", "one each")

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: int) -> tuple[Any, Any, Tensor]:
        inputs, label = self.data[index]
        return inputs, label, self.logits[index]


def _logits(said: Prediction) -> Tensor:
    if not isinstance(said.dist, Categorical):
        raise DistributionError("labels.law", f"a teacher's {type(said.dist).__name__}", "a law over classes")
    return said.dist.logits


def _ask(teacher: Labels, inputs: Inputs, features: Sequence[str]) -> dict[str, Tensor]:
    said = sound(teacher.label(inputs))
    missing = [name for name in features if name not in said.features]
    if missing:
        known = ", ".join(said.features) or "none"
        raise DistributionError("labels.features", f"a teacher without {', '.join(missing)}", known, "tap it first")
    return _columns_of(replace(said, features={name: said.features[name] for name in features}))


def _columns_of(said: Prediction) -> dict[str, Tensor]:
    features = {f"feature/{name}": t for name, t in said.features.items()}
    return {name: t.detach().cpu().contiguous() for name, t in {"logits": _logits(said), **features}.items()}


def _columns(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    for name in parts[0]:
        shapes = sorted({tuple(part[name].shape[1:]) for part in parts})
        if len(shapes) > 1:
            raise DistributionError(
                "labels.shape",
                f"{name} of the shapes {', '.join(map(str, shapes))} in different batches",
                "one shape for all rows",
                "encode all texts at once: answers(teacher, teacher.prepare(texts), ...)",
            )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> Prediction:
    whole = _columns(parts)
    features = {name.removeprefix("feature/"): t for name, t in whole.items() if name.startswith("feature/")}
    return Prediction(Categorical(whole["logits"]), features=features)


def _pieces(inputs: Inputs, size: int) -> Iterator[Inputs]:
    for first in range(0, rows_of(inputs), size):
        rows = slice(first, first + size)
        yield inputs[rows] if isinstance(inputs, tuple) else map_obs(inputs, lambda t, rows=rows: t[rows])  # type: ignore[misc]


def _manifest(folder: Path, about: Mapping[str, Any]) -> list[_Shard]:
    path = folder / _MANIFEST
    try:
        found = json.loads(path.read_text())
        if found["schema"] != _SCHEMA or found["kind"] != "labels":
            raise ValueError(f"kind {found['kind']!r}")
        shards = [_Shard(str(s["file"]), int(s["rows"]), str(s["sha256"])) for s in found["shards"]]
        if not shards or [s.file for s in shards] != [_file(i) for i in range(len(shards))]:
            raise ValueError("its shards")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as why:
        raise _no_manifest(folder, repr(why)) from None
    for name, value in about.items():
        if found.get(name) != value:
            raise CheckpointError(
                f"labels.{name}", f"{folder}: answers of another {name}", "this one's", "label again into the cache"
            )
    return shards


def _no_manifest(folder: Path, found: str) -> CheckpointError:
    fix = f"remove {folder}, it is made again"
    return CheckpointError(
        "labels.manifest", f"{folder / _MANIFEST}: {found}", "a manifest of a teacher's answers", fix
    )


def _read(folder: Path, shard: _Shard) -> dict[str, Tensor]:
    path = folder / shard.file
    try:
        data = path.read_bytes()
        if _sha(data) != shard.sha256:
            raise ValueError("bytes with another sha256")
        columns = load(data)
        if rows_of(columns) != shard.rows or "logits" not in columns:
            raise ValueError(f"the columns {sorted(columns)}")
    except (OSError, ValueError, SafetensorError) as why:
        raise CheckpointError(
            "labels.damaged", f"{path}: {why}", "what its manifest describes", f"remove {folder}, it is made again"
        ) from None
    return columns


def _text(about: Mapping[str, Any], shards: Sequence[_Shard]) -> bytes:
    return json.dumps(
        {"schema": _SCHEMA, "kind": "labels", **about, "shards": [s._asdict() for s in shards]}, indent=1
    ).encode()


def _file(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _whose(teacher: Labels, teacher_hash: str | None, features: Sequence[str]) -> str:
    if teacher_hash is None:
        if not isinstance(teacher, torch.nn.Module):
            found = f"a cache for a {type(teacher).__name__}"
            raise UsageError("labels.hash", found, "a module, or the hash of what it is", "pass teacher_hash=")
        teacher_hash = hash_weights(teacher)
    return _digest(teacher_hash, *sorted(features))


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
