"""Broken, foreign and hostile files: each ends in one line with a stable code, and nothing in them runs."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from teacher_zips import fields_of, nothing_runs, pickled, rewrite, sample, saved, warmed, weights_of

from policykd import teachers
from policykd.errors import CheckpointError


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module", autouse=True)
def warm(agents) -> None:
    warmed(teachers.load, agents("ppo")[1])


@pytest.fixture
def good(agents) -> Path:
    return agents("ppo")[1]


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "the payload ran".replace(" ", "_")


def refused(path: Path, code: str, *words: str, **kwargs: Any) -> CheckpointError:
    """The error with which ``load`` refuses a file, checked for its form."""
    with nothing_runs(), pytest.raises(CheckpointError) as caught:
        teachers.load(path, **kwargs)
    text = str(caught.value)
    assert caught.value.code == code and text.endswith(f"[{code}]"), text
    assert "\n" not in text and len(text) < 800, text
    assert all(word in text for word in words), text
    return caught.value


def changed(good: Path, tmp_path: Path, **fields: Any) -> Path:
    """The good agent with other fields in ``data``; a field given as ... is left out."""
    data = {k: v for k, v in {**fields_of(good), **fields}.items() if v is not ...}
    return rewrite(good, tmp_path / "changed.zip", {"data": json.dumps(data).encode()})


def with_weights(good: Path, tmp_path: Path, weights: Any) -> Path:
    return rewrite(good, tmp_path / "weights.zip", {"policy.pth": saved(weights)})


def same_actions(good: Path, path: Path) -> None:
    space = teachers.load(good).spec.observation_space
    obs = sample(space, np.random.default_rng(0), 50)
    with nothing_runs():
        teacher = teachers.load(path)
    np.testing.assert_array_equal(
        teacher.predict(obs, deterministic=True)[0], teachers.load(good).predict(obs, deterministic=True)[0]
    )


# ---- what is no agent at all


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


# ---- the fields of ``data``


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1' + b"1" * 5000 + b"}", b"[1, 2]"]
)
def test_data_that_is_no_json_object(good, tmp_path, content):
    refused(rewrite(good, tmp_path / "json.zip", {"data": content}), "sb3.bad-data")


@pytest.mark.parametrize("name", ["policy_class", "observation_space", "action_space"])
def test_missing_fields(good, tmp_path, name):
    refused(changed(good, tmp_path, **{name: ...}), "sb3.missing-field", name)


def test_field_that_is_no_pickle(good, tmp_path):
    refused(changed(good, tmp_path, action_space={":serialized:": "no base64!"}), "sb3.bad-field", "action_space")
    refused(changed(good, tmp_path, action_space={":serialized:": "AAAA"}), "pickle.broken")
    refused(changed(good, tmp_path, action_space={":serialized:": 7}), "sb3.bad-field")
    refused(changed(good, tmp_path, action_space="Discrete(3)"), "space.unreadable")


def test_payload_where_nothing_is_read(good, tmp_path, marker):
    """Plain ``PPO.load`` runs each of these; here they are never looked at."""
    for name in ("lr_schedule", "clip_range", "an_extra_key"):
        same_actions(good, changed(good, tmp_path, **{name: pickled(Payload(marker))}))
    same_actions(good, changed(good, tmp_path, env="evil_module:Foo-v0", buffer_size=10**12))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("policy_class", "policy.custom-class"),
        ("policy_kwargs", "pickle.value"),
        ("observation_space", "space.unreadable"),
        ("action_space", "space.unreadable"),
        ("gamma", "pickle.value"),
    ],
)
def test_payload_where_something_is_read(good, tmp_path, marker, name, code):
    path = changed(good, tmp_path, **{name: pickled(Payload(marker))})
    error = refused(path, code)
    if name == "policy_class":
        assert "posix.system" in str(error) and "nothing was run" in str(error)
    found = teachers.inspect(path)
    assert found.verdict == "dangerous" and found.problem is not None
    assert found.code[0].where == f"data:{name}" and "touch" in found.code[0].call
    assert not marker.exists()


def test_payload_inside_a_space(good, tmp_path, marker):
    space = spaces.Box(-1, 1, (3,), np.float32)
    space.low = Payload(marker)
    refused(changed(good, tmp_path, observation_space=pickled(space)), "pickle.value")
    assert not marker.exists()


class Custom(torch.nn.Module):
    """A class of somebody's own."""


def test_classes_that_are_not_sb3s(good, tmp_path):
    import stable_baselines3
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

    refused(changed(good, tmp_path, policy_class=pickled(Custom)), "policy.custom-class", "Custom")
    refused(changed(good, tmp_path, policy_class=pickled(stable_baselines3.SAC)), "policy.custom-class", "SAC")
    refused(changed(good, tmp_path, policy_class="MlpPolicy"), "policy.custom-class", "MlpPolicy")
    refused(changed(good, tmp_path, policy_class=pickled(RecurrentActorCriticPolicy)), "policy.recurrent", "memory")
    kwargs = {"features_extractor_class": Custom}
    refused(changed(good, tmp_path, policy_kwargs=pickled(kwargs)), "policy.custom-class", "features extractor")
    refused(
        changed(good, tmp_path, policy_kwargs=pickled({"activation_fn": Custom})), "policy.custom-class", "activation"
    )
    refused(changed(good, tmp_path, policy_kwargs={"my_option": 1}), "policy.argument", "my_option")


@pytest.mark.parametrize(
    "net_arch", [[300_000, 300_000], [8], [8, 6, 6], {"pi": [8, 6], "vf": [1]}, [[8, 6]], {"pi": "8"}]
)
def test_declared_widths_cost_nothing(good, tmp_path, net_arch):
    refused(changed(good, tmp_path, policy_kwargs={"net_arch": net_arch}), "weights.shape")


@pytest.mark.parametrize(
    ("space", "code"),
    [
        (spaces.Tuple([spaces.Discrete(2)]), "space.unreadable"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}), "space.unreadable"),
        (spaces.Text(5), "space.unreadable"),
        (spaces.Box(-1, 1, (4,), np.float32), "weights.shape"),
    ],
)
def test_observation_spaces_that_do_not_fit(good, tmp_path, space, code):
    refused(changed(good, tmp_path, observation_space=pickled(space)), code)


def test_impossible_boxes(good, tmp_path):
    for low, high in ((np.nan, 1.0), (2.0, 1.0)):
        space = spaces.Box(-1, 1, (3,), np.float32)
        space.low, space.high = np.full(3, low, np.float32), np.full(3, high, np.float32)
        refused(changed(good, tmp_path, observation_space=pickled(space)), "space.unreadable", "Box")
    space = spaces.Box(-1, 1, (3,), np.float32)
    space._shape = (300, 300_000)
    refused(changed(good, tmp_path, observation_space=pickled(space)), "space.unreadable")


def test_what_a_file_says_stays_on_one_printable_line(good, tmp_path):
    name = "line\nbreak\x1b[31m"
    error = refused(with_weights(good, tmp_path, {**weights_of(good), name: torch.zeros(2)}), "weights.shape")
    assert str(error).isprintable() and "\n" in error.found


def test_convolutions_of_what_is_no_image(agents, tmp_path):
    """SB3 refuses them too; scaling by 255 would silently be left out."""
    path = agents("ppo-cnn")[1]
    space = spaces.Box(0, 254, (1, 36, 40), np.uint8)
    refused(changed(path, tmp_path, observation_space=pickled(space)), "space.image")


def test_action_spaces_that_do_not_fit(good, agents, tmp_path):
    refused(changed(good, tmp_path, action_space=pickled(spaces.Discrete(4))), "weights.shape", "action_net")
    refused(changed(good, tmp_path, action_space=pickled(spaces.Discrete(3, start=5))), "space.start")
    refused(changed(good, tmp_path, action_space=pickled(spaces.Discrete(10**9))), "space.unreadable")
    box = agents("ppo-box")[1]
    field = {**fields_of(box)["action_space"], **pickled(spaces.Box(-9, 9, (2,), np.float32))}
    refused(changed(box, tmp_path, action_space=field), "sb3.contradiction", "bounds")


def test_an_activation_that_contradicts_its_text(agents, tmp_path):
    path = agents("ppo-elu")[1]
    kwargs = fields_of(path)["policy_kwargs"]
    other = {**kwargs, **pickled({"net_arch": [8, 6], "activation_fn": torch.nn.CELU})}
    refused(changed(path, tmp_path, policy_kwargs=other), "sb3.contradiction", "CELU")


# ---- the weights


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(good, tmp_path, value):
    weights = weights_of(good)
    weights["mlp_extractor.policy_net.0.weight"][1, 1] = value
    refused(with_weights(good, tmp_path, weights), "weights.not-finite", "1 of 24", "mlp_extractor.policy_net.0.weight")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int8, torch.int64])
def test_weights_of_other_types(good, tmp_path, dtype):
    weights = weights_of(good)
    weights["action_net.bias"] = weights["action_net.bias"].to(dtype)
    refused(with_weights(good, tmp_path, weights), "weights.dtype", "action_net.bias")


def test_half_precision_acts_as_sb3_would_load_it(agents, tmp_path):
    model, good = agents("ppo")
    path = with_weights(good, tmp_path, {k: v.half() for k, v in weights_of(good).items()})
    obs = sample(model.observation_space, np.random.default_rng(0), 50)
    kept = copy.deepcopy(model.policy.state_dict())
    model.policy.load_state_dict(weights_of(path))
    want, _ = model.predict(obs, deterministic=True)
    model.policy.load_state_dict(kept)
    np.testing.assert_array_equal(teachers.load(path).predict(obs, deterministic=True)[0], want)


def test_weights_of_other_shapes(good, tmp_path):
    original = weights_of(good)

    def variant(**change: Any) -> Path:
        edited = {k: v for k, v in {**original, **change}.items() if v is not None}
        return with_weights(good, tmp_path, edited)

    layer = "mlp_extractor.policy_net.0.weight"
    refused(variant(**{layer: original[layer].T.contiguous()}), "weights.shape", layer)
    refused(variant(**{layer: None}), "weights.shape")
    refused(variant(**{"action_net.bias": torch.zeros(5)}), "weights.shape", "action_net.bias")
    refused(variant(**{"action_net.bias": torch.zeros(())}), "weights.shape")
    refused(variant(extra=torch.zeros(3)), "weights.shape", "extra")
    refused(variant(**{"mlp_extractor.policy_net.99999999.weight": torch.zeros(3, 3)}), "weights.shape")
    refused(variant(**{"mlp_extractor.policy_net.6.weight": torch.zeros(3, 3)}), "weights.shape")


def test_tensors_over_less_memory_than_they_claim(good, tmp_path):
    weights = weights_of(good)
    weights["mlp_extractor.policy_net.0.weight"] = torch.zeros(1).expand(131072, 131072)
    refused(with_weights(good, tmp_path, weights), "weights.virtual", "131072")
    # The pickle of torch.save names the number of stored values, which torch believes.
    honest = saved({"action_net.bias": torch.zeros(77)})
    assert honest.count(b"KM") == 2  # the storage's size and the tensor's
    lying = tmp_path / "lying.pth"
    lying.write_bytes(honest)
    with zipfile.ZipFile(lying) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        content = archive.read(name).replace(b"KM", b"K\xff")
    rewrite(lying, tmp_path / "lies.pth", {name: content})
    path = rewrite(good, tmp_path / "d.zip", {"policy.pth": (tmp_path / "lies.pth").read_bytes()})
    refused(path, "weights.virtual")


def test_payload_in_the_weights(good, tmp_path, marker):
    path = with_weights(good, tmp_path, {"action_net.bias": Payload(marker)})
    refused(path, "weights.code", "posix.system")
    assert teachers.inspect(path).verdict == "dangerous"
    legacy = io.BytesIO()
    torch.save({"a": Payload(marker)}, legacy, _use_new_zipfile_serialization=False)
    refused(rewrite(good, tmp_path / "e.zip", {"policy.pth": legacy.getvalue()}), "weights.code", "posix.system")
    assert not marker.exists()


def test_weights_that_are_something_else(good, tmp_path):
    refused(with_weights(good, tmp_path, [torch.zeros(3)]), "weights.unreadable")
    refused(with_weights(good, tmp_path, {"a": 1.0}), "weights.unreadable")
    for content in (b"", b"nonsense", b"PK\x03\x04nonsense"):
        path = rewrite(good, tmp_path / "f.zip", {"policy.pth": content})
        with nothing_runs(), pytest.raises(CheckpointError):
            teachers.load(path)


def test_the_format_that_torch_wrote_before_1_6(good, tmp_path):
    buffer = io.BytesIO()
    torch.save(weights_of(good), buffer, _use_new_zipfile_serialization=False)
    raw = buffer.getvalue()
    same_actions(good, rewrite(good, tmp_path / "legacy.zip", {"policy.pth": raw}))
    for share in (0.1, 0.5, 0.95):
        path = rewrite(good, tmp_path / "cut.zip", {"policy.pth": raw[: int(share * len(raw))]})
        with nothing_runs(), pytest.raises(CheckpointError):
            teachers.load(path)


# ---- names that old files have


def test_linear_ars_of_sb3_contrib_before_1_7(agents, tmp_path):
    good = agents("ars-linear")[1]
    weights = {k.replace("action_net.0.", "action_net."): v for k, v in weights_of(good).items()}
    assert list(weights) == ["action_net.weight"]
    same_actions(good, with_weights(good, tmp_path, weights))


def test_spaces_of_gym(good, tmp_path):
    """Old files name gym's classes, which are not installed here."""
    data = fields_of(good)
    for name in ("observation_space", "action_space"):
        raw = pickle.dumps(getattr(teachers.load(good).spec, name), protocol=3)
        assert b"gymnasium.spaces" in raw
        data[name] = {":serialized:": base64.b64encode(raw.replace(b"gymnasium", b"gym")).decode()}
    same_actions(good, rewrite(good, tmp_path / "gym.zip", {"data": json.dumps(data).encode()}))


def test_shared_layers_of_sb3_before_1_8(agents, tmp_path):
    """net_arch=[5, dict(pi=[7], vf=[4])]: SB3 2 cannot load it, so the arithmetic is done by hand."""
    model, good = agents("ppo-old-list")
    generator = torch.Generator().manual_seed(0)
    shared = {
        "mlp_extractor.shared_net.0.weight": torch.randn(5, 3, generator=generator),
        "mlp_extractor.shared_net.0.bias": torch.randn(5, generator=generator),
    }
    weights = {**weights_of(good), **shared}
    for part, width in (("policy", 7), ("value", 4)):
        weights[f"mlp_extractor.{part}_net.0.weight"] = torch.randn(width, 5, generator=generator)
    data = {**fields_of(good), "policy_kwargs": {"net_arch": [5, {"pi": [7], "vf": [4]}]}}
    path = rewrite(good, tmp_path / "shared.zip", {"data": json.dumps(data).encode(), "policy.pth": saved(weights)})
    teacher = teachers.load(path)
    x = torch.from_numpy(sample(model.observation_space, np.random.default_rng(0), 9))
    w = {k: v.double() for k, v in weights.items()}

    def layer(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    common = torch.tanh(layer(x.double(), "mlp_extractor.shared_net.0"))
    logits = layer(torch.tanh(layer(common, "mlp_extractor.policy_net.0")), "action_net")
    value = layer(torch.tanh(layer(common, "mlp_extractor.value_net.0")), "value_net").squeeze(-1)
    said = teacher.label(x)
    torch.testing.assert_close(said.dist.logits.double(), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said.value.double(), value, rtol=1e-5, atol=1e-5)
    assert teacher.acting_parameters == 3 * 5 + 5 + 5 * 7 + 7 + 7 * 3 + 3


def test_inspection_of_every_kind_of_agent(agents, tmp_path):
    for name in ("ppo", "a2c", "trpo", "maskable", "dqn", "qrdqn", "sac-her", "td3", "ddpg", "tqc", "crossq", "ars"):
        found = teachers.inspect(agents(name)[1])
        assert found.problem is None, (name, found.problem)
        assert found.verdict in ("data", "function"), (name, found.code[:3])
        json.dumps(found.to_dict())


def test_inspection_sees_gadgets_and_plain_text_traps(good, tmp_path):
    import numpy.testing._private.utils as gadgets
    import stable_baselines3

    class Builds:
        def __reduce__(self) -> Any:
            return stable_baselines3.SAC, ("MlpPolicy", "evil_module:Foo-v0")

    class Runs:
        def __reduce__(self) -> Any:
            return gadgets.runstring, ("import evil", {})

    found = teachers.inspect(changed(good, tmp_path, a=pickled(Builds()), b=pickled(Runs()), env="evil:Foo-v0"))
    verdicts = {(c.where, c.verdict) for c in found.code}
    assert {("data:a", "unknown"), ("data:b", "dangerous"), ("data:env", "dangerous")} <= verdicts
    assert found.problem is None


def test_a_folder_is_described_as_such(tmp_path, good):
    refused(tmp_path, "teacher.folder", "no zip")
    with pytest.raises(CheckpointError):
        teachers.inspect(tmp_path / "nothing")


def test_bombs_of_values(good, tmp_path):
    """A pickle of endless steps, JSON of endless values: refused before their memory is asked for."""
    steps = b"\x80\x04" + b"}" * 310_000 + b"."
    refused(changed(good, tmp_path, gamma={":serialized:": base64.b64encode(steps).decode()}), "pickle.too-long")
    refused(rewrite(good, tmp_path / "values.zip", {"data": b"[" + b"[]," * 1_100_000 + b"[]]"}), "zip.bomb", "values")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04.",  # nothing on the stack
        b"\x80\x04(.",  # a mark without an end
        b"\x80\x04h\x07.",  # a memory that was never made
        b"\x80\x04K\x01K\x02s.",  # an item set on a number
        b"\x80\x04]K\x01K\x02a.",  # an element added to a number
        b"\x80\x04}(K\x01u.",  # a key without a value
        b"\x80\x04}(]K\x01u.",  # a list as a key
        b"\x80\x04K\x01K\x02\x93.",  # a global named by numbers
        b"\x80\x05\x97.",  # a buffer outside the file
        b"\x80\x04\x8a\xff.",  # a number that ends too soon
        b"I" + b"9" * 5000 + b"\n.",  # a number longer than Python converts
        b"\x80\x04" + b"\x85" * 10,  # tuples of nothing
        b"cposix\n.",
        b"no pickle",
    ],
)
def test_broken_pickles(good, tmp_path, content):
    field = {":serialized:": base64.b64encode(content).decode()}
    for name in ("gamma", "policy_kwargs", "action_space", "policy_class"):
        refused(changed(good, tmp_path, **{name: field}), "pickle.broken")


def test_deep_pickles_are_no_recursion(good, tmp_path):
    deep = b"\x80\x04)" + b"\x85" * 100_000 + b"."
    field = {":serialized:": base64.b64encode(deep).decode()}
    refused(changed(good, tmp_path, gamma=field), "pickle.value")
    nested = {"net_arch": [[[[8]]]]}
    for _ in range(50):
        nested = {"net_arch": [nested]}
    refused(changed(good, tmp_path, policy_kwargs=nested), "pickle.value")


def test_every_instruction_is_only_recorded(marker):
    """The same object in every protocol, and a class by each of the old instructions, comes back as records."""
    from policykd.checkpoints.pickles import Call, read

    value = [1, -(2**70), 2.5, "text", b"bytes", None, True, (1, 2), {"a": {1}}, frozenset([3]), bytearray(b"x")]
    for protocol in range(6):
        found = read(pickle.dumps(value, protocol=protocol)).value
        if protocol >= 4:
            assert found[:10] == value[:10]
        loaded = read(pickle.dumps(Payload(marker), protocol=protocol))
        assert isinstance(loaded.value, Call) and loaded.value.name == "posix.system"
        assert loaded.value.args == (f"touch {marker}",)
    for code in (b"(S'touch x'\niposix\nsystem\n.", b"(cposix\nsystem\nS'touch x'\no.", b"cposix\nsystem\n)\x81."):
        assert read(code).value.name == "posix.system"
    assert read(b"\x80\x02\x82\x01.").names == {"copyreg.extension_1": 1}
    assert not marker.exists()
