"""Teachers against SB3 itself: every algorithm and policy kind acts, values and judges as the live model does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from teacher_zips import CASES, VECTOR, Blank, sample

from policykd import teachers
from policykd.distributions import Categorical
from policykd.errors import CheckpointError
from policykd.prediction import map_obs, obs_tensor

ON_POLICY = [name for name, case in CASES.items() if case.on_policy]
ACTORS = [name for name, case in CASES.items() if case.algo in ("SAC", "TQC", "CrossQ", "TD3", "DDPG")]
Q_LEARNERS = [name for name, case in CASES.items() if case.algo in ("DQN", "QRDQN")]


def observations(model: Any, count: int, seed: int = 0) -> Any:
    return sample(model.observation_space, np.random.default_rng(seed), count)


def some(obs: Any, rows: Any) -> Any:
    return {k: v[rows] for k, v in obs.items()} if isinstance(obs, dict) else obs[rows]


@pytest.mark.parametrize("name", CASES)
def test_deterministic_actions_are_sb3s_to_the_last_bit(agents, name):
    model, path = agents(name)
    teacher = teachers.load(path)
    obs = observations(model, 200)
    want, _ = model.predict(obs, deterministic=True)
    have, state = teacher.predict(obs, deterministic=True)
    assert state is None
    # SB3 leaves the bits of a MultiBinary as floats, the environment's own are int8.
    assert have.dtype == want.dtype or isinstance(model.action_space, spaces.MultiBinary)
    np.testing.assert_array_equal(have, want)
    for row in (0, 7):
        want, _ = model.predict(some(obs, row), deterministic=True)
        have, _ = teacher.predict(some(obs, row), deterministic=True)
        np.testing.assert_array_equal(have, want)
        assert np.shape(have) == np.shape(want)


@pytest.mark.parametrize("name", CASES)
def test_a_live_model_and_its_zip_are_one_teacher(agents, name):
    model, path = agents(name)
    loaded, live = teachers.load(path), teachers.from_sb3(model)
    obs = obs_tensor(observations(model, 50))
    for a, b in zip(_tensors(loaded.label(obs)), _tensors(live.label(obs)), strict=True):
        assert torch.equal(a, b)
    assert live.spec == loaded.spec
    assert (live.origin.algo, live.origin.gamma) == (loaded.origin.algo, loaded.origin.gamma)
    names = {"MaskablePPO": "ppo_mask"}
    assert loaded.origin.algo == names.get(CASES[name].algo, CASES[name].algo.lower())


def _tensors(said) -> list[torch.Tensor]:
    found = [v for v in vars(said.dist).values() if isinstance(v, torch.Tensor)]
    return found + [t for t in (said.value, said.q) if t is not None]


@pytest.mark.parametrize("name", ON_POLICY)
def test_log_probability_entropy_and_value_of_actor_critics(agents, name):
    model, path = agents(name)
    obs = obs_tensor(observations(model, 64))
    said = teachers.load(path).label(obs)
    action = said.dist.sample(torch.Generator().manual_seed(0))
    if name == "ppo-sde-squash":
        action = action.clamp(
            -0.9, 0.9
        )  # SB3 adds 1e-6 inside the logarithm of its correction, which shows at the ends
    with torch.no_grad():
        value, log_prob, entropy = model.policy.evaluate_actions(obs, action)
    torch.testing.assert_close(said.value, value.squeeze(-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(said.dist.log_prob(action), log_prob, rtol=1e-4, atol=2e-5)
    if entropy is not None:
        torch.testing.assert_close(said.dist.entropy(), entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ACTORS)
def test_least_critic_at_the_actors_action(agents, name):
    model, path = agents(name)
    obs = obs_tensor(observations(model, 64))
    said = teachers.load(path).label(obs)
    model.policy.set_training_mode(False)
    with torch.no_grad():
        action = model.policy._predict(obs, deterministic=True)
        critics = model.policy.critic(obs, action)
        each = [q.squeeze(-1) for q in critics] if isinstance(critics, tuple) else list(critics.mean(-1).unbind(1))
    torch.testing.assert_close(said.value, torch.stack(each).amin(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(said.dist.mode(), action, rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n in ACTORS if CASES[n].algo in ("SAC", "TQC", "CrossQ")])
def test_log_probability_of_tanh_gaussian_actors(agents, name):
    model, path = agents(name)
    obs = obs_tensor(observations(model, 64))
    said = teachers.load(path).label(obs)
    action = said.dist.sample(torch.Generator().manual_seed(0)).clamp(-0.9, 0.9)
    model.policy.set_training_mode(False)
    with torch.no_grad():
        mean, log_std, kwargs = model.policy.actor.get_action_dist_params(obs)
        theirs = model.policy.actor.action_dist.proba_distribution(mean, log_std, **kwargs)
        want = theirs.log_prob(action)
    torch.testing.assert_close(said.dist.mean, mean, rtol=0, atol=0)
    torch.testing.assert_close(said.dist.log_std, theirs.distribution.stddev.log(), rtol=1e-5, atol=1e-5)
    # A tiny spread magnifies the last bits of two ways to write atanh.
    fair = (said.dist.log_std > -5).all(-1)
    assert fair.sum() > 10
    torch.testing.assert_close(said.dist.log_prob(action)[fair], want[fair], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", Q_LEARNERS)
def test_action_values(agents, name):
    model, path = agents(name)
    obs = obs_tensor(observations(model, 64))
    said = teachers.load(path).label(obs)
    with torch.no_grad():
        q = model.policy.q_net(obs) if CASES[name].algo == "DQN" else model.policy.quantile_net(obs).mean(1)
    torch.testing.assert_close(said.q, q, rtol=0, atol=0)
    torch.testing.assert_close(said.value, q.amax(1), rtol=0, atol=0)
    assert isinstance(said.dist, Categorical) and said.dist.logits is said.q


@pytest.mark.parametrize("name", ["ars", "ars-clipped", "ars-discrete", "ars-linear"])
def test_ars_has_no_value(agents, name):
    model, path = agents(name)
    said = teachers.load(path).label(obs_tensor(observations(model, 4)))
    assert said.value is None and said.q is None


@pytest.mark.parametrize("name", ["maskable", "maskable-multi"])
def test_masks_rule_actions_out_as_in_maskable_ppo(agents, name):
    model, path = agents(name)
    teacher = teachers.load(path)
    obs = observations(model, 100)
    rng = np.random.default_rng(1)
    masks = rng.random((100, teacher.spec.action_width)) < 0.4
    masks[:, 0] = True
    if name == "maskable-multi":
        masks[:, 2] = True  # each factor needs an action
    want, _ = model.predict(obs, deterministic=True, action_masks=masks)
    have, _ = teacher.predict(obs, deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(have, want)
    drawn, _ = teacher.predict(obs, action_masks=masks)
    allowed = masks[np.arange(100), drawn] if name == "maskable" else masks[np.arange(100), drawn[:, 0]]
    assert allowed.all()


FAMILIES = {
    "ppo": "categorical",
    "ppo-box": "diag_gaussian",
    "ppo-sde": "diag_gaussian",
    "ppo-sde-squash": "tanh_gaussian",
    "ppo-multi-discrete": "multi_categorical",
    "ppo-multi-binary": "bernoulli",
    "dqn": "categorical",
    "qrdqn": "categorical",
    "sac": "tanh_gaussian",
    "tqc": "tanh_gaussian",
    "crossq": "tanh_gaussian",
    "td3": "tanh_deterministic",
    "ddpg": "tanh_deterministic",
    "ars": "tanh_deterministic",
    "ars-clipped": "deterministic",
    "ars-linear": "deterministic",
    "ars-linear-bias": "tanh_deterministic",
    "ars-discrete": "categorical",
}


@pytest.mark.parametrize(("name", "family"), FAMILIES.items())
def test_families(agents, name, family):
    assert teachers.load(agents(name)[1]).spec.family == family


# Counted by hand: inputs x outputs + outputs, layer by layer, of what acts.
ACTING = {
    "ppo": 3 * 8 + 8 + 8 * 6 + 6 + 6 * 3 + 3,
    "ppo-box": 3 * 8 + 8 + 8 * 2 + 2,
    "ppo-linear": 3 * 2 + 2,
    "sac": 3 * 8 + 8 + 8 * 2 + 2,
    "td3": 3 * 8 + 8 + 8 * 6 + 6 + 6 * 2 + 2,
    "qrdqn": 3 * 8 + 8 + 8 * 6 + 6 + 6 * 21 + 21,
    "crossq": 2 * 3 + 3 * 8 + 8 + 2 * 8 + 8 * 6 + 6 + 2 * 6 + 6 * 2 + 2,
    "ars-linear": 3 * 2,
    "ppo-cnn": 32 * 64 + 32 + 64 * 32 * 16 + 64 + 64 * 64 * 9 + 64 + 64 * 12 + 12 + 12 * 3 + 3,
}


@pytest.mark.parametrize(("name", "count"), ACTING.items())
def test_acting_parameters(agents, name, count):
    assert teachers.load(agents(name)[1]).acting_parameters == count


@pytest.mark.parametrize(
    "name", ["ppo", "ppo-cnn", "ppo-dict", "ppo-sde", "qrdqn", "sac", "tqc", "td3", "ars", "crossq"]
)
def test_leading_dimensions_are_free(agents, name):
    model, path = agents(name)
    teacher = teachers.load(path)
    obs = obs_tensor(observations(model, 6))
    flat = teacher.label(obs)
    deep = teacher.label(map_obs(obs, lambda t: t.unflatten(0, (2, 3))))
    for a, b in zip(_tensors(flat), _tensors(deep), strict=True):
        torch.testing.assert_close(b.flatten(0, 1), a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ppo", "ppo-cnn-split", "sac", "td3", "tqc"])
def test_acting_runs_no_critic(agents, name):
    model, path = agents(name)
    teacher = teachers.load(path)
    with torch.no_grad():
        for part, parameter in teacher.named_parameters():
            if ".value" in part or ".critics." in part:
                parameter.fill_(torch.nan)
    obs = obs_tensor(observations(model, 5))
    assert teacher(obs, values=False).value is None
    assert torch.isnan(teacher(obs).value).all()
    action, _ = teacher.predict(observations(model, 5), deterministic=True)
    assert np.isfinite(action).all()


@pytest.mark.parametrize("name", ["ppo", "crossq", "dqn"])
def test_teachers_are_frozen_copies(agents, name):
    model, _ = agents(name)
    teacher = teachers.from_sb3(model)
    obs = obs_tensor(observations(model, 5))
    before = _tensors(teacher.label(obs))
    kept = {k: v.clone() for k, v in model.policy.state_dict().items()}
    try:
        with torch.no_grad():
            for tensor in model.policy.state_dict().values():
                tensor.zero_()
        teacher.train()  # nothing in it depends on the mode
        for a, b in zip(before, _tensors(teacher.label(obs)), strict=True):
            assert torch.equal(a, b)
    finally:
        model.policy.load_state_dict(kept)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.label(obs).dist.logits.requires_grad if name != "crossq" else True


def test_acting_layers_repeat_the_actor(agents):
    for name in ("ppo", "ppo-elu", "ppo-linear", "dqn", "qrdqn", "sac", "sac-sde", "td3", "ars", "ars-linear"):
        model, path = agents(name)
        teacher = teachers.load(path)
        found = teacher.acting_layers
        x = obs_tensor(observations(model, 20))
        said = teacher.label(x)
        for i, layer in enumerate(found.linears):
            x = layer(x) if i == 0 else layer(found.activation()(x))
        mean = x if found.clip_mean is None else x.clamp(-found.clip_mean, found.clip_mean)
        want = vars(said.dist).get("logits", vars(said.dist).get("mean", vars(said.dist).get("action")))
        if teacher.spec.family == "tanh_deterministic":
            mean = torch.tanh(mean)
        torch.testing.assert_close(mean, want, rtol=1e-5, atol=1e-6)


def test_acting_layers_of_images_and_of_what_is_not_plain(agents):
    teacher = teachers.load(agents("ppo-cnn")[1])
    found = teacher.acting_layers
    assert [tuple(c.weight.shape) for c in found.convolutions] == [(32, 1, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)]
    assert [tuple(layer.weight.shape) for layer in found.linears] == [(12, 64), (3, 12)]
    for name in ("crossq", "ppo-dict", "ppo-cnn-float", "ppo-cnn-split"):
        assert teachers.load(agents(name)[1]).acting_layers is None


def test_observation_space_is_what_the_environment_returns(agents):
    teacher = teachers.load(agents("ppo-dict")[1])
    assert list(teacher.spec.observation_space.spaces) == list(agents("ppo-dict")[0].observation_space.spaces)
    assert isinstance(teacher.spec.observation_space["apple"], spaces.Discrete)


def test_loading_imports_no_sb3(agents):
    _, path = agents("tqc")
    code = (
        "import sys; from policykd import teachers; t = teachers.load(sys.argv[1]); teachers.inspect(sys.argv[1]);"
        "bad = {m.split('.')[0] for m in sys.modules} & {'stable_baselines3', 'sb3_contrib', 'tensorboard', 'gym'};"
        "sys.exit(str(bad) if bad else 0)"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code, str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_live_models_that_are_refused():
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.torch_layers import FlattenExtractor

    class Mine(FlattenExtractor):
        pass

    env, small = Blank(VECTOR, spaces.Discrete(2)), {"n_steps": 8, "batch_size": 4, "device": "cpu"}
    recurrent = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": 4}, **small)
    with pytest.raises(CheckpointError, match=r"without memory.*\[policy\.recurrent\]"):
        teachers.from_sb3(recurrent)
    custom = PPO("MlpPolicy", env, policy_kwargs={"features_extractor_class": Mine}, **small)
    with pytest.raises(CheckpointError, match=r"Mine.*\[policy\.custom-class\]"):
        teachers.from_sb3(custom)
