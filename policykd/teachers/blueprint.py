"""What a network is built from: which policy, which spaces, which options, which weights; it builds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import gymnasium as gym
from gymnasium import spaces
from torch import Tensor, nn

from policykd.checkpoints.arrays import as_bool, as_float, plain
from policykd.checkpoints.pickles import Call, Global
from policykd.errors import CheckpointError

__all__ = ["Blueprint", "Kind", "Options", "check_actions", "kind_of", "options_from"]

Kind: TypeAlias = Literal["actor_critic", "q", "quantile", "gaussian_actor", "deterministic_actor", "ars"]
_KINDS: Mapping[str, Kind] = {
    "stable_baselines3.common.policies": "actor_critic",
    "sb3_contrib.common.maskable.policies": "actor_critic",
    "stable_baselines3.dqn.policies": "q",
    "sb3_contrib.qrdqn.policies": "quantile",
    "stable_baselines3.sac.policies": "gaussian_actor",
    "sb3_contrib.tqc.policies": "gaussian_actor",
    "sb3_contrib.crossq.policies": "gaussian_actor",
    "stable_baselines3.td3.policies": "deterministic_actor",
    "sb3_contrib.ars.policies": "ars",
}
_POLICIES = {
    *("ActorCriticPolicy", "ActorCriticCnnPolicy", "MultiInputActorCriticPolicy"),
    *("MaskableActorCriticPolicy", "MaskableActorCriticCnnPolicy", "MaskableMultiInputActorCriticPolicy"),
    *("DQNPolicy", "QRDQNPolicy", "SACPolicy", "TQCPolicy", "CrossQPolicy", "TD3Policy"),
    *("CnnPolicy", "MultiInputPolicy", "ARSPolicy", "ARSLinearPolicy"),
}
_ACTIONS: Mapping[Kind, tuple[type[gym.Space], ...]] = {
    "actor_critic": (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box),
    "q": (spaces.Discrete,),
    "quantile": (spaces.Discrete,),
    "gaussian_actor": (spaces.Box,),
    "deterministic_actor": (spaces.Box,),
    "ars": (spaces.Discrete, spaces.Box),
}
_RECURRENT = "sb3_contrib.common.recurrent.policies"
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(
            nn.CELU,
            nn.ELU,
            nn.GELU,
            nn.Hardsigmoid,
            nn.Hardswish,
            nn.Hardtanh,
            nn.Identity,
            nn.LeakyReLU,
            nn.LogSigmoid,
        ),
        *(nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink),
    )
}
_EXTRACTORS = ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
# Every argument of every policy class of SB3 and sb3-contrib 2.9; the weights say what most of them said.
_ARGUMENTS = set(
    """activation_fn batch_norm batch_norm_eps batch_norm_momentum clip_mean device features_extractor_class
    features_extractor_kwargs full_std log_std_init n_critics n_quantiles net_arch normalize_images optimizer_class
    optimizer_kwargs ortho_init renorm_warmup_steps sde_net_arch share_features_extractor squash_output use_expln
    use_sde with_bias""".split()
)


@dataclass(frozen=True)
class Options:
    """What the weights alone do not say about a policy (SB3's defaults live in its classes, not in the file)."""

    activation: type[nn.Module]
    squash: bool
    use_expln: bool = False
    clip_mean: float = 2.0
    scale_images: bool = True
    renorm_eps: float = 1e-3
    net_arch: Any = None


@dataclass(frozen=True)
class Blueprint:
    """A policy, ready to be built.

    Attributes:
        algo: lower-case name of the algorithm.
        policy: name of the policy class.
        kind: which networks it has.
        weights: its state dict, checked.
    """

    algo: str
    policy: str
    kind: Kind
    observation_space: gym.Space
    action_space: gym.Space
    options: Options
    weights: Mapping[str, Tensor]


def check_actions(kind: Kind, space: gym.Space) -> None:
    """Refuse an action space that SB3 gives no policy of this kind.

    Raises:
        CheckpointError: ``space.action``, ``space.start``.
    """
    possible = _ACTIONS[kind]
    if not isinstance(space, possible):
        raise CheckpointError(
            "space.action",
            f"action space {space}"[:160],
            f"{' or '.join(p.__name__ for p in possible)} for this policy",
        )
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise CheckpointError("space.start", f"action space {space}", "choices from 0 on: SB3 knows no others")


def kind_of(module: str, name: str) -> Kind:
    """The networks of a policy class of SB3 or sb3-contrib.

    Raises:
        CheckpointError: ``policy.recurrent`` for an LSTM policy, ``policy.custom-class`` for any other class.
    """
    if module == _RECURRENT:
        raise CheckpointError(
            "policy.recurrent",
            f"a recurrent policy ({name})",
            "a policy without memory",
            "recurrent teachers are not supported yet; retrain with PPO, or stack frames",
        )
    if module not in _KINDS or name not in _POLICIES:
        raise CheckpointError(
            "policy.custom-class",
            f"policy class {module}.{name}",
            "a policy of stable_baselines3 or sb3_contrib",
            "its code is not in the file and would have to run; nothing was imported",
        )
    return _KINDS[module]


def options_from(kwargs: Mapping[str, Any], kind: Kind, policy: str) -> Options:
    """The options in ``policy_kwargs``, with the class's defaults where it says nothing.

    Args:
        kwargs: of a file (names as records) or of a live model (classes).
        kind, policy: of the policy class.

    Raises:
        CheckpointError: ``policy.argument`` for one that no policy of SB3 takes, ``policy.custom-class`` for classes
            that are not SB3's or torch's.
    """
    if unknown := sorted(set(kwargs) - _ARGUMENTS):
        raise CheckpointError(
            "policy.argument", f"policy_kwargs with {', '.join(unknown)}"[:200], "arguments of SB3's own policies"
        )
    if kwargs.get("sde_net_arch"):
        raise CheckpointError("policy.argument", "policy_kwargs with sde_net_arch", "a policy that SB3 2 can load")
    extractor = kwargs.get("features_extractor_class")
    if extractor is not None and _name_of(extractor, "stable_baselines3.common.torch_layers") not in _EXTRACTORS:
        raise CheckpointError(
            "policy.custom-class",
            f"features extractor {_label(extractor)}",
            " or ".join(_EXTRACTORS),
            "its code is not in the file and would have to run; nothing was imported",
        )
    activation: type[nn.Module] = nn.Tanh if kind == "actor_critic" else nn.ReLU
    if (given := kwargs.get("activation_fn")) is not None:
        name = _name_of(given, "torch.nn.modules")
        if name not in _ACTIVATIONS:
            raise CheckpointError(
                "policy.custom-class", f"activation {_label(given)}", f"one of {', '.join(sorted(_ACTIVATIONS))}"
            )
        activation = _ACTIVATIONS[name]
    return Options(
        activation=activation,
        squash=as_bool(kwargs.get("squash_output", kind == "ars" and policy != "ARSLinearPolicy") or False),
        use_expln=as_bool(kwargs.get("use_expln", False)),
        clip_mean=as_float(kwargs.get("clip_mean", 2.0)),
        scale_images=as_bool(kwargs.get("normalize_images", True)),
        renorm_eps=as_float(kwargs.get("batch_norm_eps", 1e-3)),
        net_arch=plain(kwargs.get("net_arch")),
    )


def _name_of(value: Any, module: str) -> str:
    """The name of a class (live or recorded) if it comes from ``module``, else nothing."""
    found = value.module if isinstance(value, Global) else value.__module__ if isinstance(value, type) else ""
    name = value.name if isinstance(value, Global) else value.__name__ if isinstance(value, type) else ""
    return name if (found + ".").startswith(module + ".") else ""


def _label(value: Any) -> str:
    return value.name if isinstance(value, Call) else str(value)[:100]
