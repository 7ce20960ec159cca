"""The post between a loop and its teacher: what to ask next, what has come, is anybody there; it learns nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from policykd.online.answers import RemoteTeacher
from policykd.online.columns import View
from policykd.online.desk import Desk
from policykd.online.inbox import Inbox
from policykd.online.meter import Meter
from policykd.online.settings import OnlineConfig
from policykd.prediction import Batch, Obs, map_obs, rows_of

__all__ = ["Correspondence", "TeacherSilent"]


class TeacherSilent(UserWarning):
    """The teacher raises, or has not answered for too long: acting goes on, learning waits for it."""


class Correspondence:
    """Questions out and answers in, a unit of work at a time; for the updating thread.

    Attributes:
        every: one observation in so many is asked about.
        skipped: observations that were not.
        silent: whether the teacher counts as dead.
        outages: times that it has.
    """

    def __init__(self, desk: Desk, inbox: Inbox, meter: Meter, config: OnlineConfig) -> None:
        self._desk, self._inbox, self._meter, self._config = desk, inbox, meter, config
        self._unasked: tuple[Obs, Obs, dict[str, Tensor]] | None = None
        self._retry_at = self._heard_at = self._passed = 0
        self.every, self.skipped = 1, 0
        self.silent, self.outages = False, 0

    @property
    def held(self) -> int:
        """Rows of a question that the teacher did not take; it is asked again."""
        return 0 if self._unasked is None else rows_of(self._unasked[1])

    def renew(self, teacher: RemoteTeacher, view: View | None) -> None:
        """Write to another teacher from now on; what it cannot read is given up."""
        self._desk.hire(teacher)
        self._inbox.renew(view)
        self._heard_at, self._retry_at = self._inbox.observed, 0
        if self._unasked is not None and view is not None:
            seen, obs, _ = self._unasked
            if not view.reads(obs, None if seen is obs else seen):
                self._inbox.unusable += self.held
                self._unasked = None

    def exchange(self, remember: Callable[[Batch], None]) -> bool:
        """Ask about what has been seen, in blocks, and hand on what has been answered; whether there was any."""
        worked = self._read(remember)
        # What has not been read for want of time is answered already: to ask for more would only pile it up.
        while not self._desk.post and self._meter.fits("ask"):
            with self._meter.unit("ask"):
                asked = self._ask()
            worked |= asked
            if not asked:
                break
        if not self._desk.post:
            self._desk.fetch()
            worked |= self._read(remember)
        return worked

    def _read(self, remember: Callable[[Batch], None]) -> bool:
        read = False
        while self._desk.post and self._meter.fits("read"):
            read = True
            with self._meter.unit("read"):
                for batch in self._desk.read():
                    self._heard_at = self._inbox.observed
                    remember(batch)
        return read

    def _ask(self) -> bool:
        if self._unasked is None:
            self._unasked = self._next()
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

    def _next(self) -> tuple[Obs, Obs, dict[str, Tensor]] | None:
        """The next block to ask about: so many observations, or one in ``every`` of them."""
        while (block := self._inbox.take(self._config.ask_rows)) is not None:
            n = rows_of(block[1])
            which = torch.arange(n)[-self._passed % self.every :: self.every]
            self._passed = (self._passed + n) % self.every
            self.skipped += n - len(which)
            if len(which):
                return block if len(which) == n else _some(block, which)
        return None

    def is_silent(self) -> bool:
        """Whether the teacher is dead as far as one can tell; the first time, a warning says so."""
        waited = self._inbox.observed - self._heard_at
        desk = self._desk
        silent = desk.error is not None or (desk.open > 0 and waited >= self._config.silence)
        if silent and not self.silent:
            self.outages += 1
            why = f"it raised {desk.error!r}" if desk.error is not None else f"{waited} observations without an answer"
            if desk.error is None and desk.refused is not None:
                why += f" that could be learnt from: {desk.refused}"
            warnings.warn(
                f"the teacher is silent ({why}); acting goes on, learning waits until it answers [online.silent]",
                TeacherSilent,
                stacklevel=3,
            )
        self.silent = silent
        return silent


def _some(block: tuple[Obs, Obs, dict[str, Tensor]], which: Tensor) -> tuple[Obs, Obs, dict[str, Tensor]]:
    seen, obs, extra = block
    fewer = map_obs(obs, lambda t: t[which])
    shown = fewer if seen is obs else map_obs(seen, lambda t: t[which])
    return shown, fewer, {name: t[which] for name, t in extra.items()}
