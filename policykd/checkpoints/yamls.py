"""rl_zoo3's YAML files, read with a safe loader that knows one tag more; it refuses every tag that would run code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from policykd.checkpoints.archive import file_bytes, sealed
from policykd.checkpoints.pickles import short
from policykd.errors import CheckpointError

__all__ = ["arguments", "read_yaml"]

MAX_FILE = 1 << 20
_Base: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _ZooLoader(_Base):  # type: ignore[misc]
    """A safe loader to which an OrderedDict is a dict."""


def _ordered(loader: Any, node: yaml.Node) -> dict[Any, Any]:
    """``!!python/object/apply:collections.OrderedDict [[[key, value], ...]]``."""
    args = loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else [None]
    pairs = args[0] if len(args) == 1 else args and None
    if args == []:
        return {}
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise yaml.constructor.ConstructorError(
            None, None, "an OrderedDict of something else than pairs", node.start_mark
        )
    return dict(pairs)


_ZooLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping (``config.yml``, ``args.yml``, ``env_kwargs.yml``).

    Raises:
        CheckpointError: ``yaml.unreadable``, for a tag that names a Python object among others.
    """
    raw = file_bytes(path, MAX_FILE)
    with sealed(path):
        try:
            found = yaml.load(raw, Loader=_ZooLoader)  # a SafeLoader
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            where = " ".join(str(error).split())
            raise CheckpointError(
                "yaml.unreadable", f"{path}: {where}"[:240], "plain YAML as rl_zoo3 writes it", "nothing was run"
            ) from error
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise CheckpointError("yaml.unreadable", f"{path} holds a {type(found).__name__}", "a mapping")
        return {str(k): v for k, v in found.items()}


def arguments(value: Any) -> dict[str, Any]:
    """Keyword arguments as the zoo spells them: a mapping, or a text like ``dict(norm_obs=True)`` or ``{'a': 1}``.

    The text is parsed, never evaluated: every value must be a literal.

    Raises:
        CheckpointError: ``yaml.arguments``.
    """
    if value is None:
        return {}
    if isinstance(value, dict):
        return {str(k): v for k, v in value.items()}
    found: Any = None
    try:
        tree = ast.parse(str(value).strip(), mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "dict" and not tree.args:
            # dict(**x) has a keyword without a name.
            found = {k.arg: ast.literal_eval(k.value) for k in tree.keywords}
            found = None if None in found else found
        else:
            found = ast.literal_eval(tree)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CheckpointError("yaml.arguments", short(value), "arguments like dict(norm_obs=True)")
    return {str(k): v for k, v in found.items()}
