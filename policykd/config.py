"""What a person can choose, as frozen records with a sentence a field; no torch, no defaults hidden elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from policykd.errors import UnknownNameError, UsageError

__all__ = ["METHODS", "DistillConfig", "Method"]

Method = Literal["teacher", "student", "dagger", "dataset"]
METHODS: tuple[Method, ...] = ("teacher", "student", "dagger", "dataset")

_AT_LEAST_ONE = (
    "steps",
    "cycles",
    "rows_per_update",
    "batch_size",
    "memory",
    "num_envs",
    "select_episodes",
    "episodes",
)


@dataclass(frozen=True)
class DistillConfig:
    """How a student is taught and how it is measured. Budgets count environment steps and updates, never seconds."""

    method: Method = "dagger"
    """Whose states are learnt from: the teacher's, the student's, both (from the first to the second), a dataset's."""
    dataset: str | None = None
    """Folder of a dataset (``policykd label``), for the method of that name: no environment is stepped for training."""
    steps: int | None = None
    """Environment steps of the first cycle, until the learning rate has decayed; None: 3,000 a number in the spaces."""
    cycles: int = 3
    """Cycles at most, each twice as long as the last; another begins only while the student is short of its teacher."""
    rows_per_update: int = 10
    """Environment steps for each gradient step."""
    batch_size: int = 512
    """Rows in one gradient step, drawn uniformly from the memory."""
    learning_rate: float = 0.02
    """Adam's learning rate at the start of a cycle; it falls along a cosine to a fiftieth of that."""
    average: float = 0.999
    """Decay of the moving average of the weights that acts, is measured and is saved; 0 keeps none."""
    mixture: float = 0.5
    """dagger: share of the first cycle by whose end the teacher has stopped acting."""
    explore: bool = False
    """Draw actions from the distributions while collecting, instead of taking their modes."""
    value_weight: float = 0.5
    """Weight of the value loss, where both student and teacher have a value."""
    memory: int = 1_000_000
    """Labelled rows held at most, oldest out first."""
    num_envs: int | None = None
    """Environments stepped side by side; None: 16, or 64 where a native vector steps them at once."""
    vector: Literal["auto", "sync", "async"] = "auto"
    """Native vector environments where there are any, else one by one; async gives each a process."""
    seed: int = 0
    """Seeds first weights, environments and draws; the reported episodes depend on it too."""
    until_retention: float | None = None
    """Stop as soon as this retention is reached on selection episodes and confirmed at once on 100 fresh ones."""
    select_episodes: int = 50
    """Episodes of each selection (up to three times as many where it is close); their seeds are never reported."""
    episodes: int = 100
    """Reported episodes of teacher, student and random policy, at least."""
    max_episodes: int = 400
    """Reported episodes of teacher and student at most, where more are needed for the precision."""
    precision: float = 0.05
    """Half-width of the retention's interval that is enough."""
    max_seconds: float | None = None
    """A guard, not a budget: training stops after this many seconds and the report says so."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``name.method``, ``config.dataset``, ``config.zero``."""
        if self.method not in METHODS:
            raise UnknownNameError.of("method", self.method, METHODS)
        if (self.method == "dataset") != (self.dataset is not None):
            raise UsageError(
                "config.dataset",
                f"the method {self.method} and the dataset {self.dataset}",
                "a dataset with the method dataset, and only there",
                "--method dataset --dataset FOLDER",
            )
        if self.dataset is not None:
            object.__setattr__(self, "dataset", os.fspath(self.dataset))  # a Path is not JSON
        for name in _AT_LEAST_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(
                    "config.zero", f"{flag} {getattr(self, name)}", "at least 1", f"leave {flag} out for the default"
                )
