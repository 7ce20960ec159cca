"""How a student learns inside somebody else's loop: one frozen record with a sentence a field; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from policykd.errors import UnknownNameError, UsageError

__all__ = ["STALE", "OnlineConfig", "Stale"]

Stale = Literal["weigh", "drop", "keep"]
STALE: tuple[Stale, ...] = ("weigh", "drop", "keep")

_AT_LEAST_ONE = (
    *("capacity", "batch_size", "rows_per_update", "warm_up", "publish_every", "ask_rows", "open_rows", "rest_every"),
)


@dataclass(frozen=True)
class OnlineConfig:
    """How an OnlineDistiller learns, remembers, asks and publishes. Counts are of rows (observations) and updates."""

    memory: str = "fifo"
    """What is remembered: ``fifo`` the newest rows, ``reservoir`` a uniform sample of all there ever were."""
    capacity: int = 100_000
    """Labelled rows held at most."""
    batch_size: int = 256
    """Rows in one gradient step, drawn uniformly from the memory."""
    rows_per_update: int = 10
    """Labelled rows for each gradient step."""
    learning_rate: float = 3e-3
    """Adam's learning rate; it stays, as there is no end that it could fall towards."""
    average: float = 0.99
    """Decay of the moving average of the weights that is published; 0 publishes the weights themselves."""
    value_weight: float = 0.5
    """Weight of the value loss, where both student and teacher have a value and no loss was given."""
    warm_up: int = 1_000
    """Labelled rows that set the scales (normaliser, values, Q) before the first gradient step."""
    publish_every: int = 50
    """Gradient steps between publications; acting follows learning by as many."""
    budget_ms: float | None = None
    """Processor time of the calling thread that one ``update()`` may take; None for as many steps as are due."""
    ask_rows: int = 64
    """Observations that are put to the teacher at once."""
    open_rows: int = 8_192
    """Questions without an answer (and observations not yet asked about) held at most; the oldest are given up."""
    silence: int = 2_000
    """Observations without any answer after which a teacher with open questions counts as dead."""
    rest_every: int = 4
    """With a ``Watch``, one labelled row in so many is looked at; while it rests, no others are asked about."""
    stale: Stale = "weigh"
    """Labels of an older teacher than the newest that has answered: count less, are left out, or count in full."""
    stale_after: int = 0
    """Versions that a label may be behind before the rule touches it."""
    stale_decay: float = 0.5
    """What each further version behind leaves of a row's weight (``weigh``)."""
    seed: int = 0
    """Seeds draws from the memory and of actions."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``name.stale``, ``config.zero``, ``online.knobs``."""
        if self.stale not in STALE:
            raise UnknownNameError.of("stale", self.stale, STALE)
        for name in _AT_LEAST_ONE:
            if vars(self)[name] < 1:
                raise UsageError("config.zero", f"{name}={vars(self)[name]}", "at least 1", f"leave {name} out")
        if not (0 <= self.stale_decay <= 1 and self.stale_after >= 0):
            found = f"stale_decay={self.stale_decay}, stale_after={self.stale_after}"
            raise UsageError("online.knobs", found, "a decay from 0 to 1 after 0 or more versions")
        if self.budget_ms is not None and not self.budget_ms > 0:
            raise UsageError("online.knobs", f"budget_ms={self.budget_ms}", "more than 0", "None for no budget")
        for name, fits, wanted in (
            ("learning_rate", 0 < self.learning_rate < math.inf, "a finite number above 0"),
            ("average", 0 <= self.average < 1, "a decay from 0 to below 1"),
            ("value_weight", 0 <= self.value_weight < math.inf, "a finite number, at least 0"),
            ("silence", self.silence >= 1, "at least 1 observation"),
        ):
            if not fits:
                raise UsageError("online.knobs", f"{name}={vars(self)[name]}", wanted, f"leave {name} out")
        if self.ask_rows > self.open_rows:
            found = f"ask_rows={self.ask_rows}, open_rows={self.open_rows}"
            raise UsageError("online.knobs", found, "room for one question at least", "raise open_rows")
