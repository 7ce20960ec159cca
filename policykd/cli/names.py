"""Names become objects here and nowhere else: a table of losses, and ``module:function`` for a user's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from policykd.errors import UnknownNameError, UsageError

__all__ = ["LOSSES", "check_loss", "import_packages", "loss_of", "reach_here"]

LOSSES = {
    "centred-q": "centred_q",
    "forward-kl": "forward_kl",
    "hard-nll": "hard_nll",
    "huber": "huber",
    "jensen-shannon": "jensen_shannon",
    "mse": "mse",
    "reverse-kl": "reverse_kl",
    "soft-cross-entropy": "soft_cross_entropy",
    "standardised-logits": "standardised_logits",
    "wasserstein2": "wasserstein2",
}
"""Name on the command line: function of ``policykd.losses``."""


def check_loss(name: str) -> None:
    """Refuse a name that is neither in the table nor of the form ``module:function``; imports nothing.

    Raises:
        UnknownNameError: ``name.loss``.
    """
    module, colon, function = name.partition(":")
    if name not in LOSSES and not (colon and module and function):
        raise UnknownNameError.of("loss", name, [*LOSSES, "module:function"])


def loss_of(name: str) -> Callable[..., Any]:
    """The loss of that name.

    Raises:
        UnknownNameError: ``name.loss``, ``name.function``.
        UsageError: ``loss.import`` where the module cannot be imported.
    """
    check_loss(name)
    if name in LOSSES:
        return _attribute(import_module("policykd.losses"), LOSSES[name])
    module, _, function = name.partition(":")
    reach_here()
    return _attribute(_import(module, "loss.import"), function)


def _attribute(module: Any, name: str) -> Callable[..., Any]:
    known = vars(module)
    if name not in known:
        raise UnknownNameError.of("function", name, [k for k, v in known.items() if callable(v)])
    found: Callable[..., Any] = known[name]
    return found


def _import(module: str, code: str) -> Any:
    try:
        return import_module(module)
    except Exception as why:  # a user's module may raise anything at all
        raise UsageError(
            code,
            f"importing {module} fails: {type(why).__name__}: {why}",
            "a module beside you or installed",
            f"try: python -c 'import {module}'",
        ) from why


def import_packages(names: Iterable[str]) -> None:
    """Import packages that register environments.

    Raises:
        UsageError: ``env.package`` for one that cannot be imported.
    """
    for name in names:
        reach_here()
        _import(name, "env.package")


def reach_here() -> None:
    """Let modules of the current folder be imported, as ``python -m`` does and a console script does not."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
