"""What is no agent, half of one, or a zip with traps: one line, a stable code, nothing unpacked."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hostile_zips import (
    refused,
    rewrite,
    same_actions,
    warmed,
)

from policykd import teachers


@pytest.fixture(scope="module", autouse=True)
def warm(agents) -> None:
    warmed(teachers.load, agents("ppo")[1])


@pytest.fixture
def good(agents) -> Path:
    return agents("ppo")[1]


def test_missing_file(tmp_path):
    refused(tmp_path / "nothing.zip", "file.missing", "nothing.zip")


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [
        (b"", "zip.not-a-zip", "empty"),
        (b"hello, world" * 50, "zip.not-a-zip", "not a zip"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "sb3.missing-member",
            "Git LFS pointer",
        ),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "sb3.missing-member", "web page"),
        (pickle.dumps({"params": [1.0]}), "sb3.missing-member", "bare pickle"),
    ],
)
def test_files_that_are_no_zip(tmp_path, content, code, word):
    path = tmp_path / "agent.zip"
    path.write_bytes(content)
    refused(path, code, word)


def test_foreign_zips(agents, tmp_path):
    model, good = agents("ppo")
    old = tmp_path / "sb2.zip"
    with zipfile.ZipFile(old, "w") as archive:
        for name in ("data", "parameter_list", "parameters"):
            archive.writestr(name, "{}")
    refused(old, "sb3.missing-member", "Stable Baselines 2")
    bare = tmp_path / "policy.pth"
    model.policy.save(bare)
    refused(bare, "sb3.missing-member", "bare torch.save", "model.save")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(other, "sb3.missing-member", "readme.txt")
    refused(rewrite(good, tmp_path / "a.zip", {"policy.pth": None}), "sb3.missing-member", "without policy.pth")
    refused(rewrite(good, tmp_path / "b.zip", rename={"data": "Data"}), "sb3.missing-member", "without data")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_cut_files(good, tmp_path, share):
    raw = good.read_bytes()
    path = tmp_path / "cut.zip"
    path.write_bytes(raw[: int(share * len(raw))])
    refused(path, "zip.truncated", "copy it again")


def test_a_zip_behind_other_bytes(good, tmp_path):
    path = tmp_path / "prefixed.zip"
    path.write_bytes(b"PK\x03\x04" + bytes(60) + good.read_bytes())
    refused(path, "zip.truncated")


def test_flipped_byte_in_a_member_that_is_not_even_read(good, tmp_path):
    raw = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        offset = archive.getinfo("policy.optimizer.pth").header_offset
    raw[offset + 300] ^= 0x10
    path = tmp_path / "flipped.zip"
    path.write_bytes(raw)
    refused(path, "zip.damaged", "policy.optimizer.pth")


def test_flipped_byte_inside_the_weights(good, tmp_path):
    """torch looks at no checksum of its own zip; a repaired outer one must not hide the flip."""
    with zipfile.ZipFile(good) as archive:
        inner = bytearray(archive.read("policy.pth"))
    at = inner.index(torch.load(io.BytesIO(bytes(inner)), weights_only=True)["action_net.weight"].numpy().tobytes(), 0)
    inner[at + 2] ^= 0x01
    path = rewrite(good, tmp_path / "inner.zip", {"policy.pth": bytes(inner)})
    assert torch.load(io.BytesIO(bytes(inner)), weights_only=True) is not None
    refused(path, "zip.damaged", "policy.pth")


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../../b", "C:drive", "back\\..\\slash", "line\nbreak"])
def test_member_names_that_leave_the_zip(good, tmp_path, name):
    refused(rewrite(good, tmp_path / "names.zip", {name: b"x"}), "zip.bad-name")


def test_duplicate_members(good, tmp_path):
    path = tmp_path / "twice.zip"
    path.write_bytes(good.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("data", "{}")
    refused(path, "zip.duplicate-member", "data")


def test_symbolic_links(good, tmp_path):
    path = tmp_path / "link.zip"
    path.write_bytes(good.read_bytes())
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(path, "zip.bad-name")


def test_bombs(good, tmp_path):
    many = b" " * (64 << 20)
    path = rewrite(good, tmp_path / "bomb.zip", {"data": many}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    refused(path, "zip.bomb")
    with zipfile.ZipFile(good) as archive:
        inner = archive.read("policy.pth")
    source, packed = tmp_path / "inner.pth", tmp_path / "packed.pth"
    source.write_bytes(inner)
    rewrite(source, packed, compression=zipfile.ZIP_DEFLATED)
    refused(rewrite(good, tmp_path / "c.zip", {"policy.pth": packed.read_bytes()}), "zip.bomb", "compressed tensors")


def test_a_whole_zip_may_be_compressed(good, tmp_path):
    same_actions(good, rewrite(good, tmp_path / "packed.zip", compression=zipfile.ZIP_DEFLATED))


def test_declared_sizes_are_not_believed(good, tmp_path):
    raw = bytearray(good.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<II", raw, at + 20, 5, 1 << 31)
    path = tmp_path / "sizes.zip"
    path.write_bytes(raw)
    refused(path, "zip.too-big")
