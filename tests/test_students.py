"""Students: every family on every kind of observation, and what is built from specs, teachers and typed text."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import policykd as kd
from policykd import students
from policykd.distributions import MultiCategorical
from policykd.errors import PolicykdError, SpaceError, UnknownNameError, UsageError
from policykd.networks import KeyedNormaliser, Normaliser
from policykd.policy import Policy
from policykd.prediction import FAMILIES, Batch, Origin, Prediction, Spec, map_obs, obs_tensor
from policykd.students import Student

BOX = spaces.Box(np.float32([-1, -np.inf, -3]), np.float32([1, np.inf, 3]))
IMAGE = spaces.Box(0, 255, (1, 10, 12), np.uint8)
OBSERVATIONS: dict[str, spaces.Space] = {
    "box": BOX,
    "matrix": spaces.Box(-2, 2, (2, 3)),
    "choice": spaces.Discrete(5, start=2),
    "choices": spaces.MultiDiscrete([3, 2]),
    "bits": spaces.MultiBinary(4),
    "image": IMAGE,
    "channels last": spaces.Box(0, 255, (10, 12, 3), np.uint8),
    "dict": spaces.Dict(OrderedDict(z=BOX, a=spaces.Discrete(3))),
    "dict with image": spaces.Dict(OrderedDict(see=IMAGE, feel=BOX)),
}
BOX_ACTION = spaces.Box(np.float32([-2, 0]), np.float32([2, 1]))
ACTIONS: dict[str, spaces.Space] = {
    "categorical": spaces.Discrete(4),
    "multi_categorical": spaces.MultiDiscrete([3, 2]),
    "bernoulli": spaces.MultiBinary(3),
}
TABLE = [(family, name) for family in FAMILIES for name in OBSERVATIONS]


def make_spec(family: str, observation: str = "box") -> Spec:
    return Spec(OBSERVATIONS[observation], ACTIONS.get(family, BOX_ACTION), family)  # type: ignore[arg-type]


def sample(space: spaces.Space, n: int, seed: int = 0) -> Any:
    """``n`` observations as the environment would return them, stacked."""
    space.seed(seed)
    drawn = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([d[key] for d in drawn]) for key in space.spaces}
    return np.stack(drawn)


def words(said: Prediction) -> list[Tensor]:
    """Every tensor of a prediction."""
    found: list[Tensor] = []
    said.map(lambda t: (found.append(t), t)[1])
    return found


@pytest.mark.parametrize(("family", "observation"), TABLE)
def test_every_family_reads_every_observation(family: str, observation: str) -> None:
    spec = make_spec(family, observation)
    student = students.build(spec, (8,), value=True)
    raw = sample(spec.observation_space, 6)
    obs = obs_tensor(raw)
    students.fit_normaliser(student, obs)
    said = student(obs)
    assert said.dist.mode().shape[0] == 6
    assert said.value is not None and said.value.shape == (6,)
    assert said.features["torso"].shape == (6, 8)

    # Leading dimensions do not matter: two by three says what six says.
    folded = student(map_obs(obs, lambda t: t.reshape(2, 3, *t.shape[1:])))
    assert torch.allclose(
        folded.dist.mode().reshape(said.dist.mode().shape).float(), said.dist.mode().float(), atol=1e-6
    )
    assert folded.value is not None and torch.allclose(folded.value.reshape(6), said.value, atol=1e-6)

    # What it does in the environment, it may do there.
    actions, _ = student.predict(raw, deterministic=True)
    assert all(spec.action_space.contains(a) for a in actions)
    one = {k: v[0] for k, v in raw.items()} if isinstance(raw, dict) else raw[0]
    alone, _ = student.predict(one, deterministic=True)
    assert np.allclose(alone, actions[0], atol=1e-6) and spec.action_space.contains(alone)
    drawn, _ = student.predict(raw)
    assert all(spec.action_space.contains(a) for a in drawn)


@pytest.mark.parametrize(("family", "observation"), TABLE)
def test_gradients_reach_every_parameter(family: str, observation: str) -> None:
    spec = make_spec(family, observation)
    student = students.build(spec, (8, 8), value=True)
    obs = obs_tensor(sample(spec.observation_space, 32))
    said = student(obs)
    total = sum((t.float().square().sum() for t in words(said)), torch.zeros(()))
    total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # log_std of a fresh diag_gaussian is 0, where its square is flat.
        assert name == "log_std" or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_linear_student_is_one_affine_map(family: str) -> None:
    student = students.mlp(make_spec(family), hidden=())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    out = x @ student.action_head.weight.T + student.action_head.bias
    dist = student(x).dist
    said = {"logits", "mean", "action"} & set(vars(dist))
    (name,) = said
    want = torch.tanh(out) if family == "tanh_deterministic" else out
    assert torch.allclose(vars(dist)[name], want, atol=1e-6)
    assert student.acting_parameters == 3 * out.shape[1] + out.shape[1]


def test_a_dict_is_read_in_the_order_of_its_keys() -> None:
    student = students.mlp(make_spec("deterministic", "dict"), hidden=())
    with torch.no_grad():
        student.action_head.weight.copy_(torch.eye(2, 6))
    z = torch.tensor([[0.25, 2.0, -1.0]])
    action = student({"a": torch.tensor([1]), "z": z}).dist.mode()
    assert torch.equal(action, z[:, :2])  # z comes first in this space, and its numbers are read as they are


def test_images_come_with_either_side_first() -> None:
    for name in ("image", "channels last"):
        space = OBSERVATIONS[name]
        student = students.cnn(make_spec("categorical", name))
        raw = torch.from_numpy(sample(space, 3))
        other = raw.movedim(1, -1) if name == "image" else raw
        assert torch.equal(student(raw).dist.logits, student(other).dist.logits)


def test_acting_parameters_count_no_head_but_the_actor() -> None:
    # 3 -> 8 -> 8 -> 2: (3 + 1) 8 + (8 + 1) 8 + (8 + 1) 2
    for family in ("diag_gaussian", "tanh_gaussian", "deterministic"):
        bare = students.mlp(make_spec(family), (8, 8))
        full = students.mlp(make_spec(family), (8, 8), value=True)
        students.fit_normaliser(full, torch.randn(9, 3))
        assert bare.acting_parameters == full.acting_parameters == 32 + 72 + 18
    # conv 3x3: 1 -> 16 -> 32 on 10 x 12 leaves 3 x 3 positions
    image = students.cnn(make_spec("categorical", "image"), (8,))
    assert image.acting_parameters == (9 + 1) * 16 + (16 * 9 + 1) * 32 + (32 * 9 + 1) * 8 + (8 + 1) * 4


def test_size_in_bytes_is_that_of_all_tensors() -> None:
    student = students.mlp(make_spec("diag_gaussian"), (8,), value=True)
    students.fit_normaliser(student, torch.randn(9, 3))
    floats = 32 + 18 + 2 + 9 + 2  # layers, log_std, value head and its units
    assert students.size_bytes(student) == 4 * floats + 8 * (3 + 3 + 2)


def test_the_nature_network_is_the_one_of_2015() -> None:
    spec = Spec(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), "categorical")
    student = students.cnn(spec, (512,), channels=(32, 64, 64))
    assert student.acting_parameters == 1_687_206  # as SB3's CnnPolicy for 6 actions: 1,684,128 features + 3,078


def test_building_draws_from_no_global_generator() -> None:
    before = torch.random.get_rng_state()
    first, second = (students.build(make_spec("tanh_gaussian", "dict with image"), seed=3) for _ in range(2))
    other = students.build(make_spec("tanh_gaussian", "dict with image"), seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.action_head.weight, other.action_head.weight)


def test_a_fresh_student_prefers_nothing() -> None:
    student = students.mlp(make_spec("categorical"))
    probs = student(3 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))).dist.probs
    assert (probs - 0.25).abs().max() < 0.02


def test_a_copy_goes_its_own_way() -> None:
    student = students.mlp(make_spec("categorical"), value=True)
    students.fit_normaliser(student, torch.randn(9, 3))
    twin = copy.deepcopy(student)
    with torch.no_grad():
        twin.action_head.weight.add_(1.0)
    x = torch.randn(4, 3)
    assert not torch.allclose(student(x).dist.logits, twin(x).dist.logits)


def test_without_values_nothing_else_is_said() -> None:
    student = students.mlp(make_spec("categorical"), value=True)
    said = student(torch.randn(4, 3), values=False)
    assert said.value is None and not said.features


@pytest.mark.parametrize(
    ("family", "action", "observation", "code"),
    [
        ("categorical", BOX_ACTION, BOX, "student.family"),
        ("diag_gaussian", spaces.Discrete(3), BOX, "student.family"),
        ("tanh_gaussian", spaces.Box(-np.inf, np.inf, (2,)), BOX, "student.family"),
        ("categorical", spaces.Discrete(3), spaces.Text(5), "space.observation"),
        ("categorical", spaces.Discrete(3), spaces.Dict(a=spaces.Dict(b=BOX)), "space.observation"),
    ],
)
def test_what_no_student_can_be(family: Any, action: spaces.Space, observation: spaces.Space, code: str) -> None:
    with pytest.raises(SpaceError) as caught:
        students.mlp(Spec(observation, action, family))
    assert caught.value.code == code


def test_convolutions_need_an_image_that_is_large_enough() -> None:
    with pytest.raises(SpaceError, match=r"student\.no-image"):
        students.cnn(make_spec("categorical"))
    spec = Spec(spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Discrete(2), "categorical")
    with pytest.raises(SpaceError, match=r"student\.channels"):
        students.cnn(spec, channels=(4,) * 6)
    with pytest.raises(UsageError, match=r"student\.channels"):
        students.cnn(spec, channels=(0,))
    with pytest.raises(UnknownNameError, match="relu"):
        students.mlp(make_spec("categorical"), activation="relo")


# --- scales -----------------------------------------------------------------------------------------------------------


def test_a_fitted_normaliser_standardises_what_moves_and_keeps_the_rest_quiet() -> None:
    space = spaces.Box(np.float32([-np.inf] * 3 + [-4, 0]), np.float32([np.inf] * 3 + [4, 1]))
    student = students.mlp(Spec(space, spaces.Discrete(2), "categorical"))
    rows = torch.randn(4096, 5, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = rows[:, 1] * 50 + 1000  # large, unbounded
    rows[:, 2] = 7.0  # has not moved, unbounded
    rows[:, 3] = rows[:, 3] * 1e-5  # hardly moves, bounded by 4
    rows[:, 4] = 0.0  # has not moved, bounded by 0 and 1
    students.fit_normaliser(student, rows)
    normaliser = student.normaliser
    assert isinstance(normaliser, Normaliser)
    seen = normaliser(rows)
    assert torch.allclose(seen[:, :2].mean(0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(seen[:, :2].std(0), torch.ones(2), atol=1e-3)
    assert torch.equal(seen[:, 2], torch.zeros(4096)) and torch.equal(seen[:, 4], torch.zeros(4096))
    # 1 % of the half-range, a quarter of the range, and 1: nothing explodes when the quiet ones wake up.
    assert torch.allclose(normaliser.var[2:].sqrt(), torch.tensor([1.0, 0.04, 0.25], dtype=torch.float64))
    awake = normaliser(torch.tensor([[0.0, 1000.0, 8.0, 0.0, 1.0]]))[0, [2, 4]]
    assert awake.tolist() == pytest.approx([1.0, 4.0])


def test_only_numbers_are_normalised() -> None:
    mixed = students.build(make_spec("categorical", "dict with image"))
    students.fit_normaliser(mixed, obs_tensor(sample(OBSERVATIONS["dict with image"], 8)))
    assert isinstance(mixed.normaliser, KeyedNormaliser) and [k for k, _ in mixed.normaliser.items()] == ["feel"]
    for name in ("choice", "choices", "bits", "image"):
        student = students.build(make_spec("categorical", name))
        students.fit_normaliser(student, obs_tensor(sample(OBSERVATIONS[name], 8)))
        assert student.normaliser is None


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (torch.randn(1, 3), "student.sample"),
        (torch.tensor([[1.0, 2.0, float("nan")]] * 4), "student.sample"),
        (torch.tensor([[1.0, 2.0, float("inf")]] * 4), "student.sample"),
        (torch.randn(8, 4), "space.observation"),
        ({"a": torch.randn(8, 3)}, "space.observation"),
    ],
)
def test_a_sample_that_says_nothing_is_refused(rows: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        students.fit_normaliser(students.mlp(make_spec("categorical")), rows)
    assert caught.value.code == code


def test_value_units_bring_returns_within_reach() -> None:
    student = students.mlp(make_spec("categorical"), value=True)
    values = torch.tensor([100.0, 300.0, float("nan")])
    students.fit_value_units(student, values)
    said = student.label(torch.zeros(1, 3)).value
    assert said is not None and abs(float(said) - 200.0) < 10.0  # a fresh head says about 0, in units of 100 around 200
    students.fit_value_units(student, torch.full((4,), 5.0))  # values that do not vary: no division by zero
    assert torch.equal(student.value_units, torch.tensor([5.0, 1.0]))


class _Wrapped(Policy):
    """Another policy that says what a student says: what a teacher looks like from here."""

    def __init__(self, student: Student, plain: bool = True) -> None:
        super().__init__(
            student.spec, Origin(path="x.zip", algo="ppo", env_id="Pendulum-v1", gamma=0.9, reward_scale=7.0)
        )
        self.student, self.normaliser, self.plain = student, student.normaliser, plain

    def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
        return self.student(obs, values=values)

    @property
    def acting_parameters(self) -> int:
        return self.student.acting_parameters

    @property
    def acting_layers(self) -> Any:
        return self.student.acting_layers if self.plain else None


def trained(family: str, observation: str = "box", **how: Any) -> tuple[_Wrapped, Any]:
    """A teacher with weights that no initialisation gives, and observations."""
    spec = make_spec(family, observation)
    student = students.build(spec, (8, 6), value=True, **how)
    obs = obs_tensor(sample(spec.observation_space, 64))
    students.fit_normaliser(student, obs)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.5, generator=generator))
    return _Wrapped(student), obs


def test_a_student_takes_its_teachers_scales_once() -> None:
    teacher, obs = trained("categorical")
    batch = Batch(obs, Prediction(teacher(obs).dist, value=100 + 10 * torch.randn(64)))
    student = students.mlp(teacher.spec, value=True)
    students.adopt_scales(student, teacher, batch)
    assert isinstance(student.normaliser, Normaliser) and isinstance(teacher.normaliser, Normaliser)
    assert torch.equal(student.normaliser.mean, teacher.normaliser.mean)
    assert student.normaliser is not teacher.normaliser
    assert abs(float(student.value_units[0]) - 100) < 5
    before = student.normaliser
    students.adopt_scales(student, teacher, batch)
    assert student.normaliser is before

    teacher.normaliser = None  # a teacher without statistics: the sample's are taken
    other = students.mlp(teacher.spec)
    students.adopt_scales(other, teacher, batch)
    assert isinstance(other.normaliser, Normaliser)
    assert torch.allclose(other.normaliser.mean[0], obs[:, 0].double().mean())

    # Copied layers expect what the teacher's did: a normaliser found later would spoil them.
    heir = students.from_teacher(teacher)
    students.adopt_scales(heir, teacher, batch)
    assert heir.normaliser is None


def test_statistics_of_other_observations_are_refused() -> None:
    teacher, _ = trained("categorical", "matrix")
    with pytest.raises(SpaceError, match=r"student\.normaliser"):
        students.copy_normaliser(students.mlp(make_spec("categorical")), teacher)


# --- from a teacher ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "observation"), [(f, o) for f, o in TABLE if o != "dict with image"])
def test_all_layers_of_a_teacher_make_the_teacher(family: str, observation: str) -> None:
    teacher, obs = trained(family, observation)
    student = students.from_teacher(teacher)
    assert torch.equal(student(obs).dist.mode(), teacher(obs).dist.mode())
    for mine, theirs in zip(words(Prediction(student(obs).dist)), words(Prediction(teacher(obs).dist)), strict=True):
        assert torch.equal(mine, theirs)
    assert student.origin.env_id == "Pendulum-v1" and student.origin.gamma == 0.9
    assert student.origin.path is None and student.origin.reward_scale == 1.0
    with torch.no_grad():
        student.action_head.weight.zero_()
    assert teacher.student.action_head.weight.abs().sum() > 0  # copies, not the teacher's own


def test_some_layers_of_a_teacher() -> None:
    teacher, _ = trained("categorical")
    theirs = teacher.acting_layers.linears
    for count, hidden, widths in [
        (0, None, (8, 6)),
        (1, None, (8, 6)),
        (1, (5, 4), (8, 5, 4)),
        (2, (), (8, 6)),
        (1, (), (8,)),
    ]:
        student = students.from_teacher(teacher, count, hidden, seed=1)
        mine = student.acting_layers.linears
        assert student.shape.hidden == widths
        for i in range(2):
            same = i < len(mine) - 1 and mine[i].weight.shape == theirs[i].weight.shape
            assert (same and torch.equal(mine[i].weight, theirs[i].weight)) == (i < count)
        assert not torch.equal(mine[-1].weight[:, :1], theirs[-1].weight[:, :1])
        assert isinstance(student.normaliser, Normaliser)


@pytest.mark.parametrize(("layers", "hidden"), [(3, None), (-1, None), ("all", (8,))])
def test_layers_that_a_teacher_does_not_have(layers: Any, hidden: Any) -> None:
    teacher, _ = trained("categorical")
    with pytest.raises(UsageError, match=r"student\.layers"):
        students.from_teacher(teacher, layers, hidden)
    with pytest.raises(UsageError, match=r"student\.transfer"):
        students.from_teacher(_Wrapped(teacher.student, plain=False))


def test_a_bounded_mean_stays_bounded() -> None:
    spec = make_spec("tanh_gaussian")
    student = Student(spec, students.Shape((8,), clip_mean=0.5))
    with torch.no_grad():
        student.action_head.bias.fill_(3.0)
    assert torch.equal(student(torch.zeros(2, 3)).dist.mode(), torch.tanh(torch.full((2, 2), 0.5)))
    assert students.from_teacher(_Wrapped(student)).shape.clip_mean == 0.5


# --- what people type -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "widths"),
    [
        ("64,64", (64, 64)),
        ("64 64", (64, 64)),
        (" 64, 32 ", (64, 32)),
        ("8", (8,)),
        ("linear", ()),
        ((), ()),
        ((64, 32), (64, 32)),
        (["64", "32"], (64, 32)),
        (["64,32"], (64, 32)),
    ],
)
def test_hidden_layers_as_typed(text: Any, widths: tuple[int, ...]) -> None:
    assert students.parse_hidden(text) == widths


@pytest.mark.parametrize("text", ["", " ", "0", "64,-1", "64,0", "64.5", "tree:8", "sixty", (64, 0), "²", "64;64"])
def test_hidden_layers_that_mean_nothing(text: Any) -> None:
    with pytest.raises(UsageError) as caught:
        students.parse_hidden(text)
    assert (
        caught.value.code == "student.hidden" and caught.value.exit_code == 2 and "--hidden 64,64" in str(caught.value)
    )


@pytest.mark.parametrize(
    ("text", "budget"), [("2000", 2000), ("4%", 2734), ("100%", 68355), ("0.5 %", 341), (300, 300)]
)
def test_budgets_as_typed(text: Any, budget: int) -> None:
    assert students.parse_budget(text, 68_355) == budget


@pytest.mark.parametrize("text", ["", "0", "0%", "-5", "4 percent", "0.04", "1e3", "0.001%", "nan", "%"])
def test_budgets_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError, match=r"student\.budget"):
        students.parse_budget(text, 68_355)


@pytest.mark.parametrize(
    ("observation", "budget"), [("box", 60), ("box", 500), ("box", 20_000), ("dict", 300), ("image", 8_000)]
)
def test_the_widest_net_fits_and_the_next_one_does_not(observation: str, budget: int) -> None:
    spec = make_spec("categorical", observation)
    width, same = students.widest(spec, budget)
    assert width == same
    assert students.build(spec, (width, width)).acting_parameters <= budget
    assert students.build(spec, (width + 1, width + 1)).acting_parameters > budget


def test_a_budget_below_the_smallest_net() -> None:
    # (1, 1) on 3 numbers and 4 choices: 4 + 2 + 8 = 14
    assert students.widest(make_spec("categorical"), 14) == (1, 1)
    with pytest.raises(UsageError, match=r"at least 14 .* linear student \(16 parameters\)"):
        students.widest(make_spec("categorical"), 13)


def test_the_front_door_shows_the_room() -> None:
    assert kd.students is students
    assert sorted(students.__all__) == students.__all__
    assert isinstance(students.mlp(make_spec("multi_categorical"))(torch.zeros(1, 3)).dist, MultiCategorical)
    assert issubclass(SpaceError, PolicykdError)
