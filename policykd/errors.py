"""Everything policykd raises on purpose; it refuses to know about torch, files or the command line.

PolicykdError                   what a user can meet: found / expected / do this [stable.code]
├── UsageError                  an argument that cannot be meant (exit code 2)
│   ├── UnknownNameError        a name that is not in a table; carries "did you mean"
│   └── SpaceError              two spaces, shapes or families that must match do not
├── CheckpointError             a file that is missing, damaged, foreign or hostile
├── DistributionError           a quantity that this distribution or pair does not have
├── EnvError                    an environment that cannot be made or does not keep its contract
├── RunError                    a run folder or shelf entry that cannot be read or written
└── MissingExtraError           an optional dependency that is not installed (also an ImportError)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "DistributionError",
    "EnvError",
    "MissingExtraError",
    "PolicykdError",
    "RunError",
    "SpaceError",
    "UnknownNameError",
    "UsageError",
]


class PolicykdError(Exception):
    """One line: what was found, what was expected, what to do; then a stable code in brackets.

    Attributes:
        code: dotted lower-case identifier, stable between versions (``zip.truncated``).
        found, expected, fix: the three parts of the message.
    """

    exit_code = 1

    def __init__(self, code: str, found: str, expected: str = "", fix: str = "") -> None:
        self.code, self.found, self.expected, self.fix = code, found, expected, fix
        parts = [found]
        if expected:
            parts.append(f"expected {expected}")
        if fix:
            parts.append(f"-> {fix}")
        # What is quoted may come out of a hostile file: one line of printable characters, whatever it holds.
        text = "".join(c if c.isprintable() else " " for c in "; ".join(parts))
        super().__init__(f"{' '.join(text.split())} [{code}]")

    def __reduce__(self) -> tuple[object, tuple[str, str, str, str]]:
        # Exceptions cross process borders (asynchronous environments, test workers) with their parts.
        return type(self), (self.code, self.found, self.expected, self.fix)


class UsageError(PolicykdError):
    """An argument that cannot be meant."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in a table."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """The error for ``name``, with the closest known names as the way out."""
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        fix = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
        return cls(f"name.{kind}", f"{kind} {name!r} is not known", "", fix)


class SpaceError(UsageError):
    """Two spaces, shapes or families that must match do not."""


class CheckpointError(PolicykdError):
    """A file that is missing, damaged, foreign or hostile."""


class DistributionError(PolicykdError):
    """A quantity that this distribution, or this pair of distributions, does not have."""


class EnvError(PolicykdError):
    """An environment that cannot be made or does not keep its contract."""


class RunError(PolicykdError):
    """A run folder or shelf entry that cannot be read or written."""


class MissingExtraError(PolicykdError, ImportError):
    """An optional dependency that is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """The error for a missing ``package`` that comes with ``policykd[extra]``."""
        return cls("extra.missing", f"the package {package} is not installed", "", f"pip install 'policykd[{extra}]'")
