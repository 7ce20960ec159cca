"""What ``distill_classifier`` tells of itself, as charts of a run: a series each for teacher, alone and student."""

from __future__ import annotations

from collections.abc import Callable

from policykd.prediction import Update
from policykd.run.folder import Run
from policykd.supervised import EpochLook

__all__ = ["record_classes"]

_EVERY = 50  # updates


def record_classes(run: Run) -> tuple[Callable[[str, Update], None], Callable[[str, EpochLook], None]]:
    """``(on_update, on_look)`` for ``distill_classifier``; the axis counts examples."""

    def on_update(who: str, update: Update) -> None:
        if update.step % _EVERY:
            return
        values = {"train/loss": float(update.loss), "train/learning_rate": update.lr}
        values |= {f"distill/loss/{term}": float(value) for term, value in update.terms.items() if term}
        values |= {f"distill/weight/{term}": float(weight) for term, weight in update.weights.items() if term}
        run.scalars(update.progress.env_steps, values, who)

    def on_look(who: str, look: EpochLook) -> None:
        found = look.found
        values = {
            "eval/accuracy": found.accuracy.value,
            "eval/nll": found.nll,
            "eval/ece": found.ece,
            "distill/agreement": found.agreement,
            "distill/kl": found.kd_loss,
        }
        run.scalars(look.examples, values, who)

    return on_update, on_look
