"""What every algorithm's networks have in common; it knows no algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from policykd.errors import CheckpointError
from policykd.policy import ActingLayers
from policykd.prediction import Family, Obs, Prediction
from policykd.teachers.layers import BatchRenorm, Features

__all__ = ["Brain", "check_log_std", "same_tensors", "sde_log_std"]

_SDE_EPS = 1e-6  # gSDE's floor of the variance (Raffin et al. 2020, 2005.05719), as in SB3


class Brain(nn.Module, ABC):
    """A policy's networks.

    Attributes:
        family: of its action distribution.
        features: observations to flat features.
        shared: layers of actor and critic alike between features and trunk (SB3 before 1.8), mostly none.
        trunk: features to the action's parameters (logits, scores, means): dense layers with activations between them.
    """

    family: Family
    features: Features
    shared: nn.Sequential
    trunk: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential()

    @abstractmethod
    def forward(self, obs: Obs, values: bool) -> Prediction:
        """Prediction for observations ``[*b, ...]`` as the policy was trained on; ``values=False`` runs no critic."""

    def acting_layers(self) -> ActingLayers | None:
        """Features extractor, shared layers and trunk as plain layers; None where they are more than that."""
        stack = [*self.shared, *self.trunk]
        linears = [layer for layer in stack if isinstance(layer, nn.Linear)]
        kinds = {type(layer) for layer in stack if not isinstance(layer, nn.Linear)}
        convolutions: list[nn.Conv2d] = []
        if (image := self.features.image) is not None:
            convolutions = [layer for layer in image.cnn if isinstance(layer, nn.Conv2d)]
            linears.insert(0, image.dense)
            kinds.add(nn.ReLU)
        elif self.features.images:
            return None
        if len(kinds) > 1 or BatchRenorm in kinds:
            return None
        return ActingLayers(tuple(linears), kinds.pop() if kinds else nn.Tanh, tuple(convolutions))


def sde_log_std(latent: Tensor, log_std: Tensor, use_expln: bool) -> Tensor:
    """log of gSDE's standard deviation: sqrt(latent^2 @ std^2 + eps), independent from state to state.

    SB3 draws one noise matrix for many steps; the marginal law of each action is this one.
    """
    if use_expln:
        above = torch.log1p(log_std.clamp(min=0.0) + _SDE_EPS * (log_std > 0)) + 1.0
        std = torch.where(log_std > 0, above, log_std.exp())
    else:
        std = log_std.exp()
    return 0.5 * torch.log((latent**2) @ (std**2) + _SDE_EPS)


def same_tensors(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold equal tensors under equal names."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def check_log_std(log_std: Tensor, latent: int, actions: int) -> Tensor:
    """A log standard deviation, one for all states or gSDE's matrix, if its shape fits.

    Raises:
        CheckpointError: ``weights.shape``.
    """
    if log_std.shape not in ((actions,), (latent, actions), (latent, 1)):
        raise CheckpointError(
            "weights.shape", f"log_std of shape {tuple(log_std.shape)}", f"({actions},) or ({latent}, {actions})"
        )
    return log_std
