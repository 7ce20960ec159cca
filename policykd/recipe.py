"""Where a policy lives: an environment by id, by recipe file or by function, quietly made; it refuses to step one."""

from __future__ import annotations

import difflib
import runpy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym

from policykd.env_ids import current_id
from policykd.errors import EnvError, MissingExtraError, UnknownNameError
from policykd.prediction import EnvWrapper
from policykd.wrappers import WRAPPERS, TimeFeature

__all__ = ["Recipe", "TimeFeature", "load", "quiet"]

_QUIET_MODULES = r"(gymnasium|mujoco|pygame|pkg_resources|Box2D)(\.|$)"
# What an entry point's module needs, and the extra that brings it.
_EXTRAS = {
    "box2d": ("Box2D", "envs"),
    "mujoco": ("mujoco", "mujoco"),
    "ale_py": ("ale-py", "atari"),
    "classic_control": ("pygame-ce", "envs"),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what gymnasium, pygame and Box2D say about their own future off the screen, inside the block only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=_QUIET_MODULES)
        warnings.filterwarnings("ignore", message="builtin type [sS]wig.*", category=DeprecationWarning)
        yield


@contextmanager
def _quiet_mujoco() -> Iterator[None]:
    """The same for MuJoCo, whose C code writes to the terminal and to a file in the current folder."""
    try:
        import mujoco
    except ImportError as e:
        raise MissingExtraError.of("mujoco", "mujoco") from e
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None if "deprecated" in text else warnings.warn(text, stacklevel=2))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


@dataclass(frozen=True)
class Recipe:
    """An environment, what counts as solved there, and how to train on it.

    Attributes:
        env_id: an id that gymnasium knows, or the name of what ``make_env`` makes.
        env_kwargs: arguments of the environment.
        wrappers: applied in order to every environment made.
        reward_threshold: mean return of a solved environment; None takes gymnasium's own, where it has one.
        hyperparams: for each algorithm (``ppo``, ``sac``), the arguments of ``policykd train``.
        make_env: makes the environment instead of ``gym.make(env_id)``; takes keyword arguments.
    """

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[EnvWrapper, ...] = ()
    reward_threshold: float | None = None
    hyperparams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    make_env: Callable[..., gym.Env] | None = None

    @property
    def threshold(self) -> float | None:
        """``reward_threshold``, or gymnasium's for this id."""
        if self.reward_threshold is not None or self.make_env is not None or self.env_id not in gym.registry:
            return self.reward_threshold
        return gym.registry[self.env_id].reward_threshold

    def make(self, **kwargs: Any) -> gym.Env:
        """One environment with its wrappers, without render mode unless ``kwargs`` names one.

        Raises:
            EnvError: ``env.unknown`` for an id that nobody registered, ``env.make`` where making fails.
            MissingExtraError: where a package is missing.
        """
        kwargs = {**self.env_kwargs, **kwargs}
        with quiet():
            env = self.make_env(**kwargs) if self.make_env is not None else _make(self.env_id, kwargs)
            for wrapper in self.wrappers:
                if wrapper.name not in WRAPPERS:
                    raise UnknownNameError.of("wrapper", wrapper.name, WRAPPERS)
                env = WRAPPERS[wrapper.name](env, **wrapper.kwargs)
        return env


def load(
    env: str | Path | Recipe | Callable[..., gym.Env],
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: tuple[EnvWrapper, ...] = (),
) -> Recipe:
    """The recipe that ``env`` means.

    Args:
        env: a Gymnasium id (``LunarLander-v3``, ``package.module:Env-v0``; an old id means its successor), the path of
            a recipe file, a Recipe, or a function that makes an environment.
        env_kwargs: arguments of the environment, on top of the recipe's own.
        wrappers: wrappers that a teacher needs; one that the recipe already names is not applied twice.

    Raises:
        EnvError: ``env.recipe`` for a file that is missing or defines no RECIPE.
    """
    match env:
        case Recipe():
            recipe = env
        case Path() | str() if Path(env).suffix == ".py":
            recipe = _run(Path(env))
        case str():
            recipe = Recipe(current_id(env))
        case _ if callable(env):
            recipe = Recipe(getattr(env, "__qualname__", type(env).__name__), make_env=env)
        case _:
            raise EnvError("env.recipe", f"an environment given as {env!r}", "an id, a recipe file or a function")
    named = {w.name for w in recipe.wrappers}
    return replace(
        recipe,
        # A teacher's arguments may name a render mode: its maker watched it, its student need not.
        env_kwargs={k: v for k, v in {**recipe.env_kwargs, **(env_kwargs or {})}.items() if k != "render_mode"},
        wrappers=(*recipe.wrappers, *(w for w in wrappers if w.name not in named)),
    )


def _run(path: Path) -> Recipe:
    if not path.is_file():
        raise EnvError("env.recipe", f"no file {path}", "a recipe file or a Gymnasium id", "envs/README.md shows one")
    found = runpy.run_path(str(path)).get("RECIPE")
    if not isinstance(found, Recipe):
        raise EnvError("env.recipe", f"{path} defines no RECIPE", "RECIPE = policykd.Recipe(...)", "see envs/README.md")
    return found


def _make(env_id: str, kwargs: Mapping[str, Any]) -> gym.Env:
    _import_namesake(env_id)
    spec = gym.registry.get(env_id)
    entry = str(spec.entry_point) if spec is not None else ""
    try:
        with _quiet_mujoco() if "mujoco" in entry else nullcontext():
            return gym.make(env_id, disable_env_checker=True, **kwargs)
    except MissingExtraError:
        raise
    except gym.error.UnregisteredEnv as e:
        raise _unknown(env_id) from e
    except gym.error.DeprecatedEnv as e:
        raise EnvError("env.unknown", f"environment {env_id!r} is no longer made", "", _line(e)) from e
    except (ImportError, gym.error.DependencyNotInstalled) as e:
        for module, (package, extra) in _EXTRAS.items():
            if module in entry:
                raise MissingExtraError.of(package, extra) from e
        raise EnvError("env.make", f"{env_id} needs a package that is missing ({_line(e)})", "", "install it") from e
    except Exception as e:  # an environment's constructor may raise anything at all
        raise EnvError(
            "env.make", f"{env_id} with arguments {dict(kwargs)} fails: {_line(e)}", "", "check the arguments"
        ) from e


def _import_namesake(env_id: str) -> None:
    """Atari ids exist once ale_py is imported, because gymnasium reads no entry points; others are named in the id."""
    if env_id in gym.registry or not (env_id.startswith("ALE/") or "NoFrameskip-" in env_id):
        return
    try:
        import_module("ale_py")
    except ImportError as e:
        raise MissingExtraError.of("ale-py", "atari") from e


def _unknown(env_id: str) -> EnvError:
    # A version is rarely what was mistyped: names are compared without it.
    names = {known.rpartition("-v")[0].lower(): known for known in sorted(gym.registry)}
    wanted = env_id.rpartition("-v")[0].lower() if "-v" in env_id else env_id.lower()
    close = [names[n] for n in difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)]
    fix = f"did you mean {' or '.join(close)}?" if close else "import its package: package.module:Env-v0"
    return EnvError("env.unknown", f"environment {env_id!r} is not known", "an id that gymnasium has registered", fix)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
