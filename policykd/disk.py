"""Files that are there whole or not at all; it knows nothing of what is in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from policykd.errors import RunError

__all__ = ["write_whole"]


def write_whole(folder: Path, files: Mapping[str, bytes], *, code: str) -> None:
    """Write ``files`` (name: content) into ``folder``, made if missing; none is replaced before all are on disk.

    Raises:
        RunError: ``code`` when the folder cannot be written; nothing of this call is left there then.
    """
    ready: list[tuple[str, Path]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
            ready.append((temporary, folder / name))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
        for temporary, path in ready:
            os.replace(temporary, path)
    except OSError as why:
        raise RunError(code, f"{folder}: {why.strerror}", "a folder that can be written", "choose another") from None
    finally:
        for temporary, _ in ready:
            Path(temporary).unlink(missing_ok=True)
