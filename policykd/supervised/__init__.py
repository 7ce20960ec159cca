"""The loops that make labelled batches for a Learner: from environments, from data sets; they compute no loss."""

from __future__ import annotations

from policykd.supervised import views
from policykd.supervised.answers import Answers, WithAnswers, answers, read_answers
from policykd.supervised.epochs import epochs, mutual
from policykd.supervised.examples import MISSING, Examples, Rows, View
from policykd.supervised.fit import EpochLook, Fitted, fit
from policykd.supervised.hashes import hash_inputs, hash_weights
from policykd.supervised.scores import ClassScore, calibration_error, score
from policykd.supervised.several import several
from policykd.supervised.stepping import ROUND, Known, cosine, interact, label, mixture, replay

__all__ = [
    "MISSING",
    "ROUND",
    "Answers",
    "ClassScore",
    "EpochLook",
    "Examples",
    "Fitted",
    "Known",
    "Rows",
    "View",
    "WithAnswers",
    "answers",
    "calibration_error",
    "cosine",
    "epochs",
    "fit",
    "hash_inputs",
    "hash_weights",
    "interact",
    "label",
    "mixture",
    "mutual",
    "read_answers",
    "replay",
    "score",
    "several",
    "views",
]
