"""Modules that turn images or texts into logits, as teachers and students; they refuse to know where data come from."""

from __future__ import annotations

from policykd.classifiers.classifier import Classifier, Encoder, Inputs
from policykd.classifiers.files import fingerprint, load, save
from policykd.classifiers.heads import Heads
from policykd.classifiers.images import fit_scale
from policykd.classifiers.making import build
from policykd.classifiers.shapes import Shape, parse
from policykd.classifiers.vocabulary import Vocabulary

__all__ = [
    "Classifier",
    "Encoder",
    "Heads",
    "Inputs",
    "Shape",
    "Vocabulary",
    "build",
    "fingerprint",
    "fit_scale",
    "load",
    "parse",
    "save",
]
