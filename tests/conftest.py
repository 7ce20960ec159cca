"""Fixtures that several test files share; modules beside the tests (teacher_zips.py) are importable by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))


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
