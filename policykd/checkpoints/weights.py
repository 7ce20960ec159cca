"""Tensors out of ``policy.pth``: what it declares is checked first, then torch reads it with ``weights_only=True``."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from typing import Any

import torch
from torch import Tensor

from policykd.checkpoints.archive import open_inner
from policykd.checkpoints.arrays import as_int
from policykd.checkpoints.pickles import Call, Global, Persistent, Pickle, read, read_all
from policykd.errors import CheckpointError

__all__ = ["checked", "pickled_parts", "read_weights"]

_BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    "ComplexDoubleStorage": 16,
}
# Everything that a state dict is made of; torch's own list is longer.
_ALLOWED = {
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    *(f"torch.{name}" for name in _BYTES),
    "torch.storage.UntypedStorage",
}


def read_weights(raw: bytes, what: str = "policy.pth") -> dict[str, Tensor]:
    """The state dict in ``raw``, on the CPU.

    Args:
        raw: a file of ``torch.save``, in its zip format or the older one.
        what: its name in error messages.

    Raises:
        CheckpointError: ``weights.code`` where it names anything but tensors, ``weights.virtual`` for tensors larger
            than their content, ``weights.dtype``, ``weights.not-finite``, ``weights.unreadable``, or those of a zip.
    """
    pickles, inner = _opened(raw, what)
    declared = _declared(pickles, what)
    if inner is not None:
        members = ((info.filename.rpartition("/data/"), info.file_size) for info in inner.infolist())
        sizes = {key: size for (_, folder, key), size in members if folder}
        # torch maps a storage of the declared size onto the member, however short that is.
        if any(sizes.get(key) != nbytes for key, nbytes in declared.items()):
            raise CheckpointError(
                "weights.virtual", f"{what}: tensors of another size than their content", "equal sizes"
            )
    elif sum(declared.values()) > len(raw):
        raise CheckpointError(
            "weights.virtual", f"{what}: tensors of {sum(declared.values())} bytes in {len(raw)}", "stored numbers"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(f"{what}: {error}".splitlines()[0][:200]) from error
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        raise _unreadable(f"{what} holds {type(loaded).__name__}")
    return checked({name: tensor.detach() for name, tensor in loaded.items()}, what)


def pickled_parts(raw: bytes, what: str) -> list[Pickle]:
    """The pickles in a file of ``torch.save``, read inertly.

    Raises:
        CheckpointError: ``weights.unreadable``, or an error of its zip or pickle.
    """
    return _opened(raw, what)[0]


def _opened(raw: bytes, what: str) -> tuple[list[Pickle], zipfile.ZipFile | None]:
    if not raw.startswith(b"PK"):
        # Before 1.6 torch wrote four pickles (magic number, protocol, system, object), then the content.
        return read_all(raw, 4), None
    inner = open_inner(what, raw)
    names = [n for n in inner.namelist() if n.endswith("/data.pkl")]
    if len(names) != 1:
        raise _unreadable(f"{what} holds {len(names)} data.pkl")
    return [read(inner.read(names[0]))], inner


def _unreadable(found: str) -> CheckpointError:
    return CheckpointError("weights.unreadable", found, "a state dict written by torch.save")


def checked(weights: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors in float32 (counters stay integers), as ``load_state_dict`` would copy them into SB3's networks.

    Raises:
        CheckpointError: ``weights.dtype``, ``weights.not-finite``.
    """
    out = {}
    for name, tensor in weights.items():
        counter = tensor.dtype in (torch.int64, torch.int32) and tensor.ndim == 0
        if tensor.layout != torch.strided or not (tensor.dtype.is_floating_point or counter):
            raise CheckpointError("weights.dtype", f"{what}: {name} is {tensor.dtype}", "real floating-point numbers")
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                "weights.not-finite",
                f"{what}: {bad} of {tensor.numel()} numbers in {name} are NaN or infinite",
                "finite weights",
                "take an earlier checkpoint: this training run diverged",
            )
        out[name] = tensor if counter else tensor.float()
    return out


def _declared(parts: list[Pickle], what: str) -> dict[str, int]:
    """Bytes of each storage, by key, once every tensor is known to fit into its own."""
    sizes: dict[str, int] = {}
    for part in parts:
        for name in part.names:
            if name not in _ALLOWED:
                raise CheckpointError("weights.code", f"{what} asks for {name}", "tensors only", "nothing was run")
        for call in part.calls:
            if call.name.endswith("._rebuild_tensor_v2"):
                key, nbytes = _storage(call, what)
                sizes[key] = max(nbytes, sizes.get(key, 0))
    return sizes


def _storage(call: Call, what: str) -> tuple[str, int]:
    args = call.args if isinstance(call.args, tuple) and len(call.args) >= 4 else (None,)
    key = args[0].key if isinstance(args[0], Persistent) else None
    if not isinstance(key, tuple) or len(key) < 5 or not isinstance(key[1], Global) or key[1].name not in _BYTES:
        raise _unreadable(f"{what}: a tensor without a storage")
    stored, offset, shape, stride = as_int(key[4]), as_int(args[1]), _ints(args[2]), _ints(args[3])
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if 0 not in shape else offset - 1
    if min(offset, stored, *shape, *stride) < 0 or math.prod(shape) > stored or last >= stored:
        raise CheckpointError(
            "weights.virtual",
            f"{what}: a tensor of shape {tuple(shape)} over {stored} stored numbers",
            "as many stored numbers as its shape says",
        )
    return str(key[2]), stored * _BYTES[key[1].name]


def _ints(value: Any) -> list[int]:
    return [as_int(n) for n in value] if isinstance(value, tuple | list) else [as_int(value)]
