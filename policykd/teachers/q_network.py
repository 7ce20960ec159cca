"""The networks of DQN and QRDQN."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from policykd.distributions import Categorical
from policykd.errors import CheckpointError
from policykd.policy import ActingLayers
from policykd.prediction import Family, Obs, Prediction, Spec
from policykd.teachers.blueprint import Blueprint
from policykd.teachers.brain import Brain
from policykd.teachers.layers import Shelf, check_declared, widths

__all__ = ["QNetwork", "scaled"]


@final
class QNetwork(Brain):
    """DQN and QRDQN: the mean of the quantiles is the action value; acting is its argmax.

    The distribution is ``Categorical(logits=q)``: its mode is the greedy action, its draws are *not* epsilon-greedy;
    what temperature makes a policy of Q is a question of the loss (losses/targets.py).
    """

    family: Family = "categorical"

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        shelf, options = Shelf(plan.weights), plan.options
        net = "quantile_net" if plan.kind == "quantile" else "q_net"
        self.features = shelf.features(f"{net}.features_extractor", plan.observation_space, options.scale_images)
        prefix = f"{net}.{net}"
        self.actions = Spec(plan.observation_space, plan.action_space, "categorical").action_width
        outputs = shelf.outputs(prefix)
        if outputs % self.actions or (plan.kind == "q" and outputs != self.actions):
            raise CheckpointError(
                "weights.shape", f"{outputs} outputs of {prefix}", f"{self.actions} (times quantiles)"
            )
        self.trunk = shelf.sequence(prefix, self.features.width, options.activation, outputs)
        check_declared(options.net_arch, "q", widths(self.trunk)[:-1])
        self.quantiles = outputs // self.actions if plan.kind == "quantile" else None
        shelf.finish()

    def forward(self, obs: Obs, values: bool) -> Prediction:
        """Action values Q(s, .), and max_a Q(s, a)."""
        q = self.trunk(self.features(obs))
        if self.quantiles is not None:
            q = q.unflatten(-1, (self.quantiles, self.actions)).mean(-2)
        return Prediction(Categorical(q), value=q.amax(-1) if values else None, q=q)

    def acting_layers(self) -> ActingLayers | None:
        """As of any network; the output layer is averaged over the quantiles."""
        found = super().acting_layers()
        if found is None or self.quantiles is None:
            return found
        last = found.linears[-1]
        weight = last.weight.unflatten(0, (self.quantiles, self.actions)).mean(0)
        bias = last.bias.unflatten(0, (self.quantiles, self.actions)).mean(0)
        return replace(found, linears=(*found.linears[:-1], _linear(weight, bias)))


def scaled(layer: nn.Linear, factor: float) -> nn.Linear:
    """A dense layer whose outputs are ``factor`` times those of ``layer``."""
    return _linear(layer.weight * factor, layer.bias * factor)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer.requires_grad_(False)
