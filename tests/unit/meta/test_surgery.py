"""Gradient surgery on plain tensors: closed forms, the three ways, and Gramians without weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import _sketches as sketches
from hf_meta_adapters.meta import joint_gradient, meta_gradient
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.meta.weightings import METHODS

from .problems import LANGUAGES, make

WAYS = ("keep", "sketch", "lagged")
NAMES = ["encoder.layer.0.w", "encoder.layer.1.w"]
ANGLES = (100, 135, 170)  # degrees between two gradients that oppose one another


def combined(surgery: Surgery, *gradients: Tensor, names=("w",), steps: int = 1):
    """What `joint_gradient` makes of ½‖θ + g‖² at θ = 0, whose gradients are the g."""
    theta = {name: torch.zeros_like(gradients[0], requires_grad=True) for name in names}
    losses = {
        f"l{number}": lambda g=g: sum(0.5 * (p + g).square().sum() for p in theta.values())
        for number, g in enumerate(gradients)
    }
    for _ in range(steps):
        found = joint_gradient(losses, theta, {key: {} for key in losses}, surgery=surgery)
    return found


def pair(angle: float, length: float = 2.0) -> tuple[Tensor, Tensor]:
    radians = math.radians(angle)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return first, length * torch.tensor([math.cos(radians), math.sin(radians)], dtype=torch.float64)


def _without_opposed(g: Tensor, h: Tensor) -> Tensor:
    return g - min(float(g @ h), 0.0) / (h @ h) * h


def _pcgrad(g: Tensor, h: Tensor) -> Tensor:
    return (_without_opposed(g, h) + _without_opposed(h, g)) / 2


def _dualproj(g: Tensor, h: Tensor) -> Tensor:
    """The mean, without what opposes the one gradient that it opposes."""
    mean = (g + h) / 2
    return _without_opposed(_without_opposed(mean, g), h)


def _mgda(g: Tensor, h: Tensor) -> Tensor:
    share = (h @ (h - g) / (g - h).square().sum()).clamp(0, 1)
    return share * g + (1 - share) * h


def _imtl_g(g: Tensor, h: Tensor) -> Tensor:
    """On the line through g and h, where the projections on both directions are equal."""
    difference = g / g.norm() - h / h.norm()
    share = -(h @ difference) / ((g - h) @ difference)
    return share * g + (1 - share) * h


def _aligned_mtl(g: Tensor, h: Tensor) -> Tensor:
    """Of the matrix of gradients, all singular values are made as small as the smallest."""
    left, values, right = torch.linalg.svd(torch.stack([g, h]), full_matrices=False)
    return (values.min() * left @ right).mean(0)


def _cagrad(g: Tensor, h: Tensor) -> Tensor:
    mean = (g + h) / 2
    radius = 0.5 * mean.norm()
    shares = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    mixed = shares * g + (1 - shares) * h
    best = mixed[(mixed @ mean + radius * mixed.norm(dim=1)).argmin()]
    return (mean + radius * best / best.norm()) / 1.5


CLOSED = {
    "pcgrad": _pcgrad,
    "gradvac": _pcgrad,  # in its first step, it aims at cosines of 0
    "upgrad": _pcgrad,  # of two gradients
    "dualproj": _dualproj,
    "cagrad": _cagrad,
    "aligned_mtl": _aligned_mtl,
    "mgda": _mgda,
    "imtl_g": _imtl_g,
}
TOLERANCE = {"upgrad": 1e-3, "dualproj": 1e-3, "cagrad": 1e-4, "gradvac": 1e-7, "mgda": 1e-2}


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("method", CLOSED)
def test_two_quadratics_of_a_known_angle(method, angle) -> None:
    g, h = pair(angle)
    found = combined(Surgery(method), g, h).shared["w"]
    tolerance = TOLERANCE.get(method, 1e-12)  # of solvers that regularise or stop early
    torch.testing.assert_close(found, CLOSED[method](g, h), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("method", "exponent"), [("nash_mtl", 1.0), ("fairgrad", 0.5)])
def test_fair_weights_solve_their_equation(method, exponent) -> None:
    """⟨g_i, g⟩ · w_i^(1/α) is the same for all i."""
    gradients = torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = combined(Surgery(method), *gradients)
    weights = torch.stack(list(found.weights.values())).double()
    equal = (gradients @ found.shared["w"]) * weights**exponent
    torch.testing.assert_close(equal, equal.mean().expand(3), rtol=1e-3, atol=0)
    assert float(weights.sum()) == pytest.approx(3)


def test_without_conflict_pcgrad_is_the_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    gradients = torch.rand(5, 40, generator=draw, dtype=torch.float64)  # all cosines > 0
    for scale in (1.0, 1e-6):
        found = combined(Surgery("pcgrad"), *(scale * gradients)).shared["w"]
        torch.testing.assert_close(found, scale * gradients.mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_equal_gradients_keep_their_size(method) -> None:
    """A learning rate means the same as with the mean."""
    g = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    for scale in (1.0, 1e-5, 1e4):
        found = combined(Surgery(method), *[scale * g] * 4).shared["w"]
        torch.testing.assert_close(found, scale * g, rtol=1e-6, atol=0)


@pytest.mark.parametrize("groups", ["model", "layer"])
@pytest.mark.parametrize("method", METHODS)
def test_the_three_ways_agree(method, groups) -> None:
    """On two equal steps: the second has lagged weights of the first, of the same gradients."""
    case = make(dropout=0.3)
    shared = dict(zip(NAMES, (case.shared["first"], case.shared["second"]), strict=True))

    found = {}
    for way in WAYS:
        surgery = Surgery(method, gradients=way, groups=groups)
        for _ in range(1 if method == "gradvac" and way != "lagged" else 2):
            torch.manual_seed(7)
            one = joint_gradient(case.losses("train"), shared, case.language, surgery=surgery)
        found[way] = one

    for way in ("sketch", "lagged"):
        torch.testing.assert_close(found[way].shared, found["keep"].shared, rtol=1e-4, atol=1e-6)
    assert found["keep"].train.keys() == found["sketch"].train.keys() == set(LANGUAGES)
    torch.testing.assert_close(found["sketch"].train, found["keep"].train)


def test_layers_are_weighed_by_themselves() -> None:
    """The gradients oppose one another in the second layer only."""
    theta = {name: torch.zeros(2, dtype=torch.float64, requires_grad=True) for name in NAMES}
    g = {"a": torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "b": torch.tensor([[2.0, 0.0], [-1.0, 1.0]])}
    losses = {
        key: lambda value=value: sum(
            (p * row).sum() for p, row in zip(theta.values(), value.double(), strict=True)
        )
        for key, value in g.items()
    }
    surgery = Surgery("pcgrad", groups="layer")
    found = joint_gradient(losses, theta, {"a": {}, "b": {}}, surgery=surgery)
    expected = [
        (g["a"][0] + g["b"][0]).double() / 2,
        _pcgrad(g["a"][1].double(), g["b"][1].double()),
    ]
    torch.testing.assert_close(list(found.shared.values()), expected)


@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
@pytest.mark.parametrize("way", WAYS)
def test_an_outer_step_takes_the_same_update(way, lookahead) -> None:
    """The update of θ is that of joint training, and nothing else of the step changes."""
    case = make()

    def found(**options):
        return meta_gradient(
            case.losses("train"),
            case.losses("meta"),
            case.shared,
            case.language,
            inner_learning_rate=0.1,
            lookahead=lookahead,
            **options,
        )

    one, joint = (Surgery("upgrad", gradients=way) for _ in range(2))
    for _ in range(2):
        outer = found(surgery=one)
        plain = joint_gradient(case.losses("train"), case.shared, case.language, surgery=joint)

    torch.testing.assert_close(outer.shared, plain.shared)
    torch.testing.assert_close(outer.weights, plain.weights)
    torch.testing.assert_close(outer.language, found().language)
    assert float(outer.weights["te"]) != pytest.approx(1, abs=1e-3)


def test_micro_batches_and_a_loss_scale_add_up() -> None:
    case = make(dropout=0.0)
    for way in WAYS:
        surgeries = [Surgery("upgrad", gradients=way) for _ in range(2)]
        for _ in range(2):
            whole = joint_gradient(
                case.losses("train"), case.shared, case.language, surgery=surgeries[0]
            )
            parts = joint_gradient(
                case.losses("train", parts=3),
                case.shared,
                case.language,
                surgery=surgeries[1],
                loss_scale=torch.tensor(1024.0, dtype=torch.float64),
            )
        torch.testing.assert_close(parts.shared, whole.shared, rtol=1e-6, atol=1e-9)


def test_lagged_weights_begin_with_the_mean_and_forget() -> None:
    g, h = pair(135)
    surgery = Surgery("mgda", gradients="lagged")
    first = combined(surgery, g, h)
    torch.testing.assert_close(first.shared["w"], (g + h) / 2)
    assert {key: float(one) for key, one in first.weights.items()} == {"l0": 1.0, "l1": 1.0}

    opposed = combined(surgery, g, h, steps=3)
    torch.testing.assert_close(opposed.shared["w"], _mgda(g, h), rtol=1e-2, atol=1e-2)
    mean = surgery.expected(["l0", "l1"], 1)[0]
    torch.testing.assert_close(mean, torch.stack([g, h]) @ torch.stack([g, h]).T)

    combined(surgery, g, -h, steps=500)
    turned = surgery.expected(["l0", "l1"], 1)[0]
    torch.testing.assert_close(turned[0, 1], -(g @ h), rtol=0.02, atol=0)


def test_languages_that_take_turns() -> None:
    """What is not known of a pair is taken for no conflict; what is, is kept by language."""
    surgery = Surgery("pcgrad", gradients="lagged")
    eye = torch.eye(2).double()[None]
    surgery.observe(["a", "b"], torch.tensor([[[1.0, -0.9], [-0.9, 1.0]]]))
    surgery.observe(["c", "b"], torch.tensor([[[4.0, -1.8], [-1.8, 1.0]]]))
    torch.testing.assert_close(
        surgery.expected(["d", "b"], 1)[0], torch.diag(torch.tensor([0.0, 1.0]).double())
    )
    torch.testing.assert_close(
        surgery.weights(["d", "b"], surgery.expected(["d", "b"], 1)), eye.sum(1) / 2
    )
    torch.testing.assert_close(
        surgery.expected(["b", "a"], 1)[0], torch.tensor([[1.0, -0.9], [-0.9, 1.0]]).double()
    )

    # −0.9 and −0.9 with 0 between a and c: products of no vectors.
    together = surgery.expected(["a", "b", "c"], 1)[0]
    assert float(torch.linalg.eigvalsh(together).min()) > -1e-12


def test_gradvac_aims_at_what_it_has_seen() -> None:
    """Its targets follow the languages, whichever of them are in a step."""
    torch.manual_seed(0)
    rows = torch.rand(3, 50, dtype=torch.float64)
    gramian = (rows @ rows.T)[None]
    surgery = Surgery("gradvac")
    surgery.weights(["a", "b", "c"], gramian)
    state, rest = surgery.state()
    targets = state["targets"][0]
    cosines = gramian[0] / gramian[0].diagonal().outer(gramian[0].diagonal()).sqrt()
    off = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(targets[off], cosines[off] / 2, rtol=1e-6, atol=0)

    places = torch.tensor([2, 0])
    surgery.weights(["c", "a"], -0.1 * gramian[:, places[:, None], places] + 2 * torch.eye(2))
    after = surgery.state()[0]["targets"][0]
    changed = (after != targets).nonzero().tolist()
    assert changed == [[0, 2], [2, 0]]
    assert rest["languages"] == ["a", "b", "c"]


@pytest.mark.parametrize("method", METHODS)
def test_a_state_goes_on_bit_by_bit(method) -> None:
    draw = torch.Generator().manual_seed(2)
    steps = [list(torch.randn(4, 9, generator=draw, dtype=torch.float64)) for _ in range(4)]
    whole, begun = (Surgery(method, gradients="lagged", seed=3) for _ in range(2))
    expected = [combined(whole, *gradients) for gradients in steps]
    for gradients in steps[:2]:
        combined(begun, *gradients)

    resumed = Surgery(method, gradients="lagged", seed=3)
    tensors, rest = begun.state()
    resumed.load_state({name: entry.clone() for name, entry in tensors.items()}, rest)
    for gradients, one in zip(steps[2:], expected[2:], strict=True):
        assert torch.equal(combined(resumed, *gradients).shared["w"], one.shared["w"])


def test_the_random_numbers_of_a_run_stay_as_they_are() -> None:
    g, h = pair(135)
    before = torch.get_rng_state()
    combined(Surgery("pcgrad"), g, h)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", METHODS)
def test_degenerate_gradients(method, way) -> None:
    g, h = pair(135)
    zero = torch.zeros(2, dtype=torch.float64)

    with pytest.warns(UserWarning, match="Found one, 'l0'"):
        alone = combined(Surgery(method, gradients=way), g, steps=2)
    torch.testing.assert_close(alone.shared["w"], g)

    # two thirds of what the method finds without the language
    with pytest.warns(UserWarning, match="'l1' is zero in step 1"):
        three = combined(Surgery(method, gradients=way), g, zero, h, steps=2)
    two = combined(Surgery(method, gradients=way), g, h, steps=2)
    if method != "gradvac":  # whose targets differ by then
        torch.testing.assert_close(
            three.shared["w"], two.shared["w"] * (2 / 3), rtol=1e-4, atol=1e-6
        )

    with pytest.warns(UserWarning, match="is zero"):
        nothing = combined(Surgery(method, gradients=way), zero, zero, steps=2)
    assert torch.equal(nothing.shared["w"], zero)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_goes_on_and_leaves_no_trace(way, value) -> None:
    """The Trainer finds it in the update, as it does with the mean."""
    g, h = pair(135)
    surgery = Surgery("gradvac", gradients=way)
    combined(surgery, g, h)
    before = {name: entry.clone() for name, entry in surgery.state()[0].items()}
    found = combined(surgery, g, torch.full_like(h, value)).shared["w"]
    assert not found.isfinite().any()
    after = surgery.state()[0]
    if way != "lagged":  # whose weights are of earlier steps
        assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(entry.isfinite().all() for entry in after.values())


def test_a_method_without_weights_says_so_once(monkeypatch) -> None:
    def failing(gramian: Tensor) -> Tensor:
        raise RuntimeError("no solution")

    g, h = pair(135)
    surgery = Surgery("upgrad")
    monkeypatch.setattr(surgery, "_weigh", failing)
    with pytest.warns(UserWarning, match=r'"upgrad" found no weights of \[.l0., .l1.\] in step 1'):
        found = combined(surgery, g, h)
    torch.testing.assert_close(found.shared["w"], (g + h) / 2)
    combined(surgery, g, h)  # a second warning would be an error


def test_products_of_projections_are_as_near_as_is_said(monkeypatch) -> None:
    monkeypatch.setattr(sketches, "DIMENSION", 64)
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.zeros(size, dtype=torch.float64) for size in (50, 300, 700)]
    vectors = [
        [torch.randn(len(p), generator=draw, dtype=torch.float64) for p in parameters]
        for _ in range(3)
    ]
    rows = torch.stack([torch.cat(vector) for vector in vectors])
    exact, scale = rows @ rows.T, rows.norm(dim=1).outer(rows.norm(dim=1))

    errors = []
    for seed in range(200):
        found = sketches.Sketches(parameters, {"": [0, 1, 2]}, seed=seed * 10**6, summed=True)
        for vector in vectors:
            found.add(list(vector))
        errors.append((found.gramians(sketches.Reduce())[0] - exact) / scale)
    found = torch.stack(errors)
    assert float(found.square().mean(0).max().sqrt()) <= 1.15 * math.sqrt(2 / 64)
    assert float(found.mean(0).abs().max()) <= 4 * math.sqrt(2 / 64 / 200)


def test_the_way_follows_the_size() -> None:
    assert Surgery("pcgrad").way(1 << 26) == "keep"
    assert Surgery("pcgrad").way((1 << 26) + 1) == "lagged"
    assert Surgery("pcgrad", gradients="sketch").way(1) == "sketch"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("pcd", "puts one language before"),
        ("sdmgrad", "two independent batches"),
        ("config", "entry by entry"),
        ("surgeon", "Found 'surgeon'."),
    ],
)
def test_methods_that_there_are_not(method, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Surgery(method)


def test_what_surgery_cannot_be_combined_with() -> None:
    case = make()
    arguments = case.losses("train"), case.losses("meta"), case.shared, case.language
    surgery = Surgery("pcgrad")
    for options in ({"for_languages": LANGUAGES}, {"shared_update": "project"}):
        with pytest.raises(ConfigurationError, match="Leave one of the two out"):
            meta_gradient(*arguments, inner_learning_rate=0.1, surgery=surgery, **options)
    with pytest.raises(ConfigurationError, match=r'surgery=Surgery\("pcgrad"\)'):
        meta_gradient(*arguments, inner_learning_rate=0.1, shared_update="pcgrad")
    with pytest.raises(ConfigurationError, match="no shared parameter"):
        joint_gradient(case.losses("train"), {}, case.language, surgery=surgery)
    for options in ({"gradients": "kept"}, {"groups": "all"}):
        with pytest.raises(ConfigurationError, match="must be one of"):
            Surgery("pcgrad", **options)


@pytest.mark.parametrize(
    ("method", "missing"), [("pcgrad", "torchjd"), ("upgrad", "quadprog"), ("nash_mtl", "ecos")]
)
def test_the_extra_that_is_missing_is_named(monkeypatch, method, missing) -> None:
    monkeypatch.setattr(
        "hf_meta_adapters.meta.weightings.find_spec", lambda name: None if name == missing else 1
    )
    with pytest.raises(
        ConfigurationError, match=rf"{missing} cannot .*hf-meta-adapters\[surgery\]"
    ):
        Surgery(method)


def test_a_state_of_something_else_is_refused() -> None:
    surgery = Surgery("pcgrad")
    combined(surgery, *pair(135))
    tensors, rest = surgery.state()
    for other, given in (
        (tensors, {**rest, "method": "mgda"}),
        (tensors, {**rest, "languages": ["l0"]}),
        (tensors, {**rest, "steps": -1}),
        ({}, rest),
    ):
        with pytest.raises(ValueError, match=r"state|tables"):
            Surgery("pcgrad").load_state(other, given)
