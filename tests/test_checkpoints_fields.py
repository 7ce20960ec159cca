"""Hostile and broken ``data``: pickles are only recorded, declarations cost nothing, contradictions are named."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hostile_zips import (
    Payload,
    changed,
    fields_of,
    pickled,
    refused,
    rewrite,
    same_actions,
    warmed,
    weights_of,
    with_weights,
)

from policykd import teachers


@pytest.fixture(scope="module", autouse=True)
def warm(agents) -> None:
    warmed(teachers.load, agents("ppo")[1])


@pytest.fixture
def good(agents) -> Path:
    return agents("ppo")[1]


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "the_payload_ran"


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
    for name, space in (
        ("dqn", spaces.MultiDiscrete([3])),
        ("sac", spaces.Discrete(2)),
        ("ars", spaces.MultiBinary(2)),
    ):
        refused(changed(agents(name)[1], tmp_path, action_space=pickled(space)), "space.action")
    refused(changed(good, tmp_path, action_space=pickled(spaces.Dict({"a": spaces.Discrete(3)}))), "space.action")
    box = agents("ppo-box")[1]
    field = {**fields_of(box)["action_space"], **pickled(spaces.Box(-9, 9, (2,), np.float32))}
    refused(changed(box, tmp_path, action_space=field), "sb3.contradiction", "bounds")


def test_an_activation_that_contradicts_its_text(agents, tmp_path):
    path = agents("ppo-elu")[1]
    kwargs = fields_of(path)["policy_kwargs"]
    other = {**kwargs, **pickled({"net_arch": [8, 6], "activation_fn": torch.nn.CELU})}
    refused(changed(path, tmp_path, policy_kwargs=other), "sb3.contradiction", "CELU")


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
