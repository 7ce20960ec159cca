"""What can be typed after each verb, one light module a verb; a field without a default is positional."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Manner"]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a verb speaks."""

    json: bool = False
    """One JSON object on stdout, nothing else there."""
    quiet: bool = False
    """The result only: no progress, no hints."""
    debug: bool = False
    """Show the traceback of a failure."""
