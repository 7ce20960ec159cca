"""A checkpoint's bytes, checked before they are trusted: structure, sizes, names, checksums; it writes nothing to disk.

SB3 keeps torch's zips uncompressed inside its own, so that half a checkpoint still opens as a (wrong) zip: a whole one
begins with its first member.
"""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policykd.errors import CheckpointError, PolicykdError

__all__ = ["Archive", "file_bytes", "open_archive", "open_inner", "sealed"]

LFS = b"version https://git-lfs"
MAX_FILE = 2 << 30
MAX_MEMBERS = 10_000  # torch writes one member a tensor
# What any checkpoint may unpack to; beyond it the archive must not be denser than a text can be.
FREE_SIZE, MAX_RATIO = 16 << 20, 20


@contextmanager
def sealed(path: Path | str) -> Iterator[None]:
    """Turn whatever a damaged file provokes in the libraries that read it into one kind of error.

    A mutated byte reaches zipfile, json, yaml, torch and numpy in more ways than can be listed, each with an exception
    of its own. Nothing in here runs code of the file, so that an exception says one thing: the file is damaged.
    """
    try:
        yield
    except PolicykdError:
        raise
    except (Exception, MemoryError, RecursionError) as error:
        raise CheckpointError(
            "file.damaged",
            f"{path}: {type(error).__name__}: {error}".splitlines()[0][:200],
            "a checkpoint as Stable-Baselines3 writes it",
            "nothing was run; take the file from its source again",
        ) from error


def file_bytes(path: Path, limit: int = MAX_FILE) -> bytes:
    """The content of a file.

    Raises:
        CheckpointError: ``file.missing``, ``file.unreadable``, ``zip.too-big``.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "not there"
        raise CheckpointError("file.missing", f"{path} is {found}", "a file")
    try:
        if (size := path.stat().st_size) > limit:
            raise CheckpointError("zip.too-big", f"{path} has {size} bytes", f"at most {limit}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError("file.unreadable", f"{path}: {error.strerror}", "a readable file") from error


def _foreign(path: Path, raw: bytes) -> CheckpointError:
    """What a file that is no zip is instead."""
    start = raw[:512].lstrip().lower()
    expected = "the zip of an SB3 agent (model.save)"
    if raw.startswith(LFS):
        return CheckpointError(
            "sb3.missing-member", f"{path} is a Git LFS pointer, not the file", expected, "git lfs pull"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return CheckpointError(
            "sb3.missing-member", f"{path} is a web page", expected, "download the file itself (its raw link)"
        )
    if raw.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return CheckpointError(
            "sb3.missing-member",
            f"{path} is a bare pickle (a Stable Baselines 2 agent, or an old torch.save)",
            expected,
            "it was not opened: a pickle can run code",
        )
    if raw.startswith(b"PK\x03\x04"):
        return CheckpointError(
            "zip.truncated", f"{path} begins as a zip of which the end is missing", "a whole zip", "copy it again"
        )
    what = "is empty" if not raw else "is not a zip"
    return CheckpointError("zip.not-a-zip", f"{path} {what}", expected)


@dataclass(frozen=True)
class Archive:
    """A zip whose structure and checksums hold.

    Attributes:
        path: where it is.
        sha256: of the whole file.
        sizes: member names and their sizes, in file order.
    """

    path: Path
    sha256: str
    sizes: dict[str, int]
    _zip: zipfile.ZipFile

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            CheckpointError: ``sb3.missing-member``.
        """
        if name not in self.sizes:
            raise CheckpointError(
                "sb3.missing-member",
                f"{self.path} holds {', '.join(self.sizes) or 'nothing'}"[:300],
                f"a member {name!r}",
            )
        return self._zip.read(name)


def open_archive(path: Path) -> Archive:
    """The archive at ``path``: every name, size and checksum looked at, nothing unpacked to disk.

    Raises:
        CheckpointError: ``file.missing``, ``zip.not-a-zip``, ``zip.truncated``, ``zip.bad-name``, ``zip.too-big``,
            ``zip.duplicate-member``, ``zip.bomb``, ``zip.damaged``, or ``sb3.missing-member`` for what is no SB3 agent.
    """
    raw = file_bytes(path)
    archive = _checked(path, raw)
    names = set(archive.namelist())
    if "data" not in names or "policy.pth" not in names:
        raise _not_sb3(path, names)
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    return Archive(path, hashlib.sha256(raw).hexdigest(), sizes, archive)


def open_inner(what: str, raw: bytes) -> zipfile.ZipFile:
    """The zip that ``torch.save`` writes, checked like the outer one; torch itself looks at no checksum.

    Raises:
        CheckpointError: as ``open_archive``; ``zip.bomb`` also for compressed members, because torch compresses none.
    """
    archive = _checked(Path(what), raw)
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise CheckpointError("zip.bomb", f"{what}: compressed tensors", "tensors as torch.save writes them")
    return archive


def _checked(path: Path, raw: bytes) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except zipfile.BadZipFile:
        raise _foreign(path, raw) from None
    members = archive.infolist()
    if not raw.startswith(b"PK\x03\x04") or min((m.header_offset for m in members), default=1) != 0:
        raise CheckpointError(
            "zip.truncated",
            f"{path} does not begin with its first member (a checkpoint that was cut still opens as a zip)",
            "a whole zip",
            "copy it again",
        )
    if len(members) > MAX_MEMBERS:
        raise CheckpointError("zip.too-big", f"{path} has {len(members)} members", f"at most {MAX_MEMBERS}")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        parts = name.replace("\\", "/").split("/")
        link = stat.S_ISLNK(member.external_attr >> 16)
        if (
            name != member.orig_filename
            or not name.isprintable()
            or name[:1] in "/\\"
            or ":" in name
            or ".." in parts
            or link
        ):
            raise CheckpointError(
                "zip.bad-name", f"{path}: a member named {name!r}"[:200], "plain names inside the zip"
            )
        if name in seen:
            raise CheckpointError("zip.duplicate-member", f"{path} holds {name!r} twice"[:200], "each name once")
        seen.add(name)
    unpacked, packed = (sum(m.file_size for m in members), sum(m.compress_size for m in members))
    if unpacked > MAX_FILE:
        raise CheckpointError("zip.too-big", f"{path} unpacks to {unpacked} bytes", f"at most {MAX_FILE}")
    if packed > len(raw) or unpacked > max(FREE_SIZE, MAX_RATIO * len(raw)):
        raise CheckpointError(
            "zip.bomb", f"{path}: {len(raw)} bytes unpack to {unpacked}", f"at most {MAX_RATIO} times its size"
        )
    _verify(path, archive)
    return archive


def _verify(path: Path, archive: zipfile.ZipFile) -> None:
    """Read every member once: zipfile compares sizes, local names and checksums on the way."""
    for member in archive.infolist():
        try:
            with archive.open(member) as stream:
                while stream.read(1 << 20):
                    pass
        except (Exception, MemoryError) as error:
            raise CheckpointError(
                "zip.damaged", f"{path}: member {member.filename!r}: {error}"[:200], "intact members", "copy it again"
            ) from error


def _not_sb3(path: Path, names: set[str]) -> CheckpointError:
    expected = "the members 'data' and 'policy.pth' of an SB3 agent"
    tops = {name.split("/")[0] for name in names}
    if "parameters" in names or "parameter_list" in names:
        found, fix = "a Stable Baselines 2 agent (TensorFlow)", "retrain it with Stable-Baselines3"
    elif any(name.endswith("/data.pkl") for name in names) and len(tops) == 1:
        found, fix = "a bare torch.save (policy.save or a state dict)", "save the whole agent with model.save(path)"
    elif "data" in names or "_stable_baselines3_version" in names:
        missing = [m for m in ("data", "policy.pth") if m not in names]
        found, fix = f"an SB3 agent without {' and '.join(missing)}", "save it again with model.save(path)"
    else:
        found, fix = f"a zip of {', '.join(sorted(names)[:5]) or 'nothing'}"[:150], ""
    return CheckpointError("sb3.missing-member", f"{path} is {found}", expected, fix)
