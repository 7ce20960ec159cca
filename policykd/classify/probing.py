"""The head of a pre-trained classifier, taught before what is under it moves; it changes nothing else."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from policykd.classifiers import Classifier
from policykd.clock import Clock
from policykd.datasets import Labelled
from policykd.learner import Learner
from policykd.losses import label_nll
from policykd.supervised import MISSING, Rows, answers, cosine, fit
from policykd.supervised.examples import Inputs, take_inputs
from policykd.taps import Tapped

__all__ = ["probe"]

_STEPS, _BATCH = 3_000, 128
"""Steps of a millisecond each; few rows are seen more often."""


def probe(classifier: Classifier, data: Labelled, *, seed: int = 0, clock: Clock | None = None) -> None:
    """Teach ``module.head`` what ``module.pooled`` says of the labels, and keep the best on the validation rows.

    A head that knows nothing yet pulls good features about, and has them unlearn what they knew of other texts than
    these: linear probing, then fine-tuning (Kumar et al. 2022, 2202.10054). It costs one pass over the rows.

    Args:
        classifier: with a linear layer ``head`` that reads ``pooled``; only the head is changed.
        seed: of the order of rows.
        clock: gets the phases of ``answers`` and ``fit``.
    """
    head = classifier.module.head
    assert isinstance(head, nn.Linear)
    tapped = Tapped(classifier, {"pooled": "module.pooled"})

    def features(inputs: Inputs) -> torch.Tensor:
        return answers(tapped, inputs, features=("pooled",), clock=clock).target.features["pooled"]

    kept = torch.where(data.train.labels != MISSING)[0]
    rows = Rows(features(take_inputs(data.train.inputs, kept)), data.train.labels[kept], batch_size=_BATCH, seed=seed)
    held = features(data.validation.inputs)
    learner = Learner(Classifier(copy.deepcopy(head), classifier.classes), label_nll, lr=cosine(1e-2), average=0.99)
    made = fit(
        learner,
        rows,
        math.ceil(_STEPS / math.ceil(len(kept) / _BATCH)),
        validation=lambda s: s.label_all(held),
        label=data.validation.labels,
        seed=seed,
        clock=clock,
    )
    head.load_state_dict(made.student.module.state_dict())
