"""What a person can choose, as frozen records with a sentence a field; no torch, no defaults hidden elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from policykd.errors import UnknownNameError, UsageError
from policykd.sizes import parse_size

__all__ = ["METHODS", "DistillConfig", "FrontierConfig", "Method", "Teaching"]

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
    "seeds",
)


def _check_counts(config: object) -> None:
    for name in _AT_LEAST_ONE:
        value = vars(config).get(name)
        if value is not None and value < 1:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError("config.zero", f"{flag} {value}", "at least 1", f"leave {flag} out for the default")


@dataclass(frozen=True)
class Teaching:
    """How students are taught. Budgets count environment steps and updates, never seconds."""

    method: Method = "dagger"
    """Whose states are learnt from: the teacher's, the student's, both (from the first to the second), a dataset's."""
    steps: int | None = None
    """Environment steps of the first cycle, until the learning rate has decayed; None: 1,500 a number in the spaces."""
    cycles: int = 4
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
    memory: int = 1_000_000
    """Labelled rows held at most, oldest out first."""
    num_envs: int | None = None
    """Environments stepped side by side; None: 16 (32 for a frontier), or 64 where a native vector steps them."""
    vector: Literal["auto", "sync", "async"] = "auto"
    """Native vector environments where there are any, else one by one; async gives each a process."""
    seed: int = 0
    """Seeds first weights, environments and draws; the reported episodes depend on it too."""
    max_seconds: float | None = None
    """A guard, not a budget: training stops after this many seconds and the report says so."""
    workers: int | None = None
    """Processes that play evaluation episodes; None: one a core. Results do not depend on it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``name.method``, ``config.zero``."""
        if self.method not in METHODS:
            raise UnknownNameError.of("method", self.method, METHODS)
        _check_counts(self)


@dataclass(frozen=True)
class DistillConfig(Teaching):
    """How one student is taught and how it is measured."""

    dataset: str | None = None
    """Folder of a dataset (``policykd label``), for the method of that name: no environment is stepped for training."""
    value_weight: float = 0.5
    """Weight of the value loss, where both student and teacher have a value."""
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

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``name.method``, ``config.dataset``, ``config.zero``."""
        super().__post_init__()
        if (self.method == "dataset") != (self.dataset is not None):
            raise UsageError(
                "config.dataset",
                f"the method {self.method} and the dataset {self.dataset}",
                "a dataset with the method dataset, and only there",
                "--method dataset --dataset FOLDER",
            )
        if self.dataset is not None:
            object.__setattr__(self, "dataset", os.fspath(self.dataset))  # a Path is not JSON


@dataclass(frozen=True)
class FrontierConfig(Teaching):
    """How students of many sizes are taught together, and how the smallest that can be trusted is found."""

    cycles: int = 2
    """Cycles at most, each twice as long as the last; only sizes that may still win are taught in another."""
    sizes: tuple[str, ...] = ()
    """Sizes to try: linear, 8, 16,16, tree:8; none for a ladder from a linear policy up to the teacher's own size."""
    seeds: int = 3
    """Students of each size, with first weights of their own."""
    target: float = 0.95
    """Retention whose lower 95 % bound a student must reach to be trusted."""
    screen: int = 24
    """Episodes at most on which students are compared between cycles; their seeds are never reported."""
    max_episodes: int = 400
    """Reported episodes of a student at most, where fewer do not decide: 400 can show 0.988 at best, 1,600 0.997."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``name.method``, ``config.zero``, ``frontier.target``, ``student.hidden``."""
        super().__post_init__()
        if self.method == "dataset":
            raise UsageError("config.dataset", "a frontier with the method dataset", "teacher, student or dagger")
        if not 0 < self.target <= 1:
            raise UsageError("frontier.target", f"a target of {self.target}", "a retention above 0, at most 1")
        if self.screen < 8:
            raise UsageError("frontier.screen", f"--screen {self.screen}", "8 episodes or more")
        if self.max_episodes < 100:
            raise UsageError("frontier.episodes", f"--max-episodes {self.max_episodes}", "100 or more")
        for size in self.sizes:
            parse_size(size)
