"""Fixtures that several test files share; modules beside the tests (teacher_zips.py) are importable by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def own_threads() -> Iterator[None]:
    """For tests of verbs, which set torch's threads: afterwards there are as many as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


Spoken = Callable[..., tuple[Path, str, str]]


@pytest.fixture(scope="session")
def verb(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    """A verb that is run to its end: its run folder, stdout and stderr; the folder is not to be changed."""

    def run(*argv: str) -> tuple[Path, str, str]:
        from policykd.cli import main

        folder = tmp_path_factory.mktemp(argv[0]) / "run"
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            assert main([*argv, "--out", str(folder)]) == 0
        return folder, out.getvalue(), err.getvalue()

    return run


@pytest.fixture(scope="session")
def shared_teachers() -> Path:
    """A folder of agents that others trained, in rl_zoo3's layout: ``$POLICYKD_TEACHERS`` or ``../shared/teachers``."""
    folder = Path(os.environ.get("POLICYKD_TEACHERS", Path(__file__).parent.parent.parent / "shared" / "teachers"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real agents at {folder} (set POLICYKD_TEACHERS)")
    return folder


@pytest.fixture(scope="session")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A small SB3 model and its zip for each name in ``teacher_zips.CASES``."""
    from teacher_zips import memoised

    return memoised(tmp_path_factory.mktemp("agents"))
