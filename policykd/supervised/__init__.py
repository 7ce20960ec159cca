"""The loops that make labelled batches for a Learner: from environments, from datasets; they compute no loss."""

from __future__ import annotations

from policykd.supervised.stepping import ROUND, Known, cosine, interact, label, mixture, replay

__all__ = ["ROUND", "Known", "cosine", "interact", "label", "mixture", "replay"]
