"""Students by name: ``mlp``, ``cnn``, whichever suits the observations, and the widest that a budget allows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from policykd.errors import SpaceError, UsageError
from policykd.networks import is_image
from policykd.policy import Policy
from policykd.prediction import Origin, Spec
from policykd.students.network import Student, empty, observed
from policykd.students.shape import Shape, parse_hidden

__all__ = ["build", "cnn", "mlp", "size_bytes", "suited", "widest"]

_CHANNELS = (16, 32)  # Mnih et al. 2013 (1312.5602)


def mlp(
    spec: Spec,
    hidden: str | Sequence[int] = (64, 64),
    *,
    activation: str = "silu",
    value: bool = False,
    seed: int = 0,
    origin: Origin | None = None,
) -> Student:
    """A fully connected student; the keys of a Dict observation are flattened and put side by side, images too.

    Args:
        spec: the teacher's.
        hidden: widths of the layers; () or ``"linear"`` is the linear policy.
        activation: a key of ``ACTIVATIONS``.
        value: whether a value head sits on the torso.
        seed: of the first weights.
        origin: environment and wrappers it is meant for.

    Raises:
        UsageError: ``student.hidden``, ``name.activation``.
        SpaceError: ``student.family``, ``space.observation``.
    """
    return Student(spec, Shape(parse_hidden(hidden), activation, value), seed=seed, origin=origin)


def cnn(
    spec: Spec,
    hidden: str | Sequence[int] = (64,),
    *,
    channels: Sequence[int] = _CHANNELS,
    activation: str = "relu",
    value: bool = False,
    seed: int = 0,
    origin: Origin | None = None,
) -> Student:
    """A student that reads images (the observation, or keys of a Dict) through convolutions; the rest as in ``mlp``.

    Args:
        spec, hidden, activation, value, seed, origin: as for ``mlp``.
        channels: one convolution each; (32, 64, 64) are NatureCNN's on images of 36 pixels and more.

    Raises:
        SpaceError: ``student.no-image`` when there is no image to read.
    """
    if not _has_image(spec):
        raise SpaceError(
            "student.no-image",
            f"observation space {spec.observation_space}",
            "an image (three axes of bytes from 0 to 255), or a Dict with one",
            "use students.mlp",
        )
    shape = Shape(parse_hidden(hidden), activation, value, tuple(channels))
    return Student(spec, shape, seed=seed, origin=origin)


def build(
    spec: Spec,
    hidden: str | Sequence[int] = (64, 64),
    *,
    activation: str | None = None,
    value: bool = False,
    seed: int = 0,
    origin: Origin | None = None,
) -> Student:
    """The kind of student that suits the observations: ``cnn`` where there is an image, ``mlp`` otherwise.

    ``activation=None`` leaves the kind its own.
    """
    if _has_image(spec):
        return cnn(spec, hidden, activation=activation or "relu", value=value, seed=seed, origin=origin)
    return mlp(spec, hidden, activation=activation or "silu", value=value, seed=seed, origin=origin)


def suited(teacher: Policy, hidden: str | Sequence[int] = (64, 64), *, value: bool = False, seed: int = 0) -> Student:
    """The student that ``distill`` builds when it is given none.

    A student of a tanh teacher is of tanh too: half the error of a SiLU student of the same widths on such teachers.
    Others get SiLU, which fits ReLU teachers better than ReLU does where the student is the smaller one.
    """
    layers = teacher.acting_layers
    alike = layers is not None and layers.activation is nn.Tanh and not _has_image(teacher.spec)
    return build(teacher.spec, hidden, activation="tanh" if alike else None, value=value, seed=seed)


def _has_image(spec: Spec) -> bool:
    return any(is_image(part) for _, part in observed(spec.observation_space))


def widest(spec: Spec, max_params: int) -> tuple[int, int]:
    """The widest two-layer net (w, w) with at most ``max_params`` acting parameters, of the kind ``build`` makes.

    Raises:
        UsageError: ``student.budget`` when even (1, 1) is above it.
    """
    channels = _CHANNELS if _has_image(spec) else ()

    def size(width: int) -> int:
        return empty(spec, Shape((width, width), channels=channels)).acting_parameters

    if size(1) > max_params:
        linear = empty(spec, Shape((), channels=channels)).acting_parameters
        raise UsageError(
            "student.budget",
            f"a budget of {max_params} parameters",
            f"at least {size(1)} for two layers of width 1",
            f"allow more, or take the linear student ({linear} parameters)",
        )
    low, high = 1, 2
    while size(high) <= max_params:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= max_params else (low, middle)
    return low, low


def size_bytes(student: Policy) -> int:
    """Bytes of the student's weights as they are saved: heads, standard deviation and normaliser included."""
    return sum(t.numel() * t.element_size() for t in student.state_dict().values())
