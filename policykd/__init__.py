"""The front door: every public name, each fetched from its room when it is first used; alone it imports no torch.

Three floors, each written only with the one below: ``distill``, ``Learner`` and the generators feeding it, ``losses``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "EnvWrapper",
    "Learner",
    "OnlineDistiller",
    "Origin",
    "Policy",
    "Prediction",
    "Progress",
    "Recipe",
    "Spec",
    "Update",
    "__version__",
    "classifiers",
    "council",
    "datasets",
    "distill",
    "distill_classifier",
    "distributions",
    "errors",
    "evaluate",
    "frontier",
    "load_student",
    "load_teacher",
    "losses",
    "multitask",
    "online",
    "recipe",
    "reinforced",
    "rollouts",
    "students",
    "supervised",
    "taps",
    "teachers",
]

if TYPE_CHECKING:
    from policykd import (
        classifiers,
        datasets,
        distributions,
        errors,
        losses,
        online,
        recipe,
        reinforced,
        rollouts,
        students,
        supervised,
        taps,
        teachers,
    )
    from policykd.classify import distill_classifier
    from policykd.council import council
    from policykd.distill import distill
    from policykd.evaluation import evaluate
    from policykd.frontier import frontier
    from policykd.learner import Learner
    from policykd.load import load_student, load_teacher
    from policykd.multitask import multitask
    from policykd.online import OnlineDistiller
    from policykd.policy import Policy
    from policykd.prediction import Batch, EnvWrapper, Origin, Prediction, Progress, Spec, Update
    from policykd.recipe import Recipe

# Rooms are public under their own names; these names live inside one.
_HOMES = {
    "Batch": "policykd.prediction",
    "EnvWrapper": "policykd.prediction",
    "Learner": "policykd.learner",
    "OnlineDistiller": "policykd.online",
    "Origin": "policykd.prediction",
    "Policy": "policykd.policy",
    "Prediction": "policykd.prediction",
    "Progress": "policykd.prediction",
    "Recipe": "policykd.recipe",
    "Spec": "policykd.prediction",
    "Update": "policykd.prediction",
    "council": "policykd.council",
    "distill": "policykd.distill",
    "distill_classifier": "policykd.classify",
    "evaluate": "policykd.evaluation",
    "frontier": "policykd.frontier",
    "load_student": "policykd.load",
    "load_teacher": "policykd.load",
    "multitask": "policykd.multitask",
}


class _Front(ModuleType):
    """The package, which keeps ``distill`` and ``frontier`` functions: importing a module binds it to its parent."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name)
    value = getattr(import_module(home), name) if home else import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
