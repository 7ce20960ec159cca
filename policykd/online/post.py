"""The post between a loop and its teacher: what to ask next, what has come, is anybody there; it learns nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import Tensor

from policykd.online.desk import Desk
from policykd.online.inbox import Inbox
from policykd.online.meter import Meter
from policykd.online.settings import OnlineConfig
from policykd.prediction import Batch, Obs

__all__ = ["Correspondence", "TeacherSilent"]


class TeacherSilent(UserWarning):
    """The teacher raises, or has not answered for too long: acting goes on, learning waits for it."""


class Correspondence:
    """Questions out and answers in, a unit of work at a time; for the updating thread.

    Attributes:
        silent: whether the teacher counts as dead.
        outages: times that it has.
    """

    def __init__(self, desk: Desk, inbox: Inbox, meter: Meter, config: OnlineConfig) -> None:
        self._desk, self._inbox, self._meter, self._config = desk, inbox, meter, config
        self._unasked: tuple[Obs, Obs, dict[str, Tensor]] | None = None
        self._retry_at = self._heard_at = 0
        self.silent, self.outages = False, 0

    @property
    def held(self) -> int:
        """Rows of a question that the teacher did not take; it is asked again."""
        if (unasked := self._unasked) is None:
            return 0
        obs = unasked[1]
        return len(next(iter(obs.values())) if isinstance(obs, dict) else obs)

    def exchange(self, remember: Callable[[Batch], None]) -> None:
        """Ask about what has been seen, in blocks, and hand on what has been answered."""
        asked = True
        while asked and self._meter.fits("ask"):
            with self._meter.unit("ask"):
                asked = self._ask()
        self._desk.fetch()
        while self._desk.post and self._meter.fits("read"):
            with self._meter.unit("read"):
                for batch in self._desk.read():
                    self._heard_at = self._inbox.observed
                    remember(batch)

    def _ask(self) -> bool:
        if self._unasked is None:
            self._unasked = self._inbox.take(self._config.ask_rows)
        elif self._inbox.observed < self._retry_at:
            return False
        if self._unasked is None:
            return False
        if self._desk.open == 0:
            self._heard_at = self._inbox.observed  # nobody can have been silent without a question
        if not self._desk.ask(*self._unasked):
            self._retry_at = self._inbox.observed + self._config.ask_rows
            return False
        self._unasked = None
        return True

    def is_silent(self) -> bool:
        """Whether the teacher is dead as far as one can tell; the first time, a warning says so."""
        waited = self._inbox.observed - self._heard_at
        error = self._desk.error
        silent = error is not None or (self._desk.open > 0 and waited >= self._config.silence)
        if silent and not self.silent:
            self.outages += 1
            why = f"it raised {error!r}" if error is not None else f"{waited} observations without an answer"
            warnings.warn(
                f"the teacher is silent ({why}); acting goes on, learning waits until it answers [online.silent]",
                TeacherSilent,
                stacklevel=3,
            )
        self.silent = silent
        return silent
