"""Weights that are not numbers, not these shapes or not there, and what files of old versions call them."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_zips import (
    Payload,
    fields_of,
    nothing_runs,
    refused,
    rewrite,
    same_actions,
    saved,
    warmed,
    weights_of,
    with_weights,
)
from teacher_zips import sample

from policykd import teachers
from policykd.errors import CheckpointError


@pytest.fixture(scope="module", autouse=True)
def warm(agents) -> None:
    warmed(teachers.load, agents("ppo")[1])


@pytest.fixture
def good(agents) -> Path:
    return agents("ppo")[1]


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "the_payload_ran"


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
