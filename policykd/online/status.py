"""What has become of everything that a loop saw, asked and was told; numbers only."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Status"]


@dataclass(frozen=True)
class Status:
    """What has become of everything so far; counts are rows unless they say otherwise."""

    observed: int
    """Observations taken in."""
    waiting: int
    """Not yet asked about."""
    overflowed: int
    """Forgotten before they were asked about: they came faster than ``update()`` took them."""
    unusable: int
    """Not asked about: NaN or infinities in them, or a view that a new teacher (``teach``) does not have."""
    skipped: int
    """Not asked about while the watch rested."""
    asked: int
    answered: int
    """Labels believed; they are remembered unless the watch rests."""
    open: int
    """Questions that wait for an answer."""
    reordered: int
    """Labels believed although a later question had been answered before."""
    late: int
    """Labels of questions that had been given up: not learnt from."""
    duplicated: int
    """Labels of questions that had been answered: not learnt from."""
    unknown: int
    """Labels of questions that were never asked: not learnt from."""
    missing: int
    """Questions given up, or answered with an error."""
    invalid: int
    """Labels with NaN or infinities, of another kind than the student's or the first labels', or that cannot be read at
    all: not learnt from, the question stays open."""
    stale_dropped: int
    """Labels refused, and remembered rows left out of a step, because the teacher has changed since."""
    stale_weighted: int
    """Remembered rows that counted less in a step, because the teacher has changed since."""
    failures: int
    """Times that the teacher raised, or an error came in the place of an answer."""
    outages: int
    """Times that it counted as dead."""
    silent: bool
    """Whether it does now."""
    teacher_version: int | None
    """The newest that has answered; those of another teacher (``teach``) count on."""
    learning: bool
    """Whether labels are learnt from; a watch that rests only looks at them."""
    alarms: int
    """Times that the watch has seen the divergence rise."""
    remembered: int
    """Rows in the memory."""
    agreement: float | None
    """Share of the last thousand labels, or so, on which the student that acts would have acted like its teacher."""
    divergence: float | None
    """Mean KL(teacher || student) on them in nats, before they were learnt from; None where there is none."""
    updates: int
    due: int
    """Gradient steps that labelled rows call for and no call has had the time for."""
    published: int
    """Publications after the first."""
    step_ms: float | None
    """Processor time that a gradient step is expected to take."""
    episodes: int
    recent_return: float | None
    """Mean of the last hundred episodes, as far as rewards were told."""
