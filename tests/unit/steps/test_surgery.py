"""Gradient surgery on models: against TorchJD's own path, and on the bank of tiny models."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig
from torchjd import aggregation
from torchjd.autojac import backward, jac_to_grad

from hf_meta_adapters import BottleneckConfig, get_language_model, joint_step, meta_step, next_step
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import _sketches as sketches
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.meta.weightings import METHODS
from tests.tiny import PRETRAINING
from tests.training import LANGUAGES, make_model

from .test_meta_step import batches

COUNT = len(LANGUAGES)
AGGREGATORS = {
    "pcgrad": (aggregation.PCGrad, COUNT),
    "gradvac": (aggregation.GradVac, COUNT),
    "upgrad": (aggregation.UPGrad, 1),
    "dualproj": (aggregation.DualProj, 1),
    "cagrad": (lambda: aggregation.CAGrad(c=0.5), 1.5),
    "aligned_mtl": (aggregation.AlignedMTL, 1),
    "mgda": (aggregation.MGDA, 1),
    "imtl_g": (aggregation.IMTLG, 1),
    "fairgrad": (lambda: aggregation.FairGrad(alpha=2.0), None),
    "nash_mtl": (lambda: aggregation.NashMTL(n_tasks=COUNT, max_norm=0.0), None),
}
"""Method → TorchJD's own aggregator, and what its weights are divided by; `None` for their sum."""
RANDOM = ("pcgrad", "gradvac")


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
@pytest.mark.parametrize("method", METHODS)
def test_the_update_is_that_of_torchjd(method) -> None:
    """Its autojac takes the Jacobian of all losses, and its aggregator reduces it."""
    model = make_model(dtype=torch.float64)
    train = batches()
    surgery = Surgery(method)
    found = joint_step(model, train, surgery=surgery)

    make, divisor = AGGREGATORS[method]
    theta = [p for p in model.shared_parameters().values() if p.requires_grad]
    losses = torch.stack([model(language=key, **one).loss for key, one in train.items()])
    backward(losses, inputs=theta, parallel_chunk_size=1)
    reached = [p for p in theta if getattr(p, "jac", None) is not None]
    if method in RANDOM:
        torch.manual_seed(Surgery(method).draw())
    weights = jac_to_grad(reached, make())
    divisor = float(weights.sum()) if divisor is None else divisor

    ours = torch.stack([found.weights[key] for key in train]).double() / COUNT
    torch.testing.assert_close(ours, weights / divisor, rtol=1e-3, atol=1e-5)
    for name, parameter in model.shared_parameters().items():
        if parameter.grad is None:
            assert name not in found.shared
        else:
            expected = parameter.grad / divisor
            torch.testing.assert_close(found.shared[name], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("tiny", PRETRAINING, ids=str)
def test_sketches_of_the_bank(tiny, monkeypatch) -> None:
    """Inner products of languages' gradients are within the error that is stated."""
    monkeypatch.setattr(sketches, "DIMENSION", 256)
    config = BottleneckConfig(bottleneck_size=3)
    model = get_language_model(tiny.make(), config, languages=LANGUAGES)
    shared = model.shared_parameters()
    theta = [p for p in shared.values() if p.requires_grad]
    rows = []
    for number, key in enumerate(LANGUAGES):
        loss = model(language=key, **tiny.batch(seed=number)).loss
        rows.append(list(torch.autograd.grad(loss, theta, allow_unused=True)))

    flat = []
    for row in rows:
        parts = zip(row, theta, strict=True)
        flat.append(
            torch.cat([(g if g is not None else 0 * p).detach().flatten() for g, p in parts])
        )
    vectors = torch.stack(flat).double()
    exact, norms = vectors @ vectors.T, vectors.norm(dim=1)

    errors = []
    for seed in range(12):
        drawn = sketches.Sketches(theta, {"": range(len(theta))}, seed=seed << 30, summed=True)
        for row in rows:
            drawn.add(row)
        errors.append((drawn.gramians(Reduce())[0] - exact) / norms.outer(norms))
    found = torch.stack(errors).square().mean(0).max().sqrt()
    assert float(found) <= 2 * math.sqrt(2 / 256)  # of 12 draws


@pytest.mark.parametrize(
    "options", [{}, {"shared": "lora"}, {"share_adapter": True}, {"config": None}]
)
def test_kinds_of_models(options) -> None:
    if options.get("shared") == "lora":
        options = {"shared": LoraConfig(r=2, target_modules=["query", "value"])}
    model = make_model(dtype=torch.float64, **options)
    ways = {}
    for way in ("keep", "sketch"):
        surgery = Surgery("upgrad", gradients=way, groups="layer")
        ways[way] = joint_step(model, batches(), surgery=surgery)
        if options.get("config", 1) is not None:
            given = {"inner_learning_rate": 0.1, "surgery": surgery}
            outer = meta_step(model, batches(), batches(1), **given)
            assert outer.shared.keys() == ways[way].shared.keys()
    plain = joint_step(model, batches())
    assert plain.weights == {}
    # up to the projections of groups with more numbers than these have
    torch.testing.assert_close(ways["sketch"].shared, ways["keep"].shared, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ways["keep"].train, plain.train)


def test_languages_in_one_pass_are_refused() -> None:
    model, surgery = make_model(), Surgery("pcgrad")
    with pytest.raises(ConfigurationError, match="languages_per_pass=2"):
        joint_step(model, batches(), languages_per_pass=2, surgery=surgery)
    given = {"inner_learning_rate": 0.1, "languages_per_pass": 2, "surgery": surgery}
    with pytest.raises(ConfigurationError, match="languages_per_pass=2"):
        meta_step(model, batches(), batches(1), **given)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ConfigurationError, match="Found 'surgery'"):
        next_step(model, batches(), optimizer=optimizer, surgery=surgery)
