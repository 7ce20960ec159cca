"""What a person sees: a bar on a terminal, plain lines elsewhere, nothing with --quiet and --json."""

from __future__ import annotations

import io
import sys

import pytest

from policykd.cli import screen as screens
from policykd.cli.arguments import Manner
from policykd.cli.screen import Screen, number, span


class Terminal(io.StringIO):
    """A stderr that is looked at."""

    def isatty(self) -> bool:
        return True


def screen(**manner: bool) -> Screen:
    return Screen(Manner(**manner), command="", began=0.0)


def test_plain_lines_say_how_far_how_well_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 10.0, 12.0])
    monkeypatch.setattr(screens.time, "perf_counter", lambda: next(clock))
    with screen().progress("distil") as tell:
        tell(100, 2_000, {"loss": 9.0})
        tell(1_000, 2_000, {"loss": 0.5, "return": float("nan"), "agreement": None})
        tell(1_100, 2_000, {"loss": 0.4})
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "distil: 1,000 of 2,000 steps · loss 0.5 · at most 10 s left\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with screen().progress("distil") as tell:
        tell(500, 2_000, {"loss": 0.25, "agreement": 0.75})
    assert "distil" in seen.getvalue() and "25%" in seen.getvalue()
    assert "loss 0.25 · agreement 0.75" in seen.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("manner", [{"quiet": True}, {"json": True}])
def test_silence(manner: dict[str, bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(screens, "_PLAIN_SECONDS", 0.0)
    silent = screen(**manner)
    with silent.progress("distil") as tell:
        tell(1, 2, {"loss": 1.0})
    silent.hint("a hint")
    assert capsys.readouterr() == ("", "")
    silent.line("a result")
    silent.table("title", ("a",), [("b",)])
    assert ("title" in capsys.readouterr().out) == ("quiet" in manner)


def test_a_table_keeps_brackets_and_says_figures_as_people_read_them(capsys: pytest.CaptureFixture[str]) -> None:
    screen().table("kept", ("name", "return"), [("[bold]x", span(1234.567, (1200.0, 1300.0))), ("y", "")])
    out, err = capsys.readouterr()
    assert "[bold]x" in out and "1,234.6 [1,200.0, 1,300.0]" in out and err == ""
    assert (number(None), number(float("nan")), span(None, None), span(0.5, None, 3)) == ("", "", "", "0.500")


@pytest.mark.parametrize(("width", "there"), [(60, "ab"), (24, "a"), (10, "")])
def test_spare_columns_go_where_the_screen_is_narrow(
    width: int, there: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screens, "_PLAIN_WIDTH", width)
    screen().table("t", ("name", "aaaaaaaa", "bbbbbbbb"), [("x", "1", "2")], spare=("bbbbbbbb", "aaaaaaaa"))
    lines = capsys.readouterr().out.splitlines()
    assert all(("bbbbbbbb" if x == "b" else "aaaaaaaa") in " ".join(lines) for x in there)
    assert sum(word in " ".join(lines) for word in ("aaaaaaaa", "bbbbbbbb")) == len(there)
    assert len([line for line in lines if line.strip()]) == 4, "nothing is folded"
