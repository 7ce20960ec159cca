"""The networks of SAC, TQC, CrossQ, TD3, DDPG (an actor and critics) and ARS (an actor alone)."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd.distributions import Categorical, Deterministic, Distribution, TanhGaussian
from policykd.errors import CheckpointError
from policykd.policy import ActingLayers
from policykd.prediction import Obs, Prediction, Spec
from policykd.teachers.blueprint import Blueprint
from policykd.teachers.brain import Brain, check_log_std, same_tensors, sde_log_std
from policykd.teachers.layers import Features, Shelf, check_declared, widths

__all__ = ["ContinuousActor", "Scorer"]

_LOG_STD_MIN, _LOG_STD_MAX = -20.0, 2.0  # SAC's bounds (Haarnoja et al. 2018), in SB3, TQC and CrossQ alike


class _Critics(nn.Module):
    """Q(s, a) of SAC, TD3, DDPG, TQC and CrossQ: the least of the critics, each the mean of its quantiles."""

    def __init__(self, plan: Blueprint, shelf: Shelf, actions: int, actor_features: Features) -> None:
        super().__init__()
        options = plan.options
        features = shelf.features("critic.features_extractor", plan.observation_space, options.scale_images)
        self.features = actor_features if same_tensors(actor_features, features) else features
        self.nets = nn.ModuleList()
        while shelf.has(f"critic.qf{len(self.nets)}."):
            prefix = f"critic.qf{len(self.nets)}"
            outputs = shelf.outputs(prefix)
            net = shelf.sequence(prefix, features.width + actions, options.activation, outputs, options.renorm_eps)
            check_declared(options.net_arch, "qf", widths(net)[:-1])
            self.nets.append(net)
        if not self.nets:
            raise CheckpointError("weights.shape", "no tensors critic.qf0", "one critic or more")

    def forward(self, obs: Obs, action: Tensor) -> Tensor:
        """Least critic, ``[*b]``, of actions in [-1, 1]."""
        x = torch.cat([self.features(obs), action], -1)
        return torch.stack([net(x).mean(-1) for net in self.nets], -1).amin(-1)


@final
class ContinuousActor(Brain):
    """SAC, TQC and CrossQ (tanh-Gaussian), TD3 and DDPG (deterministic), with their critics.

    The value is the least critic at the actor's deterministic action. Critics of SAC, TQC and CrossQ include the
    entropy bonus of the steps to come (soft values, Haarnoja et al. 2018, eq. 2): they lie above the plain return.
    """

    sde: Tensor

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        shelf, options = Shelf(plan.weights), plan.options
        self.features = shelf.features("actor.features_extractor", plan.observation_space, options.scale_images)
        width = self.features.width
        self.stochastic = plan.kind == "gaussian_actor"
        self.family = "tanh_gaussian" if self.stochastic else "tanh_deterministic"
        n = Spec(plan.observation_space, plan.action_space, self.family).action_width
        self.log_std: nn.Linear | None = None
        self.clip_mean, self.use_expln = 0.0, options.use_expln
        if self.stochastic:
            latent = shelf.sequence("actor.latent_pi", width, options.activation, None, options.renorm_eps)
            width = (widths(latent) or [width])[-1]
            # SB3 bounds the mean of gSDE's actors with a Hardtanh behind it, which gives its layer a number.
            bounded = shelf.has("actor.mu.0.")
            self.trunk = nn.Sequential(*latent, shelf.linear("actor.mu.0" if bounded else "actor.mu", width, n))
            self.clip_mean = options.clip_mean if bounded else 0.0
            if shelf.has("actor.log_std."):
                self.log_std = shelf.linear("actor.log_std", width, n)
            else:
                self.sde = nn.Parameter(check_log_std(shelf.one("actor.log_std"), width, n))
        else:
            self.trunk = shelf.sequence("actor.mu", width, options.activation, n)
        check_declared(options.net_arch, "pi", widths(self.trunk)[:-1])
        self.critics = _Critics(plan, shelf, n, self.features)
        shelf.finish()

    def forward(self, obs: Obs, values: bool) -> Prediction:
        """Distribution over [-1, 1], and the least critic at its mode."""
        latent = self.trunk[:-1](self.features(obs))
        mean = self.trunk[-1](latent)
        dist: Distribution
        if not self.stochastic:
            dist = Deterministic(torch.tanh(mean))
        else:
            if self.clip_mean > 0:
                mean = mean.clamp(-self.clip_mean, self.clip_mean)
            if self.log_std is not None:
                log_std = self.log_std(latent).clamp(_LOG_STD_MIN, _LOG_STD_MAX)
            else:
                log_std = sde_log_std(latent, self.sde, self.use_expln).expand_as(mean)
            dist = TanhGaussian(mean, log_std)
        return Prediction(dist, value=self.critics(obs, dist.mode()) if values else None)

    def acting_layers(self) -> ActingLayers | None:
        """As of any network, with the head of the standard deviation (not gSDE's)."""
        found = super().acting_layers()
        return None if found is None else replace(found, log_std=self.log_std, clip_mean=self.clip_mean or None)


@final
class Scorer(Brain):
    """ARS: one network, no critic, no noise; for Discrete actions the argmax of its scores acts."""

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        weights, options = dict(plan.weights), plan.options
        # sb3-contrib before 1.7 kept a linear policy's only layer without a number.
        for name in ("weight", "bias"):
            if f"action_net.{name}" in weights:
                weights[f"action_net.0.{name}"] = weights.pop(f"action_net.{name}")
        shelf = Shelf(weights)
        self.features = shelf.features("features_extractor", plan.observation_space, True)
        discrete = isinstance(plan.action_space, spaces.Discrete)
        self.squash = options.squash and not discrete
        self.family = "categorical" if discrete else "tanh_deterministic" if self.squash else "deterministic"
        n = Spec(plan.observation_space, plan.action_space, self.family).action_width
        self.trunk = shelf.sequence("action_net", self.features.width, options.activation, n)
        check_declared(options.net_arch, "pi", widths(self.trunk)[:-1])
        shelf.finish()

    def forward(self, obs: Obs, values: bool) -> Prediction:
        """The action, or the scores of all actions."""
        del values
        out = self.trunk(self.features(obs))
        if self.family == "categorical":
            return Prediction(Categorical(out))
        return Prediction(Deterministic(torch.tanh(out) if self.squash else out))
