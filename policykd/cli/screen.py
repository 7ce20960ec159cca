"""What a person sees: tables on stdout, progress and hints on stderr, none of it with --json; it computes nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from policykd.cli.arguments import Manner

__all__ = ["Report", "Screen", "number", "span"]

_PLAIN_SECONDS = 5.0
_GAP = 3  # rich's, between columns
_PLAIN_WIDTH = 160  # of tables that go to a file or a pipe


class Report(Protocol):
    """Tells how far something is."""

    def __call__(self, done: int, total: int, figures: Mapping[str, float | None]) -> None:
        """``done`` of at most ``total`` steps, and figures by name; None and NaN are left out."""


def number(value: float | None, digits: int = 1) -> str:
    """A figure for a table, empty where there is none."""
    return "" if value is None or value != value else f"{value:,.{digits}f}"


def span(value: float | None, ci: Sequence[float] | None, digits: int = 1) -> str:
    """``12.3 [11.9, 12.8]``: an estimate with its interval, where it has one."""
    bounds = f" [{ci[0]:,.{digits}f}, {ci[1]:,.{digits}f}]" if value is not None and ci else ""
    return number(value, digits) + bounds


class Screen:
    """Where a verb speaks.

    Attributes:
        command: what was typed, as a shell takes it.
        began: ``time.perf_counter()`` when the process began to work on it.
    """

    def __init__(self, manner: Manner, *, command: str, began: float) -> None:
        self.command, self.began = command, began
        self._result, self._talk = not manner.json, not (manner.json or manner.quiet)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = ()
    ) -> None:
        """A result; columns of figures stand right. ``spare`` ones go, in that order, where a screen is too narrow."""
        if not self._result:
            return
        console = Console(file=sys.stdout, highlight=False)
        if not console.is_terminal:
            console = Console(file=sys.stdout, highlight=False, width=_PLAIN_WIDTH)
        columns, rows = _fitting(columns, rows, spare, console.width)
        shown = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", show_header=any(columns))
        for i, name in enumerate(columns):
            figures = all(not row[i] or row[i][0] in "-0123456789" for row in rows)
            shown.add_column(name, justify="right" if figures else "left", overflow="fold")
        for row in rows:
            shown.add_row(*(cell.replace("[", "\\[") for cell in row))
        console.print(shown)

    def line(self, text: str) -> None:
        """A line of the result."""
        if self._result:
            print(text)

    def hint(self, text: str) -> None:
        """A line that helps and can be missed."""
        if self._talk:
            print(text, file=sys.stderr)

    @contextmanager
    def progress(self, what: str) -> Iterator[Report]:
        """A bar on a terminal, a plain line every few seconds elsewhere, nothing with --quiet and --json."""
        if not self._talk:
            yield lambda done, total, figures: None
        elif sys.stderr.isatty():
            with _bar(what) as report:
                yield report
        else:
            yield _lines(what)


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], width: int
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The table without as many of the spare columns as must go."""
    for name in spare:
        widest = (max(map(len, cells)) for cells in zip(columns, *rows, strict=True))
        if sum(w + _GAP for w in widest) + _GAP <= width:
            break
        keep = [i for i, column in enumerate(columns) if column != name]
        columns, rows = [columns[i] for i in keep], [[row[i] for i in keep] for row in rows]
    return columns, rows


def _figures(figures: Mapping[str, float | None]) -> str:
    return " · ".join(f"{k} {v:,.4g}" for k, v in figures.items() if v is not None and v == v)


@contextmanager
def _bar(what: str) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None, figures="")

        def report(done: int, total: int, figures: Mapping[str, float | None]) -> None:
            now = what if done < total else "measure"
            bar.update(task, description=now, completed=done, total=total, figures=_figures(figures))

        yield report


def _lines(what: str) -> Report:
    began = last = time.perf_counter()

    def report(done: int, total: int, figures: Mapping[str, float | None]) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last < _PLAIN_SECONDS:
            return
        last = now
        left = (now - began) * max(total - done, 0) / max(done, 1)
        parts = (f"{what}: {done:,} of {total:,} steps", _figures(figures), f"at most {left:.0f} s left")
        print(" · ".join(part for part in parts if part), file=sys.stderr)

    return report
