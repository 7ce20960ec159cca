"""The networks of PPO, A2C, TRPO and MaskablePPO."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from gymnasium import spaces
from torch import Tensor, nn

from policykd.distributions import Bernoulli, Categorical, DiagGaussian, Distribution, MultiCategorical, TanhGaussian
from policykd.policy import ActingLayers
from policykd.prediction import Family, Obs, Prediction, Spec
from policykd.teachers.blueprint import Blueprint
from policykd.teachers.brain import Brain, check_log_std, same_tensors, sde_log_std
from policykd.teachers.layers import Shelf, check_declared, widths

__all__ = ["ActorCritic"]


@final
class ActorCritic(Brain):
    """PPO, A2C, TRPO and MaskablePPO."""

    log_std: Tensor

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        shelf, options = Shelf(plan.weights), plan.options
        own = "pi_features_extractor" if shelf.has("pi_features_extractor.") else "features_extractor"
        self.features = shelf.features(own, plan.observation_space, options.scale_images)
        value_features = shelf.features("vf_features_extractor", plan.observation_space, options.scale_images)
        shelf.take("features_extractor.")
        # Files of a shared extractor hold it under every name, old ones under its first name only.
        shared = not value_features.state_dict() or same_tensors(self.features, value_features)
        self.value_features = self.features if shared else value_features
        width, activation = self.features.width, options.activation
        self.shared = shelf.sequence("mlp_extractor.shared_net", width, activation)
        common = widths(self.shared)
        width = common[-1] if common else width
        policy = shelf.sequence("mlp_extractor.policy_net", width, activation)
        value = shelf.sequence("mlp_extractor.value_net", width, activation)
        check_declared(options.net_arch, "pi", common + widths(policy))
        check_declared(options.net_arch, "vf", common + widths(value))
        latent = (widths(policy) or [width])[-1]
        self.family = _family(plan.action_space, options.squash)
        n = Spec(plan.observation_space, plan.action_space, self.family).action_width
        action_net = shelf.linear("action_net", latent, n)
        self.value = nn.Sequential(*value, shelf.linear("value_net", (widths(value) or [width])[-1], 1))
        self.trunk = nn.Sequential(*policy, action_net)
        self.nvec: tuple[int, ...] = ()
        if isinstance(plan.action_space, spaces.MultiDiscrete):
            self.nvec = tuple(int(k) for k in plan.action_space.nvec)
        self.use_expln = options.use_expln
        if isinstance(plan.action_space, spaces.Box):
            self.log_std = nn.Parameter(check_log_std(shelf.one("log_std"), latent, n))
        shelf.finish()

    def forward(self, obs: Obs, values: bool) -> Prediction:
        """Distribution, and V(s)."""
        features = self.features(obs)
        shared = self.shared(features)
        latent = self.trunk[:-1](shared)
        dist = self._dist(self.trunk[-1](latent), latent)
        if not values:
            return Prediction(dist)
        other = shared if self.value_features is self.features else self.shared(self.value_features(obs))
        return Prediction(dist, value=self.value(other).squeeze(-1))

    def acting_layers(self) -> ActingLayers | None:
        """As of any network, with the standard deviation where it is one number a dimension (not gSDE's)."""
        found = super().acting_layers()
        if found is None or self.family != "diag_gaussian" or self.log_std.ndim != 1:
            return found
        return replace(found, log_std=self.log_std)

    def _dist(self, out: Tensor, latent: Tensor) -> Distribution:
        match self.family:
            case "categorical":
                return Categorical(out)
            case "multi_categorical":
                return MultiCategorical(out, self.nvec)
            case "bernoulli":
                return Bernoulli(out)
        log_std = self.log_std if self.log_std.ndim == 1 else sde_log_std(latent, self.log_std, self.use_expln)
        log_std = log_std.expand_as(out)
        return TanhGaussian(out, log_std) if self.family == "tanh_gaussian" else DiagGaussian(out, log_std)


def _family(space: object, squash: bool) -> Family:
    match space:
        case spaces.Discrete():
            return "categorical"
        case spaces.MultiDiscrete():
            return "multi_categorical"
        case spaces.MultiBinary():
            return "bernoulli"
    return "tanh_gaussian" if squash else "diag_gaussian"
